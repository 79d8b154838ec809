"""What is kept of an object that is listed is all that a view is made of."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from flargo.job.plan import plan
from flargo.status.views import pod_view, trimmed, workflow_view
from flargo.terms import Object
from tests.unit.differential.argo import pod_of
from tests.unit.differential.cases import samples
from tests.unit.test_recordings import RECORDINGS

VIEWS: dict[str, Callable[[Object], Any]] = {"WORKFLOW": workflow_view, "POD": pod_view}


def test_a_trimmed_object_looks_as_the_whole_one_does() -> None:
    seen = 0
    for file in RECORDINGS:
        for line in map(json.loads, file.read_text().splitlines()):
            for item in line.get("objects", ()):
                if line.get("kind") in VIEWS:
                    view = VIEWS[line["kind"]]
                    assert view(trimmed(item)) == view(item)
                    assert view(trimmed(item)).version == view(item).version
                    seen += 1
    assert seen > 500


def test_most_of_a_pod_is_not_kept() -> None:
    for _, settings, launch in samples():
        pod = pod_of(plan(launch, settings).workflow)
        assert pod_view(trimmed(pod)) == pod_view(pod)
        assert len(json.dumps(trimmed(pod)["spec"])) < len(json.dumps(pod["spec"])) / 2


@pytest.mark.parametrize("odd", [{}, {"metadata": 3, "spec": [], "status": "?"}, {"spec": {"containers": {"a": 1}}}])
def test_an_odd_object_is_trimmed_like_any_other(odd: Object) -> None:
    assert pod_view(trimmed(odd)) == pod_view(odd)
    assert workflow_view(trimmed(odd)) == workflow_view(odd)
