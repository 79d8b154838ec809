"""Argo's locks of steps: a template's mutexes and semaphores, as a Workflow's status shows them.

Source: Argo 3.7.18, workflow/sync/sync_manager.go. Everything here is pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flargo.embedded import messages
from flargo.embedded.model import Object


@dataclass(frozen=True, slots=True)
class Lock:
    """A mutex or a semaphore."""

    kind: str
    """``mutex`` or ``semaphore``."""
    key: str
    """Its name in a status, as in ``flare/Mutex/NAME`` and ``flare/ConfigMap/NAME/KEY``."""
    config: tuple[str, str] = ("", "")
    """The ConfigMap and the key that hold a semaphore's limit."""


@dataclass(frozen=True, slots=True)
class LockUse:
    """How much of a lock other Workflows use."""

    holders: int = 0
    limit: int = 1


def locks_of(template: Object, namespace: str) -> list[Lock]:
    """Return the locks that a template needs."""
    synchronization = template.get("synchronization") or {}
    mutexes = [
        Lock("mutex", f"{namespace}/Mutex/{each.get('name', '')}") for each in synchronization.get("mutexes") or []
    ]
    references = [each.get("configMapKeyRef") or {} for each in synchronization.get("semaphores") or []]
    configs = [(each.get("name", ""), each.get("key", "")) for each in references]
    return [
        *mutexes,
        *(Lock("semaphore", f"{namespace}/ConfigMap/{name}/{key}", (name, key)) for name, key in configs),
    ]


def held_keys(status: Object) -> Iterator[str]:
    """Yield the names of the locks that a Workflow holds."""
    synchronization = status.get("synchronization") or {}
    for kind in ("mutex", "semaphore"):
        yield from (row[kind] for row in (synchronization.get(kind) or {}).get("holding") or [])


def waiting_message(lock: Lock, use: LockUse) -> str:
    """Return Argo's message about a lock that is not free."""
    return messages.WAITING_FOR_LOCK.format(lock.key, max(0, use.limit - use.holders), use.limit)


def awaited_lock(needed: list[Lock], uses: Mapping[str, LockUse]) -> Lock | None:
    """Return the first lock that is not free, or None if all are."""
    return next((lock for lock in needed if uses[lock.key].holders >= uses[lock.key].limit), None)


def with_locks(status: Object, needed: list[Lock], holder: str, *, state: str) -> Object:
    """Return a status in which a step holds its locks (state ``holding``), or waits for them (``waiting``)."""
    synchronization: Object = {}
    for lock in needed:
        row = {lock.kind: lock.key, **({"holder": holder} if lock.kind == "mutex" else {"holders": [holder]})}
        synchronization.setdefault(lock.kind, {}).setdefault(state, []).append(row)
    return {**status, "synchronization": synchronization} if needed else status


def without_locks(status: Object) -> Object:
    """Return a status whose Workflow neither holds a lock nor waits for one."""
    return {key: value for key, value in status.items() if key != "synchronization"}
