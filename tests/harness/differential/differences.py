"""All that flargo makes different about the stock launcher's pod, each with its exact value.

Written on its own, without flargo.job.pod: the two lists are held against one another by the test.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from flargo.terms import Role
from tests.harness.differential.cases import ATTEMPT, EPOCH, Case
from tests.harness.differential.parent import FEDERATION

Object = dict[str, Any]
Difference = Callable[[Object, Case, Role], None]


def _main(pod: Object, case: Case) -> Object:
    """The job's container; before it is renamed its name begins with that of the job."""
    names = ("main", f"container-{_job_key(case)}")
    found: list[Object] = [container for container in pod["spec"]["containers"] if container["name"] in names]
    assert len(found) == 1
    return found[0]


def _job_key(case: Case) -> str:
    job_id = str(case.job_meta["job_id"])
    return f"j{job_id}" if job_id[0].isdigit() else "".join(c for c in job_id.lower() if c.isalnum() or c == "-")


def nulls_are_absent(pod: Object, _: Case, __: Role) -> None:
    """What is null is not there: to Kubernetes that is the same."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items() if entry is not None}
        return [clean(entry) for entry in value] if isinstance(value, list) else value

    cleaned = clean(pod)
    pod.clear()
    pod.update(cleaned)


def startup_secret_is_told_apart_by_federation(pod: Object, _: Case, __: Role) -> None:
    """The name of the startup kit's Secret ends in the federation's hash."""
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "startup-kit")
    volume["secret"]["secretName"] += f"-{FEDERATION}"


def credentials_are_told_apart_by_launch(pod: Object, case: Case, _: Role) -> None:
    """The name of the credentials' Secret ends in the launch's id."""
    for variable in _main(pod, case)["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
        if reference.get("name") == f"nvflare-cred-{pod['metadata']['name']}":
            reference["name"] += f"-{ATTEMPT}"


def the_container_is_called_main(pod: Object, case: Case, _: Role) -> None:
    """Argo's name for it."""
    _main(pod, case)["name"] = "main"


def amounts_are_strings(pod: Object, _: Case, __: Role) -> None:
    """Cpu, memory and GPUs of every container."""
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        for amounts in container.get("resources", {}).values():
            amounts.update({name: str(amount) for name, amount in amounts.items()})


def gpus_have_the_sites_name(pod: Object, case: Case, _: Role) -> None:
    """The GPU resource of the site's nodes."""
    for amounts in _main(pod, case)["resources"].values():
        if "nvidia.com/gpu" in amounts:
            amounts[case.argo.get("gpu_resource", "nvidia.com/gpu")] = amounts.pop("nvidia.com/gpu")


def images_are_pulled_as_the_site_says(pod: Object, case: Case, _: Role) -> None:
    """The site's pull policy."""
    if "image_pull_policy" in case.argo:
        _main(pod, case)["imagePullPolicy"] = case.argo["image_pull_policy"]


def main_is_restricted(pod: Object, case: Case, _: Role) -> None:
    """The security context that the case says."""
    _main(pod, case)["securityContext"] = deepcopy(dict(case.main))


def claims_that_are_only_read_are_read_only(pod: Object, case: Case, _: Role) -> None:
    """Those that the case names."""
    for volume in pod["spec"]["volumes"]:
        if volume.get("persistentVolumeClaim", {}).get("claimName") in case.closed:
            volume["persistentVolumeClaim"]["readOnly"] = True


def labels_identify_the_job(pod: Object, case: Case, role: Role) -> None:
    """Flargo's labels and the site's own labels and annotations."""
    meta = pod["metadata"]
    meta["labels"] = {
        **meta.get("labels", {}),
        "app.kubernetes.io/managed-by": "flargo",
        "flargo.dev/federation": FEDERATION,
        "flargo.dev/job-id": case.job_meta["job_id"],
        "flargo.dev/parent": EPOCH,
        "flargo.dev/role": "server" if role is Role.SERVER else "client",
        "flargo.dev/site": case.site,
        **case.labels,
    }
    if case.annotations:
        meta["annotations"] = {**meta.get("annotations", {}), **case.annotations}


def pod_has_its_own_account(pod: Object, case: Case, _: Role) -> None:
    """The account that the case says."""
    pod["spec"]["serviceAccountName"] = case.account


def pod_has_no_token(pod: Object, case: Case, _: Role) -> None:
    """Unless the case says so."""
    pod["spec"]["automountServiceAccountToken"] = case.token


def pod_has_a_deadline(pod: Object, case: Case, _: Role) -> None:
    """The site's, or the template's where that is shorter."""
    if case.deadline is not None:
        pod["spec"]["activeDeadlineSeconds"] = case.deadline


def argo_adds_its_containers(pod: Object, case: Case, _: Role) -> None:
    """``init`` and ``wait``, with what flargo patches into them."""
    added = deepcopy(dict(case.executor or {}))
    pod["spec"]["containers"].insert(0, {"name": "wait", **added})
    pod["spec"].setdefault("initContainers", []).insert(0, {"name": "init", **deepcopy(added)})


DIFFERENCES: tuple[Difference, ...] = (
    nulls_are_absent,
    startup_secret_is_told_apart_by_federation,
    credentials_are_told_apart_by_launch,
    the_container_is_called_main,
    amounts_are_strings,
    gpus_have_the_sites_name,
    images_are_pulled_as_the_site_says,
    main_is_restricted,
    claims_that_are_only_read_are_read_only,
    labels_identify_the_job,
    pod_has_its_own_account,
    pod_has_no_token,
    pod_has_a_deadline,
    argo_adds_its_containers,
)


def expected_pod(stock: Object, case: Case, role: Role) -> Object:
    """The stock launcher's pod with all the differences."""
    pod = deepcopy(stock)
    for difference in DIFFERENCES:
        difference(pod, case, role)
    return pod
