"""The demo as people run it: a command on the embedded engine, that leaves nothing."""

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


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def demo() -> Iterator[Callable[..., DemoCommand]]:
    runs: list[DemoCommand] = []

    def begin(*options: str) -> DemoCommand:
        runs.append(DemoCommand(*options))
        return runs[-1]

    yield begin
    for each in runs:
        each.close()


def failing_job(folder: Path, script: str) -> Path:
    job = job_folder.fedavg(folder, 2, 1, "any/image:1")
    (job / "app" / "custom" / "train.py").write_text(script)
    return job


def test_it_completes_with_the_right_weights_and_leaves_nothing(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--sites", "3", "--rounds", "3")
    assert run.wait() == 0, run.output
    # Three sites add 1, 2, 3 with the same weights: 14/6 for each of three rounds.
    assert "[[8.0, 9.0, 10.0], [11.0, 12.0, 13.0]], as it must be" in run.output
    assert "FLARE says FINISHED:COMPLETED" in run.output
    assert re.search(r"argo list --kubeconfig \S+ \\\n +-n default -l flargo.dev/job-id=\S+", run.output)
    for words in (
        "round 1 of 3",
        "round 3 of 3: 3 of 3 results averaged",
        "server  running",
        "nothing is left running",
    ):
        assert words in run.output
    assert run.processes() == []
    assert run.folders() == []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_no_process_and_no_folder(
    demo: Callable[..., DemoCommand], kind: signal.Signals
) -> None:
    run = demo("--rounds", "50")
    run.wait_for_output(RUNNING)
    assert len(run.processes()) > 6
    run.process.send_signal(kind)
    assert run.wait() == 128 + kind
    assert f"by {kind.name}" in run.output
    assert run.processes() == []
    assert run.folders() == []


def test_a_signal_while_it_starts_leaves_nothing(demo: Callable[..., DemoCommand]) -> None:
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


def test_a_failing_job_of_the_users_shows_its_reason(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    script = "import nvflare.client as flare\nflare.init()\nflare.receive()\nraise ValueError('no patients here')\n"
    run = demo("--job", str(failing_job(tmp_path, script)))
    assert run.wait() == 1
    assert re.search(r"failed +site-[12]: ValueError: no patients here\n", run.output), run.output
    assert run.folders() == []


def test_a_signal_on_a_cluster_ends_pods_and_takes_credentials_away(
    demo: Callable[..., DemoCommand], tmp_path: Path
) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--context", "embedded", "--namespace", "flare")
        run = demo(*options, "--image", IMAGE, "--rounds", "50")
        run.wait_for_output(RUNNING)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM
        assert "the job is aborted, and its Workflows end" in run.output
        assert "nothing is left running" in run.output
        # One that did not end in time by FLARE's abort was deleted.
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


def test_a_job_on_a_cluster_leaves_its_finished_workflows_to_be_seen(
    demo: Callable[..., DemoCommand], tmp_path: Path
) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare")
        imageless = demo(*options)
        assert imageless.wait() == 1
        assert "name it with --image" in imageless.output
        run = demo(*options, "--image", IMAGE)
        assert run.wait() == 0, run.output
        assert [item["status"]["phase"] for item in cluster.items("workflows")] == ["Succeeded"] * 3
        assert cluster.items("secrets") == []


def test_a_job_that_takes_too_long_is_ended_and_told_of(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--rounds", "50", "--timeout", "6")
    assert run.wait() == 1
    assert re.search(r"did not end within 6 s \(server .*site-2 .*\): give it longer with --timeout", run.output)
    assert run.processes() == []


def test_a_parent_that_dies_is_told_of(demo: Callable[..., DemoCommand]) -> None:
    run = demo("--rounds", "50")
    run.wait_for_output(RUNNING)
    (parent,) = (pid for pid in run.processes() if b"client_train" in command(pid) and b"uid=site-2" in command(pid))
    os.kill(parent, signal.SIGKILL)
    assert run.wait() == 1
    assert "FLARE's parent of site-2 ended:" in run.output
    assert run.processes() == []


def test_what_is_asked_wrongly_is_told_in_a_sentence(demo: Callable[..., DemoCommand], tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = tmp_path / "dead.kubeconfig"
        dead.write_text(KUBECONFIG.format(nobody.getsockname()[1]))
        bad = tmp_path / "bad"
        bad.mkdir()
        (bad / "meta.json").write_text('{"launcher_spec": ["none"]}')
        questions = {
            ("--job", str(bad)): "launcher_spec in",
            ("--keep", str(dead)): "can't be a folder to keep things in",
            ("--job", str(tmp_path / "none")): "is no job folder: its meta.json can't be read",
            ("--kubeconfig", str(tmp_path / "none")): "can't be read",
            ("--kubeconfig", str(dead)): "can't be reached",
            ("--kubeconfig", str(dead), "--context", "other"): "has no context other: it has it.",
            ("--keep", str(tmp_path)): "is not empty",
            ("--address", "192.0.2.77"): "name an address of this machine",
        }
        for options, words in questions.items():
            run = demo(*options)
            assert run.wait() == 1
            assert words in run.output
            assert "the result are in" not in run.output
            assert "Traceback" not in run.output
            assert run.folders() == []
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
