"""Tests of the decision about a Workflow that nobody may follow."""

from dataclasses import replace
from typing import Any

import pytest

from flargo.control.adoption import Decision, decide
from flargo.status.views import PodView, WorkflowView, pod_view, workflow_view
from tests.harness.objects import RUNNING, pod, terminated_state, workflow

RUNS = workflow_view(workflow(phase="Running", version=7))
OVER = workflow_view(workflow(phase="Failed", version=7))
LEFT = replace(OVER, parent="an earlier run")
POD_RUNS = pod_view(pod(main=RUNNING, phase="Running"))
POD_ENDED = pod_view(pod(main=terminated_state(1), phase="Failed"))
RUNS_ON = replace(OVER, phase="Running", is_step_done=True, is_handler_running=True)
"""The job's step is done, and an administrator's exit handler runs."""


def decision(
    view: WorkflowView,
    *pods: PodView,
    epoch: str = "me",
    is_followed: bool = False,
    forgotten_at: float | None = None,
) -> Decision:
    return decide(view, pods, epoch, is_followed=is_followed, forgotten_at=forgotten_at)


@pytest.mark.parametrize("view", [RUNS, OVER, LEFT])
def test_followed_workflow_is_left_alone(view: WorkflowView) -> None:
    assert decision(view, POD_RUNS, is_followed=True) is Decision.FOLLOWED


@pytest.mark.parametrize(
    ("view", "pods", "expected"),
    [
        (RUNS, (), Decision.END),
        (replace(RUNS, parent="an earlier run"), (), Decision.END),
        (replace(RUNS, suspended=True, phase=""), (), Decision.END),
        (OVER, (POD_ENDED,), Decision.OVER),
        (OVER, (POD_RUNS,), Decision.END),
        (RUNS_ON, (POD_ENDED,), Decision.OVER),
        (LEFT, (POD_ENDED,), Decision.CLEAN),
        (LEFT, (), Decision.CLEAN),
        (LEFT, (POD_RUNS,), Decision.END),
        (replace(LEFT, cleared=True), (POD_ENDED,), Decision.OVER),
        (replace(LEFT, cleared=True), (POD_RUNS,), Decision.END),
        (replace(LEFT, attempt=""), (), Decision.OVER),
        (replace(RUNS, cleared=True), (), Decision.END),
    ],
)
def test_unfollowed_workflow(view: WorkflowView, pods: tuple[PodView, ...], expected: Decision) -> None:
    assert decision(view, *pods) is expected


@pytest.mark.parametrize(
    ("view", "more"),
    [(replace(RUNS, parent=""), {}), (replace(RUNS, name=""), {}), (RUNS, {"epoch": ""})],
    ids=["not flargo's", "no valid name", "a parent without an epoch"],
)
def test_foreign_workflow_is_left_alone(view: WorkflowView, more: dict[str, Any]) -> None:
    assert decision(view, POD_RUNS, **more) is Decision.OVER


@pytest.mark.parametrize("parent", ["me", "an earlier run"])
def test_retried_workflow_is_ended(parent: str) -> None:
    """Retry keeps the uid, and starts the step of a Workflow anew about which everything was done."""
    assert decision(replace(RUNS, parent=parent), forgotten_at=6) is Decision.END
    assert decision(replace(RUNS, parent=parent, version=0), forgotten_at=6) is Decision.END, "without versions"


@pytest.mark.parametrize("forgotten_at", [7, 8, float("inf")])
def test_late_view_of_a_forgotten_workflow_means_nothing(forgotten_at: float) -> None:
    """The watch is behind the fresh read that proved the end."""
    assert decision(RUNS, POD_RUNS, forgotten_at=forgotten_at) is Decision.OVER


def test_late_pod_of_a_forgotten_workflow_means_nothing() -> None:
    """Argo still writes labels on the finished Workflow, and the watch of the pods is behind."""
    assert decision(OVER, POD_RUNS, forgotten_at=6) is Decision.OVER
