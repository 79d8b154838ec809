"""Makes troubles of the wire, and of the cluster, for as long as each lasts."""

import contextlib
import math
import time
import zlib
from collections.abc import Callable
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.wire import Fault as Broken
from tests.harness.wire import Match, Wire
from tests.soak.oracle import Disturbance
from tests.soak.plan import Fault, Trouble
from tests.soak.timeline import Timeline

Object = dict[str, Any]


class Troubles:
    """Of one wire."""

    def __init__(self, cluster: Cluster, wire: Wire, timeline: Timeline) -> None:
        self._world, self._wire, self._timeline = cluster, wire, timeline

    def make(self, fault: Fault) -> Disturbance:
        """Make one, wait, and mend it."""
        begun = time.time()
        self._timeline.say(f"trouble: {fault}")
        self._happen(fault)
        over = time.time()
        self._timeline.say(f"mended: {fault}")
        return Disturbance(fault.trouble, begun, over)

    def _happen(self, fault: Fault) -> None:
        wire = self._wire
        match fault.trouble:
            case Trouble.CUT:
                until = time.time() + fault.seconds
                while time.time() < until:
                    wire.cut_watches()
                    time.sleep(0.5)
            case Trouble.GONE:
                wire.expire_watches(fault.number)
                time.sleep(fault.seconds)
            case Trouble.HALF_OPEN:
                wire.freeze_watches()
                time.sleep(fault.seconds)
                wire.cut_watches()
            case Trouble.DOWN:
                wire.stop_answering()
                time.sleep(fault.seconds)
                wire.resume_answering()
            case Trouble.EVENTS_LATE:
                wire.hold_events(_of(fault.resource))
                time.sleep(fault.seconds)
                self._release()
            case Trouble.CONTROLLER:
                with self._world.freeze("workflow-controller"):
                    time.sleep(fault.seconds)
            case _:
                mend = self._arm(fault)
                time.sleep(fault.seconds)
                mend()

    def _release(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self._wire.release_events()
            return
        # A stream had been cut meanwhile; of the others nobody knows now what they were told.
        self._wire.cut_watches()

    def _arm(self, fault: Fault) -> Callable[[], None]:
        wire, which = self._wire, Match(fault.verb, fault.resource)
        if fault.trouble in {Trouble.EVENTS_LOST, Trouble.EVENTS_TWICE}:
            of, deal = _of(fault.resource), wire.drop_events
            if fault.trouble is Trouble.EVENTS_TWICE:
                deal = wire.repeat_events
            filtered = deal(lambda item: of(item) and _every_second(item))
            return lambda: setattr(filtered, "armed", False)
        arms: dict[Trouble, Callable[[], Broken]] = {
            Trouble.THROTTLED: lambda: wire.answer_with_status(which, 429, retry_after=fault.number, times=math.inf),
            Trouble.ERRORS: lambda: wire.answer_with_status(which, fault.number, times=math.inf),
            Trouble.LOST_REPLIES: lambda: wire.lose_reply(which, times=math.inf),
            Trouble.DELAYS: lambda: wire.delay(which, fault.number, times=math.inf),
            Trouble.LATE_REPLIES: lambda: wire.late_reply(which, fault.number, times=math.inf),
        }
        return arms[fault.trouble]().disarm


def _of(resource: str) -> Callable[[Object], bool]:
    """Whether an object is of that kind; all are, where none is named."""
    return lambda item: not resource or (item.get("kind") == "Pod") == (resource == "pods")


def _every_second(item: Object) -> bool:
    version = str((item.get("metadata") or {}).get("resourceVersion"))
    return zlib.crc32(version.encode()) % 2 == 0
