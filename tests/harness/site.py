"""A site of a federation that does not exist: the real launcher, and the least of a FLARE parent that it needs.

A job runs any Python code. The launcher knows only FLARE's own command lines, so the job's process is the standard
library's ``timeit``, and the code is the value of an option (``-s``) that FLARE uses for something else. Code ends its
process as :func:`exits` does, because ``timeit`` catches ``SystemExit``.
"""

import base64
import secrets
import shutil
import tempfile
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.job_launcher_spec import JobProcessArgs

import flargo
from flargo.control.launched_job import LaunchedJob
from flargo.flare import nvflare_internals
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.launcher import ArgoJobLauncher
from flargo.flare.request import federation_id, read_parent
from flargo.job.names import attempt_name
from flargo.job.trust import MAX_REJOIN
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label, Role
from tests.harness import recorder
from tests.harness.cluster import Cluster, eventually
from tests.harness.differential.parent import Cell, Parent
from tests.harness.server_jobs import ServerJobs
from tests.harness.wire import Route, Wire

IGNORES_SIGTERM = "import signal; signal.signal(15, signal.SIG_IGN)\n"
"""Code after which its process ignores SIGTERM."""
SLEEPS = "print('ready', flush=True)\nimport time; time.sleep(3600)\n"
"""Code that prints ``ready`` when it starts, and runs until something ends it."""
EXITS_ON_REQUEST = """\
import os, time
print('ready', flush=True)
while not os.path.exists('/tmp/end'): time.sleep(0.05)
code, seconds = open('/tmp/end').read().split()
time.sleep(float(seconds))
os._exit(int(code))
"""
"""Code that prints ``ready`` when it starts, and exits when the test calls :meth:`Job.exit_program`."""
START_SECONDS = 90.0
"""The time in which a launched pod runs, on a busy machine."""
TURN_SECONDS = 90.0
"""The time in which a queued job gets its turn, starts and ends, on a busy machine."""


def first_workflow(job_id: str, site: str) -> str:
    """Return the name of the Workflow of a job's first attempt at a site."""
    return nvflare_internals.pod_name(nvflare_internals.job_key(job_id), site)


def exits(code: int) -> str:
    """Return code that exits at once with an exit code."""
    return f"import os; os._exit({code})\n"


def template_study(**spec: Any) -> dict[str, Any]:
    """Return a study whose pod template has these fields in its spec."""
    return {"pod_template": {"metadata": {}, "spec": spec}}


def read_token(kubeconfig: Path) -> str:
    """Return the token of a kubeconfig's user."""
    return str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"])


class FakeJobManager:
    """The part of FLARE's job manager that a server's launch reads: the stored status of each job."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}

    def get_job(self, job_id: str, fl_ctx: FLContext) -> Namespace:
        del fl_ctx
        return Namespace(meta={JobMetaKey.STATUS.value: self.status.get(job_id, "DISPATCHED")})


class ConnectedCell(Cell):
    """A fake of a parent's cell, which reaches FLARE's server."""

    def __init__(self, site: str, server_jobs: ServerJobs) -> None:
        super().__init__(site)
        self.core_cell = server_jobs


class FakeEngine:
    """The part of FLARE's engine that a launcher reads."""

    def __init__(self, site: str, jobs: FakeJobManager, server_jobs: ServerJobs) -> None:
        self.cell = ConnectedCell(site, server_jobs)
        self._jobs = jobs

    def get_component(self, name: str) -> FakeJobManager | None:
        return self._jobs if name == SystemComponents.JOB_MANAGER else None


class Site:
    """A parent with one launcher, in a federation of its own, until the end of its ``with``."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        wire: Wire | Route | None = None,
        role: Role = Role.CLIENT,
        root: Path | None = None,
        studies: Mapping[str, Any] | None = None,
        token: str = "",
        argo: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        """Set up a parent; it connects to the cluster for its first job.

        Args:
            cluster: where jobs run.
            wire: the proxy between the launcher and the API server, if any.
            role: which side of jobs the parent launches.
            root: the parent's workspace, perhaps with the startup kit of an earlier run; None: a new one.
            studies: ``studies`` of study_runtime.yaml.
            token: the launcher's token, if not that of the account flargo-launcher; only with a wire.
            argo: further settings of the launcher's ``argo``.
            arguments: further arguments of the launcher.
        """
        self.cluster = cluster
        self.target = cluster.target
        self.role = role
        self.name = "server" if role is Role.SERVER else "site-1"
        self.root = root or Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
        self.jobs = FakeJobManager()
        self.server_jobs = ServerJobs()
        """The server's processes of the jobs, which the launcher probes before it starts a lost job again."""
        self._engine = self._build_engine()
        certificate = self.root / "startup" / "rootCA.pem"
        kit = {"startup/rootCA.pem": certificate.read_text() if certificate.exists() else _certificate()}
        self._parent = Parent(self.root, role, self.name, files=kit, runtime=studies)
        self.kubeconfig = self.target.launcher_kubeconfig
        if wire is not None:
            user_token = token or read_token(self.target.launcher_kubeconfig)
            self.kubeconfig = wire.kubeconfig(self.root / "kubeconfig", user_token)
        self._arguments: dict[str, Any] = {
            "config_file_path": str(self.kubeconfig),
            "namespace": self.target.namespace,
            "workspace_mount_path": str(self.root),
            **arguments,
            "argo": {"image_pull_policy": "IfNotPresent", **(argo or {})},
        }
        self.launcher = self._build_launcher()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def federation(self) -> str:
        """The federation's id, as labels have it."""
        return federation_id(self.root / "startup")

    def launch(self, code: str = "", spec: Mapping[str, Any] | None = None, **more: Any) -> "Job":
        """Launch a job as FLARE does. A client's launch has returned when this returns; a server's goes on.

        Args:
            code: the Python code that the job's process runs.
            spec: the job's keys of launcher_spec, beside the image.
            more: ``study``, or the ``job_id`` of an earlier job.
        """
        job_id = more.get("job_id") or str(uuid.uuid4())
        meta = {
            "job_id": job_id,
            "name": "fault",
            "launcher_spec": {self.name: {"k8s": {"image": self.target.job_image, **(spec or {})}}},
            **({"study": more["study"]} if "study" in more else {}),
        }
        # The id in the command line identifies the job's processes, wherever they are seen.
        marked_code = f"job = '{job_id}'\n{code}"
        return Job(self, job_id, lambda: self._launch(meta, marked_code))

    def _launch(self, meta: dict[str, Any], code: str) -> ArgoJobHandle:
        context = self._context(meta["job_id"], code)
        return self.launcher.launch_job(meta, context)

    def complete(self, job_id: str, status: str = "FINISHED:COMPLETED") -> None:
        """Store the final status of a server's job, and fire the event with which FLARE ends the job."""
        self.jobs.status.setdefault(job_id, status)
        context = FLContext()
        context.set_prop(ReservedKey.ENGINE, self._engine, private=True, sticky=False)
        context.set_prop(FLContextKey.EVENT_DATA, {JobMetaKey.JOB_ID.value: job_id}, private=True, sticky=False)
        self.launcher.handle_event(EventType.JOB_COMPLETED, context)

    def shut_down(self) -> None:
        """Shut the parent down as FLARE does."""
        self.launcher.handle_event(EventType.SYSTEM_END, self._context("none", ""))

    def restart_parent(self) -> None:
        """Replace the launcher as if the parent's process was killed and restarted, without ending its jobs."""
        loop = self.launcher._loop
        assert loop is not None
        loop._is_ending.set()
        loop._stop_watching.set()
        loop._inputs.put(None)
        for job in loop._jobs.values():
            # The old launcher's submit goes on in a thread of this process: it must send no more requests.
            job.cancelled.set()
        self.launcher = self._build_launcher()
        self.launcher.handle_event(EventType.SYSTEM_START, self._context("none", ""))

    def leave_unreleased_workflow(self) -> str:
        """Leave a Workflow as a parent does that dies during a launch; return the Workflow's name."""
        job = self.launch(exits(0))
        job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        job.expect_nothing_left()
        workflow = job.workflow
        meta = workflow["metadata"]
        annotations = {key: value for key, value in meta["annotations"].items() if key != "flargo.dev/released"}
        labels = {key: value for key, value in meta["labels"].items() if not key.startswith("workflows.argoproj.io")}
        labels[str(Label.PARENT)] = self.launcher._epoch
        name = f"{meta['name'][:50]}-left"
        new_meta = {"name": name, "labels": labels, "annotations": {**annotations, "flargo.dev/attempt": "left"}}
        self.shut_down()
        head = {key: workflow[key] for key in ("apiVersion", "kind")}
        self.cluster.create({**head, "metadata": new_meta, "spec": {**workflow["spec"], "suspend": True}})
        return name

    def close(self) -> None:
        """Shut the parent down, and delete everything that it created, so that other tests do not meet it."""
        self.shut_down()
        self.cluster.delete_by_label(f"{Label.FEDERATION}={self.federation}")
        shutil.rmtree(self.root, ignore_errors=True)

    def _build_engine(self) -> Any:
        """Return what the launcher gets as FLARE's engine."""
        return FakeEngine(self.name, self.jobs, self.server_jobs)

    def _build_launcher(self) -> ArgoJobLauncher:
        kind = flargo.ServerArgoJobLauncher if self.role is Role.SERVER else flargo.ClientArgoJobLauncher
        launcher: ArgoJobLauncher = kind(**self._arguments)
        if recorder.is_enabled():
            parent = read_parent(self._context("none", ""), self.role, launcher._epoch)
            recorder.attach(launcher._get_loop(parent)._reconciler)
        return launcher

    def follows(self, name: str) -> bool:
        """Return whether the launcher tracks an attempt of the job whose first Workflow has this name."""
        loop = self.launcher._loop
        names = {attempt_name(name, number) for number in range(1, MAX_REJOIN + 2)}
        return loop is not None and not names.isdisjoint(list(loop._jobs))

    def find_launched_job(self, name: str) -> LaunchedJob | None:
        """Return the launcher's record of a job by its Workflow's name; None if it does not track the job."""
        loop = self.launcher._loop
        job = loop._jobs.get(name) if loop is not None else None
        return job.launched if job is not None else None

    def _context(self, job_id: str, code: str) -> FLContext:
        context = self._parent.context(job_id, _command(self.role, code))
        context.set_prop(ReservedKey.ENGINE, self._engine, private=True, sticky=False)
        return context


class Job:
    """A launched job, with FLARE's handle of it."""

    def __init__(self, site: Site, job_id: str, launch: Callable[[], ArgoJobHandle]) -> None:
        """Launch the job, in a thread of its own."""
        self.site, self.cluster, self.id = site, site.cluster, job_id
        self.name = first_workflow(job_id, site.name)
        """The name of the first attempt's Workflow."""
        self._handle: list[ArgoJobHandle] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(launch,), name=f"launch {self.name}", daemon=True)
        self._thread.start()
        if site.role is Role.CLIENT:
            assert self.is_launched(20), "FLARE gives up on a client's launch after 20 s"

    def is_launched(self, within: float) -> bool:
        """Return whether launch_job returns within so many seconds; raise what it raises."""
        self._thread.join(within)
        if self._errors:
            raise self._errors[0]
        return bool(self._handle)

    @property
    def handle(self) -> ArgoJobHandle:
        """FLARE's handle of the job."""
        assert self.is_launched(START_SECONDS), "launch_job has not returned"
        return self._handle[0]

    @property
    def launched_job(self) -> LaunchedJob:
        """The launcher's record of the job."""
        if self._handle:
            return self._handle[0]._job
        eventually(lambda: self._handle or self.site.find_launched_job(self.name), 10, "the launcher tracks the job")
        return self.site.find_launched_job(self.name) or self._handle[0]._job

    def expect_stage(self, stage: Stage, within: float = START_SECONDS) -> "Job":
        """Wait until the launcher has observed a stage; fail if the job ends first."""
        job = self.launched_job
        job.wait(lambda current: current.stage is stage or current.verdict is not None, within)
        assert (job.stage, job.verdict) == (stage, None), (
            f"{self.name} is {job.stage.label} with {job.verdict} after {within} s"
        )
        return self

    def expect_log(self, text: str, within: float = START_SECONDS) -> "Job":
        """Wait until the job's log has a text."""
        eventually(
            lambda: any(text in self.cluster.log(pod) for pod in self.pods), within, f"{self.name} prints {text}"
        )
        return self

    def expect_running(self) -> "Job":
        """Wait until the job's code runs, which is a little after its container does; for code that prints so."""
        return self.expect_stage(Stage.RUNNING).expect_log("ready")

    def expect_attempt(self, number: int, within: float = START_SECONDS) -> "Job":
        """Wait until the code of an attempt after the first runs; for code that prints ``ready``."""
        name = attempt_name(self.name, number)

        def prints() -> bool:
            verdict = self.launched_job.verdict
            assert verdict is None, verdict
            return any("ready" in self.cluster.log(pod) for pod in self.pods if pod["metadata"]["name"] == name)

        eventually(prints, within, f"attempt {number} of {self.name} runs")
        return self

    def expect_gap(self, within: float = START_SECONDS) -> "Job":
        """Wait until the server is asked whether the next attempt may begin."""
        before = self.site.server_jobs.probes(self.id)
        eventually(lambda: self.site.server_jobs.probes(self.id) > before, within, f"{self.name} was lost")
        assert self.launched_job.verdict is None
        return self

    def expect_end(self, reason: Reason, code: int, within: float) -> float:
        """Wait until FLARE hears the job's end; it must be this one. Return the seconds that it took."""
        start = time.monotonic()
        job = self.launched_job
        assert job.wait(lambda current: current.verdict is not None, within), (
            f"no verdict within {within} s; the launcher's stage is {job.stage.label}"
        )
        seconds = time.monotonic() - start
        verdict = job.verdict
        assert verdict is not None
        scenario = recorder.scenario_name()
        print(f"{scenario}: {verdict.reason.name} {verdict.code} after {seconds:.1f} s: {verdict.detail}")
        assert (verdict.reason, verdict.code) == (reason, code), verdict
        self.handle.wait()
        assert self.handle.poll() == code
        return seconds

    def expect_nothing_left(self, within: float = 60.0) -> None:
        """Wait until nothing of the job runs, may run, or holds credentials, and the launcher has released it."""
        seconds = self.cluster.wait_until_clear(self.id, self.name, within)
        eventually(lambda: not self.is_followed, within, f"the launcher releases {self.name}")
        print(f"{recorder.scenario_name()}: nothing left after {seconds:.1f} s")
        verdict = self.launched_job.verdict
        if recorder.is_enabled() and verdict is not None:
            recorder.save(self.name, verdict)

    def exit_program(self, code: int, after: float = 0) -> None:
        """Make a job of EXITS_ON_REQUEST exit, after so many seconds, without flargo or Argo taking part."""
        name = self.pod["metadata"]["name"]
        write = f"echo {code} {after} > /tmp/end.new && mv /tmp/end.new /tmp/end"
        self.cluster.kubectl("exec", name, "--container=main", "--", "sh", "-c", write)

    def abort(self) -> None:
        """Abort the job through FLARE, whose call must return at once."""
        start = time.monotonic()
        self.handle.terminate()
        # Whatever it could wait for takes three seconds or more: Argo's answer, the program's grace period.
        assert time.monotonic() - start < 2

    def cleanup(self) -> None:
        """End the job as FLARE does when the server's heartbeat no longer names it."""
        self.handle._terminate_for_heartbeat_cleanup()

    @property
    def workflows(self) -> list[dict[str, Any]]:
        """All Workflows of the job on the cluster."""
        return self.cluster.items("workflows.argoproj.io", f"{Label.JOB_ID}={self.id}")

    @property
    def workflow(self) -> dict[str, Any]:
        """The only Workflow of the job's latest attempt."""
        return _of_latest_attempt(self.workflows)

    @property
    def pods(self) -> list[dict[str, Any]]:
        """All pods of the job on the cluster."""
        return self.cluster.pods(self.id)

    @property
    def pod(self) -> dict[str, Any]:
        """The only pod of the job's latest attempt."""
        return _of_latest_attempt(self.pods)

    @property
    def is_followed(self) -> bool:
        """True while the launcher tracks an attempt of the job."""
        return self.site.follows(self.name)

    def _run(self, launch: Callable[[], ArgoJobHandle]) -> None:
        try:
            self._handle.append(launch())
        except BaseException as error:  # noqa: BLE001  (raised in the test, by is_launched)
            self._errors.append(error)


def attempt_number(item: Mapping[str, Any]) -> int:
    """Return which attempt of its job an object belongs to; objects of a job with one attempt do not say so."""
    return int(item["metadata"]["labels"].get(Label.ATTEMPT_NUMBER, 1))


def _of_latest_attempt(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only object of the latest attempt among the objects of a job."""
    latest_number = max(map(attempt_number, items), default=1)
    (latest,) = (item for item in items if attempt_number(item) == latest_number)
    return latest


def _certificate() -> str:
    """Return a text in the place of a root certificate, which makes the federation's id unique. Nobody parses it."""
    content = base64.b64encode(secrets.token_bytes(30)).decode()
    return f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n"


def _command(role: Role, code: str) -> dict[str, Any]:
    """Return the job process's arguments, which FLARE 2.9 puts in the order ``timeit -n 1 -r 1 -s CODE``."""
    client = (JobProcessArgs.WORKSPACE, JobProcessArgs.STARTUP_DIR, JobProcessArgs.JOB_ID)
    server = (JobProcessArgs.WORKSPACE, JobProcessArgs.STARTUP_CONFIG_FILE, JobProcessArgs.APP_ROOT)
    options = (("-n", "1"), ("-r", "1"), ("-s", code))
    others = (
        JobProcessArgs.JOB_ID,
        JobProcessArgs.CLIENT_NAME,
        JobProcessArgs.PARENT_URL,
        JobProcessArgs.PARENT_CONN_SEC,
        JobProcessArgs.TARGET,
        JobProcessArgs.SCHEME,
        JobProcessArgs.STARTUP_CONFIG_FILE,
        JobProcessArgs.ROOT_URL,
        JobProcessArgs.SERVICE_HOST,
        JobProcessArgs.SERVICE_PORT,
    )
    filled = dict(zip(server if role is Role.SERVER else client, options, strict=True))
    return {**dict.fromkeys(others), **filled, JobProcessArgs.EXE_MODULE: ("-m", "timeit")}
