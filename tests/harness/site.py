"""A site of a federation that is not there: the real launcher, and the least of a FLARE parent that it needs.

What a job runs is any Python code. The launcher knows only FLARE's own command lines, so the job's process is the
standard library's ``timeit``, and the code is the value of an option (``-s``) that FLARE uses otherwise.
Code ends its process by :func:`exits`; ``timeit`` catches ``SystemExit``.
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
from nvflare.apis.fl_constant import ReservedKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.job_launcher_spec import JobProcessArgs

import flargo
from flargo.control.launched_job import LaunchedJob
from flargo.flare import nvflare_internals
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.launcher import ArgoJobLauncher
from flargo.flare.request import federation_id, read_parent
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label, Role
from tests.harness import recorder
from tests.harness.cluster import Cluster, eventually
from tests.harness.differential.parent import Cell, Parent
from tests.harness.wire import Route, Wire

IGNORES_SIGTERM = "import signal; signal.signal(15, signal.SIG_IGN)\n"
"""Code after which SIGTERM does nothing."""
SLEEPS = "print('ready', flush=True)\nimport time; time.sleep(3600)\n"
"""Code that runs until it is ended, and says when it has begun."""
EXITS_ON_REQUEST = """\
import os, time
print('ready', flush=True)
while not os.path.exists('/tmp/end'): time.sleep(0.05)
code, seconds = open('/tmp/end').read().split()
time.sleep(float(seconds))
os._exit(int(code))
"""
"""Code that runs until the test has it end, by :meth:`Job.exit_program`."""
START_SECONDS = 90.0
"""Seconds within which a pod runs, on a machine that has much to do."""
TURN_SECONDS = 90.0
"""The time in which a queued job gets its turn, starts and ends, on a busy machine."""


def exits(code: int) -> str:
    """Code that ends its process so."""
    return f"import os; os._exit({code})\n"


def template_study(**spec: Any) -> dict[str, Any]:
    """A study whose pod template has a spec."""
    return {"pod_template": {"metadata": {}, "spec": spec}}


def read_token(kubeconfig: Path) -> str:
    """The token of a kubeconfig's user."""
    return str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"])


class FakeJobManager:
    """FLARE's job manager, as far as a server's launch looks at it: what is stored of a job."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}

    def get_job(self, job_id: str, fl_ctx: FLContext) -> Namespace:
        del fl_ctx
        return Namespace(meta={JobMetaKey.STATUS.value: self.status.get(job_id, "DISPATCHED")})


class FakeEngine:
    """FLARE's engine, as far as a launcher looks at it."""

    def __init__(self, site: str, jobs: FakeJobManager) -> None:
        self.cell = Cell(site)
        self._jobs = jobs

    def get_component(self, name: str) -> FakeJobManager | None:
        return self._jobs if name == SystemComponents.JOB_MANAGER else None


class Site:
    """A parent with one launcher, in a federation of its own. Use it in a ``with``."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        wire: Wire | Route | None = None,
        role: Role = Role.CLIENT,
        studies: Mapping[str, Any] | None = None,
        token: str = "",
        argo: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        """Set up a parent; nothing is connected before the first job.

        Args:
            cluster: the cluster.
            wire: what stands between the launcher and the API server.
            role: which side of jobs it launches.
            studies: of study_runtime.yaml.
            token: of the launcher, if not the one of the account flargo-launcher.
            argo: more of the launcher's ``argo``.
            arguments: more of the launcher's.
        """
        self.cluster = cluster
        self.target = cluster.target
        self.role = role
        self.name = "server" if role is Role.SERVER else "site-1"
        self.root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
        self.jobs = FakeJobManager()
        self._engine = FakeEngine(self.name, self.jobs)
        kit = {"startup/rootCA.pem": _certificate()}
        self._parent = Parent(self.root, role, self.name, files=kit, runtime=studies)
        self.kubeconfig = self.target.launcher_kubeconfig
        if wire is not None:
            given = token or read_token(self.target.launcher_kubeconfig)
            self.kubeconfig = wire.kubeconfig(self.root / "kubeconfig", given)
        self._arguments: dict[str, Any] = {
            "config_file_path": str(self.kubeconfig),
            "namespace": self.target.namespace,
            "workspace_mount_path": str(self.root),
            **arguments,
            "argo": {"image_pull_policy": "IfNotPresent", **(argo or {})},
        }
        self.launcher = self._launcher()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def federation(self) -> str:
        """Its name on labels."""
        return federation_id(self.root / "startup")

    def launch(self, code: str = "", spec: Mapping[str, Any] | None = None, **more: Any) -> "Job":
        """Have FLARE launch a job. A client's launch is over when this returns; a server's goes on.

        Args:
            code: what its process runs.
            spec: the job's part of launcher_spec, beside the image.
            more: ``study``, or the ``job_id`` of an earlier one.
        """
        job_id = more.get("job_id") or str(uuid.uuid4())
        meta = {
            "job_id": job_id,
            "name": "fault",
            "launcher_spec": {self.name: {"k8s": {"image": self.target.job_image, **(spec or {})}}},
            **({"study": more["study"]} if "study" in more else {}),
        }
        # So that a process can be told to be this job's, wherever it is seen.
        marked = f"job = '{job_id}'\n{code}"
        return Job(self, job_id, lambda: self._launch(meta, marked))

    def _launch(self, meta: dict[str, Any], code: str) -> ArgoJobHandle:
        context = self._context(meta["job_id"], code)
        return self.launcher.launch_job(meta, context)

    def shut_down(self) -> None:
        """FLARE shuts the parent down."""
        self.launcher.handle_event(EventType.SYSTEM_END, self._context("none", ""))

    def restart_parent(self) -> None:
        """The parent's process is killed, and started anew: nothing is ended, nothing remembered."""
        loop = self.launcher._loop
        assert loop is not None
        loop._is_ending.set()
        loop._stop_watching.set()
        loop._tasks.put(None)
        for job in loop._jobs.values():
            # Its submit goes on in a thread of this process; whatever it still asks is not let through.
            job.cancelled.set()
        self.launcher = self._launcher()
        self.launcher.handle_event(EventType.SYSTEM_START, self._context("none", ""))

    def leave_unreleased_workflow(self) -> str:
        """Leave a Workflow as a parent does that dies in the middle of a launch; its name."""
        job = self.launch(exits(0))
        job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        job.expect_nothing_left()
        made = job.workflow
        meta = made["metadata"]
        kept = {key: value for key, value in meta["annotations"].items() if key != "flargo.dev/released"}
        labels = {key: value for key, value in meta["labels"].items() if not key.startswith("workflows.argoproj.io")}
        labels[str(Label.PARENT)] = self.launcher._epoch
        name = f"{meta['name'][:50]}-left"
        fresh = {"name": name, "labels": labels, "annotations": {**kept, "flargo.dev/attempt": "left"}}
        self.shut_down()
        head = {key: made[key] for key in ("apiVersion", "kind")}
        self.cluster.create({**head, "metadata": fresh, "spec": {**made["spec"], "suspend": True}})
        return name

    def close(self) -> None:
        """Shut it down, and remove all that it made: other tests are not to meet it."""
        self.shut_down()
        self.cluster.delete_by_label(f"{Label.FEDERATION}={self.federation}")
        shutil.rmtree(self.root, ignore_errors=True)

    def _launcher(self) -> ArgoJobLauncher:
        kind = flargo.ServerArgoJobLauncher if self.role is Role.SERVER else flargo.ClientArgoJobLauncher
        made: ArgoJobLauncher = kind(**self._arguments)
        if recorder.is_enabled():
            who = read_parent(self._context("none", ""), self.role, made._epoch)
            recorder.attach(made._get_loop(who)._reconciler)
        return made

    def find_launched_job(self, name: str) -> LaunchedJob | None:
        """What the launcher writes of a job that it follows."""
        loop = self.launcher._loop
        job = loop._jobs.get(name) if loop is not None else None
        return job.launched if job is not None else None

    def _context(self, job_id: str, code: str) -> FLContext:
        context = self._parent.context(job_id, _command(self.role, code))
        context.set_prop(ReservedKey.ENGINE, self._engine, private=True, sticky=False)
        return context


class Job:
    """A job, as FLARE holds it."""

    def __init__(self, site: Site, job_id: str, launch: Callable[[], ArgoJobHandle]) -> None:
        """Launch it."""
        self.site, self.cluster, self.id = site, site.cluster, job_id
        self.name = nvflare_internals.pod_name(nvflare_internals.job_key(job_id), site.name)
        """Of its Workflow."""
        self._handle: list[ArgoJobHandle] = []
        self._problem: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(launch,), name=f"launch {self.name}", daemon=True)
        self._thread.start()
        if site.role is Role.CLIENT:
            assert self.is_launched(20), "FLARE gives up on a client's launch after 20 s"

    def is_launched(self, within: float) -> bool:
        """Whether launch_job has returned."""
        self._thread.join(within)
        if self._problem:
            raise self._problem[0]
        return bool(self._handle)

    @property
    def handle(self) -> ArgoJobHandle:
        """FLARE's."""
        assert self.is_launched(START_SECONDS), "the launch goes on"
        return self._handle[0]

    @property
    def launched_job(self) -> LaunchedJob:
        """The launcher's."""
        if self._handle:
            return self._handle[0]._job
        eventually(lambda: self._handle or self.site.find_launched_job(self.name), 10, "the launcher follows the job")
        return self.site.find_launched_job(self.name) or self._handle[0]._job

    def expect_stage(self, stage: Stage, within: float = START_SECONDS) -> "Job":
        """Wait until it is so far, alive."""
        ticket = self.launched_job
        ticket.wait(lambda seen: seen.stage is stage or seen.verdict is not None, within)
        assert (ticket.stage, ticket.verdict) == (stage, None), (
            f"{self.name} is {ticket.stage.label} with {ticket.verdict} after {within} s"
        )
        return self

    def expect_log(self, text: str, within: float = START_SECONDS) -> "Job":
        """Wait until its log has a text."""
        eventually(lambda: any(text in self.cluster.log(pod) for pod in self.pods), within, f"{self.name} says {text}")
        return self

    def expect_running(self) -> "Job":
        """Wait until its code runs, which a program does a little after its container; for code that says so."""
        return self.expect_stage(Stage.RUNNING).expect_log("ready")

    def expect_end(self, reason: Reason, code: int, within: float) -> float:
        """FLARE hears so, in that time; after how many seconds it was."""
        begun = time.monotonic()
        ticket = self.launched_job
        assert ticket.wait(lambda seen: seen.verdict is not None, within), (
            f"no verdict within {within} s; the launcher has seen {ticket.stage.label}"
        )
        took = time.monotonic() - begun
        verdict = ticket.verdict
        assert verdict is not None
        print(f"{recorder.scenario_name()}: {verdict.reason.name} {verdict.code} after {took:.1f} s: {verdict.detail}")
        assert (verdict.reason, verdict.code) == (reason, code), verdict
        self.handle.wait()
        assert self.handle.poll() == code
        return took

    def expect_nothing_left(self, within: float = 60.0) -> None:
        """Nothing of it runs, may run, or holds credentials; and the launcher has let go of it."""
        took = self.cluster.wait_until_clear(self.id, self.name, within)
        eventually(lambda: not self.is_followed, within, f"the launcher lets go of {self.name}")
        print(f"{recorder.scenario_name()}: nothing left after {took:.1f} s")
        verdict = self.launched_job.verdict
        if recorder.is_enabled() and verdict is not None:
            recorder.save(self.name, verdict)

    def exit_program(self, code: int, after: float = 0) -> None:
        """Have the code WAITS end, from outside and by no means of flargo's or Argo's."""
        name = self.pod["metadata"]["name"]
        write = f"echo {code} {after} > /tmp/end.new && mv /tmp/end.new /tmp/end"
        self.cluster.kubectl("exec", name, "--container=main", "--", "sh", "-c", write)

    def abort(self) -> None:
        """A person aborts it through FLARE, which never waits for that."""
        begun = time.monotonic()
        self.handle.terminate()
        # Whatever it could wait for takes three seconds and more: Argo's answer, the program's grace.
        assert time.monotonic() - begun < 2

    def cleanup(self) -> None:
        """FLARE's heartbeat cleans it up."""
        self.handle._terminate_for_heartbeat_cleanup()

    @property
    def workflows(self) -> list[dict[str, Any]]:
        """All that there are of it on the cluster."""
        return self.cluster.items("workflows.argoproj.io", f"{Label.JOB_ID}={self.id}")

    @property
    def workflow(self) -> dict[str, Any]:
        """The only one."""
        (found,) = self.workflows
        return found

    @property
    def pods(self) -> list[dict[str, Any]]:
        """All that there are of it on the cluster."""
        return self.cluster.pods(self.id)

    @property
    def pod(self) -> dict[str, Any]:
        """The only one."""
        (found,) = self.pods
        return found

    @property
    def is_followed(self) -> bool:
        """Whether the launcher has not let go of it yet."""
        return self.site.find_launched_job(self.name) is not None

    def _run(self, launch: Callable[[], ArgoJobHandle]) -> None:
        try:
            self._handle.append(launch())
        except BaseException as problem:  # noqa: BLE001  (told to the test, by is_launched)
            self._problem.append(problem)


def _certificate() -> str:
    """Of a federation that nobody else has; nobody looks into it."""
    inside = base64.b64encode(secrets.token_bytes(30)).decode()
    return f"-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n"


def _command(role: Role, code: str) -> dict[str, Any]:
    """The job process's arguments, in the order in which FLARE 2.9 puts them: ``timeit -n 1 -r 1 -s CODE``."""
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
    named = dict(zip(server if role is Role.SERVER else client, options, strict=True))
    return {**dict.fromkeys(others), **named, JobProcessArgs.EXE_MODULE: ("-m", "timeit")}
