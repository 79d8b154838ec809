"""Tests of the jobs that people see: state and reason are those of the launcher's own diagnosis."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.jobs.explanation import explain
from flargo.tools.jobs.selection import NotFoundError, select_job
from flargo.tools.jobs.site_job import selector, short_ids, site_jobs, trim, with_events
from flargo.tools.jobs.table import build_rows, columns
from tests.harness.objects import CREATED, RUNNING, Object, job_workflow, pod, terminated_state

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def job_at_site(workflow: Object, *pods: Object) -> Any:
    (site_job,) = site_jobs([workflow], pods)
    return site_job


def row_of(site_job: Any, now: datetime = NOW) -> dict[str, str]:
    shown = columns([site_job], is_wide=True)
    (row,) = build_rows([site_job], now, shown)
    return dict(zip((column.name for column in shown), row, strict=True))


def test_running_job_has_node_time_and_gpus() -> None:
    running_pod = pod(main=RUNNING, phase="Running")
    container = {"name": "main", "resources": {"limits": {"amd.com/gpu": "2"}}}
    running_pod["spec"] |= {"nodeName": "n1", "containers": [container]}
    site_job = job_at_site(job_workflow(), running_pod)
    assert (site_job.stage, site_job.reason, site_job.site, site_job.pod.node) == (Stage.RUNNING, None, "site-1", "n1")
    assert site_job.gpus == {"amd.com/gpu": "2"}
    assert row_of(site_job) == {
        "JOB": "11111111",
        "NAME": "hearts",
        "SITE": "site-1",
        "STATE": "RUNNING",
        "REASON": "-",
        "AGE": "60s",
        "ROLE": "client",
        "STUDY": "-",
        "SINCE": "60s",
        "NODE": "n1",
        "GPUS": "2 amd.com/gpu",
    }


def test_workflow_tells_gpus_before_the_pod_exists() -> None:
    waiting = job_workflow()
    limits = {"nvidia.com/gpu": "1", "cpu": "2"}
    waiting["spec"]["templates"] = [{"name": "job", "container": {"name": "", "resources": {"limits": limits}}}]
    site_job = job_at_site(trim(waiting))
    assert (site_job.stage, site_job.gpus) == (Stage.WAITING, {"nvidia.com/gpu": "1"})


def test_pods_of_other_workflows_are_ignored() -> None:
    assert job_at_site(job_workflow(), pod(owner="another", main=terminated_state(1))).stage is Stage.WAITING


@pytest.mark.parametrize(
    ("ending", "code"),
    [("ABORTED", 9), ("CLEANED_UP", 1), ("ORPHANED", 104), ("SHORTAGE", 101), ("RUN_TWICE", 104)],
)
def test_shutdown_has_the_launchers_reason(ending: str, code: int) -> None:
    """Without the annotation of its launcher, anybody may have terminated the Workflow."""
    notes = {"flargo.dev/ending": ending, "flargo.dev/ending-detail": "0/1 nodes"}
    terminated = {"phase": "Failed", "message": "Stopped with strategy 'Terminate'", "shutdown": "Terminate"}
    for pods in ((), (pod(main=terminated_state(143), phase="Failed"),)):
        site_job = job_at_site(job_workflow(**terminated, notes=notes), *pods)
        assert (site_job.reason, site_job.verdict.code) == (Reason[ending], code)
    assert job_at_site(job_workflow(**terminated)).reason is Reason.SHUT_DOWN


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('Container main exceeded its local ephemeral storage limit "20Mi". ', Reason.EVICTED),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ", Reason.EVICTED),
        ('Usage of EmptyDir volume "x" exceeds the limit "200Mi". ', Reason.EVICTED),
        ("The node was low on resource: memory. ", Reason.EVICTED),
        ("Pod was rejected: Node didn't have enough resource: cpu, requested: 900050, used: 800", Reason.NODE_REFUSED),
        ("Pod was rejected: Pod was rejected as the node is shutting down.", Reason.DISRUPTED),
        ("Pod was active on the node longer than the specified deadline", Reason.DEADLINE),
        ("pod deleted", Reason.POD_DELETED),
        ("prepare: Error (exit code 7)", Reason.ARGO_FAILED),
    ],
)
def test_reason_comes_from_argos_record_without_pod(message: str, reason: Reason) -> None:
    """The launcher may not have come to write the reason of the end."""
    step = {"job-site": {"type": "Pod", "phase": "Failed", "message": message}}
    assert job_at_site(job_workflow(phase="Failed", message=message, nodes=step)).reason is reason


def test_job_ended_after_its_results_has_succeeded() -> None:
    notes = {"flargo.dev/ending": "SUCCEEDED"}
    site_job = job_at_site(job_workflow(phase="Failed", shutdown="Terminate", notes=notes))
    assert (site_job.reason, site_job.verdict.code) == (Reason.SUCCEEDED, 0)
    ending_job = job_at_site(job_workflow(shutdown="Terminate", notes=notes), pod(main=RUNNING, phase="Running"))
    assert ending_job.reason is Reason.SHUT_DOWN, "only once the job has ended"


@pytest.mark.parametrize("nonsense", ["", "NO_SUCH_REASON", "PROGRAM_REPORTED", "code", "{{x}}"])
def test_unknown_ending_annotations_are_ignored(nonsense: str) -> None:
    site_job = job_at_site(job_workflow(phase="Failed", shutdown="Terminate", notes={"flargo.dev/ending": nonsense}))
    assert site_job.reason is Reason.SHUT_DOWN


def test_programs_exit_code_overrides_ending_reason() -> None:
    shut_down = job_workflow(phase="Failed", shutdown="Terminate", notes={"flargo.dev/ending": "SHORTAGE"})
    assert job_at_site(shut_down, pod(main=terminated_state(0, "Completed"))).reason is Reason.SUCCEEDED
    assert job_at_site(shut_down, pod(main=terminated_state(102))).verdict.code == 102


def test_ending_job_has_its_reason() -> None:
    ending_job = job_workflow(shutdown="Terminate", notes={"flargo.dev/ending": "ABORTED"})
    site_job = job_at_site(ending_job, pod(main=RUNNING, phase="Running"))
    assert (site_job.stage, site_job.reason, site_job.verdict) == (Stage.RUNNING, Reason.ABORTED, None)


def test_uncertain_ends_need_confirmation() -> None:
    """A pod may have been created, or a Workflow shut down, between the two lists."""
    step = {"job-site": {"type": "Pod", "phase": "Running"}}
    assert job_at_site(job_workflow(nodes=step)).needs_confirmation
    assert job_at_site(job_workflow(), pod(main=terminated_state(143))).needs_confirmation
    assert not job_at_site(job_workflow(), pod(main=terminated_state(0))).needs_confirmation
    assert not job_at_site(job_workflow(phase="Failed"), pod(main=terminated_state(143))).needs_confirmation
    assert not job_at_site(job_workflow(), pod(main=RUNNING)).needs_confirmation


def test_events_show_an_image_pull() -> None:
    starting = pod()
    starting["spec"]["nodeName"] = "n1"
    site_job = job_at_site(job_workflow(), starting)
    pulling = {"reason": "Pulling", "lastTimestamp": CREATED, "involvedObject": {"uid": "p1"}}
    assert (site_job.stage, with_events(site_job, [pulling]).stage) == (Stage.STARTING, Stage.PULLING)


def test_since_is_the_start_of_the_stage() -> None:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:20Z"}
    times = {"startedAt": "2026-01-01T00:00:30Z", "finishedAt": "2026-01-01T00:00:50Z"}
    terminated = {"terminated": {"exitCode": 3, **times}}
    seconds = [
        job_at_site(job_workflow()).since.second,
        job_at_site(job_workflow(), pod(conditions=[condition])).since.second,
        job_at_site(job_workflow(), pod(main=terminated, conditions=[condition])).since.second,
        job_at_site(
            job_workflow(phase="Failed", message="invalid spec", finishedAt="2026-01-01T00:00:05Z")
        ).since.second,
    ]
    assert seconds == [0, 20, 50, 5]


@pytest.mark.parametrize("junk", [{}, {"metadata": None}, {"metadata": {"labels": 7}, "spec": [], "status": "x"}])
def test_malformed_objects_can_be_shown(junk: Object) -> None:
    site_job = job_at_site(trim(junk), trim(junk))
    assert row_of(site_job)["SITE"]
    assert explain(site_job, [junk]).summary
    assert site_job.as_dict()["state"]


def test_names_are_inert() -> None:
    site_job = job_at_site(job_workflow(site="a\x1b[31m\nb", notes={"flargo.dev/job-name": "x\x07"}))
    assert (site_job.site, site_job.name) == ("a [31m b", "x")


def test_short_ids_are_unique() -> None:
    ids = ["aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb-1", "c"]
    assert list(short_ids(ids).values()) == ["aaaaaaaa-1", "aaaaaaaa-2", "bbbbbbbb", "c"]


def test_selector_converts_names_to_labels() -> None:
    assert selector() == "app.kubernetes.io/managed-by=flargo"
    assert selector("Klinikum München", "f").count("--") == 1


# Which job a query names


JOBS = [
    job_workflow("w1", "aaaa-1", uid="u1"),
    job_workflow("w2", "aaaa-1", "site-2", uid="u2"),
    job_workflow("w3", "aabb-2", uid="u3"),
]


@pytest.mark.parametrize(
    ("query", "site", "expected"),
    [
        ("aaaa-1", None, ["w1", "w2"]),
        ("aaa", None, ["w1", "w2"]),
        ("aab", None, ["w3"]),
        ("w2", None, ["w2"]),
        ("aaa", "site-2", ["w2"]),
    ],
)
def test_select_job_by_id_prefix_or_workflow(query: str, site: str | None, expected: list[str]) -> None:
    assert [site_job.workflow.name for site_job in select_job(query, site_jobs(JOBS, []), site)] == expected


@pytest.mark.parametrize(
    ("query", "site", "expected"),
    [
        ("aa", None, "2 jobs: aaaa-1, aabb-2"),
        ("zz", None, "no job 'zz'"),
        ("", None, "no job ''"),
        ("aaaa-1", "site-9", "not at site-9, but at site-1, site-2"),
    ],
)
def test_select_job_rejects_ambiguous_queries(query: str, site: str | None, expected: str) -> None:
    with pytest.raises(NotFoundError, match=expected):
        select_job(query, site_jobs(JOBS, []), site)


# Explanations


def test_explanation_has_sentence_evidence_and_remedy() -> None:
    failed_pod = pod(main=terminated_state(137, "OOMKilled"), phase="Failed")
    failed_pod["spec"]["nodeName"] = "n1"
    explanation = explain(
        job_at_site(job_workflow(phase="Failed", message="main: OOMKilled (exit code 137)"), failed_pod), []
    )
    assert (explanation.summary, explanation.remedy) == (Reason.OUT_OF_MEMORY.sentence, Reason.OUT_OF_MEMORY.remedy)
    evidence = dict(explanation.evidence)
    assert evidence["exit code"] == "137"
    assert "memory limit 64Mi" in evidence["cluster says"]
    assert evidence["Workflow"] == "job-site: Failed; main: OOMKilled (exit code 137)"
    assert evidence["pod"] == "job-site: Failed on node n1"


def test_waiting_job_has_stage_and_remedy() -> None:
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    explanation = explain(job_at_site(job_workflow(), pod(conditions=[shortage])), [])
    assert explanation.summary == "The job is pending: no node has enough free resources."
    assert explanation.remedy == Reason.SHORTAGE.remedy


def test_only_relevant_events_are_shown() -> None:
    events: list[Object] = [
        {"type": "Normal", "reason": "Scheduled", "message": "ok", "lastTimestamp": CREATED},
        {"type": "Warning", "reason": "FailedMount", "message": "no\nclaim", "count": 4, "lastTimestamp": CREATED},
    ]
    starting, running = job_at_site(job_workflow(), pod()), job_at_site(job_workflow(), pod(main=RUNNING))
    assert [text for name, text in explain(starting, events).evidence if name == "event"] == [
        "00:00:00 Scheduled: ok",
        "00:00:00 FailedMount, 4 times in 0 s: no claim",
    ]
    assert len([name for name, _ in explain(running, events).evidence if name == "event"]) == 1


def test_times_are_never_negative() -> None:
    """The clocks of two machines differ."""
    assert row_of(job_at_site(job_workflow()), NOW - timedelta(hours=1))["AGE"] == "0s"
