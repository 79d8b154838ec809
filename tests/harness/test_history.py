"""The history of a cluster's objects counts what existed at the same time, however briefly."""

import json
from types import SimpleNamespace
from typing import Any, cast

from tests.harness.cluster import Cluster, LineStream
from tests.harness.history import History

Object = dict[str, Any]


def history(pods: list[Object], secrets: list[Object]) -> History:
    """Return a history that has taken all events of two watches."""

    def stream(path: str) -> LineStream:
        return LineStream(map(json.dumps, secrets if "secrets" in path else pods), lambda: None)

    cluster = SimpleNamespace(target=SimpleNamespace(namespace="flare"), stream=stream)
    taken = History(cast("Cluster", cluster))
    for thread in taken._threads:
        thread.join()
    return taken


def pod(event: str, uid: str, state: str = "running") -> Object:
    meta = {"uid": uid, "labels": {"flargo.dev/job-id": "j1"}}
    status = {"containerStatuses": [{"name": "wait", "state": {"running": {}}}, {"name": "main", "state": {state: {}}}]}
    return {"type": event, "object": {"metadata": meta, "status": status}}


def secret(event: str, name: str) -> Object:
    return {"type": event, "object": {"metadata": {"name": name}}}


def test_programs_that_run_at_once_are_counted() -> None:
    events = [pod("ADDED", "a"), pod("MODIFIED", "a"), pod("ADDED", "b", "waiting"), pod("MODIFIED", "b")]
    assert history(events, []).most_programs("j1") == 2


def test_programs_one_after_the_other_are_one_at_a_time() -> None:
    events = [pod("ADDED", "a"), pod("MODIFIED", "a", "terminated"), pod("ADDED", "b"), pod("DELETED", "b")]
    events += [pod("ADDED", "c")]
    assert history(events, []).most_programs("j1") == 1


def test_credentials_of_one_job_are_counted() -> None:
    events = [
        secret("ADDED", "nvflare-cred-job-a1"),
        secret("ADDED", "nvflare-cred-other-a1"),
        secret("DELETED", "nvflare-cred-job-a1"),
        secret("ADDED", "nvflare-cred-job-r1-a2"),
    ]
    assert history([], events).most_credentials("job") == 1
    assert history([], [*events, secret("ADDED", "nvflare-cred-job-a1")]).most_credentials("job") == 2
