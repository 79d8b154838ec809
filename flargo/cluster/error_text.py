"""What went wrong, in flargo's own words: the text of a foreign exception is never part of a message.

Libraries quote what they were given: an HTTP library the header with the token, a YAML parser the line with the
password. What flargo may say of such an exception is its type and what is a number or a constant in it.
"""

import errno
import json
import os
import re
import socket
import ssl
from collections.abc import Iterator

import urllib3
import yaml

_MAX_DEPTH = 8
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
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "the host's name can't be resolved"),
    (urllib3.exceptions.TimeoutError, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (urllib3.exceptions.IncompleteRead, "the answer broke off"),
    (urllib3.exceptions.LocationParseError, "the server's address is no URL"),
    (urllib3.exceptions.ProxyError, "the proxy can't be reached"),
    (urllib3.exceptions.ProtocolError, "the connection broke off"),
    (ConnectionRefusedError, os.strerror(errno.ECONNREFUSED)),
    (ConnectionResetError, os.strerror(errno.ECONNRESET)),
    (BrokenPipeError, os.strerror(errno.EPIPE)),
    (UnicodeError, "text in an unexpected encoding"),
    (RecursionError, "nested too deeply"),
    (MemoryError, "out of memory"),
)


class OwnError(Exception):
    """An error whose text is flargo's own and holds no word of a library or a plugin."""


def describe(error: BaseException) -> str:
    """The kind of a failure: what flargo knows of it, else the type of the exception.

    Args:
        error: raised by a library, a plugin or the operating system. Of what it wraps, the innermost part that says
            something counts.
    """
    if isinstance(error, OwnError):
        return str(error)
    for inner in reversed([*_chain(error)]):
        if isinstance(inner, OwnError):
            return str(inner)
        words = _words(inner)
        if words:
            return words
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it wraps, the outermost first: urllib3 and requests wrap each in their own way."""
    inner: BaseException | None = error
    for _ in range(_MAX_DEPTH):
        if inner is None:
            return
        yield inner
        wrapped = (getattr(inner, "reason", None), *inner.args, inner.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _CERTIFICATE_ERRORS.get(getattr(error, "verify_code", 0), "is not trusted")
        return f"the server's certificate {known}"
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
    known = next((words for kind, words in _WORDS if isinstance(error, kind)), "")
    if known:
        return known
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return ""
