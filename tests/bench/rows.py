"""Define the faults that both launchers are compared by: what happens, and with which statuses FLARE's job may end.

A row names no launcher. Its right statuses are the widest set of FLARE's statuses that is true: "failed" for a program
that failed on its own; for a program that something else ended, anything except that it succeeded or was aborted.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.job_def import RunStatus

from tests.bench import pod_watch
from tests.bench.pod_watch import FOREIGN
from tests.bench.run import ClientJob
from tests.harness.cluster import Cluster
from tests.harness.real_cluster.apply import MISSING_ACCOUNT
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, Site, exits, read_token
from tests.harness.wire import Match, Wire

Object = dict[str, Any]
OUTAGE_SECONDS = 30.0
"""Time for which the API server is unreachable."""
THROTTLE_SECONDS = 10.0
"""Time for which every request is answered with 429."""
TOKEN_OVERLAP_SECONDS = 70.0
"""Time for which both a token and its successor are valid; the kubelet allows ten minutes."""
EXITS_ON_SIGTERM = "import signal, os; signal.signal(15, lambda *_: os._exit(143))\n"
"""Code after which SIGTERM ends the process; as PID 1 of its container, it would ignore SIGTERM without a handler."""


def _study_with_pod_spec(**spec: Any) -> dict[str, Any]:
    return {"pod_template": {"metadata": {}, "spec": spec}}


STUDIES: dict[str, Any] = {
    "secret-env": {"secret_env": {"PASSWORD": {"source": "not-there", "key": "password"}}},
    "claim": {"datasets": {"images": {"type": "mount", "source": "not-there", "mode": "ro"}}},
    "selector": _study_with_pod_spec(nodeSelector={"flargo.test/node": "not-there"}),
    "account": _study_with_pod_spec(serviceAccountName=MISSING_ACCOUNT),
}


@dataclass
class RowRun:
    """The run of one row with one launcher."""

    job: ClientJob
    site: Site
    cluster: Cluster
    wire: Wire | None
    account: str
    """Service account of the launcher."""
    resource: str
    """The resource that the launcher creates for a job: pods or workflows."""
    complaint: str = ""
    """Damage that the launcher did to somebody else's object."""

    @property
    def active_wire(self) -> Wire:
        """The wire, in rows that have one."""
        assert self.wire is not None
        return self.wire


FaultAction = Callable[[RowRun], float | None]
"""Causes the fault, and returns when it happened; None if the pod's status shows that."""
_SUCCEEDED = frozenset({RunStatus.FINISHED_COMPLETED.value})
_FAILED = frozenset({RunStatus.FINISHED_EXECUTION_EXCEPTION.value})
_FAILED_OR_ABNORMAL = _FAILED | {RunStatus.FINISHED_ABNORMAL.value}
_NEVER_STARTED = _FAILED_OR_ABNORMAL | {RunStatus.FAILED_TO_RUN.value}
_ABORTED = frozenset({RunStatus.FINISHED_ABORTED.value})
_ANY = frozenset(status.value for status in RunStatus)


def _do_nothing(_: RowRun) -> None:
    """Cause no fault: the job's own code, or its specification, is the fault."""


@dataclass(frozen=True)
class Row:
    """A fault, and the statuses with which FLARE's job may end."""

    name: str
    right: str
    """The right statuses, as text for the table."""
    statuses: frozenset[str]
    """The right statuses of FLARE's job."""
    code: str = SLEEPS
    spec: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    prepare: Callable[[RowRun], None] = _do_nothing
    cause: FaultAction = _do_nothing
    follow_up: Callable[[RowRun], None] = _do_nothing
    symptom: Callable[[Object], bool] | None = pod_watch.has_exited
    """The condition of the pod that shows when the fault happened; None: it happened with the launch."""
    has_listener: bool = True
    """True if a parent waits for the job, so that FLARE can learn of its end."""
    must_end: bool = False
    """True if leftovers make the result wrong, unless the job completes."""
    needs_wire: bool = False
    timeout: float = 60.0
    """Seconds within which FLARE should learn of the end."""


# --- the faults


def _kill_program(run: RowRun) -> None:
    run.job.wait_until_running()
    for pid in run.cluster.processes(run.job.id):
        if Path(f"/proc/{pid}/exe").readlink().name.startswith("python"):
            os.kill(pid, signal.SIGKILL)


def _evict(run: RowRun) -> None:
    run.job.wait_until_running()
    run.cluster.evict(run.job.pod)


def _delete_pod(run: RowRun) -> None:
    run.job.wait_until_running()
    run.cluster.delete("pod", run.job.pod)


def _abort(run: RowRun) -> float:
    return run.job.wait_until_running().abort()


def _abort_while_pending(run: RowRun) -> float:
    run.job.wait_for(pod_watch.is_stuck)
    return run.job.abort()


def _clean_up(run: RowRun) -> float:
    return run.job.wait_until_running().cleanup()


def _lose_create_reply(run: RowRun) -> None:
    run.active_wire.lose_reply(Match("create", run.resource))


def _exit_unless_launch_failed(run: RowRun) -> float | None:
    """Let the job run to its end, unless FLARE was told that its launch failed."""
    if run.job.wait_for_report(20):
        return run.job.launch_start
    run.job.wait_until_running().exit_program(0)
    return None


def _exit_during_outage(run: RowRun) -> float:
    run.job.wait_until_running().exit_program(0, after=5)
    run.active_wire.stop_answering()
    time.sleep(OUTAGE_SECONDS)
    assert not run.job.wait_for_report(0), "nobody can know yet"
    run.active_wire.resume_answering()
    return time.monotonic()


def _exit_while_throttled(run: RowRun) -> float:
    run.job.wait_until_running().exit_program(0, after=1)
    throttle = run.active_wire.answer_with_status(Match(), 429, retry_after=1, times=float("inf"))
    run.active_wire.cut_watches()
    time.sleep(THROTTLE_SECONDS)
    throttle.disarm()
    return time.monotonic()


def _rotate_token(run: RowRun) -> None:
    """Rotate the token as the kubelet does: the new token exists long before the old one is refused."""
    run.job.wait_until_running()
    old, new = read_token(run.site.kubeconfig), run.cluster.kubectl("create", "token", run.account)
    run.active_wire.kubeconfig(run.site.kubeconfig, new)
    (run.site.root / "token").write_text(new)
    time.sleep(TOKEN_OVERLAP_SECONDS)
    # The stock launcher's client writes "bearer".
    for scheme in ("", "bearer "):
        run.active_wire.answer_with_status(Match(token=scheme + old), 401, times=float("inf"))
    run.active_wire.cut_watches()
    run.job.exit_program(0)


def _restart_parent(run: RowRun) -> float:
    run.job.wait_until_running()
    run.site.restart_parent()
    return time.monotonic()


def _occupy_name(run: RowRun) -> None:
    """Create somebody else's object with the job's name, of the kind that the launcher creates."""
    meta = {"name": run.job.name, "namespace": run.cluster.target.namespace, "labels": {FOREIGN: "true"}}
    run.cluster.create({**_foreign_object(run.resource, run.cluster.target.job_image), "metadata": meta})


def _free_name(run: RowRun) -> None:
    """Complain if the launcher ended somebody else's object, then delete it."""
    kind = "workflows.argoproj.io" if run.resource == "workflows" else "pods"
    items = [item for item in run.cluster.items(kind, FOREIGN) if item["metadata"]["name"] == run.job.name]
    if not items or "deletionTimestamp" in items[0]["metadata"] or "shutdown" in items[0]["spec"]:
        run.complaint = "ended somebody else's object"
    run.cluster.kubectl("delete", kind, run.job.name, "--ignore-not-found", "--wait=false")


def _foreign_object(resource: str, image: str) -> Object:
    sleeps = {"image": image, "command": ["sleep", "3600"]}
    if resource == "workflows":
        spec: Object = {"suspend": True, "entrypoint": "x", "templates": [{"name": "x", "container": sleeps}]}
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": spec}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "main", "imagePullPolicy": "IfNotPresent", "securityContext": security, **sleeps}
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"securityContext": pod, "containers": [container]}}


# --- the rows

_OWN_FAILURE = "failed: its own end"
_NOT_ABORTED = "failed or abnormal: nobody aborted it"
_DID_NOT_RUN = "failed or abnormal: it never ran"
_FILLS_DISK = "import time\nwith open('/tmp/big', 'wb') as big: big.write(b'x' * 2**26)\ntime.sleep(3600)\n"
_FILLS_MEMORY = "blocks = [b'x' * 2**20 for _ in range(1000)]\n"
_HUGE = {"cpu": "900"}

ROWS = (
    Row("exit code 0", "completed", _SUCCEEDED, exits(0)),
    *(Row(f"exit code {code}", _OWN_FAILURE, _FAILED, exits(code)) for code in (1, 3, 9, 101, 104, 127)),
    Row("program killed by SIGKILL on its node", _NOT_ABORTED, _FAILED_OR_ABNORMAL, cause=_kill_program),
    Row("out of memory", _NOT_ABORTED, _FAILED_OR_ABNORMAL, _FILLS_MEMORY, {"memory": "100Mi"}),
    Row(
        "more on disk than its limit",
        _NOT_ABORTED,
        _FAILED_OR_ABNORMAL,
        _FILLS_DISK,
        {"ephemeral_storage": "20Mi"},
        timeout=180,
    ),
    Row(
        "evicted by the API, as by a drain",
        _NOT_ABORTED,
        _FAILED_OR_ABNORMAL,
        EXITS_ON_SIGTERM + SLEEPS,
        cause=_evict,
        symptom=pod_watch.is_terminating,
    ),
    Row(
        "pod deleted by somebody",
        _NOT_ABORTED,
        _FAILED_OR_ABNORMAL,
        EXITS_ON_SIGTERM + SLEEPS,
        cause=_delete_pod,
        symptom=pod_watch.is_terminating,
    ),
    Row(
        "image missing",
        _DID_NOT_RUN,
        _NEVER_STARTED,
        spec={"image": "flargo.test/job:not-there"},
        symptom=pod_watch.is_stuck,
    ),
    Row("Secret of a variable missing", _DID_NOT_RUN, _NEVER_STARTED, study="secret-env", symptom=pod_watch.is_stuck),
    Row("claim missing", _DID_NOT_RUN, _NEVER_STARTED, study="claim", symptom=pod_watch.is_stuck),
    Row("selects a node that is not there", _DID_NOT_RUN, _NEVER_STARTED, study="selector", symptom=pod_watch.is_stuck),
    Row(
        "not enough cpu, 5 s of patience",
        _DID_NOT_RUN,
        _NEVER_STARTED,
        spec={**_HUGE, "pending_timeout": 5},
        symptom=pod_watch.is_stuck,
    ),
    Row("service account missing", _DID_NOT_RUN, _NEVER_STARTED, study="account", symptom=None),
    Row(
        "aborted, heeds SIGTERM",
        "aborted",
        _ABORTED,
        EXITS_ON_SIGTERM + SLEEPS,
        cause=_abort,
    ),
    Row("aborted, deaf to SIGTERM", "aborted", _ABORTED, IGNORES_SIGTERM + SLEEPS, cause=_abort),
    Row(
        "aborted while pending, default patience",
        "aborted",
        _ABORTED,
        spec=_HUGE,
        cause=_abort_while_pending,
        timeout=150,
    ),
    Row(
        "cleaned up by FLARE's heartbeat, deaf",
        "ended; the status is the server's",
        _ANY,
        IGNORES_SIGTERM + SLEEPS,
        cause=_clean_up,
    ),
    Row(
        "the answer to the create is lost",
        "completed; or never started, and then nothing runs",
        _SUCCEEDED | _NEVER_STARTED,
        EXITS_ON_REQUEST,
        prepare=_lose_create_reply,
        cause=_exit_unless_launch_failed,
        must_end=True,
        needs_wire=True,
    ),
    Row(
        "API away for 30 s, the program ends meanwhile with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        cause=_exit_during_outage,
        needs_wire=True,
    ),
    Row(
        "429 to everything for 10 s, it ends meanwhile with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        cause=_exit_while_throttled,
        needs_wire=True,
    ),
    Row(
        "token rotated, the old one refused, it ends then with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        cause=_rotate_token,
        needs_wire=True,
        timeout=120,
    ),
    Row(
        "parent killed, and back",
        "nobody hears; ended, since its tokens died with the parent",
        _ANY,
        EXITS_ON_SIGTERM + SLEEPS,
        cause=_restart_parent,
        has_listener=False,
        must_end=True,
    ),
    Row(
        "its name is that of somebody's living object",
        "failed or abnormal, and that object lives on",
        _NEVER_STARTED,
        prepare=_occupy_name,
        follow_up=_free_name,
        symptom=None,
    ),
)
"""All rows, in the order of the table."""
