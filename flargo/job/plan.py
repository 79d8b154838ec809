"""Build the plan of a launch: the Workflow and Secrets that it creates, and the timeouts of its start."""

from flargo.job import names
from flargo.job.pod import build_pod
from flargo.job.settings import Settings
from flargo.job.workflow import build_workflow
from flargo.terms import Label, Launch, Parent, Plan, Role, StartTimeouts

SERVER_START_SECONDS = 900.0
"""Seconds within which a server's job must run, counted only while the API server answers. The launch of a server's job
must not return before the job runs or has ended, and the server launches no other job meanwhile."""


def build_plan(launch: Launch, settings: Settings) -> Plan:
    """Return everything that a launch creates on the cluster. The same launch always gives the same plan.

    Raises:
        SiteFileError: the site's pod template has something that a Workflow cannot carry; names the place.
    """
    manifest = build_workflow(launch, build_pod(launch, settings), settings)
    return Plan(
        name=manifest["metadata"]["name"],
        namespace=settings.namespace,
        attempt=launch.attempt,
        workflow=manifest,
        startup=launch.startup,
        credentials=launch.credentials,
        timeouts=start_timeouts(launch, settings),
        grace=settings.argo.kill_grace,
    )


def start_timeouts(launch: Launch, settings: Settings) -> StartTimeouts:
    """Return how long a launch may wait before its program runs."""
    is_server, timeout = launch.parent.role is Role.SERVER, settings.timeout
    server_total = SERVER_START_SECONDS if timeout is None else min(timeout, SERVER_START_SECONDS)
    return StartTimeouts(
        pending=launch.pending,
        unschedulable=settings.argo.unschedulable,
        total=server_total if is_server else timeout,
        unclaimed=settings.argo.unclaimed,
        quota=settings.argo.quota,
        queued=settings.argo.queued,
        pulling=settings.argo.pulling,
        starting=settings.argo.starting,
        placement=settings.argo.server_pending if is_server else None,
    )


def site_selector(parent: Parent) -> str:
    """Return the label selector of all objects that any run of this site's parent created, also with flargo 0.1."""
    labels = names.site_labels(parent)
    site = ",".join(f"{key}={labels[key]}" for key in (Label.MANAGED_BY, Label.SITE))
    return f"{site},{names.federation_selector(parent.federation)}"
