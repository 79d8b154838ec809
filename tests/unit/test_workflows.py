"""The Workflows that people submit themselves run as flargo's own do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.launches import plan_for
from tests.harness.paths import ROOT

Object = dict[str, Any]
SMOKE, SWEEP = ROOT / "workflows/smoke-test.yaml", ROOT / "workflows/sweep.yaml"
FLARGOS: Object = json.loads(json.dumps(plan_for().workflow["spec"]))
(STEP,) = FLARGOS["templates"]


def documents(file: Path) -> dict[str, Object]:
    """By kind; there is one of each."""
    return {document["kind"]: document for document in yaml.safe_load_all(file.read_text())}


def steps(spec: Object) -> dict[str, Object]:
    """The templates that become pods, by name."""
    return {template["name"]: template for template in spec["templates"] if "container" in template}


@pytest.fixture
def smoke() -> Object:
    spec: Object = documents(SMOKE)["Workflow"]["spec"]
    return spec


@pytest.fixture
def sweep() -> Object:
    spec: Object = documents(SWEEP)["CronWorkflow"]["spec"]["workflowSpec"]
    return spec


def assert_secured_like_a_job(step: Object) -> None:
    assert step["container"]["securityContext"] == STEP["container"]["securityContext"]
    assert yaml.safe_load(step["podSpecPatch"]) == json.loads(STEP["podSpecPatch"])


def test_the_smoke_tests_pods_have_what_a_jobs_pod_has(smoke: Object) -> None:
    assert set(steps(smoke)) == {"job", "claim"}
    assert smoke["automountServiceAccountToken"] is FLARGOS["automountServiceAccountToken"] is False
    assert named(smoke)["account"]["value"] == FLARGOS["serviceAccountName"]
    assert named(smoke)["executor-account"]["value"] == FLARGOS["executor"]["serviceAccountName"]
    for step in steps(smoke).values():
        assert_secured_like_a_job(step)
        assert step["serviceAccountName"] == "{{workflow.parameters.account}}"
        assert step["executor"] == {"serviceAccountName": "{{workflow.parameters.executor-account}}"}
        assert step["metadata"]["labels"].items() <= STEP["metadata"]["labels"].items()
    workspace = STEP["container"]["volumeMounts"][0]["mountPath"]
    assert steps(smoke)["job"]["container"]["volumeMounts"][0]["mountPath"] == workspace
    assert STEP["container"]["command"] == [named(smoke)["python"]["value"]]


def named(spec: Object) -> dict[str, Object]:
    return {each["name"]: each for each in spec["arguments"]["parameters"]}


def test_the_smoke_test_asks_for_an_image_and_may_be_told_a_claim(smoke: Object) -> None:
    assert "value" not in named(smoke)["image"]
    assert named(smoke)["claim"]["value"] == ""


def test_no_launcher_takes_the_smoke_test_for_a_job_of_its_own() -> None:
    assert "labels" not in documents(SMOKE)["Workflow"]["metadata"]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, *options, "-c", script), text=True, capture_output=True, check=False)


def test_the_smoke_test_knows_a_python_without_nvflare(smoke: Object) -> None:
    _, script = steps(smoke)["job"]["container"]["args"]
    done = run(script, "-I", "-S")
    assert done.returncode == 1
    assert done.stderr == "The image cannot run FLARE jobs: No module named 'nvflare'\n"


def test_the_smoke_test_knows_a_job_image(smoke: Object, tmp_path: Path) -> None:
    _, script = steps(smoke)["job"]["container"]["args"]
    done = run(script.replace("/var/tmp/nvflare/workspace", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nvflare 2.9")


def test_the_sweeps_pod_is_as_safe_as_a_jobs_and_has_the_token_of_an_account_of_its_own(sweep: Object) -> None:
    found = documents(SWEEP)
    assert_secured_like_a_job(steps(sweep)["sweep"])
    assert sweep["executor"] == FLARGOS["executor"]
    # Argo 3.7 hands a False on to the pod, and no True (setupServiceAccount in workflow/controller/workflowpod.go).
    assert "automountServiceAccountToken" not in {**sweep, **found["ServiceAccount"]}
    account = found["ServiceAccount"]["metadata"]["name"]
    assert sweep["serviceAccountName"] == account
    assert found["RoleBinding"]["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    assert [subject["name"] for subject in found["RoleBinding"]["subjects"]] == [account]


def test_the_sweep_may_look_and_delete_and_nothing_else() -> None:
    for rule in documents(SWEEP)["Role"]["rules"]:
        assert set(rule["resources"]) <= {"workflows", "pods", "secrets"}
        assert set(rule["verbs"]) <= {"get", "list", "delete"}
        assert "secrets" not in rule["resources"] or "list" not in rule["verbs"]
