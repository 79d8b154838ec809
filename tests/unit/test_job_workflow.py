"""The Workflow around the pod: its own fields, where the pod's fields go, and what is refused instead of dropped."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from flargo.embedded.store import Selector
from flargo.job import workflow
from flargo.job.names import OLD_FEDERATION_DIGITS
from flargo.job.plan import site_selector
from flargo.job.validate import InvalidInput
from flargo.job.workflow import CONTAINER_FIELDS, POD_FIELDS, Destination, refuse_expressions, refuse_losses
from flargo.terms import Annotation, Label, Role
from tests.harness.launches import argo_pod, launch, launch_with_template, plan_for

Object = dict[str, Any]


def test_workflow_is_one_suspended_step_without_retries() -> None:
    spec = plan_for().workflow["spec"]
    assert spec["suspend"] is True
    (template,) = spec["templates"]
    assert spec["entrypoint"] == template["name"] == "job"
    assert "retryStrategy" not in template
    assert "retryStrategy" not in spec
    assert template["container"]["command"] == ["/usr/local/bin/python"]


def test_a_plan_has_the_launch_and_timeouts() -> None:
    request = launch()
    plan = plan_for(
        request,
        namespace="hospital",
        timeout=900,
        argo={"kill_grace": 7, "unclaimed": 5, "starting": 6, "unschedulable": 8},
    )
    assert plan.name == plan.workflow["metadata"]["name"] == request.pod["metadata"]["name"]
    assert plan.namespace == plan.workflow["metadata"]["namespace"] == "hospital"
    assert (plan.startup, plan.credentials, plan.attempt) == (request.startup, request.credentials, request.attempt)
    assert (plan.timeouts.pending, plan.timeouts.total) == (120, 900)
    assert (plan.timeouts.unclaimed, plan.timeouts.starting, plan.timeouts.unschedulable, plan.grace) == (5, 6, 8, 7)


@pytest.mark.parametrize(
    ("role", "timeout", "total", "placement"),
    [
        (Role.CLIENT, None, None, None),
        (Role.CLIENT, 3600, 3600, None),
        (Role.SERVER, None, 900, 45),
        (Role.SERVER, 3600, 900, 45),
        (Role.SERVER, 60, 60, 45),
        (Role.SERVER, 0, 0, 45),
    ],
)
def test_a_servers_start_time_is_limited(
    role: Role, timeout: float | None, total: float | None, placement: float | None
) -> None:
    timeouts = plan_for(launch(role=role, pending=None), timeout=timeout, argo={"server_pending": 45}).timeouts
    assert (timeouts.total, timeouts.placement) == (total, placement)


def test_the_same_launch_gives_the_same_plan() -> None:
    request = launch()
    assert plan_for(request) == plan_for(request)


def test_a_workflow_has_its_labels() -> None:
    request = launch(study="cardio")
    plan = plan_for(request)
    labels = plan.workflow["metadata"]["labels"]
    assert labels == {
        Label.MANAGED_BY: "flargo",
        Label.FEDERATION: request.parent.federation,
        Label.SITE: "site-1",
        Label.ROLE: "client",
        Label.JOB_ID: request.job_id,
        Label.STUDY: "cardio",
        Label.PARENT: request.parent.epoch,
    }
    assert argo_pod(plan)["metadata"]["labels"] == labels
    selector = Selector(site_selector(request.parent))
    assert selector.matches({"metadata": {"labels": labels}})
    for label in (Label.MANAGED_BY, Label.SITE, Label.FEDERATION):
        assert not selector.matches({"metadata": {"labels": {**labels, label: "another"}}})
    # A Workflow of flargo 0.1 of the same federation and site.
    old_labels = {**labels, Label.FEDERATION: request.parent.federation[:OLD_FEDERATION_DIGITS]}
    assert selector.matches({"metadata": {"labels": old_labels}})


def test_the_selector_matches_any_parent_run() -> None:
    parent = launch().parent
    assert site_selector(parent) == site_selector(replace(parent, epoch="another"))
    assert site_selector(parent) != site_selector(replace(parent, federation="another"))


def test_a_workflow_has_the_full_names() -> None:
    annotations = plan_for(launch(job_name="fed avg", study="cardio")).workflow["metadata"]["annotations"]
    assert annotations[Annotation.JOB_NAME] == "fed avg"
    assert annotations[Annotation.SITE_NAME] == "site-1"
    assert annotations[Annotation.ATTEMPT] == launch().attempt


def test_a_job_name_is_never_evaluated() -> None:
    plan = plan_for(launch(job_name="[free](http://evil.example) `x` {{workflow.name}}\n# big"))
    name = plan.workflow["metadata"]["annotations"][Annotation.JOB_NAME]
    assert name == "[free](http://evil.example) `x` { {workflow.name}} # big"


def test_the_sites_labels_annotations_and_instance() -> None:
    argo = {"labels": {"cost": "42"}, "annotations": {"note": "a b"}, "instance_id": "prod"}
    plan = plan_for(argo=argo)
    meta, step = plan.workflow["metadata"], argo_pod(plan)["metadata"]
    assert (meta["labels"]["cost"], step["labels"]["cost"]) == ("42", "42")
    assert (meta["annotations"]["note"], step["annotations"]["note"]) == ("a b", "a b")
    assert meta["labels"]["workflows.argoproj.io/controller-instanceid"] == "prod"


def test_accounts_and_token() -> None:
    spec = plan_for(argo={"service_account": "jobs", "executor_service_account": "argo"}).workflow["spec"]
    assert spec["serviceAccountName"] == "jobs"
    assert spec["executor"] == {"serviceAccountName": "argo"}
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("argo", "ttl"),
    [
        ({}, {"secondsAfterSuccess": 86400, "secondsAfterFailure": 604800}),
        ({"keep_success": 60, "keep_failure": None}, {"secondsAfterSuccess": 60}),
        ({"keep_success": None, "keep_failure": None}, None),
    ],
)
def test_retention(argo: Object, ttl: Object | None) -> None:
    assert plan_for(argo=argo).workflow["spec"].get("ttlStrategy") == ttl


def test_no_patch_if_none_is_needed() -> None:
    (template,) = plan_for(argo={"patch_executor": False}).workflow["spec"]["templates"]
    assert "podSpecPatch" not in template


QUEUE = {"semaphore": {"name": "flargo-queue", "key": "jobs"}, "queued": 60}


def test_a_clients_job_uses_the_sites_semaphore() -> None:
    plan = plan_for(argo=QUEUE)
    (template,) = plan.workflow["spec"]["templates"]
    assert template["synchronization"] == {"semaphores": [{"configMapKeyRef": {"name": "flargo-queue", "key": "jobs"}}]}
    assert "synchronization" not in plan.workflow["spec"]
    assert plan.timeouts.queued == 60


def test_a_servers_job_never_queues() -> None:
    assert "synchronization" not in json.dumps(plan_for(launch(role=Role.SERVER), argo=QUEUE).workflow)


def test_no_semaphore_by_default() -> None:
    assert "synchronization" not in json.dumps(plan_for().workflow)


def test_no_secret_is_in_the_workflow() -> None:
    plan = plan_for()
    text = json.dumps(plan.workflow) + repr(plan)
    for content in (*plan.startup.data.values(), *plan.credentials.data.values()):
        assert content == b"{}" or content.decode("latin-1") not in text


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_both_roles_are_labelled(role: Role) -> None:
    assert plan_for(launch(role=role)).workflow["metadata"]["labels"][Label.ROLE] == role.value


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"notAField": 1}, "pod_template.spec.notAField"),
        ({"ephemeralContainers": []}, "pod_template.spec.ephemeralContainers"),
        ({"hostnameOverride": "x"}, "pod_template.spec.hostnameOverride"),
        ({"serviceAccount": "x"}, "pod_template.spec.serviceAccount"),
        ({"containers": [{"name": "nvflare_job", "notAField": 1}]}, ".notAField"),
        ({"containers": [{"name": "nvflare_job", "restartPolicyRules": []}]}, ".restartPolicyRules"),
        ({"terminationGracePeriodSeconds": 0}, "pod_template.spec.terminationGracePeriodSeconds"),
        ({"volumes": [{"name": "a", "emptyDir": {"notAField": 1}}]}, "volumes[0].emptyDir.notAField"),
        ({"affinity": {"nodeAffinity": {"notAField": {"a": 1}}}}, "affinity.nodeAffinity.notAField"),
        ({"dnsConfig": {"notAField": 1}}, "dnsConfig.notAField"),
        ({"imagePullSecrets": [{"name": "a", "notAField": 1}]}, "imagePullSecrets[0].notAField"),
        ({"tolerations": [{"tolerationSeconds": "soon"}]}, "tolerations[0].tolerationSeconds"),
        ({"tolerations": [{"tolerationSeconds": "5"}]}, "tolerations[0].tolerationSeconds"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector.a"),
        ({"hostNetwork": "yes"}, "hostNetwork"),
        ({"containers": [{"name": "nvflare_job", "env": [{"name": "A", "value": 1}]}]}, "env[0].value"),
        ({"containers": [{"name": "nvflare_job"}, {"image": "no-name"}]}, "sidecars[0].name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_fields_are_refused_by_name(spec: Object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_for(launch_with_template(spec))
    assert field in caught.value.field


@pytest.mark.parametrize("field", ["finalizers", "ownerReferences", "generateName", "creationTimestamp"])
def test_unknown_metadata_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInput, match=f"pod_template.metadata.{field}"):
        plan_for(launch_with_template(None, **{field: "x"}))


def test_a_status_is_refused_by_name() -> None:
    request = launch()
    request.pod["status"] = {"phase": "Running"}
    with pytest.raises(InvalidInput, match=r"pod_template\.status"):
        plan_for(request)


def fields_of(model: type) -> set[str]:
    """Return the fields of a model of the Kubernetes client, by their names in JSON."""
    names: set[str] = {field.serialization_alias or name for name, field in model.model_fields.items()}  # type: ignore[attr-defined]
    return names


def test_every_pod_field_has_a_destination() -> None:
    from kubernetes.client.models.v1_container import V1Container
    from kubernetes.client.models.v1_pod_spec import V1PodSpec

    # Not allowed on creation; an old name of serviceAccountName; and fields newer than the Kubernetes of Argo 3.7.
    newer = {"hostnameOverride", "schedulingGroup", "evictionResponders"}
    omitted = {"ephemeralContainers", "serviceAccount", *newer}
    assert fields_of(V1PodSpec) - set(POD_FIELDS) <= omitted
    assert set(POD_FIELDS) <= fields_of(V1PodSpec)
    assert fields_of(V1Container) - set(CONTAINER_FIELDS) <= {"restartPolicyRules"}
    assert set(CONTAINER_FIELDS) <= fields_of(V1Container)
    assert {Destination.TEMPLATE, Destination.PATCH} == set(CONTAINER_FIELDS.values())


def lose(path: list[str | int], manifest: Object) -> Object:
    """Return a manifest without one of its entries."""
    result = deepcopy(manifest)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return result


@pytest.mark.parametrize(
    "path",
    [
        ["spec", "templates", 0, "container", "env", 0, "value"],
        ["spec", "templates", 0, "container", "volumeMounts", 1, "readOnly"],
        ["spec", "templates", 0, "container", "args", 0],
        ["spec", "templates", 0, "volumes", 0, "emptyDir", "sizeLimit"],
        ["spec", "templates", 0, "podSpecPatch"],
        ["spec", "serviceAccountName"],
        ["metadata", "labels", "flargo.dev/site"],
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_every_loss_in_hera_is_noticed(path: list[str | int], monkeypatch: pytest.MonkeyPatch) -> None:
    render = workflow.render_with_hera
    monkeypatch.setattr(workflow, "render_with_hera", lambda *arguments: lose(path, render(*arguments)))
    with pytest.raises(InvalidInput, match="Hera"):
        plan_for()


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ({"a": 1}, {}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": [1, 2]}, {"a": [1]}),
        ({"a": [{"b": {}}]}, {"a": [{}]}),
        ({"a": {}}, {"a": None}),
    ],
)
def test_a_loss_is_a_changed_leaf(source: Object, result: Object) -> None:
    with pytest.raises(InvalidInput):
        refuse_losses(source, result)
    refuse_losses(source, {**deepcopy(source), "more": "is fine"})


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": ["x", "{{y}}"]}, "pod.a[1]"),
        ({"a": {"{{b}}": 1}}, "pod.a.(key not shown)"),
        ({"a": {"b": "x {{=1+1}}"}}, "pod.a.b"),
    ],
)
def test_an_expression_is_refused_by_place(value: Object, where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        refuse_expressions(value, "pod")
    assert caught.value.field == where


def test_single_braces_are_no_expression() -> None:
    refuse_expressions({"a": ["{x}", "}}", "{ {"]}, "pod")


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        (
            {"containers": [{"name": "nvflare_job", "env": [{"name": "A", "value": "{{workflow.uid}}"}]}]},
            "pod.spec.containers[0].env[0].value",
        ),
        ({"hostname": "{{x}}"}, "pod.spec.hostname"),
        (
            {"containers": [{"name": "nvflare_job", "livenessProbe": {"exec": {"command": ["{{x}}"]}}}]},
            "pod.spec.containers[0].livenessProbe.exec.command[0]",
        ),
    ],
    ids=["env", "in the patch", "probe"],
)
def test_a_templates_expression_is_refused_and_hidden(spec: Object, place: str) -> None:
    with pytest.raises(InvalidInput, match=r"without \{\{") as caught:
        plan_for(launch_with_template(spec))
    assert caught.value.field == place
    assert "workflow.uid" not in str(caught.value)


def test_wrong_template_values_are_hidden() -> None:
    env = [{"name": "PASSWORD", "value": ["a-secret-of-the-site"]}]
    with pytest.raises(InvalidInput) as caught:
        plan_for(launch_with_template({"containers": [{"name": "nvflare_job", "env": env}]}))
    assert "a-secret-of-the-site" not in str(caught.value)
    assert "env[0].value" in caught.value.field
