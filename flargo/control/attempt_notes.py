"""What people can read on the cluster about the attempts of a job: Events of its Workflows, and the job's verdict.

Nothing depends on these notes. A note that is refused or lost is not repeated.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, Meaning
from flargo.control.described_patch import merge_described
from flargo.control.end_description import describe_end, with_message
from flargo.job.names import display_text
from flargo.status.verdict import Verdict
from flargo.status.views import WorkflowView
from flargo.terms import ARGO_API_VERSION, MANAGER, Annotation, Object

MAX_MESSAGE_LENGTH = 1000
"""Maximum characters of an Event's message, of which Kubernetes allows 1024 bytes (apimachinery, NoteLengthLimit), and
of the detail of a verdict."""
_log = logging.getLogger(__name__)


class EventReason(StrEnum):
    """The reasons of flargo's Events. People filter by them."""

    LOST = "AttemptLost"
    STARTED = "AttemptStarted"

    @property
    def type(self) -> str:
        """The Event's type."""
        return "Warning" if self is EventReason.LOST else "Normal"


def build_event(
    workflow: WorkflowView, namespace: str, reason: EventReason, message: str, event_id: str, now: datetime
) -> Object:
    """Return an Event (v1) about a Workflow.

    Args:
        workflow: the Workflow.
        namespace: the Workflow's namespace.
        reason: the Event's reason.
        message: public text.
        event_id: makes the Event's name unique.
        now: when it happened.
    """
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{workflow.name}.{event_id}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": ARGO_API_VERSION,
            "kind": "Workflow",
            "namespace": namespace,
            "name": workflow.name,
            "uid": workflow.uid,
        },
        "reason": reason.value,
        "type": reason.type,
        "message": _limit_bytes(display_text(message, MAX_MESSAGE_LENGTH)),
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def build_verdict_patch(workflow: WorkflowView, verdict: Verdict, detail: str) -> Object:
    """Return the merge patch that notes on a Workflow how its job has ended. The uid guards it."""
    annotations = {Annotation.VERDICT.value: verdict.reason.name}
    if detail:
        annotations[Annotation.VERDICT_DETAIL.value] = display_text(detail, MAX_MESSAGE_LENGTH)
    return {"metadata": {"uid": workflow.uid, "annotations": annotations}}


class AttemptNotes:
    """Writes the notes of one parent. Its methods wait for the API server, and raise nothing."""

    def __init__(self, api: Api, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Write to the namespace of ``api``."""
        self._api = api
        self._clock = clock
        self._is_missing_right_logged = False

    def announce(self, workflow: WorkflowView, reason: EventReason, message: str) -> None:
        """Create an Event about a Workflow, if the parent's account has the right to."""
        if not (workflow.name and workflow.uid):
            return
        event = build_event(workflow, self._api.namespace, reason, message, secrets.token_hex(8), self._clock())
        try:
            self._api.create(Kind.EVENT, event)
        except ApiError as error:
            if error.meaning is Meaning.FORBIDDEN:
                self._log_missing_right(error)
            else:
                _log.info("%s: Event %s could not be created: %s", workflow.name, reason, error)

    def note_verdict(self, workflows: Iterable[WorkflowView], verdict: Verdict, detail: str) -> None:
        """Note how a job has ended on the first of these Workflows that still exists.

        Args:
            workflows: the job's Workflows, the last one first.
            verdict: what FLARE was told.
            detail: the verdict's detail as public text.
        """
        for workflow in (each for each in workflows if each.name and each.uid):
            try:
                patch = build_verdict_patch(workflow, verdict, detail)
                merge_described(self._api, workflow.name, patch, with_message(describe_end(verdict.reason), detail))
            except ApiError as error:
                if error.meaning in GONE:
                    continue
                _log.warning("%s: the job's verdict could not be noted on the Workflow: %s", workflow.name, error)
            return

    def _log_missing_right(self, error: ApiError) -> None:
        if not self._is_missing_right_logged:
            self._is_missing_right_logged = True
            _log.info("lost attempts of jobs are not shown as Events: the right to create events is missing: %s", error)


def _limit_bytes(text: str) -> str:
    return text.encode(errors="replace")[:MAX_MESSAGE_LENGTH].decode(errors="ignore")
