"""Real processes: what they see of the machine, how they end, and that nothing of them is left."""

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
"""Of a pod; of this test run alone, for what carries it is killed wherever it runs."""


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes(time.time) as made:
        yield made


class Run:
    """One program."""

    def __init__(self, processes: Processes, folder: Path, code: str, **limits: Any) -> None:
        self.processes, self.log = processes, folder / "main.log"
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        program = Program((sys.executable, "-u", "-c", code), environment, folder)
        processes.start(UID, program, self.log, Limits(**limits))

    def says(self, word: str) -> "Run":
        eventually(lambda: word in self.log.read_text(), 10, f"it says {word}")
        return self

    def ends(self, within: float = 10) -> ProcessState:
        eventually(self.processes.poll, within, "it ends")
        state = self.processes.state(UID)
        assert state is not None
        return state


@pytest.fixture
def run(processes: Processes, tmp_path: Path) -> Callable[..., Run]:
    return lambda code, **limits: Run(processes, tmp_path, code, **limits)


SLEEPS = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
DEAF = "import signal\nsignal.signal(15, signal.SIG_IGN)\n"
TWINS = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEPS!r}], start_new_session=True)\n"
"""Leaves a process behind in a session of its own."""


def test_an_exit_code_is_the_programs_own(run: Callable[..., Run]) -> None:
    assert run("import sys; print('said'); sys.exit(103)").says("said").ends() == ProcessState(
        running=False, exit_code=103
    )


def test_a_signal_is_told_as_a_shell_tells_it(run: Callable[..., Run]) -> None:
    assert run("import os; os.kill(os.getpid(), 9)").ends().exit_code == 137


def test_a_program_that_is_not_there_ends_as_argos_executor_does(processes: Processes, tmp_path: Path) -> None:
    program = Program(("/not-there",), {"PATH": os.environ["PATH"]}, tmp_path)
    processes.start(UID, program, tmp_path / "main.log", Limits())
    state = processes.state(UID)
    assert state is not None
    assert (state.running, state.exit_code) == (False, 64)
    assert 'exec: "/not-there": stat /not-there: no such file or directory' in state.message


def test_sigterm_comes_first_and_is_heeded(run: Callable[..., Run], processes: Processes) -> None:
    started = run(SLEEPS).says("ready")
    processes.stop(UID, grace=30)
    assert started.ends(within=3).exit_code == 143


def test_who_is_deaf_gets_its_grace_and_no_more(run: Callable[..., Run], processes: Processes) -> None:
    started = run(DEAF + SLEEPS).says("ready")
    begun = time.monotonic()
    processes.stop(UID, grace=1)
    processes.stop(UID, grace=30)
    assert started.ends(within=5).exit_code == 137
    assert time.monotonic() - begun >= 1


def test_terminate_alone_kills_nobody_who_is_deaf(run: Callable[..., Run], processes: Processes) -> None:
    run(DEAF + SLEEPS).says("ready")
    processes.terminate(UID)
    time.sleep(0.5)
    assert processes.poll() == []
    assert len(processes) == 1


def test_what_a_program_leaves_behind_ends_with_it(run: Callable[..., Run]) -> None:
    started = run(f"{TWINS}import time; time.sleep(1)").says("ready")
    assert len(list(marked_processes(f"{POD_MARK}={UID}"))) == 2
    assert started.ends().exit_code == 0
    assert list(marked_processes(f"{POD_MARK}={UID}")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_too_much_memory_is_killed_and_said_to_be_memory(run: Callable[..., Run]) -> None:
    state = run("held = [b'x' * 2**20 for _ in range(400)]\nimport time; time.sleep(60)", memory=100 * 2**20).ends()
    assert (state.exit_code, state.reason) == (137, "OOMKilled")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_that_of_all_the_programs_processes(run: Callable[..., Run]) -> None:
    hold = "held = [b'x' * 2**20 for _ in range(60)]; import time; time.sleep(60)"
    code = f"import subprocess, sys\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', {hold!r}])\n{SLEEPS}"
    assert run(code, memory=100 * 2**20).ends().reason == "OOMKilled"


def test_memory_within_the_limit_is_nobodys_business(run: Callable[..., Run]) -> None:
    assert run("held = [b'x' * 2**20 for _ in range(20)]; print(len(held))", memory=200 * 2**20).ends().exit_code == 0


def test_too_much_on_the_disk_is_an_eviction(run: Callable[..., Run], tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'big')!r}, 'wb').write(b'x' * 2**22)\n{SLEEPS}"
    assert run(code, disk={tmp_path: (2**20, "too much")}).ends().eviction == "too much"


def test_closing_leaves_nothing(tmp_path: Path) -> None:
    with Processes(time.time) as processes:
        Run(processes, tmp_path, TWINS + DEAF + SLEEPS).says("ready")
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


def test_a_servers_crash_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path), TWINS + DEAF + SLEEPS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        mark = f"{SERVER_MARK}={server.stdout.readline().strip()}"
        eventually(lambda: len(list(marked_processes(mark))) == 2, 10, "both processes run")
        server.send_signal(signal.SIGKILL)
    eventually(lambda: not list(marked_processes(mark)), 5, "the guardian has ended them")


# --- what a program sees


def pod(mounted: dict[str, str], volumes: list[Object], **container: Any) -> Object:
    mounts_of = [{"name": name, "mountPath": path} for path, name in mounted.items()]
    main = {"name": "main", "image": "job", "volumeMounts": mounts_of, **container}
    spec = {"containers": [main], "initContainers": [], "volumes": volumes}
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}


KIT = {"name": "kit", "secret": {"secretName": "kit"}}
WORK: Object = {"name": "work", "emptyDir": {}}
SECRETS: dict[str, Object] = {"kit": {"data": {"a.json": "e30=", "token": "czNjcmV0"}}}


def test_a_volume_within_a_volume_is_a_directory_of_it(tmp_path: Path) -> None:
    item = pod({"/ws/site": "work", "/ws/site/startup": "kit"}, [WORK, KIT])
    where = mounts.build_volumes(item, tmp_path, SECRETS.get, {})
    work = Path(where.rewrite("/ws/site"))
    assert (work / "startup" / "a.json").read_text() == "{}"
    assert not (work / "startup").is_symlink()
    assert (work / "startup" / "a.json").stat().st_mode & 0o777 == 0o400
    assert where.rewrite("/ws/site/startup/a.json") == str(work / "startup" / "a.json")


def test_a_claim_is_the_machines_own_directory_also_within_a_volume(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows").write_text("1 2 3")
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    item = pod({"/ws": "work", "/ws/data": "data", "/data": "data"}, [WORK, claim])
    where = mounts.build_volumes(item, tmp_path / "pod", dict[str, Object]().get, {"c": data})
    assert (Path(where.rewrite("/ws")) / "data" / "rows").read_text() == "1 2 3"
    assert where.rewrite("/data/rows") == str(data / "rows")


def test_nothing_is_put_into_a_claim_which_is_somebodys_own_directory() -> None:
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    item = pod({"/data": "data", "/data/kit": "kit"}, [claim, KIT])
    assert "/data/kit within a claim" in kubelet.admission_denial(item, {"default"}, "")
    assert kubelet.admission_denial(pod({"/data": "data"}, [claim]), {"default"}, "") == ""


def test_paths_are_rewritten_where_they_are_paths(tmp_path: Path) -> None:
    where = mounts.build_volumes(pod({"/ws": "work", "/ws/a": "kit"}, [WORK, KIT]), tmp_path, SECRETS.get, {})
    ws = where.rewrite("/ws")
    assert where.rewrite("--dir=/ws/x:/ws/a/y") == f"--dir={ws}/x:{ws}/a/y"
    assert where.rewrite("open('/ws')") == f"open('{ws}')"
    for other in ("/wsx", "/other/ws", "a/ws", "/ws-2", "/ws.old"):
        assert where.rewrite(other) == other
    assert where.rewrite("/tmp/x") == str(tmp_path / "tmp" / "x")


def test_of_two_paths_the_longer_one_counts(tmp_path: Path) -> None:
    where = mounts.build_volumes(pod({"/tmp/ws": "work"}, [WORK]), tmp_path, SECRETS.get, {})
    assert where.rewrite("/tmp/ws/x") == str(tmp_path / "volumes" / "work" / "x")
    assert where.rewrite("/tmp/wsx") == str(tmp_path / "tmp" / "wsx")


def test_a_program_sees_its_own_variables_and_none_of_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "secret")
    variables = [
        {"name": "PLAIN", "value": "/ws/x"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "kit", "key": "token"}}},
        {"name": "BOTH", "value": "$(PLAIN) $(UNKNOWN) $$(PLAIN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    item = pod({"/ws": "work"}, [WORK], env=variables, command=["/usr/bin/python3.11"], args=["-c", "$(POD)"])
    where = mounts.build_volumes(item, tmp_path, SECRETS.get, {})
    program = mounts.build_program(item, where, tmp_path, SECRETS.get, "/this/python")
    said = program.environment
    assert program.argv == ("/this/python", "-c", "p")
    assert (said["TOKEN"], said["POD"]) == ("s3cret", "p")
    assert said["PLAIN"] == where.rewrite("/ws/x")
    assert said["BOTH"] == f"{where.rewrite('/ws/x')} $(UNKNOWN) $(PLAIN)"
    assert set(said) == {"PATH", "HOME", "TMPDIR", "LANG", "HOSTNAME", "PLAIN", "TOKEN", "BOTH", "POD"}
    assert said["HOME"].startswith(str(tmp_path))
    assert program.workdir.is_dir()
