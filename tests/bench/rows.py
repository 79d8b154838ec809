"""The faults that both launchers meet: what happens, and what FLARE's job should end as.

A row names no launcher. What is right is a set of FLARE's statuses, the widest that is true: of a program that failed
on its own, "failed"; of one that something else ended, anything but that it succeeded or that somebody aborted it.
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
from tests.bench.run import Run
from tests.harness.cluster import Cluster
from tests.harness.real_cluster.apply import NOT_THERE
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, Site, exits, read_token
from tests.harness.wire import Match, Wire

Object = dict[str, Any]
OUTAGE = 30.0
"""Seconds."""
STORM = 10.0
"""Seconds."""
OVERLAP = 70.0
"""Seconds for which a token and the next one are valid; the kubelet gives ten minutes."""
HEEDS = "import signal, os; signal.signal(15, lambda *_: os._exit(143))\n"
"""Code after which SIGTERM ends the process: as PID 1 of its container, it would not without a handler."""


def _of_template(**spec: Any) -> dict[str, Any]:
    """A study whose pod template has a spec."""
    return {"pod_template": {"metadata": {}, "spec": spec}}


STUDIES: dict[str, Any] = {
    "secret-env": {"secret_env": {"PASSWORD": {"source": "not-there", "key": "password"}}},
    "claim": {"datasets": {"images": {"type": "mount", "source": "not-there", "mode": "ro"}}},
    "selector": _of_template(nodeSelector={"flargo.test/node": "not-there"}),
    "account": _of_template(serviceAccountName=NOT_THERE),
}


@dataclass
class Play:
    """One row with one launcher."""

    run: Run
    site: Site
    cluster: Cluster
    wire: Wire | None
    account: str
    """of the launcher"""
    job: str
    """The resource that a job is made as."""
    complaint: str = ""
    """What was done to others."""

    @property
    def cut(self) -> Wire:
        """The wire, in rows that have one."""
        assert self.wire is not None
        return self.wire


Scene = Callable[[Play], float | None]
"""Makes it happen; when it did, unless the cluster shows that."""
_SUCCEEDED = frozenset({RunStatus.FINISHED_COMPLETED.value})
_FAILED = frozenset({RunStatus.FINISHED_EXECUTION_EXCEPTION.value})
_LOST = _FAILED | {RunStatus.FINISHED_ABNORMAL.value}
_NEVER_STARTED = _LOST | {RunStatus.FAILED_TO_RUN.value}
_ABORTED = frozenset({RunStatus.FINISHED_ABORTED.value})
_ANY = frozenset(status.value for status in RunStatus)


def _nothing(_: Play) -> None:
    """The job's own code, or its specification, is the fault."""


@dataclass(frozen=True)
class Row:
    """A fault."""

    name: str
    right: str
    allowed: frozenset[str]
    """FLARE's statuses."""
    runs: str = SLEEPS
    spec: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    before: Callable[[Play], None] = _nothing
    scene: Scene = _nothing
    after: Callable[[Play], None] = _nothing
    shown: Callable[[Object], bool] | None = pod_watch.ended
    """What shows, on the pod, that it has happened; None: the launch itself."""
    heard: bool = True
    """Whether there is somebody to hear of it."""
    ended: bool = False
    """Whether what is left makes it wrong, unless the job completes."""
    wire: bool = False
    within: float = 60.0
    """Seconds that FLARE is given to hear of it."""


# --- what is done


def _killed(play: Play) -> None:
    play.run.runs()
    for pid in play.cluster.processes(play.run.id):
        if Path(f"/proc/{pid}/exe").readlink().name.startswith("python"):
            os.kill(pid, signal.SIGKILL)


def _evicted(play: Play) -> None:
    play.run.runs()
    play.cluster.evict(play.run.pod)


def _deleted(play: Play) -> None:
    play.run.runs()
    play.cluster.delete("pod", play.run.pod)


def _aborted(play: Play) -> float:
    return play.run.runs().abort()


def _aborted_while_pending(play: Play) -> float:
    play.run.shows(pod_watch.stuck)
    return play.run.abort()


def _cleaned_up(play: Play) -> float:
    return play.run.runs().cleanup()


def _reply_lost(play: Play) -> None:
    play.cut.lose_reply(Match("create", play.job))


def _ends_unless_heard(play: Play) -> float | None:
    """It may have been told that the launch has failed; else the job is to go on to its end."""
    if play.run.hears(20):
        return play.run.begun_at
    play.run.runs().ends_itself(0)
    return None


def _api_away(play: Play) -> float:
    play.run.runs().ends_itself(0, after=5)
    play.cut.stop_answering()
    time.sleep(OUTAGE)
    assert not play.run.hears(0), "nobody can know yet"
    play.cut.resume_answering()
    return time.monotonic()


def _throttled(play: Play) -> float:
    play.run.runs().ends_itself(0, after=1)
    storm = play.cut.answer_with_status(Match(), 429, retry_after=1, times=float("inf"))
    play.cut.cut_watches()
    time.sleep(STORM)
    storm.disarm()
    return time.monotonic()


def _rotated(play: Play) -> None:
    """As the kubelet does: the new token is there long before the old one is refused."""
    play.run.runs()
    old, new = read_token(play.site.kubeconfig), play.cluster.kubectl("create", "token", play.account)
    play.cut.kubeconfig(play.site.kubeconfig, new)
    (play.site.root / "token").write_text(new)
    time.sleep(OVERLAP)
    # The stock launcher's client writes "bearer".
    for word in ("", "bearer "):
        play.cut.answer_with_status(Match(token=word + old), 401, times=float("inf"))
    play.cut.cut_watches()
    play.run.ends_itself(0)


def _parent_killed(play: Play) -> float:
    play.run.runs()
    play.site.restart_parent()
    return time.monotonic()


def _name_taken(play: Play) -> None:
    meta = {"name": play.run.name, "namespace": play.cluster.target.namespace, "labels": {FOREIGN: "true"}}
    play.cluster.create({**_living(play, play.cluster.target.job_image), "metadata": meta})


def _name_given_back(play: Play) -> None:
    kind = "workflows.argoproj.io" if play.job == "workflows" else "pods"
    here = [item for item in play.cluster.items(kind, FOREIGN) if item["metadata"]["name"] == play.run.name]
    if not here or "deletionTimestamp" in here[0]["metadata"] or "shutdown" in here[0]["spec"]:
        play.complaint = "ended somebody else's object"
    play.cluster.kubectl("delete", kind, play.run.name, "--ignore-not-found", "--wait=false")


def _living(play: Play, image: str) -> Object:
    """What somebody else has, of the kind that a job is made as."""
    sleeps = {"image": image, "command": ["sleep", "3600"]}
    if play.job == "workflows":
        spec: Object = {"suspend": True, "entrypoint": "x", "templates": [{"name": "x", "container": sleeps}]}
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": spec}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "main", "imagePullPolicy": "IfNotPresent", "securityContext": security, **sleeps}
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"securityContext": pod, "containers": [container]}}


# --- the rows

_ITS_OWN = "failed: its own end"
_NOBODY = "failed or abnormal: nobody aborted it"
_CANNOT = "failed or abnormal: it never ran"
_BIG = "import time\nwith open('/tmp/big', 'wb') as big: big.write(b'x' * 2**26)\ntime.sleep(3600)\n"
_HUNGRY = "held = [b'x' * 2**20 for _ in range(1000)]\n"
_HUGE = {"cpu": "900"}

ROWS = (
    Row("exit code 0", "completed", _SUCCEEDED, exits(0)),
    *(Row(f"exit code {code}", _ITS_OWN, _FAILED, exits(code)) for code in (1, 3, 9, 101, 104, 127)),
    Row("program killed by SIGKILL on its node", _NOBODY, _LOST, scene=_killed),
    Row("out of memory", _NOBODY, _LOST, _HUNGRY, {"memory": "100Mi"}),
    Row("more on disk than its limit", _NOBODY, _LOST, _BIG, {"ephemeral_storage": "20Mi"}, within=180),
    Row("evicted by the API, as by a drain", _NOBODY, _LOST, HEEDS + SLEEPS, scene=_evicted, shown=pod_watch.leaving),
    Row("pod deleted by somebody", _NOBODY, _LOST, HEEDS + SLEEPS, scene=_deleted, shown=pod_watch.leaving),
    Row(
        "image missing",
        _CANNOT,
        _NEVER_STARTED,
        spec={"image": "flargo.test/job:not-there"},
        shown=pod_watch.stuck,
    ),
    Row("Secret of a variable missing", _CANNOT, _NEVER_STARTED, study="secret-env", shown=pod_watch.stuck),
    Row("claim missing", _CANNOT, _NEVER_STARTED, study="claim", shown=pod_watch.stuck),
    Row("selects a node that is not there", _CANNOT, _NEVER_STARTED, study="selector", shown=pod_watch.stuck),
    Row(
        "not enough cpu, 5 s of patience",
        _CANNOT,
        _NEVER_STARTED,
        spec={**_HUGE, "pending_timeout": 5},
        shown=pod_watch.stuck,
    ),
    Row("service account missing", _CANNOT, _NEVER_STARTED, study="account", shown=None),
    Row(
        "aborted, heeds SIGTERM",
        "aborted",
        _ABORTED,
        HEEDS + SLEEPS,
        scene=_aborted,
    ),
    Row("aborted, deaf to SIGTERM", "aborted", _ABORTED, IGNORES_SIGTERM + SLEEPS, scene=_aborted),
    Row(
        "aborted while pending, default patience",
        "aborted",
        _ABORTED,
        spec=_HUGE,
        scene=_aborted_while_pending,
        within=150,
    ),
    Row(
        "cleaned up by FLARE's heartbeat, deaf",
        "ended; the status is the server's",
        _ANY,
        IGNORES_SIGTERM + SLEEPS,
        scene=_cleaned_up,
    ),
    Row(
        "the answer to the create is lost",
        "completed; or never started, and then nothing runs",
        _SUCCEEDED | _NEVER_STARTED,
        EXITS_ON_REQUEST,
        before=_reply_lost,
        scene=_ends_unless_heard,
        ended=True,
        wire=True,
    ),
    Row(
        "API away for 30 s, the program ends meanwhile with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        scene=_api_away,
        wire=True,
    ),
    Row(
        "429 to everything for 10 s, it ends meanwhile with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        scene=_throttled,
        wire=True,
    ),
    Row(
        "token rotated, the old one refused, it ends then with 0",
        "completed",
        _SUCCEEDED,
        EXITS_ON_REQUEST,
        scene=_rotated,
        wire=True,
        within=120,
    ),
    Row(
        "parent killed, and back",
        "nobody hears; ended, since its tokens died with the parent",
        _ANY,
        HEEDS + SLEEPS,
        scene=_parent_killed,
        heard=False,
        ended=True,
    ),
    Row(
        "its name is that of somebody's living object",
        "failed or abnormal, and that object lives on",
        _NEVER_STARTED,
        before=_name_taken,
        after=_name_given_back,
        shown=None,
    ),
)
"""The order of the table."""
