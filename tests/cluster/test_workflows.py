"""Tests of the Workflows that people submit themselves, on a real cluster: the smoke test and the sweep."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.cluster import Cluster, eventually
from tests.harness.manifest_checks import argo_lint, server_dry_run
from tests.harness.real_cluster import images
from tests.harness.real_cluster.target import Target
from tests.harness.submitted_workflows import END_SECONDS, WORKFLOWS, run_sweep, wait_for_end, with_label

Object = dict[str, Any]


def smoke_test(cluster: Cluster, mark: str, path: Path, *parameters: str) -> Object:
    """Submit the smoke test as its first lines say, and return its Workflow when it has ended."""
    options = [argument for each in parameters for argument in ("--parameter", each)]
    name = cluster.argo("submit", str(path), *options, f"--labels={mark}", "--output=name")
    return wait_for_end(cluster, name)


def messages(workflow: Object) -> str:
    status = workflow.get("status") or {}
    return " ".join(each.get("message", "") for each in (status, *(status.get("nodes") or {}).values()))


@pytest.fixture
def short_deadline_path(tmp_path: Path) -> Path:
    """The path of a smoke test with a deadline of half a minute instead of a quarter of an hour."""
    document = yaml.safe_load((WORKFLOWS / "smoke-test.yaml").read_text())
    assert document["spec"]["activeDeadlineSeconds"] == 900
    document["spec"]["activeDeadlineSeconds"] = 30
    path = tmp_path / "smoke-test.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_argo_lints_smoke_test_and_sweep(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    documents = yaml.safe_load_all((WORKFLOWS / "sweep.yaml").read_text())
    path.write_text(yaml.safe_dump(next(each for each in documents if each["kind"] == "CronWorkflow")))
    for file, kinds in ((WORKFLOWS / "smoke-test.yaml", "workflows"), (path, "cronworkflows")):
        result = argo_lint(file, kinds)
        assert result.returncode == 0, result.stdout


def test_api_server_accepts_the_smoke_test_strictly(target: Target) -> None:
    result = server_dry_run(target, WORKFLOWS / "smoke-test.yaml")
    assert result.returncode == 0, result.stderr


def test_smoke_test_succeeds(cluster: Cluster, target: Target, mark: str) -> None:
    result = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={target.job_image}")
    assert result["status"]["phase"] == "Succeeded", messages(result)
    (pod,) = cluster.items("pods", f"workflows.argoproj.io/workflow={result['metadata']['name']}")
    assert cluster.log(pod).startswith("nvflare 2.9")


def test_smoke_test_mounts_a_claim(cluster: Cluster, target: Target, mark: str, tmp_path: Path) -> None:
    if target.is_external:
        pytest.skip("the test creates a volume on the node, which a cluster of one's own may not allow")
    claim = mark.replace("flargo.test/workflows=", "flargo-test-")
    tmp_path.chmod(0o755)
    (tmp_path / "scan.nii").touch()
    size, modes = {"storage": "1Mi"}, ["ReadOnlyMany"]
    volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": str(tmp_path)}, "storageClassName": ""}
    claim_spec = {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": claim}
    for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", claim_spec)):
        cluster.create(with_label({"apiVersion": "v1", "kind": kind, "metadata": {"name": claim}, "spec": spec}, mark))
    result = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={target.job_image}", f"claim={claim}")
    assert result["status"]["phase"] == "Succeeded", messages(result)
    pods = cluster.items("pods", f"workflows.argoproj.io/workflow={result['metadata']['name']}")
    assert any("The volume claim is mounted, and has" in cluster.log(pod) for pod in pods)


def test_smoke_test_waits_for_a_missing_claim(cluster: Cluster, target: Target, mark: str) -> None:
    """Argo's message names the missing claim, but the Workflow does not end.

    Argo checks a Workflow's deadline when it processes an event of it, and there is none while no node takes its pod.
    """
    parameters = ("--parameter", f"image={target.job_image}", "--parameter", "claim=flargo-not-there")
    path = str(WORKFLOWS / "smoke-test.yaml")
    name = cluster.argo("submit", path, *parameters, f"--labels={mark}", "--output=name")
    message = 'persistentvolumeclaim "flargo-not-there" not found'
    eventually(lambda: message in messages(cluster.workflow(name)), END_SECONDS, "Argo reports the missing claim")


def test_smoke_test_fails_with_wrong_image(cluster: Cluster, target: Target, mark: str) -> None:
    if target.is_external:
        pytest.skip("only the test cluster's registry has the image")
    result = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={images.names()['argoexec']}")
    assert result["status"]["phase"] in {"Failed", "Error"}, messages(result)
    assert "/usr/local/bin/python" in messages(result)


def create_account(cluster: Cluster, mark: str, *, token: bool) -> str:
    """Create an account without rights for Argo's containers, with or without a token Secret."""
    name = mark.replace("flargo.test/workflows=", "flargo-test-")
    cluster.create(with_label({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, mark))
    if token:
        metadata = {
            "name": f"{name}.service-account-token",
            "annotations": {"kubernetes.io/service-account.name": name},
        }
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "kubernetes.io/service-account-token",
        }
        cluster.create(with_label(secret, mark))
    return name


def test_smoke_test_fails_without_executor_token(
    cluster: Cluster, target: Target, mark: str, short_deadline_path: Path
) -> None:
    service_account = create_account(cluster, mark, token=False)
    result = smoke_test(
        cluster, mark, short_deadline_path, f"image={target.job_image}", f"executor-account={service_account}"
    )
    assert result["status"]["phase"] == "Failed", messages(result)
    # Argo copies its deadline to the pod, so that either Argo or the kubelet enforces it first.
    assert re.search("Step exceeded its deadline|Pod was active on the node longer", messages(result)), messages(result)
    events = cluster.kubectl("get", "events", "--output=jsonpath={.items[*].message}")
    assert f'secret "{service_account}.service-account-token" not found' in events


def test_smoke_test_fails_without_executor_rights(cluster: Cluster, target: Target, mark: str) -> None:
    service_account = create_account(cluster, mark, token=True)
    path = WORKFLOWS / "smoke-test.yaml"
    result = smoke_test(cluster, mark, path, f"image={target.job_image}", f"executor-account={service_account}")
    assert result["status"]["phase"] == "Failed", messages(result)
    assert "workflowtaskresults.argoproj.io is forbidden" in messages(result)


def has_right(cluster: Cluster, verb: str, resource: str) -> bool:
    service_account = f"--as=system:serviceaccount:{cluster.target.namespace}:flargo-sweep"
    command = ("kubectl", f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
    result = subprocess.run(
        (*command, "auth", "can-i", verb, resource, service_account), text=True, capture_output=True, check=False
    )
    return result.stdout.strip() == "yes"


def test_sweep_account_has_only_its_rights(cluster: Cluster, sweeper: Object) -> None:
    assert sweeper["kind"] == "CronWorkflow"
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    for resource, expected in (
        ("workflows.argoproj.io", {"list", "delete"}),
        ("pods", {"list", "delete"}),
        ("secrets", {"get", "delete"}),
        ("configmaps", set()),
    ):
        assert {verb for verb in verbs if has_right(cluster, verb, resource)} == expected, resource


LIST_WORKFLOWS_CODE = """\
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
host = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
namespace, token = (open(folder + name).read() for name in ("namespace", "token"))
url = f"https://{host}/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows?limit=1"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
context = ssl.create_default_context(cafile=folder + "ca.crt")
print(json.load(urllib.request.urlopen(request, context=context))["kind"])
"""


def test_sweep_runs_with_its_own_token(cluster: Cluster, target: Target, sweeper: Object, mark: str) -> None:
    """The test's image lacks flargo, so that the sweep's container only sends the first request of `flargo sweep`."""
    assert sweeper["spec"]["schedules"]
    result, pod = run_sweep(cluster, mark, image=target.job_image, command=["python", "-c", LIST_WORKFLOWS_CODE])
    assert result["status"]["phase"] == "Succeeded", cluster.log(pod)
    assert cluster.log(pod).startswith("WorkflowList\n"), cluster.log(pod)
