"""Whoever scrapes a launcher's metrics."""

import socket
import urllib.request
from collections import Counter
from contextlib import closing

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.cluster import eventually

SCRAPE_SECONDS = 10.0


class Prometheus:
    """Whoever scrapes one launcher."""

    def __init__(self) -> None:
        """Find a place where the launcher may serve."""
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def families(self) -> dict[str, Metric]:
        """All that is served, by name."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, sample: str, **labels: str) -> float:
        """The sum of what has these labels, others or not."""
        found = [each for family in self.families().values() for each in family.samples if each.name == sample]
        return sum(each.value for each in found if labels.items() <= each.labels.items())

    def wait_for_value(self, value: float, sample: str, **labels: str) -> None:
        """Wait until the sum is this."""
        eventually(lambda: self.value(sample, **labels) == value, SCRAPE_SECONDS, f"{sample} {labels} is {value}")

    def requests(self) -> Counter[tuple[str, str]]:
        """Requests by verb and resource, as the launcher tells."""
        totals: Counter[tuple[str, str]] = Counter()
        for each in self.families()["flargo_api_requests"].samples:
            if each.name.endswith("_total"):
                totals[each.labels["verb"], each.labels["resource"]] += int(each.value)
        return totals
