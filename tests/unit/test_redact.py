"""What must not be in a log is not in it, whichever of flargo's loggers says it, and however."""

import base64
import importlib
import logging
import pkgutil
from collections.abc import Iterator

import pytest

import flargo
from flargo.flare.redact import LOGGERS, REDACTED, REDACTION, Redaction, install
from flargo.terms import SecretData

TOKEN = "s3cr3t-t0ken-of-the-job"
CREDENTIALS = SecretData("cred", {"TOKEN": TOKEN.encode(), "ID": b"job-1", "EMPTY": b""})


@pytest.fixture
def known() -> Iterator[None]:
    install()
    REDACTION.learn(CREDENTIALS, public="job-1")
    yield
    REDACTION.forget(CREDENTIALS)


def test_all_of_flargos_loggers_are_in_the_list() -> None:
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    found = {value.name for each in modules for value in vars(each).values() if isinstance(value, logging.Logger)}
    assert found == set(LOGGERS)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", LOGGERS)
def test_no_logger_says_a_credential(name: str, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger(name)
    log.error(f"in the text {TOKEN}")  # noqa: G004
    log.error("as an argument %s of %s", TOKEN, "job-1")
    log.error("inside a thing %r", {"token": TOKEN})
    log.error("as the API has it: %s", base64.b64encode(TOKEN.encode()).decode())
    try:
        int(TOKEN)
    except ValueError:
        log.exception("with a traceback")
    assert TOKEN not in caplog.text
    assert base64.b64encode(TOKEN.encode()).decode() not in caplog.text
    assert caplog.text.count(REDACTED) >= 5
    assert "of job-1" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE and no end",
        "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl",
        "--token-eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl",
        "a.eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl",
    ],
)
def test_keys_and_tokens_are_known_by_their_looks(text: str) -> None:
    blanked = Redaction().blank(f"before {text} after")
    assert "MIIE" not in blanked
    assert "eyJ" not in blanked
    assert REDACTED in blanked
    assert blanked.startswith("before")


@pytest.mark.parametrize("word", ["eyJ-", "A.eyJ.", "-----BEGIN A"], ids=["dashes", "dots", "keys"])
def test_a_long_text_that_almost_looks_like_secrets_is_no_work(word: str) -> None:
    text = word * 2**18  # Minutes of it, if each place were held against all that follow it.
    assert Redaction().blank(text) == text


def test_a_certificate_is_no_secret() -> None:
    text = "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----"
    assert Redaction().blank(text) == text


def test_a_secret_that_is_part_of_another_leaves_no_rest() -> None:
    redaction = Redaction()
    redaction.learn(SecretData("a", {"short": b"abcdef", "long": b"abcdef-and-more"}), public="")
    assert redaction.blank("abcdef-and-more abcdef") == f"{REDACTED} {REDACTED}"


def test_what_is_forgotten_is_said_again_and_the_rest_is_not() -> None:
    redaction = Redaction()
    redaction.learn(SecretData("a", {"x": b"first-one"}), public="")
    redaction.learn(SecretData("b", {"x": b"other-one"}), public="")
    redaction.forget(SecretData("a", {}))
    assert redaction.blank("first-one other-one") == f"first-one {REDACTED}"
