"""The tries of a job's actions: which are due, and when an action that did not help is due again.

Every action in flight has a time at which its result counts as lost. Without it, a command that was dropped, because a
thread could not be started for example, would never be derived again.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from flargo.backoff import Backoff
from flargo.status.job_state import CONFIRM, Action, ActionKind, Retry

Retries = Mapping[Action, Retry]
LOST_AFTER = Backoff((60.0, 120.0, 300.0))
"""Seconds in flight after which a result counts as lost. A request takes half a minute at most, and may wait in the
queue of a busy parent before it is sent."""
_AFTER_FAILURE = Backoff((1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0))
_AFTER_READ = Backoff((1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0))
"""The wait after a fresh read that concluded nothing; a change that a watch delivers ends it."""
_AFTER_SUCCESS = Backoff((5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0))
"""The wait after an action that was accepted and has had no effect yet."""
_POD_LAG = 5.0
"""Seconds that the deletion of a pod gets in addition, beyond its grace period."""
_MAX_HELD_SECONDS = 300.0
"""Seconds after which an action that was held back is derived again, in case that it no longer waits to be sent."""

_REMEMBERED = frozenset({ActionKind.RESUME, ActionKind.RELEASE})
"""Actions whose tries count on although they have worked: somebody may undo them again and again."""


def take_due(retries: Retries, wanted: Iterable[Action], wall: float) -> tuple[tuple[Action, ...], Retries]:
    """Return the wanted actions that are due, and the retries with these in flight and without most unwanted ones."""
    wanted = tuple(wanted)
    due = tuple(action for action in wanted if action not in retries or retries[action].not_before <= wall)
    in_flight = {action: _sent(retries.get(action, Retry(wall)), wall) for action in due}
    kept = {action: retry for action, retry in retries.items() if action in wanted or action.kind in _REMEMBERED}
    return due, MappingProxyType(kept | in_flight)


def _sent(retry: Retry, wall: float) -> Retry:
    """Return the retry of an action that is sent now. A try that is still in flight has been lost."""
    failures = retry.failures + retry.is_in_flight
    return Retry(wall + LOST_AFTER.seconds(failures + 1), retry.tries, failures, is_in_flight=True)


def held(retries: Retries, action: Action, wall: float) -> Retries:
    """Return the retries with a due action that waits before it is sent. It is derived again if it waits for long."""
    retry = retries[action]
    return MappingProxyType({**retries, action: Retry(wall + _MAX_HELD_SECONDS, retry.tries, retry.failures)})


def sent(retries: Retries, action: Action, wall: float) -> Retries:
    """Return the retries with a held action that is sent now."""
    return MappingProxyType({**retries, action: _sent(retries[action], wall)})


def after_result(retries: Retries, action: Action, wall: float, *, ok: bool, grace: int) -> Retries:
    """Return the retries after an action was accepted (``ok``) or failed; ``grace`` is the job's grace period."""
    retry = retries.get(action, Retry(wall))
    if not ok:
        wait = _AFTER_FAILURE.seconds(retry.failures + 1)
        return MappingProxyType({**retries, action: Retry(wall + wait, retry.tries, retry.failures + 1)})
    wait = _AFTER_SUCCESS.seconds(retry.tries + 1) + (grace + _POD_LAG if action.kind is ActionKind.DELETE_POD else 0.0)
    return MappingProxyType({**retries, action: Retry(wall + wait, retry.tries + 1)})


def after_observation(retries: Retries, wall: float, *, is_fresh: bool, max_wait: float = math.inf) -> Retries:
    """Return the retries after the job's objects were read (``is_fresh``), or after a watch has delivered a change.

    After a change the next fresh read is due at once, unless one is in flight. After a read it is due in ``max_wait``
    seconds at the latest.
    """
    confirm = retries.get(CONFIRM, Retry(wall))
    others = {action: retry for action, retry in retries.items() if action != CONFIRM}
    if is_fresh:
        reads = confirm.tries + 1
        return MappingProxyType({**others, CONFIRM: Retry(wall + _AFTER_READ.seconds(reads, limit=max_wait), reads)})
    return retries if confirm.is_in_flight else MappingProxyType(others)
