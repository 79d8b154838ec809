"""What must not be in a log is not in it, whichever of flargo's loggers says it, and however."""

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
def known() -> Iterator[None]:
    install_filter()
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
    blanked = Redaction().redact(f"before {text} after")
    assert "MIIE" not in blanked
    assert "eyJ" not in blanked
    assert REDACTED in blanked
    assert blanked.startswith("before")


@pytest.mark.parametrize("word", ["eyJ-", "A.eyJ.", "-----BEGIN A"], ids=["dashes", "dots", "keys"])
def test_a_long_text_that_almost_looks_like_secrets_is_no_work(word: str) -> None:
    text = word * 2**18  # Minutes of it, if each place were held against all that follow it.
    assert Redaction().redact(text) == text


def test_a_certificate_is_no_secret() -> None:
    text = "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----"
    assert Redaction().redact(text) == text


def test_a_secret_that_is_part_of_another_leaves_no_rest() -> None:
    redaction = Redaction()
    redaction.learn(SecretData("a", {"short": b"abcdef", "long": b"abcdef-and-more"}), public="")
    assert redaction.redact("abcdef-and-more abcdef") == f"{REDACTED} {REDACTED}"


def test_what_is_forgotten_is_said_again_and_the_rest_is_not() -> None:
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
def test_long_texts_of_keys_and_tokens_are_little_work(text: str) -> None:
    """With a search from each mark to the end of the text, each of these takes hours."""
    Redaction().redact(text)


def test_a_known_beginning_repeated_is_little_work_however_many_secrets_have_it() -> None:
    redaction = Redaction()
    many = {f"k{number}": f"eyJhbGci{number:028}".encode() for number in range(2000)}
    redaction.learn(SecretData("a", many), public="")
    text = "eyJhbGci" * 2**16
    assert redaction.redact(text) == text
    assert redaction.redact(f"{text}{1999:028}") == f"{text[:-8]}{REDACTED}"


KEY = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *("MIIEowIBAAKCAQEA" * 4 for _ in range(25)), "c2hvcnQ="])
END = "-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "cut",
    [KEY.index("\n") + 1, len(KEY) // 2, KEY.rindex("\n") + 3],
    ids=["without its first line", "in the middle", "in its last line"],
)
def test_a_key_whose_beginning_was_cut_off_is_blanked(cut: int) -> None:
    blanked = Redaction().redact(f"{KEY[cut:]}\n{END}\nafter")
    assert blanked == f"{REDACTED}\nafter"


def test_a_key_after_a_loggers_words_is_blanked_though_its_beginning_was_cut_off() -> None:
    lines = [f"2026-01-01 INFO {line}" for line in f"{KEY}\n{END}".splitlines()[2:]]
    blanked = Redaction().redact("\n".join(["it begins", *lines, "it ends"]))
    assert "MIIE" not in blanked
    assert "it begins" in blanked
    assert blanked.endswith(f"{REDACTED}\nit ends")


def test_a_key_on_one_line_is_blanked_though_its_beginning_was_cut_off() -> None:
    text = f"{KEY}\n{END}".replace("\n", "\\n")
    assert Redaction().redact(f'{text[40:]}", "next": 1}}') == f'{REDACTED}", "next": 1}}'


def test_words_before_the_end_of_a_key_stay() -> None:
    text = f"the server said:\nit takes no key\n{END}"
    assert Redaction().redact(text).startswith("the server said:\n")


# Streams

TOKEN_SHAPE = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"


def streamed(*pieces: tuple[str, bool]) -> list[str]:
    stream = StreamRedaction(Redaction())
    return [stream.redact(text, is_partial=is_partial) for text, is_partial in pieces]


def test_a_key_is_blanked_from_its_first_line_to_its_last() -> None:
    lines = ["before", *f"{KEY}\n{END}".splitlines(), "after"]
    told = streamed(*((line, False) for line in lines))
    assert told[0] == "before"
    assert told[-1] == "after"
    assert set(told[1:-1]) == {REDACTED}


def test_what_stands_beside_a_key_stays() -> None:
    told = streamed((f"it is {KEY.splitlines()[0]}", False), ("MIIE", False), (f"MIIE{END} and on", False))
    assert told == [f"it is {REDACTED}", REDACTED, f"{REDACTED} and on"]


def test_a_key_without_an_end_does_not_hide_the_rest_of_a_log() -> None:
    told = streamed((KEY.splitlines()[0], False), *((f"line {number} of the log", False) for number in range(5000)))
    assert told[1] == REDACTED
    assert told[-1] == "line 4999 of the log"


@pytest.mark.parametrize("size", [7, 100, 5000, 16 * 1024, 40_000])
@pytest.mark.parametrize("secret", [TOKEN_SHAPE, f"{KEY}\n{END}".replace("\n", "\\n")], ids=["token", "key"])
def test_a_secret_that_pieces_of_a_line_share_is_blanked(secret: str, size: int) -> None:
    line = f"{'a' * 20_000} {secret} {'b' * 60_000} {secret} end"
    told = streamed(*((line[at : at + size], at + size < len(line)) for at in range(0, len(line), size)))
    joined = "".join(told)
    assert joined.replace(REDACTED, "") == line.replace(secret, "")
    assert "eyJ" not in joined
    assert "MIIE" not in joined


def test_an_endless_token_is_not_kept_in_memory() -> None:
    stream = StreamRedaction(Redaction())
    stream.redact("eyJa.eyJb.", is_partial=True)
    for _ in range(100):
        stream.redact("c" * 2**16, is_partial=True)
        assert len(stream._pending) < 2**17


@given(st.lists(st.tuples(st.sampled_from(["x", " ", "é", "-----", "BEGIN", "\n", "PRIVATE KEY"]), st.booleans())))
def test_a_stream_without_secrets_is_told_as_it_is(pieces: list[tuple[str, bool]]) -> None:
    assert "".join(streamed(*pieces, ("", False))) == "".join(text for text, _ in pieces)


def test_a_parents_log_is_inert(caplog: pytest.LogCaptureFixture) -> None:
    install_filter()
    log = logging.getLogger(LOGGERS[0])
    log.error("the API server says %s", "\x1b]52;c;eA==\x07\n2026-01-01 ERROR forged \u202e")
    assert caplog.records[-1].getMessage() == r"the API server says \x1b]52;c;eA==\x07\n2026-01-01 ERROR forged \u202e"
