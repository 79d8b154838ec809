"""A job at one site as people see it: found out by the launcher's own diagnosis, so the two never disagree. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from flargo.job.names import display_text, federation_selector, label_value
from flargo.status import fields
from flargo.status.diagnosis import Diagnosis, Stage, diagnose
from flargo.status.fields import OnParseError, parse_each
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict, decide
from flargo.status.views import (
    Observation,
    PodView,
    WorkflowView,
    event_view,
    pod_view,
    strip_unused_fields,
    workflow_view,
)
from flargo.terms import MAIN_CONTAINER, MANAGER, Annotation, Label, Object, Uid

WORDS = {
    Stage.ABSENT: "not there",
    Stage.SUBMITTED: "submitted",
    Stage.UNCLAIMED: "pending: Argo has not looked at it yet",
    Stage.QUEUED: "pending: Argo lets it wait",
    Stage.QUOTA: "pending: the namespace's quota is full",
    Stage.WAITING: "pending",
    Stage.SHORTAGE: "pending: no node has room",
    Stage.TAINTED: "pending: no node takes pods just now",
    Stage.STARTING: "starting",
    Stage.PULLING: "starting: its image is pulled",
    Stage.RUNNING: "running",
    Stage.ENDED: "ended",
}
"""How a job is, for people."""
_CAUSES = {cause.value: cause for cause in Cause}


@dataclass(frozen=True, slots=True)
class SiteJob:
    """A job at one site."""

    job_id: str
    name: str
    site: str
    role: str
    study: str
    federation: str
    workflow: WorkflowView
    pod: PodView | None
    seen: Diagnosis
    """What is seen now."""
    verdict: Verdict | None
    """What became of it, once it has ended."""
    since: datetime | None
    """When it came to where it is."""
    created: datetime | None
    started: datetime | None
    """When its program began."""
    ended: datetime | None
    """When its program ended; where there was none, its Workflow."""
    finished: datetime | None
    """When its Workflow ended."""
    released: bool
    """Its launch was over: if it is suspended, somebody wanted that."""
    gpus: Mapping[str, str] = field(default_factory=dict)
    """How many of which it asks for, by their resource's name."""
    archived: bool = False
    """It is gone from the cluster, and read from Argo's archive. Without a verdict, of its outline only."""

    @property
    def stage(self) -> Stage:
        """How far it is."""
        return self.seen.stage

    @property
    def reason(self) -> Reason | None:
        """Why it has ended, or will."""
        return self.verdict.reason if self.verdict else self.seen.reason

    @property
    def detail(self) -> str:
        """The cluster's own words."""
        return self.verdict.detail if self.verdict else self.seen.detail

    @property
    def node(self) -> str:
        """Where it runs, or ran."""
        return self.pod.node if self.pod is not None else self.workflow.host_node

    @property
    def is_unsure(self) -> bool:
        """Whether it must be read afresh before its end is believed.

        Workflows and pods are read one after the other: a pod may not be there yet, or an exit be seen before what
        caused it. An exit code 0 is final, and so is what Argo has ended.
        """
        return self.stage is Stage.ENDED and not self.seen.is_final and not self.workflow.is_completed

    def plain(self) -> dict[str, Any]:
        """The same, for programs."""
        verdict = self.verdict
        return {
            "job": self.job_id,
            "name": self.name,
            "site": self.site,
            "role": self.role,
            "study": self.study,
            "federation": self.federation,
            "workflow": self.workflow.name,
            "state": self.stage.label,
            "reason": self.reason.name if self.reason else None,
            "detail": self.detail,
            "code": verdict.code if verdict else None,
            "exit_code": verdict.exit_code if verdict else None,
            "since": _iso(self.since),
            "created": _iso(self.created),
            "started": _iso(self.started),
            "ended": _iso(self.ended),
            "pod": self.pod.name if self.pod else None,
            "node": self.node,
            "gpus": dict(self.gpus),
            "archived": self.archived,
        }


def selector(site: str | None = None, federation: str | None = None) -> str:
    """The labels of flargo's Workflows and pods: all, or those of a site, or of a federation."""
    wanted = {Label.MANAGED_BY: MANAGER, Label.SITE: site}
    terms = [f"{key}={label_value(value)}" for key, value in wanted.items() if value]
    return ",".join([*terms, *([federation_selector(federation)] if federation else [])])


def trim(item: Object) -> Object:
    """What is kept of a Workflow or a pod: a launcher's part, and what the job's container asks for."""
    less = strip_unused_fields(item)
    templates = fields.items(item, "spec", "templates")
    asked = [
        {"name": MAIN_CONTAINER, "resources": fields.value(template, "container", "resources")}
        for template in templates
    ]
    less["spec"]["containers"] += asked
    return less


def site_jobs(
    workflows: Iterable[Object], pods: Iterable[Object], on_parse_error: OnParseError = lambda *_: None
) -> list[SiteJob]:
    """Each job at each site, the oldest first.

    Args:
        workflows: as they are on the wire, or what is ``kept`` of them. To be read before the pods.
        pods: likewise, of those Workflows or of any.
        on_parse_error: called with each object that can't be parsed, and is left out.
    """
    by_owner: dict[Uid, list[Object]] = {}
    for owner, pod in parse_each(pods, lambda pod: (pod_view(pod).owner_uid, pod), on_parse_error):
        by_owner.setdefault(owner, []).append(pod)

    def part(workflow: Object) -> SiteJob:
        return _part(workflow, by_owner.get(workflow_view(workflow).uid, []))

    return in_order(parse_each(workflows, part, on_parse_error))


def in_order(parts: Iterable[SiteJob]) -> list[SiteJob]:
    """The oldest first."""
    return sorted(parts, key=lambda part: (part.created is not None, part.created, part.job_id, part.site))


def look(workflow: Object, pods: Iterable[Object]) -> Diagnosis:
    """What the launcher would see of a job: of pods only the Workflow's own count."""
    view = workflow_view(workflow)
    own = sorted((pod for pod in parse_each(pods, pod_view) if pod.owner_uid == view.uid), key=lambda pod: pod.name)
    return diagnose(Observation(view, tuple(own)), None)


def with_events(part: SiteJob, events: Iterable[Object]) -> SiteJob:
    """A part, also by what was reported of its pod."""
    pods = (part.pod,) if part.pod is not None else ()
    seen = diagnose(Observation(part.workflow, pods, events=tuple(parse_each(events, event_view))), None)
    return replace(part, seen=seen)


def short_ids(ids: Iterable[str], least: int = 8) -> dict[str, str]:
    """Each id's shortest beginning, of at least so many characters, that none of the others has."""
    known = sorted(set(ids))
    return {each: next(_beginnings(each, known, least)) for each in known}


def _beginnings(each: str, known: Sequence[str], least: int) -> Iterator[str]:
    for length in range(least, len(each)):
        if sum(other.startswith(each[:length]) for other in known) == 1:
            yield each[:length]
    yield each


def _part(workflow: Object, pods: Sequence[Object]) -> SiteJob:
    view = workflow_view(workflow)
    raw = min(pods, key=lambda pod: pod_view(pod).name, default=None)
    pod = pod_view(raw) if raw is not None else None
    seen = _as_said(look(workflow, pods), workflow)
    main = next(
        (row for row in fields.items(raw, "status", "containerStatuses") if row.get("name") == MAIN_CONTAINER), {}
    )
    state = fields.value(main, "state") or {}
    started = fields.time(state, "running", "startedAt") or fields.time(state, "terminated", "startedAt")
    ended = fields.time(state, "terminated", "finishedAt")
    finished = fields.time(workflow, "status", "finishedAt")
    if seen.stage is Stage.ENDED and ended is None:
        ended = finished
    return SiteJob(
        job_id=fields.text(workflow, "metadata", "labels", Label.JOB_ID),
        name=display_text(fields.text(workflow, "metadata", "annotations", Annotation.JOB_NAME)),
        site=_site(workflow),
        role=fields.text(workflow, "metadata", "labels", Label.ROLE),
        study=fields.text(workflow, "metadata", "labels", Label.STUDY),
        federation=fields.text(workflow, "metadata", "labels", Label.FEDERATION),
        workflow=view,
        pod=pod,
        seen=seen,
        verdict=_verdict(seen, workflow) if seen.stage is Stage.ENDED else None,
        since=_since(seen.stage, raw, started, ended) or view.created,
        created=view.created,
        started=started,
        ended=ended,
        finished=finished,
        released=bool(fields.text(workflow, "metadata", "annotations", Annotation.RELEASED)),
        gpus=_gpus(raw if raw is not None else workflow),
    )


def _site(workflow: Object) -> str:
    said = display_text(fields.text(workflow, "metadata", "annotations", Annotation.SITE_NAME))
    return said or fields.text(workflow, "metadata", "labels", Label.SITE)


def _ending(workflow: Object) -> Reason | None:
    """Why the launcher had it ended, where it did."""
    found = Reason.__members__.get(fields.text(workflow, "metadata", "annotations", Annotation.ENDING))
    # The program's own codes are in its exit, and no reason to end it.
    return found if found is not None and found.code is not None else None


def _as_said(seen: Diagnosis, workflow: Object) -> Diagnosis:
    """Of what still goes on, with the launcher's reason to end it."""
    ending = _ending(workflow)
    if ending in {None, Reason.SUCCEEDED} or seen.stage is Stage.ENDED:
        return seen
    return replace(seen, reason=ending, detail=_ending_detail(workflow) or seen.detail)


def _ending_detail(workflow: Object) -> str:
    return fields.text(workflow, "metadata", "annotations", Annotation.ENDING_DETAIL)


def _verdict(end: Diagnosis, workflow: Object) -> Verdict:
    """By the launcher's own rule, with what it knew and left on the Workflow."""
    ending = _ending(workflow)
    if ending is None:
        return decide(None, None, end, has_results=False)
    if ending in _CAUSES:
        return decide(_CAUSES[ending], None, end, has_results=False)
    # It says that a job which was ended has succeeded if its results had arrived.
    published = ending is Reason.SUCCEEDED
    doom = None if published else Diagnosis(end.stage, ending, _ending_detail(workflow))
    return decide(None, doom, end, has_results=published)


def _since(stage: Stage, pod: Object | None, started: datetime | None, ended: datetime | None) -> datetime | None:
    if stage is Stage.ENDED:
        return ended
    if stage is Stage.RUNNING:
        return started
    if pod is None:
        return None
    scheduling = fields.time(fields.condition(pod, "PodScheduled"), "lastTransitionTime")
    return scheduling or fields.time(pod, "metadata", "creationTimestamp")


def _gpus(item: Object) -> dict[str, str]:
    """The devices that its container asks for: resources that a device's maker names, as ``amd.com/gpu``."""
    containers = (row for row in fields.items(item, "spec", "containers") if row.get("name") == MAIN_CONTAINER)
    limits = fields.value(next(containers, {}), "resources", "limits")
    found = limits.items() if isinstance(limits, dict) else ()
    return {name: str(count) for name, count in found if "/" in name and not name.startswith("kubernetes.io/")}


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
