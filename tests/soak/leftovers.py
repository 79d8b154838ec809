"""What is left of a federation on the cluster."""

from collections.abc import Sequence

from flargo.terms import Label
from tests.harness.cluster import Cluster, may_run
from tests.soak.parents import Launched


def left(cluster: Cluster, federation: str, jobs: Sequence[Launched]) -> list[str]:
    """What of a federation runs, may run, or holds credentials; and which processes of these jobs."""
    ours = f"{Label.FEDERATION}={federation}"
    workflows = cluster.items("workflows.argoproj.io", ours)
    secrets = [item["metadata"]["name"] for item in cluster.items("secrets", ours)]
    return [
        *(f"Workflow {item['metadata']['name']}" for item in workflows if not _is_over(item)),
        *(f"pod {pod['metadata']['name']}" for pod in cluster.items("pods", ours) if may_run(pod)),
        *(f"Secret {name}" for name in secrets if not name.startswith("nvflare-startup-")),
        *(f"process {pid} of {job.name}" for job in jobs for pid in _processes(cluster, job)),
    ]


def _is_over(workflow: dict[str, object]) -> bool:
    status = workflow.get("status")
    return isinstance(status, dict) and status.get("phase") in {"Succeeded", "Failed", "Error"}


def _processes(cluster: Cluster, job: Launched) -> set[int]:
    return {*cluster.processes(job.id), *cluster.pod_processes(job.name)}
