"""One launcher of a run, in a process of its own, so that all it holds is held by FLARE's code and flargo's.

The wire, the observer and the jobs' followers run in the main process and call this one through a manager of the
standard library (``parents``); a job is named by its id.
"""

import logging
import logging.handlers
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from flargo.control.launched_job import LaunchedJob
from flargo.terms import Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.embedded_cluster import EmbeddedCluster, EngineAddress
from tests.harness.executor_site import ExecutorSite
from tests.harness.real_cluster.target import find
from tests.harness.site import Job, Site
from tests.harness.wire import Route
from tests.soak import gauge
from tests.soak.oracle import Report
from tests.soak.plan import MAX_REJOINS

STUDIES: dict[str, Any] = {
    "short-grace": {"pod_template": {"metadata": {}, "spec": {"terminationGracePeriodSeconds": 5}}},
}
"""A short grace period, so that a program that ignores SIGTERM does not occupy the machine for half a minute when its
pod is deleted."""
ARGO: dict[str, Any] = {"policy": {"rejoin": MAX_REJOINS}}
"""The client's launcher lets jobs be started again."""


@dataclass(frozen=True)
class HeardVerdict:
    """What FLARE hears about a job. It holds no object of flargo's: the manager keeps what it has returned last."""

    report: Report
    detail: str
    return_code: int
    """What FLARE's handle returns."""


class Parent:
    """A FLARE parent with its launcher; the object lives in the other process."""

    def __init__(self, role: Role, route: Route, engine: EngineAddress | None, root: Path) -> None:
        """Set up the launcher, with the wire between it and the API server.

        Args:
            role: which side of jobs it launches.
            route: the wire's address.
            engine: the embedded engine; None means the real cluster.
            root: the parent's workspace, which a client's runs share.
        """
        cluster = _find_cluster(engine)
        self._initial_threads = Counter(thread.name for thread in threading.enumerate())
        self._site: Site
        if role is Role.CLIENT:
            self._site = ExecutorSite(cluster, root, wire=route, studies=STUDIES, argo=ARGO)
        else:
            self._site = Site(cluster, wire=route, role=role, root=root, studies=STUDIES)
        self._jobs: dict[str, Job] = {}

    def start(self) -> str:
        """Start as FLARE's parent does; return why it has to end instead, or ""."""
        return self._site.start() if isinstance(self._site, ExecutorSite) else ""

    def has_begun(self) -> bool:
        """Return whether the jobs of the parent's earlier run are taken back, and others may be launched."""
        return not isinstance(self._site, ExecutorSite) or self._site.has_begun

    def federation(self) -> str:
        """Return the launcher's federation label."""
        return self._site.federation

    def launch(self, job_id: str, code: str, spec: Mapping[str, Any]) -> None:
        """Launch a job; return as soon as the launcher tracks it."""
        job = self._site.launch(code, spec, study="short-grace", job_id=job_id)
        # Wait before another launch: they share the site's context, which a server's launch reads in its own thread.
        assert job.launched_job
        self._jobs[job_id] = job

    def knows(self, job_id: str) -> bool:
        """Return whether this run has launched a job or taken it back."""
        return self._find(job_id) is not None

    def taken_back(self) -> list[str]:
        """Return the ids of the jobs that this run has taken back."""
        return list(self._site.taken_back()) if isinstance(self._site, ExecutorSite) else []

    def wait_for_verdict(self, job_id: str, within: float) -> HeardVerdict | None:
        """Wait for so many seconds for what FLARE hears about a job; return it, or None."""
        job = self._job(job_id)
        if not job.launched_job.wait(_has_verdict, within):
            return None
        verdict = job.launched_job.verdict
        assert verdict is not None
        job.handle.wait()
        code = job.handle.poll()
        if not isinstance(self._site, ExecutorSite):
            self._site.complete(job_id)
        return HeardVerdict((verdict.reason, verdict.code), verdict.detail, code)

    def stage(self, job_id: str) -> str:
        """Return the job's stage as the launcher sees it."""
        return self._job(job_id).launched_job.stage.label

    def wait_until_released(self, job_id: str, within: float) -> None:
        """Wait until the launcher no longer tracks a job."""
        job = self._job(job_id)
        eventually(lambda: not job.is_followed, within, "the launcher releases the job")

    def abort(self, job_id: str) -> None:
        """Abort a job as FLARE does: during a server's launch FLARE only stores the job's new status."""
        if isinstance(self._site, ExecutorSite):
            self._site.abort(job_id)
            return
        job = self._job(job_id)
        self._site.jobs.status[job_id] = "FINISHED:ABORTED"
        assert job.handle
        job.abort()

    def cleanup(self, job_id: str) -> None:
        """End a job as FLARE does when the server's heartbeat no longer names it."""
        assert isinstance(self._site, ExecutorSite), "only a client's jobs are cleaned up"
        self._site.cleanup(job_id)

    def forget(self) -> None:
        """Drop all jobs, as FLARE drops the handles of finished jobs."""
        self._site.jobs.status.clear()
        self._jobs.clear()
        if isinstance(self._site, ExecutorSite):
            self._site.forget()

    def followed_workflows(self) -> set[str]:
        """Return the names of the Workflows that the launcher still tracks."""
        loop = self._site.launcher._loop
        return set() if loop is None else {*loop._jobs, *loop._reconciler.names}

    def read_gauge(self) -> gauge.Reading:
        """Measure what this process holds."""
        return gauge.read()

    def close(self) -> list[str]:
        """Shut the launcher down; return a problem for the threads that do not end."""
        self._site.close()
        try:
            # A watch without events ends with its next bookmark, up to a minute later.
            eventually(lambda: not self._extra_threads(), 90, "all threads have ended")
        except AssertionError:
            return [f"threads left: {dict(self._extra_threads())}"]
        return []

    def _job(self, job_id: str) -> Job:
        job = self._find(job_id)
        assert job is not None, f"job {job_id} is not known"
        return job

    def _find(self, job_id: str) -> Job | None:
        if job_id not in self._jobs and isinstance(self._site, ExecutorSite):
            self._jobs.update(self._site.taken_back())
        return self._jobs.get(job_id)

    def _extra_threads(self) -> Counter[str]:
        names = (thread.name for thread in threading.enumerate())
        return Counter(name for name in names if not gauge.is_infrastructure(name)) - self._initial_threads


class ParentManager(BaseManager):
    """The manager that starts and calls a process with a parent."""

    def parent(self, role: Role, route: Route, engine: EngineAddress | None, root: Path) -> Parent:
        """Set up a parent in the other process."""
        raise NotImplementedError  # replaced by register()


ParentManager.register("parent", Parent)


def log_to(writer: Connection) -> None:
    """Send the process's log records through a pipe.

    A process that is killed while it uses a queue of the standard library keeps the queue's lock for ever.
    """
    logger = logging.getLogger("flargo")
    logger.addHandler(_PipeHandler(writer))  # type: ignore[arg-type]
    logger.setLevel(logging.INFO)


class _PipeHandler(logging.handlers.QueueHandler):
    queue: Connection  # type: ignore[assignment]

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)


def _find_cluster(engine: EngineAddress | None) -> Cluster:
    if engine is not None:
        return EmbeddedCluster(engine, engine.file.parent)
    target = find()
    assert target is not None, "the cluster is gone"
    return Cluster(target)


def _has_verdict(job: LaunchedJob) -> bool:
    return job.verdict is not None
