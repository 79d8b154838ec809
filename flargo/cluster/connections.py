"""The current connection to the API server, and when the configuration is loaded again.

Loading may take long: it runs a credential plugin, or asks an identity provider. One thread loads, without holding a
lock; others use the current connection meanwhile, or wait a limited time for the first one. The configuration is
loaded

- when a request needs a connection and there is none,
- when the server has rejected the credentials (401), and this request then waits for the result,
- in the background, when the credentials are about to expire,
- in the background, when a number of requests in a row got no answer: the server may have moved, the kubeconfig been
  rewritten, or the authority been replaced.

The current connection stays in use until a new one is loaded. All this is limited in its rate.
"""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flargo.backoff import Backoff
from flargo.cluster.access import Access
from flargo.cluster.client_config import LoadConfig
from flargo.cluster.connection import Connection, CredentialCallback
from flargo.cluster.error_text import OwnError, describe

MAX_WAIT_SECONDS = 15.0
"""Seconds that a launcher's request waits for a configuration. The loading goes on, and a later request uses it."""
MAX_LOADS, LOAD_WINDOW_SECONDS = 3, 10.0
"""The loads that may begin within so many seconds: a server that rejects all credentials causes no loop."""
EXPIRY_MARGIN = timedelta(minutes=5)
"""The time before their expiry at which credentials are renewed. As long as the Python client of Kubernetes takes."""
SILENT_REQUESTS = 3
"""The requests in a row without an answer after which the configuration is loaded again."""
RENEWAL_INTERVAL_SECONDS = 30.0
"""Seconds between the beginnings of two loads in the background, at least."""
FOREIGN_LOG_INTERVAL_SECONDS = 60.0
"""Seconds between two log lines, at least, that something else than the API server answers."""
_STUCK_AFTER = Backoff((90.0, 180.0, 360.0, 720.0, 1440.0, 3600.0))
"""Seconds after which a load is given up and another may begin: longer than a plugin may take (exec_plugin.TIMEOUT). A
load that hangs in another way keeps its thread, so these become rare."""
_log = logging.getLogger(__name__)


class LoadError(OwnError):
    """There is no connection, because the configuration could not be loaded, or not in time."""


class _TooOftenError(LoadError):
    """Too many loads have begun of late."""


@dataclass(eq=False, slots=True)
class _Load:
    """One run of the loader."""

    began_at: float
    done: threading.Event = field(default_factory=threading.Event)
    connection: Connection | None = None
    error: Exception | None = None


class Connections:
    """Holds the current connection. Safe to use from many threads; no lock is held while anything is awaited."""

    def __init__(
        self,
        load_config: LoadConfig,
        on_credential: CredentialCallback,
        max_wait: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments; nothing is loaded yet.

        Args:
            load_config: reads the configuration with its credentials.
            on_credential: called with each credential before it is sent.
            max_wait: seconds that a caller waits for a configuration, which a thread of its own loads. None: the
                caller itself loads it, for as long as it takes, as befits a command whose plugin may ask a person.
            clock: returns a monotonic time in seconds.
        """
        self._load_config = load_config
        self._on_credential = on_credential
        self._max_wait = max_wait
        self._clock = clock
        self._lock = threading.Lock()
        """Guards the fields below, each time for a few instructions."""
        self._connection: Connection | None = None
        self._load: _Load | None = None
        """The load in flight."""
        self._last_error: Exception | None = None
        """The error of the last load; None if it succeeded."""
        self._starts: deque[float] = deque(maxlen=MAX_LOADS)
        """The times at which the last loads began."""
        self._stuck_loads = 0
        """The loads in a row that were given up."""
        self._unanswered = 0
        """The requests in a row that got no answer."""
        self._is_foreign = False
        """Whether the log says last that something else than the API server answers."""
        self._foreign_logged_at = -math.inf
        self._renewed_at = -math.inf
        """The time at which the last load in the background began."""
        self._insecure_servers: set[str] = set()
        """The servers about which a warning was logged."""

    def load(self) -> Connection:
        """Load the configuration, for as long as it takes.

        Raises:
            Exception: the loader raised it.
        """
        load = self._join(None)
        if not isinstance(load, _Load):
            return load
        load.done.wait()
        return _result(load)

    def current(self) -> Connection:
        """Return the current connection; wait for the first one.

        Raises:
            LoadError: there is none.
        """
        connection = self._connection
        if connection is None:
            return self._wait(self._join(None))
        expires_at = connection.access.expires_at
        # A command's plugin may ask a person, so a command uses its credentials up, as kubectl does.
        margin = EXPIRY_MARGIN if self._max_wait is not None else timedelta()
        if expires_at is not None and datetime.now(UTC) >= expires_at - margin:
            self._renew_in_background("its credentials expire soon")
        return self._connection or connection

    def replace(self, rejected: Connection) -> Connection | None:
        """Return another connection than one whose credentials the server has rejected.

        Returns:
            The connection; None if the configuration was loaded too often of late.

        Raises:
            LoadError: the configuration can't be loaded, or not in time.
        """
        try:
            return self._wait(self._join(rejected))
        except _TooOftenError:
            return None

    def on_answer(self) -> None:
        """Note that the API server has answered."""
        self._unanswered = 0
        if self._is_foreign:
            with self._lock:
                was_foreign, self._is_foreign = self._is_foreign, False
            if was_foreign:
                _log.info("Kubernetes API server answers again")

    def on_foreign_answer(self, description: str) -> None:
        """Note that something else than the API server has answered, and log it once until the server answers.

        Of several servers behind one address, one may answer so again and again.
        """
        now = self._clock()
        with self._lock:
            is_new = not self._is_foreign and now >= self._foreign_logged_at + FOREIGN_LOG_INTERVAL_SECONDS
            # A command shows the error itself.
            is_logged = is_new and self._max_wait is not None
            if is_logged:
                self._is_foreign, self._foreign_logged_at = True, now
        if is_logged:
            _log.warning("Kubernetes API server is away, and nothing is decided until it answers: %s", description)
        self.on_no_answer()

    def on_no_answer(self) -> None:
        """Note that a request got no answer; load the configuration again if that repeats."""
        with self._lock:
            self._unanswered += 1
            is_silent = self._unanswered >= SILENT_REQUESTS
        # A command's plugin may ask a person again and again, who can as well start the command again.
        if is_silent and self._max_wait is not None:
            self._renew_in_background(f"{SILENT_REQUESTS} requests in a row got no answer")

    def _renew_in_background(self, reason: str) -> None:
        with self._lock:
            now = self._clock()
            if self._is_loading(now) or now < self._renewed_at + RENEWAL_INTERVAL_SECONDS:
                return
            self._renewed_at = now
        _log.info("Kubernetes configuration is loaded again: %s", reason)
        with contextlib.suppress(_TooOftenError):
            self._join(self._connection)

    def _wait(self, load: _Load | Connection) -> Connection:
        if not isinstance(load, _Load):
            return load
        if not load.done.wait(self._max_wait):
            raise LoadError(f"the Kubernetes configuration is still being loaded after {self._max_wait:g} s")
        try:
            return _result(load)
        except Exception as error:
            raise LoadError(_unusable(error)) from error

    def _join(self, unusable: Connection | None) -> _Load | Connection:
        """Return the current connection unless it is unusable, or else the load in flight; begin one if there is none.

        Raises:
            _TooOftenError: too many loads have begun of late.
        """
        with self._lock:
            if self._connection is not unusable and self._connection is not None:
                return self._connection
            now = self._clock()
            if self._load is not None and self._is_loading(now):
                return self._load
            if len(self._starts) == MAX_LOADS and now < self._starts[0] + LOAD_WINDOW_SECONDS:
                raise _TooOftenError(_unusable(self._last_error)) from self._last_error
            self._stuck_loads += self._load is not None
            self._starts.append(now)
            load = self._load = _Load(now)
        self._begin(load)
        return load

    def _is_loading(self, now: float) -> bool:
        """Return whether a load is in flight that is not to be given up."""
        if self._load is None:
            return False
        is_stuck = now >= self._load.began_at + _STUCK_AFTER.seconds(self._stuck_loads + 1)
        return self._max_wait is None or not is_stuck  # a command's plugin may wait for a person

    def _begin(self, load: _Load) -> None:
        if self._max_wait is None:
            self._run(load)
            return
        try:
            threading.Thread(target=self._run, args=(load,), name="flargo-config", daemon=True).start()
        except RuntimeError as error:  # no more threads can be started
            self._finish(load, None, error)

    def _run(self, load: _Load) -> None:
        connection, error = None, None
        try:
            connection = Connection(self._load_config(), self._on_credential)
            self._warn_if_insecure(connection.access)
        except Exception as cause:  # noqa: BLE001  (the client's loaders and plugins may raise anything)
            error = cause
            if self._connection is not None:
                _log.warning("Kubernetes configuration can't be loaded again: %s", describe(cause))
        finally:
            self._finish(load, connection, error)

    def _warn_if_insecure(self, access: Access) -> None:
        """Say once for each server that its certificate is not verified."""
        if access.tls.is_insecure and access.server not in self._insecure_servers:
            self._insecure_servers.add(access.server)
            _log.warning(
                "The certificate of %s is not verified (insecure-skip-tls-verify): whoever can intercept the "
                "connection gets the credentials",
                access.server,
            )

    def _finish(self, load: _Load, connection: Connection | None, error: Exception | None) -> None:
        load.connection, load.error = connection, error
        with self._lock:
            if self._load is load:  # it was not given up meanwhile
                self._load, self._last_error, self._stuck_loads = None, error, 0
                if connection is not None:
                    self._connection, self._unanswered = connection, 0
        load.done.set()


def _unusable(error: Exception | None) -> str:
    problem = describe(error) if error is not None else f"it was loaded {MAX_LOADS} times in a moment"
    return f"no usable Kubernetes configuration: {problem}"


def _result(load: _Load) -> Connection:
    if load.connection is None:
        raise load.error or LoadError("the loading was interrupted")
    return load.connection
