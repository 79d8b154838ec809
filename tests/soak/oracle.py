"""Which ends of a job FLARE may hear, given what really happened to the job.

It is written from docs/design.md, not from flargo's code. All times are seconds of the machine's clock, which the node
shares; the kubelet's times are whole seconds.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from flargo.status.reasons import Reason
from tests.soak.plan import ENDINGS, THROUGH_FLARE, FaultKind, Intervention, Program

RACE_SECONDS = 5.0
"""How long after a program's end was observed an intervention may still reach the launcher before that end does."""
NOTICE_SECONDS = 30.0
"""The limit within which the launcher knows of an end, once every fault on the way is over."""
RECOVERY_SECONDS = 20.0
"""How long a launcher may leave alone what was throttled or unreachable (the longest backoff of a watch)."""
LOST_EVENT_SECONDS = 80.0
"""The limit within which a launcher asks by itself for what no event reported (a minute, and the requests)."""

_FLARES_OWN_CODES = {101, 102, 103}
"""Exit codes by which FLARE's job process reports a failure of its own (nvflare 2.9, ProcessExitCode)."""

Report = tuple[Reason, int]
"""A job's end as FLARE gets it: the reason and the return code."""


@dataclass(frozen=True)
class DoneIntervention:
    """An intervention that was carried out, or tried."""

    intervention: Intervention
    started_at: float
    finished_at: float
    error: str = ""
    """Why it failed; empty if it did not."""
    target: str = ""
    """The name of the Workflow that it concerned; empty if it concerned the job, as FLARE's own do."""
    is_planned: bool = True
    """False for the abort with which the run ends a job that its planned interventions did not end."""


@dataclass(frozen=True)
class ContainerEnd:
    """How a pod's main container ended."""

    code: int
    reason: str
    """The container's reason, by the kubelet."""
    pod_reason: str
    """The pod's own reason, as ``Evicted``."""
    finished_at: float
    """By the kubelet: at this second or up to one later."""
    observed_at: float
    """When the observer received it."""


@dataclass(frozen=True)
class JobHistory:
    """The history of one attempt of a job, as the observer received it. Most jobs have no other."""

    pod_count: int = 0
    started_count: int = 0
    """In how many of the pods the program started."""
    first_pod_started: bool = False
    first_end: ContainerEnd | None = None
    """How the program ended in the first pod."""
    first_pod_gone_at: float | None = None
    """When the first pod's object was deleted."""
    last_end: ContainerEnd | None = None
    """How the program ended in the last pod, if there were several."""
    workflow_at: float | None = None
    """When the attempt's Workflow appeared."""
    released_at: float | None = None
    """When its Workflow was first seen without ``suspend``."""
    name: str = ""
    """The Workflow's name."""
    started_at: float | None = None
    """When the program was first seen running."""
    over_at: float | None = None
    """When the program of each pod in which it started had ended, or the pod was gone; None before that."""


@dataclass(frozen=True)
class FaultPeriod:
    """A fault that was injected."""

    kind: FaultKind
    start: float
    end: float


@dataclass(frozen=True)
class Case:
    """Everything that happened to one job."""

    program: Program
    launched_at: float
    interventions: Sequence[DoneIntervention]
    history: JobHistory
    faults: Sequence[FaultPeriod]
    verdict_at: float
    """When FLARE heard the verdict."""

    def was_disturbed(self, since: float, until: float | None = None) -> bool:
        """Return whether a fault hindered the launcher between two times; the second is the verdict's by default."""
        limit = self.verdict_at if until is None else until
        return any(fault.start < limit and fault.end + RECOVERY_SECONDS > since for fault in self.faults)


_BY_INTERVENTION: dict[Intervention, Report] = {
    Intervention.TERMINATE: (Reason.SHUT_DOWN, 9),
    Intervention.DELETE_POD: (Reason.POD_DELETED, 104),
    Intervention.EVICT_POD: (Reason.DISRUPTED, 104),
    Intervention.DELETE_WORKFLOW: (Reason.WORKFLOW_DELETED, 104),
}
_SUCCEEDED: Report = (Reason.SUCCEEDED, 0)
_FAILED: Report = (Reason.PROGRAM_FAILED, 1)
_ABORTED: Report = (Reason.ABORTED, 9)
_CLEANED_UP: Report = (Reason.CLEANED_UP, 1)
_ARGO_FAILED: Report = (Reason.ARGO_FAILED, 104)
_RUN_TWICE: Report = (Reason.RUN_TWICE, 104)
_BY_KUBELET_REASON: dict[str, Report] = {
    "OOMKilled": (Reason.OUT_OF_MEMORY, 104),
    "ContainerStatusUnknown": (Reason.NODE_LOST, 104),
    "Evicted": (Reason.EVICTED, 104),
}


def allowed_reports(case: Case, *, is_first_unseen: bool = False) -> frozenset[Report]:
    """Return the reports that are right. An empty set: nothing that happened explains why the job ended at all.

    Args:
        case: the job's case.
        is_first_unseen: the first pod came and went while nobody could see it.
    """
    case = replace(case, interventions=[each for each in case.interventions if each.intervention in ENDINGS])
    history = case.history
    planned = replace(case, interventions=[each for each in case.interventions if each.is_planned])
    allowed = _judge_by_first_pod(planned)
    gone = history.first_pod_gone_at
    is_unknown = is_first_unseen or not history.first_pod_started
    if history.pod_count > 1 and is_unknown and gone is not None:
        # Argo replaced a pod. If its program had not started, the program ran once, and that run is what the launcher
        # reports. So it is if the launcher knows only the later pod, whose program has ended by itself.
        later = [each for each in case.interventions if each.finished_at > gone]
        last_pod = JobHistory(1, 1, first_end=history.last_end, first_pod_started=True)
        allowed |= _judge_by_first_pod(replace(case, interventions=later, history=last_pod))
    return allowed


def _judge_by_first_pod(case: Case) -> frozenset[Report]:
    certain, possible = _surely_before(case), _possibly_before(case)
    end = case.history.first_end
    if end is None:
        return _judge_interventions(case, certain | possible)
    if end.code == 0 or end.code in _FLARES_OWN_CODES:
        return _judge_own_code(case, end, certain, possible)
    own = _BY_KUBELET_REASON.get(end.pod_reason) or _BY_KUBELET_REASON.get(end.reason) or _FAILED
    ended_by_itself = end.code == case.program.own_end or own is not _FAILED
    if not ended_by_itself or (certain and own is _FAILED):
        return _judge_interventions(case, certain | possible)
    return frozenset({own}) | _judge_interventions(case, certain | possible)


def _surely_before(case: Case) -> frozenset[Intervention]:
    """Return the interventions that were finished before the launcher could know how the program ended."""
    end = case.history.first_end
    limit = end.finished_at if end is not None else case.verdict_at - RACE_SECONDS
    return frozenset(
        each.intervention
        for each in case.interventions
        if not each.error
        and each.finished_at <= limit
        and each.started_at < case.verdict_at
        and not may_be_forgotten(each, case)
    )


def may_be_forgotten(done: DoneIntervention, case: Case) -> bool:
    """Return whether FLARE's request may have been lost with the parent, before anything on the cluster showed it."""
    kills = [each.start for each in case.faults if each.kind is FaultKind.PARENT_RESTART]
    return done.intervention in THROUGH_FLARE and any(
        done.finished_at <= kill
        and (kill < done.finished_at + RACE_SECONDS or case.was_disturbed(done.finished_at, kill))
        for kill in kills
    )


def _possibly_before(case: Case) -> frozenset[Intervention]:
    """Return the interventions so close to the program's end that the launcher may learn of either first."""
    end = case.history.first_end
    limit = math.inf if end is None or case.was_disturbed(end.finished_at) else end.observed_at + RACE_SECONDS
    close = (each for each in case.interventions if each.started_at < case.verdict_at and each.started_at <= limit)
    return frozenset(each.intervention for each in close if not each.error) - _surely_before(case)


def _judge_own_code(
    case: Case, end: ContainerEnd, certain: Collection[Intervention], possible: Collection[Intervention]
) -> frozenset[Report]:
    """Judge a program that exited with 0 or with a code of FLARE's job process.

    Only FLARE's abort outweighs an exit code of 0.
    """
    own: Report = _SUCCEEDED if end.code == 0 else (Reason.PROGRAM_REPORTED, end.code)
    if end.code == 0 and Intervention.ABORT in certain:
        return frozenset({_ABORTED})
    allowed = {own}
    if end.code == 0 and Intervention.ABORT in possible:
        allowed.add(_ABORTED)
    if end.code != 0 and case.history.pod_count > 1:
        allowed.add(_RUN_TWICE)
    gone = case.history.first_pod_gone_at
    if gone is not None and gone < case.verdict_at and case.was_disturbed(end.finished_at):
        # The only record of the code was deleted before the launcher could look.
        allowed |= _judge_interventions(case, {*certain, *possible})
    return frozenset(allowed)


def _judge_interventions(case: Case, interventions: Collection[Intervention]) -> frozenset[Report]:
    """Judge a program that one of these interventions ended, or that never started.

    FLARE's own wishes come first, and an abort before a cleanup.
    """
    certain = _surely_before(case) & set(interventions)
    history = case.history
    if Intervention.ABORT in certain:
        return frozenset({_ABORTED})
    allowed = {_BY_INTERVENTION[each] for each in interventions if each in _BY_INTERVENTION}
    gone = history.first_pod_gone_at
    if Intervention.EVICT_POD in interventions and gone is not None and case.was_disturbed(gone):
        allowed.add(_BY_INTERVENTION[Intervention.DELETE_POD])  # a launcher that looks late sees only that it is gone
        if not history.first_pod_started:
            allowed.add(_ARGO_FAILED)  # or does not even know that there was a pod: only Argo's record is left
    if history.pod_count > 1:
        allowed.add(_RUN_TWICE)
    if Intervention.CLEANUP in certain:
        allowed = set()
    if Intervention.CLEANUP in interventions:
        allowed.add(_CLEANED_UP)
    if Intervention.ABORT in interventions:
        allowed.add(_ABORTED)
    return frozenset(allowed)


def lateness(case: Case) -> tuple[float, float]:
    """Return the seconds from when the launcher could know the end to its verdict, and how many are allowed."""
    history = case.history
    end = history.last_end or history.first_end
    endings = [each for each in case.interventions if each.intervention in ENDINGS]
    done_at = [each.finished_at for each in endings if not each.error and each.started_at < case.verdict_at]
    if end is not None:
        knowable_at = end.observed_at
    else:
        knowable_at = max([*done_at, history.first_pod_gone_at or 0.0, case.launched_at])
    faults = [
        each for each in case.faults if each.start < case.verdict_at and each.end + RECOVERY_SECONDS > case.launched_at
    ]
    fault_ends = (min(each.end, case.verdict_at) for each in faults if each.end > knowable_at - NOTICE_SECONDS)
    reachable_at = max([knowable_at, *fault_ends])
    allowed = NOTICE_SECONDS + (RECOVERY_SECONDS if faults else 0.0)
    allowed += LOST_EVENT_SECONDS if any(each.kind is FaultKind.EVENTS_LOST for each in faults) else 0.0
    return case.verdict_at - reachable_at, allowed
