"""Reads what an earlier run of a parent has left of a launch on the cluster, and makes this run the launch's parent.

Others may have written whatever is read: it is used only if it is what the launch's record names, and the Workflow is
taken over in the very version that was read.

An error either shows that the launch can never be taken back (``ReclaimError``), or nothing (``UndecidedError``): the
API server is away, a webhook fails, a right is missing. A right comes back and a policy is corrected, so no refusal
shows anything about the launch.
"""

import base64
from collections.abc import Callable
from typing import TypeVar

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, LACKS_PERMISSION, Meaning
from flargo.control.authority import OTHER_PARENT, MayChange, unlimited
from flargo.job.names import is_same_site, label_value, site_labels
from flargo.status import fields
from flargo.status.views import WorkflowView, is_credentials_secret, workflow_view
from flargo.terms import Label, Object, Parent

PATIENCE_SECONDS = 120.0
"""Seconds for which requests are repeated while their errors may pass. The parent launches and ends nothing
meanwhile."""
_MAX_DENIED_SECONDS = 15.0
"""The same for a missing right and rejected credentials; see flargo.control.submit."""
_BACKOFF = Backoff((0.5, 1.0, 2.0, 5.0), max_retry_after=30.0)
_MAX_CONFLICTS = 5
"""Changes of a Workflow between its read and its takeover, one after the other. Argo makes a few a minute."""
_NOT_THERE = GONE | {Meaning.INVALID_TARGET}
"""The errors that show that there is no such object."""
T = TypeVar("T")


class ReclaimError(Exception):
    """A launch cannot be taken back. The message says why, for people; it may hold text of the API server."""


class UndecidedError(ReclaimError):
    """It cannot be found out at the moment whether a launch can be taken back."""


class NotThereError(ReclaimError):
    """An object of the launch does not exist, or is another launch's; reading it again does not help."""


class Reclaimer:
    """Takes back launches of a parent's earlier run, all within the same time."""

    def __init__(
        self,
        api: Api,
        parent: Parent,
        clock: Callable[[], float],
        pause: Callable[[float], bool],
        may_change: MayChange = unlimited,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """Begin; no request is sent yet.

        Args:
            api: the client for the parent's namespace.
            parent: this run of the parent.
            clock: a monotonic clock, in seconds.
            pause: sleeps for some seconds; returns True, early if need be, when the parent shuts down.
            may_change: returns whether this parent may change the site's Workflows at this moment.
            patience_seconds: seconds from now for which requests are repeated.
        """
        self._api = api
        self._parent = parent
        self._clock = clock
        self._pause = pause
        self._may_change = may_change
        self._deadline = clock() + patience_seconds

    def read_workflow(self, name: str, attempt: str) -> WorkflowView:
        """Return a launch's Workflow.

        Raises:
            NotThereError: there is none, or it is another launch's.
            UndecidedError: it cannot be read.
        """
        return self._read_workflow(name, attempt)[0]

    def read_credentials(self, name: str, workflow: WorkflowView) -> dict[str, bytes]:
        """Return the content of a launch's credentials Secret.

        Raises:
            NotThereError: there is none.
            ReclaimError: it is another Workflow's, or damaged.
            UndecidedError: it cannot be read.
        """
        item = self._keep_trying(lambda: self._api.get(Kind.SECRET, name), "its credentials are deleted")
        if not is_credentials_secret(fields.mapping(item, "metadata"), workflow.name, workflow.uid):
            raise ReclaimError(f"Secret {name} is not that of its Workflow")
        try:
            data = fields.mapping(item, "data")
            return {str(key): base64.b64decode(value, validate=True) for key, value in data.items()}
        except (TypeError, ValueError):
            raise ReclaimError(f"the content of Secret {name} is damaged") from None

    def take(self, name: str, attempt: str) -> WorkflowView:
        """Make this run the parent of a launch's Workflow; return the Workflow.

        Raises:
            NotThereError: it does not exist any more, or is another launch's by now.
            UndecidedError: it cannot be changed.
        """
        uid = None
        for _ in range(_MAX_CONFLICTS):
            self._wait_for_site()
            view, version = self._read_workflow(name, attempt)
            if uid not in {None, view.uid}:
                raise NotThereError(self._no_workflow(name))
            uid = view.uid
            try:
                self._set_parent(view, version)
            except _ConflictError:
                self._pause(_BACKOFF.delays[0])
            else:
                return view
        raise UndecidedError(f"Workflow {name} changes faster than it can be taken over")

    def _wait_for_site(self) -> None:
        """Wait until it is certain that no other parent of the site follows its jobs: the API server may be away.

        Raises:
            UndecidedError: it is not certain in time.
        """
        while not self._may_change(is_followed=False):
            if self._clock() > self._deadline or self._pause(_BACKOFF.delays[1]):
                raise UndecidedError(OTHER_PARENT)

    def _set_parent(self, workflow: WorkflowView, version: str) -> None:
        labels = {Label.PARENT.value: label_value(self._parent.epoch)}
        patch = {"metadata": {"uid": workflow.uid, "resourceVersion": version, "labels": labels}}
        name = workflow.name

        def change() -> Object:
            try:
                return self._api.merge(Kind.WORKFLOW, name, patch)
            except ApiError as error:
                if error.meaning is Meaning.NOT_FOUND:
                    raise _ConflictError from error  # A webhook may have answered; a read shows what there is.
                raise

        self._keep_trying(change, self._no_workflow(name))

    def _read_workflow(self, name: str, attempt: str) -> tuple[WorkflowView, str]:
        """Return a Workflow, and its version as it was read."""
        item = self._keep_trying(lambda: self._api.get(Kind.WORKFLOW, name), self._no_workflow(name))
        labels = {
            key: text for key, text in fields.mapping(item, "metadata", "labels").items() if isinstance(text, str)
        }
        view = next(fields.parse_each([item], workflow_view), None)
        is_own = is_same_site(labels, site_labels(self._parent))
        if view is None or view.name != name or view.attempt != attempt or not view.uid or not is_own:
            raise NotThereError(f"Workflow {name} is not the one that was launched")
        return view, fields.text(item, "metadata", "resourceVersion")

    def _no_workflow(self, name: str) -> str:
        """Return what to say if there is no Workflow: somebody may have changed the launcher's namespace."""
        return f"its Workflow {name} does not exist in namespace {self._api.namespace}"

    def _keep_trying(self, request: Callable[[], T], if_missing: str) -> T:
        """Send a request, and repeat it while its error may pass.

        Args:
            request: the request.
            if_missing: why the launch cannot be taken back if the object does not exist.

        Raises:
            _ConflictError: the object has changed since it was read.
            NotThereError: the object does not exist, or can have no such name.
            UndecidedError: the request has failed.
        """
        failures, deadline = 0, self._deadline
        while True:
            try:
                return request()
            except ApiError as error:
                if error.meaning is Meaning.CONFLICT:
                    raise _ConflictError from error
                if error.meaning in _NOT_THERE:
                    raise NotThereError(if_missing) from error
                is_denied = error.meaning in LACKS_PERMISSION
                deadline = min(deadline, self._clock() + _MAX_DENIED_SECONDS) if is_denied else self._deadline
                failures += 1
                gap = _BACKOFF.seconds(failures, retry_after=error.retry_after)
                if not (error.is_transient or is_denied) or self._clock() + gap > deadline or self._pause(gap):
                    raise UndecidedError(str(error)) from error


class _ConflictError(Exception):
    """The object has changed since it was read."""
