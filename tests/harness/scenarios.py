"""Scenarios that get into nobody's way, run beside one another; each is a test of its own all the same.

Most of a scenario's time is waiting for a pod. A module collects its scenarios with :class:`Scenarios`, names them as
the parameters of one test, and has them run, as many at a time as the machine takes, by a fixture::

    scenario = Scenarios()

    @scenario
    def drained_while_it_runs(site: Site, cluster: Cluster) -> None: ...

    @pytest.mark.parametrize("name", scenario.names)
    def test_scenario(together: Together, name: str) -> None:
        together.result(name)

A scenario names what it needs. ``site`` is shared, unless ``wire`` is wanted too: then both are its own.
"""

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import pytest

from tests.harness import recorder
from tests.harness.cluster import Cluster
from tests.harness.site import Site
from tests.harness.wire import Wire

Scenario = Callable[..., None]


class Scenarios:
    """Those of one module, by name."""

    def __init__(self) -> None:
        self.all: dict[str, Callable[..., None]] = {}
        self._variants: dict[str, Mapping[str, Any]] = {}

    def __call__(self, scenario: Scenario) -> Scenario:
        """Take one; a decorator."""
        self.all[_words(scenario)] = scenario
        return scenario

    def variants(self, **variants: Mapping[str, Any]) -> Callable[[Scenario], Scenario]:
        """Take one in several variants, each with arguments of its own; a decorator."""

        def take(scenario: Scenario) -> Scenario:
            for variant, arguments in variants.items():
                name = f"{_words(scenario)}, {variant.replace('_', ' ')}"
                self.all[name] = scenario
                self._variants[name] = arguments
            return scenario

        return take

    @property
    def names(self) -> list[str]:
        """All names, in their order."""
        return list(self.all)

    def run(self, name: str, cluster: Cluster, shared: Mapping[str, Any]) -> None:
        """Run one, with what it needs."""
        recorder.SCENARIO.set(name)
        scenario = self.all[name]
        wanted = inspect.signature(scenario).parameters
        with ExitStack() as stack:
            given: dict[str, Any] = {"cluster": cluster, **shared, **self._variants.get(name, {})}
            if "wire" in wanted:
                given["wire"] = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
                given["site"] = stack.enter_context(Site(cluster, wire=given["wire"]))
            scenario(**{key: given[key] for key in wanted})


class Together:
    """A module's scenarios, running. Use it in a ``with``."""

    def __init__(self, scenarios: Scenarios, request: pytest.FixtureRequest, cluster: Cluster, **shared: Any) -> None:
        """Start those that were selected, the first ones first."""
        items = [item for item in request.session.items if item.path == request.path]
        chosen = {item.callspec.params.get("name") for item in items if hasattr(item, "callspec")}
        self._threads = ThreadPoolExecutor(cluster.max_parallel_jobs, thread_name_prefix="scenario")
        self._running: dict[str, Future[None]] = {
            name: self._threads.submit(scenarios.run, name, cluster, shared)
            for name in scenarios.names
            if name in chosen
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def result(self, name: str) -> None:
        """Wait for one; its failure is the caller's."""
        self._running[name].result()


def _words(scenario: Scenario) -> str:
    return scenario.__name__.replace("_", " ")
