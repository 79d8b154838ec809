"""All lives of one parent: a fact in, orders out. No threads, no I/O, no clock of its own.

It keeps the two streams' latest views, tells each life what concerns it, and runs the clock that only passes
while both streams are in sync.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from flargo.cluster.api import Kind
from flargo.job.names import credentials_secret
from flargo.status.fields import OnParseError, parse_each
from flargo.status.job_state import (
    Action,
    ActionDone,
    ActionKind,
    EventsListed,
    Input,
    JobState,
    LaunchGivenUp,
    Now,
    Observed,
    StopRequested,
    Submitted,
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
_MIN_REQUEUE_SECONDS = 0.2
"""Seconds: a clock that stands still must not turn a deadline into a busy loop."""


@dataclass(frozen=True, slots=True)
class Command:
    """A life's wish, with the names that performing it takes."""

    key: str
    """Whose wish it is; for the answer."""
    name: str
    """The Workflow's."""
    action: Action
    secret_name: str
    """The name of the job's credentials Secret."""
    attempt: str = ""
    """Of the launch whose wish it is: the same job may be launched anew before the answer comes."""
    pod_name: str = ""
    """The pod's name, where the wish is about one."""
    grace: int = 0
    end_reason: Reason | None = None
    """Why the job is ended, for whoever looks at its Workflow later."""
    detail: str = ""
    """The cluster's own words of that."""
    revision: int = 0
    """How much the streams had told of the job when it was ordered."""
    workflow_uid: Uid | None = None
    """Of the job's Workflow, where it was seen: the owner of the job's Secret."""

    @property
    def object_uid(self) -> Uid:
        """Of the Workflow or pod that the wish is about: no request may hit another object of its name."""
        assert self.action.uid is not None, self.action
        return self.action.uid


@dataclass(frozen=True, slots=True)
class Result:
    """What follows from a fact: orders to perform, and the lives that it touched."""

    commands: tuple[Command, ...] = ()
    states: tuple[JobState, ...] = ()


@dataclass(slots=True)
class _Tracked:
    """A life with the latest views of its objects."""

    state: JobState
    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    workflow_uid: Uid | None = None
    """Of its Workflow, once that was seen: only that one's pods are its own."""
    requeue_at: float | None = None
    revision: int = 0
    """How often the streams have told something new."""


class Reconciler:
    """See the module."""

    def __init__(
        self,
        has_results: Callable[[str], bool],
        now: float,
        *,
        epoch: str = "",
        grace: int = 1,
        on_parse_error: OnParseError = lambda *_: None,
    ) -> None:
        """Begin with nothing known.

        Args:
            has_results: whether the results of a Workflow's job have reached the parent; does no I/O.
            now: seconds on a clock that never stands still.
            epoch: this run of the parent. The site's Workflows of any other run are orphans, and are ended.
            grace: seconds between SIGTERM and SIGKILL for those.
            on_parse_error: called with each object that could not be parsed, and is skipped; does no I/O.
        """
        self._on_parse_error = on_parse_error
        self._has_results = has_results
        self._epoch = epoch
        self._grace = grace
        # A launched job is known by its Workflow's name, an orphan by its Workflow's uid: the same job may be
        # launched anew while what is left of its earlier launch is still being ended.
        self._tracked: dict[str, _Tracked] = {}
        self._orphans: dict[str, set[str]] = {}
        """Keys of orphans by their Workflows' names."""
        self._finished_orphans: set[str] = set()
        """Workflows (by uid) of other runs of which nothing is left but their record."""
        self._unmatched_workflows: tuple[WorkflowView, ...] = ()
        """Listed before the pods were: whose they are is looked at when those are known."""
        self._synced: set[Kind] = set()
        self._healthy = 0.0
        self._wall = now
        self._last_contact = now
        """When something came from the API for the last time."""
        self._is_silent = False
        """A request has had no answer, and nothing has come since."""
        self._requeues: list[tuple[float, str]] = []

    @property
    def has_synced(self) -> bool:
        """Whether both streams are being heard."""
        return self._synced >= {Kind.WORKFLOW, Kind.POD}

    def seconds_since_contact(self, now: float) -> float:
        """For how many seconds nothing has come from the API: how stale the oldest of what is known may be."""
        return max(0.0, now - self._last_contact)

    @property
    def names(self) -> tuple[str, ...]:
        """The Workflows of all jobs that are not cleared."""
        return tuple(known.state.name for known in self._tracked.values())

    @property
    def states(self) -> tuple[JobState, ...]:
        """All that are not cleared. May be read from any thread: a life never changes, another takes its place."""
        return tuple(known.state for known in list(self._tracked.values()))

    def admit(self, name: str, attempt: str, patience: StartTimeouts, grace: int, now: float) -> None:
        """A new life; before its Workflow is created, so that nothing of it is missed."""
        healthy = self._clocks(now).healthy
        self._tracked[name] = _Tracked(
            JobState(name, attempt, patience, grace, created_at=healthy, stage_since=healthy)
        )

    def on_submitted(self, name: str, error: str, now: float, secret: Uid | None = None) -> Result:
        """A plan has been put on the cluster, its credentials Secret with this uid, or could not be."""
        return self._apply(name, Submitted(error, secret), now)

    def stop(self, name: str, cause: Cause, now: float) -> Result:
        """FLARE wants a job ended."""
        return self._apply(name, StopRequested(cause), now)

    def give_up(self, name: str, detail: str, now: float) -> Result:
        """FLARE has been told that a launch failed, and why."""
        return self._apply(name, LaunchGivenUp(detail), now)

    def on_contact(self, now: float) -> None:
        """The API has answered, or a stream has said that there is nothing new."""
        self._clocks(now)
        self._last_contact, self._is_silent = self._wall, False

    def on_unanswered(self, order: Command, since: float, now: float) -> None:
        """A request of ``since`` had no answer: patience has not passed in that silence, and does not until it ends.

        A frozen API server closes no stream, so for up to a minute nobody knows. A fresh read is ordered when patience
        ends, so all of the silence before it counts; of any other request only its own time, or one that always hangs
        (a webhook's) would stop all clocks.
        """
        self._clocks(now)
        begun = self._last_contact if order.action.kind is ActionKind.CONFIRM else max(since, self._last_contact)
        if self.has_synced and not self._is_silent:
            self._healthy -= self._wall - begun
        self._is_silent = True

    def on_action_done(self, order: Command, now: float, *, ok: bool) -> Result:
        """An order was performed, or was not."""
        if ok:
            self.on_contact(now)
        return self._apply_answer(order, ActionDone(order.action, ok), now)

    def tick(self, now: float) -> Result:
        """Time has passed."""
        due = []
        while self._requeues and self._requeues[0][0] <= now:
            at, key = heapq.heappop(self._requeues)
            known = self._tracked.get(key)
            if known is not None and known.requeue_at == at:
                due.append(self._apply(key, Tick(), now))
        return _sum(due)

    def next_requeue_at(self) -> float | None:
        """When the next tick is due."""
        return self._requeues[0][0] if self._requeues else None

    def on_watch_lost(self, kind: Kind, now: float) -> None:
        """A stream broke off."""
        self._clocks(now)
        self._synced.discard(kind)

    def on_listed(self, kind: Kind, items: Iterable[Object], now: float) -> Result:
        """A stream begins with these: what is not among them is not there."""
        self.on_contact(now)
        self._synced.add(kind)
        told = self._list_workflows(items, now) if kind is Kind.WORKFLOW else self._list_pods(items, now)
        return _sum((told, self._try_again(now)))

    def _try_again(self, now: float) -> Result:
        """What failed while the API was away need not wait out its back-off."""
        failed = [
            key for key, known in self._tracked.items() if any(it.failures for it in known.state.retries.values())
        ]
        for key in failed:
            life = self._tracked[key].state
            waiting = {wish: it for wish, it in life.retries.items() if not it.failures or it.not_before == math.inf}
            self._tracked[key].state = replace(life, retries=MappingProxyType(waiting))
        return _sum([self._apply(key, Tick(), now) for key in failed])

    def on_changed(self, kind: Kind, item: Object, now: float, *, deleted: bool) -> Result:
        """A stream tells of one object."""
        self.on_contact(now)
        if kind is Kind.WORKFLOW:
            workflows = self._parsed([item], workflow_view)
            return _sum(self._change_workflow(view, now, deleted=deleted) for view in workflows)
        return _sum(
            self._update_views(key, known.workflow, _newer_pods(known.pods, pod, deleted=deleted), now)
            for pod in self._parsed([item], pod_view)
            for key, known in self._tracked_by_name(pod.workflow_name)
        )

    def _parsed(self, items: Iterable[Object], view: Callable[[Object], View]) -> Iterator[View]:
        return parse_each(items, view, self._on_parse_error)

    def on_confirmed(self, order: Command, workflow: Object | None, pods: Iterable[Object], now: float) -> Result:
        """A fresh read of one job. If a stream has told something since it was ordered, it may be the older one."""
        self.on_contact(now)
        known = self._tracked_for(order)
        if known is None:
            return Result()
        if known.revision != order.revision:
            # No failure, which would be waited out: it is asked for anew at once, if it is still wanted.
            others = {wish: it for wish, it in known.state.retries.items() if wish != order.action}
            known.state = replace(known.state, retries=MappingProxyType(others))
            return self._apply(order.key, Tick(), now)
        workflows, listed = [workflow] if workflow is not None else [], [*pods]
        views, pod_views = [*self._parsed(workflows, workflow_view)], [*self._parsed(listed, pod_view)]
        if (len(views), len(pod_views)) != (len(workflows), len(listed)):
            # What can't be parsed is there all the same, so nothing may be concluded from this read.
            return self._apply_answer(order, ActionDone(order.action, ok=False), now)
        known.workflow = views[0] if views else None
        known.pods = tuple(sorted(pod_views, key=lambda pod: pod.name))
        return self._apply(order.key, Observed(self._observe(known, fresh=True)), now)

    def on_events_listed(self, order: Command, items: Iterable[Object], now: float) -> Result:
        """A pod's events were listed."""
        self.on_contact(now)
        events = parse_each(items, event_view, self._on_parse_error)
        return self._apply_answer(order, EventsListed(order.action, tuple(events)), now)

    def _tracked_for(self, order: Command) -> _Tracked | None:
        """The launch whose wish it was, unless that is over."""
        known = self._tracked.get(order.key)
        return known if known is not None and known.state.attempt == order.attempt else None

    def _apply_answer(self, order: Command, fact: ActionDone | EventsListed, now: float) -> Result:
        return self._apply(order.key, fact, now) if self._tracked_for(order) is not None else Result()

    def _tracked_by_name(self, name: str) -> list[tuple[str, _Tracked]]:
        """The lives that a Workflow's name concerns: a launched job, and orphans of earlier launches of it."""
        keys = [name, *self._orphans.get(name, ())]
        return [(key, self._tracked[key]) for key in keys if key in self._tracked]

    def _change_workflow(self, view: WorkflowView, now: float, *, deleted: bool) -> Result:
        adopted = Result() if deleted else self._adopt(view, now)
        shown = (
            self._update_views(key, _newer_workflow(known.workflow, view, deleted=deleted), known.pods, now)
            for key, known in self._tracked_by_name(view.name)
        )
        return _sum((adopted, *shown))

    def _adopt(self, view: WorkflowView, now: float, pods: tuple[PodView, ...] | None = None) -> Result:
        """A Workflow that nobody follows: another run of the parent left it, or this one's create came late.

        Args:
            view: the Workflow.
            now: see admit.
            pods: its pods, where they are known; if all has ended, only its Secret has to go.
        """
        known = self._tracked.get(view.name)
        is_followed = (known is not None and known.state.attempt == view.attempt) or view.uid in self._tracked
        is_followed = is_followed or view.uid in self._finished_orphans
        left_behind = view.parent != self._epoch or (view.suspended and not view.is_completed)
        if not self._epoch or not view.parent or not view.name or is_followed or not left_behind:
            return Result()
        is_quiet = pods is not None and view.is_completed and all(pod.is_terminal for pod in pods)
        orphan = _Tracked(self._orphan(view, now, is_quiet=is_quiet), view, pods or ())
        self._tracked[view.uid] = orphan
        self._orphans.setdefault(view.name, set()).add(view.uid)
        return self._apply(view.uid, Observed(self._observe(orphan)), now)

    def _orphan(self, view: WorkflowView, now: float, *, is_quiet: bool) -> JobState:
        healthy = self._clocks(now).healthy
        return JobState(
            view.name,
            view.attempt,
            StartTimeouts(),
            self._grace,
            created_at=healthy,
            is_submitting=False,
            cause=Cause.ORPHANED,
            stage_since=healthy,
            verdict=Verdict(Reason.ORPHANED, int(ReturnCode.LOST)) if is_quiet else None,
            verdict_at=healthy if is_quiet else math.inf,
            confirmed_gone=is_quiet,
            # Its name carries the launch's id: without one there is nothing that could be its Secret.
            secret_deleted=not view.attempt,
        )

    def _list_workflows(self, items: Iterable[Object], now: float) -> Result:
        before = {known.workflow.uid: known.workflow for known in self._tracked.values() if known.workflow is not None}
        view_again = partial(_view_again, before=before, view=workflow_view)
        views = {view.name: view for view in self._parsed(items, view_again)}
        self._finished_orphans &= {view.uid for view in views.values()}
        outcomes: list[Result] = []
        if Kind.POD in self._synced:
            outcomes += [self._adopt(view, now) for view in views.values()]
        else:
            self._unmatched_workflows = tuple(views.values())
        outcomes += [
            self._update_views(key, views.get(known.state.name), known.pods, now, gap=True)
            for key, known in list(self._tracked.items())
        ]
        return _sum(outcomes)

    def _list_pods(self, items: Iterable[Object], now: float) -> Result:
        pods: dict[str, list[PodView]] = {}
        before = {pod.uid: pod for known in self._tracked.values() for pod in known.pods}
        for pod in self._parsed(items, partial(_view_again, before=before, view=pod_view)):
            pods.setdefault(pod.workflow_name, []).append(pod)
        strangers, self._unmatched_workflows = self._unmatched_workflows, ()
        outcomes = [self._adopt(view, now, tuple(pods.get(view.name, ()))) for view in strangers]
        outcomes += [
            self._update_views(key, known.workflow, tuple(pods.get(known.state.name, ())), now, gap=True)
            for key, known in list(self._tracked.items())
        ]
        return _sum(outcomes)

    def _update_views(
        self, key: str, workflow: WorkflowView | None, pods: tuple[PodView, ...], now: float, *, gap: bool = False
    ) -> Result:
        known = self._tracked[key]
        if (workflow, pods) == (known.workflow, known.pods):
            return Result()
        known.workflow, known.pods = workflow, pods
        known.revision += 1
        return self._apply(key, Observed(self._observe(known, gap=gap)), now)

    def _observe(self, known: _Tracked, *, fresh: bool = False, gap: bool = False) -> Observation:
        """What is the life's own: a Workflow of another launch may have the name, and its pods the label."""
        workflow = known.workflow
        if workflow is not None and workflow.attempt != known.state.attempt:
            workflow = None
        known.workflow_uid = workflow.uid if workflow is not None else known.workflow_uid
        pods = tuple(pod for pod in known.pods if pod.owner_uid == known.workflow_uid)
        return Observation(
            workflow, pods, after_relist=gap, is_fresh=fresh, has_results=self._has_results(known.state.name)
        )

    def _apply(self, key: str, fact: Input, now: float) -> Result:
        known = self._tracked.get(key)
        if known is None:
            return Result()
        result = reconcile(known.state, fact, self._clocks(now))
        known.state, known.requeue_at = result.state, None
        if result.state.is_cleared:
            self._forget(key)
        elif result.requeue_after is not None:
            known.requeue_at = now + max(result.requeue_after, _MIN_REQUEUE_SECONDS)
            self._requeue(known.requeue_at, key)
        return Result(tuple(_command(key, known, wish) for wish in result.actions), (result.state,))

    def _requeue(self, at: float, key: str) -> None:
        heapq.heappush(self._requeues, (at, key))
        # Most moments are overtaken before they come, some of them hours before.
        if len(self._requeues) > 4 * len(self._tracked) + 64:
            wakes = ((known.requeue_at, key) for key, known in self._tracked.items())
            self._requeues = [(at, key) for at, key in wakes if at is not None]
            heapq.heapify(self._requeues)

    def _forget(self, key: str) -> None:
        name = self._tracked.pop(key).state.name
        if name != key:
            self._finished_orphans.add(key)
            self._orphans[name].discard(key)
            if not self._orphans[name]:
                del self._orphans[name]

    def _clocks(self, now: float) -> Now:
        if self.has_synced and not self._is_silent:
            self._healthy += max(0.0, now - self._wall)
        self._wall = max(self._wall, now)
        return Now(self._healthy, self._wall)


def _command(key: str, known: _Tracked, wish: Action) -> Command:
    life = known.state
    pods: dict[Uid | None, str] = {pod.uid: pod.name for pod in life.observation.pods}
    pod = pods.get(wish.uid, "") if wish.kind in {ActionKind.DELETE_POD, ActionKind.LIST_EVENTS} else ""
    ending, detail = _ending(life)
    return Command(
        key,
        life.name,
        wish,
        credentials_secret(life.name, life.attempt),
        life.attempt,
        pod,
        life.grace,
        end_reason=ending,
        detail=detail,
        revision=known.revision,
        workflow_uid=known.workflow_uid,
    )


def _ending(life: JobState) -> tuple[Reason | None, str]:
    """What will be said of the end of a job that is being ended, and the cluster's own words; see verdict.decide."""
    if life.verdict is not None:
        return life.verdict.reason, life.verdict.detail
    if life.cause is not None:
        return life.cause.value, ""
    if life.end_diagnosis is None:
        return None, ""
    done = life.observation.has_results and life.end_diagnosis.reason in IMPOSED_ENDS
    return Reason.SUCCEEDED if done else life.end_diagnosis.reason, life.end_diagnosis.detail


def _view_again(item: Object, before: Mapping[Uid, View], view: Callable[[Object], View]) -> View:
    """The view of a listed object: the one that is kept, as long as the object is the same. Thousands are listed."""
    kept = before.get(uid_of(item))
    return kept if kept is not None and kept.version == resource_version(item) != 0 else view(item)


def _newer_workflow(old: WorkflowView | None, new: WorkflowView, *, deleted: bool) -> WorkflowView | None:
    if old is not None and (new.version < old.version or (deleted and old.uid != new.uid)):
        return old
    return None if deleted else new


def _newer_pods(old: tuple[PodView, ...], new: PodView, *, deleted: bool) -> tuple[PodView, ...]:
    same = next((pod for pod in old if pod.uid == new.uid), None)
    if same is not None and new.version < same.version:
        return old
    if deleted:
        return tuple(pod for pod in old if pod is not same)
    if same is None:
        return (*old, new)
    return tuple(new if pod is same else pod for pod in old)


def _sum(outcomes: Iterable[Result]) -> Result:
    orders: list[Command] = []
    lives: list[JobState] = []
    for outcome in outcomes:
        orders += outcome.commands
        lives += outcome.states
    return Result(tuple(orders), tuple(lives))
