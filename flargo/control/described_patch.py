"""Changing a Workflow's description together with something that matters, in one request."""

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.terms import Annotation, Object

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
