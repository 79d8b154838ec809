"""No secret in a log: one filter that all of flargo's loggers pass, and that whatever people read passes too.

It knows the credentials of the jobs that run, and what private keys and Kubernetes' tokens look like. What a site's
own Secrets hold it cannot know.
"""

import base64
import logging
import re
import threading
from collections import Counter
from typing import Final

from flargo.terms import SecretData

REDACTED = "[redacted]"
LOGGERS: Final = (
    "flargo.cluster.watch",
    "flargo.control.loop",
    "flargo.control.unreadable",
    "flargo.flare.hold",
    "flargo.flare.launcher",
    "flargo.flare.outcome",
    "flargo.flare.request",
    "flargo.flare.stock",
    "flargo.metrics",
)
"""All of flargo's: a filter works on the logger that it is put on, and on none below."""
_WORD = "[A-Za-z0-9_-]"
_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    # A job writes what it likes. So each word is looked at once, and only if what follows it makes it a token: the time
    # grows with the text's length and not with its square.
    rf"|(?<!{_WORD})(?={_WORD}++\.eyJ{_WORD}++\.{_WORD}){_WORD}*?eyJ{_WORD}++\.eyJ{_WORD}++\.{_WORD}++",
    re.DOTALL,
)

_STEM = 8
"""Characters of a secret's beginning by which it is looked up; the few shorter ones are tried on every text."""


class Redaction(logging.Filter):
    """Blanks what it knows. Safe to use from many threads."""

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__()
        self._lock = threading.Lock()
        self._known: dict[str, frozenset[str]] = {}
        self._uses: Counter[str] = Counter()
        """By how many jobs each secret is had: a site's token is all of theirs."""
        self._by_stem: dict[str, tuple[str, ...]] = {}
        """Of thousands of secrets, a text is only held against those that may be in it."""

    def learn(self, credentials: SecretData, public: str) -> None:
        """Blank these from now on, as they are and in base64; ``public`` is none, whoever has it for a value.

        (A server's job has its own id for its auth token.)
        """
        values = {value for value in credentials.data.values() if value and value != public.encode()}
        plain = {value.decode(errors="replace") for value in values}
        coded = {base64.b64encode(value).decode() for value in values}
        with self._lock:
            self._drop(credentials.name)
            self._known[credentials.name] = frozenset(plain | coded)
            for secret in plain | coded:
                self._uses[secret] += 1
                if self._uses[secret] == 1:
                    self._by_stem[_stem(secret)] = (*self._by_stem.get(_stem(secret), ()), secret)

    def forget(self, credentials: SecretData) -> None:
        """Their job has ended, and they are good for nothing."""
        with self._lock:
            self._drop(credentials.name)

    def blank(self, text: str) -> str:
        """The text without secrets."""
        stems = {"", *(text[at : at + _STEM] for at in range(len(text) - _STEM + 1))}
        # One secret may be a part of another.
        for secret in sorted((each for stem in stems for each in self._by_stem.get(stem, ())), key=len, reverse=True):
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

    def _drop(self, name: str) -> None:
        for secret in self._known.pop(name, ()):
            self._uses[secret] -= 1
            if not self._uses[secret]:
                del self._uses[secret]
                stem = _stem(secret)
                # Replaced, never taken out and put back: somebody may be reading.
                self._by_stem[stem] = tuple(each for each in self._by_stem[stem] if each != secret)
                if not self._by_stem[stem]:
                    del self._by_stem[stem]


def _stem(secret: str) -> str:
    return secret[:_STEM] if len(secret) >= _STEM else ""


REDACTION: Final = Redaction()
"""The process's own."""


def install() -> None:
    """Put the filter on all of flargo's loggers. It may be done again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REDACTION)
