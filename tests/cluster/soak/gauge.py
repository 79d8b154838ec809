"""What the launchers hold while no job is alive, and what of a federation is left on the cluster."""

import gc
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flargo.terms import Label
from tests.cluster.site import Job, Site
from tests.cluster.world import World, _may_run

POOLS = ("flargo-submit", "flargo-perform", "flargo-tell")
"""Of the launchers' own worker threads, which come when they are needed first, and stay: eight of each at the most."""
WORKERS = 8 * len(POOLS)
OWN = "soak"
"""Of this test's own pool."""
MOST_BYTES = 12 * 2**20
"""By which a process may grow from one round to all that follow: what its allocator does not give back."""
MOST_OBJECTS = 5000
"""The same for objects, some of which are caches of the libraries'."""


@dataclass(frozen=True)
class Reading:
    """What is held at one moment."""

    resident: int
    """Bytes."""
    kinds: Counter[str]
    """Objects by their classes."""
    workers: int
    """Threads of pools."""
    threads: tuple[str, ...]
    """The other ones' names."""

    @property
    def objects(self) -> int:
        """All of them."""
        return self.kinds.total()

    @property
    def ours(self) -> Counter[str]:
        """Those of flargo's classes."""
        return Counter({kind: count for kind, count in self.kinds.items() if kind.startswith("flargo.")})

    def __str__(self) -> str:
        threads = f"{len(self.threads)} threads and {self.workers} of pools"
        of_ours = f"{self.ours.total()} of them of flargo's"
        return f"{threads}, {self.resident / 2**20:.1f} MiB, {self.objects} objects, {of_ours}"


def read() -> Reading:
    """Gauge this process."""
    gc.collect()
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    names = sorted(thread.name for thread in threading.enumerate())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(
        pages * os.sysconf("SC_PAGE_SIZE"),
        kinds,
        sum(name.startswith(POOLS) for name in names),
        tuple(name for name in names if not name.startswith((*POOLS, OWN))),
    )


def growth(readings: Sequence[Reading], launchers: int) -> list[str]:
    """What grew after the first one, and must not."""
    first, found = readings[0], []
    for at, each in enumerate(readings[1:], 2):
        if each.resident > first.resident + MOST_BYTES:
            found.append(f"reading {at}: {each.resident - first.resident} bytes more than at the first")
        if each.objects > first.objects + MOST_OBJECTS:
            most = dict((each.kinds - first.kinds).most_common(8))
            found.append(f"reading {at}: {each.objects - first.objects} objects more than at the first: {most}")
        if more := each.ours - first.ours:
            found.append(f"reading {at}: more objects of flargo's than at the first: {dict(more)}")
        if more := Counter(each.threads) - Counter(first.threads):
            found.append(f"reading {at}: more threads than at the first: {dict(more)}")
        if each.workers > WORKERS * launchers:
            found.append(f"reading {at}: {each.workers} threads of pools")
    return found


def left(world: World, site: Site, jobs: Sequence[Job]) -> list[str]:
    """What of a site runs, may run, or holds credentials; which processes of these jobs; what it still follows."""
    ours = f"{Label.FEDERATION}={site.federation}"
    workflows = world.items("workflows.argoproj.io", ours)
    secrets = [item["metadata"]["name"] for item in world.items("secrets", ours)]
    loop = site.launcher._loop
    followed = {*loop._jobs, *loop._engine.names} if loop is not None else set()
    return [
        *(f"Workflow {item['metadata']['name']}" for item in workflows if not _is_over(item)),
        *(f"pod {pod['metadata']['name']}" for pod in world.items("pods", ours) if _may_run(pod)),
        *(f"Secret {name}" for name in secrets if not name.startswith("nvflare-startup-")),
        *(f"process {pid} of {job.name}" for job in jobs for pid in _processes(world, job)),
        *(f"{name}, followed by the launcher" for name in followed),
    ]


def _is_over(workflow: dict[str, object]) -> bool:
    status = workflow.get("status")
    return isinstance(status, dict) and status.get("phase") in {"Succeeded", "Failed", "Error"}


def _processes(world: World, job: Job) -> set[int]:
    return {*world.processes(job.id), *world.processes_in(job.name)}
