"""Foreign text that a terminal displays and does not interpret, and commands that a shell parses as intended."""

import random
import shlex
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.text import inert, inert_lines, shell_command, valid_unicode
from tests.harness.attacks import ATTACKS

ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
ALL_CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1)]


def is_printable(character: str) -> bool:
    return unicodedata.category(character) not in ESCAPED


def test_every_character_is_printed_or_escaped() -> None:
    """Over all of Unicode: a printable character is unchanged, and any other becomes printable ASCII."""
    for character in ALL_CHARACTERS:
        escaped = inert(character)
        if character == "\t":
            assert escaped == " " * 8
        elif is_printable(character):
            assert escaped == character
        else:
            assert escaped.startswith("\\")
            assert escaped.isascii()
            assert escaped.isprintable()


def test_a_hundred_thousand_random_strings_are_inert() -> None:
    rng = random.Random(15)  # noqa: S311  (no secret)
    for _ in range(100_000):
        # Many are from the first few hundred characters, where most of the control characters are.
        limit = rng.choice((0x100, 0x3000, sys.maxunicode + 1))
        text = "".join(map(chr, (rng.randrange(limit) for _ in range(rng.randrange(24)))))
        escaped = inert(text)
        assert all(is_printable(character) for character in escaped), repr(text)
        assert inert(escaped) == escaped


@given(st.text())
def test_printable_text_of_any_script_is_unchanged(text: str) -> None:
    printable = "".join(filter(is_printable, text))
    assert inert(printable) == printable


@pytest.mark.parametrize(
    "text", ["plain", "Charité Berlin", "東京大学病院", "مستشفى", "अस्पताल", "a\u00a0b\u3000c", "🧠 e\u0301", "`\\x1b`"]
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert inert(text) == text


@pytest.mark.parametrize("name", ATTACKS)
def test_terminal_attacks_become_inert(name: str) -> None:
    assert all(map(is_printable, inert(ATTACKS[name])))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\xad", "\\xad"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc9b", "\\udc9b"),
        ("a\tb", "a       b"),
        ("12345678\tb", "12345678        b"),
    ],
)
def test_an_escape_names_its_character(text: str, escaped: str) -> None:
    assert inert(text) == escaped


def test_only_line_feeds_end_a_line() -> None:
    assert inert_lines("a\tb\n\x1b[2Jc\r\n\u2028d\n") == "a       b\n\\x1b[2Jc\\r\n\\u2028d\n"


def test_lone_surrogates_are_replaced() -> None:
    assert valid_unicode("a\ud800b\udc9bc🧠") == "a\ufffdb\ufffdc🧠"


# Commands


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" ")), min_size=1))
def test_a_shell_reads_the_same_arguments(argv: list[str]) -> None:
    assert shlex.split(shell_command(*argv)) == argv


def test_option_names_are_not_quoted() -> None:
    assert shell_command("kubectl", '--patch={"a": 1}', "it's") == """kubectl --patch='{"a": 1}' 'it'"'"'s'"""
    assert shell_command("a", "--x=$(id)") == "a --x='$(id)'"


@pytest.mark.parametrize("name", ["", "$(id)", "a b", "-rf", "a;b", "a`b", "../a", "a/b", "a\n", "a" * 254, "é"])
def test_an_invalid_name_gets_no_command(name: str) -> None:
    assert shell_command("kubectl", "delete", "pod", name, names=(name,)) == ""


@pytest.mark.parametrize("name", ["a", "site-1", "nvflare.example", "ID_7", "a" * 253])
def test_a_valid_name_gets_a_command(name: str) -> None:
    assert shell_command("kubectl", "delete", "pod", name, names=(name,)) == f"kubectl delete pod {name}"


def test_an_unprintable_path_gets_no_command() -> None:
    assert shell_command("nvflare", "stage", "/kits/a\x1b[2J") == ""
    assert shell_command("nvflare", "stage", "/kits/my site") == "nvflare stage '/kits/my site'"
