"""No secret in a log: one filter that all of flargo's loggers pass, and that whatever people read passes too.

It knows the credentials of the jobs that run, and what private keys and Kubernetes' tokens look like. What a site's
own Secrets hold it cannot know.
"""

import base64
import logging
import re
import threading
from typing import Final

from flargo.terms import SecretData

REDACTED = "[redacted]"
LOGGERS: Final = (
    "flargo.control.loop",
    "flargo.flare.hold",
    "flargo.flare.launcher",
    "flargo.flare.outcome",
    "flargo.flare.request",
    "flargo.flare.stock",
)
"""All of flargo's: a filter works on the logger that it is put on, and on none below."""
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
    re.DOTALL,
)


class Redaction(logging.Filter):
    """Blanks what it knows. Safe to use from many threads."""

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__()
        self._lock = threading.Lock()
        self._known: dict[str, frozenset[str]] = {}
        self._longest_first: tuple[str, ...] = ()

    def learn(self, credentials: SecretData, public: str) -> None:
        """Blank these from now on, as they are and in base64; ``public`` is none, whoever has it for a value.

        (A server's job has its own id for its auth token.)
        """
        values = {value for value in credentials.data.values() if value and value != public.encode()}
        plain = {value.decode(errors="replace") for value in values}
        coded = {base64.b64encode(value).decode() for value in values}
        with self._lock:
            self._known[credentials.name] = frozenset(plain | coded)
            self._arrange()

    def forget(self, credentials: SecretData) -> None:
        """Their job has ended, and they are good for nothing."""
        with self._lock:
            self._known.pop(credentials.name, None)
            self._arrange()

    def blank(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._longest_first:
            text = text.replace(secret, REDACTED)
        return _SHAPES.sub(REDACTED, text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank a record's message and its traceback; every record passes."""
        record.msg, record.args = self.blank(record.getMessage()), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            # Or a formatter would write it anew.
            record.exc_info = None
        if record.exc_text:
            record.exc_text = self.blank(record.exc_text)
        return True

    def _arrange(self) -> None:
        # One secret may be a part of another.
        every = frozenset[str]().union(*self._known.values())
        self._longest_first = tuple(sorted(every, key=len, reverse=True))


REDACTION: Final = Redaction()
"""The process's own."""


def install() -> None:
    """Put the filter on all of flargo's loggers. It may be done again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REDACTION)
