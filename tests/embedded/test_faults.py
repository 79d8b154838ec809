"""The fault matrix of the real cluster on the embedded engine: programs, people, Kubernetes and Argo."""

from collections.abc import Iterator

import pytest

from flargo.embedded import Delays, Embedded, Settings
from tests.harness.faults.matrix import (
    site,
    started,
    test_end,
    test_quota_exceeded_and_lifted,
    test_quota_exceeded_for_too_long,
    test_quota_on_workflows,
    test_scenario,
    together,
)

__all__ = [
    "site",
    "started",
    "test_end",
    "test_quota_exceeded_and_lifted",
    "test_quota_exceeded_for_too_long",
    "test_quota_on_workflows",
    "test_scenario",
    "together",
]


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    # Starting takes a second, so that what happens before it can be seen. A pod goes as slowly as a real one:
    # else, on a machine that has much to do, another one is made before flargo has seen that it goes.
    settings = Settings(delays=Delays(init=0.3, remove=2.0), missing_images=frozenset({"flargo.test/job:not-there"}))
    with Embedded(settings, namespace="flare") as running:
        yield running
