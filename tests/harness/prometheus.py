"""A client that scrapes a launcher's metrics, as Prometheus does."""

import socket
import urllib.request
from collections import Counter
from contextlib import closing

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.cluster import eventually

SCRAPE_SECONDS = 10.0
"""The limit within which a metric follows what it measures."""


class Prometheus:
    """Scrapes the metrics of one launcher."""

    def __init__(self) -> None:
        """Choose a free address for the launcher's ``metrics_address``."""
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def families(self) -> dict[str, Metric]:
        """Scrape once, and return the metric families by name."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, sample: str, **labels: str) -> float:
        """Scrape, and return the sum of a sample over all rows that have these labels, whatever others they have."""
        samples = [each for family in self.families().values() for each in family.samples if each.name == sample]
        return sum(each.value for each in samples if labels.items() <= each.labels.items())

    def wait_for_value(self, value: float, sample: str, **labels: str) -> None:
        """Wait until a sample's sum is a value."""
        eventually(lambda: self.value(sample, **labels) == value, SCRAPE_SECONDS, f"{sample} {labels} is {value}")

    def requests(self) -> Counter[tuple[str, str]]:
        """Return the launcher's counts of its API requests by verb and resource."""
        totals: Counter[tuple[str, str]] = Counter()
        for each in self.families()["flargo_api_requests"].samples:
            if each.name.endswith("_total"):
                totals[each.labels["verb"], each.labels["resource"]] += int(each.value)
        return totals
