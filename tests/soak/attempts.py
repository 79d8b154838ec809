"""Which ends of a job FLARE may hear if its program may be started again, and which attempt may follow which.

It is written from docs/rejoin.md, not from flargo's code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flargo.status.reasons import Reason
from tests.soak.oracle import RACE_SECONDS, Case, JobHistory, Report, allowed_reports, lateness, may_be_forgotten
from tests.soak.plan import THROUGH_FLARE, FaultKind, Intervention

LOSSES: frozenset[Report] = frozenset({(Reason.DISRUPTED, 104), (Reason.NODE_LOST, 104)})
"""The reports after which a program is started again. The kubelet reports a pod as lost that is evicted before it has
created the container, too (``ContainerStatusUnknown``). No other node is lost in a run."""
UNSEEN_LOSSES: frozenset[Report] = LOSSES | {(Reason.POD_DELETED, 104)}
"""The same for an attempt whose pod was gone before the next run of its parent could see it."""
_ENDS_WORKFLOW = frozenset({Intervention.TERMINATE, Intervention.DELETE_WORKFLOW})


@dataclass(frozen=True)
class Attempts:
    """Everything that happened to one job, attempt by attempt."""

    whole: Case
    """The job's case. Its history is not read."""
    histories: Sequence[JobHistory]
    """What happened to each attempt, one at least."""
    max_attempts: int

    def case_of(self, index: int) -> Case:
        """Return the case of one attempt, from 0. What FLARE does concerns all of them.

        It is over, for the launcher, when the next attempt's Workflow appears.
        """
        history = self.histories[index]
        interventions = [each for each in self.whole.interventions if each.target in {"", history.name}]
        case = replace(self.whole, history=history, interventions=interventions)
        if index > 0:
            case = replace(case, launched_at=history.workflow_at or self.whole.launched_at)
        if index + 1 < len(self.histories):
            case = replace(case, verdict_at=self.histories[index + 1].workflow_at or self.whole.verdict_at)
        return case

    def allowed_ends(self) -> frozenset[Report]:
        """Return the reports that are right: those of the last attempt, but no loss if another one should follow."""
        last = self.case_of(len(self.histories) - 1)
        if len(self.histories) > 1 and not any(each.is_planned for each in last.interventions):
            # All that was planned has hit earlier attempts, so this one runs until the soak itself aborts it.
            last = replace(last, interventions=[replace(each, is_planned=True) for each in last.interventions])
        allowed = allowed_reports(last, is_first_unseen=was_gone_unseen(last, slack=RACE_SECONDS))
        if len(self.histories) == self.max_attempts or _was_workflow_ended(last):
            return allowed
        return allowed - (UNSEEN_LOSSES if was_gone_unseen(last, slack=-RACE_SECONDS) else LOSSES)

    def gaps(self) -> list[float]:
        """Return the seconds from when each loss could be known to the next attempt's Workflow."""
        return [lateness(self.case_of(index))[0] for index in range(len(self.histories) - 1)]

    def problems(self) -> list[str]:
        """Return what is wrong about attempts that followed others."""
        problems = []
        if len(self.histories) > self.max_attempts:
            problems.append(f"{len(self.histories)} attempts; {self.max_attempts} are allowed")
        for index, following in enumerate(self.histories[1:]):
            case, number = self.case_of(index), index + 2
            losses = UNSEEN_LOSSES if was_gone_unseen(case, slack=RACE_SECONDS) else LOSSES
            if losses.isdisjoint(allowed_reports(case)):
                problems.append(f"attempt {number} follows one that was not lost")
            if _have_met(case.history, following):
                problems.append(f"attempt {number} started while the program of the one before ran")
            if _came_after_flares_end(case):
                problems.append(f"attempt {number} was submitted although FLARE had ended the job")
            seconds, limit = lateness(case)
            if seconds > limit:
                problems.append(f"attempt {number} came {seconds:.1f} s after the loss; the limit is {limit:.0f} s")
        return problems


def was_gone_unseen(case: Case, slack: float) -> bool:
    """Return whether an attempt's pod was deleted while the parent was away.

    Nothing tells then whether it was drained or deleted by a person.

    Args:
        case: the attempt's case.
        slack: seconds by which the parent may have been away for longer; negative: it was away for certain.
    """
    gone, launched_at = case.history.first_pod_gone_at, case.launched_at
    restarts = [each for each in case.faults if each.kind is FaultKind.PARENT_RESTART and each.start > launched_at]
    return gone is not None and any(each.start - slack < gone < each.end + slack for each in restarts)


def _was_workflow_ended(case: Case) -> bool:
    """Return whether a person has ended the attempt's Workflow, after which no attempt has to follow."""
    return any(each.intervention in _ENDS_WORKFLOW and not each.error for each in case.interventions)


def _have_met(lost: JobHistory, following: JobHistory) -> bool:
    if following.started_at is None or lost.started_at is None:
        return False
    return lost.over_at is None or lost.over_at > following.started_at


def _came_after_flares_end(case: Case) -> bool:
    return any(
        each.intervention in THROUGH_FLARE
        and not each.error
        and each.finished_at + RACE_SECONDS < case.verdict_at
        and not may_be_forgotten(each, case)
        for each in case.interventions
    )
