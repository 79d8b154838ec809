"""Assertions about a real FLARE federation's jobs, shared by the tests on real clusters and on the embedded engine."""

import json
from collections.abc import Mapping
from pathlib import Path

from flargo.status.reasons import Reason
from flargo.terms import Annotation
from tests.harness import command_line, job_folders
from tests.harness.cluster import Cluster, eventually
from tests.harness.federation import Federation

PARTIES = ("server", "site-1", "site-2")
GONE_SECONDS = 15.0
"""The limit within which no process of an aborted job may run."""
SETTLE_SECONDS = 90.0
"""The time that FLARE may take to start, or Kubernetes and Argo to report a change, on a busy machine.

It is generous on purpose: flargo promises nothing about it."""
IGNORES_SIGTERM = f"{job_folders.IGNORE_SIGTERM}\nprint('SIGTERM is ignored now', flush=True)\n"
"""Code after which a process does not end on SIGTERM."""
SECRET_OF_SITE = "patient 4711"
"""Text that a site's training script raises with."""
RAISES = f"import nvflare.client as flare\nflare.init()\nflare.receive()\nraise ValueError({SECRET_OF_SITE!r})\n"
"""A training script that raises in its first round. FLARE's process exits with 0."""


def assert_not_started(fed: Federation, cluster: Cluster, job_id: str) -> None:
    """FLARE reports that the job failed to run, and why; no client site has created a Workflow for it."""
    fed.wait_status(job_id, "FINISHED:FAILED_TO_RUN")
    details = fed.meta(job_id)["job_deploy_detail"]
    assert any(line.startswith("server: SHORTAGE: ") for line in details), details
    assert set(cluster.workflows(job_id)) <= {"server"}
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the server's pod is gone")
    assert eventually_noted(cluster, job_id)[Annotation.FLARE_STATUS] == "FINISHED:FAILED_TO_RUN"


def running_sites(cluster: Cluster, job_id: str) -> set[str]:
    """Return the sites at which a pod of the job still runs."""
    return {
        pod["metadata"]["labels"]["flargo.dev/site"]
        for pod in cluster.pods(job_id)
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}
    }


def assert_orphan_ended(cluster: Cluster, job_id: str, name: str, within: float) -> None:
    """The part of a job that a dead parent left running is ended, with its credentials; no other site's part is.

    A site that hears from a restarted server that the job does not exist ends its own part.
    """
    eventually(lambda: name not in running_sites(cluster, job_id), within, f"the orphan of {name} is ended")
    own = cluster.workflows(job_id)[name]["metadata"]["name"]
    eventually(
        lambda: not any(own in secret for secret in cluster.secrets("nvflare-cred-")),
        GONE_SECONDS,
        "its credentials are gone",
    )
    annotations = {site: item["metadata"]["annotations"] for site, item in cluster.workflows(job_id).items()}
    assert set(annotations) == set(PARTIES)
    orphans = [site for site, its in annotations.items() if its.get(Annotation.ENDING) == Reason.ORPHANED.name]
    assert orphans == [name]
    if name != "server":
        assert running_sites(cluster, job_id) == set(PARTIES) - {name}


def job_credentials(cluster: Cluster, job_id: str) -> list[str]:
    """Return the names of the Secrets that hold a job's credentials."""
    return [name for name in cluster.secrets("nvflare-cred-") if job_id in name]


def all_succeeded(cluster: Cluster, job_id: str) -> bool:
    """Return whether every party's Workflow of the job has succeeded."""
    phases = {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()}
    return phases == dict.fromkeys(PARTIES, "Succeeded")


def assert_progress_is_noted(cluster: Cluster, job_id: str, note: str) -> None:
    """The server's Workflow says which round has started last; after the job's end it is the last one."""

    def progress() -> str:
        return str(cluster.workflows(job_id)["server"]["metadata"]["annotations"].get(Annotation.PROGRESS))

    eventually(lambda: progress() == note, SETTLE_SECONDS, f"the progress {note} is noted")


def submit_raising_job(fed: Federation, path: Path, image: str) -> str:
    """Submit a job whose training script raises at every site; return its id."""
    return fed.submit(job_folders.script(path, image=image, code=RAISES))


def assert_flare_status_is_noted(fed: Federation, cluster: Cluster, job_id: str) -> None:
    """Every process of a job has exited with 0, and FLARE's error stands on the server's Workflow, and on no other."""
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    eventually(lambda: all_succeeded(cluster, job_id), SETTLE_SECONDS, "all Workflows have succeeded")
    notes = eventually_noted(cluster, job_id)
    assert notes[Annotation.FLARE_STATUS] == "FINISHED:EXECUTION_EXCEPTION"
    assert notes[Annotation.FLARE_ERROR].startswith("Result from site-")
    assert SECRET_OF_SITE not in str(cluster.workflows(job_id)), "the text of a site's log stays at the site"
    others = [cluster.workflows(job_id)[site]["metadata"]["annotations"] for site in fed.sites]
    assert not any(Annotation.FLARE_STATUS in annotations for annotations in others)
    assert_people_see_the_error(cluster, job_id)


def assert_people_see_the_error(cluster: Cluster, job_id: str) -> None:
    """The commands show FLARE's error beside each success, and the exception from each site's log."""
    where = ("--kubeconfig", str(cluster.target.kubeconfig), "--namespace", cluster.target.namespace)
    listed = [row for row in json.loads(command_line.run("jobs", "--json", *where).stdout) if row["job"] == job_id]
    assert [(row["reason"], row["flare_status"]) for row in listed] == [
        ("SUCCEEDED", "FINISHED:EXECUTION_EXCEPTION") for _ in PARTIES
    ]
    reports = {row["site"]: row for row in json.loads(command_line.run("why", job_id, "--json", *where).stdout)}
    for site in ("site-1", "site-2"):
        assert reports[site]["last_error"].splitlines()[-1] == f"ValueError: {SECRET_OF_SITE}"
    assert reports["server"]["last_error"] is None, "it stands in the note already"
    assert reports["server"]["flare_error"].startswith("Result from site-")


def eventually_noted(cluster: Cluster, job_id: str) -> Mapping[str, str]:
    """Wait until FLARE's status is noted on the Workflow of a job's server; return its annotations."""

    def annotations() -> Mapping[str, str]:
        found: Mapping[str, str] = cluster.workflows(job_id)["server"]["metadata"]["annotations"]
        return found

    eventually(lambda: Annotation.FLARE_STATUS in annotations(), SETTLE_SECONDS, "FLARE's status is noted")
    return annotations()
