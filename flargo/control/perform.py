"""Performing a command: the request to the API server, and its result as inputs of the Reconciler."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, NO_CONTACT, Meaning
from flargo.control.authority import MayChange, unlimited
from flargo.control.command import Command
from flargo.control.described_patch import merge_described, merge_provisional
from flargo.control.end_description import with_message
from flargo.control.inputs import CommandDone, ObjectsRead, PodEventsRead, SiteInput, Unanswered
from flargo.control.submit import delete_credentials, release_patch
from flargo.job.names import display_text, label_value
from flargo.status import fields
from flargo.status.job_state import CONFIRM, ActionKind
from flargo.status.views import uid_of
from flargo.terms import WORKFLOW_NAME_LABEL, Annotation, Credentials, Label, Object

MAX_ENDING_DETAIL_LENGTH = 500
"""Maximum characters of the annotation that explains for which reason a job was ended, whoever ended it."""
_NOTHING_LEFT = GONE | {Meaning.INVALID_TARGET}
"""The errors after which a command is done: its object is gone, or no object can have such a name."""
_PATCHES_OF_A_JOB = frozenset({ActionKind.RELEASE, ActionKind.RESUME, ActionKind.TOUCH, ActionKind.SHUTDOWN})
"""The changes of a Workflow that the job goes on from: if there is none to change, a fresh read shows what there is."""
_MAX_CONFLICTS = 5
"""Changes of a Workflow between its read and its patch, one after the other, after which a command has failed."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Performer:
    """Performs commands, on whatever thread it is called. It keeps no state."""

    api: Api
    redact: Callable[[str], str] = lambda text: text
    """Removes secrets from a text that others will read."""
    is_watch_lost: Callable[[], bool] = lambda: False
    """Returns whether a watch is out of sync, which was logged."""
    may_change: MayChange = unlimited
    """Returns whether this parent may change a job's objects. Asked before each request that does."""
    is_certain: Callable[[], bool] = lambda: True
    """Returns whether it is certain that no other parent has taken over the jobs that this one follows."""
    epoch: str = ""
    """The epoch of this run of the parent."""
    clock: Callable[[], float] = time.monotonic

    def perform(self, command: Command) -> tuple[SiteInput, ...]:
        """Perform a command; return what the Reconciler must be told. Whatever happens, one input is its result."""
        began_at = self.clock()
        try:
            return self._answer(command)
        except ApiError as error:
            ok = error.meaning in _NOTHING_LEFT
            if not ok:
                # While a watch is lost, or something else answers than the API server, that is logged once; the retries
                # of a thousand jobs add nothing.
                is_logged = self.is_watch_lost() or error.is_foreign
                is_quiet = is_logged or command.action.kind is ActionKind.MARK_CLEARED
                level = logging.DEBUG if is_quiet else logging.WARNING
                _log.log(level, "%s: failed to %s: %s", command.name, command.action.kind.value, error)
            unanswered = () if error.meaning not in NO_CONTACT else (Unanswered(command, began_at),)
            return (*unanswered, CommandDone(command, ok))
        except Exception:  # noqa: BLE001
            # Whatever the error is, a command without a result would never be retried.
            _log.exception("%s: failed to %s", command.name, command.action.kind.value)
            return (CommandDone(command, ok=False),)

    def _answer(self, command: Command) -> tuple[SiteInput, ...]:
        try:
            return (self._request(command),)
        except ApiError as error:
            if error.meaning not in GONE or command.action.kind not in _PATCHES_OF_A_JOB:
                raise
        # The Workflow is gone, and a watch has missed it or has not shown it yet; or a webhook has answered. Otherwise
        # the patch would be repeated for ever.
        read = self._read_objects(replace(command, action=CONFIRM))
        exists = read.workflow is not None and uid_of(read.workflow) == command.object_uid
        return CommandDone(command, ok=not exists), read

    def _request(self, command: Command) -> SiteInput:
        match command.action.kind:
            case ActionKind.CONFIRM:
                return self._read_objects(command)
            case ActionKind.LIST_EVENTS:
                about_pod = f"involvedObject.kind=Pod,involvedObject.name={command.pod_name}"
                events, _ = self.api.list(Kind.EVENT, fields=about_pod)
                return PodEventsRead(command, tuple(events))
            case _:
                return CommandDone(command, ok=self._change(command))

    def _change(self, command: Command) -> bool:
        """Perform a command that changes or deletes an object, if this parent may; return whether it did.

        Another parent that takes the Workflow back, or Argo, may change it after it was read to find that out.
        """
        for _ in range(_MAX_CONFLICTS):
            version = self._version_to_change(command)
            if version is None:
                return False
            try:
                self._write(command, version)
            except ApiError as error:
                if not version or error.meaning is not Meaning.CONFLICT:
                    raise
            else:
                return True
        return False

    def _version_to_change(self, command: Command) -> str | None:
        """Return the version of the Workflow that a command may change; "" is any, and None is none at all.

        Another parent may have taken back the jobs that this one follows: a parent that was cut off or suspended learns
        that it has lost the Lease only by its next look at it. The other one writes its epoch into each Workflow that
        it takes back, so the Workflow itself tells.
        """
        is_followed = command.key == command.name  # An orphan's key is its Workflow's uid.
        if not self.may_change(is_followed=is_followed):
            return None
        if self.is_certain():
            return ""
        try:
            workflow = self.api.get(Kind.WORKFLOW, command.name)
        except ApiError as error:
            if error.meaning is Meaning.NOT_FOUND:
                return ""  # Nobody has taken it back, and what is left of it has no other owner.
            raise
        is_own = fields.text(workflow, "metadata", "labels", Label.PARENT.value) == label_value(self.epoch)
        return fields.text(workflow, "metadata", "resourceVersion") if is_own else None

    def _write(self, command: Command, version: str) -> None:
        """Send the request of a command that changes or deletes an object.

        Args:
            command: the command.
            version: the only version of the Workflow that a patch may change; empty: any.
        """
        match command.action.kind:
            case ActionKind.DELETE_WORKFLOW:
                self.api.delete(Kind.WORKFLOW, command.name, command.object_uid)
            case ActionKind.DELETE_POD:
                self.api.delete(Kind.POD, command.pod_name, command.object_uid, command.grace)
            case ActionKind.DELETE_SECRET:
                self._delete_secret(command)
            case _:
                description = command.description
                if description:
                    description = with_message(description, self.redact(command.detail))
                patch = self._patch(command)
                if version:
                    patch["metadata"] |= {"resourceVersion": version}
                merge = merge_provisional if command.is_provisional else merge_described
                merge(self.api, command.name, patch, description)

    def _patch(self, command: Command) -> Object:
        """Return the merge patch of a command that changes the Workflow. The uid guards it."""
        uid = command.object_uid
        match command.action.kind:
            case ActionKind.RELEASE:
                return release_patch(uid)
            case ActionKind.RESUME:
                return {"metadata": {"uid": uid}, "spec": {"suspend": False}}
            case ActionKind.SHUTDOWN:
                # Argo ignores the shutdown of a Workflow that is suspended.
                return {**self._reason_patch(command), "spec": {"shutdown": "Terminate", "suspend": False}}
            case ActionKind.NOTE_REASON:
                return self._reason_patch(command)
            case ActionKind.TOUCH:
                return {"metadata": {"uid": uid, "annotations": {Annotation.NUDGED.value: str(time.time())}}}
            case ActionKind.MARK_CLEARED:
                return {"metadata": {"uid": uid, "annotations": {Annotation.CLEARED.value: "true"}}}
            case _:
                raise AssertionError(command.action)

    def _read_objects(self, command: Command) -> ObjectsRead:
        """Read a Workflow, which need not exist, and its pods."""
        workflow: Object | None
        try:
            workflow = self.api.get(Kind.WORKFLOW, command.name)
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                raise
            workflow = None
        pods, _ = self.api.list(Kind.POD, labels=f"{WORKFLOW_NAME_LABEL}={command.name}")
        return ObjectsRead(command, workflow, tuple(pods))

    def _delete_secret(self, command: Command) -> None:
        """Delete the credentials Secret by its uid; without a uid, only if its owner is the job's Workflow."""
        if command.action.uid is not None:
            self.api.delete(Kind.SECRET, command.secret_name, command.action.uid)
        elif not delete_credentials(self.api, Credentials(command.secret_name, command.name, command.workflow_uid)):
            _log.warning("%s: Secret %s has another owner and is not deleted", command.name, command.secret_name)

    def _reason_patch(self, command: Command) -> Object:
        """Return the patch that records why a job ends or has ended."""
        annotations = {
            Annotation.ENDING.value: command.end_reason.name if command.end_reason else "",
            Annotation.ENDING_DETAIL.value: display_text(self.redact(command.detail), MAX_ENDING_DETAIL_LENGTH),
        }
        return {
            "metadata": {
                "uid": command.action.uid,
                "annotations": {key: value for key, value in annotations.items() if value},
            },
        }
