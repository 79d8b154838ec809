"""The launchers of a run, in a process of their own: what that holds is held by FLARE's code and flargo's.

The wire, the witness and the jobs' followers are in another one, which speaks to this one by a manager of the standard
library's; a job is named by its id.
"""

import logging
import logging.handlers
import multiprocessing
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from typing import Any

from flargo.control.launched_job import LaunchedJob
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.real_cluster.target import find
from tests.harness.site import Job, Site
from tests.harness.wire import Route
from tests.soak import gauge
from tests.soak.timeline import Timeline

STUDIES: dict[str, Any] = {
    "short-grace": {"pod_template": {"metadata": {}, "spec": {"terminationGracePeriodSeconds": 5}}},
}
"""So that who is deaf does not hold the machine for half a minute when its pod is deleted."""


class Parents:
    """A server and a client; lives in the other process."""

    def __init__(self, route: Route) -> None:
        """Set both up, over that wire."""
        target = find()
        assert target is not None, "the cluster has gone"
        cluster = Cluster(target)
        self._before = Counter(thread.name for thread in threading.enumerate())
        self._sites = {role: Site(cluster, wire=route, role=role, studies=STUDIES) for role in Role}
        self._jobs: dict[str, Job] = {}

    def federations(self) -> dict[Role, str]:
        """Their names on labels."""
        return {role: site.federation for role, site in self._sites.items()}

    def launch(self, role: Role, code: str, spec: Mapping[str, Any]) -> tuple[str, str]:
        """Launch a job; returns its id and its Workflow's name when the launcher knows it."""
        job = self._sites[role].launch(code, spec, study="short-grace")
        # Before another one: the site's context is shared, and a server's launch reads it in a thread of its own.
        assert job.launched_job
        self._jobs[job.id] = job
        return job.id, job.name

    def ruled(self, job_id: str, within: float) -> bool:
        """Wait for a verdict; whether there is one."""
        return self._jobs[job_id].launched_job.wait(_is_ruled, within)

    def verdict(self, job_id: str) -> Verdict | None:
        """What FLARE hears."""
        return self._jobs[job_id].launched_job.verdict

    def stage(self, job_id: str) -> str:
        """How far the launcher has seen it."""
        return self._jobs[job_id].launched_job.stage.label

    def code(self, job_id: str) -> object:
        """What FLARE has when it has waited: the handle's return code."""
        handle = self._jobs[job_id].handle
        handle.wait()
        return handle.poll()

    def cleared(self, job_id: str, within: float) -> None:
        """Wait until the launcher has let go of it."""
        eventually(lambda: not self._jobs[job_id].is_followed, within, "the launcher lets go of it")

    def abort(self, job_id: str) -> None:
        """As FLARE does: while a server's launch goes on it only writes the job's status down."""
        job = self._jobs[job_id]
        if job.site.role is Role.SERVER:
            job.site.jobs.status[job.id] = "FINISHED:ABORTED"
        assert job.handle
        job.abort()

    def cleanup(self, job_id: str) -> None:
        """FLARE's heartbeat cleans it up."""
        self._jobs[job_id].cleanup()

    def forget(self) -> None:
        """Of all jobs; FLARE has dropped their handles."""
        for site in self._sites.values():
            site.jobs.status.clear()
        self._jobs.clear()

    def followed(self) -> set[str]:
        """Workflows that a launcher has not let go of."""
        loops = [site.launcher._loop for site in self._sites.values()]
        return {name for loop in loops if loop is not None for name in (*loop._jobs, *loop._reconciler.names)}

    def reading(self) -> gauge.Reading:
        """What this process holds."""
        return gauge.read()

    def close(self) -> list[str]:
        """Shut them down; which threads do not end."""
        with ExitStack() as stack:
            for site in self._sites.values():
                stack.callback(site.close)
        try:
            # A watch that hears nothing ends with its next bookmark, a minute later.
            eventually(lambda: not self._more(), 90, "all threads have ended")
        except AssertionError:
            return [f"threads left: {dict(self._more())}"]
        return []

    def _more(self) -> Counter[str]:
        names = (thread.name for thread in threading.enumerate())
        return Counter(name for name in names if not gauge.serves(name)) - self._before


class _Manager(BaseManager):
    """Starts the other process."""

    def parents(self, route: Route) -> Parents:
        """Set them up over there."""
        raise NotImplementedError  # replaced when it is registered


_Manager.register("parents", Parents)


@contextmanager
def apart(route: Route, timeline: Timeline) -> Iterator[Parents]:
    """The launchers over a wire, in a process of their own; what they log is put into the timeline."""
    spawn = multiprocessing.get_context("spawn")
    records: Any = spawn.Queue()
    listener = logging.handlers.QueueListener(records, timeline.handler())
    listener.start()
    manager = _Manager(ctx=spawn)
    manager.start(_log_to, (records,))
    try:
        yield manager.parents(route)
    finally:
        manager.shutdown()
        listener.stop()
        records.close()


def _log_to(records: Any) -> None:
    logger = logging.getLogger("flargo")
    logger.addHandler(logging.handlers.QueueHandler(records))
    logger.setLevel(logging.INFO)


@dataclass(frozen=True)
class Launched:
    """A job of theirs, as this process knows it."""

    id: str
    name: str
    """Of its Workflow."""


def _is_ruled(ticket: LaunchedJob) -> bool:
    return ticket.verdict is not None
