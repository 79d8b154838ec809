"""The demo as people run it: a command on the embedded engine, that leaves nothing."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flargo.embedded import Embedded
from flargo.tools.demo import job_folder
from tests.harness.embedded_cluster import IMAGE, EmbeddedCluster

FLARGO = Path(sys.executable).with_name("flargo")
WITHIN = 90.0
RUNNING = "site-2  running"


class Run:
    """One run of the command, with a folder of its own for all that it writes."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fd-", dir="/tmp"))
        self._log = self.folder / "said"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [FLARGO, "demo", *options],
                env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait(self, within: float = WITHIN) -> int:
        return self.process.wait(within)

    def says(self, words: str, within: float = WITHIN) -> None:
        until(lambda: words in self.said or self.process.poll() is not None, within)
        assert words in self.said, self.said

    def processes(self) -> list[int]:
        """All that is below: each of them has the folder in its environment or its command."""
        wanted = str(self.folder).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def folders(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir()]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.fixture
def demo() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*options: str) -> Run:
        runs.append(Run(*options))
        return runs[-1]

    yield begin
    for each in runs:
        each.close()


def failing_job(folder: Path, script: str) -> Path:
    job = job_folder.fedavg(folder, 2, 1, "any/image:1")
    (job / "app" / "custom" / "train.py").write_text(script)
    return job


def test_it_completes_with_the_right_weights_and_leaves_nothing(demo: Callable[..., Run]) -> None:
    run = demo("--sites", "3", "--rounds", "3")
    assert run.wait() == 0, run.said
    # Three sites add 1, 2, 3 with the same weights: 14/6 for each of three rounds.
    assert "[[8.0, 9.0, 10.0], [11.0, 12.0, 13.0]], as it must be" in run.said
    assert "FLARE says FINISHED:COMPLETED" in run.said
    assert re.search(r"argo list --kubeconfig \S+ \\\n +-n default -l flargo.dev/job-id=\S+", run.said)
    for words in (
        "round 1 of 3",
        "round 3 of 3: 3 of 3 results averaged",
        "server  running",
        "nothing is left running",
    ):
        assert words in run.said
    assert run.processes() == []
    assert run.folders() == []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_no_process_and_no_folder(demo: Callable[..., Run], kind: signal.Signals) -> None:
    run = demo("--rounds", "50")
    run.says(RUNNING)
    assert len(run.processes()) > 6
    run.process.send_signal(kind)
    assert run.wait() == 128 + kind
    assert f"by {kind.name}" in run.said
    assert run.processes() == []
    assert run.folders() == []


def test_a_signal_while_it_starts_leaves_nothing(demo: Callable[..., Run]) -> None:
    run = demo()
    run.says("federation")
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 128 + signal.SIGINT
    assert run.processes() == []
    assert run.folders() == []


def test_kill_9_leaves_no_process(demo: Callable[..., Run]) -> None:
    run = demo("--rounds", "50")
    run.says(RUNNING)
    run.process.kill()
    run.process.wait()
    assert until(lambda: not run.processes(), 10), run.processes()


def test_a_failing_job_of_the_users_shows_its_reason(demo: Callable[..., Run], tmp_path: Path) -> None:
    script = "import nvflare.client as flare\nflare.init()\nflare.receive()\nraise ValueError('no patients here')\n"
    run = demo("--job", str(failing_job(tmp_path, script)))
    assert run.wait() == 1
    assert re.search(r"failed +site-[12]: ValueError: no patients here\n", run.said), run.said
    assert run.folders() == []


def test_a_signal_on_a_cluster_ends_pods_and_takes_credentials_away(demo: Callable[..., Run], tmp_path: Path) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--context", "embedded", "--namespace", "flare")
        run = demo(*options, "--image", IMAGE, "--rounds", "50")
        run.says(RUNNING)
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM
        assert "the job is aborted, and its Workflows end" in run.said
        assert "nothing is left running" in run.said
        # One that did not end in time by FLARE's abort was deleted.
        assert {item["status"]["phase"] for item in cluster.items("workflows")} <= {"Failed", "Error", "Succeeded"}
        assert {pod["status"]["phase"] for pod in cluster.items("pods")} <= {"Failed", "Succeeded"}
        assert cluster.items("secrets") == []


def test_kill_9_leaves_nothing_on_a_cluster(demo: Callable[..., Run], tmp_path: Path) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare")
        run = demo(*options, "--image", IMAGE, "--rounds", "50")
        run.says(RUNNING)
        assert cluster.items("secrets")
        run.process.kill()
        run.process.wait()
        assert until(lambda: not (cluster.items("workflows") + cluster.items("pods") + cluster.items("secrets")), 30)
        assert until(lambda: not run.processes(), 30), run.processes()


def test_a_job_on_a_cluster_leaves_its_finished_workflows_to_be_seen(demo: Callable[..., Run], tmp_path: Path) -> None:
    with Embedded(namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        options = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", "flare")
        imageless = demo(*options)
        assert imageless.wait() == 1
        assert "name it with --image" in imageless.said
        run = demo(*options, "--image", IMAGE)
        assert run.wait() == 0, run.said
        assert [item["status"]["phase"] for item in cluster.items("workflows")] == ["Succeeded"] * 3
        assert cluster.items("secrets") == []


def test_a_job_that_takes_too_long_is_ended_and_told_of(demo: Callable[..., Run]) -> None:
    run = demo("--rounds", "50", "--timeout", "6")
    assert run.wait() == 1
    assert re.search(r"did not end within 6 s \(server .*site-2 .*\): give it longer with --timeout", run.said)
    assert run.processes() == []


def test_a_parent_that_dies_is_told_of(demo: Callable[..., Run]) -> None:
    run = demo("--rounds", "50")
    run.says(RUNNING)
    (parent,) = (pid for pid in run.processes() if b"client_train" in command(pid) and b"uid=site-2" in command(pid))
    os.kill(parent, signal.SIGKILL)
    assert run.wait() == 1
    assert "FLARE's parent of site-2 ended:" in run.said
    assert run.processes() == []


def test_what_is_asked_wrongly_is_told_in_a_sentence(demo: Callable[..., Run], tmp_path: Path) -> None:
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
            assert words in run.said
            assert "the result are in" not in run.said
            assert "Traceback" not in run.said
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
