"""Secrets are in no log of flargo's, whichever logger writes them and in whatever form."""

import base64
import importlib
import logging
import pkgutil
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flargo
from flargo.flare.redact import LOGGERS, REDACTED, REDACTION, Redaction, StreamRedaction, install_filter
from flargo.terms import SecretData

TOKEN = "s3cr3t-t0ken-of-the-job"
CREDENTIALS = SecretData("cred", {"TOKEN": TOKEN.encode(), "ID": b"job-1", "EMPTY": b""})


@pytest.fixture
def learned_credentials() -> Iterator[None]:
    install_filter()
    REDACTION.learn(CREDENTIALS, public="job-1")
    yield
    REDACTION.forget(CREDENTIALS)


def test_all_loggers_are_listed() -> None:
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    loggers = {value.name for each in modules for value in vars(each).values() if isinstance(value, logging.Logger)}
    assert loggers == set(LOGGERS)


@pytest.mark.usefixtures("learned_credentials")
@pytest.mark.parametrize("name", LOGGERS)
def test_no_logger_shows_a_credential(name: str, caplog: pytest.LogCaptureFixture) -> None:
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
def test_keys_and_tokens_are_recognised_by_form(text: str) -> None:
    redacted = Redaction().redact(f"before {text} after")
    assert "MIIE" not in redacted
    assert "eyJ" not in redacted
    assert REDACTED in redacted
    assert redacted.startswith("before")


@pytest.mark.parametrize("word", ["eyJ-", "A.eyJ.", "-----BEGIN A"], ids=["dashes", "dots", "keys"])
def test_almost_secrets_take_linear_time(word: str) -> None:
    text = word * 2**18  # Minutes of it, if each place were held against all that follow it.
    assert Redaction().redact(text) == text


def test_a_certificate_is_not_redacted() -> None:
    text = "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----"
    assert Redaction().redact(text) == text


def test_nested_secrets_are_redacted_whole() -> None:
    """One secret is the beginning of another, and no rest of the longer one stays."""
    redaction = Redaction()
    redaction.learn(SecretData("a", {"short": b"abcdef", "long": b"abcdef-and-more"}), public="")
    assert redaction.redact("abcdef-and-more abcdef") == f"{REDACTED} {REDACTED}"


def test_forgotten_secrets_are_shown_again() -> None:
    """The secrets of other jobs stay redacted."""
    redaction = Redaction()
    redaction.learn(SecretData("a", {"x": b"first-one"}), public="")
    redaction.learn(SecretData("b", {"x": b"other-one"}), public="")
    redaction.forget(SecretData("a", {}))
    assert redaction.redact("first-one other-one") == f"first-one {REDACTED}"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PRIVATE KEY-----\n" * 2**16,
        "-----END PRIVATE KEY-----\n" * 2**16,
        f"{'A' * 63}\n" * 2**14 + "-----END PRIVATE KEY-----",
        "-----BEGIN " + "A" * 2**21 + "PRIVATE KEY-----",
        "eyJa.eyJb." * 2**17,
        "eyJ." * 2**18 + ".eyJ",
        "PRIVATE KEY" * 2**17 + "-----END" * 2**17,
    ],
    ids=["begins", "ends", "base64", "label", "almost tokens", "dots", "words"],
)
def test_repeated_key_marks_take_linear_time(text: str) -> None:
    """A search from each mark to the end of the text would take hours for each of these texts."""
    Redaction().redact(text)


def test_a_shared_prefix_takes_linear_time() -> None:
    """Two thousand secrets begin with the text that is repeated."""
    redaction = Redaction()
    many = {f"k{number}": f"eyJhbGci{number:028}".encode() for number in range(2000)}
    redaction.learn(SecretData("a", many), public="")
    text = "eyJhbGci" * 2**16
    assert redaction.redact(text) == text
    assert redaction.redact(f"{text}{1999:028}") == f"{text[:-8]}{REDACTED}"


KEY = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *("MIIEowIBAAKCAQEA" * 4 for _ in range(25)), "c2hvcnQ="])
END = "-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "offset",
    [KEY.index("\n") + 1, len(KEY) // 2, KEY.rindex("\n") + 3],
    ids=["without its first line", "in the middle", "in its last line"],
)
def test_a_truncated_key_is_redacted(offset: int) -> None:
    """The text begins inside the key."""
    redacted = Redaction().redact(f"{KEY[offset:]}\n{END}\nafter")
    assert redacted == f"{REDACTED}\nafter"


def test_a_truncated_key_with_prefixes_is_redacted() -> None:
    """Each line of the key follows the time and the level of a logger."""
    lines = [f"2026-01-01 INFO {line}" for line in f"{KEY}\n{END}".splitlines()[2:]]
    redacted = Redaction().redact("\n".join(["it begins", *lines, "it ends"]))
    assert "MIIE" not in redacted
    assert "it begins" in redacted
    assert redacted.endswith(f"{REDACTED}\nit ends")


def test_a_truncated_one_line_key_is_redacted() -> None:
    """The key's line ends are escaped, as in JSON."""
    text = f"{KEY}\n{END}".replace("\n", "\\n")
    assert Redaction().redact(f'{text[40:]}", "next": 1}}') == f'{REDACTED}", "next": 1}}'


def test_text_before_a_keys_end_stays() -> None:
    text = f"the server said:\nit takes no key\n{END}"
    assert Redaction().redact(text).startswith("the server said:\n")


# Streams

TOKEN_SHAPE = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"


def streamed(*pieces: tuple[str, bool]) -> list[str]:
    stream = StreamRedaction(Redaction())
    return [stream.redact(text, is_partial=is_partial) for text, is_partial in pieces]


def test_streamed_key_is_redacted_line_by_line() -> None:
    lines = ["before", *f"{KEY}\n{END}".splitlines(), "after"]
    output = streamed(*((line, False) for line in lines))
    assert output[0] == "before"
    assert output[-1] == "after"
    assert set(output[1:-1]) == {REDACTED}


def test_text_around_a_streamed_key_stays() -> None:
    output = streamed((f"it is {KEY.splitlines()[0]}", False), ("MIIE", False), (f"MIIE{END} and on", False))
    assert output == [f"it is {REDACTED}", REDACTED, f"{REDACTED} and on"]


def test_an_endless_key_hides_a_limited_part() -> None:
    output = streamed((KEY.splitlines()[0], False), *((f"line {number} of the log", False) for number in range(5000)))
    assert output[1] == REDACTED
    assert output[-1] == "line 4999 of the log"


@pytest.mark.parametrize("size", [7, 100, 5000, 16 * 1024, 40_000])
@pytest.mark.parametrize("secret", [TOKEN_SHAPE, f"{KEY}\n{END}".replace("\n", "\\n")], ids=["token", "key"])
def test_a_secret_across_pieces_is_redacted(secret: str, size: int) -> None:
    line = f"{'a' * 20_000} {secret} {'b' * 60_000} {secret} end"
    output = streamed(*((line[at : at + size], at + size < len(line)) for at in range(0, len(line), size)))
    joined = "".join(output)
    assert joined.replace(REDACTED, "") == line.replace(secret, "")
    assert "eyJ" not in joined
    assert "MIIE" not in joined


def test_an_endless_token_takes_limited_memory() -> None:
    stream = StreamRedaction(Redaction())
    stream.redact("eyJa.eyJb.", is_partial=True)
    for _ in range(100):
        stream.redact("c" * 2**16, is_partial=True)
        assert len(stream._pending) < 2**17


@given(st.lists(st.tuples(st.sampled_from(["x", " ", "é", "-----", "BEGIN", "\n", "PRIVATE KEY"]), st.booleans())))
def test_a_stream_without_secrets_is_unchanged(pieces: list[tuple[str, bool]]) -> None:
    assert "".join(streamed(*pieces, ("", False))) == "".join(text for text, _ in pieces)


def test_log_has_no_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    install_filter()
    log = logging.getLogger(LOGGERS[0])
    log.error("the API server says %s", "\x1b]52;c;eA==\x07\n2026-01-01 ERROR forged \u202e")
    assert caplog.records[-1].getMessage() == r"the API server says \x1b]52;c;eA==\x07\n2026-01-01 ERROR forged \u202e"
