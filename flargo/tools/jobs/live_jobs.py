"""What two watches tell of jobs, put together. No threads and no I/O of its own."""

import threading
from collections.abc import Callable

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.status import fields
from flargo.terms import Object
from flargo.tools.jobs.site_job import SiteJob, site_jobs, trim

_KINDS = (Kind.WORKFLOW, Kind.POD)


class LiveJobs:
    """Listens to a watch of Workflows and one of pods. Safe for threads."""

    def __init__(self, changed: Callable[[], object]) -> None:
        """Know nothing yet; ``changed`` is called when there is something new."""
        self._changed = changed
        self._lock = threading.Lock()
        self._items: dict[Kind, dict[str, Object]] = {}
        self._lost: dict[Kind, ApiError] = {}
        self._on_parse_error = ParseErrorLog()

    @property
    def in_sync(self) -> bool:
        """Whether both watches have begun."""
        return all(kind in self._items for kind in _KINDS)

    @property
    def trouble(self) -> ApiError | None:
        """Why what is shown may be out of date."""
        return next((self._lost[kind] for kind in _KINDS if kind in self._lost), None)

    def parts(self) -> list[SiteJob]:
        """The jobs as they are now."""
        with self._lock:
            workflows, pods = (list(self._items.get(kind, {}).values()) for kind in _KINDS)
        return site_jobs(workflows, pods, self._on_parse_error)

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """See Listener."""
        del version
        with self._lock:
            self._items[kind] = {_uid(item): item for item in items}
            self._lost.pop(kind, None)
        self._changed()

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """See Listener."""
        with self._lock:
            known = self._items.setdefault(kind, {})
            if deleted:
                known.pop(_uid(item), None)
            else:
                known[_uid(item)] = trim(item)
        self._changed()

    def on_contact(self, kind: Kind) -> None:
        """See Listener."""
        del kind

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """See Listener."""
        with self._lock:
            self._lost[kind] = error
        self._changed()


def _uid(item: Object) -> str:
    return fields.text(item, "metadata", "uid")
