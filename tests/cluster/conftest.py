"""What the tests on a cluster share: the cluster itself."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.harness.cluster import Cluster, Object
from tests.harness.real_cluster import sandbox
from tests.harness.real_cluster.target import Target, find
from tests.harness.submitted_workflows import WORKFLOWS, with_label


@pytest.fixture(scope="session")
def target() -> Target:
    """The cluster to test on; without one (or outside of it) the test fails: what was not run has not passed."""
    found = find()
    if found is None or not (found.own or os.environ.get(sandbox.INSIDE)):
        pytest.fail("no cluster: python -m tests.harness.real_cluster up, then exec; or name one (FLARGO_KUBECONFIG)")
    return found


@pytest.fixture(scope="session")
def cluster(target: Target) -> Cluster:
    """The cluster as somebody other than flargo sees and touches it."""
    return Cluster(target)


@pytest.fixture
def mark(cluster: Cluster) -> Iterator[str]:
    """A label of all that a test makes, which goes with it."""
    label = f"flargo.test/workflows={secrets.token_hex(4)}"
    yield label
    kinds = "workflows.argoproj.io,cronworkflows.argoproj.io,configmaps,secrets,serviceaccounts,roles,rolebindings"
    cluster.kubectl(
        "delete", f"{kinds},persistentvolumeclaims,persistentvolumes", f"--selector={label}", "--wait=false"
    )


@pytest.fixture
def sweeper(cluster: Cluster, target: Target, mark: str) -> Object:
    """What sweeps, applied; its CronWorkflow, which is not on before the test is over."""
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
