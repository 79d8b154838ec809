"""Workflows that people submit themselves have the same security settings and accounts as flargo's own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows.models import Template

from flargo.terms import STEP_TEMPLATE
from tests.harness.launches import plan_for
from tests.harness.paths import ROOT

Object = dict[str, Any]
SMOKE, SWEEP = ROOT / "workflows/smoke-test.yaml", ROOT / "workflows/sweep.yaml"
JOB_SPEC: Object = json.loads(json.dumps(plan_for().workflow["spec"]))
(JOB_TEMPLATE,) = JOB_SPEC["templates"]


def documents(file: Path) -> dict[str, Object]:
    """Return a file's documents by kind; the file has one of each kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(file.read_text())}


def steps(spec: Object) -> dict[str, Object]:
    """Return the templates that become pods, by name."""
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
    assert step["container"]["securityContext"] == JOB_TEMPLATE["container"]["securityContext"]
    assert yaml.safe_load(step["podSpecPatch"]) == json.loads(JOB_TEMPLATE["podSpecPatch"])


def test_smoke_test_pods_match_job_pods(smoke: Object) -> None:
    """The smoke test's pods have a job pod's accounts, labels, security context and Python."""
    assert set(steps(smoke)) == {"job", "claim"}
    assert smoke["automountServiceAccountToken"] is JOB_SPEC["automountServiceAccountToken"] is False
    assert parameters(smoke)["account"]["value"] == JOB_SPEC["serviceAccountName"]
    assert parameters(smoke)["executor-account"]["value"] == JOB_SPEC["executor"]["serviceAccountName"]
    for step in steps(smoke).values():
        assert_secured_like_a_job(step)
        assert step["serviceAccountName"] == "{{workflow.parameters.account}}"
        assert step["executor"] == {"serviceAccountName": "{{workflow.parameters.executor-account}}"}
        assert step["metadata"]["labels"].items() <= JOB_TEMPLATE["metadata"]["labels"].items()
    workspace = JOB_TEMPLATE["container"]["volumeMounts"][0]["mountPath"]
    assert steps(smoke)["job"]["container"]["volumeMounts"][0]["mountPath"] == workspace
    assert JOB_TEMPLATE["container"]["command"] == [parameters(smoke)["python"]["value"]]


def parameters(spec: Object) -> dict[str, Object]:
    return {each["name"]: each for each in spec["arguments"]["parameters"]}


def test_smoke_test_requires_only_an_image(smoke: Object) -> None:
    """A volume claim is optional."""
    assert "value" not in parameters(smoke)["image"]
    assert parameters(smoke)["claim"]["value"] == ""


def test_no_launcher_adopts_the_smoke_test() -> None:
    """Launchers recognise their jobs by labels; the smoke test has none."""
    assert "labels" not in documents(SMOKE)["Workflow"]["metadata"]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, *options, "-c", script), text=True, capture_output=True, check=False)


def test_smoke_test_detects_missing_nvflare(smoke: Object) -> None:
    _, script = steps(smoke)["job"]["container"]["args"]
    process = run(script, "-I", "-S")
    assert process.returncode == 1
    assert process.stderr == "The image cannot run FLARE jobs: No module named 'nvflare'\n"


def test_smoke_test_accepts_a_job_image(smoke: Object, tmp_path: Path) -> None:
    _, script = steps(smoke)["job"]["container"]["args"]
    process = run(script.replace("/var/tmp/nvflare/workspace", str(tmp_path)))
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("nvflare 2.9")


def test_sweep_pod_is_secured_like_jobs(sweep: Object) -> None:
    """The sweep's pod is as restricted as a job's, and has the token of an account of its own."""
    manifests = documents(SWEEP)
    assert_secured_like_a_job(steps(sweep)["sweep"])
    assert sweep["executor"] == JOB_SPEC["executor"]
    # Argo 3.7 hands a False on to the pod, and no True (setupServiceAccount in workflow/controller/workflowpod.go).
    assert "automountServiceAccountToken" not in {**sweep, **manifests["ServiceAccount"]}
    account = manifests["ServiceAccount"]["metadata"]["name"]
    assert sweep["serviceAccountName"] == account
    assert manifests["RoleBinding"]["roleRef"]["name"] == manifests["Role"]["metadata"]["name"]
    assert [subject["name"] for subject in manifests["RoleBinding"]["subjects"]] == [account]


def test_sweep_may_only_read_and_delete() -> None:
    for rule in documents(SWEEP)["Role"]["rules"]:
        assert set(rule["resources"]) <= {"workflows", "pods", "secrets"}
        assert set(rule["verbs"]) <= {"get", "list", "delete"}
        assert "secrets" not in rule["resources"] or "list" not in rule["verbs"]


@pytest.fixture
def handler() -> Object:
    """The template of the example of an exit handler."""
    settings = yaml.safe_load((ROOT / "workflows/examples/exit-handler.yaml").read_text())["data"]
    spec = yaml.safe_load(settings["workflowDefaults"])["spec"]
    (template,) = spec["templates"]
    assert set(spec) == {"onExit", "templates"}
    assert spec["onExit"] == template["name"] != STEP_TEMPLATE
    return dict(template)


def test_exit_handler_is_secured_like_jobs(handler: Object) -> None:
    assert_secured_like_a_job(handler)
    (secret,) = (each for each in handler["container"]["env"] if "valueFrom" in each)
    assert secret["valueFrom"]["secretKeyRef"]["optional"], "it runs in namespaces without the Secret, too"


def test_exit_handler_is_a_template_of_argo(handler: Object) -> None:
    """Hera's models of Argo's API lose nothing of it."""
    model = Template.model_validate(handler)
    assert json.loads(model.model_dump_json(by_alias=True, exclude_none=True)) == handler
    variables = set(re.findall(r"{{(.*?)}}", json.dumps(handler)))
    assert variables == {"workflow.name", "workflow.status", "workflow.labels.json"}, (
        "Argo knows these in every handler"
    )
