"""The reconciler of all jobs of one FLARE parent: inputs in, commands out. No threads, no I/O, no clock of its own.

``Reconciler.handle(input, now)`` is its only entry point. It keeps the latest views from the two watches (Workflows and
pods), passes each job's inputs to ``flargo.status.reconcile.reconcile``, and turns the resulting actions into commands
for flargo.control.loop.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from flargo.cluster.api import Kind
from flargo.control.adoption import Decision, decide
from flargo.control.budget import FREE_REPEATS, Budget
from flargo.control.cleaning import Cleaning
from flargo.control.clocks import Clocks
from flargo.control.command import Command, build_command
from flargo.control.inputs import (
    Admitted,
    Adopted,
    Changed,
    CommandDone,
    Contact,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    Reserved,
    SiteInput,
    TimePassed,
    Unanswered,
    WatchLost,
    WorkflowCreated,
)
from flargo.control.latest_views import (
    SitePods,
    View,
    differs_in_notes_only,
    has_same_status,
    is_up_to_date,
    merge_pod,
    merge_workflow,
    reuse_view,
)
from flargo.control.result import Notice, Result, merge_results
from flargo.control.timers import Timers
from flargo.status import retries
from flargo.status.fields import OnParseError, parse_each
from flargo.status.job_state import (
    CONFIRM,
    Action,
    ActionDone,
    ActionKind,
    EventsListed,
    Input,
    JobState,
    Now,
    Observed,
    Step,
    Tick,
)
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.reconcile import reconcile
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import (
    Observation,
    PodView,
    WorkflowView,
    event_view,
    pod_view,
    workflow_view,
)
from flargo.terms import Object, StartTimeouts, Uid

_DEFECT_RETRY_SECONDS = 30.0
"""Seconds after which a job is reconciled again whose reconciliation has raised an exception."""
_KILLS = frozenset({ActionKind.SHUTDOWN, ActionKind.DELETE_POD, ActionKind.DELETE_WORKFLOW})
"""The actions that end a program."""
_FREE_AGAIN_SECONDS = 60.0
"""Seconds between two lists after which the first repeats are free again: a watch may be cut every few seconds."""
_MAX_DISCARDED_READS = 3
"""Fresh reads in a row that are discarded without a look at the versions of their objects."""
_MIN_REQUEUE_SECONDS = 0.2
"""Minimum seconds between two ticks of a job: while the healthy clock stands still, a deadline comes no closer."""


@dataclass(slots=True)
class _Tracked:
    """A job's state with the latest views of its objects."""

    state: JobState
    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    workflow_uid: Uid | None = None
    """The uid of the job's Workflow, once that was observed. Only pods that this Workflow owns belong to the job."""
    revision: int = 0
    """The number of changes that the watches have delivered and that a conclusion may depend on."""
    awaits_read: bool = False
    """An orphan that seems to be over: nothing is decided about it before a fresh read."""
    discarded_reads: int = 0
    """The fresh reads in a row that were discarded, because the watches have shown something else meanwhile."""
    sent: Counter[Action] = field(default_factory=Counter)
    """How often each action was sent; not fresh reads, since a change of the objects asks for a new one."""

    def note_sent(self, action: Action) -> None:
        """Count an action that is sent."""
        if action.kind is not ActionKind.CONFIRM:
            self.sent[action] += 1


class Reconciler:
    """Tracks all jobs of one parent, and ends the Workflows of its site that no launch follows (orphans)."""

    def __init__(
        self,
        has_results: Callable[[str], bool],
        now: float,
        *,
        epoch: str = "",
        grace: int = 1,
        on_parse_error: OnParseError = lambda *_: None,
        on_job_error: Callable[[str, Exception], None] = lambda *_: None,
        redact: Callable[[str], str] = lambda text: text,
    ) -> None:
        """Start without any jobs.

        Args:
            has_results: returns whether the results of a Workflow's job have reached the parent; does no I/O.
            now: the current time, in seconds on a monotonic clock.
            epoch: the epoch of this run of the parent. The site's Workflows that no launch of this run follows are
                orphans, and are ended (flargo.control.adoption); empty: none is.
            grace: seconds between SIGTERM and SIGKILL for orphans.
            on_parse_error: called with each object that could not be parsed and is skipped; does no I/O.
            on_job_error: called with a Workflow's name and the exception that reconciling its job has raised.
            redact: removes the credentials of running jobs from a verdict's detail; does no I/O.
        """
        self.on_handled: Callable[[SiteInput, Result], None] = lambda *_: None
        """Called with each input and its result once the input was handled, to record both."""
        self._on_parse_error = on_parse_error
        self._on_job_error = on_job_error
        self._redact = redact
        self._has_results = has_results
        self._epoch = epoch
        self._grace = grace
        # The key of a launched job is its Workflow's name, that of an orphan its Workflow's uid: a job may be launched
        # again while the orphan of its earlier launch is still being ended.
        self._tracked: dict[str, _Tracked] = {}
        self._orphans: dict[str, set[str]] = {}
        """The keys of orphans by their Workflows' names."""
        self._forgotten: dict[str, float] = {}
        """The uids of Workflows that were followed and need no more actions, each with its version at that time, which
        is infinite if it was deleted."""
        self._unmatched: dict[str, WorkflowView] = {}
        """The Workflows, by uid, that nobody followed when the pods were not known."""
        self._reserved: frozenset[str] = frozenset()
        """The names of Workflows that may still be adopted."""
        self._awaiting_adoption: dict[str, WorkflowView] = {}
        """The Workflows, by uid, that have such names."""
        self._cleaning = Cleaning()
        self._pods = SitePods()
        self._budget = Budget(now)
        self._free_again_at = now
        """The time from which a list makes the first repeats free again."""
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

    def may_have_other_pods(self, name: str, uid: Uid) -> bool:
        """Return whether there may be pods of another Workflow of this name. Any thread may call this."""
        return not self._clocks.has_synced or any(pod.owner_uid != uid for pod in self._pods.of(name))

    def handle(self, input_: SiteInput, now: float) -> Result:
        """Handle an input; return the commands to perform and the states that have changed.

        Args:
            input_: what happened.
            now: the current time, in seconds on a monotonic clock.
        """
        result = merge_results((self._dispatch(input_, now), self._spend_budget(now)))
        self.on_handled(input_, result)
        return result

    def _dispatch(self, input_: SiteInput, now: float) -> Result:
        match input_:
            case Admitted() | Adopted() | Reserved() | JobInput() | WorkflowCreated():
                return self._on_launch_input(input_, now)
            case Listed() | Changed() | WatchLost():
                return self._on_watch_input(input_, now)
            case ObjectsRead() | PodEventsRead() | CommandDone() | Unanswered():
                return self._on_command_result(input_, now)
            case TimePassed():
                return self._on_time_passed(now)
            case Contact():
                self._clocks.note_contact(now)
                return Result()

    def _on_launch_input(
        self, input_: Admitted | Adopted | Reserved | JobInput | WorkflowCreated, now: float
    ) -> Result:
        match input_:
            case Admitted():
                return self._on_admitted(input_, now)
            case Adopted():
                return self._on_adopted(input_, now)
            case Reserved(names):
                return self._on_reserved(names, now)
            case JobInput(name, attempt, job_input):
                return self._apply_to_launch(name, attempt, job_input, now)
            case WorkflowCreated():
                return self._on_workflow_created(input_, now)

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
        waits = self._budget.next_for_cleaning_at() if self._cleaning.has_queued else self._budget.next_at()
        return min((at for at in (self._timers.next_at(), waits) if at is not None), default=None)

    def _on_time_passed(self, now: float) -> Result:
        return merge_results([self._apply(key, Tick(), now) for key in self._timers.take_due(now)])

    # --- inputs about launches

    def _on_admitted(self, job: Admitted, now: float) -> Result:
        self._tracked[job.name] = _Tracked(self._initial_state(job, now))
        return Result()

    def _on_adopted(self, job: Adopted, now: float) -> Result:
        """Follow a launch of an earlier run, as the watches show it. It may have ended, and be gone by then."""
        state = self._initial_state(job, now)
        state = replace(state, is_adopted=True, is_submitting=False, submitted_at=state.created_at)
        tracked = _Tracked(state, workflow_uid=job.uid)
        self._tracked[job.name] = tracked
        view = self._awaiting_adoption.pop(job.uid, None)
        if view is None:
            return self._apply(job.name, Tick(), now)
        tracked.workflow, tracked.pods = view, self._pods.of(job.name)
        return self._apply(job.name, Observed(self._observe(tracked, after_relist=True)), now)

    def _initial_state(self, job: Admitted | Adopted, now: float) -> JobState:
        healthy = self._clocks.advance(now).healthy
        return JobState(
            job.name,
            job.attempt,
            job.timeouts,
            job.grace,
            created_at=healthy,
            stage_since=healthy,
            keeps_secret=job.keeps_secret,
        )

    def _on_reserved(self, names: frozenset[str], now: float) -> Result:
        self._reserved = names
        waiting, self._awaiting_adoption = self._awaiting_adoption, {}
        return merge_results([self._consider(view, now) for view in waiting.values()])

    def _on_workflow_created(self, created: WorkflowCreated, now: float) -> Result:
        tracked = self._find(created.name, created.attempt)
        if tracked is None:
            return Result()
        self._clocks.note_contact(now)
        return merge_results(
            self._update_views(created.name, merge_workflow(tracked.workflow, view, deleted=False), tracked.pods, now)
            for view in self._parse([created.item], workflow_view)
        )

    # --- inputs from the watches

    def _on_listed(self, kind: Kind, items: Iterable[Object], now: float) -> Result:
        self._clocks.note_listed(kind, now)
        result = self._on_workflows_listed(items, now) if kind is Kind.WORKFLOW else self._on_pods_listed(items, now)
        return merge_results((result, self._reset_backoff(now)))

    def _on_changed(self, change: Changed, now: float) -> Result:
        self._clocks.note_contact(now)
        if change.kind is Kind.WORKFLOW:
            views = self._parse([change.item], workflow_view)
            return merge_results(self._on_workflow_changed(view, now, deleted=change.deleted) for view in views)
        return merge_results(
            self._on_pod_changed(pod, now, deleted=change.deleted) for pod in self._parse([change.item], pod_view)
        )

    # --- results of commands

    def _on_objects_read(self, read: ObjectsRead, now: float) -> Result:
        """Handle a fresh read of one job's objects.

        If a watch has delivered a change since the read was requested, the read may be older than that change. It is
        then discarded, and requested again at once if it is still wanted. Somebody may change an object faster than it
        is read, so the fourth in a row is used if the versions of its objects show that it is not older; else the next
        ones take tokens.
        """
        self._clocks.note_contact(now)
        command = read.command
        tracked = self._find(command.key, command.attempt)
        if tracked is None:
            return Result()
        workflow_items = [read.workflow] if read.workflow is not None else []
        workflow_views = [*self._parse(workflow_items, workflow_view)]
        pod_views = [*self._parse(read.pods, pod_view)]
        is_parsed = (len(workflow_views), len(pod_views)) == (len(workflow_items), len(read.pods))
        workflow = workflow_views[0] if workflow_views else None
        if tracked.revision != command.revision and not (
            is_parsed
            and tracked.discarded_reads >= _MAX_DISCARDED_READS
            and is_up_to_date(workflow, pod_views, tracked.workflow, tracked.pods)
        ):
            # Not a failure, which would be retried with backoff.
            tracked.discarded_reads += 1
            tracked.state = tracked.state.with_due(command.action)
            return self._apply(command.key, Tick(), now)
        if not is_parsed:
            # An object that cannot be parsed exists nevertheless, so this read proves nothing.
            return self._apply(command.key, ActionDone(command.action, ok=False), now)
        tracked.discarded_reads, tracked.awaits_read = 0, False
        tracked.workflow = workflow
        tracked.pods = tuple(sorted(pod_views, key=lambda pod: pod.name))
        self._pods.update(tracked.state.name, tracked.pods)
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
        parse = partial(reuse_view, latest=latest, view=workflow_view)
        views = {view.name: view for view in self._parse(items, parse)}
        uids = {view.uid for view in views.values()}
        self._forgotten = {uid: version for uid, version in self._forgotten.items() if uid in uids}
        self._unmatched.clear()
        self._awaiting_adoption.clear()
        self._cleaning.keep(uids)
        results = [self._consider(view, now) for view in views.values()]
        results += [
            self._update_views(key, views.get(tracked.state.name), tracked.pods, now, after_relist=True)
            for key, tracked in list(self._tracked.items())
        ]
        return merge_results(results)

    def _on_pods_listed(self, items: Iterable[Object], now: float) -> Result:
        self._pods.replace_all(self._parse(items, partial(reuse_view, latest=self._pods.by_uid(), view=pod_view)))
        workflows, self._unmatched = self._unmatched, {}
        results = [self._consider(view, now) for view in workflows.values()]
        results += [
            self._update_views(key, tracked.workflow, self._pods.of(tracked.state.name), now, after_relist=True)
            for key, tracked in list(self._tracked.items())
        ]
        return merge_results(results)

    def _on_workflow_changed(self, view: WorkflowView, now: float, *, deleted: bool) -> Result:
        if deleted:
            self._forgotten[view.uid] = math.inf
            self._unmatched.pop(view.uid, None)
            self._awaiting_adoption.pop(view.uid, None)
            self._cleaning.unqueue(view.uid)
        orphan = Result() if deleted else self._consider(view, now)
        updates = (
            self._update_views(key, merge_workflow(tracked.workflow, view, deleted=deleted), tracked.pods, now)
            for key, tracked in self._tracked_by_name(view.name)
        )
        return merge_results((orphan, *updates))

    def _on_pod_changed(self, pod: PodView, now: float, *, deleted: bool) -> Result:
        self._pods.change(pod, deleted=deleted)
        deleted_pod = pod if deleted else None
        return merge_results(
            self._update_views(
                key, tracked.workflow, merge_pod(tracked.pods, pod, deleted=deleted), now, deleted_pod=deleted_pod
            )
            for key, tracked in self._tracked_by_name(pod.workflow_name)
        )

    def _parse(self, items: Iterable[Object], view: Callable[[Object], View]) -> Iterator[View]:
        return parse_each(items, view, self._on_parse_error)

    def _tracked_by_name(self, name: str) -> list[tuple[str, _Tracked]]:
        """Return the jobs with a Workflow name: a launched job, and orphans of earlier launches of the same job."""
        keys = [name, *self._orphans.get(name, ())]
        return [(key, self._tracked[key]) for key in keys if key in self._tracked]

    def _reset_backoff(self, now: float) -> Result:
        """Retry at once what has failed, since it may have failed because the API server was away.

        Those tries do not count against the free ones, at most once a minute.
        """
        keys = []
        is_free_again = now >= self._free_again_at
        if is_free_again:
            self._free_again_at = now + _FREE_AGAIN_SECONDS
        for key, tracked in self._tracked.items():
            if is_free_again:
                tracked.sent.clear()
            state = tracked.state.without_backoff()
            if state.retries != tracked.state.retries:
                tracked.state = state
                keys.append(key)
        return merge_results([self._apply(key, Tick(), now) for key in keys])

    # --- Workflows that no launch follows

    def _consider(self, view: WorkflowView, now: float) -> Result:
        """Decide what happens to a Workflow of the site; if nobody follows it and it is not over, begin to end it."""
        launched = self._tracked.get(view.name)
        if launched is None and view.name in self._reserved:
            self._awaiting_adoption[view.uid] = view
            return Result()
        is_followed = view.uid in self._tracked or (launched is not None and _is_launched_as(view, launched))
        decision = decide(
            view,
            self._pods.owned_by(view),
            self._epoch,
            is_followed=is_followed,
            forgotten_at=self._forgotten.get(view.uid),
        )
        if decision in {Decision.FOLLOWED, Decision.OVER}:
            return Result()
        if Kind.POD not in self._clocks.synced:
            self._unmatched[view.uid] = view
            return Result()
        if decision is Decision.CLEAN:
            self._cleaning.queue(view)
            return Result()
        self._cleaning.unqueue(view.uid)
        notice = Notice(f"{view.name}: no launch of this FLARE parent follows this Workflow; ending it")
        return merge_results((Result(notices=(notice,)), self._track_orphan(view, now)))

    def _track_orphan(self, view: WorkflowView, now: float, *, is_over: bool = False) -> Result:
        """Track a Workflow that no launch follows. If it is over (``is_over``), only its Secret is deleted."""
        healthy = self._clocks.advance(now).healthy
        state = JobState(
            view.name,
            view.attempt,
            StartTimeouts(),
            self._grace,
            created_at=healthy,
            is_submitting=False,
            cause=Cause.NOT_LAUNCHED if view.parent == self._epoch else Cause.ORPHANED,
            stage_since=healthy,
            verdict=Verdict(Reason.ORPHANED, int(ReturnCode.LOST)) if is_over else None,
            verdict_at=healthy if is_over else math.inf,
            confirmed_gone=is_over,
            # The Secret's name contains the launch's id. Without an id, no Secret can be identified as its own.
            secret_deleted=not view.attempt,
        )
        # The two lists have no order between them. If Argo has recorded the step's end, an exit handler may run. A
        # shutdown would end that because of a pod in a list that is older.
        awaits_read = view.is_step_done and not (view.is_completed or is_over)
        orphan = _Tracked(state, view, self._pods.of(view.name), awaits_read=awaits_read)
        self._tracked[view.uid] = orphan
        self._orphans.setdefault(view.name, set()).add(view.uid)
        return self._apply(view.uid, Observed(self._observe(orphan)), now)

    # --- the budget

    def _spend_budget(self, now: float) -> Result:
        """Send what has waited for a token, then clean up after finished Workflows with what is left."""
        results = []
        while (entry := self._budget.take_next(now)) is not None:
            results.append(self._send_held(*entry, now))
        while self._cleaning.has_queued and self._budget.take_for_cleaning(now):
            view = self._cleaning.begin_next()
            if view.uid not in self._tracked:
                results.append(self._track_orphan(view, now, is_over=True))
        return merge_results(results)

    def _send_held(self, key: str, action: Action, now: float) -> Result:
        tracked = self._tracked.get(key)
        if tracked is None or action not in tracked.state.retries:
            return Result()  # It is no longer wanted, or is derived again.
        state = tracked.state
        tracked.state = replace(state, retries=retries.sent(state.retries, action, self._clocks.advance(now).wall))
        tracked.note_sent(action)
        others = self._apply(key, Tick(), now)
        is_wanted = key in self._tracked and action in tracked.state.retries
        return merge_results((Result((_command(key, tracked, action),)) if is_wanted else Result(), others))

    def _may_go(self, key: str, tracked: _Tracked, action: Action, now: float) -> bool:
        retry = tracked.state.retries[action]
        discarded = tracked.discarded_reads if action.kind is ActionKind.CONFIRM else 0
        tries = max(tracked.sent[action], retry.tries + retry.failures, discarded)
        is_repeated = tries > _free_repeats(tracked.state, action)
        awaits_controller = action.kind is ActionKind.CONFIRM and _awaits_controller(tracked.state)
        goes = self._budget.may_go(key, action, now, is_repeated=is_repeated, awaits_controller=awaits_controller)
        if goes:
            tracked.note_sent(action)
        return goes

    # --- single jobs

    def _update_views(
        self,
        key: str,
        workflow: WorkflowView | None,
        pods: tuple[PodView, ...],
        now: float,
        *,
        after_relist: bool = False,
        deleted_pod: PodView | None = None,
    ) -> Result:
        tracked = self._tracked[key]
        old = tracked.workflow
        if pods == tracked.pods:
            if workflow == old:
                return Result()
            if workflow is not None and old is not None and differs_in_notes_only(workflow, old):
                return self._update_notes(key, workflow, now)
        if workflow is not old and not has_same_status(workflow, old):
            self._budget.note_progress(now)
        if CONFIRM in self._budget.waiting(key):
            # It waits as the repetition of a read that concluded nothing. A read would show something new now.
            self._budget.withdraw(key, CONFIRM)
            tracked.state = tracked.state.with_due(CONFIRM)
        tracked.workflow, tracked.pods = workflow, pods
        tracked.revision += 1
        observation = self._observe(tracked, after_relist=after_relist, deleted_pod=deleted_pod)
        return self._apply(key, Observed(observation), now)

    def _update_notes(self, key: str, workflow: WorkflowView, now: float) -> Result:
        """Take over changed annotations of a Workflow. No conclusion depends on them, so they ask for no fresh read."""
        tracked = self._tracked[key]
        observation = tracked.state.observation
        if observation.workflow is not None and observation.workflow == tracked.workflow:
            observation = replace(observation, workflow=workflow)
        tracked.workflow, tracked.state = workflow, replace(tracked.state, observation=observation)
        return self._apply(key, Tick(), now)

    def _observe(
        self,
        tracked: _Tracked,
        *,
        is_fresh: bool = False,
        after_relist: bool = False,
        deleted_pod: PodView | None = None,
    ) -> Observation:
        """Return the job's own objects: another launch's Workflow may have the same name, and its pods the label.

        The pod that runs the program stays the job's own if its Workflow is deleted and it has lost its owner.
        """
        first_uid = tracked.state.first_pod_uid
        workflow = tracked.workflow
        if workflow is not None and not _is_launched_as(workflow, tracked):
            workflow = None
        tracked.workflow_uid = workflow.uid if workflow is not None else tracked.workflow_uid
        return Observation(
            workflow,
            tuple(
                pod
                for pod in tracked.pods
                if pod.owner_uid == tracked.workflow_uid or (not pod.owner_uid and pod.uid == first_uid)
            ),
            deleted_pod=deleted_pod,
            after_relist=after_relist,
            is_fresh=is_fresh,
            has_results=self._has_results(tracked.state.name),
        )

    def _apply(self, key: str, input_: Input, now: float) -> Result:
        tracked = self._tracked.get(key)
        if tracked is None:
            return Result()
        is_fresh = isinstance(input_, Observed) and input_.observation.is_fresh
        decide_step = _request_read if tracked.awaits_read and not is_fresh else reconcile
        try:
            step = self._redact_verdict(tracked.state, decide_step(tracked.state, input_, self._clocks.advance(now)))
        except Exception as error:  # noqa: BLE001  (a defect about one job must not stop the others)
            self._on_job_error(tracked.state.name, error)
            self._timers.set(key, now + _DEFECT_RETRY_SECONDS)
            return Result()
        tracked.state, wall = step.state, self._clocks.advance(now).wall
        for action in self._budget.waiting(key):
            if action not in step.state.retries:
                self._budget.withdraw(key, action)
        commands: list[Command] = []
        for action in step.actions:
            if self._may_go(key, tracked, action, now):
                commands.append(_command(key, tracked, action))
            else:
                tracked.state = replace(tracked.state, retries=retries.held(tracked.state.retries, action, wall))
        self._timers.cancel(key)
        if step.state.is_cleared:
            return merge_results((Result(states=(step.state,)), self._forget(key)))
        if step.requeue_after is not None:
            self._timers.set(key, now + max(step.requeue_after, _MIN_REQUEUE_SECONDS))
        return Result(tuple(commands), (tracked.state,))

    def _redact_verdict(self, before: JobState, step: Step) -> Step:
        """Return a step without credentials in a new verdict.

        The verdict's detail is also written after its report, which ends the redaction of the job's credentials.
        """
        verdict = step.state.verdict
        if verdict is None or before.verdict is not None or (detail := self._redact(verdict.detail)) == verdict.detail:
            return step
        return replace(step, state=replace(step.state, verdict=replace(verdict, detail=detail)))

    def _forget(self, key: str) -> Result:
        """Forget a job about which nothing is left to do, and have that noted on its Workflow, if it exists."""
        tracked = self._tracked.pop(key)
        self._budget.withdraw(key)
        name, workflow = tracked.state.name, tracked.state.observation.workflow
        if tracked.workflow_uid is not None:
            self._forgotten[tracked.workflow_uid] = workflow.version if workflow is not None else math.inf
        notices = self._forget_orphan(key, tracked) if name != key else ()
        needs_mark = workflow is not None and not (workflow.cleared or workflow.deleting)
        mark = Action(ActionKind.MARK_CLEARED, tracked.workflow_uid)
        return Result((_command(key, tracked, mark),) if needs_mark else (), notices=notices)

    def _forget_orphan(self, key: str, tracked: _Tracked) -> tuple[Notice, ...]:
        name = tracked.state.name
        self._orphans[name].discard(key)
        if not self._orphans[name]:
            del self._orphans[name]
        if self._cleaning.finish(key):
            count = self._cleaning.take_count()
            text = f"{count} finished Workflows of earlier runs: credentials checked"
            return (Notice(text),) if count else ()
        is_left = tracked.state.cause is Cause.ORPHANED
        what = "left behind by another run of this FLARE parent" if is_left else "that no launch of this parent follows"
        return (Notice(f"{name}: Workflow {what} was ended", is_warning=True),)


def _is_launched_as(workflow: WorkflowView, tracked: _Tracked) -> bool:
    """Return whether a Workflow is the one that a launch has created. Once its uid is known, only that counts."""
    if tracked.workflow_uid is not None:
        return workflow.uid == tracked.workflow_uid
    return workflow.attempt == tracked.state.attempt


def _request_read(state: JobState, input_: Input, now: Now) -> Step:
    """Return the step of a job about which nothing is decided before a fresh read: only that read is wanted."""
    tries = state.retries
    if isinstance(input_, ActionDone):
        tries = retries.after_result(tries, input_.action, now.wall, ok=input_.ok, grace=state.grace)
    due, tries = retries.take_due(tries, (CONFIRM,), now.wall)
    return Step(replace(state, retries=tries), due, max(0.0, tries[CONFIRM].not_before - now.wall))


def _free_repeats(state: JobState, action: Action) -> int:
    """Return how many repeats of an action take no token: those of a kill, and of the read for the verdict."""
    is_urgent = action.kind in _KILLS or (action.kind is ActionKind.CONFIRM and state.verdict is None)
    return FREE_REPEATS if is_urgent else 0


def _awaits_controller(state: JobState) -> bool:
    """Return whether a job only waits until Argo completes its Workflow, which a watch will show."""
    workflow, pods = state.observation.workflow, state.observation.pods
    is_open = workflow is not None and not workflow.is_completed
    return state.verdict is not None and is_open and all(pod.is_terminal for pod in pods)


def _command(key: str, tracked: _Tracked, action: Action) -> Command:
    return build_command(key, tracked.state, action, revision=tracked.revision, workflow_uid=tracked.workflow_uid)
