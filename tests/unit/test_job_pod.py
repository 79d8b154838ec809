"""The pod's security context and labels, and the names and types that a pod template may not have."""

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.job.pod import DIFFERENCES, RESERVED_CONTAINERS, RESERVED_VOLUMES, build_pod, restricted_context
from flargo.job.settings import check_settings
from flargo.job.validate import InvalidInput
from tests.harness.launches import argo_pod, launch, launch_with_template, plan_for

Object = dict[str, Any]
HIDDEN_MESSAGE = r"is not allowed \(value not shown\); expected"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
    "runAsUser": 1000,
    "runAsNonRoot": True,
}


def test_every_difference_has_a_change_and_reason() -> None:
    assert all(difference.change and difference.reason for difference in DIFFERENCES)
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)


def test_building_a_pod_keeps_the_launch() -> None:
    request = launch()
    before = deepcopy(request.pod)
    build_pod(request, check_settings(argo={"labels": {"a": "b"}}))
    assert request.pod == before


@pytest.mark.parametrize(
    ("container_context", "pod_context", "expected"),
    [
        pytest.param({}, {}, RESTRICTED, id="empty"),
        pytest.param(RESTRICTED, {}, RESTRICTED, id="complete on the container"),
        pytest.param(
            {}, {"runAsUser": 5}, {k: v for k, v in RESTRICTED.items() if k != "runAsUser"}, id="user of the pod"
        ),
        pytest.param(
            {"runAsUser": 0},
            {"runAsUser": 5},
            {**{k: v for k, v in RESTRICTED.items() if k != "runAsNonRoot"}, "runAsUser": 0},
            id="root on the container, over the pod",
        ),
        pytest.param(
            {"runAsNonRoot": False},
            {},
            {**{k: v for k, v in RESTRICTED.items() if k != "runAsUser"}, "runAsNonRoot": False},
            id="no user, and root allowed",
        ),
        pytest.param(
            {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
            {},
            {**RESTRICTED, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
            id="capabilities of the site",
        ),
    ],
)
def test_restricted_context_examples(container_context: Object, pod_context: Object, expected: Object) -> None:
    assert restricted_context(container_context, pod_context, 1000) == expected


@given(
    container_context=st.fixed_dictionaries(
        {},
        optional={
            "runAsUser": st.sampled_from([0, 5]),
            "runAsNonRoot": st.booleans(),
            "privileged": st.booleans(),
            "allowPrivilegeEscalation": st.booleans(),
            "seccompProfile": st.just({"type": "Unconfined"}),
        },
    ),
    pod_context=st.fixed_dictionaries(
        {}, optional={"runAsUser": st.sampled_from([0, 5]), "runAsNonRoot": st.booleans()}
    ),
)
def test_restricted_context_never_overrules_or_contradicts(container_context: Object, pod_context: Object) -> None:
    """Every field of the site stays, and no field is added that the API server refuses beside the others."""
    context = restricted_context(container_context, pod_context, 1000)
    assert {key: context[key] for key in container_context} == container_context
    both = {**pod_context, **context}
    site = {**pod_context, **container_context}
    if both.get("runAsUser") == 0 and both.get("runAsNonRoot"):
        assert (site.get("runAsUser"), site.get("runAsNonRoot")) == (0, True)
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        assert container_context["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", sorted(RESERVED_CONTAINERS))
@pytest.mark.parametrize("group", ["containers", "initContainers"])
def test_reserved_container_names_are_refused(name: str, group: str) -> None:
    spec: Object = {"containers": [{"name": "nvflare_job"}]}
    spec.setdefault(group, []).append({"name": name, "image": "x"})
    with pytest.raises(
        InvalidInput, match=rf"pod_template.spec.{group}\[.\].name` is not allowed \(value not shown\).*{name}"
    ):
        plan_for(launch_with_template(spec))


@pytest.mark.parametrize("name", sorted(RESERVED_VOLUMES))
def test_reserved_volume_names_are_refused(name: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"pod_template.spec.volumes\[0\].name` is not allowed \(value not shown\).*{name}"
    ):
        plan_for(launch_with_template({"volumes": [{"name": name, "emptyDir": {}}]}))


@pytest.mark.parametrize("path", ["/var/run/argo", "/var/run/argo/", "/var/run/argo/ctr"])
def test_argos_mount_path_is_refused(path: str) -> None:
    container = {"name": "nvflare_job", "volumeMounts": [{"name": "x", "mountPath": path}]}
    with pytest.raises(InvalidInput, match="mountPath"):
        plan_for(launch_with_template({"containers": [container], "volumes": [{"name": "x", "emptyDir": {}}]}))


@pytest.mark.parametrize("key", ["flargo.dev/job-id", "workflows.argoproj.io/completed"])
@pytest.mark.parametrize("group", ["labels", "annotations"])
def test_reserved_labels_and_annotations_are_refused(key: str, group: str) -> None:
    with pytest.raises(
        InvalidInput,
        match=rf"pod_template.metadata.{group}` is not allowed \(value not shown\).*{key.partition('/')[0]}/",
    ):
        plan_for(launch_with_template(**{group: {key: "x"}}))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"volumes": [5]}, None),
        ({"securityContext": []}, "spec.securityContext"),
        ({"initContainers": {}}, "spec.initContainers"),
        ({"initContainers": ["x"]}, r"spec.initContainers\[0\]"),
        ({"containers": [{"name": "nvflare_job", "securityContext": 1}]}, r"spec.containers\[0\].securityContext"),
        ({"containers": [{"name": "nvflare_job"}, {"name": "b", "resources": 5}]}, r"spec.containers\[1\].resources"),
        ({"volumes": [{"name": "a", "persistentVolumeClaim": "pvc"}]}, r"spec.volumes\[0\].persistentVolumeClaim"),
        ({"volumes": [{"name": ["a"], "emptyDir": {}}]}, None),
        (
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": []}}]},
            r"spec.volumes\[0\].persistent.*Name",
        ),
        ({"initContainers": [{"name": {"a": "b"}}]}, r"spec.initContainers\[0\].name"),
        ({"containers": [{"name": ["nvflare_job"]}]}, None),
    ],
)
def test_a_wrong_type_is_refused_by_place(spec: Object, field: str | None) -> None:
    with pytest.raises(InvalidInput, match=f"pod_template.{field}" if field else "pod_template"):
        plan_for(launch_with_template(spec))


def test_an_unnamed_claim_volume_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"volumes\[0\]\.name"):
        plan_for(launch_with_template({"volumes": [{"persistentVolumeClaim": {"claimName": "data"}}]}))


def test_label_precedence() -> None:
    request = launch_with_template(labels={"team": "cardio", "app.kubernetes.io/managed-by": "Helm"})
    labels = argo_pod(plan_for(request, argo={"labels": {"team": "all", "cost": "42"}}))["metadata"]["labels"]
    assert (labels["team"], labels["cost"], labels["app.kubernetes.io/managed-by"]) == ("cardio", "42", "flargo")
