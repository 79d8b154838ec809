"""Follow one job as FLARE's client does, with either launcher, and observe it from outside."""

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
from tests.bench.pod_watch import Object, PodWatch
from tests.harness.cluster import Cluster, eventually
from tests.harness.site import START_SECONDS, Site


class ClientJob:
    """A job that is launched and waited for as nvflare's ClientExecutor does."""

    def __init__(self, site: Site, watch: PodWatch, *, study: str, spec: Mapping[str, Any], code: str) -> None:
        """Prepare a job; nothing is launched yet."""
        self.id = str(uuid.uuid4())
        self.name = nvflare_internals.pod_name(nvflare_internals.job_key(self.id), site.name)
        """Name of its pod with the stock launcher, and of its Workflow and pod with flargo."""
        self.return_code: int | None = None
        """The return code that FLARE got."""
        self.launch_error: BaseException | None = None
        """The exception that launch_job raised."""
        self.reported_at: float | None = None
        """When FLARE got the return code or the exception."""
        self.launched_at: float | None = None
        """When launch_job returned."""
        self.launch_start = time.monotonic()
        self.is_aborted = False
        self._site, self._cluster, self._watch = site, site.cluster, watch
        self._handle = _PendingJobHandle()
        self._reported = threading.Event()
        self._meta = {
            "job_id": self.id,
            "name": "fault",
            "launcher_spec": {site.name: {"k8s": {"image": site.target.job_image, **spec}}},
            **({"study": study} if study else {}),
        }
        # The job's id in the code identifies the job's processes on the node.
        self._code = f"job = '{self.id}'\n{code}"

    def launch(self, *, wait: bool) -> None:
        """Launch the job in a thread, which then waits for it if ``wait`` is true (a killed parent would not)."""
        self.launch_start = time.monotonic()
        threading.Thread(target=self._follow, args=(wait,), name=f"follow {self.name}", daemon=True).start()

    def wait_for_report(self, timeout: float) -> bool:
        """Wait until FLARE has the job's end, and return whether it has."""
        return self._reported.wait(timeout)

    def abort(self) -> float:
        """Abort the job as a person does, and return the time."""
        self.is_aborted = True
        return self._terminate(heartbeat_cleanup=False)

    def cleanup(self) -> float:
        """Terminate the job as FLARE's heartbeat does, and return the time."""
        return self._terminate(heartbeat_cleanup=True)

    def wait_until_running(self) -> "ClientJob":
        """Wait until the job's code runs and says so, and FLARE has its handle."""
        self.wait_for(pod_watch.is_running)
        eventually(lambda: self.launched_at is not None, START_SECONDS, f"launch_job of {self.name} returns")
        eventually(self._is_ready, START_SECONDS, f"{self.name} says ready")
        return self

    def wait_for(self, condition: Any) -> None:
        """Wait until a condition is true of the job's pod."""
        what = f"{condition.__name__}: {self.name}"
        eventually(lambda: self._watch.first_time(self.name, condition) is not None, START_SECONDS, what)

    @property
    def pod(self) -> Object:
        """The job's only pod."""
        (pod,) = self._watch.pods(self.name)
        return pod

    def exit_program(self, code: int, after: float = 0) -> None:
        """Make the code EXITS_ON_REQUEST exit, from outside and without the launcher."""
        write = f"echo {code} {after} > /tmp/end.new && mv /tmp/end.new /tmp/end"
        name, container = self.pod["metadata"]["name"], pod_watch.program_container(self.pod)
        self._cluster.kubectl("exec", name, f"--container={container}", "--", "sh", "-c", write)

    def leftovers(self) -> list[str]:
        """Return what remains of the job that runs, may run, or holds its credentials."""
        workflows = self._cluster.items("workflows.argoproj.io", f"flargo.dev/job-id={self.id}")
        unfinished = [item for item in workflows if (item.get("status") or {}).get("phase") not in _FINAL_PHASES]
        pods = [pod for pod in self._watch.pods(self.name) if pod_watch.may_run(pod)]
        return [
            *("Workflow" for _ in unfinished),
            *(f"pod ({pod_watch.describe_running(pod)})" for pod in pods),
            *("credentials" for _ in self._cluster.secrets(f"nvflare-cred-{self.name}")),
            *("process" for _ in self._cluster.processes(self.id)[:1]),
        ]

    def status(self) -> str:
        """Return the status that FLARE's job ends with; empty if FLARE has no end of it yet."""
        if self.launch_error is not None:
            return str(RunStatus.FAILED_TO_RUN.value)
        return "" if self.return_code is None else final_status(self.return_code, aborted=self.is_aborted)

    def _follow(self, wait: bool) -> None:  # noqa: FBT001
        try:
            handle = self._site._launch(self._meta, self._code)
        except Exception as error:  # noqa: BLE001  (FLARE's client reports that it could not start the job)
            self.launch_error, self.reported_at = error, time.monotonic()
            self._reported.set()
            return
        self.launched_at = time.monotonic()
        # An abort that came before the launch returned is carried out now.
        heartbeat_cleanup = self._handle.attach(handle)
        if heartbeat_cleanup is not None:
            self._handle.terminate(heartbeat_cleanup=heartbeat_cleanup)
        if wait:
            self._handle.wait()
            self.reported_at = time.monotonic()
            self.return_code = int(self._handle.poll())
            self._reported.set()

    def _terminate(self, *, heartbeat_cleanup: bool) -> float:
        at = time.monotonic()
        self._handle.terminate(heartbeat_cleanup=heartbeat_cleanup)
        return at

    def _is_ready(self) -> bool:
        pods = self._watch.pods(self.name)
        return bool(pods) and "ready" in _log(self._cluster, pods[0])


_FINAL_PHASES = {"Succeeded", "Failed", "Error"}


def _log(cluster: Cluster, pod: Object) -> str:
    try:
        return cluster.kubectl("logs", pod["metadata"]["name"], f"--container={pod_watch.program_container(pod)}")
    except AssertionError:
        return ""


def final_status(code: int, *, aborted: bool) -> str:
    """Return the status of FLARE 2.9's job if this return code is all that FLARE learns of a site's process.

    ClientExecutor._wait_child_process_finish reports the code, FederatedServer.process_job_failure receives it and
    JobRunner sets the status. If the client does not report a code, the site counts as having finished successfully.
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
