"""Why a job at a site is as it is: what happened, what shows it, what to do. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flargo.job.names import display_text
from flargo.status import fields
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.views import EventView, event_view
from flargo.terms import Object
from flargo.tools.jobs.site_job import WORDS, SiteJob
from flargo.tools.jobs.sweepable import spell

_WOULD_BE = {
    Stage.UNCLAIMED: Reason.UNCLAIMED,
    Stage.QUEUED: Reason.QUEUED,
    Stage.QUOTA: Reason.QUOTA,
    Stage.SHORTAGE: Reason.SHORTAGE,
    Stage.TAINTED: Reason.UNSCHEDULABLE,
    Stage.PULLING: Reason.PULLING,
}
"""What a job that waits would end of, if it waits for too long."""
_EVENTS = 8
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Explanation:
    """A report on a part of a job."""

    part: SiteJob
    happened: str
    evidence: tuple[tuple[str, str], ...]
    """What is said by whom."""
    remedy: str

    def plain(self) -> dict[str, Any]:
        """The same, for programs."""
        shown = [{"of": name, "says": said} for name, said in self.evidence]
        told = {"what_happened": self.happened, "evidence": shown, "what_to_do": self.remedy}
        return {**self.part.plain(), **told}


def explain(part: SiteJob, events: Iterable[Object]) -> Explanation:
    """Explain a part of a job.

    Args:
        part: as it is seen.
        events: of its pod, as they are on the wire.
    """
    reason = part.reason
    happened = reason.sentence if reason else f"Nothing is wrong: it is {WORDS[part.stage]}."
    if reason is None and part.archived:
        happened = "It has ended; Argo's archive could not be asked why."
    elif reason is None and part.stage not in {Stage.RUNNING, Stage.SUBMITTED, Stage.ENDED}:
        happened = f"It is {WORDS[part.stage]}."
    elif reason is not None and part.stage is not Stage.ENDED:
        happened += f" It has not ended yet: {WORDS[part.stage]}."
    meant = reason or _WOULD_BE.get(part.stage)
    return Explanation(part, happened, tuple(_evidence(part, events)), meant.remedy if meant else "")


def _evidence(part: SiteJob, events: Iterable[Object]) -> Iterator[tuple[str, str]]:
    workflow, pod = part.workflow, part.pod
    said = display_text(part.detail, _LONGEST)
    if said:
        yield "cluster says", said
    if part.verdict is not None and part.verdict.exit_code is not None:
        yield "exit code", str(part.verdict.exit_code)
    words = (workflow.phase or "no controller has looked at it", workflow.message, workflow.node_message)
    asked = (f"shutdown {workflow.shutdown}" if workflow.shutdown else "", "suspended" if workflow.suspended else "")
    messages = "; ".join(dict.fromkeys(filter(None, (*words, *asked))))
    yield "Workflow", f"{workflow.name}: {display_text(messages, _LONGEST)}"
    if part.archived:
        yield "archive", "gone from the cluster, its pod and its log too: this is what Argo's archive keeps of it"
    elif pod is None:
        yield "pod", "there is none"
    else:
        node = f"on node {pod.node}" if pod.node else "on no node"
        state = (f"{pod.phase} {node}", pod.reason, pod.disruption, "being deleted" if pod.deleting else "")
        yield "pod", f"{pod.name}: {display_text('; '.join(filter(None, state)), _LONGEST)}"
    yield from (("event", event) for event in _telling(part, events))
    yield "times", _times(part)


def _telling(part: SiteJob, events: Iterable[Object]) -> Sequence[str]:
    """The events that tell something: warnings, and of a job that has not begun all of them."""
    starts = part.stage < Stage.RUNNING
    kept = [event_view(event) for event in events if starts or fields.text(event, "type") == "Warning"]
    newest = sorted(kept, key=lambda event: (event.last_timestamp is not None, event.last_timestamp))[-_EVENTS:]
    return [_event(event) for event in newest]


def _event(event: EventView) -> str:
    often = f", {event.count} times in {event.span:.0f} s" if event.count > 1 else ""
    when = f"{_clock(event.last_timestamp)} " if event.last_timestamp else ""
    return f"{when}{event.reason}{often}: {display_text(event.message, _LONGEST)}"


def _times(part: SiteJob) -> str:
    told = [f"submitted {part.created:%Y-%m-%d %H:%M:%S} UTC" if part.created else "submitted at an unknown time"]
    if part.started and part.created:
        told.append(f"began {spell(part.started - part.created)} later")
    if part.ended and part.started:
        told.append(f"ran for {spell(part.ended - part.started)}")
    elif part.ended:
        told.append(f"ended {_clock(part.ended)}")
    return ", ".join(told)


def _clock(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S}" if moment else ""
