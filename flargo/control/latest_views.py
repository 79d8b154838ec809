"""The latest views of the site's objects, as the two watches and fresh reads deliver them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import TypeVar

from flargo.status.views import PodView, WorkflowView, resource_version, uid_of
from flargo.terms import Object, Uid

View = TypeVar("View", WorkflowView, PodView)


class SitePods:
    """The latest view of each of the site's pods, by the name of the pod's Workflow. Any thread may read it."""

    def __init__(self) -> None:
        """Start without any pods."""
        self._by_workflow: dict[str, tuple[PodView, ...]] = {}

    def of(self, workflow_name: str) -> tuple[PodView, ...]:
        """Return the pods of all Workflows of a name."""
        return self._by_workflow.get(workflow_name, ())

    def owned_by(self, workflow: WorkflowView) -> tuple[PodView, ...]:
        """Return the pods that a Workflow owns."""
        return tuple(pod for pod in self.of(workflow.name) if pod.owner_uid == workflow.uid)

    def by_uid(self) -> dict[Uid, PodView]:
        """Return all pods by their uids."""
        return {pod.uid: pod for pods in self._by_workflow.values() for pod in pods}

    def replace_all(self, pods: Iterable[PodView]) -> None:
        """Keep only the listed pods."""
        by_workflow: dict[str, list[PodView]] = {}
        for pod in pods:
            by_workflow.setdefault(pod.workflow_name, []).append(pod)
        self._by_workflow = {name: tuple(each) for name, each in by_workflow.items()}

    def update(self, workflow_name: str, pods: Iterable[PodView]) -> None:
        """Keep what a fresh read of a Workflow's pods has shown, without the pods of exit handlers and hooks.

        Those have no owner in their views, and the watch does not deliver them.
        """
        latest_uids = {pod.uid for pod in self.of(workflow_name)}
        self._set(workflow_name, tuple(pod for pod in pods if pod.owner_uid or pod.uid in latest_uids))

    def change(self, pod: PodView, *, deleted: bool) -> None:
        """Add, update or remove a pod."""
        self._set(pod.workflow_name, merge_pod(self.of(pod.workflow_name), pod, deleted=deleted))

    def _set(self, workflow_name: str, pods: tuple[PodView, ...]) -> None:
        if pods:
            self._by_workflow[workflow_name] = pods
        else:
            self._by_workflow.pop(workflow_name, None)


def reuse_view(item: Object, latest: Mapping[Uid, View], view: Callable[[Object], View]) -> View:
    """Return the latest view of a listed object if its version is unchanged, else a new one. Lists hold thousands."""
    existing = latest.get(uid_of(item))
    return existing if existing is not None and existing.version == resource_version(item) != 0 else view(item)


def has_same_status(one: WorkflowView | None, other: WorkflowView | None) -> bool:
    """Return whether two views differ only in what people and flargo write, so that Argo has written nothing."""
    if one is None or other is None:
        return one is other
    return bool(_argo_fields(one) == _argo_fields(other))


def differs_in_notes_only(one: WorkflowView, other: WorkflowView) -> bool:
    """Return whether views differ only in annotations that no conclusion depends on; anybody may change them."""
    is_as_released = (one.released and one.suspended) == (other.released and other.suspended)
    return is_as_released and bool(_evidence(one) == _evidence(other))


def _fields_except(*names: str) -> Callable[[WorkflowView], object]:
    """Return a function that returns the compared fields of a view except for some. Copies would take longer."""
    return attrgetter(*(each.name for each in fields(WorkflowView) if each.compare and each.name not in names))


_NOTES = ("released", "cleared", "ending", "actor", "has_verdict")
"""The fields that are made from annotations and labels which anybody may write. Of these, a conclusion depends only on
``released``, and only while the Workflow is suspended."""
_evidence = _fields_except(*_NOTES)
_argo_fields = _fields_except(*_NOTES, "suspended", "shutdown", "deleting")


def is_up_to_date(
    workflow: WorkflowView | None,
    pods: Iterable[PodView],
    latest_workflow: WorkflowView | None,
    latest_pods: Iterable[PodView],
) -> bool:
    """Return whether a read shows the objects of the latest views, no other ones, and none of them in an older version.

    An object that only one of them shows was created or deleted meanwhile, and nothing tells which is newer. Pods of
    exit handlers and hooks do not count: the watch does not deliver them.
    """
    shown, latest = _versions(workflow, pods), _versions(latest_workflow, latest_pods)
    return shown.keys() == latest.keys() and all(0 < latest[uid] <= shown[uid] for uid in latest)


def _versions(workflow: WorkflowView | None, pods: Iterable[PodView]) -> dict[Uid, int]:
    versions = {pod.uid: pod.version for pod in pods if pod.owner_uid}
    return versions | ({workflow.uid: workflow.version} if workflow is not None else {})


def merge_workflow(old: WorkflowView | None, new: WorkflowView, *, deleted: bool) -> WorkflowView | None:
    """Return the newer view of a Workflow name, or None if the Workflow was deleted."""
    if old is not None and (new.version < old.version or (deleted and old.uid != new.uid)):
        return old
    return None if deleted else new


def merge_pod(pods: tuple[PodView, ...], new: PodView, *, deleted: bool) -> tuple[PodView, ...]:
    """Return the pods with one of them added, updated or removed, unless the latest view is newer."""
    old = next((pod for pod in pods if pod.uid == new.uid), None)
    if old is not None and new.version < old.version:
        return pods
    if deleted:
        return tuple(pod for pod in pods if pod is not old)
    if old is None:
        return (*pods, new)
    return tuple(new if pod is old else pod for pod in pods)
