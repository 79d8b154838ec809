"""Tests of how the demo describes a job's progress and failure from objects, statuses and logs."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.demo.failure import explain_failure, first_error
from flargo.tools.demo.progress import Party, Round, Snapshot, describe_changes, parse_parties, parse_rounds

Object = dict[str, Any]


def workflow(site: str, phase: str = "Running", **spec: Any) -> Object:
    meta = {"name": f"job-{site}", "uid": f"uid-{site}", "labels": {"flargo.dev/site": site}}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def pod(site: str, state: Object, phase: str = "Running", **status: Any) -> Object:
    owner = {"kind": "Workflow", "name": f"job-{site}", "uid": f"uid-{site}"}
    labels = {"app.kubernetes.io/managed-by": "flargo"}
    return {
        "metadata": {"name": f"job-{site}-pod", "uid": f"pod-{site}", "labels": labels, "ownerReferences": [owner]},
        "spec": {"nodeName": "node"},
        "status": {"phase": phase, "containerStatuses": [{"name": "main", "state": state}], **status},
    }


def terminated(code: int, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason}}


def test_workflows_and_pods_match_parties_by_site() -> None:
    pods = [pod("server", {"running": {}}), pod("site-1", {"waiting": {"reason": "PodInitializing"}}, "Pending")]
    server, one, two = parse_parties(("server", "site-1", "site-2"), [workflow("server"), workflow("site-1")], pods)
    assert (server.state_text, server.workflow) == ("running", "job-server")
    assert one.state_text == "starting"
    assert (two.state_text, two.workflow) == ("waits for FLARE", "")


@pytest.mark.parametrize("is_first_listed", [True, False])
def test_a_sites_latest_attempt_is_shown(*, is_first_listed: bool) -> None:
    first, second = workflow("a", "Failed"), workflow("a")
    for item, number in ((first, "1"), (second, "2")):
        item["metadata"] |= {"name": f"w{number}", "uid": f"uid-{number}"}
        item["metadata"]["labels"]["flargo.dev/attempt-number"] = number
    workflows = [first, second] if is_first_listed else [second, first]
    (party,) = parse_parties(("a",), workflows, [])
    assert (party.workflow, party.state_text) == ("w2", "pending")
    before = Snapshot((Party("a", "w1", party.stage),))
    assert list(describe_changes(before, Snapshot((party,)))) == ["a  pending, Workflow w2"]


def test_site_names_need_not_be_labels() -> None:
    from flargo.job.names import label_value

    name = "klinikum münchen"
    (party,) = parse_parties((name,), [workflow(label_value(name))], [])
    assert party.workflow == f"job-{label_value(name)}"


def test_workflow_without_pod_is_submitted_or_pending() -> None:
    suspended, podless = parse_parties(("a", "b"), [workflow("a", "", suspend=True), workflow("b")], [])
    assert (suspended.state_text, podless.state_text) == ("submitted", "pending")


def test_end_is_shown_with_its_reason() -> None:
    pods = [pod("a", terminated(0, "Completed")), pod("b", terminated(137, "OOMKilled"))]
    good, bad = parse_parties(("a", "b"), [workflow("a"), workflow("b")], pods)
    assert good.state_text == "ended (exit code 0)"
    assert bad.reason is Reason.OUT_OF_MEMORY
    assert bad.state_text.startswith("The job used more than its memory limit (exit code 137")


def test_rounds_count_from_one_with_results() -> None:
    log = "x Round 0 started. \nAggregated 1/2 results\nAggregated 2/2 results\n--- Round 1 started.\n"
    assert parse_rounds(log) == (Round(1, 2, 2), Round(2))
    assert [each.describe(2) for each in parse_rounds(log)] == [
        "round 1 of 2: 2 of 2 results averaged",
        "round 2 of 2: sites train",
    ]
    assert parse_rounds("Aggregated 2/2 results") == ()
    assert Round(3).describe(0) == "round 3: sites train"


@pytest.mark.parametrize("number", ["1" * 5000, "²", "٣", "9" * 12])
def test_impossible_numbers_are_ignored(number: str) -> None:
    log = f"Round 0 started\nRound {number} started\nAggregated {number}/2 results\nAggregated 1/{number} results\n"
    assert parse_rounds(log) == (Round(1),)


def test_only_changes_are_described() -> None:
    before = Snapshot((Party("server"), Party("site-1")), "SUBMITTED")
    now = Snapshot((Party("server", "w", Stage.RUNNING), Party("site-1")), "RUNNING", (Round(1),))
    assert list(describe_changes(before, now, 2)) == [
        "server  running, Workflow w",
        "round 1 of 2: sites train",
        "FLARE says RUNNING",
    ]
    assert list(describe_changes(now, now, 2)) == []


def test_job_has_ended_when_no_party_runs() -> None:
    running, done = Party("a", "w", Stage.RUNNING), Party("b", "w", Stage.ENDED)
    assert not Snapshot((running, done)).has_ended
    assert Snapshot((done,)).has_ended
    assert Snapshot((), "FINISHED:ABORTED").is_finished
    assert not Snapshot((), "RUNNING").is_finished


REPORT = "2026-01-01 00:00:00,000 - outcome - WARNING - job J at {}: {} ({}): {}\n"


def test_cluster_failures_come_before_program_errors() -> None:
    parents = {
        "server": REPORT.format("server", "PROGRAM_FAILED", 1, "The program failed. Read the job's log."),
        "site-1": REPORT.format("site-1", "OUT_OF_MEMORY", 104, "The job used more than its memory limit."),
    }
    jobs = {"server": "RuntimeError: a site is gone"}
    assert explain_failure("FINISHED:ABNORMAL", parents, jobs) == "site-1: The job used more than its memory limit."


def test_sites_errors_come_before_the_servers() -> None:
    """The first error in the log of the site whose program failed is the explanation."""
    parents = {"site-2": REPORT.format("site-2", "PROGRAM_FAILED", 1, "The program failed.")}
    jobs = {"server": "RuntimeError: later", "site-1": "KeyError: 'x'", "site-2": "ValueError: no data\nKeyError: 'y'"}
    assert explain_failure("FINISHED:EXECUTION_EXCEPTION", parents, jobs) == "site-2: ValueError: no data"


def test_aborts_do_not_explain_a_failure() -> None:
    parents = {"site-1": REPORT.format("site-1", "ABORTED", 9, "FLARE aborted the job.")}
    assert explain_failure("FINISHED:EXECUTION_EXCEPTION", parents, {"server": "a.b.CustomError: bad model"}) == (
        "server: a.b.CustomError: bad model"
    )


def test_without_a_reason_flares_status_is_shown() -> None:
    assert explain_failure("FINISHED:ABORTED", {}, {}) == "FLARE reports FINISHED:ABORTED, and no log gives a reason."
    assert first_error("all is well, no Error: here is none") == ""


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
def test_every_stage_has_a_text(stage: Stage) -> None:
    assert Party("site-1", stage=stage).state_text


RAISED = re.compile(r"\b(\w+\.)*[A-Z]\w*(Error|Exception)\b: \S.*")
PARTS = st.sampled_from(["a", "B", ".", "..", "Error", "Exception", ": ", ":", " ", "\n", "_", "x.y.ZError: w", "é"])


@given(st.lists(PARTS, max_size=12).map("".join))
def test_first_error_matches_a_regular_expression(log: str) -> None:
    """The parser finds what a plain but quadratic regular expression finds."""
    match = RAISED.search(log)
    assert first_error(log) == (match[0].strip() if match else "")


@pytest.mark.parametrize("part", ["a.", "Error: x", "a.Error: x", "AErrorError.", "xError: y "])
def test_first_error_is_linear_in_the_log(part: str) -> None:
    """A search from each word to the end of the log would take hours for a megabyte of this."""
    assert first_error(part * (1_000_000 // len(part))) == ""
