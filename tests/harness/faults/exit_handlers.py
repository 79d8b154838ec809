"""The fault matrix, where an administrator's exit handler and hooks run beside jobs. Not for a user's own cluster.

The controller's ``workflowDefaults`` give every Workflow an exit handler, as Argo recommends for notifications. Its pod
has the job's Workflow label and owner, but none of flargo's labels, and the Workflow stays Running until the handler
ends. Handlers run until the test ends them, so that each scenario decides how and when.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.faults.matrix import NOTICE_SECONDS
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import EXITS_ON_REQUEST, SLEEPS, START_SECONDS, Job, Site, exits, template_study

Object = dict[str, Any]
LONG_HANDLER_SECONDS = 70.0
"""Longer than the minute that flargo gives Argo to complete a Workflow without a handler."""
HANDLER_TEMPLATE = "notify"
_SCRIPT = "until [ -e /tmp/end ]; do sleep 0.2; done; exit $(cat /tmp/end)"


def handler_template(image: str, script: str = _SCRIPT) -> Object:
    """Return a template of a shell script, which the Pod Security level "restricted" allows.

    By default it runs until it is told to exit.
    """
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    patch = {
        "initContainers": [{"name": "init", "securityContext": {**restricted, "runAsUser": 1000}}],
        "containers": [{"name": "wait", "securityContext": {**restricted, "runAsUser": 1000}}],
    }
    return {
        "name": HANDLER_TEMPLATE,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "podSpecPatch": json.dumps(patch),
        "container": {
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
            "securityContext": restricted,
        },
    }


def defaults(cluster: Cluster, script: str = _SCRIPT, **spec: Any) -> str:
    """Return ``workflowDefaults`` with the handler's template and these fields of a Workflow's spec."""
    document = {"spec": {**spec, "templates": [handler_template(cluster.target.job_image, script)]}}
    return f"{yaml.safe_dump(document)}\n"


class Handler:
    """The exit handler of a job, or its hook."""

    def __init__(self, job: Job, node: str = ".onExit", *, name: str = "") -> None:
        """Find the handler of a job's first Workflow, or of the one with this name."""
        self._job, self._name = job, name or job.name
        self._node = f"{self._name}{node}"

    @property
    def pods(self) -> list[Object]:
        """The handler's pods, which are found by Argo's label and annotation."""
        pods = self._job.cluster.items("pods", f"workflows.argoproj.io/workflow={self._name}")
        return [pod for pod in pods if pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"] == self._node]

    def expect_running(self) -> "Handler":
        """Wait until the handler's container runs."""
        eventually(lambda: any(map(_is_main_running, self.pods)), START_SECONDS, f"{self._node} runs")
        return self

    def exit(self, code: int) -> None:
        """Make the handler exit."""
        (pod,) = self.pods
        assert Label.JOB_ID not in pod["metadata"]["labels"], "only the job's own pod has flargo's labels"
        write = f"echo {code} > /tmp/end.new && mv /tmp/end.new /tmp/end"
        self._job.cluster.kubectl("exec", pod["metadata"]["name"], "--container=main", "--", "sh", "-c", write)


def _is_main_running(pod: Object) -> bool:
    rows = (pod.get("status") or {}).get("containerStatuses") or []
    return any(row["name"] == "main" and "running" in (row.get("state") or {}) for row in rows)


scenario = Scenarios()


@pytest.fixture(scope="module")
def configured_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whose controller gives every Workflow an exit handler."""
    with cluster.configure_argo(workflowDefaults=defaults(cluster, onExit=HANDLER_TEMPLATE)):
        yield cluster


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, configured_cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    short_grace = {"short-grace": template_study(terminationGracePeriodSeconds=5)}
    with (
        Site(configured_cluster, studies=short_grace, argo={"policy": {"rejoin": 1}}) as site,
        Together(scenario, request, configured_cluster, site=site) as running,
    ):
        yield running


def end_with_handler(job: Job, reason: Reason, code: int, within: float, handler_code: int = 0) -> None:
    """Expect that FLARE hears the job's end while the handler runs, and that nothing is left after the handler."""
    job.expect_end(reason, code, within)
    handler = Handler(job).expect_running()
    secrets = f"nvflare-cred-{job.name}-"
    eventually(lambda: not job.cluster.secrets(secrets), NOTICE_SECONDS, "its credentials are deleted")
    assert job.workflow["status"]["phase"] == "Running"
    assert "shutdown" not in job.workflow["spec"], "the handler of a job that ended by itself runs to its end"
    handler.exit(handler_code)
    job.expect_nothing_left()
    expect_commands_to_say(job, reason, code)


def expect_commands_to_say(job: Job, reason: Reason, code: int) -> None:
    """Delete all pods of the job's Workflow; the commands must tell the same end from the Workflow alone."""
    cluster = job.cluster
    selector = f"workflows.argoproj.io/workflow={job.name}"
    for pod in cluster.items("pods", selector):
        cluster.delete("pod", pod)
    eventually(lambda: not cluster.items("pods", selector), NOTICE_SECONDS, "its pods are gone")
    is_marked = "flargo.dev/cleared"
    eventually(lambda: is_marked in job.workflow["metadata"]["annotations"], NOTICE_SECONDS, "it is marked as cleared")
    description = job.workflow["metadata"]["annotations"]["workflows.argoproj.io/description"]
    assert description.startswith(f"{reason.name}: " if code else f"`{job.id}`"), description
    for command in (("jobs", "--federation", job.site.federation), ("why", job.id)):
        rows = {row["job"]: row for row in run_command(cluster, *command)}
        assert (rows[job.id]["reason"], rows[job.id]["code"]) == (reason.name, code), command


def run_command(cluster: Cluster, *arguments: str) -> Any:
    """Run a command of flargo in a process of its own, and return its JSON."""
    options = (f"--kubeconfig={cluster.target.launcher_kubeconfig}", f"--namespace={cluster.target.namespace}")
    argv = [str(Path(sys.executable).with_name("flargo")), *arguments, "--json", *options]
    return json.loads(subprocess.run(argv, text=True, capture_output=True, check=True, timeout=60).stdout)


@scenario
def handler_after_an_exit_of_7(site: Site) -> None:
    """Once its pods were gone, the commands told such a job as SUCCEEDED with the handler's code 0."""
    end_with_handler(site.launch(exits(7)), Reason.PROGRAM_FAILED, 1, START_SECONDS)


@scenario
def handler_after_out_of_memory(site: Site) -> None:
    """Argo's node of the step says OOMKilled, and the handler's says nothing."""
    job = site.launch("held = [b'x' * 2**20 for _ in range(1000)]\n", {"memory": "100Mi"})
    end_with_handler(job, Reason.OUT_OF_MEMORY, 104, START_SECONDS)


@scenario
def failed_handler_after_a_success(site: Site) -> None:
    """Argo fails the Workflow, although the job's program has succeeded."""
    job = site.launch(exits(0))
    end_with_handler(job, Reason.SUCCEEDED, 0, START_SECONDS, handler_code=3)
    assert job.workflow["status"]["phase"] == "Failed"


@scenario
def handler_for_longer_than_a_minute(site: Site) -> None:
    """A slow handler is not ended, however long Argo takes to complete the Workflow."""
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    handler = Handler(job).expect_running()
    time.sleep(LONG_HANDLER_SECONDS)
    assert "shutdown" not in job.workflow["spec"]
    assert any(map(_is_main_running, handler.pods))
    handler.exit(0)
    job.expect_nothing_left()
    assert job.workflow["status"]["phase"] == "Succeeded"


@scenario
def handler_after_an_eviction(site: Site, cluster: Cluster) -> None:
    """The Workflow of an evicted job was shut down before its handler had run.

    That is necessary only as long as Argo has not seen the pod run: it would create another one.
    """
    job = site.launch(SLEEPS, study="short-grace").expect_running()
    eventually(lambda: step_phase(job) == "Running", NOTICE_SECONDS, "Argo has seen the pod run")
    cluster.evict(job.pod)
    end_with_handler(job, Reason.DISRUPTED, 104, NOTICE_SECONDS)


@scenario
def handler_while_the_next_attempt_runs(site: Site, cluster: Cluster) -> None:
    """A drained job's next attempt does not wait for the handler of the one before, which runs to its end."""
    job = site.launch(EXITS_ON_REQUEST, {"argo": {"rejoin": 1}}).expect_running()
    eventually(lambda: step_phase(job) == "Running", NOTICE_SECONDS, "Argo has seen the pod run")
    cluster.evict(job.pod)
    handler = Handler(job).expect_running()
    job.expect_attempt(2)
    first, second = (cluster.workflow(name) for name in (job.name, f"{job.name}-r1"))
    assert "shutdown" not in first["spec"]
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    handler.exit(0)
    Handler(job, name=second["metadata"]["name"]).expect_running().exit(0)
    job.expect_nothing_left()


def step_phase(job: Job) -> str:
    """Return the phase of the Argo node of the job's own step."""
    return str(job.workflow["status"]["nodes"][job.name]["phase"])


@scenario
def no_handler_after_an_abort(site: Site) -> None:
    """After a Workflow's termination Argo runs no exit handler."""
    job = site.launch(SLEEPS, study="short-grace").expect_running()
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert Handler(job).pods == []


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)


def test_hook_while_the_job_runs(cluster: Cluster) -> None:
    """A hook's pod runs beside the job's; a healthy job with one was taken for a job that Argo ran twice."""
    hooks = {"running": {"template": HANDLER_TEMPLATE, "expression": 'workflow.status == "Running"'}}
    with cluster.configure_argo(workflowDefaults=defaults(cluster, hooks=hooks)), Site(cluster) as site:
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        hook = Handler(job, ".hooks.running").expect_running()
        time.sleep(5)
        job.expect_stage(Stage.RUNNING)
        hook.exit(3)
        time.sleep(2)
        job.expect_stage(Stage.RUNNING).exit_program(0)
        job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        job.expect_nothing_left()
