"""YAML and JSON from outside are parsed within limits, and no message quotes them."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flargo.job.documents import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES, MAX_TEXT_BYTES, load_json, load_yaml
from flargo.job.validate import InvalidInput


def bomb(levels: int, width: int = 10) -> str:
    """Return a YAML mapping whose last entry expands to width ** levels scalars."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


TOO_LARGE = {
    "nested aliases": bomb(9),
    "merge keys": "a0: &a0 {k0: 1, k00: 2}\n"
    + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, 40)),
    "a long text, often": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1000)}]",
    "aliases as keys": "&a x: 1\nb: " + "[" + "{*a : *a}, " * MAX_NODES + "]",
    "many values": "- a\n" * (MAX_NODES + 1),
    "many bytes": "#" * (MAX_TEXT_BYTES + 1),
    "a number to the base of 60": "1" + ":1" * 100_000,
    "the same with a tag": f"!!int '1{':1' * 100_000}'",
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_an_alias_bomb_is_refused_quickly(case: str) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidInput) as caught:
        load_yaml("file.yaml", TOO_LARGE[case])
    assert caught.value.value == "too large"
    assert caught.value.field == "file.yaml"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: {c: *a}}", "&a [&b [*a, *b]]", "&a {<<: *a}"])
def test_a_document_within_itself_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="endless"):
        load_yaml("file.yaml", text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "- " * (MAX_DEPTH + 1) + "a",
        "\n".join(["- &a0 [x]", *(f"- &a{n} [*a{n - 1}]" for n in range(1, MAX_DEPTH))]),
    ],
    ids=["unclosed", "flow", "block", "by aliases"],
)
def test_deeply_nested_yaml_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="nested too deeply"):
        load_yaml("file.yaml", text)


def test_documents_within_the_limits_are_read() -> None:
    assert load_yaml("f", "[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert len(load_yaml("f", "- a\n" * (MAX_NODES - 1))) == MAX_NODES - 1
    assert load_yaml("f", "x" * (MAX_TEXT_BYTES - 1)) == "x" * (MAX_TEXT_BYTES - 1)
    assert MAX_CHARACTERS >= MAX_TEXT_BYTES
    merged = load_yaml("f", "base: &base {a: 1}\nmore: {<<: *base, b: 2}\nlist: [*base, *base]")
    assert merged == {"base": {"a": 1}, "more": {"a": 1, "b": 2}, "list": [{"a": 1}, {"a": 1}]}
    assert load_yaml("f", "") is None


@st.composite
def documents_with_aliases(draw: st.DrawFn) -> tuple[str, int]:
    """Draw a YAML list whose items have aliases of earlier items, with its number of values after expansion."""
    sizes: list[int] = []
    lines: list[str] = []
    for number in range(draw(st.integers(1, 30))):
        links = draw(st.lists(st.integers(0, number - 1), max_size=6)) if number else []
        scalars = draw(st.integers(0, 3))
        items = [*(f"*n{link}" for link in links), *(["x"] * scalars)]
        lines.append(f"- &n{number} [{', '.join(items)}]")
        sizes.append(1 + scalars + sum(sizes[link] for link in links))
    return "\n".join(lines), 1 + sum(sizes)


@given(documents_with_aliases())
def test_size_counts_expanded_aliases(document: tuple[str, int]) -> None:
    text, size = document
    if size > MAX_NODES:
        with pytest.raises(InvalidInput, match="too large"):
            load_yaml("f", text)
    else:
        assert load_yaml("f", text) == yaml.safe_load(text)


def corrupted_documents() -> st.SearchStrategy[str]:
    """Return a strategy for texts of YAML's own tokens in any order."""
    marks = ["a", "&a ", "*a", "<<: ", "{", "}", "[", "]", ": ", ", ", "\n", "- ", "!!int ", "!!bool ", "!!timestamp "]
    marks += ["2026-99-99", "'", '"', "|\n", "? ", "%", "---\n", "1:1.5", "\t", "\0", "=", "!!binary ", "!!omap "]
    return st.lists(st.sampled_from(marks), max_size=25).map("".join)


def refusal(call: Callable[[], object]) -> InvalidInput | None:
    try:
        call()
    except InvalidInput as error:
        return error
    return None


@given(st.one_of(st.text(), st.binary(), corrupted_documents()))
def test_any_text_is_parsed_or_refused(text: str | bytes) -> None:
    for load in (load_yaml, load_json):
        error = refusal(partial(load, "file", text))
        if error is not None:
            assert error.field == "file"
            assert error.value in {"unreadable", "endless", "nested too deeply", "too large"}


MARKER = "hunter2-and-more"


@pytest.mark.parametrize(
    ("load", "text", "line"),
    [
        (load_yaml, f"a: 1\nb: '{MARKER}", 2),
        (load_yaml, f"a: 1\n\n? {MARKER}: [\n", 4),
        (load_yaml, f"!!int {MARKER}", None),
        (load_yaml, f"!{MARKER} x", 1),
        (load_yaml, f"*{MARKER}", 1),
        (load_yaml, f"%{MARKER}", None),
        (load_yaml, f"{MARKER}\x07", None),
        (load_yaml, MARKER.encode() + b"\xff", None),
        (load_json, f'{{"a": 1,\n"{MARKER}": }}', 2),
        (load_json, MARKER.encode() + b"\xff", None),
        (load_json, f'"{MARKER}', 1),
    ],
)
def test_error_names_line_and_quotes_nothing(load: Any, text: str | bytes, line: int | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("file", text)
    assert MARKER not in str(caught.value)
    assert caught.value.__cause__ is None
    if line is not None:
        assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("depth", [500, 900, 100_000])
def test_deeply_nested_json_is_refused(depth: int) -> None:
    with pytest.raises(InvalidInput, match="nested too deeply"):
        load_json("file", '{"a":' * depth + "1" + "}" * depth)
    assert load_json("file", json.dumps({"a": [1, {"b": None}]})) == {"a": [1, {"b": None}]}
