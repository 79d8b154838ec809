"""deploy/admission-policy.yaml on a real API server: what a stolen token of a launcher can no longer write.

The cluster's own copy is fitted to the other tests, all of which obey it. The table here is held against a copy as the
file has it, for an account of its own with the launcher's Role.
"""

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flargo.job.plan import build_plan
from flargo.terms import Annotation, Label
from flargo.tools.doctor.probe import build_probe as probe
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.termination import terminate_patch as terminate
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.differential.cases import samples
from tests.harness.launches import plan_for
from tests.harness.real_cluster.apply import fitted

ACCOUNT = "flargo-admission"
POLICY = "flargo-test-admission"
MANAGED = {Label.MANAGED_BY.value: "flargo"}
DENIED = f"ValidatingAdmissionPolicy '{POLICY}' with binding '{POLICY}' denied request: flargo: "
IN_FORCE = 60.0
"""Seconds after which a policy binds everybody, at most."""
NEEDS_NODE = {
    "pod template for the network",
    "privileged job container",
    "pod template with all that only a patch can say",
}
"""The cases of the matrix that reach the node, which the example refuses unless it is told otherwise."""


class Launcher:
    """An account with the launcher's rights, whose requests the policy sees."""

    def __init__(self, cluster: Cluster, account: str) -> None:
        self.cluster = cluster
        where = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
        self._words = ("kubectl", *where, f"--as=system:serviceaccount:{cluster.target.namespace}:{account}")

    def tries(self, *arguments: str, document: Object | None = None, dry: bool = True) -> str:
        """Ask for something; what the API server has against it, nothing if nothing."""
        stdin = json.dumps(document) if document is not None else None
        words = (*self._words, *arguments, *(("--dry-run=server",) if dry else ()))
        done = subprocess.run(words, input=stdin, text=True, capture_output=True, check=False)
        return done.stderr.strip() or f"it failed: {done.stdout}" if done.returncode else ""

    def creates(self, document: Object, *, dry: bool = True) -> str:
        return self.tries("create", "--filename=-", document=document, dry=dry)

    def replaces(self, document: Object) -> str:
        return self.tries("replace", "--filename=-", document=document)

    def patches(self, name: str, patch: Object, *, dry: bool = True) -> str:
        merge = ("--type=merge", f"--patch={json.dumps(patch)}")
        return self.tries("patch", "workflows.argoproj.io", name, *merge, dry=dry)

    def deletes(self, kind: str, name: str) -> str:
        return self.tries("delete", kind, name, "--wait=false")


@pytest.fixture(scope="module")
def launcher(cluster: Cluster) -> Iterator[Launcher]:
    """An account with the launcher's Role, and the policy as it is in the file, for that account."""
    user = f"system:serviceaccount:{cluster.target.namespace}:{ACCOUNT}"
    policy = fitted(POLICY, [user])
    made = Launcher(cluster, ACCOUNT)
    try:
        cluster.kubectl("create", "serviceaccount", ACCOUNT)
        subject = f"--serviceaccount={cluster.target.namespace}:{ACCOUNT}"
        cluster.kubectl("create", "rolebinding", ACCOUNT, "--role=flargo-launcher", subject)
        cluster.kubectl("apply", "--filename=-", document=policy)
        eventually(lambda: DENIED in made.creates(secret("unnamed")), IN_FORCE, "the policy is in force")
        yield made
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--filename=-", document=policy)
        for kind in ("rolebinding", "serviceaccount"):
            cluster.kubectl("delete", kind, ACCOUNT, "--ignore-not-found")


def workflow() -> Object:
    """What flargo submits, in no namespace, so that kubectl's counts."""
    made: Object = json.loads(json.dumps(plan_for().workflow))
    del made["metadata"]["namespace"]
    return made


def secret(name: str, labels: Object | None = None, **fields: Any) -> Object:
    meta = {"name": name, "labels": MANAGED if labels is None else labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", **fields}


@pytest.fixture(scope="module")
def job(launcher: Launcher, cluster: Cluster) -> Iterator[Object]:
    """A Workflow of flargo's, suspended as at its creation."""
    made = workflow()
    made["metadata"]["name"] = name = POLICY
    assert launcher.creates(made, dry=False) == ""
    try:
        yield cluster.workflow(name)
    finally:
        cluster.kubectl("delete", "workflows.argoproj.io", name, "--ignore-not-found")


@pytest.fixture(scope="module")
def foreign(cluster: Cluster) -> Iterator[str]:
    """The name of a Workflow, a Secret and a pod that are not flargo's."""
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
        # As somebody's who uses the stock launcher beside flargo.
        secret(f"nvflare-startup-{name}", {}),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": nowhere},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-own", "labels": MANAGED}, "spec": nowhere},
        secret("nvflare-cred-flargo-test"),
    ]
    whole: Object = {"apiVersion": "v1", "kind": "List", "items": objects}
    try:
        cluster.kubectl("apply", "--filename=-", document=whole)
        yield name
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--grace-period=0", "--filename=-", document=whole)


# --- what is refused

Change = Callable[[Object], Any]


def template(made: Object) -> Object:
    found: Object = made["spec"]["templates"][0]
    return found


def patched(text: str) -> Change:
    """The podSpecPatch is another."""
    return lambda made: template(made).update(podSpecPatch=text)


SPEC_FIELD, TEMPLATE_FIELD = "a field of the Workflow's spec", "a field of the template"
ONE, ACCOUNTS, EXECUTOR = "one template", "accounts of jobs", "the executor's account"
PATCH, NODE, PRIVILEGED, VOLUMES = (
    "podSpecPatch",
    "network or processes",
    "may not be privileged",
    "volumes of the node",
)
CREATES: dict[str, tuple[Change, str]] = {
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
    "a patched account": (patched('{"serviceAccountName": "flargo-launcher"}'), PATCH),
    "a patched account in other letters": (patched('{"SERVICEACCOUNTNAME": "flargo-launcher"}'), PATCH),
    "a patched account, escaped": (patched(r'{"\u0073erviceAccountName": "flargo-launcher"}'), PATCH),
    "a patched account in letters beyond ASCII": (patched('{"\u017ferviceAccountName": "flargo-launcher"}'), PATCH),
    "a patched account in YAML": (patched('serviceAccountName: "flargo-launcher"'), PATCH),
    "a patched account by a tag": (patched("{!!binary c2VydmljZUFjY291bnROYW1l: x}"), PATCH),
    "a patched account by an expression": (patched("{\"{{='service' + 'Account'}}\": \"x\"}"), PATCH),
    "a patched volume": (patched('{"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}'), PATCH),
    "the node's network": (lambda it: it["spec"].update(hostNetwork=True), NODE),
    "the node's network by a patch": (patched('{"hostNetwork": true}'), NODE),
    "the node's processes": (patched('{"hostpid": true}'), NODE),
    "privileges by a patch": (
        patched('{"containers": [{"name": "main", "securityContext": {"Privileged": true}}]}'),
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


@pytest.mark.parametrize("case", CREATES)
def test_a_workflow_that_is_not_flargos_is_refused(launcher: Launcher, case: str) -> None:
    change, why = CREATES[case]
    made = workflow()
    change(made)
    said = launcher.creates(made)
    assert DENIED in said
    assert why in said.partition(DENIED)[2]


PROBES: dict[str, tuple[Change, str]] = {
    "a container": (lambda it: template(it).update(container={"image": "x"}), "may only wait"),
    "an account": (lambda it: it["spec"].update(serviceAccountName="flargo-launcher"), "may only wait"),
    "a reference": (lambda it: it["spec"].update(workflowTemplateRef={"name": "x"}), "may only wait"),
    "another name": (lambda it: it["metadata"].update(name="x"), "managed-by: flargo"),
}


@pytest.mark.parametrize("case", PROBES)
def test_a_probe_that_does_more_than_wait_is_refused(launcher: Launcher, case: str) -> None:
    change, why = PROBES[case]
    made = probe("flargo-doctor-x", launcher.cluster.target.namespace, None, 5)
    assert launcher.creates(made) == ""
    change(made)
    said = launcher.creates(made)
    assert DENIED in said
    assert why in said


PATCHES: dict[str, tuple[Object, str]] = {
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
    "a label of Argo's": ({"metadata": {"labels": {"workflows.argoproj.io/completed": "true"}}}, "no labels"),
    "a finalizer": ({"metadata": {"finalizers": ["x/y"]}}, "no labels"),
}


@pytest.mark.parametrize("case", PATCHES)
def test_a_patch_that_is_not_flargos_is_refused(launcher: Launcher, job: Object, case: str) -> None:
    patch, why = PATCHES[case]
    said = launcher.patches(job["metadata"]["name"], patch)
    assert DENIED in said
    assert why in said.partition(DENIED)[2]


TOKEN = "kubernetes.io/service-account-token"
SECRETS: dict[str, tuple[Object, str]] = {
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


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_that_is_not_flargos_is_refused(launcher: Launcher, case: str) -> None:
    made, why = SECRETS[case]
    said = launcher.creates(made)
    assert DENIED in said
    assert why in said.partition(DENIED)[2]


def test_a_token_secret_would_hand_out_another_account_without_the_policy(launcher: Launcher, cluster: Cluster) -> None:
    """The reason for the rule: with its Role alone, a launcher's token is worth every account of the namespace."""
    made = {**SECRETS["the token of another account"][0]}
    bare = Launcher(cluster, f"{ACCOUNT}-bare")
    binding = f"{ACCOUNT}-bare"
    subject = f"--serviceaccount={cluster.target.namespace}:{binding}"
    cluster.kubectl("create", "rolebinding", binding, "--role=flargo-launcher", subject)
    try:
        eventually(lambda: bare.creates(made) == "", 20, "the Role lets it")
        assert DENIED in launcher.creates(made)
    finally:
        cluster.kubectl("delete", "rolebinding", binding)


def test_what_is_not_flargos_is_neither_replaced_nor_patched(launcher: Launcher, foreign: str) -> None:
    for name in (foreign, f"nvflare-startup-{foreign}"):
        assert DENIED in launcher.replaces(secret(name))
    # Its type cannot be changed, so it is kept.
    token = {**secret("flargo-executor.service-account-token"), "type": TOKEN}
    token["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "flargo-executor"}
    assert DENIED in launcher.replaces(token)
    assert DENIED in launcher.patches(foreign, {"spec": {"shutdown": "Terminate"}})
    assert DENIED in launcher.patches(foreign, {"metadata": {"labels": MANAGED}})


def test_what_is_not_flargos_is_not_deleted(launcher: Launcher, foreign: str) -> None:
    for kind, name in (
        ("workflows.argoproj.io", foreign),
        ("secret", foreign),
        ("secret", f"nvflare-startup-{foreign}"),
        ("secret", "flargo-executor.service-account-token"),
        ("pod", foreign),
    ):
        assert DENIED in launcher.deletes(kind, name), kind


# --- what is allowed


def test_what_flargo_does_is_allowed(launcher: Launcher, cluster: Cluster, job: Object, foreign: str) -> None:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    notes = [Annotation.RELEASED, Annotation.NUDGED, Annotation.ENDING, Annotation.ENDING_DETAIL]
    for key in notes:
        assert launcher.patches(name, {"metadata": {"uid": uid, "annotations": {key: "x"}}}) == ""
    assert launcher.patches(name, {"spec": {"suspend": False}}) == ""
    assert launcher.patches(name, {"spec": {"shutdown": "Terminate"}}) == ""
    # As the Argo Server ends a Workflow with the launcher's token.
    by = {"workflows.argoproj.io/actor": "x", "workflows.argoproj.io/action": "Terminate"}
    assert launcher.patches(name, {"metadata": {"labels": by}, "spec": {"shutdown": "Terminate"}}) == ""
    (part,) = site_jobs([cluster.workflow(name)], [])
    assert launcher.patches(name, terminate(part)) == ""
    assert launcher.deletes("workflows.argoproj.io", name) == ""
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": name, "uid": uid}
    owned = secret("nvflare-cred-flargo-test")
    owned["metadata"]["ownerReferences"] = [owner]
    digest = secret("nvflare-startup-flargo-test", data={"a": "eA=="})
    digest["metadata"]["annotations"] = {"flargo.dev/digest": "x"}
    assert launcher.replaces(owned) == ""
    assert launcher.creates(digest) == ""
    assert launcher.deletes("secret", "nvflare-cred-flargo-test") == ""
    assert launcher.deletes("pod", f"{foreign}-own") == ""


def test_every_workflow_of_the_matrix_is_allowed(launcher: Launcher, tmp_path: Path) -> None:
    """But for those that reach the node, and for accounts that the policy was not told of."""
    expected: dict[str, bool] = {}
    for name, settings, launch in samples():
        made = copy.deepcopy(build_plan(launch, settings).workflow)
        made["metadata"]["namespace"] = launcher.cluster.target.namespace
        file = made["metadata"]["name"]
        (tmp_path / f"{file}.json").write_text(json.dumps(made))
        own = made["spec"]["serviceAccountName"] == "flargo-job"
        own &= made["spec"]["executor"]["serviceAccountName"] == "flargo-executor"
        expected[file] = own and name.partition(": ")[2] not in NEEDS_NODE
    said = launcher.tries("create", f"--filename={tmp_path}")
    refused = {file for file in expected if f"{file}.json" in said}
    assert refused == {file for file, allowed in expected.items() if not allowed}, said
    assert len(expected) - len(refused) > 150
    assert said.count(DENIED) == len(refused), "for no other reason"


# --- the cluster's own


@pytest.mark.parametrize("name", [POLICY, "flargo-launcher"])
def test_the_api_server_finds_nothing_wrong_with_it(launcher: Launcher, cluster: Cluster, name: str) -> None:
    if name != POLICY and cluster.target.own:
        pytest.skip("somebody's own cluster need not have the policy")

    def checked() -> bool:
        found = json.loads(cluster.kubectl("get", "validatingadmissionpolicy", name, "--output=json"))
        return bool(found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"])

    eventually(checked, 60, "its expressions have been checked")
    found = json.loads(cluster.kubectl("get", "validatingadmissionpolicy", name, "--output=json"))
    assert found["status"]["typeChecking"] == {}
    del launcher


def test_all_other_tests_obey_it(cluster: Cluster) -> None:
    """The launcher's own account is held to the cluster's copy of the policy."""
    if cluster.target.own:
        pytest.skip("somebody's own cluster need not have the policy")
    own = Launcher(cluster, "flargo-launcher")
    for document, why in (
        (secret("x"), "only Secrets nvflare-startup-*"),
        (SECRETS["the token of another account"][0], "of type Opaque"),
    ):
        said = own.creates(document)
        assert "ValidatingAdmissionPolicy 'flargo-launcher'" in said
        assert why in said
    made = workflow()
    assert own.creates(made) == ""
    made["spec"]["serviceAccountName"] = "flargo-launcher"
    assert ACCOUNTS in own.creates(made)
