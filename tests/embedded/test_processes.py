"""Tests of real processes: what they see of the machine, how they end, and that none is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flargo.embedded import kubelet, mounts
from flargo.embedded.kubelet import ProcessState
from flargo.embedded.mounts import Program
from flargo.embedded.processes import POD_MARK, SERVER_MARK, Limits, Processes
from flargo.embedded.reaper import marked_processes
from tests.harness.cluster import eventually

Object = dict[str, Any]
UID = f"uid-{os.getpid()}"
"""The uid of a pod. It is unique to this test run, because every process of the machine with this mark is killed."""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes(time.time) as processes:
        yield processes


class Run:
    """A Python program that runs in the pod UID."""

    def __init__(self, processes: Processes, folder: Path, code: str, **limits: Any) -> None:
        self.processes, self.log = processes, folder / "main.log"
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        program = Program((sys.executable, "-u", "-c", code), environment, folder)
        processes.start(UID, program, self.log, Limits(**limits))

    def prints(self, text: str) -> "Run":
        """Wait until the program has printed a text."""
        eventually(lambda: text in self.log.read_text(), 10, f"the program prints {text}")
        return self

    def ends(self, within: float = 10) -> ProcessState:
        """Wait until the program has ended, and return its state."""
        eventually(self.processes.poll, within, "the program ends")
        state = self.processes.state(UID)
        assert state is not None
        return state


@pytest.fixture
def run(processes: Processes, tmp_path: Path) -> Callable[..., Run]:
    return lambda code, **limits: Run(processes, tmp_path, code, **limits)


SLEEPS = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
IGNORES_SIGTERM = "import signal\nsignal.signal(15, signal.SIG_IGN)\n"
LEAVES_A_PROCESS = (
    f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEPS!r}], start_new_session=True)\n"
)
"""Starts another process, in a session of its own, and leaves it behind."""


def test_exit_code_is_the_programs_own(run: Callable[..., Run]) -> None:
    assert run("import sys; print('text'); sys.exit(103)").prints("text").ends() == ProcessState(
        running=False, exit_code=103
    )


def test_signal_becomes_a_shells_exit_code(run: Callable[..., Run]) -> None:
    assert run("import os; os.kill(os.getpid(), 9)").ends().exit_code == 137


def test_missing_program_ends_as_with_argos_executor(processes: Processes, tmp_path: Path) -> None:
    program = Program(("/not-there",), {"PATH": os.environ["PATH"]}, tmp_path)
    processes.start(UID, program, tmp_path / "main.log", Limits())
    state = processes.state(UID)
    assert state is not None
    assert (state.running, state.exit_code) == (False, 64)
    assert 'exec: "/not-there": stat /not-there: no such file or directory' in state.message


def test_stop_sends_sigterm_first(run: Callable[..., Run], processes: Processes) -> None:
    program = run(SLEEPS).prints("ready")
    processes.stop(UID, grace=30)
    assert program.ends(within=3).exit_code == 143


def test_stop_kills_after_the_first_grace(run: Callable[..., Run], processes: Processes) -> None:
    program = run(IGNORES_SIGTERM + SLEEPS).prints("ready")
    start = time.monotonic()
    processes.stop(UID, grace=1)
    processes.stop(UID, grace=30)
    assert program.ends(within=5).exit_code == 137
    assert time.monotonic() - start >= 1


def test_terminate_does_not_kill(run: Callable[..., Run], processes: Processes) -> None:
    run(IGNORES_SIGTERM + SLEEPS).prints("ready")
    processes.terminate(UID)
    time.sleep(0.5)
    assert processes.poll() == []
    assert len(processes) == 1


def test_leftover_processes_end_with_the_program(run: Callable[..., Run]) -> None:
    program = run(f"{LEAVES_A_PROCESS}import time; time.sleep(1)").prints("ready")
    assert len(list(marked_processes(f"{POD_MARK}={UID}"))) == 2
    assert program.ends().exit_code == 0
    assert list(marked_processes(f"{POD_MARK}={UID}")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_limit_kills_with_its_reason(run: Callable[..., Run]) -> None:
    state = run("held = [b'x' * 2**20 for _ in range(400)]\nimport time; time.sleep(60)", memory=100 * 2**20).ends()
    assert (state.exit_code, state.reason) == (137, "OOMKilled")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_limit_counts_all_processes(run: Callable[..., Run]) -> None:
    hold = "held = [b'x' * 2**20 for _ in range(60)]; import time; time.sleep(60)"
    code = f"import subprocess, sys\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', {hold!r}])\n{SLEEPS}"
    assert run(code, memory=100 * 2**20).ends().reason == "OOMKilled"


def test_memory_within_the_limit_is_permitted(run: Callable[..., Run]) -> None:
    assert run("held = [b'x' * 2**20 for _ in range(20)]; print(len(held))", memory=200 * 2**20).ends().exit_code == 0


def test_disk_limit_evicts(run: Callable[..., Run], tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'big')!r}, 'wb').write(b'x' * 2**22)\n{SLEEPS}"
    assert run(code, disk={tmp_path: (2**20, "too much")}).ends().eviction == "too much"


def test_close_kills_all_processes(tmp_path: Path) -> None:
    with Processes(time.time) as processes:
        Run(processes, tmp_path, LEAVES_A_PROCESS + IGNORES_SIGTERM + SLEEPS).prints("ready")
        mark = f"{SERVER_MARK}={processes._mark}"
        assert len(list(marked_processes(mark))) == 2
    assert list(marked_processes(mark)) == []


SERVER = """
import sys, time
from pathlib import Path
from flargo.embedded.mounts import Program
from flargo.embedded.processes import Limits, Processes
import os
processes = Processes(time.time)
program = Program((sys.executable, "-u", "-c", sys.argv[2]), {"PATH": os.environ["PATH"]}, Path(sys.argv[1]))
processes.start("a-crashed-servers", program, Path(sys.argv[1]) / "main.log", Limits())
print(processes._mark, flush=True)
time.sleep(60)
"""


def test_reaper_kills_all_after_a_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path), LEAVES_A_PROCESS + IGNORES_SIGTERM + SLEEPS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        mark = f"{SERVER_MARK}={server.stdout.readline().strip()}"
        eventually(lambda: len(list(marked_processes(mark))) == 2, 10, "both processes run")
        server.send_signal(signal.SIGKILL)
    eventually(lambda: not list(marked_processes(mark)), 5, "the reaper has killed them")


# --- the files and variables of a program


def pod(mount_paths: dict[str, str], volumes: list[Object], **container: Any) -> Object:
    """Return a pod; ``mount_paths`` has the volume of each path."""
    volume_mounts = [{"name": name, "mountPath": path} for path, name in mount_paths.items()]
    main = {"name": "main", "image": "job", "volumeMounts": volume_mounts, **container}
    spec = {"containers": [main], "initContainers": [], "volumes": volumes}
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}


KIT = {"name": "kit", "secret": {"secretName": "kit"}}
WORK: Object = {"name": "work", "emptyDir": {}}
SECRETS: dict[str, Object] = {"kit": {"data": {"a.json": "e30=", "token": "czNjcmV0"}}}


def test_nested_volume_is_a_directory(tmp_path: Path) -> None:
    item = pod({"/ws/site": "work", "/ws/site/startup": "kit"}, [WORK, KIT])
    path_map = mounts.build_volumes(item, tmp_path, SECRETS.get, {})
    work = Path(path_map.rewrite("/ws/site"))
    assert (work / "startup" / "a.json").read_text() == "{}"
    assert not (work / "startup").is_symlink()
    assert (work / "startup" / "a.json").stat().st_mode & 0o777 == 0o400
    assert path_map.rewrite("/ws/site/startup/a.json") == str(work / "startup" / "a.json")


def test_claim_is_a_directory_of_this_machine(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows").write_text("1 2 3")
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    item = pod({"/ws": "work", "/ws/data": "data", "/data": "data"}, [WORK, claim])
    path_map = mounts.build_volumes(item, tmp_path / "pod", dict[str, Object]().get, {"c": data})
    assert (Path(path_map.rewrite("/ws")) / "data" / "rows").read_text() == "1 2 3"
    assert path_map.rewrite("/data/rows") == str(data / "rows")


def test_mounts_within_a_claim_are_refused() -> None:
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    item = pod({"/data": "data", "/data/kit": "kit"}, [claim, KIT])
    assert "/data/kit within a claim" in kubelet.admission_denial(item, {"default"}, "")
    assert kubelet.admission_denial(pod({"/data": "data"}, [claim]), {"default"}, "") == ""


def test_only_whole_paths_are_rewritten(tmp_path: Path) -> None:
    path_map = mounts.build_volumes(pod({"/ws": "work", "/ws/a": "kit"}, [WORK, KIT]), tmp_path, SECRETS.get, {})
    ws = path_map.rewrite("/ws")
    assert path_map.rewrite("--dir=/ws/x:/ws/a/y") == f"--dir={ws}/x:{ws}/a/y"
    assert path_map.rewrite("open('/ws')") == f"open('{ws}')"
    for other in ("/wsx", "/other/ws", "a/ws", "/ws-2", "/ws.old"):
        assert path_map.rewrite(other) == other
    assert path_map.rewrite("/tmp/x") == str(tmp_path / "tmp" / "x")


def test_longest_mount_path_wins(tmp_path: Path) -> None:
    path_map = mounts.build_volumes(pod({"/tmp/ws": "work"}, [WORK]), tmp_path, SECRETS.get, {})
    assert path_map.rewrite("/tmp/ws/x") == str(tmp_path / "volumes" / "work" / "x")
    assert path_map.rewrite("/tmp/wsx") == str(tmp_path / "tmp" / "wsx")


def test_environment_has_only_the_pods_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_VARIABLE", "secret")
    variables = [
        {"name": "PLAIN", "value": "/ws/x"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "kit", "key": "token"}}},
        {"name": "BOTH", "value": "$(PLAIN) $(UNKNOWN) $$(PLAIN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    item = pod({"/ws": "work"}, [WORK], env=variables, command=["/usr/bin/python3.11"], args=["-c", "$(POD)"])
    path_map = mounts.build_volumes(item, tmp_path, SECRETS.get, {})
    program = mounts.build_program(item, path_map, tmp_path, SECRETS.get, "/this/python")
    environment = program.environment
    assert program.argv == ("/this/python", "-c", "p")
    assert (environment["TOKEN"], environment["POD"]) == ("s3cret", "p")
    assert environment["PLAIN"] == path_map.rewrite("/ws/x")
    assert environment["BOTH"] == f"{path_map.rewrite('/ws/x')} $(UNKNOWN) $(PLAIN)"
    assert set(environment) == {"PATH", "HOME", "TMPDIR", "LANG", "HOSTNAME", "PLAIN", "TOKEN", "BOTH", "POD"}
    assert environment["HOME"].startswith(str(tmp_path))
    assert program.workdir.is_dir()
