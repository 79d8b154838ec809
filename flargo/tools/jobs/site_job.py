"""A job at one site as people see it. The launcher's own diagnosis decides, so the two never disagree. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from flargo.job.names import display_text, federation_selector, label_value
from flargo.job.trust import MAX_REJOIN
from flargo.log_rounds import Rounds, parse_note
from flargo.parsing import whole_number
from flargo.status import fields
from flargo.status.diagnosis import Diagnosis, Stage, diagnose
from flargo.status.fields import OnParseError, parse_each
from flargo.status.job_state import DISRUPTIONS
from flargo.status.reasons import Reason
from flargo.status.rejoin import is_evicted_for_its_node
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
from flargo.terms import MAIN_CONTAINER, MANAGER, Annotation, Label, Object, Role, Uid
from flargo.tools.jobs.flare_status import FlareStatus, parse_flare_status

STAGE_TEXTS = {
    Stage.ABSENT: "not on the cluster",
    Stage.SUBMITTED: "submitted",
    Stage.UNCLAIMED: "pending: no Argo controller has processed it yet",
    Stage.QUEUED: "pending: Argo keeps it waiting for a lock or for capacity",
    Stage.QUOTA: "pending: the namespace's quota is used up",
    Stage.WAITING: "pending",
    Stage.SHORTAGE: "pending: no node has enough free resources",
    Stage.TAINTED: "pending: no node accepts its pod at the moment",
    Stage.STARTING: "starting",
    Stage.PULLING: "starting: its image is being pulled",
    Stage.RUNNING: "running",
    Stage.ENDED: "ended",
}
"""Each stage for people, as the end of a sentence that begins "the job is"."""
LOST = "LOST"
"""The state between two attempts; it is no stage of the launcher's, for which an attempt has ended then."""
_CAUSES = {cause.value: cause for cause in Cause}


@dataclass(frozen=True, slots=True)
class SiteJob:
    """A job at one site. In JSON the fields have the keys of ``as_dict``.

    A job that may have several attempts has a Workflow for each. Such a job is its latest attempt, with the ``earlier``
    ones (flargo.tools.jobs.attempts).
    """

    job_id: str
    name: str
    site: str
    role: str
    study: str
    federation: str
    workflow: WorkflowView
    pod: PodView | None
    diagnosis: Diagnosis
    """The launcher's diagnosis of the objects as they were read."""
    verdict: Verdict | None
    """How the job ended; None while it has not, or where only an archive's outline was read."""
    since: datetime | None
    """When the job entered its present stage."""
    created_at: datetime | None
    started_at: datetime | None
    """When its program started."""
    ended_at: datetime | None
    """When its program ended; if there was no program, when its Workflow did."""
    workflow_ended_at: datetime | None
    is_released: bool
    """True if its launch was completed. A Workflow that is suspended all the same was suspended by a person."""
    gpus: Mapping[str, str] = field(default_factory=dict)
    """The number of devices that the job requests, by resource name."""
    is_archived: bool = False
    """True if the Workflow was deleted from the cluster and read from Argo's archive."""
    number: int = 1
    """Which attempt of its job this is, from 1."""
    max_attempts: int = 1
    """How many attempts the job may have."""
    namespace: str = ""
    earlier: tuple["SiteJob", ...] = ()
    """The earlier attempts of the job of which there is still a Workflow, the first one first."""
    refused_attempts: str = ""
    """Why the site grants the job fewer attempts than it asks for, as its parent noted it; empty if it does not."""
    noted_verdict: Verdict | None = None
    """How the whole job ended, as its parent noted it on its last Workflow."""
    flare: FlareStatus | None = None
    """FLARE's final status of the whole job, at all sites; None if no Workflow that was read has it."""
    rounds: Rounds | None = None
    """How far the training has come at all sites; None if no Workflow that was read says it."""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """The job and the site, whichever attempt this is. A copy in another namespace is another job."""
        return self.namespace, self.federation, self.job_id, self.site

    @property
    def attempts(self) -> tuple["SiteJob", ...]:
        """All attempts of which there is a Workflow, this one last."""
        return (*self.earlier, self)

    @property
    def may_start_again(self) -> bool:
        """True between two attempts: this one was lost, and nothing shows yet whether the next one will begin.

        Nobody but the parent knows whether the site counts the deletion of a pod, and whether the server's process of
        the job still runs. An eviction for the job's own excess is never followed by another attempt, and neither is a
        first one that its node has refused.
        """
        is_last = self.number >= self.max_attempts or self.noted_verdict is not None
        if self.stage is not Stage.ENDED or is_last or self.is_archived:
            return False
        pod = self.pod
        is_own_excess = self.reason is Reason.EVICTED and pod is not None and not is_evicted_for_its_node(pod)
        is_refused_again = self.reason is Reason.NODE_REFUSED and self.number > 1
        return is_refused_again or (self.reason in DISRUPTIONS and not is_own_excess)

    @property
    def state(self) -> str:
        """The state for people and programs: the stage, or LOST between two attempts."""
        return LOST if self.may_start_again else self.stage.label

    @property
    def final_verdict(self) -> Verdict | None:
        """What FLARE is told; None while it is told nothing."""
        return None if self.may_start_again else self.noted_verdict or self.verdict

    @property
    def stage(self) -> Stage:
        """How far the job has come."""
        return self.diagnosis.stage

    @property
    def reason(self) -> Reason | None:
        """Why the job has ended, or why it is going to end."""
        verdict = self.noted_verdict or self.verdict
        return verdict.reason if verdict else self.diagnosis.reason

    @property
    def detail(self) -> str:
        """The message of the cluster that belongs to the reason."""
        verdict = self.noted_verdict or self.verdict
        return verdict.detail if verdict else self.diagnosis.detail

    @property
    def node(self) -> str:
        """The node on which the job runs or ran."""
        return self.pod.node if self.pod is not None else self.workflow.host_node

    @property
    def needs_confirmation(self) -> bool:
        """True if the job must be read again before its end is believed.

        Workflows and pods are listed one after the other: a pod may be missing from the list, or an exit be listed
        before its cause. An exit code 0 is final, and so is a Workflow that Argo has finished.
        """
        return self.stage is Stage.ENDED and not self.diagnosis.is_final and not self.workflow.is_completed

    def as_dict(self) -> dict[str, Any]:
        """Return the job as JSON for programs has it."""
        verdict, final_verdict = self.verdict, self.final_verdict
        return {
            "job": self.job_id,
            "name": self.name,
            "site": self.site,
            "role": self.role,
            "study": self.study,
            "federation": self.federation,
            "namespace": self.namespace,
            "workflow": self.workflow.name,
            "state": self.state,
            "reason": self.reason.name if self.reason else None,
            "detail": self.detail,
            "code": final_verdict.code if final_verdict else None,
            "flare_status": self.flare.text if self.flare else None,
            "flare_error": (self.flare.error or None) if self.flare else None,
            "round": self.rounds.number if self.rounds else None,
            "rounds": self.rounds.total if self.rounds else None,
            "exit_code": verdict.exit_code if verdict else None,
            "since": _iso(self.since),
            "created": _iso(self.created_at),
            "started": _iso(self.started_at),
            "ended": _iso(self.ended_at),
            "pod": self.pod.name if self.pod else None,
            "node": self.node,
            "gpus": dict(self.gpus),
            "archived": self.is_archived,
            "attempts": self._attempts_as_dict() if self.max_attempts > 1 else None,
        }

    def _attempts_as_dict(self) -> dict[str, Any]:
        keys = ("workflow", "reason", "detail", "exit_code", "created", "started", "ended", "pod", "node", "archived")
        earlier = []
        for attempt in self.earlier:
            row = attempt.as_dict()
            earlier.append({"number": attempt.number, "state": attempt.stage.label, **{key: row[key] for key in keys}})
        return {"number": self.number, "max": self.max_attempts, "earlier": earlier}


def join_selectors(*selectors: str) -> str:
    """Return the label selector of what matches all of these; an empty one matches everything."""
    return ",".join(filter(None, selectors))


def selector(site: str | None = None, federation: str | None = None) -> str:
    """Build the label selector of flargo's Workflows and pods, of one site or federation if these are given."""
    labels = {Label.MANAGED_BY: MANAGER, Label.SITE: site}
    terms = [f"{key}={label_value(value)}" for key, value in labels.items() if value]
    return ",".join([*terms, *([federation_selector(federation)] if federation else [])])


def trim(item: Object) -> Object:
    """Reduce a Workflow or a pod to what the launcher reads, and to the resources of the job's container."""
    smaller = strip_unused_fields(item)
    templates = fields.items(item, "spec", "templates")
    containers = [
        {"name": MAIN_CONTAINER, "resources": fields.value(each, "container", "resources")} for each in templates
    ]
    smaller["spec"]["containers"] += containers
    return smaller


def site_jobs(
    workflows: Iterable[Object], pods: Iterable[Object], on_parse_error: OnParseError = lambda *_: None
) -> list[SiteJob]:
    """Return each job at each site, the oldest first; of a job with several attempts, each attempt by itself.

    Args:
        workflows: the Workflows, as they are on the wire or strip_unused_fields. They must be read before the pods.
        pods: the pods, likewise; those of other Workflows are ignored.
        on_parse_error: called with each object that cannot be parsed. The object is left out.
    """
    by_owner: dict[Uid, list[Object]] = {}
    for owner, pod in parse_each(pods, lambda pod: (pod_view(pod).owner_uid, pod), on_parse_error):
        by_owner.setdefault(owner, []).append(pod)

    def parse(workflow: Object) -> SiteJob:
        return _site_job(workflow, by_owner.get(workflow_view(workflow).uid, []))

    return oldest_first(parse_each(workflows, parse, on_parse_error))


def oldest_first(jobs: Iterable[SiteJob]) -> list[SiteJob]:
    """Sort jobs by the time of their first attempt's creation; those without a time come first."""

    def key(job: SiteJob) -> tuple[Any, ...]:
        created_at = job.attempts[0].created_at
        return created_at is not None, created_at, job.job_id, job.site, job.number

    return sorted(jobs, key=key)


def share_server_notes(jobs: Iterable[SiteJob]) -> list[SiteJob]:
    """Return the jobs, each with what is noted on the Workflow of its server, if that is among them."""
    site_jobs = list(jobs)
    noted = {(job.federation, job.job_id): job for job in site_jobs if job.flare is not None or job.rounds is not None}
    return [_with_notes_of(noted.get((job.federation, job.job_id), job), job) for job in site_jobs]


def _with_notes_of(source: SiteJob, job: SiteJob) -> SiteJob:
    return job if source is job else replace(job, flare=source.flare, rounds=source.rounds)


def keep_server_notes(before: SiteJob, job: SiteJob) -> SiteJob:
    """Return a job that was read again by itself, with what was noted on the Workflow of its server before."""
    return replace(job, flare=job.flare or before.flare, rounds=job.rounds or before.rounds)


def diagnose_workflow(workflow: Object, pods: Iterable[Object]) -> Diagnosis:
    """Return the launcher's diagnosis of a job. Only pods that the Workflow owns count."""
    view = workflow_view(workflow)
    own_pods = sorted(
        (pod for pod in parse_each(pods, pod_view) if pod.owner_uid == view.uid), key=lambda pod: pod.name
    )
    return diagnose(Observation(view, tuple(own_pods)), None)


def with_events(job: SiteJob, events: Iterable[Object]) -> SiteJob:
    """Return the job with a diagnosis that takes its pod's events into account."""
    pods = (job.pod,) if job.pod is not None else ()
    observation = Observation(job.workflow, pods, events=tuple(parse_each(events, event_view)))
    return replace(job, diagnosis=diagnose(observation, None))


def short_ids(ids: Iterable[str], min_length: int = 8) -> dict[str, str]:
    """Return each id's shortest prefix, of at least ``min_length`` characters, that no other id has."""
    unique_ids = sorted(set(ids))
    return {each: next(_unique_prefixes(each, unique_ids, min_length)) for each in unique_ids}


def _unique_prefixes(job_id: str, ids: Sequence[str], min_length: int) -> Iterator[str]:
    for length in range(min_length, len(job_id)):
        if sum(other.startswith(job_id[:length]) for other in ids) == 1:
            yield job_id[:length]
    yield job_id


def _site_job(workflow: Object, pods: Sequence[Object]) -> SiteJob:
    view = workflow_view(workflow)
    pod = min(pods, key=lambda pod: pod_view(pod).name, default=None)
    diagnosis = _with_ending_reason(diagnose_workflow(workflow, pods), workflow)
    number, max_attempts = _attempt(workflow)
    main = next(
        (row for row in fields.items(pod, "status", "containerStatuses") if row.get("name") == MAIN_CONTAINER), {}
    )
    state = fields.value(main, "state") or {}
    verdict = _verdict(diagnosis, workflow) if diagnosis.stage is Stage.ENDED else None
    started_at = fields.time(state, "running", "startedAt") or fields.time(state, "terminated", "startedAt")
    ended_at = fields.time(state, "terminated", "finishedAt")
    workflow_ended_at = fields.time(workflow, "status", "finishedAt")
    if diagnosis.stage is Stage.ENDED and ended_at is None:
        ended_at = workflow_ended_at
    return SiteJob(
        job_id=fields.text(workflow, "metadata", "labels", Label.JOB_ID),
        name=display_text(fields.text(workflow, "metadata", "annotations", Annotation.JOB_NAME)),
        site=_site_name(workflow),
        role=fields.text(workflow, "metadata", "labels", Label.ROLE),
        study=fields.text(workflow, "metadata", "labels", Label.STUDY),
        federation=fields.text(workflow, "metadata", "labels", Label.FEDERATION),
        workflow=view,
        pod=pod_view(pod) if pod is not None else None,
        diagnosis=diagnosis,
        verdict=verdict,
        since=_stage_start(diagnosis.stage, pod, started_at, ended_at) or view.created,
        created_at=view.created,
        started_at=started_at,
        ended_at=ended_at,
        workflow_ended_at=workflow_ended_at,
        is_released=bool(fields.text(workflow, "metadata", "annotations", Annotation.RELEASED)),
        gpus=_gpus(pod if pod is not None else workflow),
        namespace=fields.text(workflow, "metadata", "namespace"),
        number=number,
        max_attempts=max_attempts,
        refused_attempts=fields.text(workflow, "metadata", "annotations", Annotation.REFUSED_ATTEMPTS),
        noted_verdict=_noted_verdict(workflow, verdict) if max_attempts > 1 else None,
        flare=parse_flare_status(workflow),
        rounds=_rounds(workflow),
    )


def _rounds(workflow: Object) -> Rounds | None:
    is_server = fields.text(workflow, "metadata", "labels", Label.ROLE) == Role.SERVER
    return parse_note(fields.text(workflow, "metadata", "annotations", Annotation.PROGRESS)) if is_server else None


def _attempt(workflow: Object) -> tuple[int, int]:
    """Return which attempt a Workflow is, and how many its job may have: 1 and 1 unless both are whole and make sense.

    Anybody who may write Workflows may write these texts.
    """
    most = whole_number(fields.text(workflow, "metadata", "annotations", Annotation.MAX_ATTEMPTS), MAX_REJOIN + 1) or 1
    number = whole_number(fields.text(workflow, "metadata", "labels", Label.ATTEMPT_NUMBER), most)
    return (number, most) if number else (1, 1)


def _site_name(workflow: Object) -> str:
    name = display_text(fields.text(workflow, "metadata", "annotations", Annotation.SITE_NAME))
    return name or fields.text(workflow, "metadata", "labels", Label.SITE)


def _ending_reason(workflow: Object) -> Reason | None:
    """Return why the launcher ended the job, as it noted on the Workflow; None if it did not end the job."""
    reason = Reason.__members__.get(fields.text(workflow, "metadata", "annotations", Annotation.ENDING))
    # A reason without a code of its own takes the program's exit code, so no launcher ends a job for it.
    return reason if reason is not None and reason.code is not None else None


def _ending_detail(workflow: Object) -> str:
    return fields.text(workflow, "metadata", "annotations", Annotation.ENDING_DETAIL)


def _with_ending_reason(diagnosis: Diagnosis, workflow: Object) -> Diagnosis:
    """Return the diagnosis of a job that is being ended with the launcher's reason for that."""
    reason = _ending_reason(workflow)
    if reason in {None, Reason.SUCCEEDED} or diagnosis.stage is Stage.ENDED:
        return diagnosis
    return replace(diagnosis, reason=reason, detail=_ending_detail(workflow) or diagnosis.detail)


def _verdict(end: Diagnosis, workflow: Object) -> Verdict:
    """Decide as the launcher does, with the reason that it noted on the Workflow."""
    reason = _ending_reason(workflow)
    if reason is None:
        return decide(None, None, end, has_results=False)
    if reason in _CAUSES:
        return decide(_CAUSES[reason], None, end, has_results=False)
    # The launcher notes SUCCEEDED for a job that was ended after its results had arrived.
    is_published = reason is Reason.SUCCEEDED
    end_diagnosis = None if is_published else Diagnosis(end.stage, reason, _ending_detail(workflow))
    return decide(None, end_diagnosis, end, has_results=is_published)


def _noted_verdict(workflow: Object, own: Verdict | None) -> Verdict | None:
    """Return what the parent told FLARE about the whole job, if it noted that on a Workflow that has ended."""
    reason = Reason.__members__.get(fields.text(workflow, "metadata", "annotations", Annotation.VERDICT))
    if own is None or reason is None or reason.code is None:
        return None
    detail = fields.text(workflow, "metadata", "annotations", Annotation.VERDICT_DETAIL)
    return Verdict(reason, int(reason.code), detail, own.exit_code)


def _stage_start(
    stage: Stage, pod: Object | None, started_at: datetime | None, ended_at: datetime | None
) -> datetime | None:
    if stage is Stage.ENDED:
        return ended_at
    if stage is Stage.RUNNING:
        return started_at
    if pod is None:
        return None
    scheduled_at = fields.time(fields.condition(pod, "PodScheduled"), "lastTransitionTime")
    return scheduled_at or fields.time(pod, "metadata", "creationTimestamp")


def _gpus(item: Object) -> dict[str, str]:
    """Return the devices that the job's container requests: resources with a vendor's prefix, as ``amd.com/gpu``."""
    containers = (row for row in fields.items(item, "spec", "containers") if row.get("name") == MAIN_CONTAINER)
    limits = fields.value(next(containers, {}), "resources", "limits")
    amounts = limits.items() if isinstance(limits, dict) else ()
    return {name: str(amount) for name, amount in amounts if "/" in name and not name.startswith("kubernetes.io/")}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None
