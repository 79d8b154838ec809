"""Threads that are started when there is work, and never lose it: where no thread can be started, the caller is told.

A ThreadPoolExecutor is not used: when the process may have no more threads, its ``submit`` raises but keeps the task
and may run it later, and at the interpreter's exit it waits for requests that hang.
"""

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
Task = Callable[[], None]


class Workers:
    """A queue of tasks with up to a fixed number of daemon threads, which run one task at a time each."""

    def __init__(self, limit: int, name: str) -> None:
        """Start without any threads.

        Args:
            limit: the number of threads.
            name: the prefix of the threads' names.
        """
        self._limit = limit
        self._name = name
        self._changed = threading.Condition()
        self._tasks: list[tuple[float, int, Task]] = []
        """A heap of tasks, each with the time from which it is due and its number."""
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._is_closed = False

    def run(self, task: Task, delay: float = 0.0) -> bool:
        """Queue a task; return False, without keeping it, if there is no thread for it and none can be started.

        Args:
            task: the task.
            delay: seconds before it is due. No thread is occupied meanwhile.
        """
        with self._changed:
            if self._is_closed:
                return False
            has_thread = self._idle > len(self._tasks) or self._start_thread() or bool(self._threads)
            if has_thread:
                heapq.heappush(self._tasks, (time.monotonic() + delay, next(self._numbers), task))
                self._changed.notify()
            return has_thread

    def close(self, *, wait: bool = False) -> None:
        """Accept no more tasks, and end the threads. With ``wait``, queued tasks are done first; else dropped."""
        with self._changed:
            self._is_closed = True
            if not wait:
                self._tasks.clear()
            self._changed.notify_all()
        for thread in self._threads if wait else ():
            thread.join()

    def _seconds_to_next(self) -> float:
        return self._tasks[0][0] - time.monotonic() if self._tasks else math.inf

    def _start_thread(self) -> bool:
        if len(self._threads) >= self._limit:
            return False
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            _log.warning("%s: the operating system allows this process no more threads", self._name)
            return False
        self._threads.append(thread)
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._is_closed and (seconds := self._seconds_to_next()) > 0.0:
                    self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
                self._idle -= 1
                if not self._tasks:
                    return
                _, _, task = heapq.heappop(self._tasks)
            try:
                task()
            except Exception:  # noqa: BLE001  (an error of one task must not end the thread)
                _log.exception("%s: a task failed", self._name)
            # A task may hold a startup kit: drop it before waiting for the next one.
            del task
