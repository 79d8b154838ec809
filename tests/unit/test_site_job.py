"""What people see of jobs: the launcher's own diagnosis and rule, whichever of the two looks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.jobs.explanation import explain
from flargo.tools.jobs.selection import NotFoundError, select_job
from flargo.tools.jobs.site_job import selector, short_ids, site_jobs, trim, with_events
from flargo.tools.jobs.table import COLUMNS, build_rows, format_lines
from tests.harness.objects import CREATED, RUNNING, Object, ended, job, pod

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def only(made: Object, *pods: Object) -> Any:
    (part,) = site_jobs([made], pods)
    return part


def test_a_job_is_told_with_its_place_its_time_and_its_devices() -> None:
    of = pod(main=RUNNING, phase="Running")
    of["spec"] |= {"nodeName": "n1", "containers": [{"name": "main", "resources": {"limits": {"amd.com/gpu": "2"}}}]}
    part = only(job(), of)
    assert (part.stage, part.reason, part.site, part.pod.node) == (Stage.RUNNING, None, "site-1", "n1")
    assert part.gpus == {"amd.com/gpu": "2"}
    assert build_rows([part], NOW) == [
        ("11111111", "hearts", "site-1", "client", "-", "RUNNING", "-", "60 s ago", "n1", "2 amd.com/gpu")
    ]


def test_before_there_is_a_pod_the_workflow_says_what_it_asks_for() -> None:
    waits = job()
    limits = {"nvidia.com/gpu": "1", "cpu": "2"}
    waits["spec"]["templates"] = [{"name": "job", "container": {"name": "", "resources": {"limits": limits}}}]
    part = only(trim(waits))
    assert (part.stage, part.gpus) == (Stage.WAITING, {"nvidia.com/gpu": "1"})


def test_a_pod_of_an_earlier_workflow_of_the_name_is_not_its_own() -> None:
    assert only(job(), pod(owner="another", main=ended(1))).stage is Stage.WAITING


@pytest.mark.parametrize(
    ("ending", "code"),
    [("ABORTED", 9), ("CLEANED_UP", 1), ("ORPHANED", 104), ("SHORTAGE", 101), ("RUN_TWICE", 104)],
)
def test_of_a_shutdown_the_launchers_own_reason_is_told(ending: str, code: int) -> None:
    """By what is seen alone, anybody may have terminated it."""
    notes = {"flargo.dev/ending": ending, "flargo.dev/ending-detail": "0/1 nodes"}
    over = {"phase": "Failed", "message": "Stopped with strategy 'Terminate'", "shutdown": "Terminate"}
    for pods in ((), (pod(main=ended(143), phase="Failed"),)):
        part = only(job(**over, notes=notes), *pods)
        assert (part.reason, part.verdict.code) == (Reason[ending], code)
    assert only(job(**over)).reason is Reason.SHUT_DOWN


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('Container main exceeded its local ephemeral storage limit "20Mi". ', Reason.EVICTED),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ", Reason.EVICTED),
        ('Usage of EmptyDir volume "x" exceeds the limit "200Mi". ', Reason.EVICTED),
        ("The node was low on resource: memory. ", Reason.EVICTED),
        ("Pod was rejected: Node didn't have enough resource: cpu, requested: 900050, used: 800", Reason.NODE_REFUSED),
        ("Pod was active on the node longer than the specified deadline", Reason.DEADLINE),
        ("pod deleted", Reason.POD_DELETED),
        ("prepare: Error (exit code 7)", Reason.ARGO_FAILED),
    ],
)
def test_of_a_pod_that_is_gone_argos_record_tells_what_the_kubelet_said(words: str, reason: Reason) -> None:
    """Where its launcher did not come to write why it ended."""
    step = {"job-site": {"type": "Pod", "phase": "Failed", "message": words}}
    assert only(job(phase="Failed", message=words, nodes=step)).reason is reason


def test_a_job_that_was_ended_after_its_results_had_arrived_has_succeeded() -> None:
    notes = {"flargo.dev/ending": "SUCCEEDED"}
    part = only(job(phase="Failed", shutdown="Terminate", notes=notes))
    assert (part.reason, part.verdict.code) == (Reason.SUCCEEDED, 0)
    being = only(job(shutdown="Terminate", notes=notes), pod(main=RUNNING, phase="Running"))
    assert being.reason is Reason.SHUT_DOWN, "not before it has ended"


@pytest.mark.parametrize("nonsense", ["", "NO_SUCH_REASON", "PROGRAM_REPORTED", "code", "{{x}}"])
def test_a_reason_that_no_launcher_leaves_is_not_believed(nonsense: str) -> None:
    part = only(job(phase="Failed", shutdown="Terminate", notes={"flargo.dev/ending": nonsense}))
    assert part.reason is Reason.SHUT_DOWN


def test_exit_code_0_and_the_programs_own_codes_stand_whatever_was_wanted() -> None:
    shut = job(phase="Failed", shutdown="Terminate", notes={"flargo.dev/ending": "SHORTAGE"})
    assert only(shut, pod(main=ended(0, "Completed"))).reason is Reason.SUCCEEDED
    assert only(shut, pod(main=ended(102))).verdict.code == 102


def test_while_it_is_being_ended_it_says_what_for() -> None:
    being = job(shutdown="Terminate", notes={"flargo.dev/ending": "ABORTED"})
    part = only(being, pod(main=RUNNING, phase="Running"))
    assert (part.stage, part.reason, part.verdict) == (Stage.RUNNING, Reason.ABORTED, None)


def test_an_end_that_argo_does_not_know_of_is_read_afresh_unless_it_is_exit_code_0() -> None:
    """A pod may have come, or a shutdown gone before, between the two lists."""
    step = {"job-site": {"type": "Pod", "phase": "Running"}}
    assert only(job(nodes=step)).needs_confirmation
    assert only(job(), pod(main=ended(143))).needs_confirmation
    assert not only(job(), pod(main=ended(0))).needs_confirmation
    assert not only(job(phase="Failed"), pod(main=ended(143))).needs_confirmation
    assert not only(job(), pod(main=RUNNING)).needs_confirmation


def test_a_pull_is_told_by_events() -> None:
    starting = pod()
    starting["spec"]["nodeName"] = "n1"
    part = only(job(), starting)
    pulling = {"reason": "Pulling", "lastTimestamp": CREATED, "involvedObject": {"uid": "p1"}}
    assert (part.stage, with_events(part, [pulling]).stage) == (Stage.STARTING, Stage.PULLING)


def test_times_are_those_of_the_state() -> None:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:20Z"}
    over = {"terminated": {"exitCode": 3, "startedAt": "2026-01-01T00:00:30Z", "finishedAt": "2026-01-01T00:00:50Z"}}
    seconds = [
        only(job()).since.second,
        only(job(), pod(conditions=[condition])).since.second,
        only(job(), pod(main=over, conditions=[condition])).since.second,
        only(job(phase="Failed", message="invalid spec", finishedAt="2026-01-01T00:00:05Z")).since.second,
    ]
    assert seconds == [0, 20, 50, 5]


@pytest.mark.parametrize("junk", [{}, {"metadata": None}, {"metadata": {"labels": 7}, "spec": [], "status": "x"}])
def test_no_object_is_too_strange_to_be_shown(junk: Object) -> None:
    part = only(trim(junk), trim(junk))
    assert len(build_rows([part], NOW)[0]) == len(COLUMNS)
    assert explain(part, [junk]).summary
    assert part.as_dict()["state"]


def test_names_are_harmless_on_a_terminal() -> None:
    part = only(job(site="a\x1b[31m\nb", notes={"flargo.dev/job-name": "x\x07"}))
    assert (part.site, part.name) == ("a [31m b", "x")


def test_ids_are_as_short_as_they_can_be_told_apart() -> None:
    ids = ["aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb-1", "c"]
    assert list(short_ids(ids).values()) == ["aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb", "c"]


def test_lines_stand_under_one_another() -> None:
    head, line = format_lines(build_rows([only(job())], NOW))
    assert head.index("STATE") == line.index("WAITING")


def test_the_selector_takes_names_as_labels_have_them() -> None:
    assert selector() == "app.kubernetes.io/managed-by=flargo"
    assert selector("Klinikum München", "f").count("--") == 1


# Which job is meant


JOBS = [job("w1", "aaaa-1", uid="u1"), job("w2", "aaaa-1", "site-2", uid="u2"), job("w3", "aabb-2", uid="u3")]


@pytest.mark.parametrize(
    ("word", "site", "meant"),
    [
        ("aaaa-1", None, ["w1", "w2"]),
        ("aaa", None, ["w1", "w2"]),
        ("aab", None, ["w3"]),
        ("w2", None, ["w2"]),
        ("aaa", "site-2", ["w2"]),
    ],
)
def test_a_job_is_meant_by_its_id_a_beginning_of_it_or_a_workflow(
    word: str, site: str | None, meant: list[str]
) -> None:
    assert [part.workflow.name for part in select_job(word, site_jobs(JOBS, []), site)] == meant


@pytest.mark.parametrize(
    ("word", "site", "told"),
    [
        ("aa", None, "2 jobs: aaaa-1, aabb-2"),
        ("zz", None, "no job 'zz'"),
        ("", None, "no job ''"),
        ("aaaa-1", "site-9", "not at site-9, but at site-1, site-2"),
    ],
)
def test_what_is_not_one_job_is_told(word: str, site: str | None, told: str) -> None:
    with pytest.raises(NotFoundError, match=told):
        select_job(word, site_jobs(JOBS, []), site)


# Why


def test_a_report_has_the_sentence_the_evidence_and_the_remedy_of_the_reason() -> None:
    of = pod(main=ended(137, "OOMKilled"), phase="Failed")
    of["spec"]["nodeName"] = "n1"
    told = explain(only(job(phase="Failed", message="main: OOMKilled (exit code 137)"), of), [])
    assert (told.summary, told.remedy) == (Reason.OUT_OF_MEMORY.sentence, Reason.OUT_OF_MEMORY.remedy)
    said = dict(told.evidence)
    assert said["exit code"] == "137"
    assert "memory limit 64Mi" in said["cluster says"]
    assert said["Workflow"] == "job-site: Failed; main: OOMKilled (exit code 137)"
    assert said["pod"] == "job-site: Failed on node n1"


def test_of_a_job_that_waits_it_is_said_what_it_waits_for_and_what_would_help() -> None:
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    told = explain(only(job(), pod(conditions=[shortage])), [])
    assert told.summary == "The job is pending: no node has enough free resources."
    assert told.remedy == Reason.SHORTAGE.remedy


def test_events_are_told_when_they_matter() -> None:
    seen: list[Object] = [
        {"type": "Normal", "reason": "Scheduled", "message": "ok", "lastTimestamp": CREATED},
        {"type": "Warning", "reason": "FailedMount", "message": "no\nclaim", "count": 4, "lastTimestamp": CREATED},
    ]
    starting, running = only(job(), pod()), only(job(), pod(main=RUNNING))
    assert [said for name, said in explain(starting, seen).evidence if name == "event"] == [
        "00:00:00 Scheduled: ok",
        "00:00:00 FailedMount, 4 times in 0 s: no claim",
    ]
    assert len([name for name, _ in explain(running, seen).evidence if name == "event"]) == 1


def test_how_long_ago_it_was_is_never_negative() -> None:
    """The clocks of two machines differ."""
    assert build_rows([only(job())], NOW - timedelta(hours=1))[0][7] == "0 s ago"
