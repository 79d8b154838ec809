"""Reads jobs: the interface of every source, and the reader of a cluster."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from flargo.cluster.api import ALL_NAMESPACES, Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.control.parse_error_log import ParseErrorLog
from flargo.job.names import label_value
from flargo.status.diagnosis import STARTING_STAGES
from flargo.terms import MAIN_CONTAINER, WORKFLOW_NAME_LABEL, WORKFLOW_TYPE, Label, Object
from flargo.tools.jobs.attempts import fold_attempts
from flargo.tools.jobs.last_error import MAX_LOG_BYTES, MAX_LOG_LINES
from flargo.tools.jobs.selection import NotFoundError, select_job
from flargo.tools.jobs.site_job import (
    SiteJob,
    join_selectors,
    keep_server_notes,
    selector,
    share_server_notes,
    site_jobs,
    trim,
    with_events,
)

_LOG_SECONDS = 10.0
"""Seconds without a byte after which reading a log fails: its node may be gone."""


class Reader(Protocol):
    """A source of jobs, such as a cluster or an archive of Workflows."""

    @property
    def where(self) -> str:
        """Where this reader looks for jobs, as words that end a sentence: "on the cluster"."""

    @property
    def read_problem(self) -> str:
        """A sentence on what could not be read and what to do about it; empty if everything was read."""

    def site_jobs(self, labels: str, workflow_labels: str = "") -> list[SiteJob]:
        """Return the jobs whose Workflows match both selectors, with the attempts of each.

        Args:
            labels: a selector of labels that flargo gives Workflows and pods alike.
            workflow_labels: a selector of any labels. People may have given them to a Workflow only.
        """

    def confirmed(self, job: SiteJob) -> SiteJob:
        """Return the job as a fresh read shows it, if ``job.needs_confirmation``; else as it is.

        Its earlier attempts are confirmed, too.
        """

    def events(self, job: SiteJob) -> Sequence[Object]:
        """Return the events of the job's pod, as they are on the wire."""

    def log(self, job: SiteJob) -> str:
        """Return the end of the log of the job's program; empty if there is none."""


def find_job(reader: Reader, query: str, site: str | None = None) -> list[SiteJob]:
    """Return the job that a query names (see ``select_job``), at each of its sites, confirmed.

    A Workflow may also be named as ``-o name`` prints it.

    Raises:
        NotFoundError: no job matches, or more than one does.
    """
    query = query.removeprefix(f"{WORKFLOW_TYPE}/")
    # A whole job id is a label, so the server can select the job. Anything else is searched for in all jobs.
    candidates = reader.site_jobs(f"{selector()},{Label.JOB_ID}={label_value(query)}") or reader.site_jobs(selector())
    try:
        matches = select_job(query, candidates, site, reader.where)
    except NotFoundError as error:
        if reader.read_problem:
            raise NotFoundError(f"{error}; {reader.read_problem}") from None
        raise
    return [reader.confirmed(job) for job in matches]


def find_attempts(reader: Reader, query: str, site: str | None = None) -> list[SiteJob]:
    """Return the job that a query names, like find_job; a Workflow's name stands for that very attempt.

    Raises:
        NotFoundError: no job matches, or more than one does.
    """
    name = label_value(query.removeprefix(f"{WORKFLOW_TYPE}/"))
    return [
        next((attempt for attempt in job.attempts if attempt.workflow.name == name), job)
        for job in find_job(reader, query, site)
    ]


class ClusterReader:
    """Reads the jobs of one namespace of a cluster, or of all. Its methods raise ApiError."""

    where = "on the cluster"
    read_problem = ""

    def __init__(self, api: Api) -> None:
        """Read from the namespace of ``api``, which may be ALL_NAMESPACES."""
        self._api = api
        self._on_parse_error = ParseErrorLog()

    def site_jobs(self, labels: str, workflow_labels: str = "") -> list[SiteJob]:
        """Return the jobs whose Workflows match both selectors, from one list of Workflows and one of pods."""
        workflows, _ = self._api.list(Kind.WORKFLOW, join_selectors(labels, workflow_labels), trim=trim)
        pods, _ = self._api.list(Kind.POD, labels, trim=trim)
        return share_server_notes(fold_attempts(site_jobs(workflows, pods, self._on_parse_error)))

    def confirmed(self, job: SiteJob) -> SiteJob:
        """Read a job again with the launcher's requests, if its end is not certain; read events while its pod starts.

        Only events tell how far the start of a pod is.
        """
        confirmed = self._confirm(job)
        earlier = tuple(map(self.confirmed, job.earlier))
        return keep_server_notes(job, replace(confirmed, earlier=earlier))

    def _confirm(self, job: SiteJob) -> SiteJob:
        if job.needs_confirmation:
            job = self._read_again(job)
        if job.stage in STARTING_STAGES and job.reason is None:
            return with_events(job, self.events(job))
        return job

    def events(self, job: SiteJob) -> Sequence[Object]:
        """Return the events of the job's pod. Those of an earlier pod of the same name are left out."""
        if job.pod is None:
            return ()
        events, _ = self._api_of(job).list(
            Kind.EVENT, fields=f"involvedObject.kind=Pod,involvedObject.name={job.pod.name}"
        )
        return [event for event in events if (event.get("involvedObject") or {}).get("uid") in {None, job.pod.uid}]

    def log(self, job: SiteJob) -> str:
        """Return the end of the log of the job's program; empty if it has not run, or its pod is gone."""
        pod = job.pod
        if pod is None or not (pod.running or pod.exit is not None):
            return ""
        try:
            return self._api_of(job).log(pod.name, MAIN_CONTAINER, MAX_LOG_LINES, MAX_LOG_BYTES, _LOG_SECONDS)
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                raise
            return ""

    def _api_of(self, job: SiteJob) -> Api:
        return self._api.in_namespace(job.namespace) if self._api.namespace == ALL_NAMESPACES else self._api

    def _read_again(self, job: SiteJob) -> SiteJob:
        try:
            workflow = self._api_of(job).get(Kind.WORKFLOW, job.workflow.name)
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                raise
            return job
        pods, _ = self._api_of(job).list(Kind.POD, f"{WORKFLOW_NAME_LABEL}={job.workflow.name}", trim=trim)
        current = site_jobs([trim(workflow)], pods, self._on_parse_error)
        return current[0] if current and current[0].workflow.uid == job.workflow.uid else job
