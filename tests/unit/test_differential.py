"""The pod that Argo makes of flargo's Workflow is the stock launcher's pod, except for the listed differences."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nvflare.app_opt.job_launcher import workspace_cell_transfer

from flargo.flare.request import read_launch
from flargo.job.plan import build_plan
from flargo.job.pod import DIFFERENCES as DOCUMENTED_DIFFERENCES
from flargo.terms import Plan, Role
from tests.harness.differential import argo, differences, stock
from tests.harness.differential.cases import ATTEMPT, CASES, EPOCH, Case, samples
from tests.harness.differential.differences import DIFFERENCES, Difference, expected_pod
from tests.harness.differential.parent import FEDERATION, KIT

Object = dict[str, Any]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
both_roles = pytest.mark.parametrize("role", list(Role), ids=str)


@pytest.fixture(autouse=True)
def same_transfer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the random token of the workspace transfer, which each launcher draws for itself."""
    monkeypatch.setattr(workspace_cell_transfer.secrets, "token_urlsafe", lambda _: "a transfer token")


def read_plan(case: Case, root: Path, role: Role) -> Plan:
    settings = case.settings(root)
    context = case.parent(root, role).context(case.job_meta["job_id"])
    launch, _ = read_launch(case.job_meta, context, role, settings, attempt=ATTEMPT, epoch=EPOCH)
    return build_plan(launch, settings)


def containers_by_name(pod: Object) -> Object:
    """Return a pod with its containers by name: Argo puts main before the sidecars, and their order has no meaning."""
    spec = pod["spec"]
    containers = {container["name"]: container for container in spec["containers"]}
    assert len(containers) == len(spec["containers"])
    return {**pod, "spec": {**spec, "containers": containers}}


@every_case
@both_roles
def test_the_pod_has_only_listed_differences(case: Case, role: Role, tmp_path: Path) -> None:
    stock_pod, _ = stock.launch(case.parent(tmp_path, role), case.job_meta, case.all_arguments(tmp_path))
    pod = argo.pod_from_workflow(read_plan(case, tmp_path, role).workflow)
    assert containers_by_name(pod) == containers_by_name(expected_pod(stock_pod, case, role))


@every_case
@both_roles
def test_secrets_match_the_stock_secrets(case: Case, role: Role, tmp_path: Path) -> None:
    stock_pod, secrets = stock.launch(case.parent(tmp_path, role), case.job_meta, case.all_arguments(tmp_path))
    plan = read_plan(case, tmp_path, role)
    ours = {secret.name: dict(secret.data) for secret in (plan.startup, plan.credentials)}
    cred = f"nvflare-cred-{stock_pod['metadata']['name']}"
    (startup,) = set(secrets) - {cred}
    assert ours == {f"{startup}-{FEDERATION}": secrets[startup], f"{cred}-{ATTEMPT}": secrets[cred]}
    assert plan.startup.data == KIT


def test_the_matrix_has_many_cases() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.__name__)
def test_each_difference_changes_some_pod(difference: Any, tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        root = tmp_path / str(number)
        pod_before, _ = stock.launch(case.parent(root, Role.CLIENT), case.job_meta, case.all_arguments(root))
        pod_after = deepcopy(pod_before)
        difference(pod_after, case, Role.CLIENT)
        if pod_after != pod_before:
            return
    pytest.fail("this difference changes the pod of no case")


DOCUMENTED: dict[str, set[Difference]] = {
    "secret names": {
        differences.startup_secret_is_named_by_federation,
        differences.credentials_are_named_by_launch,
    },
    "main": {differences.the_container_is_called_main},
    "quantities": {differences.amounts_are_strings},
    "GPU resource": {differences.gpus_have_the_sites_name},
    "image pull policy": {differences.images_are_pulled_as_the_site_says},
    "restricted": {differences.main_is_restricted},
    "read-only claims": {differences.claims_that_are_only_read_are_read_only},
    "labels": {differences.labels_identify_the_job},
    "service account": {differences.pod_has_its_own_account},
    "no token": {differences.pod_has_no_token},
    "running time": {differences.pod_has_a_deadline},
    "drain delay": {differences.a_drain_waits},
}
UNDOCUMENTED: set[Difference] = {differences.nulls_are_absent, differences.argo_adds_its_containers}
"""Differences that Kubernetes does not see, and those that Argo makes."""


def test_documented_differences_are_complete() -> None:
    assert {difference.name for difference in DOCUMENTED_DIFFERENCES} == set(DOCUMENTED)
    assert set().union(UNDOCUMENTED, *DOCUMENTED.values()) == set(DIFFERENCES)


def test_samples_have_distinct_names() -> None:
    plans = [build_plan(launch, settings) for _, settings, launch in samples()]
    assert len(plans) >= 120
    assert len({plan.name for plan in plans}) == len(plans)
    assert all(plan.workflow["kind"] == "Workflow" for plan in plans)
