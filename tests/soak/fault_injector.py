"""Injects a plan's faults into the wire and the cluster, each for as long as it lasts."""

import contextlib
import math
import time
import zlib
from collections.abc import Callable
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.wire import Fault, Match, Wire
from tests.soak.oracle import FaultPeriod
from tests.soak.parents import Parents
from tests.soak.plan import FaultKind, PlannedFault
from tests.soak.timeline import Timeline

Object = dict[str, Any]


class FaultInjector:
    """Injects faults into one wire, its cluster, and the client's parent."""

    def __init__(self, cluster: Cluster, wire: Wire, parents: Parents, timeline: Timeline) -> None:
        self._cluster, self._wire, self._parents, self._timeline = cluster, wire, parents, timeline

    def inject(self, fault: PlannedFault) -> FaultPeriod:
        """Inject a fault, wait for its time, and end it."""
        start = time.time()
        self._timeline.say(f"fault: {fault}")
        if fault.kind is FaultKind.PARENT_RESTART:
            restart = self._parents.restart(fault.seconds)
            self._timeline.say(f"fault over: {fault}; it was away for {restart.back_at - restart.killed_at:.1f} s")
            return FaultPeriod(fault.kind, restart.killed_at, restart.back_at)
        self._inject(fault)
        end = time.time()
        self._timeline.say(f"fault over: {fault}")
        return FaultPeriod(fault.kind, start, end)

    def _inject(self, fault: PlannedFault) -> None:
        wire = self._wire
        match fault.kind:
            case FaultKind.CUT:
                deadline = time.time() + fault.seconds
                while time.time() < deadline:
                    wire.cut_watches()
                    time.sleep(0.5)
            case FaultKind.GONE:
                wire.expire_watches(fault.number)
                time.sleep(fault.seconds)
            case FaultKind.HALF_OPEN:
                wire.freeze_watches()
                time.sleep(fault.seconds)
                wire.cut_watches()
            case FaultKind.DOWN:
                wire.stop_answering()
                time.sleep(fault.seconds)
                wire.resume_answering()
            case FaultKind.EVENTS_LATE:
                wire.hold_events(_is_of_resource(fault.resource))
                time.sleep(fault.seconds)
                self._release_events()
            case FaultKind.CONTROLLER:
                with self._cluster.freeze("workflow-controller"):
                    time.sleep(fault.seconds)
            case _:
                disarm = self._arm(fault)
                time.sleep(fault.seconds)
                disarm()

    def _release_events(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self._wire.release_events()
            return
        # A stream was cut meanwhile, and nobody knows what the other streams have received: make all of them new.
        self._wire.cut_watches()

    def _arm(self, fault: PlannedFault) -> Callable[[], None]:
        wire, match = self._wire, Match(fault.verb, fault.resource)
        if fault.kind in {FaultKind.EVENTS_LOST, FaultKind.EVENTS_TWICE}:
            is_concerned = _is_of_resource(fault.resource)
            arm_filter = wire.repeat_events if fault.kind is FaultKind.EVENTS_TWICE else wire.drop_events
            event_filter = arm_filter(lambda item: is_concerned(item) and _is_every_second(item))
            return event_filter.disarm
        arms: dict[FaultKind, Callable[[], Fault]] = {
            FaultKind.THROTTLED: lambda: wire.answer_with_status(match, 429, retry_after=fault.number, times=math.inf),
            FaultKind.ERRORS: lambda: wire.answer_with_status(match, fault.number, times=math.inf),
            FaultKind.LOST_REPLIES: lambda: wire.lose_reply(match, times=math.inf),
            FaultKind.DELAYS: lambda: wire.delay(match, fault.number, times=math.inf),
            FaultKind.LATE_REPLIES: lambda: wire.late_reply(match, fault.number, times=math.inf),
        }
        return arms[fault.kind]().disarm


def _is_of_resource(resource: str) -> Callable[[Object], bool]:
    """Return a test for objects of a resource, ``pods`` or ``workflows``; an empty one means all objects."""
    return lambda item: not resource or (item.get("kind") == "Pod") == (resource == "pods")


def _is_every_second(item: Object) -> bool:
    """Return whether an object's version is in a fixed half of all versions, so that a repeated run does the same."""
    version = str((item.get("metadata") or {}).get("resourceVersion"))
    return zlib.crc32(version.encode()) % 2 == 0
