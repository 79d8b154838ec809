"""All lives of one parent: a fact in, orders out. No threads, no I/O, no clock of its own.

It keeps the two streams' latest views, tells each life what concerns it, and runs the clock that only passes
while both streams are in sync.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flargo.cluster.api import Kind
from flargo.status.life import Act, Fact, Life, Now, Saw, Stop, Submitted, Tick, Told, Wish, step
from flargo.status.verdict import Cause
from flargo.status.views import Observation, PodView, WorkflowView, pod_view, workflow_view
from flargo.terms import Object, Patience, Uid

_LEAST_WAKE = 0.2
"""Seconds: a clock that stands still must not turn a deadline into a busy loop."""


@dataclass(frozen=True, slots=True)
class Order:
    """A life's wish, with the names that performing it takes."""

    name: str
    """The Workflow's."""
    wish: Wish
    pod: str = ""
    """The pod's name, where a pod is to be killed."""
    grace: int = 0


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
    wake_at: float | None = None


class Engine:
    """See the module."""

    def __init__(self, published: Callable[[str], bool], now: float) -> None:
        """Begin with nothing known.

        Args:
            published: whether the results of a Workflow's job have reached the parent; does no I/O.
            now: seconds on a clock that never stands still.
        """
        self._published = published
        self._jobs: dict[str, _Known] = {}
        self._synced: set[Kind] = set()
        self._healthy = 0.0
        self._wall = now
        self._wakes: list[tuple[float, str]] = []

    @property
    def in_sync(self) -> bool:
        """Whether both streams are being heard."""
        return self._synced >= {Kind.WORKFLOW, Kind.POD}

    @property
    def names(self) -> tuple[str, ...]:
        """The Workflows of all jobs that are not cleared."""
        return tuple(self._jobs)

    def admit(self, name: str, patience: Patience, grace: int, now: float) -> None:
        """A new life; before its Workflow is created, so that nothing of it is missed."""
        healthy = self._clocks(now).healthy
        self._jobs[name] = _Known(Life(name, patience, grace, born=healthy, since=healthy))

    def submitted(self, name: str, error: str, now: float) -> Outcome:
        """A plan has been put on the cluster, or could not be."""
        return self._tell(name, Submitted(error), now)

    def stop(self, name: str, cause: Cause, now: float) -> Outcome:
        """FLARE wants a job ended."""
        return self._tell(name, Stop(cause), now)

    def told(self, order: Order, now: float, *, ok: bool) -> Outcome:
        """An order was performed, or was not."""
        return self._tell(order.name, Told(order.wish, ok), now)

    def tick(self, now: float) -> Outcome:
        """Time has passed."""
        due = []
        while self._wakes and self._wakes[0][0] <= now:
            at, name = heapq.heappop(self._wakes)
            known = self._jobs.get(name)
            if known is not None and known.wake_at == at:
                due.append(self._tell(name, Tick(), now))
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
        self._clocks(now)
        self._synced.add(kind)
        return self._list_workflows(items, now) if kind is Kind.WORKFLOW else self._list_pods(items, now)

    def changed(self, kind: Kind, item: Object, now: float, *, deleted: bool) -> Outcome:
        """A stream tells of one object."""
        if kind is Kind.WORKFLOW:
            view = workflow_view(item)
            known = self._jobs.get(view.name)
            if known is None:
                return Outcome()
            return self._show(view.name, _newer_workflow(known.workflow, view, deleted=deleted), known.pods, now)
        pod = pod_view(item)
        known = self._jobs.get(pod.workflow)
        if known is None:
            return Outcome()
        return self._show(pod.workflow, known.workflow, _newer_pods(known.pods, pod, deleted=deleted), now)

    def confirmed(self, name: str, workflow: Object | None, pods: Iterable[Object], now: float) -> Outcome:
        """A fresh read of one job."""
        known = self._jobs.get(name)
        if known is None:
            return Outcome()
        known.workflow = workflow_view(workflow) if workflow is not None else None
        known.pods = tuple(sorted(map(pod_view, pods), key=lambda pod: pod.name))
        return self._tell(name, Saw(self._observe(known, fresh=True)), now)

    def _list_workflows(self, items: Iterable[Object], now: float) -> Outcome:
        views = {view.name: view for view in map(workflow_view, items)}
        return _sum(self._show(name, views.get(name), known.pods, now) for name, known in list(self._jobs.items()))

    def _list_pods(self, items: Iterable[Object], now: float) -> Outcome:
        pods: dict[str, list[PodView]] = {}
        for pod in map(pod_view, items):
            pods.setdefault(pod.workflow, []).append(pod)
        return _sum(
            self._show(name, known.workflow, tuple(pods.get(name, ())), now) for name, known in list(self._jobs.items())
        )

    def _show(self, name: str, workflow: WorkflowView | None, pods: tuple[PodView, ...], now: float) -> Outcome:
        known = self._jobs[name]
        if (workflow, pods) == (known.workflow, known.pods):
            return Outcome()
        known.workflow, known.pods = workflow, pods
        return self._tell(name, Saw(self._observe(known, fresh=False)), now)

    def _observe(self, known: _Known, *, fresh: bool) -> Observation:
        workflow = known.workflow
        # A pod of an earlier Workflow of the same name may still be on its way out.
        pods = known.pods if workflow is None else tuple(pod for pod in known.pods if pod.owner == workflow.uid)
        return Observation(workflow, pods, fresh=fresh, published=self._published(known.life.name))

    def _tell(self, name: str, fact: Fact, now: float) -> Outcome:
        known = self._jobs.get(name)
        if known is None:
            return Outcome()
        result = step(known.life, fact, self._clocks(now))
        known.life, known.wake_at = result.life, None
        if result.life.cleared:
            del self._jobs[name]
        elif result.wake_in is not None:
            known.wake_at = now + max(result.wake_in, _LEAST_WAKE)
            heapq.heappush(self._wakes, (known.wake_at, name))
        return Outcome(tuple(self._order(known, wish) for wish in result.wishes), (result.life,))

    def _order(self, known: _Known, wish: Wish) -> Order:
        pods: dict[Uid | None, str] = {pod.uid: pod.name for pod in known.life.seen.pods}
        pod = pods.get(wish.uid, "") if wish.act is Act.KILL else ""
        return Order(known.life.name, wish, pod, known.life.grace)

    def _clocks(self, now: float) -> Now:
        if self.in_sync:
            self._healthy += max(0.0, now - self._wall)
        self._wall = max(self._wall, now)
        return Now(self._healthy, self._wall)


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
