"""TLS contexts from certificates in memory."""

import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from flargo.cluster.access import Tls
from flargo.cluster.tls_context import CertificateError, tls_context
from tests.harness.kubeconfigs.certificates import Authority

AUTHORITY = Authority("an authority")
CERTIFICATE, KEY = (text.encode() for text in AUTHORITY.issue("alice"))
CA = AUTHORITY.certificate.encode()


def test_only_the_given_authorities_are_trusted() -> None:
    """Text around a certificate, and blocks of other types, are skipped, as by Go."""
    text = "# Zertifizierungsstelle für Tests\r\n".encode()
    trusted = CA.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")
    context = tls_context(Tls(text + trusted + CA + text + CA))
    names = [each["subject"] for each in context.get_ca_certs()]
    assert names == [((("commonName", "an authority"),),)]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    "authorities", [b"x", CA.replace(b"MII", b"AAA"), CA.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")]
)
def test_unusable_authorities_are_errors(authorities: bytes) -> None:
    with pytest.raises(CertificateError, match="the certificate-authority"):
        tls_context(Tls(authorities))


def test_a_key_is_in_a_private_file_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    modes: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def note(context: ssl.SSLContext, file: str, **kwargs: Any) -> None:
        modes.append(stat.S_IMODE(Path(file).stat().st_mode))
        load(context, file, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", note)
    tls_context(Tls(CA, certificate=CERTIFICATE, key=KEY))
    with pytest.raises(CertificateError, match="TLS failed: KEY_VALUES_MISMATCH"):
        tls_context(Tls(CA, certificate=CERTIFICATE, key=AUTHORITY.issue("bob")[1].encode()))
    assert modes == [0o600, 0o600]
    assert [*tmp_path.iterdir()] == []


def test_an_encrypted_key_is_an_error() -> None:
    """OpenSSL would ask at the terminal for its password."""
    private = serialization.load_pem_private_key(KEY, None)
    encryption = serialization.BestAvailableEncryption(b"t0psecret")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encrypted = private.private_bytes(encoding, form, encryption)
    with pytest.raises(CertificateError, match="client certificate or its key can't be used"):
        tls_context(Tls(CA, certificate=CERTIFICATE, key=encrypted))
