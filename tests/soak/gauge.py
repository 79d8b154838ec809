"""Measures what a process with a launcher holds while no job is alive: memory, objects and threads."""

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POOLS = ("flargo-submit", "flargo-wait", "flargo-perform", "flargo-report", "flargo-rejoin")
"""Name prefixes of the launchers' worker threads, which are started when they are first needed, and stay."""
MAX_POOL_THREADS = 4 * 8 + 36
"""The limit of worker threads of one launcher: eight each that submit, wait, report and start jobs again, and those of
all commands."""
MAX_GROWTH_BYTES = 6 * 2**20
"""How much memory a process may gain after the first round: what its allocator does not return."""
MAX_GROWTH_OBJECTS = 5000
"""How many objects a process may gain after the first round: some are caches of libraries."""


@dataclass(frozen=True)
class Reading:
    """The resources that a process holds at one moment."""

    resident: int
    """Resident memory in bytes."""
    kinds: Counter[str]
    """The number of objects of each class."""
    workers: int
    """The number of worker threads of pools."""
    threads: tuple[str, ...]
    """The names of all other threads, but those of :func:`is_infrastructure`."""

    @property
    def objects(self) -> int:
        """The number of all objects."""
        return self.kinds.total()

    @property
    def flargo_kinds(self) -> Counter[str]:
        """The number of objects of each of flargo's classes."""
        return Counter({kind: count for kind, count in self.kinds.items() if kind.startswith("flargo.")})

    def __str__(self) -> str:
        threads = f"{len(self.threads)} threads and {self.workers} pool threads"
        flargo_objects = f"{self.flargo_kinds.total()} of them flargo's"
        return f"{threads}, {self.resident / 2**20:.1f} MiB, {self.objects} objects, {flargo_objects}"


def read() -> Reading:
    """Measure the resources of this process."""
    gc.collect()
    _return_free_memory()
    # Read the memory before anything is counted: the lists for that are megabytes themselves.
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    kinds = Counter(_class_name(each) for each in gc.get_objects())
    names = sorted(thread.name for thread in threading.enumerate())
    return Reading(
        pages * os.sysconf("SC_PAGE_SIZE"),
        kinds,
        sum(name.startswith(POOLS) for name in names),
        tuple(name for name in names if not name.startswith(POOLS) and not is_infrastructure(name)),
    )


def is_infrastructure(thread: str) -> bool:
    """Return whether a thread, by its name, serves the manager that calls this process."""
    return "|" in thread or thread == "MainProcess" or thread.endswith(_MANAGERS)


_MANAGERS = ("(accepter)", "(handle_request)")


def _return_free_memory() -> None:
    """Have the C library return free memory: with dozens of threads it would keep megabytes a round."""
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _class_name(each: object) -> str:
    return sys.intern(f"{type(each).__module__}.{type(each).__qualname__}")


def growth(readings: Sequence[Reading]) -> list[str]:
    """Return a problem for everything of one process that grew beyond its limit after the first reading."""
    first, problems = readings[0], []
    for number, each in enumerate(readings[1:], 2):
        if each.resident > first.resident + MAX_GROWTH_BYTES:
            problems.append(f"reading {number}: {each.resident - first.resident} bytes more than at the first")
        if each.objects > first.objects + MAX_GROWTH_OBJECTS:
            most = dict((each.kinds - first.kinds).most_common(8))
            problems.append(f"reading {number}: {each.objects - first.objects} objects more than at the first: {most}")
        if more := each.flargo_kinds - first.flargo_kinds:
            problems.append(f"reading {number}: more of flargo's objects than at the first: {dict(more)}")
        if more := Counter(each.threads) - Counter(first.threads):
            problems.append(f"reading {number}: more threads than at the first: {dict(more)}")
        if each.workers > MAX_POOL_THREADS:
            problems.append(f"reading {number}: {each.workers} pool threads")
    return problems
