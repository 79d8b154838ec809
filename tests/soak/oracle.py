"""What FLARE may hear of a job, given what truly happened to it. Written from docs/design.md, not from the code.

All moments are seconds of the machine's clock, which the node shares; the kubelet writes them without their fraction.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from tests.soak.plan import Deed, Program, Trouble

RACE = 5.0
"""Seconds after a program's end was seen for which a deed may still overtake it on its way to the launcher."""
NOTICED = 30.0
"""Seconds within which the launcher knows of an end, after everything on its way is well again."""
RECOVERY = 20.0
"""Seconds for which what was throttled or out of reach may be left alone afterwards (the watch's longest gap)."""
UNTOLD = 80.0
"""Seconds within which a launcher asks by itself for what no event tells (a minute, and what follows)."""

Heard = tuple[Reason, int]


@dataclass(frozen=True)
class Done:
    """A deed that was done to a job."""

    deed: Deed
    begun: float
    done: float
    problem: str = ""
    """Why it could not be done."""
    planned: bool = True
    """Not: the plan's deeds had not ended it, and the run had to go on."""


@dataclass(frozen=True)
class End:
    """How a main container ended."""

    code: int
    why: str
    """The kubelet's word."""
    pod: str
    """The pod's own reason, as ``Evicted``."""
    finished: float
    """By the kubelet: at or after this second."""
    seen: float
    """When the witness heard of it."""


@dataclass(frozen=True)
class Seen:
    """What the witness saw of a job."""

    pods: int = 0
    started: int = 0
    """In how many of them the program began."""
    first_started: bool = False
    end: End | None = None
    """Of the first pod."""
    gone: float | None = None
    """When the first pod went."""
    again: End | None = None
    """Of the last pod, where there were several."""
    workflow: float | None = None
    """When its Workflow came."""


@dataclass(frozen=True)
class Disturbance:
    """A trouble that happened."""

    trouble: Trouble
    begun: float
    over: float


@dataclass(frozen=True)
class Case:
    """All that happened to one job."""

    program: Program
    launched: float
    deeds: Sequence[Done]
    seen: Seen
    disturbed: Sequence[Disturbance]
    ruled: float
    """When FLARE heard the verdict."""

    def troubled(self, since: float) -> bool:
        """Whether something was in the launcher's way between then and the verdict."""
        return any(each.begun < self.ruled and each.over + RECOVERY > since for each in self.disturbed)


_CLUSTERS: dict[Deed, Heard] = {
    Deed.TERMINATE: (Reason.SHUT_DOWN, 9),
    Deed.DELETE_POD: (Reason.POD_DELETED, 104),
    Deed.EVICT_POD: (Reason.DISRUPTED, 104),
    Deed.DELETE_WORKFLOW: (Reason.WORKFLOW_DELETED, 104),
}
_SUCCEEDED: Heard = (Reason.SUCCEEDED, 0)
_FAILED: Heard = (Reason.PROGRAM_FAILED, 1)
_ABORTED: Heard = (Reason.ABORTED, 9)
_CLEANED_UP: Heard = (Reason.CLEANED_UP, 1)
_ARGOS: Heard = (Reason.ARGO_FAILED, 104)
_TWICE: Heard = (Reason.RUN_TWICE, 104)
_KUBELETS: dict[str, Heard] = {
    "OOMKilled": (Reason.OUT_OF_MEMORY, 104),
    "ContainerStatusUnknown": (Reason.NODE_LOST, 104),
    "Evicted": (Reason.EVICTED, 104),
}


def may_hear(case: Case) -> frozenset[Heard]:
    """What is right. Empty: nothing that happened explains that the job ended at all."""
    seen = case.seen
    # Argo made another pod in the place of one whose program had not begun, and a launcher that was not able to look
    # knows only of the later one: the program has run once, and that is what is told.
    unseen = seen.pods > 1 and not seen.first_started and seen.gone is not None and case.troubled(seen.gone - NOTICED)
    planned = replace(case, deeds=[it for it in case.deeds if it.planned])
    right = _of_its_first_pod(planned)
    if unseen and seen.gone is not None:
        later = [it for it in case.deeds if it.done > seen.gone]
        right |= _of_its_first_pod(replace(case, deeds=later, seen=Seen(1, 1, end=seen.again, first_started=True)))
    return right


def _of_its_first_pod(case: Case) -> frozenset[Heard]:
    sure, maybe = _before(case), _in_the_race(case)
    end = case.seen.end
    if end is None:
        return _ended_by(case, sure | maybe)
    if end.code == 0 or end.code in FLARE_EXIT_CODES:
        return _said_by_itself(case, end, sure, maybe)
    own = _KUBELETS.get(end.pod) or _KUBELETS.get(end.why) or _FAILED
    by_itself = end.code == case.program.own_end or own is not _FAILED
    if not by_itself:
        return _ended_by(case, sure | maybe)
    if sure and own is _FAILED:
        return _ended_by(case, sure | maybe)
    return frozenset({own}) | _ended_by(case, sure | maybe)


def _before(case: Case) -> frozenset[Deed]:
    """What was surely done before the launcher could know how the job ended."""
    limit = case.seen.end.finished if case.seen.end is not None else case.ruled - RACE
    return frozenset(it.deed for it in case.deeds if not it.problem and it.done <= limit and it.begun < case.ruled)


def _in_the_race(case: Case) -> frozenset[Deed]:
    """What was done so near to the program's end that either may come first to the launcher."""
    end = case.seen.end
    limit = math.inf if end is None or case.troubled(end.finished) else end.seen + RACE
    near = (it for it in case.deeds if it.begun < case.ruled and it.begun <= limit)
    return frozenset(it.deed for it in near if not it.problem) - _before(case)


def _said_by_itself(case: Case, end: End, sure: Collection[Deed], maybe: Collection[Deed]) -> frozenset[Heard]:
    """Of a program that ended with 0, or a code of FLARE's job process: only FLARE's abort outweighs a 0."""
    own: Heard = _SUCCEEDED if end.code == 0 else (Reason.PROGRAM_REPORTED, end.code)
    if end.code == 0 and Deed.ABORT in sure:
        return frozenset({_ABORTED})
    heard = {own}
    if end.code == 0 and Deed.ABORT in maybe:
        heard.add(_ABORTED)
    if end.code != 0 and case.seen.pods > 1:
        heard.add(_TWICE)
    gone = case.seen.gone
    if gone is not None and gone < case.ruled and case.troubled(end.finished):
        # The only record of the code went before the launcher could look.
        heard |= _ended_by(case, {*sure, *maybe})
    return frozenset(heard)


def _ended_by(case: Case, deeds: Collection[Deed]) -> frozenset[Heard]:
    """Of a program that was ended by one of these, or never began: FLARE's wish comes first, an abort before all."""
    certain = _before(case)
    if Deed.ABORT in certain & set(deeds):
        return frozenset({_ABORTED})
    heard = {_CLUSTERS[deed] for deed in deeds if deed in _CLUSTERS}
    if Deed.EVICT_POD in deeds and case.seen.gone is not None and case.troubled(case.seen.gone):
        heard.add(_CLUSTERS[Deed.DELETE_POD])  # who comes late sees only that it is gone
        if not case.seen.first_started:
            heard.add(_ARGOS)  # or not even that there was one: then Argo's record is all
    if case.seen.pods > 1:
        heard.add(_TWICE)
    if Deed.CLEANUP in certain & set(deeds):
        heard = set()
    if Deed.CLEANUP in deeds:
        heard.add(_CLEANED_UP)
    if Deed.ABORT in deeds:
        heard.add(_ABORTED)
    return frozenset(heard)


def lateness(case: Case) -> tuple[float, float]:
    """Seconds from when the launcher could know the end to the verdict, and how many are allowed."""
    seen = case.seen
    ends = seen.again or seen.end
    moments = [it.done for it in case.deeds if not it.problem and it.begun < case.ruled]
    could = ends.seen if ends is not None else max([*moments, seen.gone or 0.0, case.launched])
    near = [each for each in case.disturbed if each.begun < case.ruled and each.over + RECOVERY > case.launched]
    well = max([could, *(min(each.over, case.ruled) for each in near if each.over > could - NOTICED)])
    allowed = NOTICED + (RECOVERY if near else 0.0)
    allowed += UNTOLD if any(each.trouble is Trouble.EVENTS_LOST for each in near) else 0.0
    return case.ruled - well, allowed
