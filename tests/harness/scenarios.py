"""Runs a module's independent scenarios side by side, each as a test of its own.

Most of a scenario's time is waiting for a pod. A module collects its scenarios with :class:`Scenarios`, makes their
names the parameters of one test, and has a fixture run as many at a time as the machine can::

    scenario = Scenarios()

    @scenario
    def drained_while_it_runs(site: Site, cluster: Cluster) -> None: ...

    @pytest.mark.parametrize("name", scenario.names)
    def test_scenario(together: Together, name: str) -> None:
        together.result(name)

A scenario's parameters name what it needs. ``site`` is shared by all scenarios, except for a scenario that needs a
``wire``: it gets a wire and a site of its own.
"""

import inspect
import os
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
EVERYTHING = "FLARGO_EVERYTHING"
"""The environment variable that makes tests run extra scenarios, too; ``make everything`` sets it."""


class Scenarios:
    """The scenarios of one module, by name."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., None]] = {}
        self._arguments: dict[str, Mapping[str, Any]] = {}

    def __call__(self, scenario: Scenario) -> Scenario:
        """Add a scenario; a decorator."""
        self._functions[_readable_name(scenario)] = scenario
        return scenario

    def variants(self, **variants: Mapping[str, Any]) -> Callable[[Scenario], Scenario]:
        """Add a scenario in several variants, each with arguments of its own; a decorator."""

        def add(scenario: Scenario) -> Scenario:
            for variant, arguments in variants.items():
                name = f"{_readable_name(scenario)}, {variant.replace('_', ' ')}"
                self._functions[name] = scenario
                self._arguments[name] = arguments
            return scenario

        return add

    def in_everything(self, scenario: Scenario) -> Scenario:
        """Add a scenario to ``make everything`` only; a decorator.

        It differs from another scenario in a detail, and takes too long for every run.
        """
        return self(scenario) if os.environ.get(EVERYTHING) else scenario

    @property
    def names(self) -> list[str]:
        """The scenarios' names, in the order of their definition."""
        return list(self._functions)

    def run(self, name: str, cluster: Cluster, shared: Mapping[str, Any]) -> None:
        """Run a scenario, with the values that its parameters name."""
        recorder.SCENARIO.set(name)
        scenario = self._functions[name]
        parameters = inspect.signature(scenario).parameters
        with ExitStack() as stack:
            values: dict[str, Any] = {"cluster": cluster, **shared, **self._arguments.get(name, {})}
            if "wire" in parameters:
                values["wire"] = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
                values["site"] = stack.enter_context(Site(cluster, wire=values["wire"]))
            scenario(**{key: values[key] for key in parameters})


class Together:
    """A module's scenarios while they run, until the end of its ``with``."""

    def __init__(
        self,
        scenarios: Scenarios,
        request: pytest.FixtureRequest,
        cluster: Cluster,
        *,
        threads: int | None = None,
        **shared: Any,
    ) -> None:
        """Start the scenarios whose tests pytest has selected, in their order.

        Args:
            scenarios: the module's scenarios.
            request: the request of the fixture.
            cluster: where they run.
            threads: how many run at a time; None: as many as the machine can run jobs.
            shared: the values of their parameters.
        """
        items = [item for item in request.session.items if item.path == request.path]
        selected = {item.callspec.params.get("name") for item in items if hasattr(item, "callspec")}
        self._threads = ThreadPoolExecutor(threads or cluster.max_parallel_jobs, thread_name_prefix="scenario")
        self._running: dict[str, Future[None]] = {
            name: self._threads.submit(scenarios.run, name, cluster, shared)
            for name in scenarios.names
            if name in selected
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def result(self, name: str) -> None:
        """Wait for a scenario, and raise what it raised."""
        self._running[name].result()


def _readable_name(scenario: Scenario) -> str:
    return scenario.__name__.replace("_", " ")
