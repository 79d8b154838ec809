"""The launch of a further attempt: the same program, in objects of its own."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvflare.fuel.f3.cellnet import net_agent

from flargo.job import names
from flargo.job.next_attempt import next_attempt
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.job.trust import JOB_SPEC
from flargo.job.validate import InvalidInput
from flargo.terms import Launch, Role
from tests.harness.differential.cases import IMAGE, Case
from tests.harness.launches import argo_pod, launch

REJOIN = Case("rejoin", spec={"image": IMAGE, "argo": {"rejoin": 2}}, argo={"policy": {"rejoin": 5}})
DNS_LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


def attempts() -> tuple[Launch, Launch]:
    first = launch(REJOIN)
    return first, next_attempt(first, 2, "b2")


def test_all_names_of_an_attempt_are_its_own() -> None:
    plans = [build_plan(each, check_settings()) for each in attempts()]
    assert plans[1].name == f"{plans[0].name}-r1"
    assert plans[1].credentials.name == f"nvflare-cred-{plans[1].name}-b2"
    assert plans[1].startup == plans[0].startup
    assert plans[0].credentials.name not in str(plans[1].workflow)


def test_an_attempt_differs_only_in_its_names() -> None:
    first, second = attempts()
    before, after = (build_plan(each, check_settings()) for each in (first, second))
    text = str(argo_pod(after)).replace(second.credentials.name, first.credentials.name)
    text = text.replace(after.name, before.name).replace("attempt-number': '2'", "attempt-number': '1'")
    assert text == str(argo_pod(before))
    assert after.credentials.data == before.credentials.data, "the same token fetches the workspace"


def test_people_see_which_attempt_it_is() -> None:
    first, second = attempts()
    metadata = [build_plan(each, check_settings()).workflow["metadata"] for each in (first, second)]
    titles = [each["annotations"]["workflows.argoproj.io/title"] for each in metadata]
    assert [title.rpartition(" ")[2] for title in titles] == ["1/3`", "2/3`"]
    assert [each["labels"]["flargo.dev/attempt-number"] for each in metadata] == ["1", "2"]
    assert [each["annotations"]["flargo.dev/max-attempts"] for each in metadata] == ["3", "3"]


def test_a_servers_job_has_one_attempt() -> None:
    """Its process holds the state of the whole federated job."""
    assert launch(REJOIN, Role.SERVER).max_attempts == 1


@pytest.mark.parametrize(("wanted", "allowed", "expected"), [(0, 5, 1), (2, 0, 1), (2, 5, 3), (5, 2, 3)])
def test_the_site_limits_the_attempts(wanted: int, allowed: int, expected: int) -> None:
    case = Case("x", spec={"image": IMAGE, "argo": {"rejoin": wanted}}, argo={"policy": {"rejoin": allowed}})
    assert launch(case).max_attempts == expected


REFUSED = "flargo.dev/refused-attempts"


def refusal(wanted: int, allowed: int, number: int = 1) -> str | None:
    """Return what the Workflow of an attempt says about attempts that the job does not get."""
    case = Case("x", spec={"image": IMAGE, "argo": {"rejoin": wanted}}, argo={"policy": {"rejoin": allowed}})
    first = launch(case)
    attempt = first if number == 1 else next_attempt(first, number, "b2")
    text: str | None = build_plan(attempt, check_settings()).workflow["metadata"]["annotations"].get(REFUSED)
    return text


@pytest.mark.parametrize("number", [1, 2])
def test_people_see_why_a_job_has_fewer_attempts_than_it_asks_for(number: int) -> None:
    """Only the parent's log said it, which `flargo why` does not read."""
    text = "the job asks for 5 further attempts (argo.rejoin), and this site grants {} (argo.policy.rejoin)"
    assert refusal(5, 2, number) == text.format(2)
    assert refusal(5, 0) == text.format(0)
    assert refusal(2, 2, number) is None


def test_no_attempt_is_granted_if_the_server_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvflare that has moved what the probe uses never answers it, and each attempt would be given up for that."""
    monkeypatch.setattr(net_agent, "_TOPIC_ECHO", "ping")
    assert (launch(REJOIN).max_attempts, launch(REJOIN, Role.SERVER).refused_attempts) == (1, "")
    text = refusal(2, 5)
    assert text is not None
    assert text.startswith(
        "this site grants none of the further attempts (argo.rejoin) that the job asks for: its nvflare"
    )
    assert text.endswith("nvflare.fuel.f3.cellnet.net_agent._TOPIC_ECHO has 'ping', not 'echo'")
    assert refusal(0, 5) is None, "it asks for no attempts"


@pytest.mark.parametrize("value", [-1, 100, "2", 1.0, True, None])
def test_a_wrong_number_of_attempts_is_named(value: object) -> None:
    with pytest.raises(InvalidInput, match=re.escape("`argo['rejoin']`")):
        JOB_SPEC["argo"].validate("argo", {"rejoin": value})
    with pytest.raises(InvalidInput, match=re.escape("`argo['policy']['rejoin']`")):
        check_settings(argo={"policy": {"rejoin": value}})


@given(st.tuples(DNS_LABELS, st.integers(1, 100)), st.tuples(DNS_LABELS, st.integers(1, 100)))
def test_attempts_have_valid_names_of_their_own(one: tuple[str, int], other: tuple[str, int]) -> None:
    name = names.attempt_name(*one)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
    if one[0] == other[0] and one[1] != other[1]:
        assert name != names.attempt_name(*other)


def test_long_names_do_not_meet_when_they_are_cut() -> None:
    long = "a" * 62
    assert names.attempt_name(f"{long}b", 2) != names.attempt_name(f"{long}c", 2)
    assert len(names.attempt_name(f"{long}b", 100)) <= 63
