"""Finds the objects and processes that a federation's jobs have left on the cluster."""

from collections.abc import Sequence

from flargo.terms import Label
from tests.harness.cluster import Cluster, has_ended, may_run
from tests.soak.parents import JobReference
from tests.soak.plan import attempt_names


def leftovers(cluster: Cluster, federation: str, jobs: Sequence[JobReference]) -> list[str]:
    """Describe what of a federation runs, may still run, or holds credentials, and the processes of these jobs."""
    selector = f"{Label.FEDERATION}={federation}"
    workflows = cluster.items("workflows.argoproj.io", selector)
    secrets = [item["metadata"]["name"] for item in cluster.items("secrets", selector)]
    return [
        *(f"Workflow {item['metadata']['name']}" for item in workflows if not has_ended(item)),
        *(f"pod {pod['metadata']['name']}" for pod in cluster.items("pods", selector) if may_run(pod)),
        *(f"Secret {name}" for name in secrets if not name.startswith("nvflare-startup-")),
        *(f"process {pid} of {job.name}" for job in jobs for pid in _processes(cluster, job)),
    ]


def _processes(cluster: Cluster, job: JobReference) -> set[int]:
    in_pods = (cluster.pod_processes(name) for name in attempt_names(job.name))
    return set(cluster.processes(job.id)).union(*in_pods)
