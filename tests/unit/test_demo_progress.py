"""Tests of how the demo describes a job's progress and failure from objects, statuses and logs."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.demo.failure import explain_failure
from flargo.tools.demo.federation import parent_error
from flargo.tools.demo.progress import Party, Round, Snapshot, describe_changes, parse_parties, parse_rounds
from flargo.tools.demo.screen import Progress, Screen

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


def record(time: str, level: str, message: str) -> str:
    return f"2026-01-01 00:00:{time},000 - Logger - {level} - [identity=x, run=1] - {message}\n"


def raised(time: str, exception: str) -> str:
    return record(time, "ERROR", f'Traceback (most recent call last):\n  File "train.py", line 7\n{exception}')


ABORT = "RuntimeError: request to abort the job for reason 'train' is aborted, abort_signal_triggered"


def test_cluster_failures_come_before_program_errors() -> None:
    parents = {
        "server": REPORT.format("server", "PROGRAM_FAILED", 1, "The program failed. Read the job's log."),
        "site-1": REPORT.format("site-1", "OUT_OF_MEMORY", 104, "The job used more than its memory limit."),
    }
    failure = explain_failure("FINISHED:ABNORMAL", parents, {"server": raised("01", "RuntimeError: a site is gone")})
    assert (failure.sentence, failure.lines) == ("site-1: The job used more than its memory limit.", ())


def test_first_failure_of_the_cluster_counts() -> None:
    late = REPORT.replace(":00,000", ":09,000").format("site-1", "DISRUPTED", 104, "late")
    parents = {"site-1": late, "site-2": REPORT.format("site-2", "DISRUPTED", 104, "early")}
    assert explain_failure("FINISHED:ABNORMAL", parents, {}).sentence == "site-2: early"


def test_earliest_exception_explains_a_failure() -> None:
    """A site that is aborted because of another one has exceptions, too, and so may the server."""
    jobs = {
        "server": record("01", "INFO", "no model yet: FileNotFoundError: [Errno 2] No such file")
        + raised("09", "KeyError: 'a site is gone'"),
        "site-1": record("02", "ERROR", "tolerated") + raised("07", ABORT) + raised("08", "AttributeError: None"),
        "site-2": raised("05", "ValueError: no data"),
    }
    failure = explain_failure("FINISHED:EXECUTION_EXCEPTION", {}, jobs)
    assert failure.sentence == "site-2: ValueError: no data"
    assert failure.lines == (
        "Traceback (most recent call last):",
        '  File "train.py", line 7',
        "ValueError: no data",
    )


def test_without_an_exception_the_earliest_error_counts() -> None:
    jobs = {
        "site-1": record("06", "ERROR", "ask to abort job: reason: x"),
        "site-2": record("04", "WARNING", "RuntimeError: it is nothing") + record("05", "ERROR", "no GPU"),
        "server": record("06", "ERROR", "Result from site-2 is bad"),
    }
    failure = explain_failure("FINISHED:EXECUTION_EXCEPTION", {}, jobs)
    assert (failure.sentence, failure.lines) == ("site-2: no GPU", ())


def test_program_that_logs_nothing_has_its_report() -> None:
    parents = {
        "server": record("01", "ERROR", "connection lost"),
        "site-2": REPORT.format("site-2", "PROGRAM_FAILED", 1, "The program failed."),
        "site-1": REPORT.format("site-1", "ABORTED", 9, "FLARE aborted the job."),
    }
    assert explain_failure("FINISHED:ABORTED", parents, {"site-2": "x"}).sentence == "site-2: The program failed."
    del parents["site-2"]
    assert explain_failure("FINISHED:ABORTED", parents, {}).sentence == "server: connection lost"


def test_without_a_reason_flares_status_is_shown() -> None:
    sentence = "FLARE reports FINISHED:ABORTED, and no log gives a reason."
    assert explain_failure("FINISHED:ABORTED", {}, {}).sentence == sentence
    jobs = {"site-1": record("01", "INFO", "RuntimeError: it is nothing") + raised("02", ABORT)}
    assert explain_failure("FINISHED:ABORTED", {}, jobs).sentence == sentence


def test_parent_that_ended_is_explained_by_its_last_error(tmp_path: Path) -> None:
    log = tmp_path / "site-1.log"
    assert str(parent_error("site-1 ended", log)) == "site-1 ended: its log is empty"
    log.write_text(record("01", "INFO", "no Error: it starts"))
    assert str(parent_error("site-1 ended", log)) == "site-1 ended: its log has no error"
    log.write_text(record("01", "INFO", "it starts") + "python: can't load libc.so\n\n")
    assert str(parent_error("site-1 ended", log)) == "site-1 ended: python: can't load libc.so"
    log.write_text(raised("02", "OSError: no port") + record("03", "INFO", "RuntimeError: it is nothing"))
    error = parent_error("site-1 ended", log)
    assert (str(error), error.lines[-1]) == ("site-1 ended: OSError: no port", "OSError: no port")


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED:EXECUTION_EXCEPTION", "FINISHED:COMPLETED"])
def test_exit_code_0_is_a_success_only_if_flare_says_so(status: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    display = Progress(Screen(console), 0)
    display.show(Snapshot((Party("site-1", "w", Stage.ENDED, Reason.SUCCEEDED),), status))
    console.print(display._render())
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("✔" in output) == (status == "FINISHED:COMPLETED")
    assert "ended (exit code 0)" in output


@pytest.mark.parametrize(("term", "is_live"), [("xterm-256color", True), ("dumb", False)])
def test_a_dumb_terminal_gets_a_line_for_each_change(term: str, is_live: bool) -> None:  # noqa: FBT001
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": term})
    with Progress(Screen(console), 0) as display:
        display.show(Snapshot((Party("site-1", "w", Stage.RUNNING),), "RUNNING"))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("\x1b" in output) is is_live
    assert ("FLARE says RUNNING\n" in output) is not is_live


@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
def test_every_stage_has_a_text(stage: Stage) -> None:
    assert Party("site-1", stage=stage).state_text
