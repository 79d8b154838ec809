"""Put a plan on the cluster: straight-line, and safe to break off at any point.

The Workflow is created suspended, so that it can own its Secret from the start; the Secret is created owned
by it; then the Workflow is released. Whatever dies in between leaves a suspended Workflow that runs nothing
and that takes its Secret with it. Every request may be repeated, so a lost answer costs nothing.
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.job.names import is_same_site
from flargo.status.views import uid_of
from flargo.terms import ARGO_API_VERSION, GROUP, Annotation, Label, Object, Plan, SecretData, Uid

DIGEST_ANNOTATION = f"{GROUP}/digest"
"""Annotation of the startup Secret: a hash of its content."""
_BACK_OFF = (0.2, 0.5, 1.0, 2.0, 4.0)
_ASKED = 30.0
"""Seconds of patience with a server that asks for some, at most: a gateway before it may ask for hours, and be back in
a moment."""
_BARRED = 15.0
"""Seconds for which a right may be missing: an API server that has just started has not read its roles yet."""
_SITE = (Label.MANAGED_BY, Label.FEDERATION, Label.SITE)
"""What tells whose a Workflow or Secret is, whichever run of the parent made it."""
T = TypeVar("T")


class SubmitError(Exception):
    """The plan could not be put on the cluster. The message is for people."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """How a plan is put on the cluster."""

    api: Api
    pause: Callable[[float], bool]
    """Sleep so many seconds; True: the job is no longer wanted."""
    clock: Callable[[], float]
    deadline: float
    """When to give up on an API server that does not answer, by the clock."""

    def run(self, plan: Plan) -> Uid | None:
        """Create what the plan says, and release it.

        Returns:
            The uid of the credentials Secret; None: the answer that would have told it was lost.

        Raises:
            SubmitError: it could not be done, or is no longer wanted. A suspended Workflow may be left for the
                life of the job to discard.
        """
        self._ensure_startup(plan)
        uid = self._create_workflow(plan)
        credentials = self._create_credentials(plan, uid)
        self._keep_trying(lambda: self._release(plan, uid))
        return credentials

    def _ensure_startup(self, plan: Plan) -> None:
        """The startup kit's Secret is shared by the jobs of a site and written only when it differs or is gone."""
        wanted = _secret(plan, plan.startup)
        digest = _digest(plan.startup)
        wanted["metadata"]["annotations"] = {DIGEST_ANNOTATION: digest}

        def ensure() -> None:
            try:
                found = self.api.get(Kind.SECRET, plan.startup.name)
            except ApiError as error:
                if not error.not_found:
                    raise
                _tolerate_conflict(lambda: self.api.create(Kind.SECRET, wanted))
                return
            if (found["metadata"].get("annotations") or {}).get(DIGEST_ANNOTATION) != digest:
                _retried(lambda: self.api.replace(Kind.SECRET, wanted))

        self._keep_trying(ensure)

    def _create_workflow(self, plan: Plan) -> Uid:
        def create() -> Uid:
            try:
                return Uid(self.api.create(Kind.WORKFLOW, plan.workflow)["metadata"]["uid"])
            except ApiError as error:
                if not error.conflict:
                    raise
                return self._take_over(plan)

        return self._keep_trying(create)

    def _take_over(self, plan: Plan) -> Uid:
        """There is a Workflow of that name: ours, if the answer to our create was lost."""
        found = _retried(lambda: self.api.get(Kind.WORKFLOW, plan.name))
        meta = found["metadata"]
        if (meta.get("annotations") or {}).get(Annotation.ATTEMPT) == plan.attempt:
            return Uid(meta["uid"])
        phase = (found.get("status") or {}).get("phase", "")
        if phase in {"Succeeded", "Failed", "Error"}:
            # An earlier launch of the same job, finished: make room, and come back for the name.
            _retried(lambda: self.api.delete(Kind.WORKFLOW, plan.name, Uid(meta["uid"])))
            raise ApiError("create", f"workflows {plan.name}", 503, message="an earlier launch is being deleted")
        labels = meta.get("labels") or {}
        ours = plan.workflow["metadata"]["labels"]
        owner = labels.get(Label.PARENT, "nobody known")
        if is_same_site(labels, ours) and owner != ours.get(Label.PARENT):
            # Left behind by another run of this very parent: it is being ended.
            raise ApiError("create", f"workflows {plan.name}", 503, message="an orphan of that name is being ended")
        raise SubmitError(
            f"Workflow {plan.name} is already there, not finished ({phase or 'not started'}), made by {owner}"
        )

    def _create_credentials(self, plan: Plan, uid: Uid) -> Uid | None:
        secret = _secret(plan, plan.credentials)
        secret["metadata"]["ownerReferences"] = [
            {"apiVersion": ARGO_API_VERSION, "kind": "Workflow", "name": plan.name, "uid": uid}
        ]
        # Its name carries the attempt, so one that is there already is our own.
        made = self._keep_trying(lambda: _tolerate_conflict(lambda: self.api.create(Kind.SECRET, secret)))
        return uid_of(made) if made is not None else None

    def _release(self, plan: Plan, uid: Uid) -> None:
        note = {Annotation.RELEASED.value: "true"}
        release: Object = {"metadata": {"uid": uid, "annotations": note}, "spec": {"suspend": False}}
        try:
            self.api.merge(Kind.WORKFLOW, plan.name, release)
        except ApiError as error:
            # Gone, or its name is another's: it could be launched, and somebody deleted it. The life will see that.
            if not (error.not_found or error.conflict):
                raise

    def _keep_trying(self, request: Callable[[], T]) -> T:
        failures, limit = 0, self.deadline
        while True:
            if self.pause(0.0):
                raise SubmitError("the job was ended before it was submitted")
            try:
                return request()
            except ApiError as error:
                limit = min(limit, self.clock() + _BARRED) if error.lacks_permission else self.deadline
                gap = max(_BACK_OFF[min(failures, len(_BACK_OFF) - 1)], min(error.retry_after or 0.0, _ASKED))
                if not (error.transient or error.lacks_permission) or self.clock() + gap > limit:
                    raise SubmitError(str(error)) from error
                failures += 1
                self.pause(gap)


def _tolerate_conflict(create: Callable[[], Object]) -> Object | None:
    """What was created; None: it was there already."""
    try:
        return create()
    except ApiError as error:
        if not error.conflict:
            raise
        return None


def _retried(request: Callable[[], T]) -> T:
    """A request after which, if its object has just gone or changed, the whole step is to be tried again."""
    try:
        return request()
    except ApiError as error:
        if error.not_found or error.conflict:
            raise ApiError(error.verb, error.what, 503, error.reason, "it changed meanwhile") from error
        raise


def _secret(plan: Plan, content: SecretData) -> Object:
    labels = plan.workflow["metadata"].get("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": content.name,
            "namespace": plan.namespace,
            "labels": {key: value for key, value in labels.items() if key in _SITE},
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
