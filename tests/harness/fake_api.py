"""An API server's store in memory: names are taken once, uids are checked, owners are kept. For tests of a submit."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.terms import Object, Uid


class MemoryApi(Api):
    """Keeps what it is sent. ``trouble`` is asked before and after each request and may raise."""

    def __init__(self, trouble: Callable[[int, str], None] | None = None) -> None:
        super().__init__(connect_to_nothing, "flare")
        self.store: dict[tuple[Kind, str], Object] = {}
        self.requests = 0
        self.trouble = trouble or (lambda *_: None)
        self._uids = 0

    def create(self, kind: Kind, item: Object) -> Object:
        return self._answer(lambda: self._create(kind, item))

    def get(self, kind: Kind, name: str) -> Object:
        return self._answer(lambda: deepcopy(self._find(kind, name)))

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
        """The names of all objects of a kind."""
        return [name for its, name in self.store if its is kind]

    def _answer(self, work: Callable[[], Object]) -> Object:
        self.requests += 1
        self.trouble(self.requests, "before")
        answer = work()
        self.trouble(self.requests, "after")
        return answer

    def _find(self, kind: Kind, name: str) -> Object:
        if (kind, name) not in self.store:
            raise ApiError("get", name, 404)
        return self.store[kind, name]

    def _create(self, kind: Kind, item: Object) -> Object:
        name = item["metadata"]["name"]
        if (kind, name) in self.store:
            raise ApiError("create", name, 409, "AlreadyExists")
        made = deepcopy(item)
        self._uids += 1
        made["metadata"]["uid"] = f"uid-{self._uids}"
        self.store[kind, name] = made
        return deepcopy(made)

    def _merge(self, kind: Kind, name: str, patch: Object) -> Object:
        found = self._find(kind, name)
        if patch.get("metadata", {}).get("uid") != found["metadata"]["uid"]:
            raise ApiError("patch", name, 409, "Conflict")
        found["spec"].update(patch.get("spec") or {})
        notes = patch["metadata"].get("annotations") or {}
        found["metadata"]["annotations"] = {**(found["metadata"].get("annotations") or {}), **notes}
        return deepcopy(found)

    def _replace(self, kind: Kind, item: Object) -> Object:
        found = self._find(kind, item["metadata"]["name"])
        found.update(deepcopy({key: value for key, value in item.items() if key != "metadata"}))
        found["metadata"].update(deepcopy(item["metadata"]))
        return deepcopy(found)

    def _delete(self, kind: Kind, name: str, uid: Uid | None) -> Object:
        if uid is not None and self._find(kind, name)["metadata"]["uid"] != uid:
            raise ApiError("delete", name, 409, "Conflict")
        self.store.pop((kind, name), None)
        return {}


def connect_to_nothing() -> Any:
    raise AssertionError("this API is in memory and connects to nothing")
