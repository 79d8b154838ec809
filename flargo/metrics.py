"""A parent's metrics for Prometheus, served over HTTP. The only file that knows ``prometheus_client``, an extra.

Every launcher that is told to has a registry and a server of its own. Labels are flargo's own words and HTTP's
codes: never a job's, a site's or a person's, of which there may be any number.
"""

import logging
from collections.abc import Callable, Iterator
from enum import Enum, StrEnum
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flargo import metrics_server
from flargo.cluster.api import Kind
from flargo.control.meter import Snapshot, take_snapshot
from flargo.job.validate import Endpoint
from flargo.status.diagnosis import Stage
from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from flargo.status.verdict import Verdict

_WAITS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds. FLARE gives up on a client's launch after 20, and on a server's process 60 after its clients' start."""
_REQUESTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
"""Seconds, up to the time-out of a request."""
_log = logging.getLogger(__name__)


class Type(StrEnum):
    """Prometheus' types, as far as they are used here."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Row(NamedTuple):
    """A metric's row of the table."""

    name: str
    type: Type
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, in seconds."""


class Metric(Enum):
    """All that there are; the stable names of flargo's contract with dashboards and alerts."""

    JOBS = Row("flargo_jobs", Type.GAUGE, ("stage",), "Launched jobs that are followed, by how far they are.")
    ENDS = Row(
        "flargo_ends_total",
        Type.COUNTER,
        ("reason", "code"),
        "Ends of jobs that FLARE was told, refused launches among them: the reason, and the return code.",
    )
    LAUNCHES = Row(
        "flargo_launch_seconds",
        Type.HISTOGRAM,
        (),
        "What FLARE's call of launch_job took; a server's lasts until its job runs.",
        (0.01, 0.1, *_WAITS),
    )
    STARTS = Row(
        "flargo_start_seconds",
        Type.HISTOGRAM,
        (),
        "From a Workflow's release until its job was seen running; of a job that never was, nothing.",
        _WAITS,
    )
    REQUESTS = Row(
        "flargo_api_requests_total",
        Type.COUNTER,
        ("verb", "resource", "code"),
        "Requests to the Kubernetes API, by HTTP status; 0: there was no answer.",
    )
    ANSWERS = Row(
        "flargo_api_request_seconds",
        Type.HISTOGRAM,
        ("verb", "resource"),
        "Until the answer to a request began, or was given up.",
        _REQUESTS,
    )
    SILENCE = Row(
        "flargo_watch_staleness_seconds",
        Type.GAUGE,
        ("resource",),
        "Since a watch was heard for the last time. Of a quiet site it goes up to 45, where the stream is renewed.",
    )
    BREAKS = Row(
        "flargo_watch_restarts_total",
        Type.COUNTER,
        ("resource",),
        "Times that a watch broke off and had to begin anew with a list.",
    )
    KILLS = Row(
        "flargo_kills_outstanding",
        Type.GAUGE,
        (),
        "Jobs of which a pod was killed whose program has not been seen to end.",
    )
    ORPHANS = Row(
        "flargo_orphans", Type.GAUGE, (), "Workflows that an earlier run of the parent left and that are being ended."
    )
    FACTS = Row("flargo_facts_waiting", Type.GAUGE, (), "What was heard of jobs and has not been dealt with yet.")


class Exporter:
    """Measures one launcher (see flargo.control.meter.Meter) and answers Prometheus."""

    def __init__(self) -> None:
        """Measure; nothing is served yet."""
        self.registry = CollectorRegistry()
        self._ends, self._requests, self._breaks = (
            _counter(metric, self.registry) for metric in (Metric.ENDS, Metric.REQUESTS, Metric.BREAKS)
        )
        self._launches, self._starts, self._answers = (
            _histogram(metric, self.registry) for metric in (Metric.LAUNCHES, Metric.STARTS, Metric.ANSWERS)
        )
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        self._server: metrics_server.MetricsServer | None = None
        # Prometheus takes no notice of a counter's step from not being there to 1.
        for reason in Reason:
            for code in FLARE_EXIT_CODES if reason.code is None else (reason.code,):
                self._ends.labels(reason.name, str(int(code)))
        for kind in (Kind.WORKFLOW, Kind.POD):
            self._breaks.labels(_resource(kind))

    def follow(self, source: Callable[[], Snapshot]) -> None:
        """Ask this from now on for what goes on, whenever Prometheus wants to know."""
        self._gauges.source = source

    # --- facts: see Meter

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """See Meter."""
        self._requests.labels(verb, _resource(kind), str(code)).inc()
        self._answers.labels(verb, _resource(kind)).observe(seconds)

    def observe_launch(self, seconds: float) -> None:
        """See Meter."""
        self._launches.observe(seconds)

    def observe_start(self, seconds: float) -> None:
        """See Meter."""
        self._starts.observe(seconds)

    def count_verdict(self, verdict: Verdict) -> None:
        """See Meter."""
        self._ends.labels(verdict.reason.name, str(int(verdict.code))).inc()

    def count_watch_restart(self, kind: Kind) -> None:
        """See Meter."""
        self._breaks.labels(_resource(kind)).inc()

    # --- the server

    def serve(self, at: Endpoint) -> None:
        """Listen, with daemon threads.

        Raises:
            OSError: it is not to be listened at; somebody else does, for one.
        """
        self._server = metrics_server.start(at.host, at.port, make_wsgi_app(self.registry))
        _log.info("metrics are served at http://%s/metrics", at)

    def close(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Gauges(Collector):
    """What is counted when Prometheus asks."""

    def __init__(self) -> None:
        self.source: Callable[[], Snapshot] = lambda: take_snapshot((), {}, 0)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Their names; called once, when there is nothing to count."""
        return (_gauge(metric) for metric in Metric if metric.value.type is Type.GAUGE)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Their values."""
        seen = self.source()
        jobs, silence = _gauge(Metric.JOBS), _gauge(Metric.SILENCE)
        for stage in Stage:
            jobs.add_metric((stage.label,), seen.jobs_by_stage.get(stage, 0))
        for kind, seconds in seen.watch_silence.items():
            silence.add_metric((_resource(kind),), seconds)
        yield jobs
        yield silence
        for metric, count in (
            (Metric.KILLS, seen.kills_outstanding),
            (Metric.ORPHANS, seen.orphans),
            (Metric.FACTS, seen.queued_inputs),
        ):
            family = _gauge(metric)
            family.add_metric((), count)
            yield family


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    row = metric.value
    return Counter(row.name, row.meaning, row.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    row = metric.value
    return Histogram(row.name, row.meaning, row.labels, registry=registry, buckets=row.buckets)


def _gauge(metric: Metric) -> GaugeMetricFamily:
    row = metric.value
    return GaugeMetricFamily(row.name, row.meaning, labels=row.labels)


def _resource(kind: Kind) -> str:
    return kind.value[1]
