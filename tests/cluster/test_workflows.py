"""The Workflows that people submit themselves, on a real cluster: the smoke test, and what sweeps."""

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
    """The smoke test, submitted as its first lines say, when it is over."""
    said = [word for each in parameters for word in ("--parameter", each)]
    name = cluster.argo("submit", str(path), *said, f"--labels={mark}", "--output=name")
    return wait_for_end(cluster, name)


def messages(workflow: Object) -> str:
    status = workflow.get("status") or {}
    return " ".join(each.get("message", "") for each in (status, *(status.get("nodes") or {}).values()))


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """The smoke test, with half a minute in the place of its quarter of an hour."""
    document = yaml.safe_load((WORKFLOWS / "smoke-test.yaml").read_text())
    assert document["spec"]["activeDeadlineSeconds"] == 900
    document["spec"]["activeDeadlineSeconds"] = 30
    path = tmp_path / "smoke-test.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_argo_lints_them(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    documents = yaml.safe_load_all((WORKFLOWS / "sweep.yaml").read_text())
    path.write_text(yaml.safe_dump(next(each for each in documents if each["kind"] == "CronWorkflow")))
    for file, kinds in ((WORKFLOWS / "smoke-test.yaml", "workflows"), (path, "cronworkflows")):
        done = argo_lint(file, kinds)
        assert done.returncode == 0, done.stdout


def test_the_api_server_takes_the_smoke_test_strictly(target: Target) -> None:
    done = server_dry_run(target, WORKFLOWS / "smoke-test.yaml")
    assert done.returncode == 0, done.stderr


def test_the_smoke_test_succeeds_where_jobs_run(cluster: Cluster, target: Target, mark: str) -> None:
    done = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={target.job_image}")
    assert done["status"]["phase"] == "Succeeded", messages(done)
    (pod,) = cluster.items("pods", f"workflows.argoproj.io/workflow={done['metadata']['name']}")
    assert cluster.log(pod).startswith("nvflare 2.9")


def test_the_smoke_test_mounts_a_claim_that_it_is_told_of(
    cluster: Cluster, target: Target, mark: str, tmp_path: Path
) -> None:
    if target.own:
        pytest.skip("it takes a volume, and what a cluster has of those is its own business")
    claim = mark.replace("flargo.test/workflows=", "flargo-test-")
    tmp_path.chmod(0o755)
    (tmp_path / "scan.nii").touch()
    size, modes = {"storage": "1Mi"}, ["ReadOnlyMany"]
    volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": str(tmp_path)}, "storageClassName": ""}
    wanted = {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": claim}
    for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", wanted)):
        cluster.create(with_label({"apiVersion": "v1", "kind": kind, "metadata": {"name": claim}, "spec": spec}, mark))
    done = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={target.job_image}", f"claim={claim}")
    assert done["status"]["phase"] == "Succeeded", messages(done)
    pods = cluster.items("pods", f"workflows.argoproj.io/workflow={done['metadata']['name']}")
    assert any("The volume claim is mounted, and has" in cluster.log(pod) for pod in pods)


def test_the_smoke_test_waits_for_a_claim_that_is_not_there_and_says_so(
    cluster: Cluster, target: Target, mark: str
) -> None:
    """Argo looks at a Workflow's deadline when something happens to it: nothing does while no node takes its pod."""
    said = ("--parameter", f"image={target.job_image}", "--parameter", "claim=flargo-not-there")
    path = str(WORKFLOWS / "smoke-test.yaml")
    name = cluster.argo("submit", path, *said, f"--labels={mark}", "--output=name")
    wanted = 'persistentvolumeclaim "flargo-not-there" not found'
    eventually(lambda: wanted in messages(cluster.workflow(name)), END_SECONDS, "Argo says that there is no such claim")


def test_the_smoke_test_fails_with_an_image_that_runs_no_jobs(cluster: Cluster, target: Target, mark: str) -> None:
    if target.own:
        pytest.skip("the image is the test cluster's")
    done = smoke_test(cluster, mark, WORKFLOWS / "smoke-test.yaml", f"image={images.names()['argoexec']}")
    assert done["status"]["phase"] in {"Failed", "Error"}, messages(done)
    assert "/usr/local/bin/python" in messages(done)


def account(cluster: Cluster, mark: str, *, token: bool) -> str:
    """An account for Argo's containers that has no rights, and perhaps a token Secret."""
    name = mark.replace("flargo.test/workflows=", "flargo-test-")
    cluster.create(with_label({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}, mark))
    if token:
        of = {"name": f"{name}.service-account-token", "annotations": {"kubernetes.io/service-account.name": name}}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": of, "type": "kubernetes.io/service-account-token"}
        cluster.create(with_label(secret, mark))
    return name


def test_the_smoke_test_fails_without_the_executors_token_secret(
    cluster: Cluster, target: Target, mark: str, hasty: Path
) -> None:
    who = account(cluster, mark, token=False)
    done = smoke_test(cluster, mark, hasty, f"image={target.job_image}", f"executor-account={who}")
    assert done["status"]["phase"] == "Failed", messages(done)
    # Argo or the kubelet, whichever looks first: Argo gives its deadline to the pod.
    assert re.search("Step exceeded its deadline|Pod was active on the node longer", messages(done)), messages(done)
    events = cluster.kubectl("get", "events", "--output=jsonpath={.items[*].message}")
    assert f'secret "{who}.service-account-token" not found' in events


def test_the_smoke_test_fails_without_the_executors_rights(cluster: Cluster, target: Target, mark: str) -> None:
    who = account(cluster, mark, token=True)
    path = WORKFLOWS / "smoke-test.yaml"
    done = smoke_test(cluster, mark, path, f"image={target.job_image}", f"executor-account={who}")
    assert done["status"]["phase"] == "Failed", messages(done)
    assert "workflowtaskresults.argoproj.io is forbidden" in messages(done)


def may(cluster: Cluster, verb: str, resource: str) -> bool:
    who = f"--as=system:serviceaccount:{cluster.target.namespace}:flargo-sweep"
    words = ("kubectl", f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
    done = subprocess.run((*words, "auth", "can-i", verb, resource, who), text=True, capture_output=True, check=False)
    return done.stdout.strip() == "yes"


def test_the_sweeps_account_may_look_and_delete(cluster: Cluster, sweeper: Object) -> None:
    assert sweeper["kind"] == "CronWorkflow"
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    for resource, allowed in (
        ("workflows.argoproj.io", {"list", "delete"}),
        ("pods", {"list", "delete"}),
        ("secrets", {"get", "delete"}),
        ("configmaps", set()),
    ):
        assert {verb for verb in verbs if may(cluster, verb, resource)} == allowed, resource


ASKS = """\
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
host = os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
namespace, token = (open(folder + name).read() for name in ("namespace", "token"))
url = f"https://{host}/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows?limit=1"
asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
trusted = ssl.create_default_context(cafile=folder + "ca.crt")
print(json.load(urllib.request.urlopen(asked, context=trusted))["kind"])
"""


def test_the_sweep_runs_in_the_namespace_with_its_own_token(
    cluster: Cluster, target: Target, sweeper: Object, mark: str
) -> None:
    """In the place of flargo's command line, which the test's image does not have, it asks what that asks first."""
    assert sweeper["spec"]["schedules"]
    done, pod = run_sweep(cluster, mark, image=target.job_image, command=["python", "-c", ASKS])
    assert done["status"]["phase"] == "Succeeded", cluster.log(pod)
    assert cluster.log(pod).startswith("WorkflowList\n"), cluster.log(pod)
