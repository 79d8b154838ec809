"""No secret in a log: one filter that all of flargo's loggers pass, and that whatever people read passes too.

It knows the credentials of the jobs that run, and what private keys and Kubernetes' tokens look like. What a site's
own Secrets hold it cannot know.
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
    "flargo.cluster.watch",
    "flargo.control.loop",
    "flargo.control.parse_error_log",
    "flargo.embedded.cluster",
    "flargo.embedded.routes",
    "flargo.flare.wait",
    "flargo.flare.launcher",
    "flargo.flare.report",
    "flargo.flare.request",
    "flargo.flare.nvflare_internals",
    "flargo.metrics",
    "flargo.metrics_server",
)
"""All of flargo's: a filter works on the logger that it is put on, and on none below."""
Span = tuple[int, int]
"""Where something begins in a text, and where it ends."""
_WORD = "[A-Za-z0-9_-]"
# Each has a mark without which its pattern is not tried. A job writes what it likes, so each word is looked at once,
# and only if what follows it makes it a token: the time grows with the text's length and not with its square.
_TOKENS: Final = (
    (
        ".eyJ",  # JSON Web Tokens, as Kubernetes' own
        re.compile(rf"(?<!{_WORD})(?={_WORD}++\.eyJ{_WORD}++\.{_WORD}){_WORD}*?eyJ{_WORD}++\.eyJ{_WORD}++\.{_WORD}++"),
    ),
)
_KEY = "PRIVATE KEY"
"""The mark of a private key in PEM."""
_KEY_MARK = re.compile(rf"-----(?P<which>BEGIN|END) [A-Z0-9 ]{{0,40}}{_KEY}(?: BLOCK)?-----")
_KEY_MARK_LENGTH = 80
_KEY_LENGTH = 32 * 1024
"""Characters of a private key in PEM, at most: RSA with 16,384 bits takes 13,000."""
_BASE64 = re.compile(r"[A-Za-z0-9+/=]+")
_ONE_LINE_KEY = f"{string.ascii_letters}{string.digits}+/=\\ "
_BASE64_LINE = 40
"""Characters of base64 by which a line of a key is known that has other words before it."""
_PEM_HEADERS = ("Proc-Type:", "DEK-Info:")
_OWN_TOKENS = 3
_MAX_CHAIN, _MAX_FRAMES = 5, 20
"""Of an exception in a log: others that it follows from, and calls."""
_STEM = 8
"""Characters of a secret's beginning by which it is looked up; the few shorter ones are tried on every text."""
_HELD = 16 * 1024
"""Characters at the end of a piece of a line that wait for the next piece: a secret may go on there."""


class Redaction(logging.Filter):
    """Blanks what it knows. Safe to use from many threads."""

    def __init__(self) -> None:
        """Know nothing yet."""
        super().__init__()
        self._lock = threading.RLock()
        self._own_tokens = 0
        self._known: dict[str, frozenset[str]] = {}
        self._uses: Counter[str] = Counter()
        """By how many jobs each secret is had: a site's token is all of theirs."""
        self._by_stem: dict[str, dict[int, frozenset[str]]] = {}
        """Secrets by their beginnings and lengths: however many there are, each place in a text is looked up once."""

    def learn(self, credentials: SecretData, public: str) -> None:
        """Blank these from now on, as they are and in base64; ``public`` is none, whoever has it for a value.

        (A server's job has its own id for its auth token.)
        """
        values = {value for value in credentials.data.values() if value and value != public.encode()}
        forms = frozenset(form for value in values for form in _forms(value))
        with self._lock:
            self._drop(credentials.name)
            self._known[credentials.name] = forms
            for secret in forms:
                self._uses[secret] += 1
                if self._uses[secret] == 1:
                    lengths = self._by_stem.get(_stem(secret), {})
                    alike = lengths.get(len(secret), frozenset())
                    # Replaced, never changed in place: somebody may be reading.
                    self._by_stem[_stem(secret)] = {**lengths, len(secret): alike | {secret}}

    def learn_own_token(self, token: str) -> None:
        """Blank a credential of flargo's own from now on: this one and the two before it, since they are rotated.

        Of any shape: only Kubernetes' own tokens can be told from other text, not OpenShift's, EKS's or Rancher's.
        """
        with self._lock:
            if len(token) < _STEM or self._known.get(_own(self._own_tokens)) == _forms(token.encode()):
                return
            self._own_tokens += 1
            self.learn(SecretData(_own(self._own_tokens), {"token": token.encode()}), public="")
            self._drop(_own(self._own_tokens - _OWN_TOKENS))

    def forget(self, credentials: SecretData) -> None:
        """Their job has ended, and they are good for nothing."""
        with self._lock:
            self._drop(credentials.name)

    def redact(self, text: str) -> str:
        """The text without secrets, in a time that grows with its length only.

        Of a private key that begins before the text or ends after it, the part in the text is blanked.
        """
        return _replaced(text, self.secrets(text))

    def secrets(self, text: str) -> list[Span]:
        """Where the secrets of a text are, in their order; none overlaps another."""
        found = [*self._known_in(text)]
        if _KEY in text:
            found += _keys(text)
        for mark, pattern in _TOKENS:
            if mark in text:
                found += (token.span() for token in pattern.finditer(text))
        return _merged(found)

    def filter(self, record: logging.LogRecord) -> bool:
        """Blank a record's message; of an exception keep where it was raised, and its type. Every record passes.

        The text of a foreign exception may quote anything, a token in a header for one.
        """
        # Inert too: the API server's words may be anybody's, and a log is read on terminals.
        record.msg, record.args = inert(self.redact(record.getMessage())), None
        if record.exc_info:
            record.exc_text = "\n".join(_frames(record.exc_info[1]))
            # Or a formatter would write it anew.
            record.exc_info = None
        if record.exc_text:
            record.exc_text = inert_lines(self.redact(record.exc_text))
        return True

    def _known_in(self, text: str) -> Iterator[Span]:
        by_stem = self._by_stem
        short = by_stem.get("", {})
        for secret in (each for alike in short.values() for each in alike):
            yield from (found.span() for found in re.finditer(re.escape(secret), text))
        if len(by_stem) == bool(short):
            return
        for begin in range(len(text) - _STEM + 1):
            for length, alike in by_stem.get(text[begin : begin + _STEM], {}).items():
                if text[begin : begin + length] in alike:
                    yield begin, begin + length

    def _drop(self, name: str) -> None:
        for secret in self._known.pop(name, ()):
            self._uses[secret] -= 1
            if not self._uses[secret]:
                del self._uses[secret]
                stem = _stem(secret)
                lengths = self._by_stem[stem]
                lengths = {**lengths, len(secret): lengths[len(secret)] - {secret}}
                # Replaced, never changed in place: somebody may be reading.
                self._by_stem[stem] = {length: alike for length, alike in lengths.items() if alike}
                if not self._by_stem[stem]:
                    del self._by_stem[stem]


class StreamRedaction:
    """Blanks the secrets of one stream that comes line by line, long lines in pieces. Not safe for threads.

    A private key is blanked from its first line to its last, and a secret that two pieces of a line share as well.
    """

    def __init__(self, redaction: Redaction) -> None:
        """At the beginning of a stream."""
        self._redaction = redaction
        self._held = ""
        self._key_left = 0
        """How many characters of a private key may still come; 0: the stream is in no key."""

    def redact(self, text: str, *, continued: bool = False) -> str:
        """A line, or a piece of one, without secrets.

        Args:
            text: the line or piece.
            continued: the line goes on in the next piece. The end of this one is then told with the next.
        """
        text, self._held = self._held + text, ""
        before, text = self._end_key(text, continued=continued) if self._key_left else ("", text)
        if self._key_left:
            return before
        secrets = self._redaction.secrets(text)
        begin = _open_key(text)
        if begin is not None:
            self._key_left = _KEY_LENGTH
            self._held = text[max(begin + 1, len(text) - _KEY_MARK_LENGTH) :] if continued else ""
        elif continued:
            cut = _cut(len(text), secrets)
            text, self._held = text[:cut], text[cut:]
            secrets = [secret for secret in secrets if secret[1] <= cut]
        return before + _replaced(text, secrets)

    def _end_key(self, text: str, *, continued: bool) -> tuple[str, str]:
        """What is told of a text that begins inside a key, and what of it comes after the key."""
        marks = _KEY_MARK.finditer(text) if _KEY in text else ()
        end = next((mark for mark in marks if mark["which"] == "END"), None)
        if end is not None:
            self._key_left = 0
            return REDACTED, text[end.end() :]
        self._key_left = max(0, self._key_left - len(text) - 1)
        if continued and self._key_left:
            self._held = text[-_KEY_MARK_LENGTH:]
        return (REDACTED if text.strip() else text), ""


def _frames(error: BaseException | None) -> Iterator[str]:
    """Where an exception, and those that it follows from, were raised: calls and types, and no text of theirs."""
    follows: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if follows is None:
            return
        yield "Traceback (most recent call last):"
        for frame in traceback.extract_tb(follows.__traceback__)[-_MAX_FRAMES:]:
            yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        yield f"{type(follows).__module__}.{type(follows).__qualname__}: {REDACTED}"
        follows = follows.__cause__ or follows.__context__


def _forms(value: bytes) -> frozenset[str]:
    """A secret as it may stand in a text: as it is, and in base64."""
    return frozenset({value.decode(errors="replace"), base64.b64encode(value).decode()})


def _own(number: int) -> str:
    return f"flargo's own token {number}"


def _stem(secret: str) -> str:
    return secret[:_STEM] if len(secret) >= _STEM else ""


def _keys(text: str) -> Iterator[Span]:
    """Private keys in PEM, also those that begin before the text or end after it."""
    begin: int | None = None
    end = 0
    for mark in _KEY_MARK.finditer(text):
        if mark["which"] == "BEGIN":
            begin = mark.start() if begin is None else begin
            continue
        yield (begin if begin is not None else _lost_beginning(text, end, mark.start())), mark.end()
        begin, end = None, mark.end()
    if begin is not None:
        yield begin, len(text)


def _open_key(text: str) -> int | None:
    """Where a private key begins that does not end in the text."""
    marks = [*_KEY_MARK.finditer(text)] if _KEY in text else []
    return marks[-1].start() if marks and marks[-1]["which"] == "BEGIN" else None


def _lost_beginning(text: str, least: int, end: int) -> int:
    """Where the lines of a key begin whose end is at a place, and whose own beginning was cut off."""
    least = max(least, end - _KEY_LENGTH)
    line = text.rfind("\n", least, end) + 1 or least
    # A key on one line, with its line ends escaped, ends in the middle of that line.
    begin = line + len(text[line:end].rstrip(_ONE_LINE_KEY))
    least_base64 = 1  # a key's last line may be short
    while line > least:
        above = text.rfind("\n", least, line - 1) + 1 or least
        if not _is_of_key(text[above : line - 1], least_base64):
            return begin
        begin = line = above
        least_base64 = _BASE64_LINE
    return begin


def _is_of_key(line: str, least_base64: int) -> bool:
    words = line.split()
    if not words or words[0] in _PEM_HEADERS:
        return True
    return bool(_BASE64.fullmatch(words[-1])) and (len(words) == 1 or len(words[-1]) >= least_base64)


def _cut(length: int, secrets: Iterable[Span]) -> int:
    """How much of a piece can be told before the next one comes."""
    cut = max(0, length - _HELD)
    for begin, end in secrets:
        if begin < cut < end:
            # One that is too long to wait for is told, blanked, as far as it has come.
            return begin if length - begin <= _KEY_LENGTH else end
    return cut


def _merged(found: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for begin, end in sorted(found):
        if merged and begin < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _replaced(text: str, secrets: Iterable[Span]) -> str:
    kept, after = [], 0
    for begin, end in secrets:
        kept += [text[after:begin], REDACTED]
        after = end
    return "".join([*kept, text[after:]])


REDACTION: Final = Redaction()
"""The process's own."""


def install_filter() -> None:
    """Put the filter on all of flargo's loggers. It may be done again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REDACTION)
