"""Label values for any text, distinct for distinct texts, and display texts that are harmless to show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.job import names
from flargo.job.validate import is_label_value
from flargo.parsing import is_dns_label
from flargo.terms import Parent, Role


@pytest.mark.parametrize("valid", ["site-1", "Hospital.A_1", "007", "a" * 63, "3f1b2c4d-0000-4000-8000-123456789abc"])
def test_a_valid_label_value_is_unchanged(valid: str) -> None:
    assert names.label_value(valid) == valid


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("Charité Berlin", "Charite-Berlin--"),
        ("a/b", "a-b--"),
        ("-a-", "a--"),
        ("病院", "x--"),
        ("", "x--"),
        ("a" * 64, "a" * 41 + "--"),
    ],
)
def test_other_texts_become_readable_with_a_hash(text: str, prefix: str) -> None:
    label = names.label_value(text)
    assert label.startswith(prefix)
    assert len(label) == len(prefix) + 20


def test_a_hashed_label_cannot_be_taken() -> None:
    victim = names.label_value("Charité Berlin")
    assert is_label_value(victim)
    assert names.label_value(victim) != victim


@given(st.text())
def test_every_text_has_a_valid_label_value(text: str) -> None:
    assert is_label_value(names.label_value(text))


@given(st.text(alphabet="ab-_.é /", max_size=12), st.text(alphabet="ab-_.é /", max_size=12))
def test_two_texts_never_share_a_label_value(one: str, other: str) -> None:
    assert (names.label_value(one) == names.label_value(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\tand\x00 more", "two lines and more"),
        ("right\u202eleft", "right left"),
        ("{{workflow.name}}", "{ {workflow.name}}"),
        ("{{{x", "{ { {x"),
        ("", ""),
    ],
)
def test_foreign_text_becomes_one_harmless_line(text: str, line: str) -> None:
    assert names.display_text(text) == line


def test_a_long_text_is_truncated() -> None:
    assert names.display_text("a" * 500) == "a" * 119 + "…"


@pytest.mark.parametrize("character", ["x", " ", "{", "\u202e"], ids=["x", "space", "brace", "bidi"])
def test_a_huge_text_is_truncated_first(character: str) -> None:
    """A job's name may be 50 MB long. Reading the whole text would take half a minute in each of these cases."""
    text = character * 50_000_000
    assert len(names.display_text(text)) <= 120
    assert len(names.markdown_code(text)) <= 122


def test_a_truncated_text_ends_in_an_ellipsis() -> None:
    assert names.display_text("a" + " " * 5000 + "b") == "a…"
    assert names.display_text("a" + " " * 500 + "b") == "a b"


def test_normalizing_a_label_is_fast() -> None:
    """Unicode normalization sorts a run of combining marks one by one, which takes hours for a whole long text."""
    text = "\u0301\u0316" * 1_000_000
    assert is_label_value(names.label_value(text))
    assert names.label_value(text) != names.label_value(text + "\u0301")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[click](http://evil.example)", "`[click](http://evil.example)`"),
        ("`out` of it", "`'out' of it`"),
        ("", "`-`"),
    ],
)
def test_markdown_stays_in_a_code_span(text: str, code: str) -> None:
    assert names.markdown_code(text) == code


@given(st.text())
def test_no_text_closes_the_code_span(text: str) -> None:
    span = names.markdown_code(text)
    assert span.count("`") == 2
    assert span[0] == span[-1] == "`"
    assert "{{" not in span
    assert "\n" not in span


def test_site_labels_ignore_the_parents_run() -> None:
    parents = [Parent("site-1", "0123456789ab", epoch, Role.CLIENT) for epoch in ("one", "two")]
    assert names.site_labels(parents[0]) == names.site_labels(parents[1])


@pytest.mark.parametrize(
    ("site", "readable"),
    [("site-1", "site-1"), ("Charité Berlin", "charite-berlin"), ("病院", "x"), ("-", "x"), ("x" * 300, "x" * 28)],
)
def test_a_sites_lease_has_a_readable_name(site: str, readable: str) -> None:
    name = names.site_lease(Parent(site, "ab" * 16, "", Role.CLIENT))
    head, _, digest = name.rpartition("-")
    assert (head, len(digest)) == (f"flargo-parent-{readable}", 20)
    assert is_dns_label(name)


@given(st.text(alphabet="aA-_.é 1", max_size=9), st.text(alphabet="aA-_.é 1", max_size=9), st.sampled_from("ab"))
def test_two_sites_never_share_a_lease(one: str, other: str, federation: str) -> None:
    parents = Parent(one, "a", "1", Role.CLIENT), Parent(other, federation, "2", Role.CLIENT)
    first, second = map(names.site_lease, parents)
    assert (first == second) == ((one, "a") == (other, federation))
    assert is_dns_label(first)


@pytest.mark.parametrize("text", ["\u00e9" * 32, "a" * 11 + "-" + "b" * 20, "A" * 32, "0123456789ab", "", "x" * 300])
def test_other_texts_select_only_themselves(text: str) -> None:
    assert names.federation_selector(text) == f"flargo.dev/federation={names.label_value(text)}"


def test_a_federation_id_selects_its_old_form() -> None:
    federation = "0123456789abcdef" * 2
    assert names.federation_selector(federation) == f"flargo.dev/federation in ({federation},0123456789ab)"
