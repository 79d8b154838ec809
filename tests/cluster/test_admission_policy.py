"""Tests of deploy/admission-policy.yaml on a real API server: it limits what a stolen launcher token can write.

The cluster's own copy of the policy is adapted to the other tests, all of which obey it. The tests here apply a copy
as the file has it, for an account of its own with the launcher's Role.
"""

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flargo.control.attempt_notes import EventReason, build_event
from flargo.control.lease_object import held_lease
from flargo.job.plan import build_plan
from flargo.status.views import WorkflowView
from flargo.terms import Annotation, Label, Uid
from flargo.tools.doctor.probe import build_probe
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.termination import terminate_patch
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.differential.cases import samples
from tests.harness.launches import plan_for
from tests.harness.real_cluster.apply import fit_admission_policy

ACCOUNT = "flargo-admission"
POLICY = "flargo-test-admission"
MANAGED = {Label.MANAGED_BY.value: "flargo"}
DENIED = f"ValidatingAdmissionPolicy '{POLICY}' with binding '{POLICY}' denied request: flargo: "
POLICY_SECONDS = 60.0
"""Seconds within which a policy takes effect."""
NEEDS_NODE = {
    "pod template for the network",
    "privileged job container",
    "pod template with all that only a patch can say",
}
"""The cases of the differential test that use the node's resources, which the policy refuses by default."""


class Launcher:
    """An account with the launcher's rights, whose requests are subject to the policy."""

    def __init__(self, cluster: Cluster, account: str) -> None:
        self.cluster = cluster
        options = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
        self._argv = ("kubectl", *options, f"--as=system:serviceaccount:{cluster.target.namespace}:{account}")

    def request(self, *arguments: str, document: Object | None = None, dry: bool = True) -> str:
        """Send a request by kubectl, and return the error message; empty if the request is accepted."""
        stdin = json.dumps(document) if document is not None else None
        argv = (*self._argv, *arguments, *(("--dry-run=server",) if dry else ()))
        result = subprocess.run(argv, input=stdin, text=True, capture_output=True, check=False)
        return result.stderr.strip() or f"it failed: {result.stdout}" if result.returncode else ""

    def create(self, document: Object, *, dry: bool = True) -> str:
        return self.request("create", "--filename=-", document=document, dry=dry)

    def replace_object(self, document: Object) -> str:
        return self.request("replace", "--filename=-", document=document)

    def patch_workflow(self, name: str, patch: Object, *, dry: bool = True) -> str:
        merge = ("--type=merge", f"--patch={json.dumps(patch)}")
        return self.request("patch", "workflows.argoproj.io", name, *merge, dry=dry)

    def delete(self, kind: str, name: str) -> str:
        return self.request("delete", kind, name, "--wait=false")


@pytest.fixture(scope="module")
def launcher(cluster: Cluster) -> Iterator[Launcher]:
    """An account with the launcher's Role, and the file's policy applied to that account."""
    user = f"system:serviceaccount:{cluster.target.namespace}:{ACCOUNT}"
    policy = fit_admission_policy(POLICY, [user])
    account = Launcher(cluster, ACCOUNT)
    try:
        cluster.kubectl("create", "serviceaccount", ACCOUNT)
        subject = f"--serviceaccount={cluster.target.namespace}:{ACCOUNT}"
        cluster.kubectl("create", "rolebinding", ACCOUNT, "--role=flargo-launcher", subject)
        cluster.kubectl("apply", "--filename=-", document=policy)
        eventually(lambda: DENIED in account.create(secret("unnamed")), POLICY_SECONDS, "the policy is in force")
        yield account
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--filename=-", document=policy)
        for kind in ("rolebinding", "serviceaccount"):
            cluster.kubectl("delete", kind, ACCOUNT, "--ignore-not-found")


def workflow() -> Object:
    """Return a Workflow as flargo submits it, but without a namespace, so that kubectl's option decides."""
    document: Object = json.loads(json.dumps(plan_for().workflow))
    del document["metadata"]["namespace"]
    return document


def secret(name: str, labels: Object | None = None, **fields: Any) -> Object:
    meta = {"name": name, "labels": MANAGED if labels is None else labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", **fields}


@pytest.fixture(scope="module")
def job(launcher: Launcher, cluster: Cluster) -> Iterator[Object]:
    """One of flargo's Workflows, suspended as it is created."""
    document = workflow()
    document["metadata"]["name"] = name = POLICY
    assert launcher.create(document, dry=False) == ""
    try:
        yield cluster.workflow(name)
    finally:
        cluster.kubectl("delete", "workflows.argoproj.io", name, "--ignore-not-found")


@pytest.fixture(scope="module")
def foreign_name(cluster: Cluster) -> Iterator[str]:
    """The name of a Workflow, a Secret and a pod that do not belong to flargo."""
    name = "flargo-test-foreign"
    container = {
        "name": "x",
        "image": "x",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    nowhere = {"containers": [container], "securityContext": security, "nodeSelector": {"flargo.dev/none": "none"}}
    step = {"entrypoint": "x", "suspend": True, "templates": [{"name": "x", "suspend": {}}]}
    objects: list[Object] = [
        {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": step},
        secret(name, {}),
        # The stock launcher, used beside flargo, creates Secrets with this prefix.
        secret(f"nvflare-startup-{name}", {}),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": nowhere},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-own", "labels": MANAGED}, "spec": nowhere},
        secret("nvflare-cred-flargo-test"),
    ]
    document: Object = {"apiVersion": "v1", "kind": "List", "items": objects}
    try:
        cluster.kubectl("apply", "--filename=-", document=document)
        yield name
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--grace-period=0", "--filename=-", document=document)


# --- refused requests

Change = Callable[[Object], Any]


def template(document: Object) -> Object:
    first: Object = document["spec"]["templates"][0]
    return first


def with_spec_patch(text: str) -> Change:
    """Return a change that replaces the podSpecPatch."""
    return lambda document: template(document).update(podSpecPatch=text)


SPEC_FIELD, TEMPLATE_FIELD = "a field of the Workflow's spec", "a field of the template"
ONE, ACCOUNTS, EXECUTOR = "one template", "accounts of jobs", "the executor's account"
PATCH, NODE, PRIVILEGED, VOLUMES = (
    "podSpecPatch",
    "network or processes",
    "may not be privileged",
    "volumes of the node",
)
FORBIDDEN_CREATES: dict[str, tuple[Change, str]] = {
    "no label": (lambda it: it["metadata"]["labels"].pop(Label.MANAGED_BY), "managed-by: flargo"),
    "another's label": (lambda it: it["metadata"]["labels"].update({Label.MANAGED_BY: "x"}), "managed-by: flargo"),
    "a reference": (lambda it: it["spec"].update(workflowTemplateRef={"name": "x"}), SPEC_FIELD),
    "hooks": (lambda it: it["spec"].update(hooks={"exit": {"template": "job"}}), SPEC_FIELD),
    "an exit handler": (lambda it: it["spec"].update(onExit="job"), SPEC_FIELD),
    "podMetadata": (lambda it: it["spec"].update(podMetadata={"labels": {"app": "x"}}), SPEC_FIELD),
    "a patch of the spec": (lambda it: it["spec"].update(podSpecPatch="{}"), SPEC_FIELD),
    "defaults of templates": (lambda it: it["spec"].update(templateDefaults={"serviceAccountName": "x"}), SPEC_FIELD),
    "volumes of the spec": (lambda it: it["spec"].update(volumes=[{"name": "x", "emptyDir": {}}]), SPEC_FIELD),
    "two templates": (lambda it: it["spec"]["templates"].append({"name": "x", "suspend": {}}), ONE),
    "another template's name": (lambda it: template(it).update(name="x"), ONE),
    "another entry": (lambda it: it["spec"].update(entrypoint="x"), ONE),
    "no container": (lambda it: template(it).pop("container"), ONE),
    "a script": (lambda it: template(it).update(script={"image": "x", "source": ""}), TEMPLATE_FIELD),
    "a resource": (lambda it: template(it).update(resource={"action": "get"}), TEMPLATE_FIELD),
    "a plugin": (lambda it: template(it).update(plugin={"x": {}}), TEMPLATE_FIELD),
    "an account of the template": (lambda it: template(it).update(serviceAccountName="x"), TEMPLATE_FIELD),
    "a token of the template": (lambda it: template(it).update(automountServiceAccountToken=True), TEMPLATE_FIELD),
    "an executor of the template": (
        lambda it: template(it).update(executor={"serviceAccountName": "flargo-launcher"}),
        TEMPLATE_FIELD,
    ),
    "hooks of a container": (lambda it: template(it)["container"].update(lifecycle={}), "a field of a container"),
    "an unlabelled pod": (lambda it: template(it)["metadata"]["labels"].pop(Label.MANAGED_BY), "NetworkPolicy"),
    "the launcher's account": (lambda it: it["spec"].update(serviceAccountName="flargo-launcher"), ACCOUNTS),
    "the executor's account": (lambda it: it["spec"].update(serviceAccountName="flargo-executor"), ACCOUNTS),
    "an expression as an account": (
        lambda it: it["spec"].update(serviceAccountName="{{workflow.parameters.x}}"),
        ACCOUNTS,
    ),
    "the default account": (lambda it: it["spec"].pop("serviceAccountName"), ACCOUNTS),
    "the launcher as executor": (
        lambda it: it["spec"].update(executor={"serviceAccountName": "flargo-launcher"}),
        EXECUTOR,
    ),
    "no executor": (lambda it: it["spec"].pop("executor"), EXECUTOR),
    "a patched account": (with_spec_patch('{"serviceAccountName": "flargo-launcher"}'), PATCH),
    "a patched account in other letters": (with_spec_patch('{"SERVICEACCOUNTNAME": "flargo-launcher"}'), PATCH),
    "a patched account, escaped": (with_spec_patch(r'{"\u0073erviceAccountName": "flargo-launcher"}'), PATCH),
    "a patched account in letters beyond ASCII": (
        with_spec_patch('{"\u017ferviceAccountName": "flargo-launcher"}'),
        PATCH,
    ),
    "a patched account in YAML": (with_spec_patch('serviceAccountName: "flargo-launcher"'), PATCH),
    "a patched account by a tag": (with_spec_patch("{!!binary c2VydmljZUFjY291bnROYW1l: x}"), PATCH),
    "a patched account by an expression": (with_spec_patch("{\"{{='service' + 'Account'}}\": \"x\"}"), PATCH),
    "a patched volume": (with_spec_patch('{"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}'), PATCH),
    "the node's network": (lambda it: it["spec"].update(hostNetwork=True), NODE),
    "the node's network by a patch": (with_spec_patch('{"hostNetwork": true}'), NODE),
    "the node's processes": (with_spec_patch('{"hostpid": true}'), NODE),
    "privileges by a patch": (
        with_spec_patch('{"containers": [{"name": "main", "securityContext": {"Privileged": true}}]}'),
        NODE,
    ),
    "privileges": (
        lambda it: template(it)["container"].update(securityContext={"privileged": True}),
        PRIVILEGED,
    ),
    "privileges of a sidecar": (
        lambda it: template(it).update(sidecars=[{"name": "x", "image": "x", "securityContext": {"privileged": True}}]),
        PRIVILEGED,
    ),
    "privileges of an init container": (
        lambda it: template(it).update(
            initContainers=[{"name": "x", "image": "x", "securityContext": {"privileged": True}}]
        ),
        PRIVILEGED,
    ),
    "a port of the node": (
        lambda it: template(it)["container"].update(ports=[{"containerPort": 80, "hostPort": 80}]),
        PRIVILEGED,
    ),
    "a volume of the node": (
        lambda it: template(it).update(volumes=[{"name": "x", "hostPath": {"path": "/"}}]),
        VOLUMES,
    ),
    "a status": (lambda it: it.update(status={"phase": "Running"}), "no status, owner or finalizer"),
    "an owner": (
        lambda it: it["metadata"].update(
            ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]
        ),
        "no status, owner or finalizer",
    ),
    "a finalizer": (lambda it: it["metadata"].update(finalizers=["x/y"]), "no status, owner or finalizer"),
}


@pytest.mark.parametrize("case", FORBIDDEN_CREATES)
def test_changed_workflow_is_refused(launcher: Launcher, case: str) -> None:
    change, reason = FORBIDDEN_CREATES[case]
    document = workflow()
    change(document)
    error = launcher.create(document)
    assert DENIED in error
    assert reason in error.partition(DENIED)[2]


PROBE_CHANGES: dict[str, tuple[Change, str]] = {
    "a container": (lambda it: template(it).update(container={"image": "x"}), "may only wait"),
    "an account": (lambda it: it["spec"].update(serviceAccountName="flargo-launcher"), "may only wait"),
    "a reference": (lambda it: it["spec"].update(workflowTemplateRef={"name": "x"}), "may only wait"),
    "another name": (lambda it: it["metadata"].update(name="x"), "managed-by: flargo"),
}


@pytest.mark.parametrize("case", PROBE_CHANGES)
def test_probe_that_does_more_than_wait_is_refused(launcher: Launcher, case: str) -> None:
    change, reason = PROBE_CHANGES[case]
    document = build_probe("flargo-doctor-x", launcher.cluster.target.namespace, None, 5)
    assert launcher.create(document) == ""
    change(document)
    error = launcher.create(document)
    assert DENIED in error
    assert reason in error


FORBIDDEN_PATCHES: dict[str, tuple[Object, str]] = {
    "another entry": ({"spec": {"entrypoint": "x"}}, "nothing of a Workflow's spec but suspend and shutdown"),
    "a hook": ({"spec": {"hooks": {"exit": {"template": "job"}}}}, "suspend and shutdown"),
    "another account": ({"spec": {"serviceAccountName": "flargo-launcher"}}, "suspend and shutdown"),
    "fewer fields": ({"spec": {"ttlStrategy": None}}, "suspend and shutdown"),
    "other templates": ({"spec": {"templates": [{"name": "job", "suspend": {}}]}}, "suspend and shutdown"),
    "a status": ({"status": {"phase": "Succeeded"}}, "does not change a Workflow's status"),
    "stored templates": ({"status": {"storedTemplates": {"x": {"name": "x"}}}}, "does not change a Workflow's status"),
    "another attempt": ({"metadata": {"annotations": {Annotation.ATTEMPT: "x"}}}, "no annotations"),
    "another's annotation": ({"metadata": {"annotations": {"example.com/x": "y"}}}, "no annotations"),
    "fewer annotations": ({"metadata": {"annotations": {Annotation.TITLE: None}}}, "no annotations"),
    "other labels": ({"metadata": {"labels": {Label.SITE: "x"}}}, "no labels"),
    "no label": ({"metadata": {"labels": {Label.MANAGED_BY: None}}}, "managed-by: flargo"),
    "fewer labels": ({"metadata": {"labels": {Label.SITE: None}}}, "no labels"),
    "no parent": ({"metadata": {"labels": {Label.PARENT: None}}}, "no labels of a Workflow but flargo.dev/parent"),
    "an empty parent": ({"metadata": {"labels": {Label.PARENT: ""}}}, "no labels"),
    "a new label": ({"metadata": {"labels": {"flargo.dev/parents": "x"}}}, "no labels"),
    "another parent and another site": ({"metadata": {"labels": {Label.PARENT: "x", Label.SITE: "x"}}}, "no labels"),
    "a label of Argo's": ({"metadata": {"labels": {"workflows.argoproj.io/completed": "true"}}}, "no labels"),
    "a finalizer": ({"metadata": {"finalizers": ["x/y"]}}, "no labels"),
}


@pytest.mark.parametrize("label", [label for label in Label if label is not Label.PARENT])
def test_labels_but_the_parents_are_fixed(launcher: Launcher, job: Object, label: Label) -> None:
    changed = f"{job['metadata']['labels'].get(label.value, '')}x"
    for value in (changed, None) if label.value in job["metadata"]["labels"] else (changed,):
        error = launcher.patch_workflow(job["metadata"]["name"], {"metadata": {"labels": {label.value: value}}})
        assert DENIED in error, value


def test_parent_is_not_added(launcher: Launcher, cluster: Cluster) -> None:
    """A Workflow without the label was not launched by a parent."""
    document = workflow()
    document["metadata"]["name"] = f"{POLICY}-no-parent"
    del document["metadata"]["labels"][Label.PARENT.value]
    with cluster.apply(document):
        error = launcher.patch_workflow(document["metadata"]["name"], {"metadata": {"labels": {Label.PARENT: "x"}}})
    assert f"{DENIED}a launcher changes no labels of a Workflow but flargo.dev/parent" in error


@pytest.mark.parametrize("case", FORBIDDEN_PATCHES)
def test_forbidden_patch_is_refused(launcher: Launcher, job: Object, case: str) -> None:
    patch, reason = FORBIDDEN_PATCHES[case]
    error = launcher.patch_workflow(job["metadata"]["name"], patch)
    assert DENIED in error
    assert reason in error.partition(DENIED)[2]


TOKEN = "kubernetes.io/service-account-token"
FORBIDDEN_SECRETS: dict[str, tuple[Object, str]] = {
    "another name": (secret("x"), "only Secrets nvflare-startup-* and nvflare-cred-*"),
    "no label": (secret("nvflare-cred-x", {}), "with flargo's labels"),
    "the token of another account": (
        {
            **secret("nvflare-cred-x"),
            "type": TOKEN,
            "metadata": {
                "name": "nvflare-cred-x",
                "labels": MANAGED,
                "annotations": {"kubernetes.io/service-account.name": "flargo-executor"},
            },
        },
        "of type Opaque",
    ),
    "a registry's password": (
        {**secret("nvflare-cred-x"), "type": "kubernetes.io/basic-auth", "stringData": {"username": "x"}},
        "of type Opaque",
    ),
    "another's annotation": (
        {
            **secret("nvflare-cred-x"),
            "metadata": {"name": "nvflare-cred-x", "labels": MANAGED, "annotations": {"example.com/x": "y"}},
        },
        "metadata that flargo never sets",
    ),
    "a finalizer": (
        {
            **secret("nvflare-cred-x"),
            "metadata": {"name": "nvflare-cred-x", "labels": MANAGED, "finalizers": ["x/y"]},
        },
        "metadata that flargo never sets",
    ),
}


@pytest.mark.parametrize("case", FORBIDDEN_SECRETS)
def test_forbidden_secret_is_refused(launcher: Launcher, case: str) -> None:
    document, reason = FORBIDDEN_SECRETS[case]
    error = launcher.create(document)
    assert DENIED in error
    assert reason in error.partition(DENIED)[2]


def event(namespace: str, kind: str = "Workflow", component: str = "flargo") -> Object:
    """Return an Event as flargo creates it, but about another kind, or from another component."""
    view = WorkflowView(Uid("uid-1"), "job-site")
    document = build_event(view, namespace, EventReason.LOST, "x", "a1b2", datetime.now(UTC))
    document["involvedObject"]["kind"] = kind
    return {**document, "reportingComponent": component}


@pytest.mark.parametrize(("kind", "component"), [("Node", "flargo"), ("Workflow", "kubelet"), ("Workflow", "")])
def test_forbidden_event_is_refused(launcher: Launcher, cluster: Cluster, kind: str, component: str) -> None:
    error = launcher.create(event(cluster.target.namespace, kind, component))
    assert f"{DENIED}a launcher creates only Events of its own about Workflows" in error


LEASE = held_lease("flargo-parent-x", {**MANAGED, Label.SITE.value: "x"}, "host_1", datetime.now(UTC), None)
"""A Lease as a parent creates it."""
FORBIDDEN_LEASES: dict[str, Object] = {
    "another controller's name": {"name": "workflow-controller"},
    "no label": {"labels": {}},
    "an annotation": {"annotations": {"a": "b"}},
    "a finalizer": {"finalizers": ["example.com/x"]},
    "an owner": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]},
}
"""Changes of its metadata."""


@pytest.mark.parametrize("case", FORBIDDEN_LEASES)
def test_forbidden_lease_is_refused(launcher: Launcher, case: str) -> None:
    error = launcher.create({**LEASE, "metadata": {**LEASE["metadata"], **FORBIDDEN_LEASES[case]}})
    assert f"{DENIED}a launcher writes only Leases flargo-parent-* with flargo's labels" in error


def test_another_controllers_lease_is_left_alone(launcher: Launcher, cluster: Cluster) -> None:
    """A launcher in Argo's namespace could otherwise take the lead of Argo's controller."""
    other = {**LEASE, "metadata": {"name": "flargo-test-other"}}
    with cluster.apply(other):
        assert DENIED in launcher.replace_object({**other, "metadata": {**other["metadata"], "labels": MANAGED}})


def test_role_alone_allows_token_secrets(launcher: Launcher, cluster: Cluster) -> None:
    """Without the policy, a launcher's token can create a token Secret for every account of the namespace."""
    document = {**FORBIDDEN_SECRETS["the token of another account"][0]}
    bare = Launcher(cluster, f"{ACCOUNT}-bare")
    binding = f"{ACCOUNT}-bare"
    subject = f"--serviceaccount={cluster.target.namespace}:{binding}"
    cluster.kubectl("create", "rolebinding", binding, "--role=flargo-launcher", subject)
    try:
        eventually(lambda: bare.create(document) == "", 20, "the Role allows it")
        assert DENIED in launcher.create(document)
    finally:
        cluster.kubectl("delete", "rolebinding", binding)


def test_foreign_objects_cannot_be_replaced_or_patched(launcher: Launcher, foreign_name: str) -> None:
    for name in (foreign_name, f"nvflare-startup-{foreign_name}"):
        assert DENIED in launcher.replace_object(secret(name))
    # A Secret's type is immutable, so the replacement keeps it.
    token = {**secret("flargo-executor.service-account-token"), "type": TOKEN}
    token["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "flargo-executor"}
    assert DENIED in launcher.replace_object(token)
    assert DENIED in launcher.patch_workflow(foreign_name, {"spec": {"shutdown": "Terminate"}})
    assert DENIED in launcher.patch_workflow(foreign_name, {"metadata": {"labels": MANAGED}})


def test_foreign_objects_cannot_be_deleted(launcher: Launcher, foreign_name: str) -> None:
    for kind, name in (
        ("workflows.argoproj.io", foreign_name),
        ("secret", foreign_name),
        ("secret", f"nvflare-startup-{foreign_name}"),
        ("secret", "flargo-executor.service-account-token"),
        ("pod", foreign_name),
    ):
        assert DENIED in launcher.delete(kind, name), kind


# --- allowed requests


def test_flargos_own_requests_are_allowed(launcher: Launcher, cluster: Cluster, job: Object, foreign_name: str) -> None:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    annotations = [
        Annotation.RELEASED,
        Annotation.NUDGED,
        Annotation.ENDING,
        Annotation.ENDING_DETAIL,
        Annotation.CLEARED,
        Annotation.VERDICT,
        Annotation.VERDICT_DETAIL,
        Annotation.FLARE_STATUS,
        Annotation.FLARE_ERROR,
        Annotation.PROGRESS,
        Annotation.DESCRIPTION,
    ]
    for key in annotations:
        assert launcher.patch_workflow(name, {"metadata": {"uid": uid, "annotations": {key: "x"}}}) == ""
    take_over = {"uid": uid, "resourceVersion": cluster.workflow(name)["metadata"]["resourceVersion"]}
    assert launcher.patch_workflow(name, {"metadata": {**take_over, "labels": {Label.PARENT: "x"}}}) == ""
    assert launcher.create(event(cluster.target.namespace)) == ""
    assert launcher.create(LEASE) == ""
    assert launcher.patch_workflow(name, {"spec": {"suspend": False}}) == ""
    assert launcher.patch_workflow(name, {"spec": {"shutdown": "Terminate"}}) == ""
    # The Argo Server terminates a Workflow with the launcher's token, and adds these labels.
    labels = {"workflows.argoproj.io/actor": "x", "workflows.argoproj.io/action": "Terminate"}
    assert launcher.patch_workflow(name, {"metadata": {"labels": labels}, "spec": {"shutdown": "Terminate"}}) == ""
    (site_job,) = site_jobs([cluster.workflow(name)], [])
    assert launcher.patch_workflow(name, terminate_patch(site_job)) == ""
    assert launcher.delete("workflows.argoproj.io", name) == ""
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": name, "uid": uid}
    credentials = secret("nvflare-cred-flargo-test")
    credentials["metadata"]["ownerReferences"] = [owner]
    startup_kit = secret("nvflare-startup-flargo-test", data={"a": "eA=="})
    startup_kit["metadata"]["annotations"] = {"flargo.dev/digest": "x"}
    assert launcher.replace_object(credentials) == ""
    assert launcher.create(startup_kit) == ""
    assert launcher.delete("secret", "nvflare-cred-flargo-test") == ""
    assert launcher.delete("pod", f"{foreign_name}-own") == ""


def test_every_differential_workflow_is_allowed(launcher: Launcher, tmp_path: Path) -> None:
    """Only the cases that use the node, or accounts that the policy does not list, are refused."""
    is_allowed: dict[str, bool] = {}
    for name, settings, launch in samples():
        document = copy.deepcopy(build_plan(launch, settings).workflow)
        document["metadata"]["namespace"] = launcher.cluster.target.namespace
        file = document["metadata"]["name"]
        (tmp_path / f"{file}.json").write_text(json.dumps(document))
        has_own_accounts = document["spec"]["serviceAccountName"] == "flargo-job"
        has_own_accounts &= document["spec"]["executor"]["serviceAccountName"] == "flargo-executor"
        is_allowed[file] = has_own_accounts and name.partition(": ")[2] not in NEEDS_NODE
    errors = launcher.request("create", f"--filename={tmp_path}")
    refusals = {file for file in is_allowed if f"{file}.json" in errors}
    assert refusals == {file for file, allow in is_allowed.items() if not allow}, errors
    assert len(is_allowed) - len(refusals) > 150
    assert errors.count(DENIED) == len(refusals), "for no other reason"


# --- the cluster's own copy


@pytest.mark.parametrize("name", [POLICY, "flargo-launcher"])
def test_api_server_type_checks_the_policy(launcher: Launcher, cluster: Cluster, name: str) -> None:
    if name != POLICY and cluster.target.is_external:
        pytest.skip("a cluster of one's own need not have the policy")

    def read_policy() -> Object:
        policy: Object = json.loads(cluster.kubectl("get", "validatingadmissionpolicy", name, "--output=json"))
        return policy

    def is_type_checked() -> bool:
        policy = read_policy()
        return bool(policy.get("status", {}).get("observedGeneration") == policy["metadata"]["generation"])

    eventually(is_type_checked, 60, "the API server has checked the policy's expressions")
    assert read_policy()["status"]["typeChecking"] == {}
    del launcher


def test_policy_applies_to_the_launchers_account(cluster: Cluster) -> None:
    """The launcher's own account, which all other tests use, is subject to the cluster's copy of the policy."""
    if cluster.target.is_external:
        pytest.skip("a cluster of one's own need not have the policy")
    own = Launcher(cluster, "flargo-launcher")
    for document, reason in (
        (secret("x"), "only Secrets nvflare-startup-*"),
        (FORBIDDEN_SECRETS["the token of another account"][0], "of type Opaque"),
    ):
        error = own.create(document)
        assert "ValidatingAdmissionPolicy 'flargo-launcher'" in error
        assert reason in error
    submission = workflow()
    assert own.create(submission) == ""
    submission["spec"]["serviceAccountName"] = "flargo-launcher"
    assert ACCOUNTS in own.create(submission)
