"""An administrator's exit handlers and hooks have pods and nodes beside the job's own. They are not the job."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.status.diagnosis import diagnose
from flargo.status.reasons import Reason
from flargo.status.views import Observation, pod_view, workflow_view
from flargo.tools.jobs.site_job import site_jobs
from tests.harness.objects import RUNNING, Object, job_workflow, pod, workflow

PHASES = ("", "Pending", "Running", "Succeeded", "Failed", "Error", "Skipped", "Omitted")
HANDLER_NAMES = (
    "job-site.onExit",
    "job-site.onExit(0)",
    "job-site.onExit[0].notify",
    "job-site.hooks.running",
    "job-site(0).hooks.failed",
)
STEP: Object = {"name": "job-site", "type": "Pod", "startedAt": "2026-01-01T00:00:00Z"}
handlers = st.fixed_dictionaries(
    {
        "name": st.sampled_from(HANDLER_NAMES),
        "type": st.sampled_from(("Pod", "Retry", "Steps", "StepGroup")),
        "templateName": st.sampled_from(("notify", "job", "")),
        "phase": st.sampled_from(PHASES),
        "startedAt": st.just("2026-01-01T09:00:00Z"),
        "message": st.sampled_from(("", "OOMKilled", "pod deleted")),
        "outputs": st.fixed_dictionaries({}, optional={"exitCode": st.sampled_from(("0", "7"))}),
    }
)


@given(st.sampled_from(PHASES), st.sampled_from((None, "0", "3", "137")), st.lists(handlers, max_size=4))
def test_handler_nodes_are_not_the_step(phase: str, code: str | None, others: list[Object]) -> None:
    step = {**STEP, "phase": phase, **({"outputs": {"exitCode": code}} if code else {})}
    alone = workflow_view(workflow(nodes={"job-site": step}))
    together = workflow_view(workflow(nodes={"job-site": step, **{f"n{i}": node for i, node in enumerate(others)}}))
    assert replace(together, is_handler_running=False) == alone
    is_running = any(node["phase"] in {"", "Pending", "Running"} for node in others)
    assert together.is_handler_running is is_running


@pytest.mark.parametrize("template", ["notify", "lifecycle", ""])
@pytest.mark.parametrize("kind", ["Pod", "Retry"])
def test_node_of_another_template_is_not_the_step(template: str, kind: str) -> None:
    """An admission policy may add templates of its own, whose nodes need not have a handler's name."""
    other: Object = {"name": "job-site-notify", "type": kind, "templateName": template, "phase": "Failed"}
    other |= {"startedAt": "2026-01-01T09:00:00Z", "message": "pod deleted", "outputs": {"exitCode": "7"}}
    assert workflow_view(workflow(nodes={"n": other})) == workflow_view(workflow(nodes={}))
    step = {**STEP, "phase": "Succeeded", "outputs": {"exitCode": "0"}}
    alone = workflow_view(workflow(nodes={"job-site": step}))
    assert workflow_view(workflow(nodes={"job-site": step, "n": other})) == alone
    assert (alone.node_exit_code, alone.is_step_done) == (0, True)


def test_step_with_a_retry_strategy_is_done_with_its_retry_node() -> None:
    failed = {**STEP, "name": "job-site(0)", "phase": "Failed"}
    retry = {"name": "job-site", "type": "Retry", "phase": "Running"}
    running = workflow_view(workflow(nodes={"a": failed, "b": retry}))
    assert running.is_retried
    assert not running.is_step_done
    assert workflow_view(workflow(nodes={"a": failed, "b": {**retry, "phase": "Failed"}})).is_step_done


def test_handlers_pod_belongs_to_no_job() -> None:
    handler = pod("job-site", uid="p2")
    del handler["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    assert pod_view(handler).owner_uid == "w1", "somebody has changed the label of the job's own pod"
    handler["metadata"]["annotations"] = {"workflows.argoproj.io/node-name": "job-site.onExit"}
    assert pod_view(pod("job-site")).owner_uid == "w1"
    assert pod_view(handler).owner_uid == ""


def job_with_handler(step: Object, handler: Object, phase: str) -> Object:
    """Return a job's Workflow whose pods are gone, with its step and its exit handler."""
    notify = {"name": "job-site.onExit", "type": "Pod", "templateName": "notify", "startedAt": "2026-01-01T09:00:00Z"}
    return job_workflow(nodes={"job-site": {**STEP, **step}, "h": {**notify, **handler}}, phase=phase)


SUCCEEDED_HANDLER: Object = {"phase": "Succeeded", "outputs": {"exitCode": "0"}}


def test_commands_tell_the_jobs_end_and_not_the_handlers() -> None:
    """On a06983c an OOM and an exit 7 were listed as SUCCEEDED with code 0 once the pods were gone."""
    oom = {"phase": "Failed", "message": "main: OOMKilled (exit code 137)", "outputs": {"exitCode": "137"}}
    seven = {"phase": "Failed", "message": "main: Error (exit code 7)", "outputs": {"exitCode": "7"}}
    zero = {"phase": "Succeeded", "outputs": {"exitCode": "0"}}
    failed = {"phase": "Failed", "message": "main: Error (exit code 1)", "outputs": {"exitCode": "1"}}
    running = {"phase": "Running"}
    for step, handler, phase, reason, code in (
        (oom, SUCCEEDED_HANDLER, "Failed", Reason.OUT_OF_MEMORY, 104),
        (seven, SUCCEEDED_HANDLER, "Failed", Reason.PROGRAM_FAILED, 1),
        (seven, running, "Running", Reason.PROGRAM_FAILED, 1),
        (zero, failed, "Failed", Reason.SUCCEEDED, 0),
        (zero, running, "Running", Reason.SUCCEEDED, 0),
    ):
        (job,) = site_jobs([job_with_handler(step, handler, phase=phase)], [])
        assert job.verdict is not None
        assert (job.verdict.reason, job.verdict.code) == (reason, code)


def test_message_of_a_failed_handler_explains_nothing() -> None:
    forbidden = 'pods "job-site-notify" is forbidden: exceeded quota'
    workflow = job_with_handler({"phase": "Error", "message": "pod deleted"}, {"phase": "Error"}, phase="Error")
    workflow["status"]["message"] = forbidden
    (job,) = site_jobs([workflow], [])
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.detail) == (Reason.POD_DELETED, "pod deleted")


def test_success_of_a_workflow_alone_is_no_success() -> None:
    """Argo takes a pod of an older launch for the new Workflow's own; then no exit of this job is recorded."""
    (job,) = site_jobs([job_workflow(phase="Succeeded")], [])
    assert job.verdict is not None
    assert job.verdict.reason is Reason.ARGO_FAILED


@pytest.mark.parametrize(
    ("code", "shutdown", "reason"),
    [
        ("143", "", Reason.POD_DELETED),
        ("137", "", Reason.POD_DELETED),
        ("3", "", Reason.PROGRAM_FAILED),
        ("143", "Terminate", Reason.SHUT_DOWN),
    ],
)
def test_signal_of_a_pod_that_is_gone_was_its_deletions(code: str, shutdown: str, reason: Reason) -> None:
    """Argo sometimes records how the program of a deleted pod ended, and an exit handler keeps the Workflow running."""
    step = {**STEP, "phase": "Failed", "message": f"main: Error (exit code {code})", "outputs": {"exitCode": code}}
    running = pod_view(pod("job-site", main=RUNNING, phase="Running"))
    view = workflow_view(workflow(nodes={"job-site": step}, phase="Running", shutdown=shutdown))
    assert diagnose(Observation(view, missing_pod=running), running.uid).reason is reason
