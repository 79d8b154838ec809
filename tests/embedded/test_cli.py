"""Tests of the embedded engine with Argo's own command line; they need ``argo``, which the test cluster installs."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.python_workflow import workflow
from tests.harness.real_cluster import versions

ARGO = shutil.which("argo") or next((str(path) for path in versions.CACHE.glob("argo-*/argo")), None)
pytestmark = pytest.mark.skipif(ARGO is None, reason="there is no argo command on this machine")


@pytest.fixture
def argo(cluster: EmbeddedCluster) -> Callable[..., str]:
    """Run argo and return its output; the test fails if argo does."""

    def run(*arguments: str) -> str:
        target = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
        result = subprocess.run((str(ARGO), *arguments, *target), text=True, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_argo_list_get_and_logs(cluster: EmbeddedCluster, argo: Callable[..., str]) -> None:
    cluster.create(workflow("short", "print('one')", "print('two')", suspend=False))
    log = argo("logs", "short", "--follow", "--no-color")
    assert log.splitlines() == ["short: one", "short: two"]
    eventually(lambda: "Succeeded" in argo("list"), 10, "the Workflow is listed as Succeeded")
    assert argo("list", "--selector=of=short", "--output=name").split() == ["short"]
    assert "short" not in argo("list", "--selector=of=nobody")
    assert "Status:              Succeeded" in argo("get", "short")
    assert argo("logs", "short", "--no-color", "--container=main").splitlines() == log.splitlines()


def test_argo_terminate(cluster: EmbeddedCluster, argo: Callable[..., str]) -> None:
    cluster.create(workflow("endless", "print('ready')", "import time", "time.sleep(60)", suspend=False))
    eventually(lambda: "ready" in cluster.log({"metadata": {"name": "endless"}}), 10, "the program runs")
    argo("terminate", "endless")
    eventually(lambda: "Failed (Terminated)" in argo("get", "endless"), 5, "the Workflow has ended")
    assert "Stopped with strategy 'Terminate'" in argo("get", "endless")
    eventually(
        lambda: cluster.items("pods", "workflows.argoproj.io/workflow=endless")[0]["status"]["phase"] == "Failed",
        5,
        "the pod has failed",
    )
