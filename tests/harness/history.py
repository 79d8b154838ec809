"""What of jobs existed on a cluster at the same time, at any moment."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

from flargo.terms import MANAGER, Label
from tests.harness.cluster import Cluster

Object = dict[str, Any]


class History:
    """Watches the pods and Secrets of all jobs until the end of its ``with``.

    The API server sends every change of an object, so nothing that existed only for a moment is missed.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._programs: defaultdict[str, set[str]] = defaultdict(set)
        self._credentials: set[str] = set()
        self._most_programs: defaultdict[str, int] = defaultdict(int)
        self._credentials_at_once: list[frozenset[str]] = []
        base = f"api/v1/namespaces/{cluster.target.namespace}"
        query = f"watch=1&labelSelector={Label.MANAGED_BY}%3D{MANAGER}"
        self._streams = [cluster.stream(f"{base}/{resource}?{query}") for resource in ("pods", "secrets")]
        takers: tuple[Callable[[str, Object], None], ...] = (self._take_pod, self._take_secret)
        self._threads = [
            threading.Thread(target=_read, args=(stream, take), name="history", daemon=True)
            for stream, take in zip(self._streams, takers, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()

    def most_programs(self, job_id: str) -> int:
        """Return how many programs of a job ran at once, at most."""
        return self._most_programs[job_id]

    def most_credentials(self, name: str) -> int:
        """Return how many credentials Secrets existed at once, at most, of a job whose first Workflow has this name."""
        prefix = f"nvflare-cred-{name}-"
        return max(sum(each.startswith(prefix) for each in names) for names in self._credentials_at_once)

    def _take_pod(self, event: str, pod: Object) -> None:
        meta = pod["metadata"]
        job_id = str(meta["labels"].get(Label.JOB_ID, ""))
        rows = (pod.get("status") or {}).get("containerStatuses") or []
        runs = any(row["name"] == "main" and "running" in (row.get("state") or {}) for row in rows)
        programs = self._programs[job_id]
        if event != "DELETED" and runs:
            programs.add(meta["uid"])
        else:
            programs.discard(meta["uid"])
        self._most_programs[job_id] = max(self._most_programs[job_id], len(programs))

    def _take_secret(self, event: str, secret: Object) -> None:
        name = secret["metadata"]["name"]
        if event == "DELETED":
            self._credentials.discard(name)
        else:
            self._credentials.add(name)
        self._credentials_at_once.append(frozenset(self._credentials))


def _read(stream: Any, take: Callable[[str, Object], None]) -> None:
    for line in stream:
        event = json.loads(line)
        if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
            take(event["type"], event["object"])
