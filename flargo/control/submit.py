"""The submit of a plan: its requests one after the other, safe to interrupt at any point.

The Workflow is created suspended, so that it can own its credentials Secret from the start. Then the Secret is created,
and the Workflow is released. If the process dies in between, the suspended Workflow runs nothing, and deleting it
deletes the Secret. Every request may be repeated, so a lost response does no harm.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, LACKS_PERMISSION, Meaning
from flargo.job.names import is_same_site
from flargo.status.fields import parse_each
from flargo.status.views import PodView, is_credentials_secret, pod_view, strip_unused_fields, uid_of
from flargo.terms import (
    ARGO_API_VERSION,
    GROUP,
    MANAGER,
    WORKFLOW_NAME_LABEL,
    Annotation,
    Credentials,
    Label,
    Object,
    Plan,
    SecretData,
    Uid,
)

DIGEST_ANNOTATION = f"{GROUP}/digest"
"""Annotation on the startup Secret with a hash of its content."""
_BACKOFF = Backoff((0.2, 0.5, 1.0, 2.0, 4.0), max_retry_after=30.0)
"""The delays between the tries of one request."""
_MAX_DENIED_SECONDS = 15.0
"""Seconds for which a missing right and rejected credentials are retried. An API server that has just started has not
loaded its roles yet, and one that cannot reach its authenticator, or does not know a new key yet, rejects any token."""
_SITE_LABELS = (Label.MANAGED_BY, Label.FEDERATION, Label.SITE)
"""Labels that identify the site of a Workflow or Secret, whichever run of the parent created it."""
WITHDRAWN = "the job was ended before it was submitted"
"""The error of a submit that FLARE has ended."""
POD_POLL_SECONDS = 1.0
"""Seconds between two looks whether the pods of an earlier launch are gone."""
T = TypeVar("T")


class SubmitError(Exception):
    """The plan could not be submitted. The message is for people."""


@dataclass(frozen=True, slots=True)
class Created:
    """The objects of a launch whose Workflow is not released yet; nothing of the startup kit."""

    name: str
    """The name of the Workflow."""
    uid: Uid
    """The uid of the Workflow."""
    secret_uid: Uid | None
    """The uid of the credentials Secret; None if the response that contains it was lost."""
    labels: Mapping[str, str]
    """The labels of the Workflow."""
    grace: int
    """Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """Submits one plan: creates its objects and releases its Workflow."""

    api: Api
    pause: Callable[[float], bool]
    """Sleeps for the given seconds; returns True, early if need be, once the job was cancelled."""
    clock: Callable[[], float]
    """Returns the current time in seconds, on a monotonic clock."""
    deadline: float
    """Time on that clock after which a failed request is no longer retried."""
    begin_create: Callable[[], bool] = lambda: True
    """Called before each request that may create the Workflow; returns False if the launch has been withdrawn. Until it
    has returned True once, nothing of the job can exist."""
    on_created: Callable[[Object], None] = lambda _: None
    """Called with the Workflow as the API server has stored it, before the Workflow is released."""
    on_failure: Callable[[str], None] = lambda _: None
    """Called with the error of each request that is retried."""
    may_have_other_pods: Callable[[str, Uid], bool] = lambda *_: False
    """Returns whether there may be pods of other Workflows of this name than the one with this uid; does no I/O."""

    def run(self, plan: Plan) -> Uid | None:
        """Create the plan's objects, and release the Workflow; wait for the pods of earlier launches on this thread.

        Returns:
            The uid of the credentials Secret; None if the response that contains it was lost.

        Raises:
            SubmitError: see ``create`` and ``release``.
        """
        created = self.create(plan)
        while not self.release(created):
            self.pause(POD_POLL_SECONDS)
        return created.secret_uid

    def create(self, plan: Plan) -> Created:
        """Create the plan's objects.

        Raises:
            SubmitError: a request failed for good, or the job was cancelled. A suspended Workflow may remain, which the
                reconciler then deletes.
        """
        self._ensure_startup(plan)
        uid = self._create_workflow(plan)
        self._delete_replaced(plan)
        return Created(plan.name, uid, self._create_credentials(plan, uid), _labels(plan.workflow), plan.grace)

    def release(self, created: Created) -> bool:
        """Release the Workflow. If pods of an earlier launch are left, delete them and return False instead.

        Argo finds a step's pod by its name. It would take an earlier pod, with its exit, for the new Workflow's.

        Raises:
            SubmitError: see ``create``; or the deadline has passed, and the pods are still there.
        """
        if self.may_have_other_pods(created.name, created.uid):
            pods = self._keep_trying(lambda: self._list_other_pods(created))
            for pod in pods:
                if not pod.deleting:
                    self._keep_trying(partial(self._delete_pod, pod, created.grace))
            if pods and self.clock() + POD_POLL_SECONDS > self.deadline:
                names = ", ".join(pod.name for pod in pods)
                raise SubmitError(f"pods of an earlier launch of this job do not end: {names}")
            if pods:
                return False
        self._keep_trying(lambda: self._release(created))
        return True

    def _ensure_startup(self, plan: Plan) -> None:
        """Create the startup kit's Secret, which the site's jobs share, or replace it if its content differs."""
        manifest = _secret(plan, plan.startup)
        digest = _digest(plan.startup)
        manifest["metadata"]["annotations"] = {DIGEST_ANNOTATION: digest}

        def ensure() -> None:
            try:
                existing = self.api.get(Kind.SECRET, plan.startup.name)
            except ApiError as error:
                if error.meaning is not Meaning.NOT_FOUND:
                    raise
                _create_or_ignore(lambda: self.api.create(Kind.SECRET, manifest))
                return
            if (existing["metadata"].get("annotations") or {}).get(DIGEST_ANNOTATION) != digest:
                _retry_step_if_changed(lambda: self.api.replace(Kind.SECRET, manifest))

        self._keep_trying(ensure)

    def _create_workflow(self, plan: Plan) -> Uid:
        def create() -> Object:
            if not self.begin_create():
                raise SubmitError(WITHDRAWN)
            try:
                return self.api.create(Kind.WORKFLOW, plan.workflow)
            except ApiError as error:
                if error.meaning is not Meaning.EXISTS:
                    raise
                return self._take_over(plan)

        workflow = self._keep_trying(create)
        self.on_created(workflow)
        return Uid(workflow["metadata"]["uid"])

    def _take_over(self, plan: Plan) -> Object:
        """Return the existing Workflow of the plan's name if an earlier try of this launch created it."""
        existing = _retry_step_if_changed(lambda: self.api.get(Kind.WORKFLOW, plan.name))
        meta = existing["metadata"]
        if (meta.get("annotations") or {}).get(Annotation.ATTEMPT) == plan.attempt:
            return existing
        phase = (existing.get("status") or {}).get("phase", "")
        labels = meta.get("labels") or {}
        is_own = is_same_site(labels, _labels(plan.workflow))
        if is_own and phase in {"Succeeded", "Failed", "Error"}:
            # An earlier launch of the same job has completed. Its Workflow is deleted, and the create is retried.
            _retry_step_if_changed(lambda: self.api.delete(Kind.WORKFLOW, plan.name, Uid(meta["uid"])))
            raise _conflict("create", f"workflows {plan.name}", "an earlier launch is being deleted")
        if is_own:
            # No launch follows it: another run of this parent left it, or somebody has started it again. The reconciler
            # is ending it, so the create is retried.
            raise _conflict("create", f"workflows {plan.name}", "an orphan of that name is being ended")
        owner = labels.get(Label.PARENT, "an unknown parent")
        raise SubmitError(
            f"Workflow {plan.name} already exists and is not this site's ({phase or 'not started'}); created by {owner}"
        )

    def _delete_replaced(self, plan: Plan) -> None:
        """Delete the credentials of the attempt before this one, as late as possible."""
        replaced = plan.replaces
        if replaced is not None:
            self._keep_trying(lambda: delete_credentials(self.api, replaced))

    def _create_credentials(self, plan: Plan, uid: Uid) -> Uid | None:
        secret = _secret(plan, plan.credentials)
        secret["metadata"]["ownerReferences"] = [
            {"apiVersion": ARGO_API_VERSION, "kind": "Workflow", "name": plan.name, "uid": uid}
        ]
        # The name contains the attempt, so a Secret that exists already was created by an earlier try of this launch.
        created = self._keep_trying(lambda: _create_or_ignore(lambda: self.api.create(Kind.SECRET, secret)))
        return uid_of(created) if created is not None else None

    def _list_other_pods(self, created: Created) -> list[PodView]:
        selector = f"{WORKFLOW_NAME_LABEL}={created.name},{Label.MANAGED_BY}={MANAGER}"
        items, _ = self.api.list(Kind.POD, labels=selector, trim=strip_unused_fields)
        own = [item for item in items if _is_own_pod(item, created)]
        pods = [*parse_each(own, pod_view, lambda *_: None)]
        if len(pods) < len(own):
            # A pod that cannot be parsed exists nevertheless.
            raise _conflict("list", f"pods of {created.name}", "a pod could not be parsed")
        return [pod for pod in pods if pod.owner_uid != created.uid]

    def _delete_pod(self, pod: PodView, grace: int) -> None:
        try:
            self.api.delete(Kind.POD, pod.name, pod.uid, grace)
        except ApiError as error:
            if error.meaning not in GONE:
                raise

    def _release(self, created: Created) -> None:
        try:
            self.api.merge(Kind.WORKFLOW, created.name, release_patch(created.uid))
        except ApiError as error:
            # Somebody has deleted the Workflow, or created another of its name. The submit itself has succeeded, and
            # the reconciler will observe the deletion.
            if error.meaning not in GONE:
                raise

    def _keep_trying(self, request: Callable[[], T]) -> T:
        """Retry a request with backoff while its error may pass, until the deadline."""
        failures, deadline = 0, self.deadline
        while True:
            if self.pause(0.0):
                raise SubmitError(WITHDRAWN)
            try:
                return request()
            except ApiError as error:
                is_denied = error.meaning in LACKS_PERMISSION
                denied_until = min(deadline, self.clock() + _MAX_DENIED_SECONDS)
                deadline = denied_until if is_denied else self.deadline
                failures += 1
                gap = _BACKOFF.seconds(failures, retry_after=error.retry_after)
                if not (error.is_transient or is_denied) or self.clock() + gap > deadline:
                    raise SubmitError(str(error)) from error
                self.on_failure(str(error))
                self.pause(gap)


def delete_credentials(api: Api, credentials: Credentials) -> bool:
    """Delete a Workflow's credentials Secret, if it still exists. Return False if it has another owner, and is kept.

    Raises:
        ApiError: a request has failed.
    """
    try:
        meta = api.metadata(Kind.SECRET, credentials.secret)
        if not is_credentials_secret(meta, credentials.workflow, credentials.workflow_uid):
            return False
        api.delete(Kind.SECRET, credentials.secret, uid_of({"metadata": meta}))
    except ApiError as error:
        if error.meaning not in GONE:
            raise
    return True


def release_patch(uid: Uid) -> Object:
    """Return the patch that releases a suspended Workflow, and notes that it was released."""
    annotations = {Annotation.RELEASED.value: "true"}
    return {"metadata": {"uid": uid, "annotations": annotations}, "spec": {"suspend": False}}


def _labels(item: Object) -> dict[str, str]:
    return item["metadata"].get("labels") or {}


def _is_own_pod(item: Object, created: Created) -> bool:
    """Return whether a pod is this site's, and belongs to a Workflow of the launch's name, or to nothing any more."""
    owners = item["metadata"].get("ownerReferences") or ()
    is_workflows = all(owner.get("kind") == "Workflow" and owner.get("name") == created.name for owner in owners)
    return is_workflows and is_same_site(_labels(item), created.labels)


def _create_or_ignore(create: Callable[[], Object]) -> Object | None:
    """Return the created object, or None if an object of its name exists already."""
    try:
        return create()
    except ApiError as error:
        if error.meaning is not Meaning.EXISTS:
            raise
        return None


def _retry_step_if_changed(request: Callable[[], T]) -> T:
    """Send a request. If its object was deleted or changed meanwhile, raise an error that retries the whole step."""
    try:
        return request()
    except ApiError as error:
        if error.meaning in GONE:
            raise _conflict(error.verb, error.what, "it changed meanwhile") from error
        raise


def _conflict(verb: str, what: str, message: str) -> ApiError:
    """Return an error after which the step is tried again."""
    return ApiError(verb, what, 0, message=message, own_meaning=Meaning.CONFLICT)


def _secret(plan: Plan, content: SecretData) -> Object:
    labels = _labels(plan.workflow)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": content.name,
            "namespace": plan.namespace,
            "labels": {key: value for key, value in labels.items() if key in _SITE_LABELS},
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in content.data.items()},
    }


def _digest(content: SecretData) -> str:
    digest = hashlib.sha256()
    for key in sorted(content.data):
        digest.update(f"{key}\0{len(content.data[key])}\0".encode())
        digest.update(content.data[key])
    return digest.hexdigest()[:32]
