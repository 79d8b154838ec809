"""The commands that look at a cluster, used as a person or a program uses them on jobs of the real launcher."""

import json
import math
import os
import re
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
from flargo.flare.nvflare_internals import ServerJobProbe
from flargo.job import names
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label, Role, ServerJob
from flargo.tools.cli.cluster_options import api_for
from flargo.tools.cli.main import group
from flargo.tools.jobs.reader import ClusterReader
from flargo.tools.jobs.site_job import selector
from tests.harness.cluster import Cluster, eventually
from tests.harness.faults import matrix
from tests.harness.foreign_answers import FOREIGN_ANSWERS, ForeignAnswer
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
"""A program that prints 401 lines once it is told to: half of them are equal, and the last one has no line end."""


class CommandResult:
    """The exit code and the output of a command that has ended."""

    def __init__(self, process: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr
        assert "Traceback" not in self.err, self.err

    @property
    def json(self) -> Any:
        """Stdout, parsed as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """Stdout as lines of text."""
        return self.out.splitlines()


Flargo = Callable[..., CommandResult]
Start = Callable[..., "RunningCommand"]


class RunningCommand:
    """A command that still runs, and the lines that it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait(self, within: float) -> int:
        """Wait until the command ends, and return its exit code."""
        code = self.process.wait(within)
        self._thread.join(5)
        return code


def flargo_command(kubeconfig: Path, *arguments: str) -> list[str]:
    """Build a command with the kubeconfig of the FLARE parent's account, whose rights suffice for every command."""
    return [str(Path(sys.executable).with_name("flargo")), *arguments, f"--kubeconfig={kubeconfig}"]


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as site:
        yield site


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster, role=Role.SERVER) as server:
        yield server


@pytest.fixture
def flargo(cluster: Cluster) -> Flargo:
    """Return a function that runs a command to its end."""

    def run(*arguments: str) -> CommandResult:
        argv = flargo_command(cluster.target.launcher_kubeconfig, *arguments, f"--namespace={cluster.target.namespace}")
        return CommandResult(subprocess.run(argv, text=True, capture_output=True, check=False, timeout=60))

    return run


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """Return a function that starts a command, which is killed after the test."""
    started: list[RunningCommand] = []

    def run(*arguments: str, kubeconfig: Path | None = None) -> RunningCommand:
        where = kubeconfig or cluster.target.launcher_kubeconfig
        # A shell that runs tests in the background has them, and their child processes, ignore SIGINT.
        argv = [
            "env",
            "--default-signal=INT",
            *flargo_command(where, *arguments, f"--namespace={cluster.target.namespace}"),
        ]
        running = RunningCommand(
            subprocess.Popen(argv, text=True, stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "300"})
        )
        started.append(running)
        return running

    yield run
    for each in started:
        each.process.kill()
        each.process.wait()


# flargo jobs


def test_jobs_shows_the_launchers_states(site: Site, flargo: Flargo) -> None:
    running = site.launch(SLEEPS).expect_running()
    pending = site.launch(SLEEPS, {"num_of_gpus": 3, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    failed, gave_up = site.launch(exits(3)), site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": 0})
    failed.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    gave_up.expect_end(Reason.SHORTAGE, 101, START_SECONDS)
    rows = {row["job"]: row for row in flargo("jobs", "--federation", site.federation, "--json").json}
    states = {job.id: (rows[job.id]["state"], rows[job.id]["reason"]) for job in (running, pending, failed, gave_up)}
    assert states == {
        running.id: ("RUNNING", None),
        pending.id: ("SHORTAGE", None),
        failed.id: ("ENDED", "PROGRAM_FAILED"),
        gave_up.id: ("ENDED", "SHORTAGE"),
    }
    assert rows[running.id]["node"] == running.pod["spec"]["nodeName"]
    assert rows[pending.id]["gpus"] == {"nvidia.com/gpu": "3"}
    assert (rows[failed.id]["code"], rows[failed.id]["exit_code"]) == (1, 3)
    head, *lines = flargo("jobs", "--federation", site.federation).lines
    assert head.split() == ["JOB", "NAME", "SITE", "STATE", "REASON", "AGE"]
    (line,) = [line for line in lines if line.startswith(running.id[:8])]
    assert line.split()[:5] == [running.id[:8], "fault", "site-1", "RUNNING", "-"]
    for job in (running, pending):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        (row,) = flargo("why", job.id, "--json").json
        assert (row["reason"], row["code"]) == ("ABORTED", 9), (
            "the launcher's reason, although the Workflow shows only a shutdown"
        )


def test_jobs_without_matches_succeeds(flargo: Flargo, cluster: Cluster) -> None:
    result = flargo("jobs", "--federation", "nobody")
    assert (result.code, result.out) == (0, "")
    namespace = re.escape(cluster.target.namespace)
    assert re.fullmatch(rf"No jobs of federation nobody in namespace {namespace}( \([0-9]+ others?\))?\.\n", result.err)
    assert flargo("jobs", "--federation", "nobody", "--json").json == []


def test_jobs_watch_survives_broken_connections(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster) as site:
        wire_config = wire.kubeconfig(tmp_path / "kubeconfig", read_token(cluster.target.launcher_kubeconfig))
        watch = start("jobs", "--watch", "--json", "--federation", site.federation, kubeconfig=wire_config)
        eventually(lambda: wire.open_watches == 2, 20, "both watches are open")
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        eventually(lambda: _states(watch, job)[-1:] == ["RUNNING"], 10, "the job is shown as running")
        wire.cut_watches()
        job.exit_program(5)
        job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
        eventually(lambda: _states(watch, job)[-1:] == ["PROGRAM_FAILED"], 15, "the end is shown")
        job.expect_nothing_left()
        lists = [each for each in wire.requests if each.verb == "list" and each.resource in {"workflows", "pods"}]
        assert len(lists) < 12, "the command watches and does not poll"
        watch.process.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130


def _states(watch: RunningCommand, job: Job) -> list[str]:
    rows = [row for row in map(json.loads, watch.lines) if row["job"] == job.id]
    return [row["reason"] or row["state"] for row in rows]


def _exits_while_aborted(job: Job) -> None:
    # In this order the abort's kill does not race with the exec into the pod.
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
"""Functions that end a running job, by how it ends."""


def end_jobs_in_every_way(site: Site) -> dict[str, Job]:
    """Launch jobs and end each in another way. Return them by how they ended, with nothing left running."""
    jobs = {
        row.name: site.launch(row.program or SLEEPS, row.spec, **({"study": row.study} if row.study else {}))
        for row in matrix.ROWS
        if row.reason not in {Reason.LAUNCH_FAILED, Reason.EVICTED}  # leaves no Workflow; takes minutes
    }
    for name, end in ENDS.items():
        jobs[name] = site.launch(IGNORES_SIGTERM + EXITS_ON_REQUEST if "while" in name else SLEEPS).expect_running()
        end(jobs[name])
    for name, job in jobs.items():
        assert job.launched_job.wait(lambda current: current.verdict is not None, matrix.ROW_SECONDS), name
        job.expect_nothing_left()
    return jobs


def test_commands_and_launcher_agree_on_every_end(cluster: Cluster) -> None:
    """The launcher may know more than the objects show: who ended the job, and the state of a pod that is gone."""
    reader = ClusterReader(api_for(str(cluster.target.launcher_kubeconfig), None, cluster.target.namespace))
    with Site(cluster, studies=matrix.studies(cluster)) as site:
        jobs = end_jobs_in_every_way(site)
        confirmed = {
            job.job_id: reader.confirmed(job) for job in reader.site_jobs(selector(federation=site.federation))
        }
        launcher_verdicts = {name: job.launched_job.verdict for name, job in jobs.items()}
        command_verdicts = {name: confirmed[job.id].verdict for name, job in jobs.items()}
        by_launcher, by_commands = (
            {name: (verdict.reason.name, verdict.code) for name, verdict in verdicts.items() if verdict is not None}
            for verdicts in (launcher_verdicts, command_verdicts)
        )
        differences = {
            name: (outcome, by_commands.get(name))
            for name, outcome in by_launcher.items()
            if by_commands.get(name) != outcome
        }
        assert differences == {}


# flargo why


def test_why_shows_evidence_and_remedy(site: Site, flargo: Flargo) -> None:
    job = site.launch("held = [b'x' * 2**20 for _ in range(1000)]\n", {"memory": "100Mi"})
    job.expect_end(Reason.OUT_OF_MEMORY, 104, START_SECONDS)
    report = flargo("why", job.id[:13]).out
    assert "site-1 (client): OUT_OF_MEMORY, FLARE hears 104" in report
    assert Reason.OUT_OF_MEMORY.sentence in report
    assert "memory limit 100Mi" in report
    assert Reason.OUT_OF_MEMORY.remedy in report
    (row,) = flargo("why", job.name, "--json").json
    assert (row["reason"], row["exit_code"], row["what_to_do"]) == ("OUT_OF_MEMORY", 137, Reason.OUT_OF_MEMORY.remedy)


def test_why_shows_events_of_a_starting_pod(cluster: Cluster, flargo: Flargo) -> None:
    studies = {"late": {"secret_mounts": {"keys": {"source": "not-there", "mount_path": "/etc/keys"}}}}
    with Site(cluster, studies=studies) as late_site:
        job = late_site.launch(SLEEPS, study="late").expect_stage(Stage.STARTING)
        eventually(lambda: "FailedMount" in flargo("why", job.id).out, 30, "the events are shown")
        assert "not-there" in flargo("why", job.id).out


def test_why_and_logs_cover_both_sites(site: Site, server: Site, flargo: Flargo) -> None:
    server_job = server.launch(SLEEPS).expect_running()
    client_job = site.launch(SLEEPS, job_id=server_job.id).expect_running()
    report = flargo("why", server_job.id)
    assert report.code == 0
    assert report.out.count("Nothing is wrong: the job is running.") == 2
    assert {line.split(" (")[0] for line in report.lines if line.endswith("RUNNING")} == {"server", "site-1"}
    assert [row["site"] for row in flargo("why", server_job.id, "--site", "server", "--json").json] == ["server"]
    lines = flargo("logs", server_job.id).lines
    assert sorted(lines) == ["server | ready", "site-1 | ready"]
    for job in (client_job, server_job):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)


# A job that is started again


@pytest.fixture
def server_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ServerJob]]:
    """What the parent learns of the server's process of every job: the list's last element."""
    answers = [ServerJob.RUNS]
    monkeypatch.setattr(ServerJobProbe, "probe", lambda _: answers[-1])
    yield answers
    answers.append(ServerJob.GONE)


def _launch_with_attempts(site: Site) -> Job:
    return site.launch(SLEEPS, {"argo": {"rejoin": 2}}).expect_running()


def _row(flargo: Flargo, job: Job) -> Object:
    (row,) = flargo("why", job.id, "--json").json
    return dict(row)


def test_commands_show_a_job_that_was_started_again(
    cluster: Cluster, flargo: Flargo, server_job: list[ServerJob]
) -> None:
    with Site(cluster, argo={"policy": {"rejoin": 2}}) as site:
        job = _launch_with_attempts(site)
        node = job.pod["spec"]["nodeName"]
        cluster.evict(job.pod)
        eventually(lambda: _row(flargo, job)["workflow"] == f"{job.name}-r1", NOTICE_SECONDS, "an attempt follows")
        eventually(lambda: flargo("logs", job.id).out == "ready\n", START_SECONDS, "its program runs")
        (row,) = flargo("jobs", "--federation", site.federation, "--json").json
        (lost,) = row["attempts"].pop("earlier")
        assert (row["state"], row["reason"], row["attempts"]) == ("RUNNING", None, {"number": 2, "max": 3})
        assert (lost["workflow"], lost["reason"], lost["node"]) == (job.name, "DISRUPTED", node)
        head, line = flargo("jobs", "--federation", site.federation).lines
        assert "ATTEMPT" in head.split()
        assert " 2 of 3 " in line
        report = flargo("why", job.id).out
        assert "site-1 (client), attempt 2 of 3: RUNNING" in report
        assert f"attempt 1      DISRUPTED on node {node}" in report
        told = [event for event in cluster.items("events") if event["involvedObject"]["name"] == job.name]
        told = [event for event in told if event["involvedObject"]["kind"] == "Workflow" and "source" in event]
        reasons = [event["reason"] for event in told if event["source"].get("component") == "flargo"]
        assert sorted(reasons) == ["AttemptLost", "AttemptStarted"]
        result = flargo("terminate", job.name)
        assert (result.code, result.out) == (0, f"site-1: Workflow {job.name}-r1 is being terminated\n")
        job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
        cluster.wait_until_clear(job.id, job.name, within=60)
        del server_job


def test_commands_claim_no_end_between_two_attempts(
    cluster: Cluster, flargo: Flargo, server_job: list[ServerJob]
) -> None:
    server_job.append(ServerJob.UNKNOWN)
    with Site(cluster, argo={"policy": {"rejoin": 2}}) as site:
        job = _launch_with_attempts(site)
        cluster.evict(job.pod)
        eventually(lambda: _row(flargo, job)["state"] == "LOST", NOTICE_SECONDS, "the loss is shown")
        row = _row(flargo, job)
        assert (row["reason"], row["code"], job.launched_job.verdict) == ("DISRUPTED", None, None)
        assert flargo("terminate", job.id).code == 1
        server_job.append(ServerJob.GONE)
        job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
        eventually(lambda: _row(flargo, job)["state"] == "ENDED", NOTICE_SECONDS, "the end is noted on the Workflow")
        row = _row(flargo, job)
        assert (row["reason"], row["code"]) == ("DISRUPTED", 104)
        assert "the server's process of the job runs no longer" in row["detail"]
        cluster.wait_until_clear(job.id, job.name, within=60)


# flargo logs


def test_logs_follow_survives_cut_connections(
    cluster: Cluster, site: Site, start: Start, flargo: Flargo, tmp_path: Path
) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        wire_config = wire.kubeconfig(tmp_path / "kubeconfig", read_token(cluster.target.launcher_kubeconfig))
        job = site.launch(PRINTS_LINES)
        follower = start("logs", job.id, "-f", kubeconfig=wire_config)
        eventually(lambda: follower.lines, START_SECONDS, "the first line is printed")
        job.exit_program(3)
        cuts = 0
        while follower.process.poll() is None and cuts < 100:
            if wire.open_watches and follower.lines:
                wire.cut_watches()
                cuts += 1
            time.sleep(0.6)
        assert follower.wait(START_SECONDS) == 0
    assert cuts > 2
    assert [line for line in follower.lines if line != "same"] == [*(f"line {n}" for n in range(200)), "the end"]
    assert follower.lines.count("same") == 200, "equal lines are told apart by their times"
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    whole_log = flargo("logs", job.id)
    assert sorted(whole_log.lines) == sorted(follower.lines), "the whole log has the same lines"
    assert "argo=true" not in whole_log.out + "".join(follower.lines)
    assert "exit status" not in whole_log.out


def test_logs_fails_before_the_program_starts(site: Site, flargo: Flargo) -> None:
    job = site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    result = flargo("logs", job.id)
    assert (result.code, result.out) == (1, "")
    assert "has not started" in result.err
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)


# flargo terminate


@pytest.mark.parametrize("code", [SLEEPS, IGNORES_SIGTERM + SLEEPS], ids=["stops on SIGTERM", "ignores SIGTERM"])
def test_terminate_ends_running_jobs(site: Site, flargo: Flargo, code: str) -> None:
    job = site.launch(code).expect_running()
    result = flargo("terminate", job.id)
    assert (result.code, result.out) == (0, f"site-1: Workflow {job.name} is being terminated\n")
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    second = flargo("terminate", job.id)
    assert (second.code, second.out) == (0, f"site-1: Workflow {job.name} has already ended: SHUT_DOWN\n")


def test_terminate_ends_unreleased_workflows(cluster: Cluster, flargo: Flargo) -> None:
    with Site(cluster) as dead_site:
        name = dead_site.leave_unreleased_workflow()
        assert flargo("terminate", name, "--json").json[0]["did"] == "TOLD"
        eventually(
            lambda: cluster.workflow(name)["status"].get("phase") == "Failed", NOTICE_SECONDS, "the Workflow has ended"
        )
        assert cluster.items("pods", f"workflows.argoproj.io/workflow={name}") == []


# flargo sweep


def _advance_clock(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Advance the API server's clock, as the command reads it."""
    read_time = Api.time

    def read_later_time(self: Api) -> datetime:
        return read_time(self) + timedelta(hours=hours)

    monkeypatch.setattr(Api, "time", read_later_time)


def _sweep(cluster: Cluster, *arguments: str) -> Any:
    target = (f"--kubeconfig={cluster.target.launcher_kubeconfig}", f"--namespace={cluster.target.namespace}")
    result = CliRunner().invoke(group(), ["sweep", "--json", *arguments, *target], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_sweep_deletes_only_leftovers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(cluster) as site, Site(cluster) as dead_site:
        running = site.launch(SLEEPS).expect_running()
        pending = site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        finished = site.launch(exits(0))
        finished.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        finished.expect_nothing_left()
        unreleased = dead_site.leave_unreleased_workflow()
        secret_name = (
            f"nvflare-cred-{finished.name}-{finished.workflow['metadata']['annotations']['flargo.dev/attempt']}"
        )
        label_keys = (str(Label.MANAGED_BY), str(Label.FEDERATION), str(Label.SITE))
        labels = {key: finished.workflow["metadata"]["labels"][key] for key in label_keys}
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": finished.name}
        owner["uid"] = finished.workflow["metadata"]["uid"]
        secret = {"name": secret_name, "labels": labels, "ownerReferences": [owner]}
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"token": "t0psecret"}})
        site_option, dead_site_option = ("--federation", site.federation), ("--federation", dead_site.federation)
        assert _sweep(cluster, *site_option) == _sweep(cluster, *dead_site_option) == [], "everything is too young"
        _advance_clock(monkeypatch, 2)
        for dry in (True, False):
            options = ("--dry-run",) if dry else ()
            (row,) = _sweep(cluster, *site_option, *options)
            assert (row["kind"], row["name"], row["deleted"]) == ("Secret", secret_name, not dry)
            assert "t0psecret" not in json.dumps(row)
            assert secret_name in cluster.secrets("nvflare-cred-") or not dry
            deleted = [row["name"] for row in _sweep(cluster, *dead_site_option, *options)]
            assert deleted == [unreleased]
        eventually(lambda: secret_name not in cluster.secrets("nvflare-cred-"), 10, "the credentials are gone")
        eventually(lambda: unreleased not in _names(cluster, dead_site), 10, "the unreleased Workflow is gone")
        assert _names(cluster, site) == sorted([running.name, pending.name, finished.name]), (
            "even the Workflow of the finished job is kept"
        )
        assert _sweep(cluster, *site_option, "--older-than", "3h") == []
        _advance_clock(monkeypatch, 2)
        (row,) = _sweep(cluster, *site_option, "--older-than", "3h")
        assert row["name"] == finished.name
        eventually(lambda: finished.name not in _names(cluster, site), 10, "the finished job's Workflow is gone")
        assert (running.launched_job.stage, pending.launched_job.stage) == (Stage.RUNNING, Stage.SHORTAGE)
        assert (running.launched_job.verdict, pending.launched_job.verdict) == (None, None)


def test_jobs_of_flargo_0_1_are_listed_and_ended(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(cluster) as site:
        monkeypatch.setattr(names, "FEDERATION_DIGITS", names.OLD_FEDERATION_DIGITS)
        old = site.federation
        job = site.launch(SLEEPS).expect_running()
        assert job.workflow["metadata"]["labels"][Label.FEDERATION] == old
        monkeypatch.undo()
        assert site.federation != old
        assert site.federation.startswith(old)
        selectors = selector(federation=site.federation), selector(federation=old)
        assert all(
            [item["metadata"]["name"] for item in cluster.items("workflows.argoproj.io", terms)] == [job.name]
            for terms in selectors
        )
        site.restart_parent()
        cluster.wait_until_clear(job.id, job.name, within=60)
        relaunched = site.launch(exits(0), job_id=job.id)
        relaunched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        cluster.delete_by_label(f"{Label.FEDERATION}={old}")


def _names(cluster: Cluster, site: Site) -> list[str]:
    items = cluster.items("workflows.argoproj.io", f"{Label.FEDERATION}={site.federation}")
    return sorted(item["metadata"]["name"] for item in items)


def test_sweep_kills_pods_that_outlive_their_workflow(
    cluster: Cluster, flargo: Flargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Site(cluster) as dead_site:
        job = dead_site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
        _kill_parent(dead_site)
        assert flargo("terminate", job.id).code == 0
        final_phases = {"Succeeded", "Failed", "Error"}
        eventually(lambda: job.workflow["status"]["phase"] in final_phases, NOTICE_SECONDS, "Argo has ended it")
        assert cluster.processes(job.id), "the program still runs"
        assert _sweep(cluster, "--federation", dead_site.federation) == []
        _advance_clock(monkeypatch, 2)
        kinds = [row["kind"] for row in _sweep(cluster, "--federation", dead_site.federation)]
        assert kinds == ["pod"]
        eventually(lambda: not cluster.processes(job.id), NOTICE_SECONDS, "the program is dead")


def _kill_parent(site: Site) -> None:
    """Have the parent's threads stop as if its process were killed."""
    loop = site.launcher._loop
    assert loop is not None
    loop._is_ending.set()
    loop._stop_watching.set()
    loop._inputs.put(None)


# Errors


def test_missing_and_ambiguous_jobs_are_reported(site: Site, flargo: Flargo) -> None:
    prefix = site.federation[:8]
    for number in (1, 2):
        site.launch(exits(0), job_id=f"{prefix}-0000-4000-8000-00000000000{number}").expect_end(
            Reason.SUCCEEDED, 0, START_SECONDS
        )
    for command in ("why", "logs", "terminate"):
        for query, message in (("no-such-job", "no job 'no-such-job'"), (prefix, f"'{prefix}' matches 2 jobs")):
            result = flargo(command, query)
            assert (result.code, result.out, len(result.err.splitlines())) == (1, "", 1)
            assert message in result.err
            assert message in flargo(command, query, "--json").json["error"]["message"]


def test_refusing_and_unreachable_clusters_are_reported(cluster: Cluster, tmp_path: Path) -> None:
    token = read_token(cluster.target.launcher_kubeconfig)
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        wire_config = wire.kubeconfig(tmp_path / "kubeconfig", token)

        def jobs() -> CommandResult:
            argv = flargo_command(wire_config, "jobs", f"--namespace={cluster.target.namespace}")
            return CommandResult(subprocess.run(argv, text=True, capture_output=True, check=False))

        forbidden = 'workflows is forbidden: User "u" cannot list resource "workflows" in API group "argoproj.io"'
        status = {"kind": "Status", "apiVersion": "v1", "reason": "Forbidden", "code": 403, "message": forbidden}
        plain_page = ForeignAnswer(404, "text/plain; charset=utf-8", b"404 page not found\n")
        for answer, message in (
            (ForeignAnswer(403, "application/json", json.dumps(status).encode()), "needs the right to list workflows"),
            (plain_page, "has no Argo Workflows"),
            *((each, "does not answer as Kubernetes does") for each in FOREIGN_ANSWERS.values()),
        ):
            fault = wire.answer_as(answer, Match("list", "workflows"), times=math.inf)
            result = jobs()
            fault.disarm()
            assert (result.code, len(result.err.splitlines())) == (1, 1)
            assert message in result.err
        assert jobs().code == 0
    result = jobs()
    assert result.code == 1
    assert "the cluster can't be reached" in result.err
    assert token not in result.err
