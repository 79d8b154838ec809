"""Foreign text is parsed in limited time, in the documented form only, and without exceptions."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.parsing import (
    MAX_DEPTH,
    MAX_WHOLE_NUMBER,
    http_date,
    is_attempt,
    is_dns_label,
    is_object_name,
    is_uid,
    load_json,
    whole_number,
)

NOT_NUMBERS = [
    "",
    "²",
    "٣",
    "\uff11",
    "-1",
    "+1",
    "1.0",
    "1e3",
    "0x1",
    "1_000",
    " 1",
    "1\n",
    "9" * 20,
    "9" * 5000,
    "NaN",
]


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_only_ascii_digits_are_a_number(text: str) -> None:
    assert whole_number(text) is None


@given(st.integers(0, MAX_WHOLE_NUMBER))
def test_number_has_the_value_of_its_digits(number: int) -> None:
    assert whole_number(str(number)) == number
    assert whole_number(str(number), maximum=number) == number
    assert whole_number(str(number + 1), maximum=number) is None


@given(st.text())
def test_any_text_without_ascii_digits_is_none(text: str) -> None:
    number = whole_number(text)
    assert (number is None) or (text.isascii() and text.isdecimal() and int(text) == number)


@given(
    st.one_of(st.text(), st.sampled_from(["Sun, 29 Nov 2026 08:22:08", "Sun, 99 Nov 2026 08:22:08 GMT", "x" * 10**6]))
)
def test_a_date_without_a_zone_is_none(text: str) -> None:
    moment = http_date(text)
    assert moment is None or moment.tzinfo is not None


def test_an_http_date_is_parsed() -> None:
    assert http_date("Sun, 29 Nov 2026 08:22:08 GMT") == datetime(2026, 11, 29, 8, 22, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "/", "../x", "a/b", "A", "a_b", "²", "a\n", "a b", "x" * 254, "a..b", ".a", "a."])
def test_invalid_names_are_refused(text: str) -> None:
    assert not is_object_name(text)
    assert not is_dns_label(text)
    assert not is_attempt(text)


@given(st.text(max_size=300))
def test_no_name_can_change_a_path(text: str) -> None:
    if any(check(text) for check in (is_object_name, is_dns_label, is_attempt, is_uid)):
        assert text.isascii()
        assert not {*text} & {*"/\\%?#;&=+ \t\r\n\x00"}
        assert ".." not in text


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(alphabet='a"\\\\[]{}', max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=20,
)


BRACKETS = [("[", "]"), ('{"a": ', "}"), ('[{"]": [1, ', "]}]")]


@given(before=values, after=values, brackets=st.sampled_from(BRACKETS), leaf=st.sampled_from(["1", '"]]]"', '"\\""']))
def test_only_deeply_nested_parts_become_null(before: Any, after: Any, brackets: tuple[str, str], leaf: str) -> None:
    opens, closes = brackets
    deep = opens * 3000 + leaf + closes * 3000
    items = load_json(f"[{json.dumps(before)}, {deep}, {json.dumps(after)}]".encode())
    assert (items[0], items[2]) == (before, after)
    depth, inner = 0, items[1]
    while isinstance(inner, list | dict) and inner:
        inner, depth = [*(inner.values() if isinstance(inner, dict) else inner)][-1], depth + 1
    assert depth <= MAX_DEPTH


@given(values)
def test_other_json_is_unchanged(value: Any) -> None:
    assert load_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[" * 3000, b"[" * 3000 + b'"' + b'\\"' * 500_000, b"[1," * 3000 + b"]" * 2999]
)
def test_deeply_nested_invalid_json_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        load_json(content)
