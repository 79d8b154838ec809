"""What is kept of an object that is listed is all that a view is made of."""

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
from flargo.control.parse_error_log import ParseErrorLog
from flargo.job.plan import build_plan
from flargo.status.fields import parse_each
from flargo.status.job_state import ActionKind
from flargo.status.views import event_view, pod_view, strip_unused_fields, workflow_view
from flargo.terms import Object, StartTimeouts
from flargo.tools.jobs.site_job import site_jobs, trim
from tests.harness.differential.argo import pod_from_workflow
from tests.harness.differential.cases import samples
from tests.harness.objects import pod, workflow
from tests.harness.paths import RECORDED_SCENARIOS

VIEWS: dict[str, Callable[[Object], Any]] = {"WORKFLOW": workflow_view, "POD": pod_view}


def test_a_trimmed_object_looks_as_the_whole_one_does() -> None:
    seen = 0
    for file in RECORDED_SCENARIOS:
        for line in map(json.loads, file.read_text().splitlines()):
            for item in line.get("objects", ()):
                if line.get("kind") in VIEWS:
                    view = VIEWS[line["kind"]]
                    assert view(strip_unused_fields(item)) == view(item)
                    assert view(strip_unused_fields(item)).version == view(item).version
                    seen += 1
    assert seen > 500


def test_most_of_a_pod_is_not_kept() -> None:
    for _, settings, launch in samples():
        pod = pod_from_workflow(build_plan(launch, settings).workflow)
        assert pod_view(strip_unused_fields(pod)) == pod_view(pod)
        assert len(json.dumps(strip_unused_fields(pod)["spec"])) < len(json.dumps(pod["spec"])) / 2


@pytest.mark.parametrize("odd", [{}, {"metadata": 3, "spec": [], "status": "?"}, {"spec": {"containers": {"a": 1}}}])
def test_an_odd_object_is_trimmed_like_any_other(odd: Object) -> None:
    assert pod_view(strip_unused_fields(odd)) == pod_view(odd)
    assert workflow_view(strip_unused_fields(odd)) == workflow_view(odd)


# --- what somebody else wrote


_leaves = st.one_of(
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
_odd = st.recursive(
    _leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6)),
    max_leaves=30,
)
_objects = st.dictionaries(st.sampled_from(_KEYS), _odd, max_size=6)


@given(_objects)
def test_a_view_is_made_of_any_object(item: Object) -> None:
    assert workflow_view(item) == workflow_view(strip_unused_fields(item))
    assert pod_view(item) == pod_view(strip_unused_fields(item))
    assert event_view(item).span is not None
    assert site_jobs([trim(item)], [trim(item)])[0].as_dict() is not None


@given(st.lists(_objects, max_size=4), _objects)
def test_one_object_of_a_list_takes_no_other_with_it(others: list[Object], odd: Object) -> None:
    def parse(item: Object) -> Object:
        if item is odd:
            raise RuntimeError("t0psecret")
        return item

    reported: list[tuple[Object, Exception]] = []
    parsed = [*parse_each([odd, *others, odd], parse, lambda *report: reported.append(report))]
    assert parsed == others
    assert [item for item, _ in reported] == [odd, odd]


def test_an_object_that_cannot_be_parsed_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    log = ParseErrorLog()
    for _ in range(3):
        log({"metadata": {"name": "job-site", "uid": "u1"}}, RuntimeError("t0psecret"))
        log({"metadata": {"name": "\x1b]52;c;x\x07", "uid": "u2"}}, RuntimeError("t0psecret"))
    assert [record.getMessage() for record in caplog.records] == [
        "job-site: object could not be parsed and is skipped: RuntimeError",
        "(without a valid name): object could not be parsed and is skipped: RuntimeError",
    ]


def test_an_engine_follows_the_others_beside_an_object_that_cannot_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(item: Object) -> Any:
        if item["metadata"]["name"] == "odd":
            raise RuntimeError
        return workflow_view(item)

    monkeypatch.setattr(reconciler, "workflow_view", broken)
    skipped: list[Object] = []
    follows = reconciler.Reconciler(
        lambda _: False, 0.0, epoch="me", on_parse_error=lambda item, _: skipped.append(item)
    )
    follows.admit("job-site", "a1", StartTimeouts(), 3, 0.0)
    follows.on_listed(Kind.POD, [], 0.0)
    follows.on_listed(Kind.WORKFLOW, [workflow("odd", uid="w0"), workflow(phase="Running")], 1.0)
    assert follows.states[0].observation.workflow is not None
    follows.on_changed(Kind.WORKFLOW, workflow("odd", uid="w0"), 2.0, deleted=False)
    assert [item["metadata"]["name"] for item in skipped] == ["odd", "odd"]


def test_nothing_is_concluded_from_a_fresh_read_with_a_pod_that_cannot_be_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(item: Object) -> Any:
        raise RuntimeError(item)

    follows = reconciler.Reconciler(lambda _: False, 0.0, epoch="me")
    follows.admit("job-site", "a1", StartTimeouts(), 3, 0.0)
    follows.on_listed(Kind.POD, [], 0.0)
    follows.on_listed(Kind.WORKFLOW, [workflow(phase="Running")], 0.0)
    follows.on_submitted("job-site", "", 0.0)
    follows.on_changed(Kind.WORKFLOW, workflow(version=2), 1.0, deleted=True)
    (order,) = (order for order in follows.tick(20.0).commands if order.action.kind is ActionKind.CONFIRM)
    monkeypatch.setattr(reconciler, "pod_view", broken)
    told = follows.on_confirmed(order, None, [pod()], 21.0)
    assert [life.verdict for life in told.states] == [None]
    monkeypatch.undo()
    again = follows.tick(40.0)
    (order,) = (order for order in again.commands if order.action.kind is ActionKind.CONFIRM)
    told = follows.on_confirmed(order, None, [], 41.0)
    assert [life.verdict is None for life in told.states] == [False]


def test_no_list_is_parsed_without_isolating_its_objects() -> None:
    import flargo

    modules = [each.name for each in pkgutil.walk_packages(flargo.__path__, "flargo.")]
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in modules if "embedded" not in name}
    assert [name for name, source in sources.items() if re.search(r"map\(\w+_view\b", source)] == []
