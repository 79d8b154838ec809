"""Tests of views, and of objects that cannot be parsed."""

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.control import reconciler
from flargo.control.inputs import Admitted, Changed, JobInput, Listed, ObjectsRead, TimePassed
from flargo.control.parse_error_log import ParseErrorLog
from flargo.job.plan import build_plan
from flargo.status.fields import parse_each
from flargo.status.job_state import ActionKind, Submitted
from flargo.status.views import event_view, pod_view, strip_unused_fields, workflow_view
from flargo.terms import Object, StartTimeouts
from flargo.tools.jobs.site_job import site_jobs, trim
from tests.harness.differential.argo import pod_from_workflow
from tests.harness.differential.cases import samples
from tests.harness.objects import pod, workflow
from tests.harness.paths import RECORDED_SCENARIOS

VIEWS: dict[str, Callable[[Object], Any]] = {"WORKFLOW": workflow_view, "POD": pod_view}


def test_stripped_object_has_the_same_view() -> None:
    compared = 0
    for file in RECORDED_SCENARIOS:
        for line in map(json.loads, file.read_text().splitlines()):
            for item in line.get("objects", ()):
                if line.get("kind") in VIEWS:
                    view = VIEWS[line["kind"]]
                    assert view(strip_unused_fields(item)) == view(item)
                    assert view(strip_unused_fields(item)).version == view(item).version
                    compared += 1
    assert compared > 500


def test_most_of_a_pod_is_stripped() -> None:
    for _, settings, launch in samples():
        pod = pod_from_workflow(build_plan(launch, settings).workflow)
        assert pod_view(strip_unused_fields(pod)) == pod_view(pod)
        assert len(json.dumps(strip_unused_fields(pod)["spec"])) < len(json.dumps(pod["spec"])) / 2


@pytest.mark.parametrize(
    "malformed", [{}, {"metadata": 3, "spec": [], "status": "?"}, {"spec": {"containers": {"a": 1}}}]
)
def test_malformed_object_can_be_stripped(malformed: Object) -> None:
    assert pod_view(strip_unused_fields(malformed)) == pod_view(malformed)
    assert workflow_view(strip_unused_fields(malformed)) == workflow_view(malformed)


STARTED_STATUSES: list[Object] = [
    {"state": {"running": {}}},
    {"state": {"terminated": {"exitCode": 0}}},
    {"state": {"terminated": {"exitCode": 3, "reason": "Error"}}},
    {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}},
    {"state": {}, "started": True},
]


@pytest.mark.parametrize("kind", ["initContainerStatuses", "containerStatuses"])
@pytest.mark.parametrize("status", STARTED_STATUSES, ids=str)
def test_any_container_has_started(kind: str, status: Object) -> None:
    waiting = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}, "started": False}
    assert pod_view({"status": {kind: [waiting, {"name": "x", **status}]}}).has_started


@pytest.mark.parametrize(
    "status",
    [{}, {"state": {"waiting": {}}}, {"state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}],
    ids=str,
)
def test_no_container_has_started(status: Object) -> None:
    assert not pod_view({"status": {"containerStatuses": [{"name": "main", **status}]}}).has_started


# --- objects that others wrote


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["²", "9" * 5000, "../x", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "Succeeded", "main"]),
)
_KEYS = [
    "metadata", "spec", "status", "labels", "annotations", "name", "uid", "resourceVersion", "ownerReferences", "nodes",
    "outputs", "exitCode", "phase", "type", "startedAt", "finishedAt", "containerStatuses", "initContainerStatuses",
    "state", "terminated", "running", "waiting", "reason", "message", "conditions", "containers", "resources", "limits",
    "synchronization", "mutex", "semaphore", "suspend", "shutdown", "deletionTimestamp", "deletionGracePeriodSeconds",
    "flargo.dev/attempt", "series", "count", "firstTimestamp", "lastTimestamp", "involvedObject", "creationTimestamp",
    "flargo.dev/ending", "templates", "container",
]  # fmt: skip
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6)),
    max_leaves=30,
)
_OBJECTS = st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=6)


@given(_OBJECTS)
def test_any_object_has_a_view(item: Object) -> None:
    assert workflow_view(item) == workflow_view(strip_unused_fields(item))
    assert pod_view(item) == pod_view(strip_unused_fields(item))
    assert event_view(item).span is not None
    assert site_jobs([trim(item)], [trim(item)])[0].as_dict() is not None


@given(st.lists(_OBJECTS, max_size=4), _OBJECTS)
def test_parse_error_affects_one_object(others: list[Object], malformed: Object) -> None:
    def parse(item: Object) -> Object:
        if item is malformed:
            raise RuntimeError("t0psecret")
        return item

    reports: list[tuple[Object, Exception]] = []
    results = [*parse_each([malformed, *others, malformed], parse, lambda *report: reports.append(report))]
    assert results == others
    assert [item for item, _ in reports] == [malformed, malformed]


def test_parse_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    log = ParseErrorLog()
    for _ in range(3):
        log({"metadata": {"name": "job-site", "uid": "u1"}}, RuntimeError("t0psecret"))
        log({"metadata": {"name": "\x1b]52;c;x\x07", "uid": "u2"}}, RuntimeError("t0psecret"))
    assert [record.getMessage() for record in caplog.records] == [
        "job-site: object could not be parsed and is skipped: RuntimeError",
        "(without a valid name): object could not be parsed and is skipped: RuntimeError",
    ]


def test_reconciler_survives_parse_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(item: Object) -> Any:
        if item["metadata"]["name"] == "odd":
            raise RuntimeError
        return workflow_view(item)

    monkeypatch.setattr(reconciler, "workflow_view", fail)
    skipped_objects: list[Object] = []
    tracker = reconciler.Reconciler(
        lambda _: False, 0.0, epoch="me", on_parse_error=lambda item, _: skipped_objects.append(item)
    )
    tracker.handle(Admitted("job-site", "a1", StartTimeouts(), 3), 0.0)
    tracker.handle(Listed(Kind.POD, ()), 0.0)
    tracker.handle(Listed(Kind.WORKFLOW, (workflow("odd", uid="w0"), workflow(phase="Running"))), 1.0)
    assert tracker.states[0].observation.workflow is not None
    tracker.handle(Changed(Kind.WORKFLOW, workflow("odd", uid="w0")), 2.0)
    assert [item["metadata"]["name"] for item in skipped_objects] == ["odd", "odd"]


def test_fresh_read_with_parse_error_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(item: Object) -> Any:
        raise RuntimeError(item)

    tracker = reconciler.Reconciler(lambda _: False, 0.0, epoch="me")
    tracker.handle(Admitted("job-site", "a1", StartTimeouts(), 3), 0.0)
    tracker.handle(Listed(Kind.POD, ()), 0.0)
    tracker.handle(Listed(Kind.WORKFLOW, (workflow(phase="Running"),)), 0.0)
    tracker.handle(JobInput("job-site", "a1", Submitted()), 0.0)
    tracker.handle(Changed(Kind.WORKFLOW, workflow(version=2), deleted=True), 1.0)
    (command,) = (
        command for command in tracker.handle(TimePassed(), 20.0).commands if command.action.kind is ActionKind.CONFIRM
    )
    monkeypatch.setattr(reconciler, "pod_view", fail)
    result = tracker.handle(ObjectsRead(command, None, (pod(),)), 21.0)
    assert [state.verdict for state in result.states] == [None]
    monkeypatch.undo()
    later = tracker.handle(TimePassed(), 40.0)
    (command,) = (command for command in later.commands if command.action.kind is ActionKind.CONFIRM)
    result = tracker.handle(ObjectsRead(command, None, ()), 41.0)
    assert [state.verdict is None for state in result.states] == [False]


def test_every_list_is_parsed_object_by_object() -> None:
    import flargo

    modules = [each.name for each in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in modules if "embedded" not in name}
    assert [name for name, source in sources.items() if re.search(r"map\(\w+_view\b", source)] == []
