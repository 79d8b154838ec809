"""The data that all modules of the embedded engine share: stored objects, delays, times and quantities.

Objects are the plain dictionaries that go over the wire; times are Unix seconds.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
TERMINAL_PHASES = frozenset({"Succeeded", "Failed", "Error"})
"""Phases of Workflows, nodes and pods that are never left again."""
DEFAULT_GRACE_SECONDS = 30
"""Kubernetes' default for a pod without ``terminationGracePeriodSeconds``."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from an object's last change until a component acts on it.

    The values are those of the real components, or less: tests are about the order of events, not about their speed.
    """

    notice: float = 0.05
    """Until Argo's controller acts on a change of a Workflow."""
    follow: float = 0.2
    """Until the Workflow's status shows a change of the pod's status."""
    requeue: float = 1.0
    """Until Argo's controller retries a pod that the API server refused."""
    schedule: float = 0.02
    """Until the scheduler binds a pod."""
    init: float = 0.05
    """For each of three steps: container statuses appear, Argo's init container ends, main starts."""
    wait: float = 0.3
    """Between the end of main and the end of Argo's ``wait`` container, which ends the pod. It is longer than
    ``follow``, because Argo reports the exit code before the pod's end."""
    remove: float = 0.8
    """Between the end of a deleted pod's containers and the removal of its object. It must not be less than half a
    second: otherwise Argo would recreate the pod of a running step before Argo or flargo had noticed the deletion."""
    retry: float = 1.0
    """Until the kubelet or the scheduler tries again."""
    bookmark: float = 30.0
    """Between two bookmarks of a watch."""


@dataclass(frozen=True, slots=True)
class Node:
    """The only node. Its resources limit what is scheduled; no process is held to them."""

    name: str = "embedded"
    allocatable: Mapping[str, str] = field(default_factory=lambda: {"cpu": "64", "memory": "256Gi"})
    labels: Mapping[str, str] = field(default_factory=lambda: {"kubernetes.io/hostname": "embedded"})


@dataclass(frozen=True, slots=True)
class Policy:
    """A validating admission policy with a binding of the same name: it denies objects with certain labels."""

    name: str
    resource: str
    """The plural resource name, such as ``pods``."""
    labels: Mapping[str, str]
    """An object is denied if it has all of these labels."""
    message: str
    operation: str = "CREATE"
    """``CREATE`` or ``UPDATE``."""
    field: tuple[str, ...] = ()
    """If this is set, an object is denied only if it has the field of this path."""

    def denies(self, resource: str, item: Object, operation: str = "CREATE") -> bool:
        """Return whether the policy denies an object that is created, or that is the result of an update."""
        labels = (item.get("metadata") or {}).get("labels") or {}
        is_concerned = (resource, operation) == (self.resource, self.operation)
        return is_concerned and self.labels.items() <= labels.items() and self._has_field(item)

    def _has_field(self, item: Object) -> bool:
        value: Any = item
        for key in self.field:
            value = value.get(key) if isinstance(value, dict) else None
        return bool(value)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the store and the time of its last change (Unix seconds)."""

    item: Object
    changed_at: float


def iso(now: float) -> str:
    """Format Unix seconds as Kubernetes writes a time."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Parse a time as Kubernetes writes it, and return Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_QUANTITY = re.compile(r"((?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?)([mkKMGTPi]{0,2})")
_UNITS |= {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTP", 1)}


def quantity(value: object) -> float:
    """Parse a Kubernetes quantity, such as ``500m`` or ``2Gi``, and return a number.

    Raises:
        ValueError: the value is not a finite quantity.
    """
    text = str(value)
    match = _QUANTITY.fullmatch(text)
    number = float(match[1]) * _UNITS.get(match[2], math.nan) if match else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]!r} is not a quantity")
    return number
