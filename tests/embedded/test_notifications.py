"""Notifications of real launches: a receiver gets each verdict once, and FLARE never waits for it."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from flargo.flare.notifier import FLUSH_SECONDS
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.paths import ROOT
from tests.harness.prometheus import Prometheus
from tests.harness.site import SLEEPS, START_SECONDS, Site, exits
from tests.harness.webhook import Webhook

TOKEN = "t0ken-of-the-receiver"


class SilentWebhook(Webhook):
    """A receiver that takes outcomes and does not answer before the test ends."""

    def __init__(self) -> None:
        self.has_ended = threading.Event()
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.has_ended.wait(START_SECONDS)
        super().answer(handler)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as webhook:
        yield webhook


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


def test_each_verdict_is_posted_once(cluster: EmbeddedCluster, webhook: Webhook, token_file: Path) -> None:
    prometheus = Prometheus()
    argo = {
        "notify": {"url": webhook.url, "token_file": str(token_file)},
        "metrics_address": prometheus.address,
    }
    with Site(cluster, argo=argo) as site:
        good, bad, running = site.launch(exits(0)), site.launch(exits(3)), site.launch(SLEEPS)
        refused = site.launch(exits(0), {"memory": "much"})
        good.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        bad.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
        refused.expect_end(Reason.LAUNCH_FAILED, 101, START_SECONDS)
        running.expect_running().abort()
        running.expect_end(Reason.ABORTED, 9, START_SECONDS)
        webhook.wait_for_posts(4)
        prometheus.wait_for_value(4, "flargo_notifications_total", result="delivered")
    assert len(webhook.posts) == 4, "the parent's end adds none"
    assert {each.headers["Authorization"] for each in webhook.posts} == {f"Bearer {TOKEN}"}
    outcomes = {each.content["job_id"]: each.content for each in webhook.posts}
    reasons = {job.id: outcomes[job.id]["reason"] for job in (good, bad, refused, running)}
    assert list(reasons.values()) == ["SUCCEEDED", "PROGRAM_FAILED", "LAUNCH_FAILED", "ABORTED"]
    failure = outcomes[bad.id]
    assert (failure["site"], failure["workflow"], failure["code"], failure["exit_code"]) == ("site-1", bad.name, 1, 3)
    assert failure["id"].startswith(f"{bad.id}/site-1/")
    assert len({each["id"] for each in outcomes.values()}) == 4


def test_a_servers_outcome_is_that_of_its_file(cluster: EmbeddedCluster, webhook: Webhook) -> None:
    with Site(cluster, role=Role.SERVER, argo={"notify": {"url": webhook.url}}) as site:
        site.launch(exits(3)).expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
        (post,) = webhook.wait_for_posts(1)
    assert (post.content["site"], post.content["reason"]) == ("server", "PROGRAM_FAILED")
    assert "Authorization" not in post.headers


def test_a_silent_receiver_delays_no_verdict(cluster: EmbeddedCluster) -> None:
    with SilentWebhook() as webhook:
        site = Site(cluster, argo={"notify": {"url": webhook.url}})
        for _ in range(3):
            site.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        webhook.wait_for_posts(1)
        began_at = time.monotonic()
        site.shut_down()
        assert time.monotonic() - began_at < FLUSH_SECONDS + 5, "a parent ends although nobody answers"
        assert len(webhook.posts) == 1, "one thread sends outcomes"
        webhook.has_ended.set()
        site.close()


def test_verdicts_of_a_parents_end_are_posted(cluster: EmbeddedCluster, webhook: Webhook) -> None:
    with Site(cluster, argo={"notify": {"url": webhook.url}}) as site:
        site.launch(SLEEPS).expect_running()
        site.shut_down()
        assert [post.content["reason"] for post in webhook.posts] == ["PARENT_ENDED"]


def test_exit_handler_tells_how_the_job_ended(cluster: EmbeddedCluster, webhook: Webhook) -> None:
    """The example for Argo's administrators, with the job's own Python, and values in place of Argo's variables."""
    settings = yaml.safe_load((ROOT / "workflows/examples/exit-handler.yaml").read_text())["data"]
    defaults = yaml.safe_load(settings["workflowDefaults"])
    (template,) = defaults["spec"]["templates"]
    template["podSpecPatch"] = json.dumps(yaml.safe_load(template["podSpecPatch"]))
    handler = template["container"]
    handler["image"], handler["command"][0] = cluster.target.job_image, sys.executable
    labels = json.dumps({"flargo.dev/job-id": "job-1", "flargo.dev/site": "site-1"})
    for name, value in (("WORKFLOW", "wf"), ("STATUS", "Failed"), ("LABELS", labels)):
        (variable,) = (each for each in handler["env"] if each["name"] == name)
        assert variable["value"].startswith("{{workflow.")
        variable["value"] = value
    secret = {"metadata": {"name": "flargo-notify-slack"}, "stringData": {"url": f"{webhook.url}\n"}}
    cluster.create({"apiVersion": "v1", "kind": "Secret", **secret})
    with cluster.configure_argo(workflowDefaults=yaml.safe_dump(defaults)), Site(cluster) as site:
        job = site.launch(exits(3))
        job.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
        (post,) = webhook.wait_for_posts(1)
    assert post.content == {"text": "job-1 at site-1: Failed (Workflow wf)"}
