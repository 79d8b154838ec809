"""Starts the whole cluster, in the order in which its parts need each other, and ends it."""

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
    node_images,
    packages,
    parts,
    pki,
    sandbox,
    state,
    target,
    versions,
)
from tests.harness.real_cluster.node_daemons import FIRST_NODE


def build() -> None:
    """Fill the cache with every program and every image."""
    packages.check()
    _build()


def _build() -> None:
    """Build programs and images at the same time: package installation waits for disk and network while compilers work.

    Clusters that start side by side share the cache, so only one process fills it.
    """
    with sandbox.lock(versions.CACHE), concurrent.futures.ThreadPoolExecutor() as lanes:
        for lane in [lanes.submit(_build_programs), lanes.submit(_build_job_image)]:
            lane.result()
        node_images.unpacked()


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
    """Build and start a cluster that runs Workflows; a cluster that is up stays as it is."""
    packages.check()
    with sandbox.lock():
        if sandbox.is_up():
            sys.stderr.write("cluster: is already up\n")
            return
        _build()
        start_time = time.monotonic()
        try:
            _up(target.configured_namespace())
        except BaseException:
            sandbox.kill()
            sys.stderr.write(f"cluster: did not start; its logs are in {state.LOGS}\n")
            raise
        sys.stderr.write(f"cluster: up after {time.monotonic() - start_time:.1f} s\n")


def down() -> None:
    """End the cluster and all that runs in it."""
    with sandbox.lock():
        sys.stderr.write("cluster: down\n" if sandbox.kill() else "cluster: was not up\n")


def restart(name: str) -> float:
    """End one daemon (even a suspended one), start it again, and wait until it is ready.

    Returns the time (``time.monotonic``) from which it accepts connections, which is before it is ready.
    """
    if name not in _table():
        raise SystemExit(f"cluster: there is no daemon {name}, only {' '.join(_table())}")
    control.ask("restart", name=name)
    wait_until_listening((name,), only=name)
    listening_since = time.monotonic()
    if name == "kube-apiserver":
        sandbox.wait("the API server", is_api_ready, 60, only=name)
    return listening_since


def _up(namespace: str) -> None:
    sandbox.kill()
    sandbox.clean()
    pki.make()
    daemons.write(namespace)
    node_images.lend(state.RUN / "containerd")
    sandbox.boot()
    start(daemons.FIRST)
    with concurrent.futures.ThreadPoolExecutor() as executor:
        registry_filling = executor.submit(_fill_registry)
        sandbox.wait("the API server", is_api_ready, 60)
        start(daemons.SECOND)
        apply.apply_all(namespace)
        start(daemons.THIRD)
        sandbox.wait("the node", is_node_ready, 60)
        wait_until_listening((*daemons.SECOND, *daemons.THIRD))
        registry_filling.result()
    target.Target(
        kubeconfig=state.ADMIN,
        launcher_kubeconfig=state.LAUNCHER,
        namespace=namespace,
        job_image=images.names()["job"],
        audit_log=state.AUDIT,
    ).save()


def _fill_registry() -> None:
    wait_until_listening(("registry",))
    image_store.fill()


def start(names: Iterable[str]) -> None:
    """Start daemons, without waiting until they are ready."""
    for name in names:
        control.ask("start", name=name)


def wait_until_listening(names: Iterable[str], only: str = "") -> None:
    """Wait until daemons accept connections, as far as they have a port."""
    for name in names:
        if port := _table()[name].get("port"):
            sandbox.wait(name, functools.partial(control.is_listening, port), 60, only)


def is_api_ready() -> bool:
    """Return whether the API server reports that it is ready."""
    return sandbox.succeeds("kubectl", "get", "--raw", "/readyz")


def is_node_ready(name: str = FIRST_NODE.name) -> bool:
    """Return whether a node exists and is ready."""
    ready = '{.status.conditions[?(@.type=="Ready")].status}'
    with contextlib.suppress(sandbox.ClusterError):
        return sandbox.run("kubectl", "get", "node", name, "--output", f"jsonpath={ready}") == "True"
    return False


def _table() -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = json.loads((state.RUN / "daemons.json").read_text())
    return table
