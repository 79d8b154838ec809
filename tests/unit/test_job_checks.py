"""What the checks let pass, and what a refusal says."""

import math
from typing import Any

import pytest

from flargo.job import checks
from flargo.job.checks import MISSING, Check, Refused


def test_a_refusal_names_field_value_and_what_is_allowed() -> None:
    with pytest.raises(Refused) as caught:
        checks.optional(checks.seconds)("pending_timeout", -3)
    assert str(caught.value) == "`pending_timeout` is -3: allowed is a number of seconds >= 0, or None"
    assert (caught.value.field, caught.value.value) == ("pending_timeout", "-3")
    assert caught.value.allowed == "a number of seconds >= 0, or None"


def test_a_refusal_is_a_value_error_and_shows_long_values_short() -> None:
    refused = Refused("x", "a" * 5000, "less")
    assert isinstance(refused, ValueError)
    assert len(str(refused)) < 200
    assert "(5002 characters)" in str(refused)


def test_what_is_not_there_is_said_to_be_missing() -> None:
    assert str(Refused("image", MISSING, "an image")) == "`image` is missing: allowed is an image"


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        pytest.param(checks.text, ["a", "a b"], ["", "  ", None, 5], id="text"),
        pytest.param(checks.absolute_path, ["/", "/a/b"], ["", "a/b", None], id="absolute path"),
        pytest.param(checks.is_flag, [True, False], [None, 0, "true"], id="flag"),
        pytest.param(checks.seconds, [0, 0.5, 10**9], [-1, True, "5", None, math.inf, math.nan], id="seconds"),
        pytest.param(checks.at_least(1, "a number"), [1, 99], [0, 1.5, True, "1", None], id="at least"),
        pytest.param(checks.one_of("a", "b"), ["a", "b"], ["c", "", None, ["a"]], id="one of"),
        pytest.param(checks.mapping, [{}, {"a": 1}], [None, [], "a", {1: 2}], id="mapping"),
        pytest.param(checks.dns_label, ["a", "a-1", "a" * 63], ["", "A", "-a", "a-", "a.b", "a" * 64, 1], id="label"),
        pytest.param(checks.object_name, ["a", "a.b-c", "a" * 253], ["", "A", "a..b", "a" * 254, None], id="object"),
        pytest.param(checks.label_value, ["a", "A_1.b"], ["", "a ", "-a", "ä", "a" * 64, 1], id="label value"),
        pytest.param(checks.qualified_key, ["a", "a.b/C_d"], ["", "/a", "a/", "A/b", "a/b/c", 1, None], id="key"),
        pytest.param(
            checks.quantity,
            ["1", "500m", "1.5Gi", "100M", "1e3", "5.", 2, 0.5],
            ["", "1GB", "1 Gi", "-1", "Gi", None, True, [1], math.nan],
            id="quantity",
        ),
        pytest.param(checks.written_quantity, ["1", "1Gi"], [1, "", None, "x"], id="written quantity"),
        pytest.param(
            checks.resources,
            [{}, {"limits": {"cpu": "1", "nvidia.com/gpu": 1}}],
            [None, {"limit": {}}, {"limits": {"cpu": "x"}}, {"limits": {"a b": "1"}}, {"limits": []}],
            id="resources",
        ),
    ],
)
def test_check(check: Check, taken: list[Any], refused: list[Any]) -> None:
    for value in taken:
        check("field", value)
    for value in refused:
        with pytest.raises(Refused, match="field"):
            check("field", value)


def test_numbers_for_amounts_are_kept_as_text() -> None:
    assert checks.resources("r", {"limits": {"cpu": 2, "memory": "1Gi"}}) == {"limits": {"cpu": "2", "memory": "1Gi"}}


def test_a_mapping_is_copied_all_the_way_down() -> None:
    given = {"a": {"b": [1]}}
    kept = checks.mapping("field", given)
    given["a"]["b"].append(2)
    assert kept == {"a": {"b": [1]}}


def test_an_unknown_key_is_refused_with_the_list_of_the_known() -> None:
    with pytest.raises(Refused) as caught:
        checks.known_keys("argo", {"a": 1, "c": 2}, ["b", "a"])
    assert str(caught.value) == "`argo['c']` is 2: allowed is one of the keys a, b"
    with pytest.raises(Refused, match="no key at all"):
        checks.known_keys("argo", {"a": 1}, ())
