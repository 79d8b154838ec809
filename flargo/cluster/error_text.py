"""Descriptions of failures in flargo's own words. The text of a foreign exception is never part of a message.

Libraries quote their input: an HTTP library quotes the header with the token, a YAML parser the line with the
password. So a message may hold only an exception's type, and the numbers and constants in it.
"""

import errno
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from http import HTTPStatus

import yaml

_MAX_DEPTH = 8
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3}) ")
"""http.client's text for a proxy's refusal to connect to the server. Only the status is used of it."""
_OPENSSL_CONSTANT = re.compile(r"[A-Z0-9_]{1,60}")
_CERTIFICATE_ERRORS = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted",
    62: "is for another host name",
    64: "is for another address",
}
"""OpenSSL's verification errors (x509_vfy.h: X509_V_ERR_...), by number."""
_TEXTS: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "the host name can't be resolved"),
    (TimeoutError, "no answer in time"),
    (ConnectionRefusedError, os.strerror(errno.ECONNREFUSED)),
    (ConnectionResetError, os.strerror(errno.ECONNRESET)),
    (BrokenPipeError, os.strerror(errno.EPIPE)),
    (UnicodeError, "text in an unexpected encoding"),
    (RecursionError, "nested too deeply"),
    (MemoryError, "out of memory"),
)
_URLLIB3_TEXTS = (
    ("TimeoutError", "no answer in time"),
    ("IncompleteRead", "the answer was cut off"),
    ("LocationParseError", "the server's address is not a URL"),
    ("ProxyError", "the proxy can't be reached"),
    ("ProtocolError", "the connection was closed early"),
)
"""The same for urllib3, by the names of its exceptions."""


class OwnError(Exception):
    """An error whose text is written by flargo and holds no text of a library or a plugin."""


def describe(error: BaseException) -> str:
    """Describe a failure in flargo's own words, or by the type of the exception if flargo has no words for it.

    Args:
        error: an exception of a library, a plugin or the operating system. If it wraps others, the innermost exception
            that flargo has words for is described.
    """
    if isinstance(error, OwnError):
        return str(error)
    for inner in reversed([*_chain(error)]):
        if isinstance(inner, OwnError):
            return str(inner)
        text = _text_for(inner)
        if text:
            return text
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it wraps, the outermost first. urllib3 and requests wrap differently."""
    inner: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if inner is None:
            return
        yield inner
        wrapped = (getattr(inner, "reason", None), *inner.args, inner.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)


def _text_for(error: BaseException) -> str:
    """Return flargo's description of one exception; "" if there is none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate {_CERTIFICATE_ERRORS.get(getattr(error, 'verify_code', 0), 'is not trusted')}"
    if isinstance(error, yaml.MarkedYAMLError):
        return (
            f"not YAML, line {error.problem_mark.line + 1}" if isinstance(error.problem_mark, yaml.Mark) else "not YAML"
        )
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON, line {error.lineno:d} column {error.colno:d}"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None)
        is_constant = isinstance(reason, str) and _OPENSSL_CONSTANT.fullmatch(reason) is not None
        return f"TLS failed: {reason}" if is_constant else "TLS failed"
    text = next((text for kind, text in (*_urllib3_texts(), *_TEXTS) if isinstance(error, kind)), "")
    if text:
        return text
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    tunnel = _TUNNEL_STATUS.match(str(error)) if isinstance(error, OSError) else None
    if tunnel is not None:
        return f"the proxy refuses to connect to the server ({_status_words(int(tunnel[1]))})"
    return ""


def _urllib3_texts() -> Iterator[tuple[type[BaseException], str]]:
    """Yield urllib3's exceptions and their texts.

    urllib3 is not imported for that, which takes longer than a shell's completion otherwise does: who has not imported
    it gets no exception of it.
    """
    exceptions = sys.modules.get("urllib3.exceptions")
    if exceptions is not None:
        yield from ((getattr(exceptions, name), text) for name, text in _URLLIB3_TEXTS)


def _status_words(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
