"""A client's parent that restarts takes its running jobs back: real federations, on any cluster.

Each scenario kills the parent of site-1 while one of the site's jobs runs, and starts it again.
"""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.control.lease_object import released_lease, view_lease
from flargo.flare.heartbeat import FILE
from flargo.flare.job_adoption import AWAY_LIMIT
from flargo.flare.launch_records import FOLDER
from flargo.job.names import site_labels, site_lease
from flargo.terms import Annotation, Label, Parent, Role
from tests.harness import job_folders
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.federation import Federation
from tests.harness.federation_checks import GONE_SECONDS, SETTLE_SECONDS

SITE = "site-1"
TAKEOVER_SECONDS = 60.0
"""Seconds within which a parent has started again, waited for the Lease of its earlier run, and taken jobs back."""
HANGS = "import threading\nwhile True:\n    threading.Event().wait(600)\n"
"""Training code that hears of nothing."""
EXITS = "import os, time\nimport nvflare.client as it\nit.init()\nit.receive()\ntime.sleep(4)\nos._exit(1)\n"
"""Training code that ends its process after its first task has come."""
KILL_SECONDS = 60.0
"""Seconds within which an aborted job has ended: a heartbeat (10 s), FLARE's patience (10 s), the kill, its report."""
REJOINS = {SITE: {"argo": {"rejoin": 1}}}
"""What a job's launcher_spec says if its process may be started again once at the site."""


class Scene:
    """One job of a federation whose site restarts."""

    def __init__(self, fed: Federation, cluster: Cluster, name: str, rounds: int = 3) -> None:
        """Prepare a job; nothing is submitted yet."""
        self.fed, self.cluster, self.name, self.rounds = fed, cluster, name, rounds
        self.id = ""

    # What happens

    def submit(self, *, pause: float = 5.0, code: str = "", spec: dict[str, Any] | None = None) -> "Scene":
        """Submit the job, whose rounds last ``pause`` seconds; or one that runs other code at the site."""
        path = self.fed.root / "jobs" / self.name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        training = job_folders.training(self.fed.sites, pause)
        job = job_folders.script(
            path,
            image=self.cluster.target.job_image,
            code=dict.fromkeys(self.fed.sites, training) | ({SITE: code} if code else {}),
            rounds=self.rounds,
            sites=self.fed.sites,
            launcher_spec_extra=spec,
        )
        self.id = self.fed.submit(job)
        return self

    def waits_for_round(self, number: int) -> "Scene":
        """Wait until the site has trained a round, counted from 0, and so trains the next one."""
        return self.waits_for(lambda: f"trained round {number}" in self.log(), f"the site trains round {number + 1}")

    def waits_for(self, condition: Callable[[], object], what: str) -> "Scene":
        eventually(condition, SETTLE_SECONDS, what)
        return self

    def kill_parent(self) -> None:
        """Kill the site's parent; nothing of it ends in order, and the site's Lease stays its own."""
        self.fed.stop(SITE, signal.SIGKILL)

    def pass_lease_on(self, seconds: float = 0.0) -> None:
        """Release the Lease as a parent that ended in order so many seconds ago, so that the next one need not wait."""
        target = self.cluster.target
        api = Api(config_loader(str(target.launcher_kubeconfig)), target.namespace)
        labels = self.workflow["metadata"]["labels"]
        parent = Parent(SITE, labels[Label.FEDERATION], "", Role.CLIENT)
        view = view_lease(api.get(Kind.LEASE, site_lease(parent)), site_labels(parent))
        ended_at = datetime.now(UTC) - timedelta(seconds=seconds)
        api.replace(Kind.LEASE, released_lease(site_lease(parent), site_labels(parent), ended_at, view))
        (self.fed.workspace(SITE) / FILE).write_text(ended_at.isoformat())

    def restart_parent(self) -> None:
        """Kill the site's parent and start it again, without the wait for its Lease."""
        self.kill_parent()
        self.pass_lease_on()
        self.start_parent()

    def start_parent(self) -> None:
        """Start the site's parent again, and wait until it is registered and has taken its jobs back."""
        self.fed.start(SITE)
        self.fed.wait_ready()

    # What is seen

    @property
    def workflow(self) -> Object:
        """The Workflow of the site's first attempt."""
        return self.cluster.workflows(self.id)[SITE]

    @property
    def pods(self) -> list[Object]:
        """The site's pods of the job."""
        return [pod for pod in self.cluster.pods(self.id) if pod["metadata"]["labels"][Label.SITE] == SITE]

    def log(self) -> str:
        """Return what all of the site's pods of the job have printed."""
        return "".join(self.cluster.log(pod) for pod in self.pods)

    @property
    def records(self) -> list[str]:
        """The records of the site's launches."""
        return sorted(path.name for path in (self.fed.workspace(SITE) / FOLDER).glob("*"))

    def parent_lines(self, text: str) -> list[str]:
        """Return the lines of the parent's log that are about the job and have a text."""
        return [line for line in self.fed.log(SITE).splitlines() if self.id in line and text in line]

    def expect_taken_back(self, times: int = 1) -> None:
        """The parent has taken the job back, and is its Workflow's parent now."""
        eventually(lambda: len(self.parent_lines("taken back, Workflow")) >= times, TAKEOVER_SECONDS, "taken back")
        assert len(self.parent_lines("taken back, Workflow")) == times
        assert not self.parent_lines("not taken back")

    def expect_completed(self, rounds_at_site: list[int] | None = None) -> None:
        """The job completes with the exact weights, and the site has trained each round once."""
        assert self.fed.wait(self.id) == "FINISHED:COMPLETED"
        expected = job_folders.fedavg_expected(self.rounds, self.fed.sites)
        np.testing.assert_allclose(self.fed.weights(self.id), expected, rtol=1e-6)
        log = self.log()
        trained = [number for number in range(self.rounds) for _ in range(log.count(f"trained round {number}\n"))]
        assert trained == (list(range(self.rounds)) if rounds_at_site is None else rounds_at_site)
        self.expect_nothing_left()

    def expect_nothing_left(self, within: float = SETTLE_SECONDS) -> None:
        """Nothing of the job runs, and neither credentials nor records of it are left."""
        eventually(lambda: not self.cluster.unfinished_pods(self.id), within, "no pod of the job is left running")
        eventually(lambda: not self.cluster.processes(self.id), GONE_SECONDS, "no process of the job is left")
        eventually(
            lambda: not [name for name in self.cluster.secrets("nvflare-cred-") if self.id in name],
            SETTLE_SECONDS,
            "no credentials are left",
        )
        assert self.records == []


def training_goes_on(fed: Federation, cluster: Cluster) -> None:
    """The parent is killed in the middle of a round, and waits for the Lease of its earlier run."""
    scene = Scene(fed, cluster, "trains", rounds=5).submit().waits_for_round(0)
    parent = scene.workflow["metadata"]["labels"][Label.PARENT]
    assert scene.records == [f"{scene.id}.json"]
    scene.kill_parent()
    scene.start_parent()
    scene.expect_taken_back()
    assert scene.workflow["metadata"]["labels"][Label.PARENT] != parent
    scene.expect_completed()


def parent_restarts_twice(fed: Federation, cluster: Cluster) -> None:
    """Also while the job's pod is pending."""
    scene = Scene(fed, cluster, "twice", rounds=2).submit(pause=3)
    scene.waits_for(lambda: SITE in cluster.workflows(scene.id), "the site's Workflow exists")
    scene.restart_parent()
    scene.expect_taken_back()
    assert not scene.parent_lines("DISRUPTED")
    scene.waits_for_round(0)
    scene.restart_parent()
    scene.expect_taken_back(times=2)
    scene.expect_completed()


def job_ends_meanwhile(fed: Federation, cluster: Cluster) -> None:
    """Its program waits for its parent to deliver its results, and ends before the parent has got the Lease.

    By then the server's process has ended, and FLARE's server waits only for the end of the site's process.
    """
    scene = Scene(fed, cluster, "ends", rounds=1).submit(pause=4)
    scene.waits_for(lambda: "got task assignment" in scene.log(), "the site trains its only round")
    scene.kill_parent()
    scene.waits_for(lambda: "upload_results start" in scene.log(), "the program waits for its parent")
    scene.start_parent()
    scene.expect_taken_back()
    scene.expect_completed()


def job_fails_meanwhile(fed: Federation, cluster: Cluster) -> None:
    """Its program exits with 1, which FLARE gets to know when the parent is back."""
    code = (
        "import os, time\nimport nvflare.client as flare\nflare.init()\nflare.receive()\ntime.sleep(4)\nos._exit(1)\n"
    )
    scene = Scene(fed, cluster, "fails", rounds=1).submit(code=code)
    scene.waits_for(lambda: "got task assignment" in scene.log(), "the site trains its only round")
    scene.kill_parent()
    scene.waits_for(lambda: all(pod["status"]["phase"] == "Failed" for pod in scene.pods), "the program ends")
    scene.pass_lease_on(10)
    scene.start_parent()
    scene.expect_taken_back()
    assert fed.wait(scene.id) == "FINISHED:EXECUTION_EXCEPTION"
    (line,) = scene.parent_lines("PROGRAM_FAILED")
    assert "exit code 1" in line
    scene.expect_nothing_left()


def parent_and_pod_are_lost(fed: Federation, cluster: Cluster) -> None:
    """The job's process is started again by a parent that never saw the first one."""
    scene = Scene(fed, cluster, "lost", rounds=3).submit(pause=4, spec=REJOINS)
    # With its next task the site knows that FLARE's server has the result of the first one.
    scene.waits_for(lambda: scene.log().count("got task assignment") == 2, "the site trains its second round")
    (pod,) = scene.pods
    scene.kill_parent()
    cluster.delete("pod", pod)
    scene.waits_for(lambda: not scene.pods, "the pod is gone")
    scene.pass_lease_on(10)
    scene.start_parent()
    scene.expect_taken_back()
    scene.waits_for(lambda: scene.parent_lines("attempt 1 of 2 lost"), "the loss is known")
    scene.expect_completed(rounds_at_site=[1, 2])
    assert scene.workflow["metadata"]["name"].endswith("-r1")


def parent_dies_between_two_attempts(fed: Federation, cluster: Cluster) -> None:
    """FLARE's server does not answer whether the job goes on, so the parent has begun no other attempt when it dies."""
    scene = Scene(fed, cluster, "between", rounds=3).submit(pause=4, spec=REJOINS)
    # With its next task the site knows that FLARE's server has the result of the first one.
    scene.waits_for(lambda: scene.log().count("got task assignment") == 2, "the site trains its second round")
    (pod,) = scene.pods
    with frozen_server(fed):
        cluster.evict(pod)
        scene.waits_for(lambda: scene.parent_lines("attempt 1 of 2 lost"), "the loss is known")
        scene.waits_for(lambda: not scene.pods, "the pod is gone")
        scene.kill_parent()
    assert not scene.workflow["metadata"]["name"].endswith("-r1")
    scene.pass_lease_on(10)
    scene.start_parent()
    scene.expect_taken_back()
    scene.expect_completed(rounds_at_site=[1, 2])
    assert scene.workflow["metadata"]["name"].endswith("-r1")


def parent_dies_before_its_report(fed: Federation, cluster: Cluster) -> None:
    """The program has failed, and FLARE's server does not answer before the parent dies. The next run reports it."""
    scene = Scene(fed, cluster, "unheard", rounds=1).submit(code=EXITS)
    scene.waits_for(lambda: "got task assignment" in scene.log(), "the site trains its only round")
    with frozen_server(fed):
        scene.waits_for(lambda: scene.parent_lines("PROGRAM_FAILED"), "the program has failed")
        scene.kill_parent()
    assert scene.records == [f"{scene.id}.json"]
    scene.pass_lease_on(10)
    scene.start_parent()
    scene.waits_for(lambda: scene.parent_lines("its end (PROGRAM_FAILED) is reported"), "the end is reported")
    assert fed.wait(scene.id) == "FINISHED:EXECUTION_EXCEPTION"
    scene.expect_nothing_left()


@contextmanager
def frozen_server(fed: Federation) -> Iterator[None]:
    """Let FLARE's server answer nothing."""
    os.kill(fed.pid("server"), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(fed.pid("server"), signal.SIGCONT)


def abort_after_restart(fed: Federation, cluster: Cluster) -> None:
    """A program that FLARE can end is ended by FLARE."""
    scene = Scene(fed, cluster, "aborted", rounds=20).submit(pause=2).waits_for_round(0)
    scene.restart_parent()
    scene.expect_taken_back()
    fed.abort(scene.id)
    assert fed.wait(scene.id) == "FINISHED:ABORTED"
    scene.expect_nothing_left(KILL_SECONDS)


def abort_of_a_program_that_hangs(fed: Federation, cluster: Cluster) -> None:
    """It is killed, and the site's reason is the abort, although FLARE's parent knows of no abort."""
    scene = Scene(fed, cluster, "hangs", rounds=2).submit(code=f"print('trained round 0')\n{HANGS}").waits_for_round(0)
    scene.restart_parent()
    scene.expect_taken_back()
    fed.abort(scene.id)
    assert fed.wait(scene.id) == "FINISHED:ABORTED"
    scene.expect_nothing_left(KILL_SECONDS)
    scene.waits_for(lambda: scene.parent_lines("ABORTED"), "the reason is logged")
    assert not scene.parent_lines("CLEANED_UP")


def site_without_a_parent_for_too_long(fed: Federation, cluster: Cluster) -> None:
    """FLARE's server has given the site up by then, so its job is ended as an orphan."""
    scene = Scene(fed, cluster, "late", rounds=20).submit(pause=2).waits_for_round(0)
    scene.kill_parent()
    scene.pass_lease_on(AWAY_LIMIT + 5)
    scene.start_parent()
    scene.waits_for(lambda: scene.parent_lines("not taken back"), "the job is not taken back")
    (seconds,) = re.findall(r"the site had no parent for (\d+) s", scene.parent_lines("not taken back")[0])
    assert AWAY_LIMIT + 5 <= int(seconds) < AWAY_LIMIT + 5 + TAKEOVER_SECONDS
    scene.waits_for(
        lambda: not [pod for pod in scene.pods if pod["status"]["phase"] == "Running"], "the orphan is ended"
    )
    assert scene.workflow["metadata"]["annotations"][Annotation.ENDING] == "ORPHANED"
    fed.abort(scene.id)
    scene.expect_nothing_left(KILL_SECONDS)


def second_parent_of_a_site(fed: Federation, cluster: Cluster) -> None:
    """It ends without registering, and the first one's job goes on."""
    scene = Scene(fed, cluster, "second", rounds=4).submit(pause=4)
    scene.waits_for(lambda: SITE in cluster.workflows(scene.id), "the site's Workflow exists")
    with fed.second_parent(SITE) as (process, log):
        eventually(lambda: process.poll() is not None, SETTLE_SECONDS, "the second parent ends")
        assert process.returncode != 0
        assert "another FLARE parent of this site is alive and holds its Lease" in log.read_text()
        assert "Successfully registered" not in log.read_text()
    scene.expect_completed()
