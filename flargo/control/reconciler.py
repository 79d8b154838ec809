"""The reconciler of all jobs of one FLARE parent: inputs in, commands out. No threads, no I/O, no clock of its own.

``Reconciler.handle(input, now)`` is its only entry point. It keeps the latest views from the two watches (Workflows and
pods), passes each job's inputs to ``flargo.status.reconcile.reconcile``, and turns the resulting actions into commands
for flargo.control.loop.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flargo.cluster.api import Kind
from flargo.control.clocks import Clocks
from flargo.control.command import Command
from flargo.control.inputs import (
    Admitted,
    Changed,
    CommandDone,
    Contact,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    SiteInput,
    TimePassed,
    Unanswered,
    WatchLost,
    WorkflowCreated,
)
from flargo.control.timers import Timers
from flargo.job.names import credentials_secret
from flargo.status.fields import OnParseError, parse_each
from flargo.status.job_state import (
    Action,
    ActionDone,
    ActionKind,
    EventsListed,
    Input,
    JobState,
    Observed,
    Tick,
)
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.reconcile import reconcile
from flargo.status.verdict import IMPOSED_ENDS, Cause, Verdict
from flargo.status.views import (
    Observation,
    PodView,
    WorkflowView,
    event_view,
    pod_view,
    resource_version,
    uid_of,
    workflow_view,
)
from flargo.terms import Object, StartTimeouts, Uid

View = TypeVar("View", WorkflowView, PodView)
_DEFECT_RETRY_SECONDS = 30.0
"""Seconds after which a job is reconciled again whose reconciliation has raised an exception."""
_MIN_REQUEUE_SECONDS = 0.2
"""Minimum seconds between two ticks of a job: while the healthy clock stands still, a deadline comes no closer."""


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one input: the commands to perform, and the states that have changed."""

    commands: tuple[Command, ...] = ()
    states: tuple[JobState, ...] = ()


@dataclass(slots=True)
class _Tracked:
    """A job's state with the latest views of its objects."""

    state: JobState
    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    workflow_uid: Uid | None = None
    """The uid of the job's Workflow, once that was observed. Only pods that this Workflow owns belong to the job."""
    revision: int = 0
    """The number of changes that the watches have delivered."""


class Reconciler:
    """Tracks all jobs of one parent and the orphans of its earlier runs."""

    def __init__(
        self,
        has_results: Callable[[str], bool],
        now: float,
        *,
        epoch: str = "",
        grace: int = 1,
        on_parse_error: OnParseError = lambda *_: None,
        on_job_error: Callable[[str, Exception], None] = lambda *_: None,
    ) -> None:
        """Start without any jobs.

        Args:
            has_results: returns whether the results of a Workflow's job have reached the parent; does no I/O.
            now: the current time, in seconds on a monotonic clock.
            epoch: the epoch of this run of the parent. The site's Workflows of other epochs are orphans, and are ended.
            grace: seconds between SIGTERM and SIGKILL for orphans.
            on_parse_error: called with each object that could not be parsed and is skipped; does no I/O.
            on_job_error: called with a Workflow's name and the exception that reconciling its job has raised.
        """
        self.on_handled: Callable[[SiteInput, Result], None] = lambda *_: None
        """Called with each input and its result once the input was handled, to record both."""
        self._on_parse_error = on_parse_error
        self._on_job_error = on_job_error
        self._has_results = has_results
        self._epoch = epoch
        self._grace = grace
        # The key of a launched job is its Workflow's name, that of an orphan its Workflow's uid: a job may be launched
        # again while the orphan of its earlier launch is still being ended.
        self._tracked: dict[str, _Tracked] = {}
        self._orphans: dict[str, set[str]] = {}
        """The keys of orphans by their Workflows' names."""
        self._finished_orphans: set[str] = set()
        """The uids of other runs' Workflows that still exist but need no more actions."""
        self._unmatched_workflows: tuple[WorkflowView, ...] = ()
        """Workflows that were listed before the pods; they are checked for orphans once the pods are listed."""
        self._clocks = Clocks(now)
        self._timers = Timers()

    def seconds_since_contact(self, now: float) -> float:
        """Return the seconds since the last contact with the API server, the maximum age of what is known."""
        return self._clocks.seconds_since_contact(now)

    def __repr__(self) -> str:
        """Return the synced watches and one line for each tracked job."""
        synced = ", ".join(sorted(kind.name for kind in self._clocks.synced)) or "no watch"
        jobs = "".join(f"\n  {state!r}" for state in self.states)
        return f"<Reconciler in sync: {synced}; jobs: {len(self._tracked)}{jobs}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the Workflow names of all tracked jobs."""
        return tuple(tracked.state.name for tracked in self._tracked.values())

    @property
    def states(self) -> tuple[JobState, ...]:
        """Return the states of all tracked jobs. Any thread may call this, since states are immutable."""
        return tuple(tracked.state for tracked in list(self._tracked.values()))

    def handle(self, input_: SiteInput, now: float) -> Result:
        """Handle an input; return the commands to perform and the states that have changed.

        Args:
            input_: what happened.
            now: the current time, in seconds on a monotonic clock.
        """
        result = self._dispatch(input_, now)
        self.on_handled(input_, result)
        return result

    def _dispatch(self, input_: SiteInput, now: float) -> Result:
        match input_:
            case Admitted():
                return self._on_admitted(input_, now)
            case JobInput(name, attempt, job_input):
                return self._apply_to_launch(name, attempt, job_input, now)
            case WorkflowCreated():
                return self._on_workflow_created(input_, now)
            case Listed() | Changed() | WatchLost():
                return self._on_watch_input(input_, now)
            case ObjectsRead() | PodEventsRead() | CommandDone() | Unanswered():
                return self._on_command_result(input_, now)
            case TimePassed():
                return self._on_time_passed(now)
            case Contact():
                self._clocks.note_contact(now)
                return Result()

    def _on_watch_input(self, input_: Listed | Changed | WatchLost, now: float) -> Result:
        match input_:
            case Listed(kind, items):
                return self._on_listed(kind, items, now)
            case Changed():
                return self._on_changed(input_, now)
            case WatchLost(kind):
                self._clocks.note_lost(kind, now)
                return Result()

    def _on_command_result(self, input_: ObjectsRead | PodEventsRead | CommandDone | Unanswered, now: float) -> Result:
        match input_:
            case ObjectsRead():
                return self._on_objects_read(input_, now)
            case PodEventsRead(command, items):
                self._clocks.note_contact(now)
                events = tuple(parse_each(items, event_view, self._on_parse_error))
                done = EventsListed(command.action, events)
                return self._apply_to_launch(command.key, command.attempt, done, now)
            case CommandDone(command, ok):
                if ok:
                    self._clocks.note_contact(now)
                return self._apply_to_launch(command.key, command.attempt, ActionDone(command.action, ok), now)
            case Unanswered(command, since):
                is_read = command.action.kind is ActionKind.CONFIRM
                self._clocks.note_unanswered(since, now, is_read=is_read)
                return Result()

    def next_requeue_at(self) -> float | None:
        """Return the time at which TimePassed is due, or None if it is not."""
        return self._timers.next_at()

    def _on_time_passed(self, now: float) -> Result:
        return _merge([self._apply(key, Tick(), now) for key in self._timers.take_due(now)])

    # --- inputs about launches

    def _on_admitted(self, job: Admitted, now: float) -> Result:
        healthy = self._clocks.advance(now).healthy
        state = JobState(job.name, job.attempt, job.timeouts, job.grace, created_at=healthy, stage_since=healthy)
        self._tracked[job.name] = _Tracked(state)
        return Result()

    def _on_workflow_created(self, created: WorkflowCreated, now: float) -> Result:
        tracked = self._find(created.name, created.attempt)
        if tracked is None:
            return Result()
        self._clocks.note_contact(now)
        return _merge(
            self._update_views(created.name, _merge_workflow(tracked.workflow, view, deleted=False), tracked.pods, now)
            for view in self._parse([created.item], workflow_view)
        )

    # --- inputs from the watches

    def _on_listed(self, kind: Kind, items: Iterable[Object], now: float) -> Result:
        self._clocks.note_listed(kind, now)
        result = self._on_workflows_listed(items, now) if kind is Kind.WORKFLOW else self._on_pods_listed(items, now)
        return _merge((result, self._reset_backoff(now)))

    def _on_changed(self, change: Changed, now: float) -> Result:
        self._clocks.note_contact(now)
        if change.kind is Kind.WORKFLOW:
            views = self._parse([change.item], workflow_view)
            return _merge(self._on_workflow_changed(view, now, deleted=change.deleted) for view in views)
        return _merge(
            self._update_views(key, tracked.workflow, _merge_pod(tracked.pods, pod, deleted=change.deleted), now)
            for pod in self._parse([change.item], pod_view)
            for key, tracked in self._tracked_by_name(pod.workflow_name)
        )

    # --- results of commands

    def _on_objects_read(self, read: ObjectsRead, now: float) -> Result:
        """Handle a fresh read of one job's objects.

        If a watch has delivered a change since the read was requested, the read may be older than that change. It is
        then discarded, and requested again at once if it is still wanted.
        """
        self._clocks.note_contact(now)
        command = read.command
        tracked = self._find(command.key, command.attempt)
        if tracked is None:
            return Result()
        if tracked.revision != command.revision:
            # Not a failure, which would be retried with backoff.
            tracked.state = tracked.state.with_due(command.action)
            return self._apply(command.key, Tick(), now)
        workflow_items = [read.workflow] if read.workflow is not None else []
        workflow_views = [*self._parse(workflow_items, workflow_view)]
        pod_views = [*self._parse(read.pods, pod_view)]
        if (len(workflow_views), len(pod_views)) != (len(workflow_items), len(read.pods)):
            # An object that cannot be parsed exists nevertheless, so this read proves nothing.
            return self._apply(command.key, ActionDone(command.action, ok=False), now)
        tracked.workflow = workflow_views[0] if workflow_views else None
        tracked.pods = tuple(sorted(pod_views, key=lambda pod: pod.name))
        return self._apply(command.key, Observed(self._observe(tracked, is_fresh=True)), now)

    def _find(self, key: str, attempt: str) -> _Tracked | None:
        """Return a launch or an orphan, unless it is no longer tracked or its key belongs to another launch."""
        tracked = self._tracked.get(key)
        return tracked if tracked is not None and tracked.state.attempt == attempt else None

    def _apply_to_launch(self, key: str, attempt: str, input_: Input, now: float) -> Result:
        return self._apply(key, input_, now) if self._find(key, attempt) is not None else Result()

    # --- jobs and their objects

    def _on_workflows_listed(self, items: Iterable[Object], now: float) -> Result:
        latest = {
            tracked.workflow.uid: tracked.workflow for tracked in self._tracked.values() if tracked.workflow is not None
        }
        parse = partial(_reuse_view, latest=latest, view=workflow_view)
        views = {view.name: view for view in self._parse(items, parse)}
        self._finished_orphans &= {view.uid for view in views.values()}
        results: list[Result] = []
        if Kind.POD in self._clocks.synced:
            results += [self._track_orphan(view, now) for view in views.values()]
        else:
            self._unmatched_workflows = tuple(views.values())
        results += [
            self._update_views(key, views.get(tracked.state.name), tracked.pods, now, after_relist=True)
            for key, tracked in list(self._tracked.items())
        ]
        return _merge(results)

    def _on_pods_listed(self, items: Iterable[Object], now: float) -> Result:
        pods: dict[str, list[PodView]] = {}
        latest = {pod.uid: pod for tracked in self._tracked.values() for pod in tracked.pods}
        for pod in self._parse(items, partial(_reuse_view, latest=latest, view=pod_view)):
            pods.setdefault(pod.workflow_name, []).append(pod)
        workflows, self._unmatched_workflows = self._unmatched_workflows, ()
        results = [self._track_orphan(view, now, tuple(pods.get(view.name, ()))) for view in workflows]
        results += [
            self._update_views(key, tracked.workflow, tuple(pods.get(tracked.state.name, ())), now, after_relist=True)
            for key, tracked in list(self._tracked.items())
        ]
        return _merge(results)

    def _on_workflow_changed(self, view: WorkflowView, now: float, *, deleted: bool) -> Result:
        orphan = Result() if deleted else self._track_orphan(view, now)
        updates = (
            self._update_views(key, _merge_workflow(tracked.workflow, view, deleted=deleted), tracked.pods, now)
            for key, tracked in self._tracked_by_name(view.name)
        )
        return _merge((orphan, *updates))

    def _parse(self, items: Iterable[Object], view: Callable[[Object], View]) -> Iterator[View]:
        return parse_each(items, view, self._on_parse_error)

    def _tracked_by_name(self, name: str) -> list[tuple[str, _Tracked]]:
        """Return the jobs with a Workflow name: a launched job, and orphans of earlier launches of the same job."""
        keys = [name, *self._orphans.get(name, ())]
        return [(key, self._tracked[key]) for key in keys if key in self._tracked]

    def _reset_backoff(self, now: float) -> Result:
        """Retry at once what has failed, since it may have failed because the API server was away."""
        keys = []
        for key, tracked in self._tracked.items():
            state = tracked.state.without_backoff()
            if state.retries != tracked.state.retries:
                tracked.state = state
                keys.append(key)
        return _merge([self._apply(key, Tick(), now) for key in keys])

    def _track_orphan(self, view: WorkflowView, now: float, pods: tuple[PodView, ...] | None = None) -> Result:
        """Track a Workflow that no launch of this parent follows, so that it is ended.

        Another run of the parent left it, or it was created by a request of this run whose launch had failed already.

        Args:
            view: the Workflow.
            now: the current time.
            pods: the Workflow's pods, if they are known. If everything has ended, only the Secret has to be deleted.
        """
        launched = self._tracked.get(view.name)
        is_tracked = (launched is not None and launched.state.attempt == view.attempt) or view.uid in self._tracked
        is_tracked = is_tracked or view.uid in self._finished_orphans
        is_orphan = view.parent != self._epoch or (view.suspended and not view.is_completed)
        if not self._epoch or not view.parent or not view.name or is_tracked or not is_orphan:
            return Result()
        has_ended = pods is not None and view.is_over and all(pod.is_terminal for pod in pods)
        orphan = _Tracked(self._orphan_state(view, now, has_ended=has_ended), view, pods or ())
        self._tracked[view.uid] = orphan
        self._orphans.setdefault(view.name, set()).add(view.uid)
        return self._apply(view.uid, Observed(self._observe(orphan)), now)

    def _orphan_state(self, view: WorkflowView, now: float, *, has_ended: bool) -> JobState:
        healthy = self._clocks.advance(now).healthy
        return JobState(
            view.name,
            view.attempt,
            StartTimeouts(),
            self._grace,
            created_at=healthy,
            is_submitting=False,
            cause=Cause.ORPHANED,
            stage_since=healthy,
            verdict=Verdict(Reason.ORPHANED, int(ReturnCode.LOST)) if has_ended else None,
            verdict_at=healthy if has_ended else math.inf,
            confirmed_gone=has_ended,
            # The Secret's name contains the launch's id. Without an id, no Secret can be identified as its own.
            secret_deleted=not view.attempt,
        )

    def _update_views(
        self,
        key: str,
        workflow: WorkflowView | None,
        pods: tuple[PodView, ...],
        now: float,
        *,
        after_relist: bool = False,
    ) -> Result:
        tracked = self._tracked[key]
        if (workflow, pods) == (tracked.workflow, tracked.pods):
            return Result()
        tracked.workflow, tracked.pods = workflow, pods
        tracked.revision += 1
        return self._apply(key, Observed(self._observe(tracked, after_relist=after_relist)), now)

    def _observe(self, tracked: _Tracked, *, is_fresh: bool = False, after_relist: bool = False) -> Observation:
        """Return the job's own objects: another launch's Workflow may have the same name, and its pods the label."""
        workflow = tracked.workflow
        if workflow is not None and not _is_launched_as(workflow, tracked):
            workflow = None
        tracked.workflow_uid = workflow.uid if workflow is not None else tracked.workflow_uid
        return Observation(
            workflow,
            tuple(pod for pod in tracked.pods if pod.owner_uid == tracked.workflow_uid),
            after_relist=after_relist,
            is_fresh=is_fresh,
            has_results=self._has_results(tracked.state.name),
        )

    def _apply(self, key: str, input_: Input, now: float) -> Result:
        tracked = self._tracked.get(key)
        if tracked is None:
            return Result()
        try:
            step = reconcile(tracked.state, input_, self._clocks.advance(now))
        except Exception as error:  # noqa: BLE001  (a defect about one job must not stop the others)
            self._on_job_error(tracked.state.name, error)
            self._timers.set(key, now + _DEFECT_RETRY_SECONDS)
            return Result()
        tracked.state = step.state
        self._timers.cancel(key)
        if step.state.is_cleared:
            self._forget(key)
        elif step.requeue_after is not None:
            self._timers.set(key, now + max(step.requeue_after, _MIN_REQUEUE_SECONDS))
        return Result(tuple(_command(key, tracked, action) for action in step.actions), (step.state,))

    def _forget(self, key: str) -> None:
        name = self._tracked.pop(key).state.name
        if name != key:
            self._finished_orphans.add(key)
            self._orphans[name].discard(key)
            if not self._orphans[name]:
                del self._orphans[name]


def _is_launched_as(workflow: WorkflowView, tracked: _Tracked) -> bool:
    """Return whether a Workflow is the one that a launch has created."""
    return workflow.attempt == tracked.state.attempt and tracked.workflow_uid in {None, workflow.uid}


def _command(key: str, tracked: _Tracked, action: Action) -> Command:
    state = tracked.state
    is_about_pod = action.kind in {ActionKind.DELETE_POD, ActionKind.LIST_EVENTS}
    pods: dict[Uid | None, str] = {pod.uid: pod.name for pod in state.observation.pods}
    end_reason, detail = _end_reason(state)
    return Command(
        key,
        state.name,
        action,
        credentials_secret(state.name, state.attempt),
        state.attempt,
        pods.get(action.uid, "") if is_about_pod else "",
        state.grace,
        end_reason=end_reason,
        detail=detail,
        revision=tracked.revision,
        workflow_uid=tracked.workflow_uid,
    )


def _end_reason(state: JobState) -> tuple[Reason | None, str]:
    """Return the reason and the detail that the verdict on a job that is being ended will have (verdict.decide)."""
    if state.verdict is not None:
        return state.verdict.reason, state.verdict.detail
    if state.cause is not None:
        return state.cause.value, ""
    if state.end_diagnosis is None:
        return None, ""
    is_success = state.observation.has_results and state.end_diagnosis.reason in IMPOSED_ENDS
    return Reason.SUCCEEDED if is_success else state.end_diagnosis.reason, state.end_diagnosis.detail


def _reuse_view(item: Object, latest: Mapping[Uid, View], view: Callable[[Object], View]) -> View:
    """Return the latest view of a listed object if its version is unchanged, else a new one. Lists hold thousands."""
    existing = latest.get(uid_of(item))
    return existing if existing is not None and existing.version == resource_version(item) != 0 else view(item)


def _merge_workflow(old: WorkflowView | None, new: WorkflowView, *, deleted: bool) -> WorkflowView | None:
    """Return the newer view of a Workflow name, or None if the Workflow was deleted."""
    if old is not None and (new.version < old.version or (deleted and old.uid != new.uid)):
        return old
    return None if deleted else new


def _merge_pod(pods: tuple[PodView, ...], new: PodView, *, deleted: bool) -> tuple[PodView, ...]:
    """Return the pods with one of them added, updated or removed, unless the known view is newer."""
    old = next((pod for pod in pods if pod.uid == new.uid), None)
    if old is not None and new.version < old.version:
        return pods
    if deleted:
        return tuple(pod for pod in pods if pod is not old)
    if old is None:
        return (*pods, new)
    return tuple(new if pod is old else pod for pod in pods)


def _merge(results: Iterable[Result]) -> Result:
    commands: list[Command] = []
    states: list[JobState] = []
    for result in results:
        commands += result.commands
        states += result.states
    return Result(tuple(commands), tuple(states))
