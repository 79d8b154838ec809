"""Tests of the controller and the kubelet as pure functions: objects and a time in, actions out."""

from collections.abc import Mapping
from typing import Any

import pytest

from flargo.embedded import argo, kubelet, messages, pod_manifest
from flargo.embedded.argo import WorkflowActions, reconcile
from flargo.embedded.kubelet import ProcessState
from flargo.embedded.locks import LockUse
from flargo.embedded.model import Delays, Node, StoredObject, iso

Object = dict[str, Any]
DELAYS = Delays()
NOW = 1_000_000.0
LONG_AFTER = 3600.0
NO_LOCKS: Mapping[str, LockUse] = {}


def workflow(status: Object | None = None, **spec: Any) -> Object:
    """Return a Workflow that Argo would run at once."""
    template = {"name": "step", "container": {"image": "job", "command": ["python"]}}
    defaults = {"entrypoint": "step", "templates": [template], "executor": {"serviceAccountName": "flargo-executor"}}
    meta = {"name": "job", "namespace": "flare", "uid": "uid-1", "creationTimestamp": iso(NOW)}
    return {"metadata": meta, "spec": {**defaults, **spec}, "status": status or {}}


RUNNING_STATUS = {"phase": "Running", "startedAt": iso(NOW)}


def node(phase: str, **more: Any) -> Object:
    """Return the status of a Workflow whose node is in a phase."""
    return {**RUNNING_STATUS, "nodes": {"job": {"id": "job", "type": "Pod", "phase": phase, "message": "", **more}}}


def pod(main: Object | None = None, wait: Object | None = None, phase: str = "Pending", **status: Any) -> Object:
    """Return the Workflow's pod, with container states."""
    item = pod_manifest.build_pod(workflow())
    item["metadata"] |= {"namespace": "flare", "uid": "uid-2"}
    rows = [{"name": name, "state": state} for name, state in (("main", main), ("wait", wait)) if state]
    item["status"] = {"phase": phase, "containerStatuses": rows, **status}
    return item


def sync(
    item: Object,
    *pods: Object,
    after: float = LONG_AFTER,
    denial: str = "",
    delays: Delays = DELAYS,
    locks: Mapping[str, LockUse] = NO_LOCKS,
) -> WorkflowActions:
    """Return the controller's actions ``after`` seconds from the last change of the Workflow and its pods."""
    stored_pods = [StoredObject(each, NOW) for each in pods]
    errors = {"job": f'pods "job" is forbidden: {denial}'} if denial else {}
    return reconcile(argo.WorkflowView(StoredObject(item, NOW), stored_pods, errors, locks), NOW + after, delays)


def test_node_gets_its_display_name_with_its_second_change() -> None:
    """Argo knows the name only for a node that exists, and writes it together with what else has changed."""
    template = workflow()["spec"]["templates"][0] | {
        "annotations": {"workflows.argoproj.io/display-name": "oom-site-1"}
    }
    created = node_of(sync(workflow(RUNNING_STATUS, templates=[template])))
    assert created["displayName"] == "job"
    pending = workflow({**RUNNING_STATUS, "nodes": {"job": created}}, templates=[template])
    assert sync(pending, pod()) == WorkflowActions(), "the name alone is no change"
    assert node_of(sync(pending, pod({"running": {}}, phase="Running")))["displayName"] == "oom-site-1"


def node_of(actions: WorkflowActions) -> Object:
    """Return the Workflow's node as the controller writes it."""
    assert actions.status is not None
    node: Object = actions.status["nodes"]["job"]
    return node


def test_new_workflow_is_running_without_nodes() -> None:
    """Argo writes the phase Running first, even if the Workflow is suspended."""
    for suspend in (False, True):
        actions = sync(workflow(suspend=suspend))
        assert actions.status is not None
        assert actions.status["phase"] == "Running"
        assert "nodes" not in actions.status
        assert actions.create is None


def test_controller_reacts_after_a_delay() -> None:
    early = sync(workflow(), after=DELAYS.notice / 2)
    assert early == WorkflowActions(requeue_at=NOW + DELAYS.notice)


def test_suspended_workflow_gets_its_pod_when_released() -> None:
    assert sync(workflow(RUNNING_STATUS, suspend=True)) == WorkflowActions()
    released = sync(workflow(RUNNING_STATUS, suspend=False))
    assert released.create is not None
    assert released.create["metadata"]["name"] == "job"
    assert node_of(released)["phase"] == "Pending"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"entrypoint": "other"}, "invalid spec: template name 'other' undefined"),
        ({"templates": [{"name": "step", "steps": []}]}, "invalid spec: flargo.embedded runs"),
        ({"onExit": "other"}, "invalid spec: template name 'other' undefined"),
        ({"hooks": {"one": {"template": "step", "expression": "1 > 0"}}}, "hooks.one: flargo.embedded evaluates only"),
        ({"volumeClaimTemplates": []}, "without volumeClaimTemplates"),
    ],
)
def test_unsupported_workflow_fails_with_a_reason(spec: Object, message: str) -> None:
    actions = sync(workflow(**spec))
    assert actions.status is not None
    assert actions.status["phase"] == "Failed"
    assert message in actions.status["message"]


def test_refused_pod_ends_the_workflow() -> None:
    actions = sync(workflow(RUNNING_STATUS), denial="violates PodSecurity")
    assert actions.create is None
    assert actions.status is not None
    assert actions.status["phase"] == "Error"
    assert actions.status["message"] == (
        'error in entry template execution: pods "job" is forbidden: violates PodSecurity'
    )


def test_controller_retries_a_full_quota() -> None:
    message = "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    actions = sync(workflow(RUNNING_STATUS), denial=message)
    assert node_of(actions)["phase"] == "Pending"
    assert node_of(actions)["message"] == f'pods "job" is forbidden: {message}'
    assert actions.requeue_at == NOW + LONG_AFTER + DELAYS.requeue
    assert sync(workflow(node("Pending")), denial="").create is not None


EXITED_0 = {"terminated": {"exitCode": 0, "reason": "Completed"}}
EXITED_3 = {"terminated": {"exitCode": 3, "reason": "Error"}}
OOM_KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
FORBIDDEN = {"terminated": {"exitCode": 64, "reason": "Error", "message": "it is forbidden"}}
RUNNING: Object = {"running": {}}
INITIALIZING = {"waiting": {"reason": "PodInitializing"}}
NO_SECRET = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.mark.parametrize(
    ("observed_pod", "phase", "message", "code"),
    [
        (pod(INITIALIZING, INITIALIZING), "Pending", "PodInitializing", None),
        (pod(conditions=[UNSCHEDULABLE]), "Pending", "Unschedulable: 0/1 nodes", None),
        (pod(NO_SECRET, RUNNING), "Pending", 'CreateContainerConfigError: secret "x" not found', None),
        (pod(RUNNING, RUNNING, "Running"), "Running", "", None),
        (pod(EXITED_0, RUNNING, "Running"), "Running", "", "0"),
        (pod(EXITED_0, EXITED_0, "Succeeded"), "Succeeded", "", "0"),
        (pod(EXITED_3, EXITED_0, "Failed"), "Failed", "main: Error (exit code 3)", "3"),
        (pod(OOM_KILLED, EXITED_0, "Failed"), "Failed", "main: OOMKilled (exit code 137)", "137"),
        (pod(EXITED_0, FORBIDDEN, "Failed"), "Error", "wait: Error (exit code 64): it is forbidden", "0"),
        (pod(OOM_KILLED, EXITED_0, "Failed", message="Usage of EmptyDir"), "Failed", "Usage of EmptyDir", "137"),
    ],
)
def test_node_status_follows_the_pod(observed_pod: Object, phase: str, message: str, code: str | None) -> None:
    step = node_of(sync(workflow(node("Pending", displayName="job")), observed_pod))
    assert (step["phase"], step["message"], (step.get("outputs") or {}).get("exitCode")) == (phase, message, code)


def test_workflow_ends_after_its_pod() -> None:
    ended_pod = pod(EXITED_3, EXITED_0, "Failed")
    early = sync(workflow(node("Running")), ended_pod, after=DELAYS.follow / 2)
    assert early == WorkflowActions(requeue_at=NOW + DELAYS.follow)
    actions = sync(workflow(node("Running")), ended_pod)
    assert actions.status is not None
    assert (actions.status["phase"], actions.status["message"]) == ("Failed", "main: Error (exit code 3)")


def test_unchanged_pod_causes_no_action() -> None:
    assert sync(workflow(node("Running")), pod(RUNNING, RUNNING, "Running")) == WorkflowActions()


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_terminating_pod_causes_no_action(phase: str) -> None:
    terminating_pod = pod(EXITED_3, EXITED_0, "Failed")
    terminating_pod["metadata"]["deletionTimestamp"] = iso(NOW)
    assert sync(workflow(node(phase)), terminating_pod) == WorkflowActions()


def test_deleted_pod_of_pending_node_is_recreated() -> None:
    assert sync(workflow(node("Pending"))).create is not None


def test_deleted_pod_makes_running_node_an_error() -> None:
    actions = sync(workflow(node("Running")))
    assert actions.create is None
    assert actions.status is not None
    assert (actions.status["phase"], actions.status["message"]) == ("Error", "pod deleted")


@pytest.mark.parametrize("strategy", ["Terminate", "Stop"])
def test_shutdown_fails_node_then_workflow(strategy: str) -> None:
    """The running pod gets SIGTERM only, and is not deleted."""
    item = workflow(node("Running"), shutdown=strategy)
    first = sync(item, pod(RUNNING, RUNNING, "Running"))
    assert node_of(first)["message"] == f"workflow shutdown with strategy:  {strategy}"
    assert first.status is not None
    assert first.status["phase"] == "Running"
    assert (first.terminate_pods, first.delete_pods) == (("job",), ())
    then = sync({**item, "status": first.status}, pod(RUNNING, RUNNING, "Running"))
    assert then.status is not None
    assert (then.status["phase"], then.status["message"]) == ("Failed", f"Stopped with strategy '{strategy}'")


def test_shutdown_deletes_a_pending_pod() -> None:
    actions = sync(workflow(node("Pending"), shutdown="Terminate"), pod(INITIALIZING, INITIALIZING))
    assert actions.delete_pods == ("job",)


def test_shutdown_without_running_pod_ends_the_workflow() -> None:
    pending = sync(workflow(node("Pending"), shutdown="Terminate"), pod(INITIALIZING, INITIALIZING))
    assert pending.status is not None
    assert (pending.status["phase"], pending.status["message"]) == ("Failed", "Stopped with strategy 'Terminate'")
    podless = sync(workflow(node("Pending"), shutdown="Terminate"))
    assert podless.status is not None
    assert podless.status["phase"] == "Failed"
    assert node_of(podless)["message"] == "workflow shutdown with strategy: Terminate", "one space, without a pod"


def test_shutdown_keeps_the_status_of_ended_pods() -> None:
    """A pod that has ended decides the node's message, unless it is being deleted."""
    item = workflow(node("Running"), shutdown="Terminate")
    actions = sync(item, pod(EXITED_3, EXITED_3, "Failed"))
    assert (node_of(actions)["phase"], node_of(actions)["message"]) == ("Failed", "main: Error (exit code 3)")
    assert actions.status is not None
    assert actions.status["phase"] == "Running"
    terminating_pod = pod(EXITED_3, EXITED_3, "Failed")
    terminating_pod["metadata"]["deletionTimestamp"] = iso(NOW)
    assert node_of(sync(item, terminating_pod))["message"] == "workflow shutdown with strategy:  Terminate"


def test_shutdown_of_suspended_workflow_changes_nothing() -> None:
    assert sync(workflow(RUNNING_STATUS, suspend=True, shutdown="Terminate")) == WorkflowActions()


# --- exit handlers and hooks

HANDLER = {"name": "notify", "container": {"image": "job", "command": ["true"]}}
STEP = {"name": "step", "container": {"image": "job", "command": ["python"]}}
WITH_HANDLER: Object = {"onExit": "notify", "templates": [STEP, HANDLER]}
HANDLER_ID = "job-2341089871"
"""``job`` with the FNV-1a hash of ``job.onExit``."""
HANDLER_POD = "job-notify-2341089871"


def handler_pod(main: Object, wait: Object, phase: str) -> Object:
    """Return the exit handler's pod."""
    item = workflow(**WITH_HANDLER)
    step = pod_manifest.exit_step(item)
    assert step is not None
    built = pod_manifest.build_pod(item, step)
    rows = [{"name": "main", "state": main}, {"name": "wait", "state": wait}]
    built["status"] = {"phase": phase, "containerStatuses": rows}
    return built


def with_handler_node(entry: str, phase: str, message: str = "") -> Object:
    """Return a Workflow's status whose entry point and exit handler are in these phases."""
    status = node(entry, message="main: Error (exit code 3)" if entry == "Failed" else "")
    handler = {"id": HANDLER_ID, "name": "job.onExit", "type": "Pod", "phase": phase, "message": message}
    return {**status, "nodes": {**status["nodes"], HANDLER_ID: handler}}


def test_exit_handler_gets_a_pod_of_its_own_after_the_step() -> None:
    ended = sync(workflow(node("Running"), **WITH_HANDLER), pod(EXITED_3, EXITED_0, "Failed"))
    assert ended.status is not None
    assert (ended.status["phase"], node_of(ended)["phase"]) == ("Running", "Failed")
    then = sync({**workflow(**WITH_HANDLER), "status": ended.status})
    assert then.create is not None
    meta = then.create["metadata"]
    assert meta["name"] == HANDLER_POD
    assert meta["labels"] == {
        "workflows.argoproj.io/workflow": "job",
        "workflows.argoproj.io/completed": "false",
        "workflows.argoproj.io/on-exit": "true",
    }
    assert meta["ownerReferences"] == pod_manifest.build_pod(workflow())["metadata"]["ownerReferences"]
    assert then.status is not None
    assert then.status["nodes"][HANDLER_ID]["name"] == "job.onExit"


@pytest.mark.parametrize(
    ("entry", "exit_state", "pod_phase", "phase", "message"),
    [
        ("Succeeded", EXITED_0, "Succeeded", "Succeeded", None),
        ("Succeeded", EXITED_3, "Failed", "Failed", "main: Error (exit code 3)"),
        ("Failed", EXITED_0, "Succeeded", "Failed", "main: Error (exit code 3)"),
    ],
)
def test_workflow_ends_with_its_exit_handler(
    entry: str, exit_state: Object, pod_phase: str, phase: str, message: str | None
) -> None:
    """A failed handler makes the Workflow of a successful step fail."""
    item = workflow(with_handler_node(entry, "Running"), **WITH_HANDLER)
    assert sync(item, handler_pod(RUNNING, RUNNING, "Running")) == WorkflowActions()
    status = sync(item, handler_pod(exit_state, EXITED_0, pod_phase)).status
    assert status is not None
    assert (status["phase"], status.get("message")) == (phase, message)


@pytest.mark.parametrize(("strategy", "runs"), [("Terminate", False), ("Stop", True)])
def test_exit_handler_after_a_shutdown(strategy: str, runs: bool) -> None:  # noqa: FBT001  (a parameter)
    actions = sync(workflow(node("Failed"), shutdown=strategy, **WITH_HANDLER))
    assert (actions.create is not None) == runs
    assert actions.status is not None
    assert actions.status["phase"] == ("Running" if runs else "Failed")


def test_refused_exit_handler_is_an_error_of_the_workflow() -> None:
    item = workflow(node("Succeeded"), **WITH_HANDLER)
    view = argo.WorkflowView(StoredObject(item, NOW), (), {"job.onExit": "it is forbidden"})
    status = reconcile(view, NOW + LONG_AFTER, DELAYS).status
    assert status is not None
    assert status["phase"] == "Error"
    assert status["message"] == "error in exit template execution : it is forbidden"


def test_hook_runs_beside_its_step() -> None:
    hooks = {"running": {"template": "notify", "expression": 'workflow.status == "Running"'}}
    spec: Object = {"hooks": hooks, "templates": [STEP, HANDLER]}
    step_pod = pod(RUNNING, RUNNING, "Running")
    assert sync(workflow(node("Pending"), **spec), pod(RUNNING, RUNNING, "Pending")).create is None
    started = sync(workflow(node("Running"), **spec), step_pod)
    assert started.create is not None
    (hook,) = pod_manifest.hook_steps(workflow(**spec))
    assert started.create["metadata"]["name"] == hook.pod_name
    assert hook.node == "job.hooks.running"
    hook_node = {"id": hook.node_id, "name": hook.node, "type": "Pod", "phase": "Running", "message": ""}
    ended = node("Succeeded")
    ended["nodes"][hook.node_id] = hook_node
    assert sync(workflow(ended, **spec), after=0.1).status is None, "the Workflow waits for its hook"
    ended["nodes"][hook.node_id] = {**hook_node, "phase": "Succeeded"}
    status = sync(workflow(ended, **spec)).status
    assert status is not None
    assert status["phase"] == "Succeeded"


# --- a Workflow that a person suspends while it runs


def test_suspended_workflow_follows_its_pod_and_never_ends() -> None:
    held = {"synchronization": {"mutex": {"holding": [{"mutex": "flare/Mutex/m", "holder": "flare/job/job"}]}}}
    running = {**node("Running"), **held}
    ended = sync(workflow(running, suspend=True), pod(EXITED_3, EXITED_0, "Failed"))
    assert ended.status is not None
    assert (ended.status["phase"], node_of(ended)["phase"]) == ("Running", "Failed")
    for more in ({}, {"shutdown": "Terminate"}):
        assert sync(workflow(ended.status, suspend=True, **more)) == WorkflowActions()
    assert "synchronization" in ended.status
    status = sync(workflow(ended.status, suspend=False)).status
    assert status is not None
    assert status["phase"] == "Failed"
    assert "synchronization" not in status


def test_shutdown_ends_the_pod_of_a_suspended_workflow_but_not_the_workflow() -> None:
    item = workflow(node("Running"), suspend=True, shutdown="Terminate")
    actions = sync(item, pod(RUNNING, RUNNING, "Running"))
    assert actions.terminate_pods == ("job",)
    assert actions.status is not None
    assert (actions.status["phase"], node_of(actions)["phase"]) == ("Running", "Failed")
    assert sync({**item, "status": actions.status}) == WorkflowActions()


# --- a pod that is there already


def test_pod_of_an_earlier_workflow_is_taken_over() -> None:
    earlier_pod = pod(EXITED_0, EXITED_0, "Succeeded")
    earlier_pod["metadata"]["ownerReferences"] = []
    status = sync(workflow(node("Pending")), earlier_pod).status
    assert status is not None
    assert status["phase"] == "Succeeded"


# --- locks

SEMAPHORE = {"semaphores": [{"configMapKeyRef": {"name": "queue", "key": "jobs"}}]}
KEY = "flare/ConfigMap/queue/jobs"
QUEUED_SPEC = {"templates": [{**STEP, "synchronization": SEMAPHORE}]}


def test_step_waits_for_its_lock() -> None:
    waiting = sync(workflow(RUNNING_STATUS, **QUEUED_SPEC), locks={KEY: LockUse(2, 2)})
    assert waiting.create is None
    assert node_of(waiting)["message"] == f"Waiting for {KEY} lock. Lock status: 0/2"
    assert node_of(waiting)["synchronizationStatus"] == {"waiting": KEY}
    assert waiting.requeue_at == NOW + LONG_AFTER + DELAYS.requeue
    assert waiting.status is not None
    started = sync(workflow(waiting.status, **QUEUED_SPEC), locks={KEY: LockUse(1, 2)})
    assert started.create is not None
    assert "synchronizationStatus" not in node_of(started)
    assert started.status is not None
    holding = {"semaphore": {"holding": [{"semaphore": KEY, "holders": ["flare/job/job"]}]}}
    assert started.status["synchronization"] == holding


def test_lock_is_given_back_before_the_exit_handler_ends() -> None:
    held = {"synchronization": {"mutex": {"holding": [{"mutex": "flare/Mutex/m", "holder": "flare/job/job"}]}}}
    item = workflow({**node("Running"), **held}, **WITH_HANDLER)
    status = sync(item, pod(EXITED_0, EXITED_0, "Succeeded")).status
    assert status is not None
    assert status["phase"] == "Running"
    assert "synchronization" not in status


def ended_workflow(phase: str, **spec: Any) -> Object:
    return workflow({"phase": phase, "finishedAt": iso(NOW)}, **spec)


def test_ttl_depends_on_how_the_workflow_ended() -> None:
    ttl = {"ttlStrategy": {"secondsAfterSuccess": 10, "secondsAfterFailure": 100}}
    assert sync(ended_workflow("Succeeded", **ttl), after=5) == WorkflowActions(requeue_at=NOW + 10)
    assert sync(ended_workflow("Succeeded", **ttl), after=10).delete
    assert sync(ended_workflow("Failed", **ttl), after=10) == WorkflowActions(requeue_at=NOW + 100)
    assert sync(ended_workflow("Error", **ttl), after=100).delete
    assert sync(ended_workflow("Succeeded")) == WorkflowActions()


def test_pod_gc_deletes_pods_after_its_delay() -> None:
    ended_pod = pod(EXITED_0, EXITED_0, "Succeeded")
    gc = {"podGC": {"strategy": "OnWorkflowCompletion", "deleteDelayDuration": "60s"}}
    assert sync(ended_workflow("Succeeded", **gc), ended_pod, after=30) == WorkflowActions(requeue_at=NOW + 60)
    assert sync(ended_workflow("Succeeded", **gc), ended_pod, after=60).delete_pods == ("job",)
    assert sync(ended_workflow("Succeeded"), ended_pod).delete_pods == ()


def test_pod_spec_patch_merges_containers_by_name() -> None:
    item = workflow()
    patch = '{"containers": [{"name": "wait", "resources": {"limits": {"cpu": "1"}}}], "hostname": "h"}'
    item["spec"]["templates"][0]["podSpecPatch"] = patch
    spec = pod_manifest.build_pod(item)["spec"]
    assert [row["name"] for row in spec["containers"]] == ["wait", "main"]
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "1"}}
    assert spec["hostname"] == "h"


# --- the node


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hostNetwork": True}, 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)'),
        ({"serviceAccountName": "x"}, 'error looking up service account flare/x: serviceaccount "x" not found'),
        ({"resourceClaims": [{"name": "x"}]}, "unsupported: resourceClaims"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "unsupported: v"),
        ({}, ""),
    ],
)
def test_admission_denies_impossible_pods(change: Object, message: str) -> None:
    item = pod()
    item["spec"] |= change
    denial = kubelet.admission_denial(item, {"default"}, "")
    assert message in denial
    assert bool(message) == bool(denial)


def test_admission_denies_an_invalid_quantity() -> None:
    assert "'lots' is not a quantity" in kubelet.admission_denial(needs(memory="lots"), {"default"}, "")


def test_admission_denies_by_policies_and_quotas() -> None:
    assert kubelet.admission_denial(pod(), {"default"}, "exceeded quota: q") == "exceeded quota: q"


def sync_pod(
    item: Object, process: ProcessState | None = None, after: float = LONG_AFTER, **more: Any
) -> kubelet.PodActions:
    """Return the kubelet's actions ``after`` seconds from the pod's last change."""
    return kubelet.sync_pod(kubelet.PodView(StoredObject(item, NOW), process, **more), Node(), NOW + after, DELAYS)


def on_node(item: Object) -> Object:
    status = {"startTime": iso(NOW), **item["status"]}
    return {**item, "spec": {**item["spec"], "nodeName": "embedded"}, "status": status}


def needs(**limits: str) -> Object:
    item = pod()
    kubelet.main_container(item)["resources"] = {"limits": limits}
    return item


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (needs(cpu="900"), "0/1 nodes are available: 1 Insufficient cpu. no new claims"),
        (needs(memory="9Ti"), "1 Insufficient memory."),
        (needs(**{"nvidia.com/gpu": "1"}), "1 Insufficient nvidia.com/gpu."),
        (needs(cpu="8", memory="1Gi", **{"ephemeral-storage": "1Ti"}), ""),
    ],
)
def test_scheduler_reports_insufficient_resources(item: Object, message: str) -> None:
    failure = kubelet.scheduling_failure(item, Node(), [], ())
    assert message in failure
    assert bool(message) == bool(failure)


def test_scheduler_counts_requests_of_other_pods() -> None:
    assert kubelet.scheduling_failure(needs(cpu="40"), Node(), [needs(cpu="40")], ())
    assert not kubelet.scheduling_failure(needs(cpu="40"), Node(), [needs(cpu="20")], ())


def test_missing_claim_prevents_scheduling() -> None:
    item = pod()
    item["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    assert 'persistentvolumeclaim "data" not found' in kubelet.scheduling_failure(item, Node(), [], ())
    assert kubelet.scheduling_failure(item, Node(), [], ("data",)) == ""


def test_missing_secret_of_volume_is_retried() -> None:
    step = sync_pod(
        on_node(pod(INITIALIZING, INITIALIZING, initContainerStatuses=[{"name": "init", "state": INITIALIZING}])),
        mount_failures=("no",),
    )
    assert step.events == (("Warning", "FailedMount", "no"),)
    assert step.status is None
    assert step.requeue_at == NOW + LONG_AFTER + DELAYS.retry


def test_only_the_names_of_images_matter() -> None:
    def image(name: str) -> tuple[str, str] | None:
        item = pod()
        kubelet.main_container(item)["image"] = name
        return kubelet.create_failure(item, lambda _: None, {"not/there:1"})

    assert image("registry.example.com:5000/a/b:1.0@sha256:0123") is None
    assert (image("No Name!") or ("",))[0] == "InvalidImageName"
    assert (image("not/there:1") or ("",))[0] == "ErrImagePull"


INITIALIZED: Object = {"initContainerStatuses": [{"name": "init", "state": EXITED_0}]}


def deleted(item: Object, grace: int = 7) -> Object:
    item["metadata"] |= {"deletionTimestamp": iso(NOW), "deletionGracePeriodSeconds": grace}
    return on_node(item)


def test_deletion_removes_process_then_object() -> None:
    item = deleted(pod(RUNNING, RUNNING, "Running", **INITIALIZED))
    assert sync_pod(item, ProcessState(running=True)) == kubelet.PodActions(kill_grace=7)
    last = sync_pod(item, ProcessState(running=False, exit_code=143))
    assert last.status is not None
    assert last.status["phase"] == "Failed"
    item["status"] |= last.status
    assert kubelet.container_state(item, "main")["terminated"]["exitCode"] == 143
    assert sync_pod(item, ProcessState(running=False, exit_code=143), after=0).requeue_at == NOW + DELAYS.remove
    assert sync_pod(item, ProcessState(running=False, exit_code=143)).remove


def test_deleted_container_that_never_ran_stays_waiting() -> None:
    item = deleted(pod(NO_SECRET, RUNNING, **INITIALIZED))
    first = sync_pod(item)
    assert first.status is not None
    item["status"] |= first.status
    assert kubelet.container_state(item, "main") == {"waiting": {"reason": "PodInitializing"}}
    last = sync_pod(item)
    assert last.status is not None
    main = {row["name"]: row["state"] for row in last.status["containerStatuses"]}["main"]["terminated"]
    assert (main["exitCode"], main["reason"]) == (137, "ContainerStatusUnknown")


def test_disk_limit_evicts_the_pod() -> None:
    item = on_node(pod(RUNNING, RUNNING, "Running", **INITIALIZED))
    step = sync_pod(item, ProcessState(running=False, exit_code=137, eviction="too much"))
    assert step.status is not None
    assert (step.status["phase"], step.status["reason"], step.status["message"]) == ("Failed", "Evicted", "too much")
    item["status"] |= step.status
    completed = sync_pod(item, ProcessState(running=False, exit_code=137, eviction="too much"))
    assert (
        kubelet.container_state({"status": completed.status}, "main")["terminated"]["reason"]
        == "ContainerStatusUnknown"
    )
    item["status"] |= completed.status or {}
    assert sync_pod(item) == kubelet.PodActions()


def test_deadline_ends_the_process_then_the_pod() -> None:
    item = on_node(pod(RUNNING, RUNNING, "Running", **INITIALIZED))
    item["spec"] |= {"activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": 7}
    assert sync_pod(item, ProcessState(running=True), after=9) == kubelet.PodActions(requeue_at=NOW + 10)
    assert sync_pod(item, ProcessState(running=True), after=10) == kubelet.PodActions(kill_grace=7)
    status = sync_pod(item, ProcessState(running=False, exit_code=143), after=11).status
    assert status is not None
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert status["message"] == "Pod was active on the node longer than the specified deadline"
    assert kubelet.container_state({"status": status}, "main")["terminated"]["exitCode"] == 143


def test_kubelet_admits_or_rejects_bound_pods() -> None:
    item = needs(cpu="900")
    item["spec"]["nodeName"] = "embedded"
    admitted_status = sync_pod(item).status
    assert admitted_status is not None
    assert admitted_status["startTime"]
    rejection = kubelet.rejection(item, Node(allocatable={"cpu": "2"}), [needs(cpu="500m")])
    assert rejection is not None
    assert rejection[0] == "OutOfcpu"
    assert "resource: cpu, requested: 900000, used: 500, capacity: 2000" in rejection[1]
    rejected_status = sync_pod(item, rejection=rejection).status
    assert rejected_status is not None
    assert (rejected_status["phase"], rejected_status["reason"]) == ("Failed", "OutOfcpu")
    assert kubelet.rejection(needs(cpu="1"), Node(), []) is None
    item["spec"]["nodeSelector"] = {"disk": "ssd"}
    assert kubelet.rejection(item, Node(labels={"disk": "hdd"}), []) == ("NodeAffinity", messages.AFFINITY_FAILED)


def test_missing_program_terminates_main() -> None:
    item = on_node(pod(INITIALIZING, INITIALIZING, **INITIALIZED))
    status = sync_pod(item, ProcessState(running=False, exit_code=64, message="no such file")).status
    assert status is not None
    assert kubelet.container_state({"status": status}, "main")["terminated"]["message"] == "no such file"
