"""The current jobs, as two watches keep them up to date. No threads and no I/O of its own."""

import threading
from collections.abc import Callable

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.status import fields
from flargo.terms import Object
from flargo.tools.jobs.attempts import fold_attempts
from flargo.tools.jobs.site_job import SiteJob, share_server_notes, site_jobs, trim

_KINDS = (Kind.WORKFLOW, Kind.POD)


class LiveJobs:
    """The listener of a watch of Workflows and of a watch of pods. Safe for threads."""

    def __init__(self, on_change: Callable[[], object]) -> None:
        """Start empty. ``on_change`` is called after every change, from the watches' threads."""
        self._on_change = on_change
        self._lock = threading.Lock()
        self._items: dict[Kind, dict[str, Object]] = {}
        self._errors: dict[Kind, ApiError] = {}
        self._on_parse_error = ParseErrorLog()

    @property
    def is_synced(self) -> bool:
        """True once both watches have delivered their first list."""
        return all(kind in self._items for kind in _KINDS)

    @property
    def watch_error(self) -> ApiError | None:
        """The error of a watch that is lost at the moment, so that the jobs may be out of date."""
        return next((self._errors[kind] for kind in _KINDS if kind in self._errors), None)

    def site_jobs(self) -> list[SiteJob]:
        """Return the jobs by the latest versions of all Workflows and pods."""
        with self._lock:
            workflows, pods = (list(self._items.get(kind, {}).values()) for kind in _KINDS)
        return share_server_notes(fold_attempts(site_jobs(workflows, pods, self._on_parse_error)))

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """Replace all objects of a kind by a fresh list. The watch is connected again."""
        del version
        with self._lock:
            self._items[kind] = {_uid(item): item for item in items}
            self._errors.pop(kind, None)
        self._on_change()

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """Replace or remove one object."""
        with self._lock:
            items = self._items.setdefault(kind, {})
            if deleted:
                items.pop(_uid(item), None)
            else:
                items[_uid(item)] = trim(item)
        self._on_change()

    def on_contact(self, kind: Kind) -> None:
        """Ignore that a watch was heard from: it changes nothing that is shown."""
        del kind

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """Keep the error of a watch that was lost, until the watch lists again."""
        with self._lock:
            self._errors[kind] = error
        self._on_change()


def _uid(item: Object) -> str:
    return fields.text(item, "metadata", "uid")
