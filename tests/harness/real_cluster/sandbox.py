"""The sandbox: new namespaces whose process 1 keeps a whole cluster; ending it ends everything."""

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


class BrokenError(RuntimeError):
    """The cluster did not come to where it should be."""


@contextlib.contextmanager
def alone(folder: Path = state.STATE) -> Iterator[None]:
    """Only one process at a time starts or ends the cluster, or fills another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_up() -> bool:
    """Whether process 1 answers; true inside the sandbox as well."""
    try:
        control.daemons()
    except (OSError, ValueError):
        return False
    return True


def init() -> int | None:
    """Process 1's pid as the outside knows it; None unless that is the very process recorded."""
    try:
        recorded = json.loads((state.RUN / "init.json").read_text())
        pid = int(recorded["pid"])
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, KeyError):
        return None
    return pid if rest[19] == recorded["started"] and rest[0] not in "ZX" else None


def boot() -> None:
    """Start process 1 in its namespaces, detached from whoever calls."""
    unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--")
    program = Path(__file__).with_name("boot.py")
    with (state.LOGS / "boot.log").open("ab") as log:
        process = subprocess.Popen(
            [*unshare, sys.executable, "-I", program, state.RUN],
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{packages.SBIN}"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    wait("the sandbox", lambda: process.poll() is not None or is_up(), 10)
    if process.poll() is not None:
        raise BrokenError(f"the sandbox did not start:\n{tail('boot')}")


def kill() -> bool:
    """End process 1, and with it all that runs inside; whether there was one."""
    pid = init()
    if pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while init() is not None:
        if time.monotonic() > end:
            raise BrokenError(f"process {pid} does not end")
        time.sleep(0.05)
    clean_cgroups()
    return True


def clean() -> None:
    """Remove what an earlier start left: its files, and the cgroups of its pods."""
    clean_cgroups()
    if state.RUN.exists():
        shutil.rmtree(state.RUN)
    state.RUN.mkdir()
    for tree in cgroups():
        tree.mkdir(exist_ok=True)


def clean_cgroups() -> None:
    """Remove the cgroups of pods that are no more."""
    for tree in cgroups():
        for folder, _, _ in os.walk(tree, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def cgroups() -> list[Path]:
    """The cluster's own cgroup: one folder, or one in each hierarchy of the first version."""
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return [base / state.CGROUP]
    return [target / state.CGROUP for target in base.iterdir() if (target / "cgroup.procs").exists()]


def tail(name: str, lines: int = 30) -> str:
    """The end of one daemon's log."""
    with contextlib.suppress(OSError):
        return "\n".join((state.LOGS / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])
    return ""


def wait(what: str, true: Callable[[], bool], seconds: float, only: str = "") -> None:
    """Wait until something is true; a daemon that has ended (or the ``only`` one) or the time is a failure."""
    end = time.monotonic() + seconds
    while not true():
        for name, code in (control.ask("status")["ended"] if is_up() else {}).items():
            if only in ("", name):
                raise BrokenError(f"{name} ended with {code} while waiting for {what}:\n{tail(name)}")
        if time.monotonic() > end:
            raise BrokenError(f"{what}: not there within {seconds:g} s")
        time.sleep(0.1)


def environment() -> dict[str, str]:
    """What a command inside gets: the administrator's kubeconfig, the programs built on its PATH."""
    programs = ":".join(str(parts.program(name).parent) for name in ("kubectl", "argo", "helm"))
    return {
        **os.environ,
        INSIDE: "1",
        "PATH": f"{programs}:{os.environ.get('PATH', '')}:{packages.SBIN}",
        "KUBECONFIG": str(state.ADMIN),
        "KUBECACHEDIR": str(state.KUBECTL),  # or else what another cluster had is believed
        "CONTAINERD_ADDRESS": str(state.CONTAINERD),
        "CONTAINERD_NAMESPACE": "k8s.io",
    }


def inside(*command: str | Path) -> list[str]:
    """The command line that runs a command inside, in the folder one is in."""
    words = [str(word) for word in command]
    if os.environ.get(INSIDE):
        return words
    pid = init()
    if pid is None:
        raise BrokenError("the cluster is not up (python -m tests.harness.real_cluster up)")
    # The folder is taken again inside, by its name: the one outside belongs to other mounts.
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--pid", "--", "env", "-C", str(Path.cwd()), *words]


def run(*command: str | Path, stdin: str = "") -> str:
    """Run a command inside and return its output."""
    done = subprocess.run(inside(*command), env=environment(), input=stdin, text=True, capture_output=True, check=False)
    if done.returncode:
        raise BrokenError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def works(*command: str | Path) -> bool:
    """Whether a command inside succeeds."""
    with contextlib.suppress(BrokenError):
        run(*command)
        return True
    return False
