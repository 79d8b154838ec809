"""One job as FLARE's client follows it, whatever the launcher, and what is seen of it from outside."""

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.job_def import RunStatus
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.private.fed.client.client_executor import REPORTABLE_JOB_FAILURES, _PendingJobHandle
from nvflare.private.fed.server.job_runner import JobRunner

from flargo.flare import nvflare_internals
from tests.bench import pod_watch
from tests.bench.pod_watch import Object, Seen
from tests.harness.cluster import Cluster, eventually
from tests.harness.site import START_SECONDS, Site


class Run:
    """A job, launched and waited for as nvflare's ClientExecutor does."""

    def __init__(self, site: Site, sights: Seen, *, study: str, spec: Mapping[str, Any], code: str) -> None:
        """Nothing is launched yet."""
        self.id = str(uuid.uuid4())
        self.name = nvflare_internals.pod_name(nvflare_internals.job_key(self.id), site.name)
        """Of its pod with the stock launcher, of its Workflow and pod with flargo's."""
        self.code: int | None = None
        """What FLARE has heard."""
        self.problem: BaseException | None = None
        """What launch_job raised."""
        self.heard_at: float | None = None
        self.launched_at: float | None = None
        self.begun_at = time.monotonic()
        self.aborted = False
        self._site, self._world, self._sights = site, site.cluster, sights
        self._handle = _PendingJobHandle()
        self._heard = threading.Event()
        self._meta = {
            "job_id": self.id,
            "name": "fault",
            "launcher_spec": {site.name: {"k8s": {"image": site.target.job_image, **spec}}},
            **({"study": study} if study else {}),
        }
        # So that a process can be told to be this job's, wherever it is seen.
        self._marked = f"job = '{self.id}'\n{code}"

    def launch(self, *, wait: bool) -> None:
        """Have it launched, in a thread; ``wait``: and waited for, which its parent's death would end."""
        self.begun_at = time.monotonic()
        threading.Thread(target=self._follow, args=(wait,), name=f"follow {self.name}", daemon=True).start()

    def hears(self, within: float) -> bool:
        """Whether FLARE hears of its end in that time."""
        return self._heard.wait(within)

    def abort(self) -> float:
        """A person aborts it; when that was."""
        self.aborted = True
        return self._terminate(heartbeat_cleanup=False)

    def cleanup(self) -> float:
        """FLARE's heartbeat cleans it up; when that was."""
        return self._terminate(heartbeat_cleanup=True)

    def runs(self) -> "Run":
        """Wait until its code runs and says so, and FLARE holds it."""
        self.shows(pod_watch.runs)
        eventually(lambda: self.launched_at is not None, START_SECONDS, f"launch_job of {self.name} returns")
        eventually(self._is_ready, START_SECONDS, f"{self.name} says ready")
        return self

    def shows(self, true: Any) -> float:
        """Wait until the cluster shows something of its pod; when it did."""
        eventually(
            lambda: self._sights.first(self.name, true) is not None, START_SECONDS, f"{true.__name__}: {self.name}"
        )
        at = self._sights.first(self.name, true)
        assert at is not None
        return at

    @property
    def pod(self) -> Object:
        """The only one."""
        (found,) = self._sights.pods(self.name)
        return found

    def ends_itself(self, code: int, after: float = 0) -> None:
        """Have the code WAITS end, from outside and by no means of a launcher's."""
        write = f"echo {code} {after} > /tmp/end.new && mv /tmp/end.new /tmp/end"
        name, container = self.pod["metadata"]["name"], pod_watch.program(self.pod)
        self._world.kubectl("exec", name, f"--container={container}", "--", "sh", "-c", write)

    def left(self) -> list[str]:
        """What of it runs, may run, or holds its credentials."""
        workflows = self._world.items("workflows.argoproj.io", f"flargo.dev/job-id={self.id}")
        living = [item for item in workflows if (item.get("status") or {}).get("phase") not in _OVER]
        return [
            *("Workflow" for _ in living),
            *(f"pod ({pod_watch.alive(pod)})" for pod in self._sights.pods(self.name) if pod_watch.may_run(pod)),
            *("credentials" for _ in self._world.secrets(f"nvflare-cred-{self.name}")),
            *("process" for _ in self._world.processes(self.id)[:1]),
        ]

    def status(self) -> str:
        """What FLARE's job ends as."""
        if self.problem is not None:
            return str(RunStatus.FAILED_TO_RUN.value)
        return "" if self.code is None else status_of(self.code, aborted=self.aborted)

    def _follow(self, wait: bool) -> None:  # noqa: FBT001
        try:
            handle = self._site._launch(self._meta, self._marked)
        except Exception as problem:  # noqa: BLE001  (FLARE's client says it could not start the job)
            self.problem, self.heard_at = problem, time.monotonic()
            self._heard.set()
            return
        self.launched_at = time.monotonic()
        asked = self._handle.attach(handle)
        if asked is not None:
            self._handle.terminate(heartbeat_cleanup=asked)
        if wait:
            self._handle.wait()
            self.heard_at = time.monotonic()
            self.code = int(self._handle.poll())
            self._heard.set()

    def _terminate(self, *, heartbeat_cleanup: bool) -> float:
        at = time.monotonic()
        self._handle.terminate(heartbeat_cleanup=heartbeat_cleanup)
        return at

    def _is_ready(self) -> bool:
        pods = self._sights.pods(self.name)
        return bool(pods) and "ready" in _log(self._world, pods[0])


_OVER = {"Succeeded", "Failed", "Error"}


def _log(cluster: Cluster, pod: Object) -> str:
    try:
        return cluster.kubectl("logs", pod["metadata"]["name"], f"--container={pod_watch.program(pod)}")
    except AssertionError:
        return ""


def status_of(code: int, *, aborted: bool) -> str:
    """What FLARE 2.9's job ends as when this is all that a site's process says of its end.

    As ClientExecutor._wait_child_process_finish reports it, FederatedServer.process_job_failure takes it and
    JobRunner sets the status. A code that the client does not report counts as a site that has finished well.
    """
    if aborted:
        return str(RunStatus.FINISHED_ABORTED.value)
    if code == JobReturnCode.EXECUTION_ERROR:
        code = ProcessExitCode.EXCEPTION
    if code not in REPORTABLE_JOB_FAILURES:
        return str(RunStatus.FINISHED_COMPLETED.value)
    if code == ProcessExitCode.UNSAFE_COMPONENT:
        return str(RunStatus.FINISHED_ABORTED.value)
    return str(JobRunner._classify_finished_job_status({RunProcessKey.PROCESS_RETURN_CODE: code}).value)
