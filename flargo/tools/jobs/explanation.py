"""Explains the state of a job at a site: what happened, the evidence for it, and what to do. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from flargo.job.names import display_text
from flargo.status import fields
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.views import EventView, event_view
from flargo.terms import Object
from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.flare_status import status_command
from flargo.tools.jobs.last_error import last_error
from flargo.tools.jobs.site_job import STAGE_TEXTS, SiteJob
from flargo.tools.jobs.table import format_attempt

_TIMEOUT_REASONS = {
    Stage.UNCLAIMED: Reason.UNCLAIMED,
    Stage.QUEUED: Reason.QUEUED,
    Stage.QUOTA: Reason.QUOTA,
    Stage.SHORTAGE: Reason.SHORTAGE,
    Stage.TAINTED: Reason.UNSCHEDULABLE,
    Stage.PULLING: Reason.PULLING,
}
"""The reason with which a job ends that stays in a stage for too long. Its remedy also helps while the job waits."""
_NEXT_ATTEMPT = (
    "Wait: the FLARE parent begins the next attempt as soon as nothing of this one runs any more, if the server's "
    "process of the job still runs. If none has begun after some minutes, read the parent's log."
)
"""What to do between two attempts."""
_FAILED_IN_FLARE = (
    "But the whole job has failed: FLARE says {}. FLARE's processes exit with 0 although a training script has raised."
)
_READ_LOGS = "Look for the site whose log has an error (`flargo logs JOB`), correct the job, and submit it again."
_MAX_EVENTS = 8
_MAX_CHARACTERS = 1000
"""The most characters of one piece of evidence."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The report on a job at one site."""

    job: SiteJob
    summary: str
    evidence: tuple[tuple[str, str], ...]
    """Pairs of a source, such as "pod", and what it shows."""
    remedy: str
    last_error: str = ""
    """The last error in the program's log, in a few lines; empty if there is none, or the log was not read."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON for programs has it."""
        evidence = [{"of": source, "says": text} for source, text in self.evidence]
        report = {"what_happened": self.summary, "evidence": evidence, "what_to_do": self.remedy}
        return {**self.job.as_dict(), **report, "last_error": self.last_error or None}


def explain(job: SiteJob, events: Iterable[Object], log: str = "") -> Explanation:
    """Explain the state of a job at a site.

    Args:
        job: the job.
        events: the events of its pod, as they are on the wire.
        log: the end of its program's log, redacted; empty if it was not read.
    """
    reason = job.reason
    summary = reason.sentence if reason else f"Nothing is wrong: the job is {STAGE_TEXTS[job.stage]}."
    if reason is None and job.is_archived:
        summary = "The job has ended, but the reason could not be read from Argo's archive."
    elif reason is None and job.stage not in {Stage.RUNNING, Stage.SUBMITTED, Stage.ENDED}:
        summary = f"The job is {STAGE_TEXTS[job.stage]}."
    elif reason is not None and job.stage is not Stage.ENDED:
        summary += f" The job has not ended yet; it is {STAGE_TEXTS[job.stage]}."
    remedy_reason = reason or _TIMEOUT_REASONS.get(job.stage)
    remedy = remedy_reason.remedy if remedy_reason else ""
    if job.may_start_again:
        summary += f" This was attempt {format_attempt(job)}, and the job may be started again."
        remedy = _NEXT_ATTEMPT
    elif job.max_attempts > 1:
        summary += f" This is attempt {format_attempt(job)}."
    if job.flare is not None and not job.flare.is_success and reason is Reason.SUCCEEDED:
        summary += f" {_FAILED_IN_FLARE.format(job.flare.text)}"
        remedy = _READ_LOGS
    return Explanation(job, summary, (*_attempts(job), *_evidence(job, events)), remedy, _own_error(job, log))


def _own_error(job: SiteJob, log: str) -> str:
    """Return the last error in a program's log, unless it is the one that the evidence has from the server's note."""
    error = last_error(log)
    return "" if job.flare is not None and error == job.flare.error else error


def needs_log(job: SiteJob) -> bool:
    """Return whether a job's log may explain its state: not if FLARE has counted the job as a success."""
    return job.flare is None or not job.flare.is_success


def _attempts(job: SiteJob) -> Iterator[tuple[str, str]]:
    """Yield what happened to each earlier attempt, what followed, and why there are fewer than the job asks for."""
    missing = job.number - 1 - len(job.earlier)
    if missing > 0:
        yield "attempts", f"{missing} earlier ones are not shown: their Workflows no longer exist, or have not ended"
    for attempt, following in pairwise(job.attempts):
        yield f"attempt {attempt.number}", _describe_attempt(attempt, following)
    if job.refused_attempts:
        yield "attempts", display_text(job.refused_attempts, _MAX_CHARACTERS)


def _describe_attempt(attempt: SiteJob, following: SiteJob) -> str:
    ended_at = attempt.ended_at or attempt.workflow_ended_at
    began_at = attempt.started_at or attempt.created_at
    end = [attempt.reason.name if attempt.reason else STAGE_TEXTS[attempt.stage]]
    end += [f"on node {attempt.node}"] if attempt.node else []
    end += [f"at {ended_at:%Y-%m-%d %H:%M:%S} UTC"] if ended_at else []
    end += [f"after {format_duration(ended_at - began_at)}"] if ended_at and began_at else []
    delay = following.created_at - ended_at if following.created_at and ended_at else None
    parts = (
        " ".join(end),
        attempt.detail,
        f"Workflow {attempt.workflow.name}",
        f"attempt {following.number} followed{f' {format_duration(delay)} later' if delay is not None else ''}",
    )
    return display_text("; ".join(filter(None, parts)), _MAX_CHARACTERS)


def _evidence(job: SiteJob, events: Iterable[Object]) -> Iterator[tuple[str, str]]:
    workflow, pod = job.workflow, job.pod
    detail = display_text(job.detail, _MAX_CHARACTERS)
    if detail:
        yield "cluster says", detail
    if job.verdict is not None and job.verdict.exit_code is not None:
        yield "exit code", str(job.verdict.exit_code)
    yield from _flare_status(job)
    if job.rounds is not None:
        yield "progress", job.rounds.text
    workflow_facts = (
        workflow.phase or "no Argo controller has processed it yet",
        workflow.message,
        workflow.node_message,
        f"shutdown {workflow.shutdown}" if workflow.shutdown else "",
        "suspended" if workflow.suspended else "",
    )
    yield (
        "Workflow",
        f"{workflow.name}: {display_text('; '.join(dict.fromkeys(filter(None, workflow_facts))), _MAX_CHARACTERS)}",
    )
    if job.is_archived:
        deleted = "the Workflow was deleted from the cluster, with its pod and its log"
        yield "archive", f"{deleted}: this is what Argo's archive keeps of it"
    elif pod is None:
        yield "pod", "does not exist"
    else:
        node = f"on node {pod.node}" if pod.node else "on no node"
        pod_facts = (f"{pod.phase} {node}", pod.reason, pod.disruption, "being deleted" if pod.deleting else "")
        state = "; ".join(filter(None, pod_facts))
        yield "pod", f"{pod.name}: {display_text(state, _MAX_CHARACTERS)}"
    yield from (("event", event) for event in _relevant_events(job, events))
    yield "times", _times(job)


def _flare_status(job: SiteJob) -> Iterator[tuple[str, str]]:
    """Yield FLARE's own status of the whole job; of a job that has ended without one, how to ask for it."""
    if job.flare is not None:
        yield "FLARE says", job.flare.text
        if job.flare.error:
            yield "server's log", job.flare.error
    elif job.final_verdict is not None:
        yield "FLARE says", f"not known here; FLARE's own status may differ: `{status_command(job.job_id)}`"


def _relevant_events(job: SiteJob, events: Iterable[Object]) -> Sequence[str]:
    """Return the newest warnings, and before the program runs the newest events of any type."""
    has_not_started = job.stage < Stage.RUNNING
    views = [event_view(event) for event in events if has_not_started or fields.text(event, "type") == "Warning"]
    newest = sorted(views, key=lambda event: (event.last_timestamp is not None, event.last_timestamp))[-_MAX_EVENTS:]
    return [_format_event(event) for event in newest]


def _format_event(event: EventView) -> str:
    repeats = f", {event.count} times in {event.span:.0f} s" if event.count > 1 else ""
    time = f"{_clock(event.last_timestamp)} " if event.last_timestamp else ""
    return f"{time}{event.reason}{repeats}: {display_text(event.message, _MAX_CHARACTERS)}"


def _times(job: SiteJob) -> str:
    times = [f"submitted {job.created_at:%Y-%m-%d %H:%M:%S} UTC" if job.created_at else "submitted at an unknown time"]
    if job.started_at and job.created_at:
        times.append(f"started {format_duration(job.started_at - job.created_at)} later")
    if job.ended_at and job.started_at:
        times.append(f"ran for {format_duration(job.ended_at - job.started_at)}")
    elif job.ended_at:
        times.append(f"ended {_clock(job.ended_at)}")
    return ", ".join(times)


def _clock(time: datetime | None) -> str:
    return f"{time:%H:%M:%S}" if time else ""
