"""What is told to whoever measures a parent, and what may be read of it at any moment.

Facts that pass are told as they happen; what holds for a while is counted when it is asked for, from the lives
themselves, so that no count can drift from them.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flargo.cluster.api import Kind
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.verdict import Cause, Verdict


class Meter(Protocol):
    """Who measures. Called from any thread, also from the engine's: it may not wait, nor raise."""

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """An API request was answered after so long; 0: it was not. Also see flargo.cluster.api.RequestCallback."""

    def observe_launch(self, seconds: float) -> None:
        """A call of launch_job took so long."""

    def observe_start(self, seconds: float) -> None:
        """A job was seen running so long after its release."""

    def count_verdict(self, verdict: Verdict) -> None:
        """FLARE has been told what became of a job."""

    def count_watch_restart(self, kind: Kind) -> None:
        """A stream broke off, and has to begin anew with a list."""


class NullMeter:
    """Nobody measures."""

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """See Meter."""

    def observe_launch(self, seconds: float) -> None:
        """See Meter."""

    def observe_start(self, seconds: float) -> None:
        """See Meter."""

    def count_verdict(self, verdict: Verdict) -> None:
        """See Meter."""

    def count_watch_restart(self, kind: Kind) -> None:
        """See Meter."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What goes on at one moment."""

    jobs_by_stage: Mapping[Stage, int]
    """Launched jobs that are followed, by how far they are."""
    orphans: int
    """Workflows of earlier runs of the parent that are being ended."""
    kills_outstanding: int
    """Jobs, orphans among them, of which a pod was killed and the program has not been seen to end."""
    watch_silence: Mapping[Kind, float]
    """Seconds since a stream was heard for the last time."""
    queued_inputs: int
    """Facts that the engine has not dealt with yet."""


def take_snapshot(lives: Iterable[JobState], silence: Mapping[Kind, float], waiting: int) -> Snapshot:
    """Count lives."""
    known = tuple(lives)
    launched = [life for life in known if life.cause is not Cause.ORPHANED]
    return Snapshot(
        Counter(life.stage for life in launched),
        orphans=len(known) - len(launched),
        kills_outstanding=sum(
            life.pod_deleted_at < math.inf and any(not pod.is_main_done for pod in life.observation.pods)
            for life in known
        ),
        watch_silence=silence,
        queued_inputs=waiting,
    )
