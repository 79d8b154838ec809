"""Runs `flargo demo` as a command on the embedded engine: it shows the right result and leaves nothing behind."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flargo.embedded import Embedded
from flargo.tools.demo import job_folder
from tests.harness.demo_command import DemoCommand, poll_until
from tests.harness.embedded_cluster import IMAGE, EmbeddedCluster

RUNNING = "site-2  running"
DRAIN_SECONDS = 180.0
"""The time that a demo may take whose rounds last some seconds, and one of them twice."""


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def demo() -> Iterator[Callable[..., DemoCommand]]:
    runs: list[DemoCommand] = []

    def start(*options: str) -> DemoCommand:
        runs.append(DemoCommand(*options))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


def kept_folder(run: DemoCommand) -> Path:
    """Return the folder that a failed run has kept, which it names together with the command that deletes it."""
    (name,) = run.folders()
    folder = run.temporary / name
    assert f"kits and logs: {folder}\n" in run.output
    assert f"to delete them: rm -r {folder}\n" in run.output
    assert (folder / "logs" / "server.log").exists()
    return folder


def failing_job(folder: Path, script: str) -> Path:
    job = job_folder.export_fedavg(folder, 2, 1, "any/image:1")
    (job / "app" / "custom" / "train.py").write_text(script)
    return job


def test_completes_with_right_weights_and_leaves_nothing(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--sites", "3", "--rounds", "3")
    assert run.wait() == 0, run.output
    # Three sites add 1, 2, 3 with the same weights: 14/6 for each of three rounds.
    assert "[[8.0, 9.0, 10.0], [11.0, 12.0, 13.0]], as expected" in run.output
    assert "FLARE says FINISHED:COMPLETED" in run.output
    assert re.search(r"argo list --kubeconfig \S+ \\\n +-n default -l flargo.dev/job-id=\S+", run.output)
    for text in (
        "round 1 of 3",
        "round 3 of 3: 3 of 3 results averaged",
        "server  running",
        "nothing is left running",
    ):
        assert text in run.output
    assert run.processes() == []
    assert run.folders() == []


def test_drained_site_trains_again_and_job_completes(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--drain")
    assert run.wait(DRAIN_SECONDS) == 0, run.output
    (drained,) = re.findall(r"drain +site-1 trains round (\d): its pod is evicted", run.output)
    assert "attempt 1 of 2 at site-1: DISRUPTED" in run.output
    assert f"rejoined    site-1 trains round {drained} again" in run.output
    workflows = re.findall(r"site-1  .*, Workflow (\S+)", run.output)
    assert workflows == [workflows[0], f"{workflows[0]}-r1"]
    # Two sites add 1 and 2, with these weights: 5/3 for each of three rounds.
    assert "[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]], as expected" in run.output
    assert "the server got 3 of 3 from site-1, 3 of 3 from site-2" in run.output
    assert "nothing is left running" in run.output
    assert run.processes() == []
    assert run.folders() == []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_job_leaves_nothing(demo: Callable[..., DemoCommand], kind: signal.Signals) -> None:
    run = demo("--rounds", "50")
    run.wait_for_output(RUNNING)
    assert len(run.processes()) > 6
    run.process.send_signal(kind)
    assert run.wait() == 128 + kind
    assert f"by {kind.name}" in run.output
    assert run.processes() == []
    assert run.folders() == []


def test_signals_during_start_leave_nothing(demo: Callable[..., DemoCommand]) -> None:
    run = demo()
    run.wait_for_output("federation")
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 128 + signal.SIGINT
    assert run.processes() == []
    assert run.folders() == []


def test_kill_9_leaves_no_process(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--rounds", "50")
    run.wait_for_output(RUNNING)
    run.process.kill()
    run.process.wait()
    assert poll_until(lambda: not run.processes(), 10), run.processes()


def test_failing_user_job_shows_its_reason(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    script = "import nvflare.client as flare\nflare.init()\nflare.receive()\nraise ValueError('no patients here')\n"
    run = demo("--job", str(failing_job(tmp_path, script)))
    assert run.wait() == 1
    assert re.search(r"failed +site-[12]: ValueError: no patients here\n", run.output), run.output
    logs = kept_folder(run) / "logs"
    assert any("no patients here" in (logs / f"job-{site}.log").read_text() for site in ("site-1", "site-2"))


def test_site_that_is_aborted_is_not_blamed(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    """A slow site's script gets an exception when it sends a result to a job that another site has ended."""
    script = """\
import time
import nvflare.client as flare

flare.init()
model = flare.receive()
if flare.get_site_name() == "site-2":
    raise ValueError("no patients here")
time.sleep(5)
flare.send(model)
"""
    run = demo("--job", str(failing_job(tmp_path, script)))
    assert run.wait() == 1
    assert re.search(r"failed +site-2: ValueError: no patients here\n", run.output), run.output
    assert re.search(r'\n +File ".*train.py", line 7, in <module>\n', run.output), "the traceback is shown"


def test_signal_cleans_up_a_cluster(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    """The job is aborted, its pods end, and its credentials are deleted."""
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--context", "embedded", "--namespace", "flare")
        run = demo(*options, "--image", IMAGE, "--rounds", "50")
        run.wait_for_output(RUNNING)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM
        assert "the job is aborted, and its Workflows end" in run.output
        assert "nothing is left running" in run.output
        # The clean-up deletes Workflows that FLARE's abort does not end in time.
        assert {item["status"]["phase"] for item in cluster.items("workflows")} <= {"Failed", "Error", "Succeeded"}
        assert {pod["status"]["phase"] for pod in cluster.items("pods")} <= {"Failed", "Succeeded"}
        assert cluster.items("secrets") == []


def test_kill_9_leaves_nothing_on_a_cluster(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare")
        run = demo(*options, "--image", IMAGE, "--rounds", "50")
        run.wait_for_output(RUNNING)
        assert cluster.items("secrets")
        run.process.kill()
        run.process.wait()
        assert poll_until(
            lambda: not (cluster.items("workflows") + cluster.items("pods") + cluster.items("secrets")), 30
        )
        assert poll_until(lambda: not run.processes(), 30), run.processes()


def test_cluster_job_leaves_only_finished_workflows(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    """Users can look at the Workflows after the demo; the Secrets are deleted."""
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare")
        run_without_image = demo(*options)
        assert run_without_image.wait() == 2
        assert "name it with --image" in run_without_image.output
        run = demo(*options, "--image", IMAGE)
        assert run.wait() == 0, run.output
        assert [item["status"]["phase"] for item in cluster.items("workflows")] == ["Succeeded"] * 3
        assert (cluster.items("secrets"), cluster.items("leases")) == ([], [])


def test_drain_on_a_cluster_leaves_the_workflow_of_each_attempt(
    demo: Callable[..., DemoCommand], tmp_path: Path
) -> None:
    """The credentials of both attempts are deleted."""
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare", "--image", IMAGE)
        run = demo(*options, "--drain", "--rounds", "2")
        assert run.wait(DRAIN_SECONDS) == 0, run.output
        phases = {item["metadata"]["name"]: item["status"]["phase"] for item in cluster.items("workflows")}
        (second,) = (name for name in phases if name.endswith("-r1"))
        assert phases.pop(second.removesuffix("-r1")) in {"Failed", "Error"}
        assert [*phases.values()] == ["Succeeded"] * 3, "the server's, site-2's and the second attempt's"
        assert cluster.items("secrets") == []


def test_timeout_ends_the_job(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--rounds", "50", "--timeout", "6")
    assert run.wait() == 1
    assert re.search(r"did not end within 6 s \(server .*site-2 .*\): allow more time with --timeout", run.output)
    assert (kept_folder(run) / "logs" / "job-site-2.log").exists(), "no traceback is needed"
    assert run.processes() == []


def test_killed_parent_is_reported(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--rounds", "50")
    run.wait_for_output(RUNNING)
    (parent,) = (
        pid for pid in run.processes() if b"client_train" in command_line(pid) and b"uid=site-2" in command_line(pid)
    )
    os.kill(parent, signal.SIGKILL)
    assert run.wait() == 1
    assert "The FLARE parent of site-2 ended:" in run.output
    kept_folder(run)
    assert run.processes() == []


def test_wrong_options_are_explained(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = tmp_path / "dead.kubeconfig"
        dead.write_text(KUBECONFIG.format(unused.getsockname()[1]))
        bad = tmp_path / "bad"
        bad.mkdir()
        (bad / "meta.json").write_text('{"launcher_spec": ["none"]}')
        messages = {
            ("--job", str(bad)): "launcher_spec in",
            ("--keep", str(dead)): f"The --keep folder {dead} cannot be used",
            ("--image", "x", "--kubeconfig", str(dead)): "The cluster can't be reached",
            ("--keep", str(tmp_path)): "is not empty",
            ("--address", "192.0.2.77"): "name an address of this machine",
        }
        for options, message in messages.items():
            run = demo(*options)
            assert run.wait() == 1
            assert message in run.output
            assert "kept" not in run.output, "there are no logs yet"
            assert "Traceback" not in run.output
            assert run.folders() == []
    assert demo("--job", str(tmp_path / "none")).wait() == 2
    assert demo("--context", "any").wait() == 2
    assert demo("--rounds", "0").wait() == 2


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{{name: it, cluster: {{server: "https://127.0.0.1:{}"}}}}]
users: [{{name: it, user: {{token: none}}}}]
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
current-context: it
"""
