"""What the parts share: objects as they are on the wire, with the time of their last change, and seconds as data."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
OVER = frozenset({"Succeeded", "Failed", "Error"})
"""Phases of Workflows, nodes and pods after which nothing comes."""


GRACE = 30
"""Seconds, of a pod that does not say."""


@dataclass(frozen=True, slots=True)
class Lags:
    """Seconds after a last change that the real ones take, or less: what is to be seen is their order."""

    notice: float = 0.05
    """Until Argo acts on a change of a Workflow."""
    follow: float = 0.2
    """Until Argo's status follows the pod's."""
    requeue: float = 1.0
    """Until Argo tries again what was refused."""
    schedule: float = 0.02
    init: float = 0.05
    """For each of: the pod's containers are known, Argo's init container is done, main runs."""
    wait: float = 0.3
    """Between main's end and the end of Argo's ``wait`` container, and with it the pod's. Longer than ``follow``: Argo
    tells the exit code before the end."""
    remove: float = 0.8
    """Between the end of a deleted pod's containers and the end of its object. Not less than half a second: who deletes
    a running pod would have it made again before anybody, Argo or flargo, had noticed."""
    retry: float = 1.0
    """Until the kubelet, or the scheduler, tries again."""
    bookmark: float = 30.0
    """Between two bookmarks of a watch."""


@dataclass(frozen=True, slots=True)
class Node:
    """The one node. What it has is only counted, never used."""

    name: str = "embedded"
    allocatable: Mapping[str, str] = field(default_factory=lambda: {"cpu": "64", "memory": "256Gi"})
    labels: Mapping[str, str] = field(default_factory=lambda: {"kubernetes.io/hostname": "embedded"})


@dataclass(frozen=True, slots=True)
class Policy:
    """An admission policy, bound by a binding of its name: what bears these labels is not created."""

    name: str
    resource: str
    """In the plural, as ``pods``."""
    labels: Mapping[str, str]
    message: str

    def denies(self, resource: str, item: Object) -> bool:
        """Whether it is about an object."""
        labels = (item.get("metadata") or {}).get("labels") or {}
        return resource == self.resource and self.labels.items() <= labels.items()


@dataclass(frozen=True, slots=True)
class Seen:
    """An object, and when it last changed (Unix seconds)."""

    item: Object
    changed: float


def iso(now: float) -> str:
    """Unix seconds as Kubernetes writes a time."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(said: str) -> float:
    """A time as Kubernetes writes it, in Unix seconds."""
    return datetime.fromisoformat(said).timestamp()


_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_QUANTITY = re.compile(r"((?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?)([mkKMGTPi]{0,2})")
_UNITS |= {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTP", 1)}


def quantity(said: object) -> float:
    """A Kubernetes quantity, such as ``500m`` or ``2Gi``, as a number.

    Raises:
        ValueError: it is none.
    """
    text = str(said)
    found = _QUANTITY.fullmatch(text)
    number = float(found[1]) * _UNITS.get(found[2], math.nan) if found else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]!r} is no quantity")
    return number
