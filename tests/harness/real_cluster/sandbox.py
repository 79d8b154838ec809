"""The sandbox: new namespaces whose process 1 runs a whole cluster; ending that process ends everything."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.harness.real_cluster import control, packages, parts, state

INSIDE = "FLARGO_CLUSTER_INSIDE"


class ClusterError(RuntimeError):
    """The cluster did not start, or a command in it failed."""


@contextlib.contextmanager
def lock(folder: Path = state.STATE) -> Iterator[None]:
    """Let only one process at a time start or end the cluster, or fill another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_up() -> bool:
    """Return whether process 1 answers; works inside the sandbox as well."""
    try:
        control.daemons()
    except (OSError, ValueError):
        return False
    return True


def init_pid() -> int | None:
    """Return process 1's pid outside the sandbox; None if the recorded process has ended."""
    try:
        recorded = json.loads((state.RUN / "init.json").read_text())
        pid = int(recorded["pid"])
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, KeyError):
        return None
    return pid if rest[19] == recorded["started"] and rest[0] not in "ZX" else None


def boot_command(folder: Path) -> list[str]:
    """Return the command that runs boot.py as process 1 of new namespaces, which all end with the command."""
    unshare = shutil.which("unshare", path=packages.SBIN) or "unshare"
    program = Path(__file__).with_name("boot.py")
    namespaces = ("--mount", "--net", "--pid")
    return [unshare, *namespaces, "--fork", "--kill-child", "--", sys.executable, "-I", str(program), str(folder)]


def boot() -> None:
    """Start process 1 in its namespaces, detached from this process."""
    with (state.LOGS / "boot.log").open("ab") as log:
        process = subprocess.Popen(
            boot_command(state.RUN),
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{packages.SBIN}"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait("the sandbox", lambda: process.poll() is not None or is_up(), 10)
    if process.poll() is not None:
        raise ClusterError(f"the sandbox did not start:\n{log_tail('boot')}")


def kill() -> bool:
    """End process 1, and with it everything inside; return whether it was running."""
    pid = init_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while init_pid() is not None:
        if time.monotonic() > deadline:
            raise ClusterError(f"process {pid} does not end")
        time.sleep(0.05)
    clean_cgroups()
    return True


def clean() -> None:
    """Remove the files of an earlier start, and the cgroups of its pods."""
    clean_cgroups()
    if state.RUN.exists():
        shutil.rmtree(state.RUN)
    state.RUN.mkdir()
    for tree in cgroups():
        tree.mkdir(exist_ok=True)


def clean_cgroups() -> None:
    """Remove the empty cgroups of former pods."""
    for tree in cgroups():
        for folder, _, _ in os.walk(tree, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def cgroups() -> list[Path]:
    """Return the cluster's own cgroup: one folder, or with cgroups v1 one in each hierarchy."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return [base / state.CGROUP]
    return [target / state.CGROUP for target in base.iterdir() if (target / "cgroup.procs").exists()]


def log_tail(name: str, lines: int = 30) -> str:
    """Return the last lines of one daemon's log."""
    with contextlib.suppress(OSError):
        return "\n".join((state.LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
    return ""


def wait(description: str, condition: Callable[[], bool], seconds: float, only: str = "") -> None:
    """Wait until a condition holds.

    Raises:
        ClusterError: the time is over, or meanwhile a daemon has ended (any, or the ``only`` one).
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for name, code in (control.ask("status")["ended"] if is_up() else {}).items():
            if only in ("", name):
                raise ClusterError(f"{name} ended with {code} while waiting for {description}:\n{log_tail(name)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{description}: not ready within {seconds:g} s")
        time.sleep(0.1)


def environment() -> dict[str, str]:
    """Return the environment of a command inside: the administrator's kubeconfig, and built programs on its PATH."""
    programs = ":".join(str(parts.program(name).parent) for name in ("kubectl", "argo", "helm"))
    return {
        **os.environ,
        INSIDE: "1",
        "PATH": f"{programs}:{os.environ.get('PATH', '')}:{packages.SBIN}",
        "KUBECONFIG": str(state.ADMIN),
        "KUBECACHEDIR": str(state.KUBECTL),  # else kubectl uses what it has cached of another cluster
        "CONTAINERD_ADDRESS": str(state.CONTAINERD),
        "CONTAINERD_NAMESPACE": "k8s.io",
    }


def command_inside(*command: str | Path) -> list[str]:
    """Return the command line that runs a command inside the sandbox, in the current folder."""
    argv = [str(argument) for argument in command]
    if os.environ.get(INSIDE):
        return argv
    pid = init_pid()
    if pid is None:
        raise ClusterError("the cluster is not up (python -m tests.harness.real_cluster up)")
    # env changes to the folder inside, by its path: the current folder belongs to the mounts outside.
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--", "env", "-C", str(Path.cwd()), *argv]


def run(*command: str | Path, stdin: str = "") -> str:
    """Run a command inside, and return its output."""
    process = subprocess.run(
        command_inside(*command), env=environment(), input=stdin, text=True, capture_output=True, check=False
    )
    if process.returncode:
        raise ClusterError(
            f"{' '.join(map(str, command))} ended with {process.returncode}: {process.stdout}{process.stderr}"
        )
    return process.stdout


def succeeds(*command: str | Path) -> bool:
    """Return whether a command inside succeeds."""
    with contextlib.suppress(ClusterError):
        run(*command)
        return True
    return False
