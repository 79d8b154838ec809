"""A launcher's metrics for Prometheus, served over HTTP. Only this module imports ``prometheus_client``, an extra.

Every launcher with metrics enabled has its own registry and server. Label values are flargo's own names and HTTP status
codes, never those of a job, a site or a person, so that the number of time series is bounded.
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
from flargo.control.meter import Delivery, Snapshot, take_snapshot
from flargo.job.validate import Endpoint
from flargo.status.diagnosis import Stage
from flargo.status.job_state import DISRUPTIONS
from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from flargo.status.verdict import Verdict

_WAIT_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Seconds. FLARE gives up on a client's launch after 20 s, and on a server's process 60 s after its clients' start."""
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
"""Seconds, up to the timeout of a request."""
_log = logging.getLogger(__name__)


class Type(StrEnum):
    """The types of Prometheus metrics that flargo exports."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Row(NamedTuple):
    """A metric's row in the table of metrics."""

    name: str
    type: Type
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    """A histogram's upper bounds, in seconds."""


class Metric(Enum):
    """All metrics of a launcher. The names are stable: dashboards and alerts rely on them."""

    JOBS = Row("flargo_jobs", Type.GAUGE, ("stage",), "Launched jobs that are not cleaned up yet, by stage.")
    VERDICTS = Row(
        "flargo_ends_total",
        Type.COUNTER,
        ("reason", "code"),
        "Verdicts on jobs, refused launches included, by reason and return code.",
    )
    LOST_ATTEMPTS = Row(
        "flargo_lost_attempts_total",
        Type.COUNTER,
        ("reason",),
        "Attempts of clients' jobs that the cluster lost and after which another one was due, by reason.",
    )
    NOTIFICATIONS = Row(
        "flargo_notifications_total",
        Type.COUNTER,
        ("result",),
        "Notifications of outcomes (`argo.notify`): delivered, failed (given up) or dropped (not tried, because"
        " too many waited).",
    )
    LAUNCH_SECONDS = Row(
        "flargo_launch_seconds",
        Type.HISTOGRAM,
        (),
        "Duration of FLARE's calls of launch_job; a server's call lasts until its job runs.",
        (0.01, 0.1, *_WAIT_BUCKETS),
    )
    START_SECONDS = Row(
        "flargo_start_seconds",
        Type.HISTOGRAM,
        (),
        "Time from a Workflow's release until its job was seen running; nothing for jobs that never ran.",
        _WAIT_BUCKETS,
    )
    REQUESTS = Row(
        "flargo_api_requests_total",
        Type.COUNTER,
        ("verb", "resource", "code"),
        "Requests to the Kubernetes API, by HTTP status; 0 without a response.",
    )
    REQUEST_SECONDS = Row(
        "flargo_api_request_seconds",
        Type.HISTOGRAM,
        ("verb", "resource"),
        "Time until the response to a request began, or the request failed.",
        _REQUEST_BUCKETS,
    )
    LONGEST_WAIT = Row(
        "flargo_longest_wait_seconds",
        Type.GAUGE,
        (),
        "Time since its launch of the job that has waited longest to run; 0 if no job waits.",
    )
    WATCH_STALENESS = Row(
        "flargo_watch_staleness_seconds",
        Type.GAUGE,
        ("resource",),
        "Time since a watch's last event or contact. At an idle site it grows to 45 s, when the watch is renewed.",
    )
    WATCH_RESTARTS = Row(
        "flargo_watch_restarts_total",
        Type.COUNTER,
        ("resource",),
        "Watches that broke and had to restart with a list.",
    )
    KILLS = Row(
        "flargo_kills_outstanding",
        Type.GAUGE,
        (),
        "Jobs with a deleted pod whose program has not been seen to end.",
    )
    ORPHANS = Row(
        "flargo_orphans",
        Type.GAUGE,
        (),
        "Workflows of the site that are being ended because no launch of this parent follows them.",
    )
    QUEUED_INPUTS = Row("flargo_facts_waiting", Type.GAUGE, (), "Inputs of the reconciler that wait in its queue.")


class Exporter:
    """The Meter (flargo.control.meter) of one launcher, and the server of its metrics."""

    def __init__(self) -> None:
        """Create all metrics, without serving them yet."""
        self.registry = CollectorRegistry()
        self._verdicts, self._lost_attempts, self._requests, self._watch_restarts, self._notifications = (
            _counter(metric, self.registry)
            for metric in (
                Metric.VERDICTS,
                Metric.LOST_ATTEMPTS,
                Metric.REQUESTS,
                Metric.WATCH_RESTARTS,
                Metric.NOTIFICATIONS,
            )
        )
        self._launch_seconds, self._start_seconds, self._request_seconds = (
            _histogram(metric, self.registry)
            for metric in (Metric.LAUNCH_SECONDS, Metric.START_SECONDS, Metric.REQUEST_SECONDS)
        )
        self._gauges = _Gauges()
        self.registry.register(self._gauges)
        self._server: metrics_server.MetricsServer | None = None
        # Create each time series with 0: Prometheus does not count an increase from a missing series to 1.
        for reason in Reason:
            for code in FLARE_EXIT_CODES if reason.code is None else (reason.code,):
                self._verdicts.labels(reason.name, str(int(code)))
        for reason in DISRUPTIONS:
            self._lost_attempts.labels(reason.name)
        for kind in (Kind.WORKFLOW, Kind.POD):
            self._watch_restarts.labels(_resource(kind))
        for result in Delivery:
            self._notifications.labels(result)

    def follow(self, source: Callable[[], Snapshot]) -> None:
        """Set the source of the gauges, which is called for every scrape."""
        self._gauges.source = source

    # --- flargo.control.meter.Meter

    def observe_request(self, verb: str, kind: Kind, code: int, seconds: float) -> None:
        """Record an API request: its HTTP status (0 without a response) and its duration."""
        self._requests.labels(verb, _resource(kind), str(code)).inc()
        self._request_seconds.labels(verb, _resource(kind)).observe(seconds)

    def observe_launch(self, seconds: float) -> None:
        """Record the duration of a call of launch_job."""
        self._launch_seconds.observe(seconds)

    def observe_start(self, seconds: float) -> None:
        """Record the time from a Workflow's release until its job was seen running."""
        self._start_seconds.observe(seconds)

    def count_verdict(self, verdict: Verdict) -> None:
        """Count a verdict that FLARE was told."""
        self._verdicts.labels(verdict.reason.name, str(int(verdict.code))).inc()

    def count_lost_attempt(self, verdict: Verdict) -> None:
        """Count an attempt of a job that was lost and after which another one is due."""
        self._lost_attempts.labels(verdict.reason.name).inc()

    def count_watch_restart(self, kind: Kind) -> None:
        """Count a watch that broke and must restart with a list."""
        self._watch_restarts.labels(_resource(kind)).inc()

    def count_notification(self, result: Delivery) -> None:
        """Count what became of the notification of an outcome."""
        self._notifications.labels(result).inc()

    # --- the server

    def serve(self, at: Endpoint) -> None:
        """Serve the metrics at an address, with daemon threads.

        Raises:
            OSError: the address cannot be listened at; its port is in use, for example.
        """
        self._server = metrics_server.start(at.host, at.port, make_wsgi_app(self.registry))
        _log.info("serving metrics at http://%s/metrics", at)

    def close(self) -> None:
        """Stop serving the metrics."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Gauges(Collector):
    """The gauges, which are computed for every scrape."""

    def __init__(self) -> None:
        self.source: Callable[[], Snapshot] = lambda: take_snapshot((), {}, 0, 0.0)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges' names, without samples; called when the collector is registered."""
        return (_gauge(metric) for metric in Metric if metric.value.type is Type.GAUGE)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges with their current samples."""
        numbers = self.source()
        jobs, silence = _gauge(Metric.JOBS), _gauge(Metric.WATCH_STALENESS)
        for stage in Stage:
            jobs.add_metric((stage.label,), numbers.jobs_by_stage.get(stage, 0))
        for kind, seconds in numbers.watch_silence.items():
            silence.add_metric((_resource(kind),), seconds)
        yield jobs
        yield silence
        for metric, count in (
            (Metric.KILLS, numbers.kills_outstanding),
            (Metric.ORPHANS, numbers.orphans),
            (Metric.QUEUED_INPUTS, numbers.queued_inputs),
            (Metric.LONGEST_WAIT, numbers.longest_wait),
        ):
            family = _gauge(metric)
            family.add_metric((), count)
            yield family


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    row = metric.value
    return Counter(row.name, row.help, row.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    row = metric.value
    return Histogram(row.name, row.help, row.labels, registry=registry, buckets=row.buckets)


def _gauge(metric: Metric) -> GaugeMetricFamily:
    row = metric.value
    return GaugeMetricFamily(row.name, row.help, labels=row.labels)


def _resource(kind: Kind) -> str:
    return kind.value[1]
