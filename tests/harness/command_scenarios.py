"""The commands that look at a cluster, used as a person or a program uses them on jobs of the real launcher."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flargo.cluster.api import Api
from flargo.job import names
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label, Role
from flargo.tools.cli.cluster_options import api_for
from flargo.tools.cli.main import group
from flargo.tools.jobs.reader import ClusterReader
from flargo.tools.jobs.site_job import selector
from tests.harness.cluster import Cluster, eventually
from tests.harness.faults import matrix
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, START_SECONDS, Job, Site, exits, read_token
from tests.harness.wire import Match, Wire

Object = dict[str, Any]
NOTICE_SECONDS = 20.0
PRINTS_LINES = """\
import os, sys, time
for number in range(200):
    while number == 1 and not os.path.exists('/tmp/end'):
        time.sleep(0.05)
    print('line', number, flush=True)
    print('same', file=sys.stderr, flush=True)
    time.sleep(0.02)
sys.stdout.write('the end')
sys.stdout.flush()
os._exit(3)
"""
"""Code that says much once it is told to, some of it again and again, and leaves its last line without an end."""


class CommandResult:
    """What a command has left behind."""

    def __init__(self, process: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr
        assert "Traceback" not in self.err, self.err

    @property
    def json(self) -> Any:
        """The answer for programs."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The answer for people."""
        return self.out.splitlines()


Flargo = Callable[..., CommandResult]
Start = Callable[..., "RunningCommand"]


class RunningCommand:
    """A command that goes on, and what it has said so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def ends(self, within: float) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(within)
        self._thread.join(5)
        return code


def flargo_command(kubeconfig: Path, *arguments: str) -> list[str]:
    """Of the FLARE parent's own account: no more rights than that are needed for any of this."""
    return [str(Path(sys.executable).with_name("flargo")), *arguments, f"--kubeconfig={kubeconfig}"]


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster, role=Role.SERVER) as made:
        yield made


@pytest.fixture
def flargo(cluster: Cluster) -> Flargo:
    """Run a command to its end."""

    def run(*arguments: str) -> CommandResult:
        words = flargo_command(
            cluster.target.launcher_kubeconfig, *arguments, f"--namespace={cluster.target.namespace}"
        )
        return CommandResult(subprocess.run(words, text=True, capture_output=True, check=False, timeout=60))

    return run


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """Have a command go on, perhaps over a wire; it is ended with the test."""
    begun: list[RunningCommand] = []

    def run(*arguments: str, kubeconfig: Path | None = None) -> RunningCommand:
        where = kubeconfig or cluster.target.launcher_kubeconfig
        # Whoever runs tests in the background may have had them ignore Ctrl-C, and what they start as well.
        words = [
            "env",
            "--default-signal=INT",
            *flargo_command(where, *arguments, f"--namespace={cluster.target.namespace}"),
        ]
        made = RunningCommand(
            subprocess.Popen(words, text=True, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "300"})
        )
        begun.append(made)
        return made

    yield run
    for each in begun:
        each.process.kill()
        each.process.wait()


# flargo jobs


def test_jobs_tells_what_the_launcher_says_of_each(site: Site, flargo: Flargo) -> None:
    runs = site.launch(SLEEPS).expect_running()
    short = site.launch(SLEEPS, {"num_of_gpus": 3, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    failed, gave_up = site.launch(exits(3)), site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": 0})
    failed.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    gave_up.expect_end(Reason.SHORTAGE, 101, START_SECONDS)
    rows = {row["job"]: row for row in flargo("jobs", "--federation", site.federation, "--json").json}
    told = {job.id: (rows[job.id]["state"], rows[job.id]["reason"]) for job in (runs, short, failed, gave_up)}
    assert told == {
        runs.id: ("RUNNING", None),
        short.id: ("SHORTAGE", None),
        failed.id: ("ENDED", "PROGRAM_FAILED"),
        gave_up.id: ("ENDED", "SHORTAGE"),
    }
    assert rows[runs.id]["node"] == runs.pod["spec"]["nodeName"]
    assert rows[short.id]["gpus"] == {"nvidia.com/gpu": "3"}
    assert (rows[failed.id]["code"], rows[failed.id]["exit_code"]) == (1, 3)
    head, *lines = flargo("jobs", "--federation", site.federation).lines
    assert head.split() == ["JOB", "NAME", "SITE", "ROLE", "STUDY", "STATE", "REASON", "SINCE", "NODE", "GPUS"]
    (line,) = [line for line in lines if line.startswith(runs.id[:8])]
    assert line.split()[:6] == [runs.id[:8], "fault", "site-1", "client", "-", "RUNNING"]
    for job in (runs, short):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        (row,) = flargo("why", job.id, "--json").json
        assert (row["reason"], row["code"]) == ("ABORTED", 9), (
            "as the launcher says, though all that shows is a shutdown"
        )


def test_jobs_of_nobody_is_no_error(flargo: Flargo, cluster: Cluster) -> None:
    done = flargo("jobs", "--federation", "nobody")
    assert (done.code, done.out, done.err) == (0, "", f"No jobs in namespace {cluster.target.namespace}.\n")
    assert flargo("jobs", "--federation", "nobody", "--json").json == []


def test_jobs_are_watched_over_broken_connections(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster) as site:
        there = wire.kubeconfig(tmp_path / "kubeconfig", read_token(cluster.target.launcher_kubeconfig))
        watch = start("jobs", "--watch", "--json", "--federation", site.federation, kubeconfig=there)
        eventually(lambda: wire.open_watches == 2, 20, "it watches")
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        eventually(lambda: _states(watch, job)[-1:] == ["RUNNING"], 10, "it shows that it runs")
        wire.cut_watches()
        job.exit_program(5)
        job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
        eventually(lambda: _states(watch, job)[-1:] == ["PROGRAM_FAILED"], 15, "it shows the end")
        job.expect_nothing_left()
        lists = [asked for asked in wire.requests if asked.verb == "list" and asked.resource in {"workflows", "pods"}]
        assert len(lists) < 12, "it watches, and does not poll"
        watch.process.send_signal(signal.SIGINT)
        assert watch.ends(10) == 130


def _states(watch: RunningCommand, job: Job) -> list[str]:
    rows = [row for row in map(json.loads, watch.lines) if row["job"] == job.id]
    return [row["reason"] or row["state"] for row in rows]


def _exits_while_aborted(job: Job) -> None:
    # In this order the abort's kill does not race with the way into the pod.
    job.exit_program(0, after=1.5)
    job.abort()


ENDS: dict[str, Callable[[Job], object]] = {
    "evicted": lambda job: job.cluster.evict(job.pod),
    "its pod deleted": lambda job: job.cluster.delete("pod", job.pod),
    "terminated by Argo's command": lambda job: job.cluster.argo("terminate", job.name),
    "aborted": Job.abort,
    "cleaned up": Job.cleanup,
    "ended with 0 while aborted": _exits_while_aborted,
}
"""What is done to programs that run."""


def end_jobs_in_every_way(site: Site) -> dict[str, Job]:
    """Jobs of a site with the fault matrix's studies, by how each has ended; nothing of them is left running."""
    jobs = {
        row.name: site.launch(row.runs or SLEEPS, row.spec, **({"study": row.study} if row.study else {}))
        for row in matrix.ROWS
        if row.reason not in {Reason.LAUNCH_FAILED, Reason.EVICTED}  # leaves no Workflow; takes minutes
    }
    for name, end in ENDS.items():
        jobs[name] = site.launch(IGNORES_SIGTERM + EXITS_ON_REQUEST if "while" in name else SLEEPS).expect_running()
        end(jobs[name])
    for name, job in jobs.items():
        assert job.launched_job.wait(lambda seen: seen.verdict is not None, matrix.TOGETHER), name
        job.expect_nothing_left()
    return jobs


def test_the_commands_and_the_launcher_tell_the_same_of_every_end(cluster: Cluster) -> None:
    """Also where the launcher knows more than what is left shows: who ended it, what a pod that is gone was like."""
    reader = ClusterReader(api_for(str(cluster.target.launcher_kubeconfig), None, cluster.target.namespace))
    with Site(cluster, studies=matrix.studies(cluster)) as site:
        jobs = end_jobs_in_every_way(site)
        confirmed = {
            job.job_id: reader.confirmed(job) for job in reader.site_jobs(selector(federation=site.federation))
        }
        verdicts = {name: job.launched_job.verdict for name, job in jobs.items()}
        heard = {name: (it.reason.name, it.code) for name, it in verdicts.items() if it is not None}
        shown = {name: confirmed[job.id].verdict for name, job in jobs.items()}
        told = {name: (it.reason.name, it.code) for name, it in shown.items() if it is not None}
        assert {name: (heard[name], told[name]) for name in heard if told.get(name) != heard[name]} == {}


# flargo why


def test_why_tells_of_each_site_and_of_an_end_its_evidence_and_remedy(site: Site, flargo: Flargo) -> None:
    job = site.launch("held = [b'x' * 2**20 for _ in range(1000)]\n", {"memory": "100Mi"})
    job.expect_end(Reason.OUT_OF_MEMORY, 104, START_SECONDS)
    told = flargo("why", job.id[:13]).out
    assert "site-1 (client): OUT_OF_MEMORY, FLARE hears 104" in told
    assert Reason.OUT_OF_MEMORY.sentence in told
    assert "memory limit 100Mi" in told
    assert Reason.OUT_OF_MEMORY.remedy in told
    (row,) = flargo("why", job.name, "--json").json
    assert (row["reason"], row["exit_code"], row["what_to_do"]) == ("OUT_OF_MEMORY", 137, Reason.OUT_OF_MEMORY.remedy)


def test_why_tells_what_a_pod_waits_for(cluster: Cluster, flargo: Flargo) -> None:
    studies = {"late": {"secret_mounts": {"keys": {"source": "not-there", "mount_path": "/etc/keys"}}}}
    with Site(cluster, studies=studies) as waits:
        job = waits.launch(SLEEPS, study="late").expect_stage(Stage.STARTING)
        eventually(lambda: "FailedMount" in flargo("why", job.id).out, 30, "its events are told")
        assert "not-there" in flargo("why", job.id).out


def test_a_job_that_runs_has_nothing_wrong_at_two_sites(site: Site, server: Site, flargo: Flargo) -> None:
    there = server.launch(SLEEPS).expect_running()
    here = site.launch(SLEEPS, job_id=there.id).expect_running()
    told = flargo("why", there.id)
    assert told.code == 0
    assert told.out.count("Nothing is wrong: the job is running.") == 2
    assert {line.split(" (")[0] for line in told.lines if line.endswith("RUNNING")} == {"server", "site-1"}
    assert [row["site"] for row in flargo("why", there.id, "--site", "server", "--json").json] == ["server"]
    both = flargo("logs", there.id).lines
    assert sorted(both) == ["server | ready", "site-1 | ready"]
    for job in (here, there):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)


# flargo logs


def test_a_log_is_followed_over_cut_connections_without_loss_or_repetition(
    cluster: Cluster, site: Site, start: Start, flargo: Flargo, tmp_path: Path
) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        there = wire.kubeconfig(tmp_path / "kubeconfig", read_token(cluster.target.launcher_kubeconfig))
        job = site.launch(PRINTS_LINES)
        follows = start("logs", job.id, "-f", kubeconfig=there)
        eventually(lambda: follows.lines, START_SECONDS, "its first line is there")
        job.exit_program(3)
        cuts = 0
        while follows.process.poll() is None and cuts < 100:
            if wire.open_watches and follows.lines:
                wire.cut_watches()
                cuts += 1
            time.sleep(0.6)
        assert follows.ends(START_SECONDS) == 0
    assert cuts > 2
    assert [line for line in follows.lines if line != "same"] == [*(f"line {n}" for n in range(200)), "the end"]
    assert follows.lines.count("same") == 200, "those with equal words are told apart by their times"
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    whole = flargo("logs", job.id)
    assert sorted(whole.lines) == sorted(follows.lines), "and read at once it is the same"
    assert "argo=true" not in whole.out + "".join(follows.lines)
    assert "exit status" not in whole.out


def test_a_program_that_has_not_begun_has_no_log(site: Site, flargo: Flargo) -> None:
    job = site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    done = flargo("logs", job.id)
    assert (done.code, done.out) == (1, "")
    assert "has not started" in done.err
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)


# flargo terminate


@pytest.mark.parametrize("code", [SLEEPS, IGNORES_SIGTERM + SLEEPS], ids=["heeds", "deaf"])
def test_terminate_ends_a_job_and_the_launcher_sees_to_it(site: Site, flargo: Flargo, code: str) -> None:
    job = site.launch(code).expect_running()
    done = flargo("terminate", job.id)
    assert (done.code, done.out) == (0, f"site-1: Workflow {job.name} is being terminated\n")
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    again = flargo("terminate", job.id)
    assert (again.code, again.out) == (0, f"site-1: Workflow {job.name} has already ended: SHUT_DOWN\n")


def test_terminate_ends_what_its_dead_parent_never_released(cluster: Cluster, flargo: Flargo) -> None:
    with Site(cluster) as gone:
        name = gone.leave_unreleased_workflow()
        assert flargo("terminate", name, "--json").json[0]["did"] == "TOLD"
        eventually(lambda: cluster.workflow(name)["status"].get("phase") == "Failed", NOTICE_SECONDS, "it is over")
        assert cluster.items("pods", f"workflows.argoproj.io/workflow={name}") == []


# flargo sweep


def _later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """The API server's clock, as the command reads it."""
    truly = Api.time

    def time_then(self: Api) -> datetime:
        return truly(self) + timedelta(hours=hours)

    monkeypatch.setattr(Api, "time", time_then)


def _sweep(cluster: Cluster, *arguments: str) -> Any:
    where = (f"--kubeconfig={cluster.target.launcher_kubeconfig}", f"--namespace={cluster.target.namespace}")
    done = CliRunner().invoke(group(), ["sweep", "--json", *arguments, *where], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_sweep_takes_what_no_parent_can_own_and_nothing_else(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(cluster) as site, Site(cluster) as gone:
        runs = site.launch(SLEEPS).expect_running()
        waits = site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        done = site.launch(exits(0))
        done.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        done.expect_nothing_left()
        left = gone.leave_unreleased_workflow()
        leaked = f"nvflare-cred-{done.name}-{done.workflow['metadata']['annotations']['flargo.dev/attempt']}"
        kept = (str(Label.MANAGED_BY), str(Label.FEDERATION), str(Label.SITE))
        labels = {key: done.workflow["metadata"]["labels"][key] for key in kept}
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": done.name}
        owner["uid"] = done.workflow["metadata"]["uid"]
        secret = {"name": leaked, "labels": labels, "ownerReferences": [owner]}
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"token": "t0psecret"}})
        ours, theirs = ("--federation", site.federation), ("--federation", gone.federation)
        assert _sweep(cluster, *ours) == _sweep(cluster, *theirs) == [], "all of it is too young"
        _later(monkeypatch, 2)
        for dry in (True, False):
            options = ("--dry-run",) if dry else ()
            (taken,) = _sweep(cluster, *ours, *options)
            assert (taken["kind"], taken["name"], taken["deleted"]) == ("Secret", leaked, not dry)
            assert "t0psecret" not in json.dumps(taken)
            assert leaked in cluster.secrets("nvflare-cred-") or not dry
            taken = [row["name"] for row in _sweep(cluster, *theirs, *options)]
            assert taken == [left]
        eventually(lambda: leaked not in cluster.secrets("nvflare-cred-"), 10, "the credentials are gone")
        eventually(lambda: left not in _names(cluster, gone), 10, "the launch that was broken off is gone")
        assert _names(cluster, site) == sorted([runs.name, waits.name, done.name]), (
            "even the record of the finished one"
        )
        assert _sweep(cluster, *ours, "--older-than", "3h") == []
        _later(monkeypatch, 2)
        (taken,) = _sweep(cluster, *ours, "--older-than", "3h")
        assert taken["name"] == done.name
        eventually(lambda: done.name not in _names(cluster, site), 10, "the record is gone")
        assert (runs.launched_job.stage, waits.launched_job.stage) == (Stage.RUNNING, Stage.SHORTAGE)
        assert (runs.launched_job.verdict, waits.launched_job.verdict) == (None, None)


def test_what_flargo_0_1_left_running_is_listed_and_ended_by_its_successor(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(cluster) as site:
        monkeypatch.setattr(names, "FEDERATION_DIGITS", names.OLD_FEDERATION_DIGITS)
        old = site.federation
        job = site.launch(SLEEPS).expect_running()
        assert job.workflow["metadata"]["labels"][Label.FEDERATION] == old
        monkeypatch.undo()
        assert site.federation != old
        assert site.federation.startswith(old)
        listed = selector(federation=site.federation), selector(federation=old)
        assert all(
            [item["metadata"]["name"] for item in cluster.items("workflows.argoproj.io", terms)] == [job.name]
            for terms in listed
        )
        site.restart_parent()
        cluster.wait_until_clear(job.id, job.name, within=60)
        again = site.launch(exits(0), job_id=job.id)
        again.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        cluster.delete_by_label(f"{Label.FEDERATION}={old}")


def _names(cluster: Cluster, of: Site) -> list[str]:
    found = cluster.items("workflows.argoproj.io", f"{Label.FEDERATION}={of.federation}")
    return sorted(item["metadata"]["name"] for item in found)


def test_sweep_kills_what_runs_on_after_its_workflow_if_no_parent_has(
    cluster: Cluster, flargo: Flargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(cluster) as gone:
        job = gone.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
        _dies(gone)
        assert flargo("terminate", job.id).code == 0
        over = {"Succeeded", "Failed", "Error"}
        eventually(lambda: job.workflow["status"]["phase"] in over, NOTICE_SECONDS, "Argo has ended it")
        assert cluster.processes(job.id), "and it runs on"
        assert _sweep(cluster, "--federation", gone.federation) == []
        _later(monkeypatch, 2)
        kinds = [row["kind"] for row in _sweep(cluster, "--federation", gone.federation)]
        assert kinds == ["pod"]
        eventually(lambda: not cluster.processes(job.id), NOTICE_SECONDS, "it is dead")


def _dies(site: Site) -> None:
    """The parent's process is killed."""
    loop = site.launcher._loop
    assert loop is not None
    loop._is_ending.set()
    loop._stop_watching.set()
    loop._tasks.put(None)


# What is in the way


def test_a_job_that_is_not_there_or_may_be_several_is_told_in_a_line(site: Site, flargo: Flargo) -> None:
    alike = site.federation[:8]
    for number in (1, 2):
        site.launch(exits(0), job_id=f"{alike}-0000-4000-8000-00000000000{number}").expect_end(
            Reason.SUCCEEDED, 0, START_SECONDS
        )
    for word in ("why", "logs", "terminate"):
        for said, told in (("no-such-job", "no job 'no-such-job'"), (alike, f"'{alike}' matches 2 jobs")):
            done = flargo(word, said)
            assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
            assert told in done.err
            assert told in flargo(word, said, "--json").json["error"]["message"]


def test_a_cluster_that_fails_for_a_moment_or_refuses_is_told_of(cluster: Cluster, tmp_path: Path) -> None:
    token = read_token(cluster.target.launcher_kubeconfig)
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        there = wire.kubeconfig(tmp_path / "kubeconfig", token)

        def jobs() -> CommandResult:
            words = flargo_command(there, "jobs", f"--namespace={cluster.target.namespace}")
            return CommandResult(subprocess.run(words, text=True, capture_output=True, check=False))

        for code, told in ((403, "needs the right to list workflows.argoproj.io"), (404, "has no Argo Workflows")):
            wire.answer_with_status(Match("list", "workflows"), code)
            done = jobs()
            assert (done.code, len(done.err.splitlines())) == (1, 1)
            assert told in done.err
        assert jobs().code == 0
    done = jobs()
    assert done.code == 1
    assert "the cluster can't be reached" in done.err
    assert token not in done.err
