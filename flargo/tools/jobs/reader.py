"""Where what is known of jobs comes from: a cluster, or whatever else keeps Workflows."""

from collections.abc import Sequence
from typing import Protocol

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.job.names import label_value
from flargo.status.diagnosis import Stage
from flargo.terms import WORKFLOW_NAME_LABEL, Label, Object
from flargo.tools.jobs.selection import NotFoundError, chosen
from flargo.tools.jobs.site_job import SiteJob, selector, site_jobs, trim, with_events

SLOW = frozenset({Stage.STARTING, Stage.PULLING})
"""Where events tell more than the pod itself."""


class Reader(Protocol):
    """Tells of jobs."""

    @property
    def where(self) -> str:
        """Where a job would be, if it were there: for people."""

    @property
    def trouble(self) -> str:
        """What could not be read, and what to do, in a sentence; empty: nothing."""

    def parts(self, labels: str) -> list[SiteJob]:
        """Those that a label selector matches."""

    def settled(self, part: SiteJob) -> SiteJob:
        """A part that a fresh read bears out: see ``Part.is_unsure``."""

    def events(self, part: SiteJob) -> Sequence[Object]:
        """What was reported of a part's pod, as it is on the wire."""


def find(reader: Reader, word: str, site: str | None = None) -> list[SiteJob]:
    """The parts of the job that a word names; see ``find.chosen``.

    Raises:
        NotFoundError: there is none, or more than one.
    """
    whole = reader.parts(f"{selector()},{Label.JOB_ID}={label_value(word)}")
    known = whole or reader.parts(selector())
    try:
        found = chosen(word, known, site, reader.where)
    except NotFoundError as error:
        if reader.trouble:
            raise NotFoundError(f"{error}; {reader.trouble}") from None
        raise
    return [reader.settled(part) for part in found]


class ClusterReader:
    """Reads a cluster. Its methods raise ApiError."""

    where = "on the cluster"
    trouble = ""

    def __init__(self, api: Api) -> None:
        """Read a namespace."""
        self._api = api
        self._on_parse_error = ParseErrorLog()

    def parts(self, labels: str) -> list[SiteJob]:
        """See Reader."""
        workflows, _ = self._api.list(Kind.WORKFLOW, labels, trim=trim)
        pods, _ = self._api.list(Kind.POD, labels, trim=trim)
        return site_jobs(workflows, pods, self._on_parse_error)

    def settled(self, part: SiteJob) -> SiteJob:
        """See Reader; asked as the launcher asks. How far a pod's start is, only its events tell."""
        if part.is_unsure:
            part = self._afresh(part)
        if part.stage in SLOW and part.reason is None:
            return with_events(part, self.events(part))
        return part

    def events(self, part: SiteJob) -> Sequence[Object]:
        """See Reader."""
        if part.pod is None:
            return ()
        found, _ = self._api.list(Kind.EVENT, fields=f"involvedObject.kind=Pod,involvedObject.name={part.pod.name}")
        return [event for event in found if (event.get("involvedObject") or {}).get("uid") in {None, part.pod.uid}]

    def _afresh(self, part: SiteJob) -> SiteJob:
        try:
            workflow = self._api.get(Kind.WORKFLOW, part.workflow.name)
        except ApiError as error:
            if not error.not_found:
                raise
            return part
        pods, _ = self._api.list(Kind.POD, f"{WORKFLOW_NAME_LABEL}={part.workflow.name}", trim=trim)
        again = site_jobs([trim(workflow)], pods, self._on_parse_error)
        return again[0] if again and again[0].workflow.uid == part.workflow.uid else part
