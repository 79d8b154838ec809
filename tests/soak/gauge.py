"""What a process with launchers holds while no job is alive."""

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

POOLS = ("flargo-submit", "flargo-perform", "flargo-report", "flargo-clean")
"""Of the launchers' own worker threads, which come when they are needed first, and stay: eight of each at the most, and
two that clean."""
WORKERS = 3 * 8 + 2
MOST_BYTES = 6 * 2**20
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
    _give_back()
    # Before anything is counted: the lists for that are megabytes themselves.
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    kinds = Counter(_name(each) for each in gc.get_objects())
    names = sorted(thread.name for thread in threading.enumerate())
    return Reading(
        pages * os.sysconf("SC_PAGE_SIZE"),
        kinds,
        sum(name.startswith(POOLS) for name in names),
        tuple(name for name in names if not name.startswith(POOLS) and not serves(name)),
    )


def serves(thread: str) -> bool:
    """Whether a thread, by its name, belongs to the manager that the test asks this process by, or carries its log."""
    return "|" in thread or thread in {"MainProcess", "QueueFeederThread"} or thread.endswith(_MANAGERS)


_MANAGERS = ("(accepter)", "(handle_request)")


def _give_back() -> None:
    """Have the C library return what it holds for later: with dozens of threads that alone is megabytes a round."""
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _name(each: object) -> str:
    return sys.intern(f"{type(each).__module__}.{type(each).__qualname__}")


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
