"""A parent of this version that starts beside the jobs of an earlier one, which it has to end and to clean up."""

import base64
import copy
import time
from typing import Any

from flargo.status.reasons import Reason
from tests.harness.cluster import eventually, has_ended, may_run
from tests.harness.embedded_cluster import REALISTIC_SETTINGS, EmbeddedCluster
from tests.harness.old_objects import OldJob, old_jobs
from tests.harness.site import START_SECONDS, Site, exits
from tests.harness.wire import Wire

Object = dict[str, Any]
ENGINE_SETTINGS = REALISTIC_SETTINGS
END_SECONDS = 45.0
"""The limit within which the old jobs have ended."""


def create(cluster: EmbeddedCluster, job: OldJob, *, is_finished: bool = False, secrets: bool = True) -> None:
    """Create a job's Workflow and Secrets as the earlier version did."""
    cluster.create(copy.deepcopy(job.workflow) if is_finished else job.without_status)
    uid = cluster.workflow(job.name)["metadata"]["uid"]
    for secret in job.secrets if secrets else ():
        item = copy.deepcopy(secret)
        item["metadata"]["ownerReferences"][0]["uid"] = uid
        item["data"] = dict.fromkeys(item["data"], base64.b64encode(b"old").decode())
        cluster.create(item)


def release(cluster: EmbeddedCluster, job: OldJob) -> None:
    """Release a job as the earlier version did."""
    patch = {"metadata": {"annotations": {"flargo.dev/released": "true"}}, "spec": {"suspend": False}}
    cluster.request("PATCH", cluster.path("workflows", job.name), patch, "application/merge-patch+json")


def pods_of(cluster: EmbeddedCluster, job: OldJob) -> list[Object]:
    return cluster.items("pods", f"workflows.argoproj.io/workflow={job.name}")


def runs(pod: Object) -> bool:
    """Return whether a pod's program runs."""
    rows = (pod.get("status") or {}).get("containerStatuses") or []
    return any(row["name"] == "main" and "running" in (row.get("state") or {}) for row in rows)


def expect_running(cluster: EmbeddedCluster, job: OldJob) -> None:
    """Wait until a job's program runs."""
    eventually(lambda: any(map(runs, pods_of(cluster, job))), START_SECONDS, "the old job runs")


def renamed(job: OldJob, suffix: str) -> OldJob:
    """Return a job with another name, whose credentials are named after it."""
    job = copy.deepcopy(job)
    old, new = job.name, f"{job.name}{suffix}"
    job.workflow["metadata"]["name"] = new
    for secret in job.secrets:
        meta = secret["metadata"]
        meta["name"] = meta["name"].replace(old, new)
        meta["ownerReferences"][0]["name"] = new
    return job


def test_parent_ends_the_jobs_of_an_earlier_version(cluster: EmbeddedCluster) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire) as site:
        jobs = old_jobs(site.federation)
        running, finished, unreleased = (jobs[state] for state in ("running", "finished", "unreleased"))
        suspended = renamed(running, "-s")
        # The credentials of a job that its parent could not delete any more.
        attempt = unreleased.workflow["metadata"]["annotations"]["flargo.dev/attempt"]
        with_secret = OldJob(copy.deepcopy(finished.workflow), (), copy.deepcopy(unreleased.secrets))
        with_secret.workflow["metadata"]["name"] += "-c"
        with_secret.workflow["metadata"]["annotations"]["flargo.dev/attempt"] = attempt
        for secret in with_secret.secrets:
            secret["metadata"]["name"] = f"nvflare-cred-{with_secret.name}-{attempt}"
            secret["metadata"]["ownerReferences"][0]["name"] = with_secret.name
        kit = f"nvflare-startup-site-1-f505dccd-{site.federation[:12]}"
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": kit}, "data": {}})
        for job in (running, suspended):
            create(cluster, job)
            release(cluster, job)
            expect_running(cluster, job)
        cluster.argo("suspend", suspended.name)
        create(cluster, unreleased)
        create(cluster, finished, is_finished=True, secrets=False)
        create(cluster, with_secret, is_finished=True)
        before = cluster.workflow(finished.name)

        new = site.launch(exits(0))
        new.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        left = {running.name, suspended.name, unreleased.name}
        eventually(lambda: not _unfinished(cluster, left), END_SECONDS, "the old Workflows have ended")
        old_names = [job.name for job in (running, suspended, unreleased, with_secret)]
        eventually(
            lambda: not [name for name in old_names if cluster.secrets(f"nvflare-cred-{name}-")],
            END_SECONDS,
            "the old credentials are deleted",
        )
        assert not [pod for job in (running, suspended) for pod in pods_of(cluster, job) if may_run(pod)]
        time.sleep(2)
        after = cluster.workflow(finished.name)
        assert (after["spec"], after["status"]) == (before["spec"], before["status"])
        requests = [each for each in wire.requests if finished.name in each.name and with_secret.name not in each.name]
        assert len(requests) <= 2, requests


def _unfinished(cluster: EmbeddedCluster, names: set[str]) -> list[str]:
    items = [item for item in cluster.items("workflows") if item["metadata"]["name"] in names]
    return [item["metadata"]["name"] for item in items if not has_ended(item)]
