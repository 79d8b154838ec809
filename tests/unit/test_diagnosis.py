"""Tests of the diagnosis of one observation: what a scheduler's message and a Workflow's message mean."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.status.diagnosis import Diagnosis, Stage, diagnose
from flargo.status.reasons import Reason
from flargo.status.views import Observation, WorkflowView
from tests.harness.story import POD, POD_RUNNING, WORKFLOW, exited_pod

SHORTAGES = [
    "Insufficient cpu",
    "Insufficient memory",
    "Insufficient ephemeral-storage",
    "Insufficient hugepages-1Gi",
    "Insufficient nvidia.com/gpu",
    "Insufficient nvidia.com/mig-1g.10gb",
    "Insufficient amd.com/gpu",
    "Insufficient habana.ai/gaudi",
    "Insufficient google.com/tpu",
    "Insufficient aws.amazon.com/neuron",
    "Insufficient rdma/hca_shared_devices_a",
    "Too many pods",
    "cannot allocate all claims",
    "resourceclaim in use",
    "resourceclaim not available on the node",
    "cannot schedule extended resource claim",
    "cannot fit resource",
    "timed out trying to allocate devices",
    "node(s) exceed max volume count",
    "node(s) did not have enough free storage",
    "node(s) didn't have free ports for the requested pod ports",
]
"""What a node can run out of."""
TAINTS = [
    "node(s) had untolerated taint {node.kubernetes.io/not-ready: }",
    "node(s) had untolerated taint {dedicated: insufficient}",
    "node(s) had untolerated taint(s)",
    "node(s) were unschedulable",
]
OTHERS = [
    "node(s) didn't match Pod's node affinity/selector",
    "node(s) had volume node affinity conflict",
    "node(s) didn't find available persistent volumes to bind",
    "node(s) didn't match pod topology spread constraints",
    "node(s) didn't match pod anti-affinity rules",
]
"""What only a person, a provisioner or an autoscaler can correct."""
AFTERWORDS = [
    "",
    " preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.",
    " preemption: 0/5 nodes are available: 2 No preemption victims found for incoming pod, 3 not helpful.",
    " no new claims to deallocate, preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.",
    " still not schedulable, preemption: 0/5 nodes are available: 2 Preemption is not helpful for scheduling.",
]


def diagnose_unscheduled(message: str, reason: str = "Unschedulable") -> Diagnosis:
    pod = replace(POD, unscheduled_reason=reason, unscheduled_message=message)
    return diagnose(Observation(WORKFLOW, (pod,)), None)


@given(
    st.lists(st.sampled_from([*SHORTAGES, *TAINTS, *OTHERS]), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 99), min_size=6, max_size=6),
    st.sampled_from(AFTERWORDS),
)
def test_scheduler_messages(causes: list[str], counts: list[int], afterword: str) -> None:
    """Whatever else the message counts: a shortage takes precedence, then taints, then the rest."""
    counted = ", ".join(f"{count} {cause}" for count, cause in zip(counts, causes, strict=False))
    message = f"0/{sum(counts)} nodes are available: {counted}.{afterword}"
    if {*causes} & {*SHORTAGES}:
        expected: tuple[Stage, Reason | None] = (Stage.SHORTAGE, None)
    elif {*causes} & {*TAINTS}:
        expected = (Stage.TAINTED, None)
    else:
        expected = (Stage.WAITING, Reason.UNSCHEDULABLE)
    diagnosis = diagnose_unscheduled(message)
    assert (diagnosis.stage, diagnosis.reason) == expected
    assert message in diagnosis.detail


@pytest.mark.parametrize("cause", SHORTAGES)
def test_each_shortage_is_known_alone(cause: str) -> None:
    diagnosis = diagnose_unscheduled(f"0/2 nodes are available: 2 {cause}.{AFTERWORDS[1]}")
    assert (diagnosis.stage, diagnosis.reason) == (Stage.SHORTAGE, None)


@given(
    st.from_regex(
        r"([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.com/)?[a-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True
    )
)
def test_any_resource_can_be_short(resource: str) -> None:
    assert diagnose_unscheduled(f"0/1 nodes are available: 1 Insufficient {resource}.").stage is Stage.SHORTAGE


@pytest.mark.parametrize(
    "message",
    [
        'persistentvolumeclaim "insufficient" not found',
        '0/3 nodes are available: persistentvolumeclaim "too-many-pods" not found. preemption: not helpful',
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    ],
)
def test_what_is_no_shortage(message: str) -> None:
    diagnosis = diagnose_unscheduled(message)
    assert (diagnosis.stage, diagnosis.reason) == (Stage.WAITING, Reason.UNSCHEDULABLE)


@pytest.mark.parametrize(
    "message",
    [
        'serviceaccounts "flargo-executor" not found',
        'secrets "flargo-executor.service-account-token" not found',
        'pods "x" is forbidden: error looking up service account flare/x: serviceaccount "x" not found',
    ],
)
@pytest.mark.parametrize("prefix", ["", "error in entry template execution: "])
def test_a_missing_account_refuses_the_pod(message: str, prefix: str) -> None:
    """The remedy says where the accounts come from."""
    failed = replace(WORKFLOW, phase="Error", message=f"{prefix}{message}", node_phase="Error", node_message=message)
    diagnosis = diagnose(Observation(failed), None)
    assert diagnosis.reason is Reason.POD_REFUSED
    assert message in diagnosis.detail
    assert "deploy/" in diagnosis.reason.remedy


def test_an_end_that_the_node_does_not_know_is_its_loss() -> None:
    """The message is that of a node that had lost its power, recorded on a real cluster."""
    message = "main: Unknown (exit code 255)"
    failed = replace(WORKFLOW, phase="Failed", message=message, node_phase="Failed", node_message=message)
    diagnosis = diagnose(Observation(replace(failed, node_exit_code=255)), None)
    assert (diagnosis.stage, diagnosis.reason) == (Stage.ENDED, Reason.NODE_LOST)


# --- the shutdown of a Workflow

TERMINATED = replace(WORKFLOW, shutdown="Terminate")


def shutdown_reasons(workflow: WorkflowView) -> set[Reason | None]:
    """Return the diagnoses of a Workflow that is shut down, from its beginning to its end, with and without a pod."""
    killed = replace(exited_pod(143), phase="Failed", deleting=True)
    over = replace(workflow, phase="Failed", message="Stopped with strategy 'Terminate'")
    observations = (
        Observation(workflow, ()),
        Observation(workflow, (POD_RUNNING,)),
        Observation(over, (POD_RUNNING,)),
        Observation(over, (killed,)),
        Observation(over, ()),
        Observation(replace(over, node_exit_code=143), ()),
    )
    return {diagnose(each, None).reason for each in observations}


@pytest.mark.parametrize(
    "reason",
    [
        *(Reason.ABORTED, Reason.CLEANED_UP, Reason.PARENT_ENDED, Reason.IMAGE, Reason.SHORTAGE),
        *(Reason.DISRUPTED, Reason.POD_DELETED),
    ],
)
def test_a_shutdown_by_an_earlier_run_keeps_its_reason(reason: Reason) -> None:
    """The parent's next run does not remember it."""
    assert shutdown_reasons(replace(TERMINATED, ending=reason.name)) == {reason}


@pytest.mark.parametrize("note", ["", "SUCCEEDED", "PROGRAM_FAILED", "PROGRAM_REPORTED", "x"])
def test_other_shutdowns_are_a_persons(note: str) -> None:
    """Others may write any note."""
    assert shutdown_reasons(replace(TERMINATED, ending=note)) == {Reason.SHUT_DOWN}


def test_a_note_without_a_shutdown_means_nothing() -> None:
    assert diagnose(Observation(replace(WORKFLOW, ending="ABORTED"), (POD_RUNNING,)), None).reason is None
