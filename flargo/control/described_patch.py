"""Changing a Workflow's description together with something that matters, in one request.

A description is final if it tells how the whole job has ended (``AttemptNotes``), or that FLARE counts it as failed
(``StatusNotes``). What flargo knows of one Workflow's end is provisional beside it.
"""

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.status import fields
from flargo.terms import FLARE_COMPLETED, Annotation, Object

_MAX_CONFLICTS = 3
"""Changes of a Workflow between its read and its patch after which the patch is sent without the description."""
_DENIED = frozenset({Meaning.INVALID, Meaning.REFUSED})
"""The errors of a patch that an admission policy or a webhook denies."""


def merge_described(api: Api, name: str, patch: Object, description: str) -> None:
    """Send a merge patch of a Workflow with a new description. If that is denied, send the patch without it.

    A policy that was made for an earlier release denies the description, and must not keep flargo from ending a job.

    Args:
        api: the client for the Workflow's namespace.
        name: the Workflow's name.
        patch: the patch without the description. It has the Workflow's uid.
        description: the new description; empty: it stays as it is.

    Raises:
        ApiError: the error of the last request.
    """
    if description:
        annotations = {**patch["metadata"].get("annotations", {}), Annotation.DESCRIPTION.value: description}
        try:
            api.merge(Kind.WORKFLOW, name, {**patch, "metadata": {**patch["metadata"], "annotations": annotations}})
        except ApiError as error:
            if error.meaning not in _DENIED:
                raise
        else:
            return
    api.merge(Kind.WORKFLOW, name, patch)


def merge_provisional(api: Api, name: str, patch: Object, description: str) -> None:
    """Send a merge patch as ``merge_described`` does, but leave a final description as it is.

    The Workflow is read before, and the description is bound to that version of it: the final one may be written at the
    same time by another thread, and a request whose answer was lost may be carried out long after it was sent.

    Raises:
        ApiError: the error of the last request.
    """
    metadata, is_bound = patch["metadata"], "resourceVersion" in patch["metadata"]
    for _ in range(_MAX_CONFLICTS if description else 0):
        try:
            workflow = api.get(Kind.WORKFLOW, name)
        except ApiError:
            break  # The patch matters, and the description does not.
        if _has_final_description(workflow):
            break
        version = {"resourceVersion": fields.text(workflow, "metadata", "resourceVersion")}
        try:
            merge_described(api, name, {**patch, "metadata": {**version, **metadata}}, description)
        except ApiError as error:
            if is_bound or error.meaning is not Meaning.CONFLICT:
                raise
        else:
            return
    api.merge(Kind.WORKFLOW, name, patch)


def _has_final_description(workflow: Object) -> bool:
    verdict, status = (
        fields.text(workflow, "metadata", "annotations", key) for key in (Annotation.VERDICT, Annotation.FLARE_STATUS)
    )
    return bool(verdict) or status not in {"", FLARE_COMPLETED}
