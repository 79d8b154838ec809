"""The values that each check accepts, and the messages of InvalidInput."""

import math
from typing import Any

import pytest

from flargo.job import validate
from flargo.job.trust import JOB_META
from flargo.job.validate import HIDDEN, MISSING, Check, InvalidInput, Sentence, Verbatim


def test_an_error_names_field_value_and_expectation() -> None:
    with pytest.raises(InvalidInput) as caught:
        validate.optional(validate.seconds)("pending_timeout", -3)
    assert str(caught.value) == "`pending_timeout` is -3; expected a number of seconds >= 0 and <= 1000000000, or null"
    assert (caught.value.field, caught.value.value) == ("pending_timeout", "-3")
    assert caught.value.allowed == "a number of seconds >= 0 and <= 1000000000, or null"


def test_an_error_shortens_long_values() -> None:
    error = InvalidInput("x", "a" * 5000, "less")
    assert isinstance(error, ValueError)
    assert len(str(error)) < 200
    assert "(5000 characters)" in str(error)


def test_an_absent_field_is_missing() -> None:
    assert str(InvalidInput("image", MISSING, "an image")) == "`image` is missing; expected an image"


def test_a_sentence_replaces_value_and_expectation() -> None:
    error = InvalidInput("--max-jobs", 3, Sentence("applies only to a server's kit"))
    assert str(error) == "`--max-jobs` applies only to a server's kit"
    assert (error.field, error.value, error.allowed) == ("--max-jobs", "3", "applies only to a server's kit")
    assert error.problem == "applies only to a server's kit"


def test_sentence_is_one_line_of_limited_length() -> None:
    message = str(InvalidInput("a\n" * 9999, 3, Sentence("quotes \x1b[2J\n" * 9999)))
    assert len(message) < 1300
    assert message.isprintable()


def test_a_wrapped_error_keeps_its_value_hidden() -> None:
    error = InvalidInput("image", HIDDEN, "an image")
    wrapped = InvalidInput(f"file: {error.field}", Verbatim(error.value), error.allowed)
    assert str(wrapped) == "`file: image` is not allowed (value not shown); expected an image"
    assert (error.value, wrapped.value) == ("not shown here", "not shown here")
    assert str(InvalidInput("image", "not shown here", "an image")) == "`image` is 'not shown here'; expected an image"


@pytest.mark.parametrize(
    ("check", "accepted", "rejected"),
    [
        pytest.param(validate.text, ["a", "a b"], ["", "  ", None, 5], id="text"),
        pytest.param(validate.absolute_path, ["/", "/a/b"], ["", "a/b", None, "/{{b}}", "/$(A)", "/\n"], id="path"),
        pytest.param(validate.boolean, [True, False], [None, 0, "true"], id="flag"),
        pytest.param(
            validate.seconds,
            [0, 0.5, 10**9],
            [-1, True, "5", None, math.inf, math.nan, 1e300, 10**400],
            id="seconds",
        ),
        pytest.param(
            validate.line, ["a", "ä b"], ["", " ", "a\nb", "a\x00", "\u202ea", "\ud800", "a" * 5000, 5], id="line"
        ),
        pytest.param(
            validate.plain_path,
            ["python", "/opt/py 3/bin/python"],
            ["", "{{x}}", "$(NVFLARE_JOB_AUTH_TOKEN)", "a\nb", None, ["/bin/sh"]],
            id="program",
        ),
        pytest.param(
            validate.image,
            [
                "python",
                "nvflare/job:2.9",
                "localhost:5000/a/b__c-d.e:T_1.x",
                f"[::1]:5000/a@sha256:{'0' * 64}",
                f"a.example/b:c@sha256:{'a' * 64}",
            ],
            [
                "",
                " a",
                "a ",
                "a b",
                "A",
                "a/../b",
                "a:{{x}}",
                "a@sha256:0",
                "http://a/b",
                "a\n",
                "-a",
                "a" * 600,
                None,
                5,
            ],
            id="image",
        ),
        pytest.param(
            validate.count,
            [0, 8, "4", 2**31 - 1],
            [-1, 2**31, "-1", "\u0664", 1.5, True, None, "9" * 5000, 10**5000],
            id="count",
        ),
        pytest.param(validate.at_least(1, "a number"), [1, 99], [0, 1.5, True, "1", None], id="at least"),
        pytest.param(validate.one_of("a", "b"), ["a", "b"], ["c", "", None, ["a"]], id="one of"),
        pytest.param(validate.mapping, [{}, {"a": 1}], [None, [], "a", {1: 2}], id="mapping"),
        pytest.param(validate.dns_label, ["a", "a-1", "a" * 63], ["", "A", "-a", "a-", "a.b", "a" * 64, 1], id="label"),
        pytest.param(validate.object_name, ["a", "a.b-c", "a" * 253], ["", "A", "a..b", "a" * 254, None], id="object"),
        pytest.param(validate.label_value, ["a", "A_1.b"], ["", "a ", "-a", "ä", "a" * 64, 1], id="label value"),
        pytest.param(validate.qualified_key, ["a", "a.b/C_d"], ["", "/a", "a/", "A/b", "a/b/c", 1, None], id="key"),
        pytest.param(
            validate.quantity,
            ["1", "500m", "1.5Gi", "100M", "1e3", "5.", ".5", "+1", "7Ei", 2, 0.5, 2**63 - 1],
            ["", "1GB", "1 Gi", "-1", "Gi", "8Ei", "1e99", "1e999", "9" * 5000, "\u0661", "1\n", None, True, [1]],
            id="quantity",
        ),
        pytest.param(
            validate.quantity,
            [0],
            [math.nan, math.inf, -1, -0.5, 2**63, 10**5000],
            id="quantity as a number",
        ),
        pytest.param(validate.written_quantity, ["1", "1Gi"], [1, "", None, "x"], id="written quantity"),
        pytest.param(
            validate.resources,
            [{}, {"limits": {"cpu": "1", "nvidia.com/gpu": 1}}],
            [None, {"limit": {}}, {"limits": {"cpu": "x"}}, {"limits": {"a b": "1"}}, {"limits": []}],
            id="resources",
        ),
    ],
)
def test_a_check_accepts_and_refuses(check: Check, accepted: list[Any], rejected: list[Any]) -> None:
    for value in accepted:
        check("field", value)
    for value in rejected:
        with pytest.raises(InvalidInput, match="field"):
            check("field", value)


@pytest.mark.parametrize(
    ("less", "more"),
    [("999m", "1"), ("1", "1001m"), ("1023", "1Ki"), ("1k", "1Ki"), ("1.5Gi", "1537Mi"), ("1e3", "1.1k"), ("1n", "1u")],
)
def test_amounts_compare_across_units(less: str, more: str) -> None:
    assert validate.amount(less) < validate.amount(more)


@pytest.mark.parametrize(
    ("one", "other"), [("1Ki", 1024), ("1e3", "1k"), ("1E3", 1000), ("0.5", "500m"), ("1E", "1e18")]
)
def test_equal_amounts_in_different_notations(one: str, other: str | int) -> None:
    assert validate.amount(one) == validate.amount(other)


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    "value",
    [nested(5000), 10**5000, {"a" * 999: "b" * 9999}, list(range(9999)), "\ud800\n" * 99],
    ids=["deep", "many digits", "long", "many", "control characters"],
)
def test_any_value_becomes_one_short_line(value: object) -> None:
    message = str(InvalidInput("x", value, "less"))
    assert len(message) < 600
    assert message.isprintable()


def test_quantities_become_strings() -> None:
    assert validate.resources("r", {"limits": {"cpu": 2, "memory": "1Gi"}}) == {"limits": {"cpu": "2", "memory": "1Gi"}}


def test_a_hostile_key_gives_one_short_line() -> None:
    with pytest.raises(InvalidInput) as caught:
        validate.refuse_unknown_keys("argo", {"a\n" * 9999: 1}, ["b" * 9999])
    assert len(str(caught.value)) < 1300
    assert str(caught.value).isprintable()


def test_a_mapping_is_copied_deeply() -> None:
    original = {"a": {"b": [1]}}
    copy = validate.mapping("field", original)
    original["a"]["b"].append(2)
    assert copy == {"a": {"b": [1]}}


def test_an_unknown_key_lists_the_known_keys() -> None:
    with pytest.raises(InvalidInput) as caught:
        validate.refuse_unknown_keys("argo", {"a": 1, "c": 2}, ["b", "a"])
    assert str(caught.value) == "`argo['c']` is 2; expected one of the keys a, b"
    with pytest.raises(InvalidInput, match="no key at all"):
        validate.refuse_unknown_keys("argo", {"a": 1}, ())


@pytest.mark.parametrize(
    "check",
    [
        validate.line,
        validate.plain_path,
        validate.host,
        validate.image,
        validate.dns_label,
        validate.object_name,
        validate.count,
        validate.qualified_key,
        validate.quantity,
        validate.label_value,
        validate.config_key,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("part", ["a", "a.-", "1"])
def test_huge_texts_give_short_errors(check: Check, part: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check("x" * 10_000_000, part * 10_000_000)
    assert len(str(caught.value)) < 3000
    assert len(caught.value.field) < 1000


def test_a_job_name_is_truncated() -> None:
    assert len(JOB_META["name"].validate("name", "x" * 10_000_000)) == 4096
