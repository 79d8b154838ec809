"""The Workflows of ``workflows/``, which people submit themselves: submitting them and waiting for their end."""

import json

from tests.harness.cluster import Cluster, Object, eventually, has_ended
from tests.harness.paths import ROOT

WORKFLOWS = ROOT / "workflows"
END_SECONDS = 150.0
"""The time that a Workflow of one or two pods may take, on a busy machine."""


def with_label(document: Object, label: str) -> Object:
    """Return a copy of a manifest with ``label``, spelled ``key=value``, as its only label."""
    key, value = label.split("=")
    metadata = {**document["metadata"], "labels": {key: value}}
    return {**document, "metadata": metadata}


def wait_for_end(cluster: Cluster, name: str) -> Object:
    """Wait until a Workflow is in a final phase, and return it."""
    eventually(lambda: has_ended(cluster.workflow(name)), END_SECONDS, f"{name} has ended")
    return cluster.workflow(name)


def run_sweep(cluster: Cluster, label: str, **container: object) -> tuple[Object, Object]:
    """Run the sweep's CronWorkflow once, with fields of its container replaced; return the ended Workflow and its pod.

    The Workflow gets ``label``, spelled ``key=value``, by which the test deletes it.
    """
    cron = json.loads(cluster.kubectl("get", "cronworkflows.argoproj.io", "flargo-sweep", "--output=json"))
    (template,) = cron["spec"]["workflowSpec"]["templates"]
    assert template["container"]["command"] == ["flargo", "sweep"]
    template["container"] |= container
    patch = json.dumps({"spec": {"workflowSpec": {"templates": [template]}}})
    cluster.kubectl("patch", "cronworkflows.argoproj.io", "flargo-sweep", "--type=merge", f"--patch={patch}")
    name = cluster.argo("submit", "--from=cronwf/flargo-sweep", f"--labels={label}", "--output=name")
    workflow = wait_for_end(cluster, name)
    (pod,) = cluster.items("pods", f"workflows.argoproj.io/workflow={name}")
    return workflow, pod
