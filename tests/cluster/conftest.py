"""Fixtures that the tests on a real cluster share."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.harness.cluster import Cluster, Object
from tests.harness.node import SecondNode
from tests.harness.real_cluster import sandbox
from tests.harness.real_cluster import second_node as second_node_daemons
from tests.harness.real_cluster.target import Target, find
from tests.harness.submitted_workflows import WORKFLOWS, with_label


@pytest.fixture(scope="session")
def target() -> Target:
    """The cluster to test on. Without one, or outside of it, tests fail: a skipped test would look like a success."""
    available = find()
    if available is None or not (available.is_external or os.environ.get(sandbox.INSIDE)):
        pytest.fail("no cluster: python -m tests.harness.real_cluster up, then exec; or name one (FLARGO_KUBECONFIG)")
    return available


@pytest.fixture(scope="session")
def cluster(target: Target) -> Cluster:
    """The cluster, accessed independently of flargo."""
    return Cluster(target)


@pytest.fixture(scope="module")
def second_node(cluster: Cluster) -> Iterator[SecondNode]:
    """A second node, which the cluster has only until the end of the tests of the module."""
    if cluster.target.is_external:
        pytest.skip("a second node can be added to the harness's own cluster only")
    with second_node_daemons.started():
        yield SecondNode(cluster)


@pytest.fixture
def mark(cluster: Cluster) -> Iterator[str]:
    """A label for the test's objects, which are deleted after the test."""
    label = f"flargo.test/workflows={secrets.token_hex(4)}"
    yield label
    kinds = "workflows.argoproj.io,cronworkflows.argoproj.io,configmaps,secrets,serviceaccounts,roles,rolebindings"
    cluster.kubectl(
        "delete", f"{kinds},persistentvolumeclaims,persistentvolumes", f"--selector={label}", "--wait=false"
    )


@pytest.fixture
def sweeper(cluster: Cluster, target: Target, mark: str) -> Object:
    """Apply the sweep's objects, and return its CronWorkflow, which stays suspended during the test."""
    kustomize = subprocess.run(("kubectl", "kustomize", WORKFLOWS), text=True, capture_output=True, check=True).stdout
    documents = {each["kind"]: each for each in yaml.safe_load_all(kustomize)}
    cron = documents["CronWorkflow"]
    cron["spec"]["suspend"] = True
    text = json.dumps([with_label(each, mark) for each in documents.values()])
    items = json.loads(text.replace('"namespace": "flare"', f'"namespace": "{target.namespace}"'))
    cluster.kubectl(
        "apply", "--validate=strict", "--filename=-", document={"apiVersion": "v1", "kind": "List", "items": items}
    )
    return dict(cron)
