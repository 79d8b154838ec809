"""Argo's own command line, the real one, against the embedded server. Needs ``argo`` (the test cluster's will do)."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.python_workflow import workflow
from tests.harness.real_cluster import versions

ARGO = shutil.which("argo") or next((str(found) for found in versions.CACHE.glob("argo-*/argo")), None)
pytestmark = pytest.mark.skipif(ARGO is None, reason="there is no argo command on this machine")


@pytest.fixture
def argo(cluster: EmbeddedCluster) -> Callable[..., str]:
    """What it prints; its failure is the test's."""

    def run(*arguments: str) -> str:
        where = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
        done = subprocess.run((str(ARGO), *arguments, *where), text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_list_get_and_logs(cluster: EmbeddedCluster, argo: Callable[..., str]) -> None:
    cluster.create(workflow("told", "print('one')", "print('two')", suspend=False))
    followed = argo("logs", "told", "--follow", "--no-color")
    assert followed.splitlines() == ["told: one", "told: two"]
    eventually(lambda: "Succeeded" in argo("list"), 10, "it is listed as done")
    assert argo("list", "--selector=of=told", "--output=name").split() == ["told"]
    assert "told" not in argo("list", "--selector=of=nobody")
    assert "Status:              Succeeded" in argo("get", "told")
    assert argo("logs", "told", "--no-color", "--container=main").splitlines() == followed.splitlines()


def test_terminate(cluster: EmbeddedCluster, argo: Callable[..., str]) -> None:
    cluster.create(workflow("endless", "print('begun')", "import time", "time.sleep(60)", suspend=False))
    eventually(lambda: "begun" in cluster.log({"metadata": {"name": "endless"}}), 10, "it runs")
    argo("terminate", "endless")
    eventually(lambda: "Failed (Terminated)" in argo("get", "endless"), 5, "it is over")
    assert "Stopped with strategy 'Terminate'" in argo("get", "endless")
    eventually(
        lambda: cluster.items("pods", "workflows.argoproj.io/workflow=endless")[0]["status"]["phase"] == "Failed",
        5,
        "ended",
    )
