"""From a launch to everything that it puts on the cluster."""

from flargo.job import names
from flargo.job.pod import build_pod
from flargo.job.settings import Settings
from flargo.job.workflow import build_workflow
from flargo.terms import Label, Launch, Parent, Plan, Role, StartTimeouts

SERVER_START_SECONDS = 900.0
"""Within which a server's job must run, while the cluster is heard: its launch keeps the server's other jobs waiting,
and must not return before the job runs or has ended."""


def build_plan(launch: Launch, settings: Settings) -> Plan:
    """What a launch puts on the cluster. The same launch always gives the same plan.

    Raises:
        Refused: the job or the site's pod template holds what cannot be carried; says where and what.
    """
    manifest = build_workflow(launch, build_pod(launch, settings), settings)
    return Plan(
        name=manifest["metadata"]["name"],
        namespace=settings.namespace,
        attempt=launch.attempt,
        workflow=manifest,
        startup=launch.startup,
        credentials=launch.credentials,
        timeouts=_start_timeouts(launch, settings),
        grace=settings.argo.kill_grace,
    )


def _start_timeouts(launch: Launch, settings: Settings) -> StartTimeouts:
    is_server, timeout = launch.parent.role is Role.SERVER, settings.timeout
    of_server = SERVER_START_SECONDS if timeout is None else min(timeout, SERVER_START_SECONDS)
    return StartTimeouts(
        pending=launch.pending,
        total=of_server if is_server else timeout,
        unclaimed=settings.argo.unclaimed,
        quota=settings.argo.quota,
        queued=settings.argo.queued,
        pulling=settings.argo.pulling,
        starting=settings.argo.starting,
        placement=settings.argo.server_pending if is_server else None,
    )


def site_selector(parent: Parent) -> str:
    """The label selector of all that any run of this site's parent made, by flargo 0.1 too."""
    labels = names.site_labels(parent)
    same = ",".join(f"{key}={labels[key]}" for key in (Label.MANAGED_BY, Label.SITE))
    return f"{same},{names.federation_selector(parent.federation)}"
