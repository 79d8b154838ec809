"""What people apply fits what flargo makes."""

from typing import Any

import yaml

from flargo.job.settings import settings
from tests.docs import ROOT
from tests.unit.launches import planned, step_of


def documents(kind: str) -> dict[str, Any]:
    """All of a kind in deploy/, by name."""
    files = sorted((ROOT / "deploy").glob("*.yaml"))
    found = [document for file in files for document in yaml.safe_load_all(file.read_text()) if "metadata" in document]
    return {document["metadata"]["name"]: document for document in found if document["kind"] == kind}


def test_the_accounts_are_those_that_jobs_run_as_by_default() -> None:
    argo = settings().argo
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
    assert wanted.items() <= step_of(planned())["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == []
    for rule in policy["spec"]["egress"]:
        assert rule["to"], "an empty list is everybody"
        assert rule["ports"], "an empty list is every port"


def test_kustomize_applies_all_but_the_example() -> None:
    (kustomization,) = (yaml.safe_load(file.read_text()) for file in (ROOT / "deploy").glob("kustomization.yaml"))
    others = {file.name for file in (ROOT / "deploy").glob("*.yaml")} - {"kustomization.yaml", "network-policy.yaml"}
    assert set(kustomization["resources"]) == others
