"""All differences between flargo's pod and the stock launcher's, each with its exact value.

Written without flargo.job.pod; the test compares the two lists.
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
    """Return the job's container; before it is renamed, its name contains that of the job."""
    names = ("main", f"container-{_job_key(case)}")
    matches: list[Object] = [container for container in pod["spec"]["containers"] if container["name"] in names]
    assert len(matches) == 1
    return matches[0]


def _job_key(case: Case) -> str:
    job_id = str(case.job_meta["job_id"])
    return f"j{job_id}" if job_id[0].isdigit() else "".join(c for c in job_id.lower() if c.isalnum() or c == "-")


def nulls_are_absent(pod: Object, _: Case, __: Role) -> None:
    """Remove null values, which Kubernetes treats as absent."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items() if entry is not None}
        return [clean(entry) for entry in value] if isinstance(value, list) else value

    cleaned = clean(pod)
    pod.clear()
    pod.update(cleaned)


def startup_secret_is_named_by_federation(pod: Object, _: Case, __: Role) -> None:
    """Append the federation's hash to the name of the startup kit's Secret."""
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "startup-kit")
    volume["secret"]["secretName"] += f"-{FEDERATION}"


def credentials_are_named_by_launch(pod: Object, case: Case, _: Role) -> None:
    """Append the launch's id to the name of the credentials' Secret."""
    for variable in _main(pod, case)["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
        if reference.get("name") == f"nvflare-cred-{pod['metadata']['name']}":
            reference["name"] += f"-{ATTEMPT}"


def the_container_is_called_main(pod: Object, case: Case, _: Role) -> None:
    """Rename the job's container to the name that Argo requires."""
    _main(pod, case)["name"] = "main"


def amounts_are_strings(pod: Object, _: Case, __: Role) -> None:
    """Turn the resource amounts of every container into strings."""
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        for amounts in container.get("resources", {}).values():
            amounts.update({name: str(amount) for name, amount in amounts.items()})


def gpus_have_the_sites_name(pod: Object, case: Case, _: Role) -> None:
    """Rename the GPU resource to that of the site's nodes."""
    for amounts in _main(pod, case)["resources"].values():
        if "nvidia.com/gpu" in amounts:
            amounts[case.argo.get("gpu_resource", "nvidia.com/gpu")] = amounts.pop("nvidia.com/gpu")


def images_are_pulled_as_the_site_says(pod: Object, case: Case, _: Role) -> None:
    """Set the site's image pull policy."""
    if "image_pull_policy" in case.argo:
        _main(pod, case)["imagePullPolicy"] = case.argo["image_pull_policy"]


def main_is_restricted(pod: Object, case: Case, _: Role) -> None:
    """Set the security context that the case expects."""
    _main(pod, case)["securityContext"] = deepcopy(dict(case.main))


def claims_that_are_only_read_are_read_only(pod: Object, case: Case, _: Role) -> None:
    """Make the claims read-only that the case names."""
    for volume in pod["spec"]["volumes"]:
        if volume.get("persistentVolumeClaim", {}).get("claimName") in case.closed:
            volume["persistentVolumeClaim"]["readOnly"] = True


def labels_identify_the_job(pod: Object, case: Case, role: Role) -> None:
    """Add flargo's labels and the site's own labels and annotations."""
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
    if role is Role.SERVER:
        # A server's job has one attempt, whatever the job asks for.
        meta["labels"].pop("flargo.dev/attempt-number", None)
    if case.annotations:
        meta["annotations"] = {**meta.get("annotations", {}), **case.annotations}


def pod_has_its_own_account(pod: Object, case: Case, _: Role) -> None:
    """Set the service account that the case expects."""
    pod["spec"]["serviceAccountName"] = case.account


def pod_has_no_token(pod: Object, case: Case, _: Role) -> None:
    """Mount no service account token, unless the case expects one."""
    pod["spec"]["automountServiceAccountToken"] = case.token


def pod_has_a_deadline(pod: Object, case: Case, _: Role) -> None:
    """Set the site's deadline, or the pod template's if it is shorter."""
    if case.deadline is not None:
        pod["spec"]["activeDeadlineSeconds"] = case.deadline


def a_drain_waits(pod: Object, case: Case, _: Role) -> None:
    """Sleep before a drain sends SIGTERM, with the hook and the grace period that the case expects."""
    if case.drain is not None:
        sleep, pod["spec"]["terminationGracePeriodSeconds"] = case.drain
        main = _main(pod, case)
        main.setdefault("lifecycle", {}).setdefault(
            "preStop", {"exec": {"command": [main["command"][0], "-c", f"import time; time.sleep({sleep})"]}}
        )


def argo_adds_its_containers(pod: Object, case: Case, _: Role) -> None:
    """Add ``init`` and ``wait``, with the fields that flargo patches into them."""
    fields = deepcopy(dict(case.executor or {}))
    pod["spec"]["containers"].insert(0, {"name": "wait", **fields})
    pod["spec"].setdefault("initContainers", []).insert(0, {"name": "init", **deepcopy(fields)})


DIFFERENCES: tuple[Difference, ...] = (
    nulls_are_absent,
    startup_secret_is_named_by_federation,
    credentials_are_named_by_launch,
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
    a_drain_waits,
    argo_adds_its_containers,
)


def expected_pod(stock: Object, case: Case, role: Role) -> Object:
    """Return the stock launcher's pod with all differences applied."""
    pod = deepcopy(stock)
    for difference in DIFFERENCES:
        difference(pod, case, role)
    return pod
