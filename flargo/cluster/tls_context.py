"""Creates the TLS context of a connection from certificates in memory.

The ``ssl`` module reads a client's certificate and key only from a file. They are written to a private one, which is
deleted as soon as it is read, so that no connection depends on a file in a temporary folder that somebody cleans.
"""

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from flargo.cluster.access import Tls
from flargo.cluster.error_text import OwnError, describe

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


class CertificateError(OwnError):
    """A certificate or a key can't be used."""


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a client's context that trusts what kubectl would trust.

    Neither ``ssl.create_default_context`` nor urllib3's is used: since Python 3.13 they demand extensions that many
    clusters' authorities lack.

    Raises:
        CertificateError: the authorities, the certificate or the key can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    # Go trusts whatever certificate is among the authorities, also if it is not the root of its chain.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.authorities:
        _trust(context, tls.authorities)
    else:
        context.load_default_certs()
    if tls.certificate:
        _load_certificate(context, tls)
    return context


def _trust(context: ssl.SSLContext, authorities: bytes) -> None:
    certificates = _CERTIFICATE.findall(authorities)
    if not certificates:
        raise CertificateError("the certificate-authority holds no certificate")
    try:
        context.load_verify_locations(cadata=b"\n".join(certificates).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(f"the certificate-authority can't be used: {describe(error)}") from None


def _load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    with _private_file(tls.certificate.rstrip() + b"\n" + tls.key) as file:
        try:
            # OpenSSL would ask at the terminal for the password of an encrypted key. kubectl takes no such key.
            context.load_cert_chain(file, password="")
        except (ssl.SSLError, ValueError) as error:
            raise CertificateError(f"the client certificate or its key can't be used: {describe(error)}") from None


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """Write a file that only this user can read, and delete it at the end."""
    descriptor, path = tempfile.mkstemp(prefix="flargo-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108  (with the functions of os that create it)
