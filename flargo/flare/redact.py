"""Keeps secrets out of logs and of all other texts that people read, with one filter on all of flargo's loggers.

The filter knows the credentials of the running jobs, and recognises private keys and Kubernetes' tokens by their form.
It cannot know the content of a site's own Secrets.
"""

import base64
import logging
import re
import string
import threading
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from flargo.terms import SecretData
from flargo.text import inert, inert_lines

REDACTED = "[redacted]"
LOGGERS: Final = (
    "flargo.cluster.connections",
    "flargo.cluster.watch",
    "flargo.control.attempt_notes",
    "flargo.control.command_queue",
    "flargo.control.lease_keeper",
    "flargo.control.loop",
    "flargo.control.parse_error_log",
    "flargo.control.perform",
    "flargo.control.progress_notes",
    "flargo.control.status_notes",
    "flargo.control.workers",
    "flargo.embedded.cluster",
    "flargo.embedded.routes",
    "flargo.flare.client_jobs",
    "flargo.flare.final_status",
    "flargo.flare.heartbeat",
    "flargo.flare.job_adoption",
    "flargo.flare.job_options",
    "flargo.flare.launch_records",
    "flargo.flare.launcher",
    "flargo.flare.notifier",
    "flargo.flare.nvflare_internals",
    "flargo.flare.report",
    "flargo.flare.request",
    "flargo.flare.takeover",
    "flargo.flare.wait",
    "flargo.metrics",
    "flargo.metrics_server",
)
"""The names of all of flargo's loggers: a filter applies to its own logger, and not to the loggers below it."""
Span = tuple[int, int]
"""The begin and the end of a part of a text."""
_WORD = "[A-Za-z0-9_-]"
# Each pattern has a marker, and is tried only on a text that contains it. A job may write any text, so a pattern reads
# each word once, and only if the text after it makes it a token: the time is linear in the text's length.
_TOKENS: Final = (
    (
        ".eyJ",  # JSON Web Tokens, as Kubernetes' own
        re.compile(rf"(?<!{_WORD})(?={_WORD}++\.eyJ{_WORD}++\.{_WORD}){_WORD}*?eyJ{_WORD}++\.eyJ{_WORD}++\.{_WORD}++"),
    ),
)
_KEY = "PRIVATE KEY"
"""The text that marks a private key in PEM."""
_KEY_MARK = re.compile(rf"-----(?P<which>BEGIN|END) [A-Z0-9 ]{{0,40}}{_KEY}(?: BLOCK)?-----")
_MAX_KEY_MARK_LENGTH = 80
"""Characters of the first or last line of a private key in PEM."""
_MAX_KEY_LENGTH = 32 * 1024
"""Characters of a private key in PEM: one of RSA with 16,384 bits has 13,000."""
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+")
_ONE_LINE_KEY = f"{string.ascii_letters}{string.digits}+/=\\ "
"""The characters of a key whose line ends are escaped, so that it stands on one line."""
_MIN_BASE64_LENGTH = 40
"""Characters of base64 from which a line counts as part of a key, although it has other words in front."""
_PEM_HEADERS = ("Proc-Type:", "DEK-Info:")
_MAX_OWN_TOKENS = 3
"""flargo's own tokens that are remembered: the current one and the two before it."""
_MAX_CHAIN = 5
"""Exceptions of a chain that a log shows."""
_MAX_FRAMES = 20
"""Calls of one exception's traceback that a log shows."""
_PREFIX_LENGTH = 8
"""Characters of a secret's beginning by which it is looked up. The few shorter secrets are searched in every text."""
_MAX_PENDING_LENGTH = 16 * 1024
"""Characters at the end of a piece of a line that wait for the next piece, because a secret may continue there."""


class Redaction(logging.Filter):
    """Removes the secrets that it knows from texts. Safe to use from many threads."""

    def __init__(self) -> None:
        """Start without any known secret."""
        super().__init__()
        self._lock = threading.RLock()
        self._own_token_count = 0
        self._secrets_by_owner: dict[str, frozenset[str]] = {}
        """The secrets that were learned together, by the name of their Secret."""
        self._use_counts: Counter[str] = Counter()
        """The number of owners of each secret: all of a site's jobs have the site's token."""
        self._secrets_by_prefix: dict[str, dict[int, frozenset[str]]] = {}
        """The secrets by prefix and length, so that each position of a text is looked up only once."""

    def learn(self, credentials: SecretData, public: str) -> None:
        """Redact credentials from now on, as they are and in base64.

        Args:
            credentials: the job's credentials.
            public: a value that is not secret, even if it is among the credentials. (A server's job has its own id as
                its auth token.)
        """
        values = {value for value in credentials.data.values() if value and value != public.encode()}
        secrets = frozenset(form for value in values for form in _text_forms(value))
        with self._lock:
            self._remove(credentials.name)
            self._secrets_by_owner[credentials.name] = secrets
            for secret in secrets:
                self._use_counts[secret] += 1
                if self._use_counts[secret] == 1:
                    by_length = self._secrets_by_prefix.get(_prefix(secret), {})
                    same_length = by_length.get(len(secret), frozenset())
                    # Replaced and never changed in place: another thread may be reading it.
                    self._secrets_by_prefix[_prefix(secret)] = {**by_length, len(secret): same_length | {secret}}

    def learn_own_token(self, token: str) -> None:
        """Redact one of flargo's own credentials from now on. The two before it stay redacted, as tokens are rotated.

        The token may have any form: only Kubernetes' tokens can be recognised in a text, not those of OpenShift, EKS or
        Rancher.
        """
        with self._lock:
            current = self._secrets_by_owner.get(_own_token_name(self._own_token_count))
            if len(token) < _PREFIX_LENGTH or current == _text_forms(token.encode()):
                return
            self._own_token_count += 1
            self.learn(SecretData(_own_token_name(self._own_token_count), {"token": token.encode()}), public="")
            self._remove(_own_token_name(self._own_token_count - _MAX_OWN_TOKENS))

    def forget(self, credentials: SecretData) -> None:
        """Stop redacting credentials, because their job has ended and they are no longer valid."""
        with self._lock:
            self._remove(credentials.name)

    def redact(self, text: str) -> str:
        """Return the text without secrets, in a time that is linear in its length.

        If a private key begins before the text or ends after it, its part in the text is redacted.
        """
        return _replace_spans(text, self.find_secrets(text))

    def find_secrets(self, text: str) -> list[Span]:
        """Return the spans of a text that are secret, in order and without overlaps."""
        spans = [*self._find_known(text)]
        if _KEY in text:
            spans += _find_keys(text)
        for marker, pattern in _TOKENS:
            if marker in text:
                spans += (token.span() for token in pattern.finditer(text))
        return _merge_spans(spans)

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact a record's message, and reduce its exception to types and places in the code. Every record passes.

        The text of a foreign exception may quote anything, such as a token in a header.
        """
        # Control characters are removed too: anybody may have written the API server's texts, and people read logs on
        # terminals.
        record.msg, record.args = inert(self.redact(record.getMessage())), None
        if record.exc_info:
            record.exc_text = "\n".join(_format_frames(record.exc_info[1]))
            # Otherwise a formatter would write the traceback again.
            record.exc_info = None
        if record.exc_text:
            record.exc_text = inert_lines(self.redact(record.exc_text))
        return True

    def _find_known(self, text: str) -> Iterator[Span]:
        by_prefix = self._secrets_by_prefix
        short_secrets = by_prefix.get("", {})
        for secret in (each for same_length in short_secrets.values() for each in same_length):
            yield from (match.span() for match in re.finditer(re.escape(secret), text))
        if len(by_prefix) == bool(short_secrets):
            return
        for begin in range(len(text) - _PREFIX_LENGTH + 1):
            for length, same_length in by_prefix.get(text[begin : begin + _PREFIX_LENGTH], {}).items():
                if text[begin : begin + length] in same_length:
                    yield begin, begin + length

    def _remove(self, owner: str) -> None:
        for secret in self._secrets_by_owner.pop(owner, ()):
            self._use_counts[secret] -= 1
            if not self._use_counts[secret]:
                del self._use_counts[secret]
                prefix = _prefix(secret)
                by_length = self._secrets_by_prefix[prefix]
                by_length = {**by_length, len(secret): by_length[len(secret)] - {secret}}
                # Replaced and never changed in place: another thread may be reading it.
                self._secrets_by_prefix[prefix] = {length: each for length, each in by_length.items() if each}
                if not self._secrets_by_prefix[prefix]:
                    del self._secrets_by_prefix[prefix]


class StreamRedaction:
    """Redacts one stream that arrives line by line, with long lines in pieces. Not safe to use from many threads.

    A private key is redacted from its first line to its last one, and so is a secret that spans two pieces of a line.
    """

    def __init__(self, redaction: Redaction) -> None:
        """Start at the beginning of a stream."""
        self._redaction = redaction
        self._pending = ""
        """The end of the previous piece, which is returned together with the next one."""
        self._key_characters_left = 0
        """Characters that may remain of a private key in which the stream is; 0 outside of keys."""

    def redact(self, text: str, *, is_partial: bool = False) -> str:
        """Return a line, or a piece of a line, without secrets.

        Args:
            text: the line or piece.
            is_partial: True if the line continues in the next piece. The end of this piece is then returned with the
                next one.
        """
        text, self._pending = self._pending + text, ""
        key_part, text = self._end_key(text, is_partial=is_partial) if self._key_characters_left else ("", text)
        if self._key_characters_left:
            return key_part
        secrets = self._redaction.find_secrets(text)
        key_begin = _find_open_key(text)
        if key_begin is not None:
            self._key_characters_left = _MAX_KEY_LENGTH
            self._pending = text[max(key_begin + 1, len(text) - _MAX_KEY_MARK_LENGTH) :] if is_partial else ""
        elif is_partial:
            end = _complete_length(len(text), secrets)
            text, self._pending = text[:end], text[end:]
            secrets = [secret for secret in secrets if secret[1] <= end]
        return key_part + _replace_spans(text, secrets)

    def _end_key(self, text: str, *, is_partial: bool) -> tuple[str, str]:
        """Redact the part of a text that belongs to the current key; return it and the text after the key."""
        marks = _KEY_MARK.finditer(text) if _KEY in text else ()
        end = next((mark for mark in marks if mark["which"] == "END"), None)
        if end is not None:
            self._key_characters_left = 0
            return REDACTED, text[end.end() :]
        self._key_characters_left = max(0, self._key_characters_left - len(text) - 1)
        if is_partial and self._key_characters_left:
            self._pending = text[-_MAX_KEY_MARK_LENGTH:]
        return (REDACTED if text.strip() else text), ""


def _format_frames(error: BaseException | None) -> Iterator[str]:
    """Yield the lines of a traceback, with the exceptions that caused it: calls and types, but no text of theirs."""
    cause: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if cause is None:
            return
        yield "Traceback (most recent call last):"
        for frame in traceback.extract_tb(cause.__traceback__)[-_MAX_FRAMES:]:
            yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        yield f"{type(cause).__module__}.{type(cause).__qualname__}: {REDACTED}"
        cause = cause.__cause__ or cause.__context__


def _text_forms(value: bytes) -> frozenset[str]:
    """Return the forms in which a secret may be part of a text: as it is, and in base64."""
    return frozenset({value.decode(errors="replace"), base64.b64encode(value).decode()})


def _own_token_name(number: int) -> str:
    return f"flargo's own token {number}"


def _prefix(secret: str) -> str:
    return secret[:_PREFIX_LENGTH] if len(secret) >= _PREFIX_LENGTH else ""


def _find_keys(text: str) -> Iterator[Span]:
    """Find private keys in PEM, including those that begin before the text or end after it."""
    begin: int | None = None
    end = 0
    for mark in _KEY_MARK.finditer(text):
        if mark["which"] == "BEGIN":
            begin = mark.start() if begin is None else begin
            continue
        yield (begin if begin is not None else _find_truncated_key(text, end, mark.start())), mark.end()
        begin, end = None, mark.end()
    if begin is not None:
        yield begin, len(text)


def _find_open_key(text: str) -> int | None:
    """Return the begin of a private key that does not end in the text; None if there is none."""
    marks = [*_KEY_MARK.finditer(text)] if _KEY in text else []
    return marks[-1].start() if marks and marks[-1]["which"] == "BEGIN" else None


def _find_truncated_key(text: str, begin_limit: int, end: int) -> int:
    """Return where the lines of a key begin whose first line is not in the text.

    Args:
        text: the text.
        begin_limit: the key begins here or later.
        end: the begin of the key's last line.
    """
    begin_limit = max(begin_limit, end - _MAX_KEY_LENGTH)
    line = text.rfind("\n", begin_limit, end) + 1 or begin_limit
    # A key on one line, with its line ends escaped, ends in the middle of that line.
    begin = line + len(text[line:end].rstrip(_ONE_LINE_KEY))
    min_base64_length = 1  # the last line of a key may be short
    while line > begin_limit:
        previous_line = text.rfind("\n", begin_limit, line - 1) + 1 or begin_limit
        if not _is_key_line(text[previous_line : line - 1], min_base64_length):
            return begin
        begin = line = previous_line
        min_base64_length = _MIN_BASE64_LENGTH
    return begin


def _is_key_line(line: str, min_base64_length: int) -> bool:
    words = line.split()
    if not words or words[0] in _PEM_HEADERS:
        return True
    return bool(_BASE64.fullmatch(words[-1])) and (len(words) == 1 or len(words[-1]) >= min_base64_length)


def _complete_length(length: int, secrets: Iterable[Span]) -> int:
    """Return how many characters of a piece can be returned before the next piece is known."""
    complete = max(0, length - _MAX_PENDING_LENGTH)
    for begin, end in secrets:
        if begin < complete < end:
            # A secret that is too long to wait for is redacted as far as it has arrived.
            return begin if length - begin <= _MAX_KEY_LENGTH else end
    return complete


def _merge_spans(spans: Iterable[Span]) -> list[Span]:
    disjoint: list[Span] = []
    for begin, end in sorted(spans):
        if disjoint and begin < disjoint[-1][1]:
            disjoint[-1] = disjoint[-1][0], max(end, disjoint[-1][1])
        else:
            disjoint.append((begin, end))
    return disjoint


def _replace_spans(text: str, secrets: Iterable[Span]) -> str:
    parts, position = [], 0
    for begin, end in secrets:
        parts += [text[position:begin], REDACTED]
        position = end
    return "".join([*parts, text[position:]])


REDACTION: Final = Redaction()
"""The redaction of this process, which knows all of its jobs' credentials."""


def install_filter() -> None:
    """Add the filter to all of flargo's loggers. A repeated call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REDACTION)
