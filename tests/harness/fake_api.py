"""API clients whose server is a store in memory.

A name is used once, and a write with a wrong uid or an old resourceVersion is refused.
"""

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, NoReturn

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.terms import Object, Uid


class MemoryApi(Api):
    """Stores what it is sent.

    ``trouble`` is called with the request's number and ``before`` or ``after``, before and after each request takes
    effect. It may raise: the request is then refused, or its answer is lost.
    """

    def __init__(self, trouble: Callable[[int, str], None] | None = None) -> None:
        super().__init__(connect_to_nothing, "flare")
        self.store: dict[tuple[Kind, str], Object] = {}
        self.requests = 0
        self.trouble = trouble or (lambda *_: None)
        self.server_clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        """The server's wall clock, from which a Lease's managedFields have their time."""
        self._uids = 0
        self._version = 0

    server = "https://cluster.example"

    def create(self, kind: Kind, item: Object) -> Object:
        return self._answer(lambda: self._create(kind, item))

    def get(self, kind: Kind, name: str) -> Object:
        return self._answer(lambda: deepcopy(self._find(kind, name)))

    def get_with_time(self, kind: Kind, name: str) -> tuple[Object, datetime | None]:
        return self.get(kind, name), self.server_clock().replace(microsecond=0)

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        return self._answer(lambda: self._merge(kind, name, patch))

    def replace(self, kind: Kind, item: Object) -> Object:
        return self._answer(lambda: self._replace(kind, item))

    def metadata(self, kind: Kind, name: str) -> Object:
        return self.get(kind, name)["metadata"]  # type: ignore[no-any-return]

    def delete(self, kind: Kind, name: str, uid: Uid, grace: int | None = None) -> None:
        del grace
        self._answer(lambda: self._delete(kind, name, uid))

    def named(self, kind: Kind) -> list[str]:
        """Return the names of all objects of a kind."""
        return [name for stored_kind, name in self.store if stored_kind is kind]

    def _answer(self, work: Callable[[], Object]) -> Object:
        self.requests += 1
        self.trouble(self.requests, "before")
        answer = work()
        self.trouble(self.requests, "after")
        return answer

    def _find(self, kind: Kind, name: str) -> Object:
        if (kind, name) not in self.store:
            raise ApiError("get", name, 404, "NotFound")
        return self.store[kind, name]

    def _create(self, kind: Kind, item: Object) -> Object:
        name = item["metadata"]["name"]
        if (kind, name) in self.store:
            raise ApiError("create", name, 409, "AlreadyExists")
        stored = deepcopy(item)
        self._uids += 1
        stored["metadata"]["uid"] = f"uid-{self._uids}"
        self.store[kind, name] = stored
        self._stamp(kind, stored)
        return deepcopy(stored)

    def _merge(self, kind: Kind, name: str, patch: Object) -> Object:
        stored = self._find(kind, name)
        if patch.get("metadata", {}).get("uid") != stored["metadata"]["uid"]:
            raise ApiError("patch", name, 422, "Invalid", 'metadata.uid: Invalid value: "x": field is immutable')
        self._check_version("patch", stored, patch)
        stored["spec"].update(patch.get("spec") or {})
        for field in ("annotations", "labels"):
            if patch["metadata"].get(field):
                stored["metadata"][field] = (stored["metadata"].get(field) or {}) | patch["metadata"][field]
        self._stamp(kind, stored)
        return deepcopy(stored)

    def _replace(self, kind: Kind, item: Object) -> Object:
        name = item["metadata"]["name"]
        uid = item["metadata"].get("uid")
        if kind is Kind.LEASE and (kind, name) not in self.store:
            if uid is None:  # AllowCreateOnUpdate
                return self._create(kind, item)
            raise ApiError("update", name, 409, "Conflict", "Precondition failed: UID in precondition: x")
        stored = self._find(kind, name)
        if uid not in {None, stored["metadata"]["uid"]}:
            raise ApiError("update", name, 409, "Conflict", "Precondition failed: UID in precondition: x")
        self._check_version("update", stored, item)
        stored.update(deepcopy({key: value for key, value in item.items() if key != "metadata"}))
        stored["metadata"].update(deepcopy(item["metadata"]))
        self._stamp(kind, stored)
        return deepcopy(stored)

    def _check_version(self, verb: str, stored: Object, written: Object) -> None:
        """Refuse a write over another version than the stored one; an update of a Lease must name a version."""
        meta, name = written.get("metadata") or {}, stored["metadata"]["name"]
        version = meta.get("resourceVersion")
        if version is None and verb == "update" and stored.get("kind") == "Lease":
            raise ApiError(verb, name, 422, "Invalid", "metadata.resourceVersion: must be specified for an update")
        if version not in {None, stored["metadata"].get("resourceVersion")}:
            raise ApiError(verb, name, 409, "Conflict", "the object has been modified; please apply your changes")

    def _stamp(self, kind: Kind, stored: Object) -> None:
        """Give an object a new version; for a Lease, also the time of the write in managedFields."""
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)
        if kind is Kind.LEASE:
            now = self.server_clock().astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            fields: Object = {"f:spec": {"f:renewTime": {}}}
            stored["metadata"]["managedFields"] = [{"manager": "flargo", "time": now, "fieldsV1": fields}]

    def _delete(self, kind: Kind, name: str, uid: Uid | None) -> Object:
        if uid is not None and self._find(kind, name)["metadata"]["uid"] != uid:
            raise ApiError("delete", name, 409, "Conflict", "the UID in the precondition (x) does not match the UID")
        self.store.pop((kind, name), None)
        return {}


def connect_to_nothing() -> Any:
    raise AssertionError("this API is in memory and connects to nothing")


class RecordingApi(MemoryApi):
    """A store that starts with a test's objects, records each patch and deletion, and refuses by ``refusals``."""

    def __init__(self, *items: tuple[Kind, Object]) -> None:
        super().__init__()
        for kind, item in items:
            self.store[kind, item["metadata"]["name"]] = item
        self.changes: list[tuple[str, Kind, str, Any]] = []
        self.refusals: dict[str, ApiError] = {}
        self.log_texts: dict[str, str] = {}
        """The logs of pods by their names; a pod that is not here no longer exists for a reader of its log."""

    def log(self, pod: str, *_: Any) -> str:
        if "log" in self.refusals:
            raise self.refusals["log"]
        if pod not in self.log_texts:
            raise ApiError("log", f"pods {pod}", 404, "NotFound")
        return self.log_texts[pod]

    def list(self, kind: Kind, labels: str = "", *_: Any, **__: Any) -> tuple[list[Object], str]:
        del labels
        return [item for (stored_kind, _), item in self.store.items() if stored_kind is kind], "1"

    def metadata(self, kind: Kind, name: str) -> Object:
        metadata: Object = self.get(kind, name)["metadata"]
        return metadata

    def time(self) -> datetime:
        return datetime(2026, 1, 1, 2, tzinfo=UTC)

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        self.changes.append(("patch", kind, name, patch["metadata"]["uid"]))
        if "patch" in self.refusals:
            raise self.refusals["patch"]
        return super().merge(kind, name, patch)

    def delete(self, kind: Kind, name: str, uid: Uid, grace: int | None = None) -> None:
        self.changes.append(("delete", kind, name, (uid, grace)))
        if "delete" in self.refusals:
            raise self.refusals["delete"]
        super().delete(kind, name, uid)


THREAD_SECONDS = 10.0
"""How long a test waits for a thread."""


class IdleApi(MemoryApi):
    """A store whose watches deliver no event, and end with the test."""

    def __init__(self) -> None:
        super().__init__()
        self.test_ended = threading.Event()

    def list(
        self, kind: Kind, labels: str = "", fields: str = "", trim: Callable[[Object], Object] | None = None
    ) -> tuple[list[Object], str]:
        del labels, fields, trim
        return [item for (stored_kind, _), item in self.store.items() if stored_kind is kind], "1"

    def watch(self, kind: Kind, labels: str, version: str, seconds: int, silence: float) -> Iterator[Object]:
        del kind, labels, version, seconds, silence
        self.test_ended.wait(THREAD_SECONDS)
        return iter(())


class HangingApi(IdleApi):
    """A store whose reads hang until the test's end, as a hanging credential plugin makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.submit_hangs = threading.Event()
        """Set once a submit has sent its first request, which hangs."""

    def list(self, *_: Any, **__: Any) -> tuple[list[Object], str]:
        self._hang()

    def get(self, kind: Kind, name: str) -> Object:
        del name
        if kind is Kind.SECRET:
            self.submit_hangs.set()
        self._hang()

    def _hang(self) -> NoReturn:
        self.test_ended.wait(THREAD_SECONDS)
        raise ApiError("get", "secrets", 0)
