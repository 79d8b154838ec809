"""A client's parent that restarts takes its running jobs back: real federations, on either engine.

Each scenario kills the parent of a site while one of the site's jobs runs, and starts it again. Final weights are
computed by hand, and every site's results are counted.
"""

import os
import queue
import re
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from tests.harness.federation import Federation, argo_launcher
from tests.harness.federation_checks import GONE_SECONDS, SETTLE_SECONDS, job_credentials
from tests.harness.scenarios import Scenarios, Together

ARGO: Mapping[str, Any] = {"policy": {"rejoin": 1}}
"""The launcher's ``argo`` settings at all sites."""
TAKEOVER_SECONDS = 60.0
"""Seconds within which a parent has started again, waited for the Lease of its earlier run, and taken jobs back."""
JOB_SECONDS = 240.0
"""The limit for a job, beside others on a busy machine."""
HANGS = "import threading\nwhile True:\n    threading.Event().wait(600)\n"
"""Training code that hears of nothing."""
AFTER_TASK = "import os, time\nimport nvflare.client as flare\nflare.init()\nflare.receive()\ntime.sleep(4)\n"
"""Training code that goes on four seconds after its first task has come."""
KILL_SECONDS = 60.0
"""Seconds within which an aborted job has ended: a heartbeat (10 s), FLARE's patience (10 s), the kill, its report."""
REJOINS: Mapping[str, Any] = {"argo": {"rejoin": 1}}
"""The options of a job whose process may be started again once at a site."""
TASK = "got task assignment"
"""What FLARE's process at a site logs when a task has come. With its next task, the site knows that the server has the
result of the one before."""
SENDS_RESULT, RESULT_SENT = "start to send task result to server", "task result sent to server"
"""What FLARE's process at a site logs when it begins to upload a result, and when the server has it."""

REGISTERED = "Successfully registered client"
OTHER_IS_ALIVE = "another FLARE parent of this site is alive and holds its Lease"

scenario = Scenarios()


class Stage:
    """A federation in which several scenarios run side by side, each with a site whose parent it may kill."""

    def __init__(self, fed: Federation, cluster: Cluster) -> None:
        """Let scenarios use all sites but the last, whose parent goes on."""
        self.fed, self.cluster = fed, cluster
        *own, self._common_site = fed.sites
        self._free: queue.Queue[str] = queue.Queue()
        for site in own:
            self._free.put(site)
        self._turn = threading.Lock()
        """Held while a scenario waits for sites: one that waits for several is the next that gets any."""

    @contextmanager
    def scene(self, name: str, rounds: int = 3, *, own_sites: int = 1, alone: bool = False) -> Iterator["Scene"]:
        """Prepare a job of some sites of its own and the last site: the first one's parent is the scenario's to kill.

        However the scenario ends, that site's parent runs again, and the job is ended.

        Args:
            name: the job's name.
            rounds: how many rounds the job has.
            own_sites: how many sites besides the last one take part.
            alone: no other scenario may run meanwhile.
        """
        with ExitStack() as stack:
            with self._turn:
                sites = [self._free.get() for _ in self.fed.sites[:-1][: None if alone else own_sites]]
            for site in sites:
                stack.callback(self._free.put, site)
            scene = Scene(self.fed, self.cluster, name, (*sorted(sites)[:own_sites], self._common_site), rounds)
            stack.callback(scene.clear)
            yield scene


class Scene:
    """One job of a federation, and the site that restarts while it runs."""

    def __init__(self, fed: Federation, cluster: Cluster, name: str, sites: Sequence[str], rounds: int = 3) -> None:
        """Prepare a job; nothing is submitted yet."""
        self.fed, self.cluster, self.name, self.sites, self.rounds = fed, cluster, name, tuple(sites), rounds
        self.site = self.sites[0]
        """The site whose parent restarts."""
        self.id = ""

    # What happens

    def submit(
        self,
        *,
        pause: float = 5.0,
        code: str = "",
        options: Mapping[str, Any] | None = None,
        arrays: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> "Scene":
        """Submit the job.

        Args:
            pause: the seconds that each round takes.
            code: what the site runs in place of the training.
            options: the job's launcher options at the site.
            arrays: how many arrays each result has in addition.
            settings: settings of FLARE for all processes of the job.
        """
        path = self.fed.root / "jobs" / self.name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        training = job_folders.training(self.sites, pause, arrays)
        job = job_folders.script(
            path,
            image=self.cluster.target.job_image,
            code=dict.fromkeys(self.sites, training) | ({self.site: code} if code else {}),
            rounds=self.rounds,
            sites=self.sites,
            launcher_spec_extra={self.site: options} if options else None,
            server_code=job_folders.COUNT_CONTRIBUTIONS,
            settings=settings,
        )
        self.id = self.fed.submit(job)
        return self

    def beside(self, name: str, rounds: int = 3) -> "Scene":
        """Prepare another job of the same sites."""
        return Scene(self.fed, self.cluster, name, self.sites, rounds)

    def waits_for_round(self, number: int) -> "Scene":
        """Wait until the site has trained a round, counted from 0, and so trains the next one."""
        return self.waits_for_log(f"trained round {number}", f"the site trains round {number + 1}")

    def waits_for_log(self, text: str, what: str, times: int = 1) -> "Scene":
        """Wait until the site's process of the job has printed a text so many times."""
        return self.waits_for(lambda: self.log().count(text) >= times, what)

    def waits_for(self, condition: Callable[[], object], what: str, within: float = SETTLE_SECONDS) -> "Scene":
        try:
            eventually(condition, within, what)
        except AssertionError as error:
            error.add_note(f"The log of the site's parent ends:\n{self.fed.log(self.site)[-5000:]}")
            raise
        return self

    def kill_parent(self) -> None:
        """Kill the site's parent; nothing of it ends in order, and the site's Lease stays its own."""
        self.fed.stop(self.site, signal.SIGKILL)

    def pass_lease_on(self, seconds: float = 0.0) -> None:
        """Release the Lease as a parent that ended in order so many seconds ago, so that the next one need not wait."""
        target = self.cluster.target
        api = Api(config_loader(str(target.launcher_kubeconfig)), target.namespace)
        labels = self.workflow["metadata"]["labels"]
        parent = Parent(self.site, labels[Label.FEDERATION], "", Role.CLIENT)
        view = view_lease(api.get(Kind.LEASE, site_lease(parent)), site_labels(parent))
        ended_at = datetime.now(UTC) - timedelta(seconds=seconds)
        api.replace(Kind.LEASE, released_lease(site_lease(parent), site_labels(parent), ended_at, view))
        (self.fed.workspace(self.site) / FILE).write_text(ended_at.isoformat())
        if seconds:
            self.cluster.backdate("leases", site_lease(parent), seconds)

    def restart_parent(self) -> None:
        """Kill the site's parent and start it again, without the wait for its Lease."""
        self.kill_parent()
        self.pass_lease_on()
        self.start_parent()

    def start_parent(self) -> None:
        """Start the site's parent again, and wait until it is registered and has taken its jobs back."""
        self.fed.start(self.site)
        self.fed.wait_ready({self.site})

    def clear(self) -> None:
        """Let the site's parent run and no job of it, for the next scenario."""
        if not self.fed.is_running(self.site):
            self.start_parent()
        if self.id and not self.fed.status(self.id).startswith("FINISHED:"):
            self.fed.abort(self.id)

    # What is seen

    @property
    def workflow(self) -> Object:
        """The Workflow of the site's first attempt."""
        return self.cluster.workflows(self.id)[self.site]

    @property
    def parent_label(self) -> str:
        """The run of the site's parent that follows the job, as its Workflow names it."""
        return str(self.workflow["metadata"]["labels"][Label.PARENT])

    def pods(self, site: str = "") -> list[Object]:
        """Return the pods of the job at a site, by default the one that restarts."""
        name = site or self.site
        return [pod for pod in self.cluster.pods(self.id) if pod["metadata"]["labels"][Label.SITE] == name]

    @property
    def phases(self) -> list[str]:
        """The phases of the job's pods at the site."""
        return [pod["status"]["phase"] for pod in self.pods()]

    def log(self, site: str = "") -> str:
        """Return what all pods of the job at a site have printed, by default at the one that restarts."""
        return "".join(self.cluster.log(pod) for pod in self.pods(site))

    @property
    def is_recorded(self) -> bool:
        """Whether the site has a record of the launch."""
        return (self.fed.workspace(self.site) / FOLDER / f"{self.id}.json").exists()

    def parent_lines(self, text: str) -> list[str]:
        """Return the lines of the parent's log that are about the job and have a text."""
        return [line for line in self.fed.log(self.site).splitlines() if self.id in line and text in line]

    def expect_taken_back(self, times: int = 1) -> None:
        """The site's parents have taken the job back so many times, and have not failed to."""
        eventually(lambda: len(self.parent_lines("taken back, Workflow")) >= times, TAKEOVER_SECONDS, "taken back")
        assert len(self.parent_lines("taken back, Workflow")) == times
        assert not self.parent_lines("not taken back")

    def expect_completed(self, rounds_at_site: Sequence[int] | None = None) -> None:
        """The job completes with the exact weights, and each site has trained and contributed each round once.

        Args:
            rounds_at_site: the rounds that the site's last process has trained, if it has lost one; all by default.
        """
        assert self.fed.wait(self.id, JOB_SECONDS) == "FINISHED:COMPLETED"
        self.expect_model()
        lines = (self.fed.download(self.id) / "workspace" / "contributions.txt").read_text().splitlines()
        assert Counter(lines) == Counter(f"{site} {number}" for site in self.sites for number in range(self.rounds))
        for site in self.sites:
            log = self.log(site)
            trained = [number for number in range(self.rounds) for _ in range(log.count(f"trained round {number}\n"))]
            is_whole = rounds_at_site is None or site != self.site
            assert trained == (list(range(self.rounds)) if is_whole else rounds_at_site), site
        self.expect_nothing_left()

    def expect_model(self) -> None:
        """The server has stored the model with the exact weights."""
        expected = job_folders.fedavg_expected(self.rounds, self.sites)
        np.testing.assert_allclose(self.fed.weights(self.id), expected, rtol=1e-6)

    def expect_nothing_left(self, within: float = SETTLE_SECONDS) -> None:
        """Nothing of the job runs, and neither credentials nor records of it are left."""
        eventually(lambda: not self.cluster.unfinished_pods(self.id), within, "no pod of the job is left running")
        eventually(lambda: not self.cluster.processes(self.id), GONE_SECONDS, "no process of the job is left")
        eventually(lambda: not job_credentials(self.cluster, self.id), SETTLE_SECONDS, "no credentials are left")
        eventually(lambda: not self.is_recorded, GONE_SECONDS, "no record is left")


@contextmanager
def federation(cluster: Cluster, lanes: int) -> Iterator[Federation]:
    """A federation whose sites take their jobs back, with one site more than scenarios run side by side."""
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    target = cluster.target
    launcher = argo_launcher(
        root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace, argo=dict(ARGO)
    )
    sites = [f"site-{number}" for number in range(1, lanes + 2)]
    with Federation(root, sites=sites, launcher=launcher, host=target.address) as running_federation:
        yield running_federation
    shutil.rmtree(root, ignore_errors=True)


# --- the job completes


@scenario.in_everything
def parent_is_away_for_two_minutes(stage: Stage) -> None:
    """The job trains on. Another one ends meanwhile, and waits 30 s for its parent, in vain: FLARE calls it failed."""
    with stage.scene("away", rounds=4) as scene:
        scene.submit(pause=40)
        short = scene.beside("short", rounds=1).submit(pause=2)
        scene.waits_for_log(TASK, "the site trains")
        short.waits_for_log(TASK, "the site trains its only round")
        scene.kill_parent()
        time.sleep(120)
        short.waits_for(lambda: short.phases == ["Failed"], "the program has given up")
        assert scene.phases == ["Running"]
        scene.start_parent()
        scene.expect_taken_back()
        short.expect_taken_back()
        assert stage.fed.wait(short.id) == "FINISHED:EXECUTION_EXCEPTION"
        (line,) = short.parent_lines("PROGRAM_REPORTED")
        assert "exit code 101" in line
        short.expect_model()
        short.expect_nothing_left()
        scene.expect_completed()


@scenario
def training_goes_on(stage: Stage) -> None:
    """The parent is killed in the middle of a round, and waits for the Lease of its earlier run."""
    with stage.scene("trains", rounds=5) as scene:
        scene.submit().waits_for_round(0)
        parent = scene.parent_label
        assert scene.is_recorded
        scene.kill_parent()
        scene.start_parent()
        scene.expect_taken_back()
        assert scene.parent_label != parent
        scene.expect_completed()


@scenario
def parent_restarts_twice(stage: Stage) -> None:
    """Also before the program runs: it fetches its workspace from the parent that has restarted."""
    with stage.scene("twice", rounds=2) as scene:
        scene.submit(pause=3)
        scene.waits_for(lambda: scene.site in stage.cluster.workflows(scene.id), "the site's Workflow exists")
        scene.restart_parent()
        scene.expect_taken_back()
        assert not scene.parent_lines("DISRUPTED")
        scene.waits_for_round(0)
        scene.restart_parent()
        scene.expect_taken_back(times=2)
        scene.expect_completed()


@scenario
def parent_restarts_while_the_pod_is_pending(stage: Stage) -> None:
    """No node has room for the job until its parent is back."""
    with stage.scene("pending", rounds=2) as scene:
        scene.submit(pause=1, options={"num_of_gpus": 1, "pending_timeout": None})
        scene.waits_for(lambda: scene.phases == ["Pending"], "the pod is pending")
        scene.restart_parent()
        scene.expect_taken_back()
        assert scene.phases == ["Pending"]
        with stage.cluster.offer_gpus(1):
            scene.expect_completed()


@scenario
def parent_restarts_during_an_upload(stage: Stage) -> None:
    """A round's result goes from the job's process to the server's, and not through the parent."""
    with stage.scene("upload", rounds=1) as scene:
        scene.submit(pause=0, arrays=800, settings={"np_download_chunk_size": 4096})
        scene.waits_for_log(SENDS_RESULT, "the site uploads its first result")
        time.sleep(1)
        scene.kill_parent()
        assert RESULT_SENT not in scene.log()
        scene.pass_lease_on()
        scene.start_parent()
        scene.expect_taken_back()
        scene.expect_completed()


@scenario.in_everything
def one_of_three_sites_restarts(stage: Stage) -> None:
    """The jobs of the other sites notice nothing."""
    with stage.scene("three", rounds=4, own_sites=2) as scene:
        scene.submit().waits_for_round(0)
        scene.restart_parent()
        scene.expect_taken_back()
        scene.expect_completed()


@scenario
def parent_and_pod_are_lost(stage: Stage) -> None:
    """The job's process is started again by a parent that never saw the first one."""
    with stage.scene("lost") as scene:
        scene.submit(pause=4, options=REJOINS)
        scene.waits_for_log(TASK, "the site trains its second round", times=2)
        (pod,) = scene.pods()
        scene.kill_parent()
        stage.cluster.delete("pod", pod)
        scene.waits_for(lambda: not scene.pods(), "the pod is gone")
        scene.pass_lease_on(10)
        scene.start_parent()
        scene.expect_taken_back()
        scene.waits_for(lambda: scene.parent_lines("attempt 1 of 2 lost"), "the loss is known")
        scene.expect_completed(rounds_at_site=[1, 2])
        assert scene.workflow["metadata"]["name"].endswith("-r1")


# --- the job has ended meanwhile


@scenario
def job_ends_meanwhile(stage: Stage) -> None:
    """Its program waits for its parent to deliver its results, and ends before the parent has got the Lease.

    By then the server's process has ended, and FLARE's server waits only for the end of the site's process.
    """
    with stage.scene("ends", rounds=1) as scene:
        scene.submit(pause=4)
        scene.waits_for_log(TASK, "the site trains its only round")
        scene.kill_parent()
        scene.waits_for_log("upload_results start", "the program waits for its parent")
        scene.start_parent()
        scene.expect_taken_back()
        scene.expect_completed()


@scenario.variants(
    exit_code_1={
        "code": "os._exit(1)",
        "options": {},
        "status": "FINISHED:EXECUTION_EXCEPTION",
        "report": "PROGRAM_FAILED (1)",
        "detail": "exit code 1",
    },
    out_of_memory={
        "code": job_folders.allocate(2000),
        "options": {"memory": "600Mi"},
        "status": "FINISHED:ABNORMAL",
        "report": "OUT_OF_MEMORY (104)",
        "detail": "memory limit 600Mi",
    },
)
def job_fails_meanwhile(
    stage: Stage, code: str, options: Mapping[str, Any], status: str, report: str, detail: str
) -> None:
    """FLARE gets to know how the program ended when the parent is back, and calls the job what it always does."""
    with stage.scene(f"fails-{report.partition(' ')[0]}", rounds=1) as scene:
        scene.submit(code=f"{AFTER_TASK}{code}", options=options)
        scene.waits_for_log(TASK, "the site trains its only round")
        scene.kill_parent()
        scene.waits_for(lambda: scene.phases == ["Failed"], "the program ends")
        scene.pass_lease_on(10)
        scene.start_parent()
        scene.expect_taken_back()
        assert stage.fed.wait(scene.id) == status
        (line,) = scene.parent_lines(report)
        assert detail in line
        scene.expect_nothing_left()


# --- the job is aborted


@scenario.in_everything
def abort_after_restart(stage: Stage) -> None:
    """A program that FLARE can end is ended by FLARE."""
    with stage.scene("aborted", rounds=20) as scene:
        scene.submit(pause=2).waits_for_round(0)
        scene.restart_parent()
        scene.expect_taken_back()
        stage.fed.abort(scene.id)
        assert stage.fed.wait(scene.id) == "FINISHED:ABORTED"
        scene.expect_nothing_left(KILL_SECONDS)


@scenario
def abort_before_the_job_is_taken_back(stage: Stage) -> None:
    """The parent has just been started."""
    with stage.scene("aborted-at-once", rounds=20) as scene:
        scene.submit(pause=2).waits_for_round(0)
        scene.kill_parent()
        scene.pass_lease_on()
        stage.fed.start(scene.site)
        stage.fed.abort(scene.id)
        assert stage.fed.wait(scene.id) == "FINISHED:ABORTED"
        stage.fed.wait_ready({scene.site})
        scene.expect_nothing_left(KILL_SECONDS)


@scenario
def abort_of_a_program_that_hangs(stage: Stage) -> None:
    """It is killed, and the site's reason is the abort, although FLARE's parent knows of no abort."""
    with stage.scene("hangs", rounds=2) as scene:
        scene.submit(code=f"print('trained round 0')\n{HANGS}").waits_for_round(0)
        scene.restart_parent()
        scene.expect_taken_back()
        stage.fed.abort(scene.id)
        assert stage.fed.wait(scene.id) == "FINISHED:ABORTED"
        scene.expect_nothing_left(KILL_SECONDS)
        scene.waits_for(lambda: scene.parent_lines("ABORTED"), "the reason is logged")
        assert not scene.parent_lines("CLEANED_UP")


# --- the job is not this parent's to take back


@scenario
def site_without_a_parent_for_too_long(stage: Stage) -> None:
    """FLARE's server has given the site up by then, so its job is ended as an orphan, and the federated job with it."""
    with stage.scene("late", rounds=20) as scene:
        scene.submit(pause=2).waits_for_round(0)
        scene.kill_parent()
        scene.pass_lease_on(AWAY_LIMIT + 5)
        scene.start_parent()
        scene.waits_for(lambda: scene.parent_lines("not taken back"), "the job is not taken back")
        (seconds,) = re.findall(r"the site had no parent for (\d+) s", scene.parent_lines("not taken back")[0])
        assert AWAY_LIMIT + 5 <= int(seconds) < AWAY_LIMIT + 5 + TAKEOVER_SECONDS
        scene.waits_for(lambda: "Running" not in scene.phases, "the orphan is ended")
        assert scene.workflow["metadata"]["annotations"][Annotation.ENDING] == "ORPHANED"
        assert stage.fed.wait(scene.id) == "FINISHED:ABNORMAL"
        scene.expect_nothing_left(KILL_SECONDS)


@scenario
def second_parent_of_a_site(stage: Stage) -> None:
    """It ends without registering, and the first one's job goes on."""
    with stage.scene("second", rounds=4) as scene:
        scene.submit(pause=4)
        scene.waits_for(lambda: scene.site in stage.cluster.workflows(scene.id), "the site's Workflow exists")
        with stage.fed.second_parent(scene.site) as (process, log):
            eventually(lambda: process.poll() is not None, SETTLE_SECONDS, "the second parent ends")
            assert process.returncode != 0
            assert OTHER_IS_ALIVE in log.read_text()
            assert REGISTERED not in log.read_text()
        scene.expect_completed()


@scenario
def two_parents_start_at_once(stage: Stage) -> None:
    """One of them serves the site, the other ends without registering, and the job goes on.

    If it is not the one at whose address the job's process delivers its results, that one takes the job back later.
    """
    with stage.scene("two", rounds=10) as scene:
        fed = stage.fed
        scene.submit().waits_for_round(0)
        parent = scene.parent_label
        scene.kill_parent()
        with fed.second_parent(scene.site) as (process, log):
            fed.start(scene.site)
            scene.waits_for(lambda: process.poll() is not None or not fed.is_running(scene.site), "one of them ends")
            scene.waits_for(lambda: scene.parent_label != parent, "the other one has taken the job back")
            logs = {"first": fed.log_since_start(scene.site), "second": log.read_text()}
            alive = {"first": fed.is_running(scene.site), "second": process.poll() is None}
            assert sorted(alive.values()) == [False, True], alive
            for name, text in logs.items():
                assert (REGISTERED in text, OTHER_IS_ALIVE in text) == (alive[name], not alive[name]), f"{name}: {text}"
        if not alive["first"]:
            scene.start_parent()
        scene.expect_taken_back()
        scene.expect_completed()


@scenario
def suspended_parent_is_back_beside_its_successor(stage: Stage) -> None:
    """Its node hangs, and its pod is deleted by force. The successor takes the job back, and the node goes on.

    The old parent notices at its first look at the Lease, and changes nothing of the job. Both are registered.
    """
    with stage.scene("suspended", rounds=14) as scene:
        fed = stage.fed
        scene.submit().waits_for_round(0)
        parent, pid = scene.parent_label, fed.pid(scene.site)
        os.kill(pid, signal.SIGSTOP)
        try:
            with ExitStack() as successors:
                process, _ = successors.enter_context(fed.second_parent(scene.site))

                def is_taken_back() -> bool:
                    """Start a successor that could not register anew, as Kubernetes does.

                    FLARE's server sends some of its answers over the suspended parent's connection (sfm_endpoint.py).
                    """
                    nonlocal process
                    if process.poll() is not None:
                        process, _ = successors.enter_context(fed.second_parent(scene.site))
                    return scene.parent_label != parent

                scene.waits_for(is_taken_back, "the successor has taken the job back", within=3 * SETTLE_SECONDS)
                successor = scene.parent_label
                os.kill(pid, signal.SIGCONT)
                lost = "this parent launches and ends no jobs until that parent has ended"
                scene.waits_for(lambda: lost in fed.log_since_start(scene.site), "the old parent has lost its site")
                assert (process.poll(), scene.parent_label, scene.phases) == (None, successor, ["Running"])
                assert "shutdown" not in scene.workflow["spec"]
        finally:
            os.kill(pid, signal.SIGCONT)
        scene.kill_parent()
        scene.start_parent()
        scene.expect_taken_back()
        scene.expect_completed()


# --- FLARE's server does not answer


@contextmanager
def frozen_server(fed: Federation) -> Iterator[None]:
    """Let FLARE's server answer nothing."""
    os.kill(fed.pid("server"), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(fed.pid("server"), signal.SIGCONT)


@scenario
def parent_dies_between_two_attempts(stage: Stage) -> None:
    """FLARE's server does not answer whether the job goes on, so the parent has begun no other attempt when it dies."""
    with stage.scene("between", alone=True) as scene:
        scene.submit(pause=4, options=REJOINS)
        scene.waits_for_log(TASK, "the site trains its second round", times=2)
        (pod,) = scene.pods()
        with frozen_server(stage.fed):
            stage.cluster.evict(pod)
            scene.waits_for(lambda: scene.parent_lines("attempt 1 of 2 lost"), "the loss is known")
            scene.waits_for(lambda: not scene.pods(), "the pod is gone")
            scene.kill_parent()
        assert not scene.workflow["metadata"]["name"].endswith("-r1")
        scene.pass_lease_on(10)
        scene.start_parent()
        scene.expect_taken_back()
        scene.expect_completed(rounds_at_site=[1, 2])
        assert scene.workflow["metadata"]["name"].endswith("-r1")


@scenario
def parent_dies_before_its_report(stage: Stage) -> None:
    """The program has failed, and FLARE's server does not answer before the parent dies. The next run reports it."""
    with stage.scene("unheard", rounds=1, alone=True) as scene:
        scene.submit(code=f"{AFTER_TASK}os._exit(1)")
        scene.waits_for_log(TASK, "the site trains its only round")
        with frozen_server(stage.fed):
            scene.waits_for(lambda: scene.parent_lines("PROGRAM_FAILED"), "the program has failed")
            scene.kill_parent()
        assert scene.is_recorded
        scene.pass_lease_on(10)
        scene.start_parent()
        scene.waits_for(lambda: scene.parent_lines("its end (PROGRAM_FAILED) is reported"), "the end is reported")
        assert stage.fed.wait(scene.id) == "FINISHED:EXECUTION_EXCEPTION"
        scene.expect_nothing_left()


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios, as many at a time as the module's ``LANES``."""
    lanes: int = request.module.LANES
    with federation(cluster, lanes) as fed:
        stage = Stage(fed, cluster)
        with Together(scenario, request, cluster, threads=lanes, stage=stage) as running:
            yield running
