"""Workflows and pods as the API server returns them."""

from typing import Any

from flargo.terms import STEP_TEMPLATE

Object = dict[str, Any]


def workflow(
    name: str = "job-site",
    *,
    uid: str = "w1",
    version: int = 1,
    parent: str = "me",
    attempt: str = "a1",
    **status: Any,
) -> Object:
    """Return a Workflow that flargo created; ``suspend`` and ``shutdown`` go to its spec, the rest to its status.

    A node without a template is given that of the job's step.
    """
    spec = {key: status.pop(key) for key in ("suspend", "shutdown") if key in status}
    if isinstance(status.get("nodes"), dict):
        status["nodes"] = {
            key: {"templateName": STEP_TEMPLATE, **node} if isinstance(node, dict) else node
            for key, node in status["nodes"].items()
        }
    return {
        "metadata": {
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"flargo.dev/parent": parent},
            "annotations": {"flargo.dev/attempt": attempt},
        },
        "spec": spec,
        "status": status,
    }


def pod(
    workflow_name: str = "job-site",
    *,
    uid: str = "p1",
    owner: str = "w1",
    version: int = 1,
    phase: str = "Pending",
    main: Object | None = None,
    **status: Any,
) -> Object:
    """Return a pod of a Workflow; ``main`` is the state of its main container."""
    if main is not None:
        status["containerStatuses"] = [{"name": "wait", "state": {"running": {}}}, {"name": "main", "state": main}]
    return {
        "metadata": {
            "name": workflow_name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"workflows.argoproj.io/workflow": workflow_name, "app.kubernetes.io/managed-by": "flargo"},
            "ownerReferences": [{"kind": "Workflow", "name": workflow_name, "uid": owner}],
        },
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"phase": phase, **status},
    }


def job_workflow(name: str = "job-site", job_id: str = "11111111-aaaa", site: str = "site-1", **more: Any) -> Object:
    """Return the Workflow of a job at a site, as flargo creates it; ``notes`` are further annotations."""
    notes = more.pop("notes", {})
    item = workflow(name, **{"phase": "Running", **more})
    item["metadata"]["creationTimestamp"] = CREATED
    item["metadata"]["labels"] |= {"flargo.dev/job-id": job_id, "flargo.dev/role": "client"}
    item["metadata"]["annotations"] |= {"flargo.dev/site-name": site, "flargo.dev/job-name": "hearts", **notes}
    return item


def attempt_workflow(number: int = 1, of: int = 3, *, created: str = "", **more: Any) -> Object:
    """Return the Workflow of an attempt, created ``number - 1`` minutes after the first one unless a time is given."""
    notes = {"flargo.dev/max-attempts": str(of), **more.pop("notes", {})}
    name = "job-site" if number == 1 else f"job-site-r{number - 1}"
    item = job_workflow(name, **{"uid": f"w{number}", "notes": notes, **more})
    item["metadata"]["labels"]["flargo.dev/attempt-number"] = str(number)
    item["metadata"]["creationTimestamp"] = created or f"2026-01-01T00:{number - 1:02}:00Z"
    return item


def lost_attempt(number: int = 1, reason: str = "DISRUPTED", **more: Any) -> Object:
    """Return the Workflow of an attempt that was lost half a minute after its creation."""
    finished = f"2026-01-01T00:{number - 1:02}:30Z"
    notes = {"flargo.dev/ending": reason, "flargo.dev/ending-detail": "Evicted", **more.pop("notes", {})}
    step = {"type": "Pod", "phase": "Failed", "message": "pod deleted", "hostNodeName": f"n{number}"}
    nodes = {"job": step}
    status = {"phase": "Failed", "message": "pod deleted", "finishedAt": finished, "nodes": nodes}
    return attempt_workflow(number, **{**status, "notes": notes, **more})


RUNNING: Object = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
CREATED = "2026-01-01T00:00:00Z"
"""When each Workflow of :func:`job_workflow` was created."""
FAILED_STATUS: dict[str, Any] = {"phase": "Failed", "finishedAt": "2026-01-01T00:00:00Z"}
"""The status of a Workflow that has failed."""


def terminated_state(code: int, reason: str = "Error") -> Object:
    """Return the state of a container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason}}
