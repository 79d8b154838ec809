"""The queue of commands: by priority, with a limit for each kind, so that no kind of command starves another.

A hundred patches that hang in an admission webhook occupy the workers of their own kind, and another job's kill or
fresh read is sent at once.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from types import MappingProxyType

from flargo.control.command import MOST_URGENT_FIRST, Command
from flargo.control.inputs import CommandDone, SiteInput
from flargo.control.workers import Workers
from flargo.status.job_state import Action, ActionKind

LIMITS = MappingProxyType(
    {
        ActionKind.DELETE_POD: 6,
        ActionKind.CONFIRM: 8,
        ActionKind.SHUTDOWN: 6,
        ActionKind.DELETE_WORKFLOW: 2,
        ActionKind.RESUME: 2,
        ActionKind.RELEASE: 2,
        ActionKind.LIST_EVENTS: 3,
        ActionKind.TOUCH: 2,
        ActionKind.NOTE_REASON: 2,
        ActionKind.DELETE_SECRET: 2,
        ActionKind.MARK_CLEARED: 1,
    }
)
"""The number of commands of each kind that are performed at the same time."""
MAX_WORKERS = sum(LIMITS.values())
"""Threads if every kind has as many commands as it may. Where the system allows fewer, the most urgent come first."""
_log = logging.getLogger(__name__)
_Id = tuple[str, str, Action]


class CommandQueue:
    """Performs commands on its own threads, and reports their results as inputs."""

    def __init__(
        self, perform: Callable[[Command], tuple[SiteInput, ...]], on_result: Callable[[SiteInput], None]
    ) -> None:
        """Start without any commands.

        Args:
            perform: performs a command and returns its results; called on the queue's threads.
            on_result: called with each result, on any thread. Every command has at least one.
        """
        self._perform = perform
        self._on_result = on_result
        self._lock = threading.Lock()
        self._queued: dict[ActionKind, dict[_Id, Command]] = {kind: {} for kind in MOST_URGENT_FIRST}
        self._busy: Counter[ActionKind] = Counter()
        """The commands of each kind that are being performed."""
        self._working = 0
        """The threads that look for commands, or are about to."""
        self._workers = Workers(MAX_WORKERS, "flargo-perform")

    def put(self, command: Command) -> None:
        """Queue a command. One that is queued for the same action already, and not started, is replaced by it."""
        queued, id_ = self._queued[command.action.kind], (command.key, command.attempt, command.action)
        with self._lock:
            queued[id_] = command
            needs_thread = self._working < self._wanted_threads()
            self._working += needs_thread
        if not needs_thread or self._workers.run(self._work):
            return
        with self._lock:
            self._working -= 1
            was_queued = queued.pop(id_, None) is not None
        if was_queued:
            _log.warning("%s: no thread is left to %s", command.name, command.action.kind.value)
            self._on_result(CommandDone(command, ok=False))

    def close(self) -> None:
        """Drop the commands that are queued, and end the threads when their requests have ended."""
        self._workers.close()

    def _work(self) -> None:
        """Perform commands until there is none that may be performed now.

        A command that is left, because too many of its kind are being performed, is taken by a thread that performs
        one of those.
        """
        while (command := self._take()) is not None:
            try:
                results = self._perform(command)
            except Exception:  # noqa: BLE001  (a command without a result would never be retried)
                _log.exception("%s: failed to %s", command.name, command.action.kind.value)
                results = (CommandDone(command, ok=False),)
            with self._lock:
                self._busy[command.action.kind] -= 1
            for result in results:
                self._on_result(result)

    def _take(self) -> Command | None:
        with self._lock:
            for kind, queued in self._queued.items():
                if queued and self._busy[kind] < LIMITS[kind]:
                    self._busy[kind] += 1
                    return queued.pop(next(iter(queued)))
            self._working -= 1
        return None

    def _wanted_threads(self) -> int:
        return sum(min(self._busy[kind] + len(queued), LIMITS[kind]) for kind, queued in self._queued.items())
