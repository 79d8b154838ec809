"""Brings the whole cluster up, in the order its parts need each other."""

import concurrent.futures
import contextlib
import functools
import json
import sys
import time
from collections.abc import Iterable

from tests.harness.real_cluster import (
    apply,
    control,
    daemons,
    image_store,
    images,
    packages,
    parts,
    pki,
    sandbox,
    state,
    target,
    versions,
)


def build() -> None:
    """Fill the cache: every program, every image."""
    packages.check()
    _build()


def _build() -> None:
    """Build programs beside images: installing packages waits for disk and network while compilers work.

    Clusters that start side by side share the cache, so only one process fills it.
    """
    with sandbox.alone(versions.CACHE), concurrent.futures.ThreadPoolExecutor() as lanes:
        for lane in [lanes.submit(_build_programs), lanes.submit(_build_job_image)]:
            lane.result()
        for name in images.names():
            images.archive(name)


def _build_programs() -> None:
    for name in (
        "pause",
        "etcd",
        "coredns",
        "helm",
        "workflow-controller",
        "kube-apiserver",
        "kube-proxy",
        "kube-router",
    ):
        parts.program(name)
    parts.crds()


def _build_job_image() -> None:
    images.wheels()
    images.archive("job")


def up() -> None:
    """From nothing to a cluster that runs workflows; one that is up already stays as it is."""
    packages.check()
    with sandbox.alone():
        if sandbox.is_up():
            sys.stderr.write("cluster: is up already\n")
            return
        _build()
        began = time.monotonic()
        try:
            _up(target.wanted_namespace())
        except BaseException:
            sandbox.kill()
            sys.stderr.write(f"cluster: did not come up, its logs are in {state.LOGS}\n")
            raise
        sys.stderr.write(f"cluster: up after {time.monotonic() - began:.1f} s\n")


def down() -> None:
    """End it and all that runs in it."""
    with sandbox.alone():
        sys.stderr.write("cluster: down\n" if sandbox.kill() else "cluster: was not up\n")


def restart(name: str) -> None:
    """End one daemon (also one that was stopped), start it again, wait until it is there."""
    if name not in _table():
        raise SystemExit(f"cluster: no daemon is called {name}; there are {' '.join(_table())}")
    control.ask("restart", name=name)
    listening((name,), only=name)
    if name == "kube-apiserver":
        sandbox.wait("the API server", serving, 60, only=name)


def _up(namespace: str) -> None:
    sandbox.kill()
    sandbox.clean()
    pki.make()
    daemons.write(namespace)
    sandbox.boot()
    start(daemons.FIRST)
    with concurrent.futures.ThreadPoolExecutor() as beside:
        stored = beside.submit(_fill_store)
        sandbox.wait("the API server", serving, 60)
        start(daemons.SECOND)
        apply.everything(namespace)
        start(daemons.THIRD)
        sandbox.wait("the node", node_ready, 60)
        listening((*daemons.SECOND, *daemons.THIRD))
        stored.result()
    target.Target(
        kubeconfig=state.ADMIN,
        launcher_kubeconfig=state.LAUNCHER,
        namespace=namespace,
        job_image=images.names()["job"],
        audit_log=state.AUDIT,
    ).save()


def _fill_store() -> None:
    listening(("registry",))
    sandbox.wait("containerd", lambda: sandbox.works("ctr", "version"), 30)
    image_store.fill()


def start(names: Iterable[str]) -> None:
    """Start some daemons."""
    for name in names:
        control.ask("start", name=name)


def listening(names: Iterable[str], only: str = "") -> None:
    """Wait until daemons accept connections (those that have a port)."""
    for name in names:
        if port := _table()[name].get("port"):
            sandbox.wait(name, functools.partial(control.listens, port), 60, only)


def serving() -> bool:
    """Whether the API server says that it is ready."""
    return sandbox.works("kubectl", "get", "--raw", "/readyz")


def node_ready() -> bool:
    """Whether the node is there and takes pods."""
    ready = '{range .items[*].status.conditions[?(@.type=="Ready")]}{.status}{end}'
    with contextlib.suppress(sandbox.BrokenError):
        return sandbox.run("kubectl", "get", "nodes", "--output", f"jsonpath={ready}") == "True"
    return False


def _table() -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = json.loads((state.RUN / "daemons.json").read_text())
    return table
