"""The step that Argo makes of flargo's Workflow is the stock launcher's pod, but for the stated differences."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nvflare.app_opt.job_launcher import workspace_cell_transfer

from flargo.flare.request import read_launch
from flargo.job import pod
from flargo.job.plan import build_plan
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
    """Both launchers draw a random token for the workspace transfer."""
    monkeypatch.setattr(workspace_cell_transfer.secrets, "token_urlsafe", lambda _: "a transfer token")


def read_plan(case: Case, root: Path, role: Role) -> Plan:
    settings = case.settings(root)
    context = case.parent(root, role).context(case.job_meta["job_id"])
    launch, _ = read_launch(case.job_meta, context, role, settings, attempt=ATTEMPT, epoch=EPOCH)
    return build_plan(launch, settings)


def containers_by_name(pod_: Object) -> Object:
    """Containers by their names: Argo puts main before the sidecars, whose order says nothing."""
    spec = pod_["spec"]
    named = {container["name"]: container for container in spec["containers"]}
    assert len(named) == len(spec["containers"])
    return {**pod_, "spec": {**spec, "containers": named}}


@every_case
@both_roles
def test_the_pod_has_only_listed_differences(case: Case, role: Role, tmp_path: Path) -> None:
    stock_pod, _ = stock.launch(case.parent(tmp_path, role), case.job_meta, case.all_arguments(tmp_path))
    made = argo.pod_from_workflow(read_plan(case, tmp_path, role).workflow)
    assert containers_by_name(made) == containers_by_name(expected_pod(stock_pod, case, role))


@every_case
@both_roles
def test_secrets_match_the_stock_secrets(case: Case, role: Role, tmp_path: Path) -> None:
    stock_pod, secrets = stock.launch(case.parent(tmp_path, role), case.job_meta, case.all_arguments(tmp_path))
    planned = read_plan(case, tmp_path, role)
    ours = {secret.name: dict(secret.data) for secret in (planned.startup, planned.credentials)}
    cred = f"nvflare-cred-{stock_pod['metadata']['name']}"
    (startup,) = set(secrets) - {cred}
    assert ours == {f"{startup}-{FEDERATION}": secrets[startup], f"{cred}-{ATTEMPT}": secrets[cred]}
    assert planned.startup.data == KIT


def test_the_matrix_has_many_cases() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.__name__)
def test_each_difference_changes_some_pod(difference: Any, tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        root = tmp_path / str(number)
        made, _ = stock.launch(case.parent(root, Role.CLIENT), case.job_meta, case.all_arguments(root))
        changed = deepcopy(made)
        difference(changed, case, Role.CLIENT)
        if changed != made:
            return
    pytest.fail("no case shows it")


DOCUMENTED: dict[str, set[Difference]] = {
    "secret names": {
        differences.startup_secret_is_told_apart_by_federation,
        differences.credentials_are_told_apart_by_launch,
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
}
UNDOCUMENTED: set[Difference] = {differences.nulls_are_absent, differences.argo_adds_its_containers}
"""No difference to Kubernetes, and Argo's doing."""


def test_documented_differences_are_complete() -> None:
    assert {difference.name for difference in pod.DIFFERENCES} == set(DOCUMENTED)
    assert set().union(UNDOCUMENTED, *DOCUMENTED.values()) == set(DIFFERENCES)


def test_samples_have_distinct_names() -> None:
    planned = [build_plan(launch, settings) for _, settings, launch in samples()]
    assert len(planned) >= 120
    assert len({each.name for each in planned}) == len(planned)
    assert all(each.workflow["kind"] == "Workflow" for each in planned)
