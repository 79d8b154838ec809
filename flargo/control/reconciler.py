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
from flargo.status.fields import OnUnreadable, parse_each
from flargo.status.job_state import Act, Fact, GaveUp, Heard, Life, Now, Saw, Stop, Submitted, Tick, Told, Wish
from flargo.status.reasons import Code, Reason
from flargo.status.reconcile import step
from flargo.status.verdict import DONE_TO_IT, Cause, Verdict
from flargo.status.views import (
    Observation,
    PodView,
    WorkflowView,
    event_view,
    pod_view,
    uid_of,
    version_of,
    workflow_view,
)
from flargo.terms import Object, Patience, Uid

View = TypeVar("View", WorkflowView, PodView)
_LEAST_WAKE = 0.2
"""Seconds: a clock that stands still must not turn a deadline into a busy loop."""


@dataclass(frozen=True, slots=True)
class Order:
    """A life's wish, with the names that performing it takes."""

    key: str
    """Whose wish it is; for the answer."""
    name: str
    """The Workflow's."""
    wish: Wish
    secret: str
    """The name of the job's credentials Secret."""
    attempt: str = ""
    """Of the launch whose wish it is: the same job may be launched anew before the answer comes."""
    pod: str = ""
    """The pod's name, where the wish is about one."""
    grace: int = 0
    ending: Reason | None = None
    """Why the job is ended, for whoever looks at its Workflow later."""
    detail: str = ""
    """The cluster's own words of that."""
    news: int = 0
    """How much the streams had told of the job when it was ordered."""
    owner: Uid | None = None
    """Of the job's Workflow, where it was seen: the owner of the job's Secret."""

    @property
    def object_uid(self) -> Uid:
        """Of the Workflow or pod that the wish is about: no request may hit another object of its name."""
        assert self.wish.uid is not None, self.wish
        return self.wish.uid


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from a fact: orders to perform, and the lives that it touched."""

    orders: tuple[Order, ...] = ()
    lives: tuple[Life, ...] = ()


@dataclass(slots=True)
class _Known:
    """A life with the latest views of its objects."""

    life: Life
    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    uid: Uid | None = None
    """Of its Workflow, once that was seen: only that one's pods are its own."""
    wake_at: float | None = None
    news: int = 0
    """How often the streams have told something new."""


class Engine:
    """See the module."""

    def __init__(
        self,
        published: Callable[[str], bool],
        now: float,
        *,
        epoch: str = "",
        grace: int = 1,
        on_unreadable: OnUnreadable = lambda *_: None,
    ) -> None:
        """Begin with nothing known.

        Args:
            published: whether the results of a Workflow's job have reached the parent; does no I/O.
            now: seconds on a clock that never stands still.
            epoch: this run of the parent. The site's Workflows of any other run are orphans, and are ended.
            grace: seconds between SIGTERM and SIGKILL for those.
            on_unreadable: called with each object that could not be parsed, and is skipped; does no I/O.
        """
        self._on_unreadable = on_unreadable
        self._published = published
        self._epoch = epoch
        self._grace = grace
        # A launched job is known by its Workflow's name, an orphan by its Workflow's uid: the same job may be
        # launched anew while what is left of its earlier launch is still being ended.
        self._known: dict[str, _Known] = {}
        self._orphans: dict[str, set[str]] = {}
        """Keys of orphans by their Workflows' names."""
        self._done: set[str] = set()
        """Workflows (by uid) of other runs of which nothing is left but their record."""
        self._strangers: tuple[WorkflowView, ...] = ()
        """Listed before the pods were: whose they are is looked at when those are known."""
        self._synced: set[Kind] = set()
        self._healthy = 0.0
        self._wall = now
        self._heard_at = now
        """When something came from the API for the last time."""
        self._unheard = False
        """A request has had no answer, and nothing has come since."""
        self._wakes: list[tuple[float, str]] = []

    @property
    def in_sync(self) -> bool:
        """Whether both streams are being heard."""
        return self._synced >= {Kind.WORKFLOW, Kind.POD}

    def unheard_for(self, now: float) -> float:
        """For how many seconds nothing has come from the API: how stale the oldest of what is known may be."""
        return max(0.0, now - self._heard_at)

    @property
    def names(self) -> tuple[str, ...]:
        """The Workflows of all jobs that are not cleared."""
        return tuple(known.life.name for known in self._known.values())

    @property
    def lives(self) -> tuple[Life, ...]:
        """All that are not cleared. May be read from any thread: a life never changes, another takes its place."""
        return tuple(known.life for known in list(self._known.values()))

    def admit(self, name: str, attempt: str, patience: Patience, grace: int, now: float) -> None:
        """A new life; before its Workflow is created, so that nothing of it is missed."""
        healthy = self._clocks(now).healthy
        self._known[name] = _Known(Life(name, attempt, patience, grace, born=healthy, since=healthy))

    def submitted(self, name: str, error: str, now: float, secret: Uid | None = None) -> Outcome:
        """A plan has been put on the cluster, its credentials Secret with this uid, or could not be."""
        return self._tell(name, Submitted(error, secret), now)

    def stop(self, name: str, cause: Cause, now: float) -> Outcome:
        """FLARE wants a job ended."""
        return self._tell(name, Stop(cause), now)

    def give_up(self, name: str, detail: str, now: float) -> Outcome:
        """FLARE has been told that a launch failed, and why."""
        return self._tell(name, GaveUp(detail), now)

    def alive(self, now: float) -> None:
        """The API has answered, or a stream has said that there is nothing new."""
        self._clocks(now)
        self._heard_at, self._unheard = self._wall, False

    def unanswered(self, order: Order, since: float, now: float) -> None:
        """A request of ``since`` had no answer: patience has not passed in that silence, and does not until it ends.

        A frozen API server closes no stream, so for up to a minute nobody knows. A fresh read is ordered when patience
        ends, so all of the silence before it counts; of any other request only its own time, or one that always hangs
        (a webhook's) would stop all clocks.
        """
        self._clocks(now)
        begun = self._heard_at if order.wish.act is Act.CONFIRM else max(since, self._heard_at)
        if self.in_sync and not self._unheard:
            self._healthy -= self._wall - begun
        self._unheard = True

    def told(self, order: Order, now: float, *, ok: bool) -> Outcome:
        """An order was performed, or was not."""
        if ok:
            self.alive(now)
        return self._answer(order, Told(order.wish, ok), now)

    def tick(self, now: float) -> Outcome:
        """Time has passed."""
        due = []
        while self._wakes and self._wakes[0][0] <= now:
            at, key = heapq.heappop(self._wakes)
            known = self._known.get(key)
            if known is not None and known.wake_at == at:
                due.append(self._tell(key, Tick(), now))
        return _sum(due)

    def wake_at(self) -> float | None:
        """When the next tick is due."""
        return self._wakes[0][0] if self._wakes else None

    def lost(self, kind: Kind, now: float) -> None:
        """A stream broke off."""
        self._clocks(now)
        self._synced.discard(kind)

    def listed(self, kind: Kind, items: Iterable[Object], now: float) -> Outcome:
        """A stream begins with these: what is not among them is not there."""
        self.alive(now)
        self._synced.add(kind)
        told = self._list_workflows(items, now) if kind is Kind.WORKFLOW else self._list_pods(items, now)
        return _sum((told, self._try_again(now)))

    def _try_again(self, now: float) -> Outcome:
        """What failed while the API was away need not wait out its back-off."""
        failed = [key for key, known in self._known.items() if any(it.failures for it in known.life.tries.values())]
        for key in failed:
            life = self._known[key].life
            waiting = {wish: it for wish, it in life.tries.items() if not it.failures or it.not_before == math.inf}
            self._known[key].life = replace(life, tries=MappingProxyType(waiting))
        return _sum([self._tell(key, Tick(), now) for key in failed])

    def changed(self, kind: Kind, item: Object, now: float, *, deleted: bool) -> Outcome:
        """A stream tells of one object."""
        self.alive(now)
        if kind is Kind.WORKFLOW:
            workflows = self._parsed([item], workflow_view)
            return _sum(self._change_workflow(view, now, deleted=deleted) for view in workflows)
        return _sum(
            self._show(key, known.workflow, _newer_pods(known.pods, pod, deleted=deleted), now)
            for pod in self._parsed([item], pod_view)
            for key, known in self._of(pod.workflow)
        )

    def _parsed(self, items: Iterable[Object], view: Callable[[Object], View]) -> Iterator[View]:
        return parse_each(items, view, self._on_unreadable)

    def confirmed(self, order: Order, workflow: Object | None, pods: Iterable[Object], now: float) -> Outcome:
        """A fresh read of one job. If a stream has told something since it was ordered, it may be the older one."""
        self.alive(now)
        known = self._asker(order)
        if known is None:
            return Outcome()
        if known.news != order.news:
            # No failure, which would be waited out: it is asked for anew at once, if it is still wanted.
            others = {wish: it for wish, it in known.life.tries.items() if wish != order.wish}
            known.life = replace(known.life, tries=MappingProxyType(others))
            return self._tell(order.key, Tick(), now)
        workflows, listed = [workflow] if workflow is not None else [], [*pods]
        views, pod_views = [*self._parsed(workflows, workflow_view)], [*self._parsed(listed, pod_view)]
        if (len(views), len(pod_views)) != (len(workflows), len(listed)):
            # What can't be parsed is there all the same, so nothing may be concluded from this read.
            return self._answer(order, Told(order.wish, ok=False), now)
        known.workflow = views[0] if views else None
        known.pods = tuple(sorted(pod_views, key=lambda pod: pod.name))
        return self._tell(order.key, Saw(self._observe(known, fresh=True)), now)

    def heard(self, order: Order, items: Iterable[Object], now: float) -> Outcome:
        """A pod's events were listed."""
        self.alive(now)
        events = parse_each(items, event_view, self._on_unreadable)
        return self._answer(order, Heard(order.wish, tuple(events)), now)

    def _asker(self, order: Order) -> _Known | None:
        """The launch whose wish it was, unless that is over."""
        known = self._known.get(order.key)
        return known if known is not None and known.life.attempt == order.attempt else None

    def _answer(self, order: Order, fact: Told | Heard, now: float) -> Outcome:
        return self._tell(order.key, fact, now) if self._asker(order) is not None else Outcome()

    def _of(self, name: str) -> list[tuple[str, _Known]]:
        """The lives that a Workflow's name concerns: a launched job, and orphans of earlier launches of it."""
        keys = [name, *self._orphans.get(name, ())]
        return [(key, self._known[key]) for key in keys if key in self._known]

    def _change_workflow(self, view: WorkflowView, now: float, *, deleted: bool) -> Outcome:
        adopted = Outcome() if deleted else self._adopt(view, now)
        shown = (
            self._show(key, _newer_workflow(known.workflow, view, deleted=deleted), known.pods, now)
            for key, known in self._of(view.name)
        )
        return _sum((adopted, *shown))

    def _adopt(self, view: WorkflowView, now: float, pods: tuple[PodView, ...] | None = None) -> Outcome:
        """A Workflow that nobody follows: another run of the parent left it, or this one's create came late.

        Args:
            view: the Workflow.
            now: see admit.
            pods: its pods, where they are known; if all has ended, only its Secret has to go.
        """
        known = self._known.get(view.name)
        is_followed = (known is not None and known.life.attempt == view.attempt) or view.uid in self._known
        is_followed = is_followed or view.uid in self._done
        left_behind = view.parent != self._epoch or (view.suspended and not view.over)
        if not self._epoch or not view.parent or not view.name or is_followed or not left_behind:
            return Outcome()
        is_quiet = pods is not None and view.over and all(pod.finished for pod in pods)
        orphan = _Known(self._orphan(view, now, is_quiet=is_quiet), view, pods or ())
        self._known[view.uid] = orphan
        self._orphans.setdefault(view.name, set()).add(view.uid)
        return self._tell(view.uid, Saw(self._observe(orphan)), now)

    def _orphan(self, view: WorkflowView, now: float, *, is_quiet: bool) -> Life:
        healthy = self._clocks(now).healthy
        return Life(
            view.name,
            view.attempt,
            Patience(),
            self._grace,
            born=healthy,
            submitting=False,
            cause=Cause.ORPHANED,
            since=healthy,
            verdict=Verdict(Reason.ORPHANED, int(Code.LOST)) if is_quiet else None,
            ruled_at=healthy if is_quiet else math.inf,
            quiet=is_quiet,
            # Its name carries the launch's id: without one there is nothing that could be its Secret.
            secret_dropped=not view.attempt,
        )

    def _list_workflows(self, items: Iterable[Object], now: float) -> Outcome:
        before = {known.workflow.uid: known.workflow for known in self._known.values() if known.workflow is not None}
        view_again = partial(_view_again, before=before, view=workflow_view)
        views = {view.name: view for view in self._parsed(items, view_again)}
        self._done &= {view.uid for view in views.values()}
        outcomes: list[Outcome] = []
        if Kind.POD in self._synced:
            outcomes += [self._adopt(view, now) for view in views.values()]
        else:
            self._strangers = tuple(views.values())
        outcomes += [
            self._show(key, views.get(known.life.name), known.pods, now, gap=True)
            for key, known in list(self._known.items())
        ]
        return _sum(outcomes)

    def _list_pods(self, items: Iterable[Object], now: float) -> Outcome:
        pods: dict[str, list[PodView]] = {}
        before = {pod.uid: pod for known in self._known.values() for pod in known.pods}
        for pod in self._parsed(items, partial(_view_again, before=before, view=pod_view)):
            pods.setdefault(pod.workflow, []).append(pod)
        strangers, self._strangers = self._strangers, ()
        outcomes = [self._adopt(view, now, tuple(pods.get(view.name, ()))) for view in strangers]
        outcomes += [
            self._show(key, known.workflow, tuple(pods.get(known.life.name, ())), now, gap=True)
            for key, known in list(self._known.items())
        ]
        return _sum(outcomes)

    def _show(
        self, key: str, workflow: WorkflowView | None, pods: tuple[PodView, ...], now: float, *, gap: bool = False
    ) -> Outcome:
        known = self._known[key]
        if (workflow, pods) == (known.workflow, known.pods):
            return Outcome()
        known.workflow, known.pods = workflow, pods
        known.news += 1
        return self._tell(key, Saw(self._observe(known, gap=gap)), now)

    def _observe(self, known: _Known, *, fresh: bool = False, gap: bool = False) -> Observation:
        """What is the life's own: a Workflow of another launch may have the name, and its pods the label."""
        workflow = known.workflow
        if workflow is not None and workflow.attempt != known.life.attempt:
            workflow = None
        known.uid = workflow.uid if workflow is not None else known.uid
        pods = tuple(pod for pod in known.pods if pod.owner == known.uid)
        return Observation(workflow, pods, gap=gap, fresh=fresh, published=self._published(known.life.name))

    def _tell(self, key: str, fact: Fact, now: float) -> Outcome:
        known = self._known.get(key)
        if known is None:
            return Outcome()
        result = step(known.life, fact, self._clocks(now))
        known.life, known.wake_at = result.life, None
        if result.life.cleared:
            self._forget(key)
        elif result.wake_in is not None:
            known.wake_at = now + max(result.wake_in, _LEAST_WAKE)
            self._wake(known.wake_at, key)
        return Outcome(tuple(_order(key, known, wish) for wish in result.wishes), (result.life,))

    def _wake(self, at: float, key: str) -> None:
        heapq.heappush(self._wakes, (at, key))
        # Most moments are overtaken before they come, some of them hours before.
        if len(self._wakes) > 4 * len(self._known) + 64:
            wakes = ((known.wake_at, key) for key, known in self._known.items())
            self._wakes = [(at, key) for at, key in wakes if at is not None]
            heapq.heapify(self._wakes)

    def _forget(self, key: str) -> None:
        name = self._known.pop(key).life.name
        if name != key:
            self._done.add(key)
            self._orphans[name].discard(key)
            if not self._orphans[name]:
                del self._orphans[name]

    def _clocks(self, now: float) -> Now:
        if self.in_sync and not self._unheard:
            self._healthy += max(0.0, now - self._wall)
        self._wall = max(self._wall, now)
        return Now(self._healthy, self._wall)


def _order(key: str, known: _Known, wish: Wish) -> Order:
    life = known.life
    pods: dict[Uid | None, str] = {pod.uid: pod.name for pod in life.seen.pods}
    pod = pods.get(wish.uid, "") if wish.act in {Act.KILL, Act.LISTEN} else ""
    ending, detail = _ending(life)
    return Order(
        key,
        life.name,
        wish,
        credentials_secret(life.name, life.attempt),
        life.attempt,
        pod,
        life.grace,
        ending=ending,
        detail=detail,
        news=known.news,
        owner=known.uid,
    )


def _ending(life: Life) -> tuple[Reason | None, str]:
    """What will be said of the end of a job that is being ended, and the cluster's own words; see verdict.rule."""
    if life.verdict is not None:
        return life.verdict.reason, life.verdict.detail
    if life.cause is not None:
        return life.cause.value, ""
    if life.doom is None:
        return None, ""
    done = life.seen.published and life.doom.reason in DONE_TO_IT
    return Reason.SUCCEEDED if done else life.doom.reason, life.doom.detail


def _view_again(item: Object, before: Mapping[Uid, View], view: Callable[[Object], View]) -> View:
    """The view of a listed object: the one that is kept, as long as the object is the same. Thousands are listed."""
    kept = before.get(uid_of(item))
    return kept if kept is not None and kept.version == version_of(item) != 0 else view(item)


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


def _sum(outcomes: Iterable[Outcome]) -> Outcome:
    orders: list[Order] = []
    lives: list[Life] = []
    for outcome in outcomes:
        orders += outcome.orders
        lives += outcome.lives
    return Outcome(tuple(orders), tuple(lives))
