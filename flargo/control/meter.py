"""The interface for measurements of one parent, and a snapshot of its current numbers.

The meter is called when something happens. Gauges are computed from the jobs' states whenever they are read, so that
no counter can drift from the states.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flargo.cluster.api import Kind
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.verdict import UNFOLLOWED, Verdict


class Delivery(StrEnum):
    """What became of the notification of an outcome."""

    DELIVERED = "delivered"
    """The receiver took it."""
    FAILED = "failed"
    """It was given up: each try has failed, or it was not sent in time."""
    DROPPED = "dropped"
    """It was not tried, because too many others waited."""


class Meter(Protocol):
    """Receives measurements. Called from any thread, the reconciler's included: it must not block or raise."""

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """Record an API request: its HTTP status (0 without a response) and its duration.

        The signature is that of flargo.cluster.api.RequestCallback.
        """

    def observe_launch(self, seconds: float) -> None:
        """Record the duration of a call of launch_job."""

    def observe_start(self, seconds: float) -> None:
        """Record the time from a Workflow's release until its job was seen running."""

    def count_verdict(self, verdict: Verdict) -> None:
        """Count a verdict that FLARE was told."""

    def count_lost_attempt(self, verdict: Verdict) -> None:
        """Count an attempt of a job that was lost and after which another one is due."""

    def count_watch_restart(self, kind: Kind) -> None:
        """Count a watch that broke and must restart with a list."""

    def count_notification(self, result: Delivery) -> None:
        """Count what became of the notification of an outcome."""


class NullMeter:
    """A Meter that discards all measurements."""

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """Discard an API request."""

    def observe_launch(self, seconds: float) -> None:
        """Discard a launch's duration."""

    def observe_start(self, seconds: float) -> None:
        """Discard a start's duration."""

    def count_verdict(self, verdict: Verdict) -> None:
        """Discard a verdict, uncounted."""

    def count_lost_attempt(self, verdict: Verdict) -> None:
        """Discard a lost attempt."""

    def count_watch_restart(self, kind: Kind) -> None:
        """Discard a watch restart."""

    def count_notification(self, result: Delivery) -> None:
        """Discard the result of a notification."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The numbers of one moment."""

    jobs_by_stage: Mapping[Stage, int]
    """Tracked jobs that this parent launched, by stage."""
    orphans: int
    """Workflows of the site that no launch of this parent follows and that are being ended."""
    kills_outstanding: int
    """Jobs, orphans included, with a deleted pod whose program has not been seen to end."""
    watch_silence: Mapping[Kind, float]
    """Seconds since each watch's last contact with the API server."""
    queued_inputs: int
    """Inputs that wait for the reconciler."""
    longest_wait: float
    """Seconds since its launch, or since this parent took it back, of the job that has waited longest to run."""


def take_snapshot(
    states: Iterable[JobState], watch_silence: Mapping[Kind, float], queued_inputs: int, longest_wait: float
) -> Snapshot:
    """Return the numbers that follow from the jobs' states, with the given silence, queue length and wait."""
    states = tuple(states)
    launched = [state for state in states if state.cause not in UNFOLLOWED]
    kills_outstanding = sum(
        bool(state.deletions) and any(not pod.is_main_done for pod in state.observation.pods) for state in states
    )
    return Snapshot(
        Counter(state.stage for state in launched),
        orphans=len(states) - len(launched),
        kills_outstanding=kills_outstanding,
        watch_silence=watch_silence,
        queued_inputs=queued_inputs,
        longest_wait=longest_wait,
    )
