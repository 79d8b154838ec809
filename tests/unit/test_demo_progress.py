"""What the demo tells of a job, from the objects, statuses and logs that it is told of."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.demo.failure import first_error, why
from flargo.tools.demo.progress import Party, Round, Seen, news, parties, rounds

Object = dict[str, Any]


def workflow(site: str, phase: str = "Running", **spec: Any) -> Object:
    meta = {"name": f"job-{site}", "uid": f"uid-{site}", "labels": {"flargo.dev/site": site}}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def pod(site: str, state: Object, phase: str = "Running", **status: Any) -> Object:
    owner = {"kind": "Workflow", "name": f"job-{site}", "uid": f"uid-{site}"}
    return {
        "metadata": {"name": f"job-{site}-pod", "uid": f"pod-{site}", "ownerReferences": [owner]},
        "spec": {"nodeName": "node"},
        "status": {"phase": phase, "containerStatuses": [{"name": "main", "state": state}], **status},
    }


def ended(code: int, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason}}


def test_each_party_is_told_apart_by_its_site() -> None:
    pods = [pod("server", {"running": {}}), pod("site-1", {"waiting": {"reason": "PodInitializing"}}, "Pending")]
    server, one, two = parties(("server", "site-1", "site-2"), [workflow("server"), workflow("site-1")], pods)
    assert (server.words, server.workflow) == ("running", "job-server")
    assert one.words == "starting"
    assert (two.words, two.workflow) == ("waits for FLARE", "")


def test_a_site_whose_name_is_no_label_is_found_all_the_same() -> None:
    from flargo.job.names import label_value

    name = "klinikum münchen"
    (party,) = parties((name,), [workflow(label_value(name))], [])
    assert party.workflow == f"job-{label_value(name)}"


def test_a_suspended_workflow_is_submitted_and_one_without_a_pod_pending() -> None:
    held, waiting = parties(("a", "b"), [workflow("a", "", suspend=True), workflow("b")], [])
    assert (held.words, waiting.words) == ("submitted", "pending")


def test_an_end_is_told_with_its_reason() -> None:
    pods = [pod("a", ended(0, "Completed")), pod("b", ended(137, "OOMKilled"))]
    good, bad = parties(("a", "b"), [workflow("a"), workflow("b")], pods)
    assert good.words == "ended (exit code 0)"
    assert bad.reason is Reason.OUT_OF_MEMORY
    assert bad.words.startswith("The job used more than its memory limit (exit code 137")


def test_rounds_are_counted_from_one_with_what_has_arrived() -> None:
    log = "x Round 0 started. \nAggregated 1/2 results\nAggregated 2/2 results\n--- Round 1 started.\n"
    assert rounds(log) == (Round(1, 2, 2), Round(2))
    assert [each.words(2) for each in rounds(log)] == [
        "round 1 of 2: 2 of 2 results averaged",
        "round 2 of 2: sites train",
    ]
    assert rounds("Aggregated 2/2 results") == ()
    assert Round(3).words(0) == "round 3: sites train"


@pytest.mark.parametrize("number", ["1" * 5000, "²", "٣", "9" * 12])
def test_a_number_that_no_round_has_is_passed_over(number: str) -> None:
    log = f"Round 0 started\nRound {number} started\nAggregated {number}/2 results\nAggregated 1/{number} results\n"
    assert rounds(log) == (Round(1),)


def test_only_news_is_told() -> None:
    before = Seen((Party("server"), Party("site-1")), "SUBMITTED")
    now = Seen((Party("server", "w", Stage.RUNNING), Party("site-1")), "RUNNING", (Round(1),))
    assert list(news(before, now, 2)) == [
        "server  running, Workflow w",
        "round 1 of 2: sites train",
        "FLARE says RUNNING",
    ]
    assert list(news(now, now, 2)) == []


def test_a_job_is_over_when_no_party_of_it_runs() -> None:
    running, done = Party("a", "w", Stage.RUNNING), Party("b", "w", Stage.ENDED)
    assert not Seen((running, done)).over
    assert Seen((done,)).over
    assert Seen((), "FINISHED:ABORTED").finished
    assert not Seen((), "RUNNING").finished


TOLD = "2026-01-01 00:00:00,000 - outcome - WARNING - job J at {}: {} ({}): {}\n"


def test_what_the_cluster_did_comes_before_what_programs_say() -> None:
    parents = {
        "server": TOLD.format("server", "PROGRAM_FAILED", 1, "The program failed. Read the job's log."),
        "site-1": TOLD.format("site-1", "OUT_OF_MEMORY", 104, "The job used more than its memory limit."),
    }
    jobs = {"server": "RuntimeError: a site is gone"}
    assert why("FINISHED:ABNORMAL", parents, jobs) == "site-1: The job used more than its memory limit."


def test_a_failed_program_is_told_with_its_own_first_error_and_sites_come_first() -> None:
    parents = {"site-2": TOLD.format("site-2", "PROGRAM_FAILED", 1, "The program failed.")}
    jobs = {"server": "RuntimeError: later", "site-1": "KeyError: 'x'", "site-2": "ValueError: no data\nKeyError: 'y'"}
    assert why("FINISHED:EXECUTION_EXCEPTION", parents, jobs) == "site-2: ValueError: no data"


def test_an_abort_that_follows_from_another_failure_is_no_reason() -> None:
    parents = {"site-1": TOLD.format("site-1", "ABORTED", 9, "FLARE aborted the job.")}
    assert why("FINISHED:EXECUTION_EXCEPTION", parents, {"server": "a.b.CustomError: bad model"}) == (
        "server: a.b.CustomError: bad model"
    )


def test_without_any_word_flares_status_is_told() -> None:
    assert why("FINISHED:ABORTED", {}, {}) == "FLARE says FINISHED:ABORTED, and the logs hold no reason."
    assert first_error("all is well, no Error: here is none") == ""


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
def test_every_stage_has_words_for_people(stage: Stage) -> None:
    assert Party("site-1", stage=stage).words


RAISED = re.compile(r"\b(\w+\.)*[A-Z]\w*(Error|Exception)\b: \S.*")
WORDS = st.sampled_from(["a", "B", ".", "..", "Error", "Exception", ": ", ":", " ", "\n", "_", "x.y.ZError: w", "é"])


@given(st.lists(WORDS, max_size=12).map("".join))
def test_the_first_error_is_the_first_name_of_one_with_a_message(log: str) -> None:
    found = RAISED.search(log)
    assert first_error(log) == (found[0].strip() if found else "")


@pytest.mark.parametrize("part", ["a.", "Error: x", "a.Error: x", "AErrorError.", "xError: y "])
def test_a_long_log_that_almost_tells_of_an_error_is_little_work(part: str) -> None:
    """With a search from each word to the end, a megabyte of it takes hours."""
    assert first_error(part * (1_000_000 // len(part))) == ""
