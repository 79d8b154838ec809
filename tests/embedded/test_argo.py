"""The controller and the kubelet, with written times: objects in, changes out; no clock, no process, no server."""

from typing import Any

import pytest

from flargo.embedded import argo, kubelet, pod_manifest
from flargo.embedded.argo import WorkflowActions, reconcile
from flargo.embedded.kubelet import ProcessState
from flargo.embedded.model import Delays, Node, StoredObject, iso

Object = dict[str, Any]
DELAYS = Delays()
NOW = 1_000_000.0
LONG = 3600.0


def workflow(status: Object | None = None, **spec: Any) -> Object:
    """A Workflow that Argo would run at once."""
    template = {"name": "step", "container": {"image": "job", "command": ["python"]}}
    said = {"entrypoint": "step", "templates": [template], "executor": {"serviceAccountName": "flargo-executor"}}
    meta = {"name": "job", "namespace": "flare", "uid": "uid-1", "creationTimestamp": iso(NOW)}
    return {"metadata": meta, "spec": {**said, **spec}, "status": status or {}}


RUNNING = {"phase": "Running", "startedAt": iso(NOW)}


def node(phase: str, **more: Any) -> Object:
    """A Workflow's status with its one step."""
    return {**RUNNING, "nodes": {"job": {"id": "job", "type": "Pod", "phase": phase, "message": "", **more}}}


def pod(main: Object | None = None, wait: Object | None = None, phase: str = "Pending", **status: Any) -> Object:
    """The Workflow's pod."""
    made = pod_manifest.build_pod(workflow())
    made["metadata"] |= {"namespace": "flare", "uid": "uid-2"}
    rows = [{"name": name, "state": state} for name, state in (("main", main), ("wait", wait)) if state]
    made["status"] = {"phase": phase, "containerStatuses": rows, **status}
    return made


def look(
    item: Object, *pods: Object, after: float = LONG, denied: str = "", delays: Delays = DELAYS
) -> WorkflowActions:
    """What the controller does so many seconds after the last change of everything."""
    seen = [StoredObject(each, NOW) for each in pods]
    return reconcile(argo.WorkflowView(StoredObject(item, NOW), seen, denied), NOW + after, delays)


def step_of(changes: WorkflowActions) -> Object:
    """The step as it will be."""
    assert changes.status is not None
    found: Object = changes.status["nodes"]["job"]
    return found


def test_a_new_workflow_is_running_before_it_has_a_step_even_if_it_is_suspended() -> None:
    for suspend in (False, True):
        changes = look(workflow(suspend=suspend))
        assert changes.status is not None
        assert changes.status["phase"] == "Running"
        assert "nodes" not in changes.status
        assert changes.create is None


def test_the_controller_takes_a_moment_to_notice() -> None:
    early = look(workflow(), after=DELAYS.notice / 2)
    assert early == WorkflowActions(requeue_at=NOW + DELAYS.notice)


def test_a_suspended_workflow_has_no_pod_until_it_is_released() -> None:
    assert look(workflow(RUNNING, suspend=True)) == WorkflowActions()
    released = look(workflow(RUNNING, suspend=False))
    assert released.create is not None
    assert released.create["metadata"]["name"] == "job"
    assert step_of(released)["phase"] == "Pending"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"entrypoint": "other"}, "invalid spec: template name 'other' undefined"),
        ({"templates": [{"name": "step", "steps": []}]}, "invalid spec: flargo.embedded runs"),
        ({"onExit": "step"}, "without onExit"),
    ],
)
def test_what_can_not_be_run_is_refused_loudly(spec: Object, words: str) -> None:
    changes = look(workflow(**spec))
    assert changes.status is not None
    assert changes.status["phase"] == "Failed"
    assert words in changes.status["message"]


def test_a_pod_that_is_refused_is_an_error() -> None:
    changes = look(workflow(RUNNING), denied="violates PodSecurity")
    assert changes.create is None
    assert changes.status is not None
    assert changes.status["phase"] == "Error"
    assert changes.status["message"] == (
        'error in entry template execution: pods "job" is forbidden: violates PodSecurity'
    )


def test_a_full_quota_is_waited_for() -> None:
    words = "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    changes = look(workflow(RUNNING), denied=words)
    assert step_of(changes)["phase"] == "Pending"
    assert step_of(changes)["message"] == f'pods "job" is forbidden: {words}'
    assert changes.requeue_at == NOW + LONG + DELAYS.requeue
    assert look(workflow(node("Pending")), denied="").create is not None


ENDED_0 = {"terminated": {"exitCode": 0, "reason": "Completed"}}
ENDED_3 = {"terminated": {"exitCode": 3, "reason": "Error"}}
OOM = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
NO_RIGHTS = {"terminated": {"exitCode": 64, "reason": "Error", "message": "it is forbidden"}}
GOES_ON: Object = {"running": {}}
WAITS = {"waiting": {"reason": "PodInitializing"}}
NO_SECRET = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.mark.parametrize(
    ("seen", "phase", "message", "code"),
    [
        (pod(WAITS, WAITS), "Pending", "PodInitializing", None),
        (pod(conditions=[UNSCHEDULABLE]), "Pending", "Unschedulable: 0/1 nodes", None),
        (pod(NO_SECRET, GOES_ON), "Pending", 'CreateContainerConfigError: secret "x" not found', None),
        (pod(GOES_ON, GOES_ON, "Running"), "Running", "", None),
        (pod(ENDED_0, GOES_ON, "Running"), "Running", "", "0"),
        (pod(ENDED_0, ENDED_0, "Succeeded"), "Succeeded", "", "0"),
        (pod(ENDED_3, ENDED_0, "Failed"), "Failed", "main: Error (exit code 3)", "3"),
        (pod(OOM, ENDED_0, "Failed"), "Failed", "main: OOMKilled (exit code 137)", "137"),
        (pod(ENDED_0, NO_RIGHTS, "Failed"), "Error", "wait: Error (exit code 64): it is forbidden", "0"),
        (pod(OOM, ENDED_0, "Failed", message="Usage of EmptyDir"), "Failed", "Usage of EmptyDir", "137"),
    ],
)
def test_a_step_says_what_its_pod_shows(seen: Object, phase: str, message: str, code: str | None) -> None:
    step = step_of(look(workflow(node("Pending", displayName="job")), seen))
    assert (step["phase"], step["message"], (step.get("outputs") or {}).get("exitCode")) == (phase, message, code)


def test_a_workflow_ends_with_its_step_some_time_after_the_pod() -> None:
    ended = pod(ENDED_3, ENDED_0, "Failed")
    early = look(workflow(node("Running")), ended, after=DELAYS.follow / 2)
    assert early == WorkflowActions(requeue_at=NOW + DELAYS.follow)
    changes = look(workflow(node("Running")), ended)
    assert changes.status is not None
    assert (changes.status["phase"], changes.status["message"]) == ("Failed", "main: Error (exit code 3)")


def test_nothing_is_written_when_nothing_is_new() -> None:
    assert look(workflow(node("Running")), pod(GOES_ON, GOES_ON, "Running")) == WorkflowActions()


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_of_a_pod_that_is_being_deleted_only_its_going_is_looked_at(phase: str) -> None:
    going = pod(ENDED_3, ENDED_0, "Failed")
    going["metadata"]["deletionTimestamp"] = iso(NOW)
    assert look(workflow(node(phase)), going) == WorkflowActions()


def test_a_pod_that_goes_while_its_step_is_pending_is_made_again() -> None:
    assert look(workflow(node("Pending"))).create is not None


def test_a_pod_that_goes_while_its_step_runs_is_an_error() -> None:
    changes = look(workflow(node("Running")))
    assert changes.create is None
    assert changes.status is not None
    assert (changes.status["phase"], changes.status["message"]) == ("Error", "pod deleted")


@pytest.mark.parametrize("strategy", ["Terminate", "Stop"])
def test_shutdown_fails_the_step_first_then_the_workflow_and_only_asks_the_program(strategy: str) -> None:
    item = workflow(node("Running"), shutdown=strategy)
    first = look(item, pod(GOES_ON, GOES_ON, "Running"))
    assert step_of(first)["message"] == f"workflow shutdown with strategy:  {strategy}"
    assert first.status is not None
    assert first.status["phase"] == "Running"
    assert (first.terminate_pods, first.delete_pods) == (("job",), ())
    then = look({**item, "status": first.status}, pod(GOES_ON, GOES_ON, "Running"))
    assert then.status is not None
    assert (then.status["phase"], then.status["message"]) == ("Failed", f"Stopped with strategy '{strategy}'")


def test_shutdown_deletes_a_pod_that_does_not_run_yet() -> None:
    changes = look(workflow(node("Pending"), shutdown="Terminate"), pod(WAITS, WAITS))
    assert changes.delete_pods == ("job",)


def test_shutdown_ends_a_workflow_at_once_whose_pod_does_not_run() -> None:
    pending = look(workflow(node("Pending"), shutdown="Terminate"), pod(WAITS, WAITS))
    assert pending.status is not None
    assert (pending.status["phase"], pending.status["message"]) == ("Failed", "Stopped with strategy 'Terminate'")
    podless = look(workflow(node("Pending"), shutdown="Terminate"))
    assert podless.status is not None
    assert podless.status["phase"] == "Failed"
    assert step_of(podless)["message"] == "workflow shutdown with strategy: Terminate", "one space, without a pod"


def test_a_pod_that_is_over_is_told_of_by_its_own_words_though_a_shutdown_has_come() -> None:
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    item = workflow(node("Running"), shutdown="Terminate")
    changes = look(item, pod(ended, ended, "Failed"))
    assert (step_of(changes)["phase"], step_of(changes)["message"]) == ("Failed", "main: Error (exit code 3)")
    assert changes.status is not None
    assert changes.status["phase"] == "Running"
    leaves = pod(ended, ended, "Failed")
    leaves["metadata"]["deletionTimestamp"] = iso(NOW)
    assert step_of(look(item, leaves))["message"] == "workflow shutdown with strategy:  Terminate"


def test_shutdown_of_a_suspended_workflow_changes_nothing() -> None:
    assert look(workflow(RUNNING, suspend=True, shutdown="Terminate")) == WorkflowActions()


def ended(phase: str, **spec: Any) -> Object:
    return workflow({"phase": phase, "finishedAt": iso(NOW)}, **spec)


def test_a_finished_workflow_is_kept_as_long_as_its_end_deserves() -> None:
    kept = {"ttlStrategy": {"secondsAfterSuccess": 10, "secondsAfterFailure": 100}}
    assert look(ended("Succeeded", **kept), after=5) == WorkflowActions(requeue_at=NOW + 10)
    assert look(ended("Succeeded", **kept), after=10).delete
    assert look(ended("Failed", **kept), after=10) == WorkflowActions(requeue_at=NOW + 100)
    assert look(ended("Error", **kept), after=100).delete
    assert look(ended("Succeeded")) == WorkflowActions()


def test_pods_are_collected_when_that_was_asked_for() -> None:
    over = pod(ENDED_0, ENDED_0, "Succeeded")
    gc = {"podGC": {"strategy": "OnWorkflowCompletion", "deleteDelayDuration": "60s"}}
    assert look(ended("Succeeded", **gc), over, after=30) == WorkflowActions(requeue_at=NOW + 60)
    assert look(ended("Succeeded", **gc), over, after=60).delete_pods == ("job",)
    assert look(ended("Succeeded"), over).delete_pods == ()


def test_the_pod_spec_patch_is_merged_by_the_containers_names() -> None:
    item = workflow()
    patch = '{"containers": [{"name": "wait", "resources": {"limits": {"cpu": "1"}}}], "hostname": "h"}'
    item["spec"]["templates"][0]["podSpecPatch"] = patch
    spec = pod_manifest.build_pod(item)["spec"]
    assert [row["name"] for row in spec["containers"]] == ["wait", "main"]
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "1"}}
    assert spec["hostname"] == "h"


# --- the node


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hostNetwork": True}, 'violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)'),
        ({"serviceAccountName": "x"}, 'error looking up service account flare/x: serviceaccount "x" not found'),
        ({"resourceClaims": [{"name": "x"}]}, "unsupported: resourceClaims"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "unsupported: v"),
        ({}, ""),
    ],
)
def test_a_pod_that_can_not_be_is_refused(change: Object, words: str) -> None:
    item = pod()
    item["spec"] |= change
    said = kubelet.admission_denial(item, {"default"}, "")
    assert words in said
    assert bool(words) == bool(said)


def test_an_amount_that_is_none_is_refused() -> None:
    assert "'lots' is not a quantity" in kubelet.admission_denial(needs(memory="lots"), {"default"}, "")


def test_what_policies_and_quotas_have_against_a_pod_refuses_it() -> None:
    assert kubelet.admission_denial(pod(), {"default"}, "exceeded quota: q") == "exceeded quota: q"


def life(item: Object, process: ProcessState | None = None, after: float = LONG, **more: Any) -> kubelet.PodActions:
    """The next step of a pod's life, so many seconds after the last one."""
    return kubelet.sync_pod(kubelet.PodView(StoredObject(item, NOW), process, **more), Node(), NOW + after, DELAYS)


def on_node(item: Object) -> Object:
    status = {"startTime": iso(NOW), **item["status"]}
    return {**item, "spec": {**item["spec"], "nodeName": "embedded"}, "status": status}


def needs(**limits: str) -> Object:
    made = pod()
    kubelet.main_container(made)["resources"] = {"limits": limits}
    return made


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (needs(cpu="900"), "0/1 nodes are available: 1 Insufficient cpu. no new claims"),
        (needs(memory="9Ti"), "1 Insufficient memory."),
        (needs(**{"nvidia.com/gpu": "1"}), "1 Insufficient nvidia.com/gpu."),
        (needs(cpu="8", memory="1Gi", **{"ephemeral-storage": "1Ti"}), ""),
    ],
)
def test_what_the_node_has_not_is_said_as_the_scheduler_says_it(item: Object, words: str) -> None:
    said = kubelet.scheduling_failure(item, Node(), [], ())
    assert words in said
    assert bool(words) == bool(said)


def test_what_others_have_taken_is_not_there() -> None:
    assert kubelet.scheduling_failure(needs(cpu="40"), Node(), [needs(cpu="40")], ())
    assert not kubelet.scheduling_failure(needs(cpu="40"), Node(), [needs(cpu="20")], ())


def test_a_claim_that_is_not_there_keeps_a_pod_from_the_node() -> None:
    item = pod()
    item["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    assert 'persistentvolumeclaim "data" not found' in kubelet.scheduling_failure(item, Node(), [], ())
    assert kubelet.scheduling_failure(item, Node(), [], ("data",)) == ""


def test_a_volume_whose_secret_is_missing_is_an_event_again_and_again() -> None:
    step = life(
        on_node(pod(WAITS, WAITS, initContainerStatuses=[{"name": "init", "state": WAITS}])), mount_failures=("no",)
    )
    assert step.events == (("Warning", "FailedMount", "no"),)
    assert step.status is None
    assert step.requeue_at == NOW + LONG + DELAYS.retry


def test_images_are_ignored_but_for_their_names() -> None:
    def image(name: str) -> tuple[str, str] | None:
        item = pod()
        kubelet.main_container(item)["image"] = name
        return kubelet.create_failure(item, lambda _: None, {"not/there:1"})

    assert image("registry.example.com:5000/a/b:1.0@sha256:0123") is None
    assert (image("No Name!") or ("",))[0] == "InvalidImageName"
    assert (image("not/there:1") or ("",))[0] == "ErrImagePull"


INITIALIZED: Object = {"initContainerStatuses": [{"name": "init", "state": ENDED_0}]}


def deleted(item: Object, grace: int = 7) -> Object:
    item["metadata"] |= {"deletionTimestamp": iso(NOW), "deletionGracePeriodSeconds": grace}
    return on_node(item)


def test_a_deleted_pods_object_goes_after_its_process() -> None:
    item = deleted(pod(GOES_ON, GOES_ON, "Running", **INITIALIZED))
    assert life(item, ProcessState(running=True)) == kubelet.PodActions(kill_grace=7)
    last = life(item, ProcessState(running=False, exit_code=143))
    assert last.status is not None
    assert last.status["phase"] == "Failed"
    item["status"] |= last.status
    assert kubelet.container_state(item, "main")["terminated"]["exitCode"] == 143
    assert life(item, ProcessState(running=False, exit_code=143), after=0).requeue_at == NOW + DELAYS.remove
    assert life(item, ProcessState(running=False, exit_code=143)).remove


def test_a_container_that_never_ran_is_not_located_when_its_pod_goes() -> None:
    item = deleted(pod(NO_SECRET, GOES_ON, **INITIALIZED))
    first = life(item)
    assert first.status is not None
    item["status"] |= first.status
    assert kubelet.container_state(item, "main") == {"waiting": {"reason": "PodInitializing"}}
    last = life(item)
    assert last.status is not None
    main = {row["name"]: row["state"] for row in last.status["containerStatuses"]}["main"]["terminated"]
    assert (main["exitCode"], main["reason"]) == (137, "ContainerStatusUnknown")


def test_a_pod_that_uses_too_much_of_the_disk_is_evicted() -> None:
    item = on_node(pod(GOES_ON, GOES_ON, "Running", **INITIALIZED))
    step = life(item, ProcessState(running=False, exit_code=137, eviction="too much"))
    assert step.status is not None
    assert (step.status["phase"], step.status["reason"], step.status["message"]) == ("Failed", "Evicted", "too much")
    item["status"] |= step.status
    known = life(item, ProcessState(running=False, exit_code=137, eviction="too much"))
    assert kubelet.container_state({"status": known.status}, "main")["terminated"]["reason"] == "ContainerStatusUnknown"
    item["status"] |= known.status or {}
    assert life(item) == kubelet.PodActions()


def test_a_pod_past_its_deadline_is_ended_with_its_grace_and_failed_when_nothing_runs() -> None:
    item = on_node(pod(GOES_ON, GOES_ON, "Running", **INITIALIZED))
    item["spec"] |= {"activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": 7}
    assert life(item, ProcessState(running=True), after=9) == kubelet.PodActions(requeue_at=NOW + 10)
    assert life(item, ProcessState(running=True), after=10) == kubelet.PodActions(kill_grace=7)
    status = life(item, ProcessState(running=False, exit_code=143), after=11).status
    assert status is not None
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert status["message"] == "Pod was active on the node longer than the specified deadline"
    assert kubelet.container_state({"status": status}, "main")["terminated"]["exitCode"] == 143


def test_a_pod_that_names_its_node_is_taken_or_refused_by_the_kubelet() -> None:
    item = needs(cpu="900")
    item["spec"]["nodeName"] = "embedded"
    taken = life(item).status
    assert taken is not None
    assert taken["startTime"]
    why = kubelet.rejection(item, Node(allocatable={"cpu": "2"}), [needs(cpu="500m")])
    assert why is not None
    assert why[0] == "OutOfcpu"
    assert "resource: cpu, requested: 900000, used: 500, capacity: 2000" in why[1]
    refused = life(item, rejection=why).status
    assert refused is not None
    assert (refused["phase"], refused["reason"]) == ("Failed", "OutOfcpu")
    assert kubelet.rejection(needs(cpu="1"), Node(), []) is None


def test_a_program_that_is_not_there_never_runs() -> None:
    item = on_node(pod({"waiting": {"reason": "PodInitializing"}}, WAITS, **INITIALIZED))
    status = life(item, ProcessState(running=False, exit_code=64, message="no such file")).status
    assert status is not None
    assert kubelet.container_state({"status": status}, "main")["terminated"]["message"] == "no such file"
