"""The fault matrix, where requests are refused for a while, or answered by something else than the API server.

Also where credentials hang, and where the API server is never reached or has moved.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import MANAGER, Label, Uid
from tests.harness.cluster import Cluster, eventually
from tests.harness.faults.wire import FOREVER, KILL_SECONDS, NOTICE_SECONDS, STEPS
from tests.harness.foreign_answers import FOREIGN_ANSWERS
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, START_SECONDS, Job, Site, exits, read_token
from tests.harness.wire import Match, Route, Wire

GIVEN_UP_SECONDS = 145.0
"""The limit within which a launch has failed that no request of was ever answered: its two minutes, and a request."""
DENIED_SECONDS = 40.0
"""The limit within which a launch has failed whose credentials are rejected: fifteen seconds, on a busy machine."""
MOVED_SECONDS = 60.0
"""The limit within which a launcher follows an API server that has moved."""
PAGE = b"<html><body>404 Not Found: no route to this service</body></html>"
"""A gateway's answer."""
CONFLICT = json.dumps(
    {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": 409,
        "reason": "Conflict",
        "message": 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified; please apply '
        "your changes to the latest version and try again",
    }
).encode()
"""The quota admission's answer, if the quota's own object has changed at the same time."""
VARIANTS = {step.replace(" ", "_"): {"step": match} for step, match in STEPS.items()}

scenario = Scenarios()


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    with Together(scenario, request, cluster) as running:
        yield running


# --- the API server's own errors


@scenario
def errors_have_their_meanings(cluster: Cluster) -> None:
    """Statuses, reasons and messages are the server's; the table of meanings must know them."""
    api = Api(config_loader(str(cluster.target.launcher_kubeconfig)), cluster.target.namespace)
    with Site(cluster) as site:
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        for request, meaning in _refused_requests(api, site, job):
            with pytest.raises(ApiError) as error:
                request()
            assert error.value.meaning is meaning, error.value
        job.exit_program(0)
        job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        job.expect_nothing_left()


def _refused_requests(api: Api, site: Site, job: Job) -> Iterator[tuple[Callable[[], object], Meaning]]:
    """Yield requests, each with the meaning of the error that it must get."""
    other, missing = Uid(str(uuid.uuid4())), "not-there"
    name = f"nvflare-cred-{other}"
    labels = {Label.MANAGED_BY.value: MANAGER, Label.FEDERATION.value: site.federation}
    meta = {"name": name, "labels": labels}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": meta}
    first_version = api.create(Kind.SECRET, secret)
    noted = {**first_version["metadata"], "annotations": {"flargo.dev/digest": "b"}}
    api.replace(Kind.SECRET, {**first_version, "metadata": noted})
    yield lambda: api.create(Kind.SECRET, secret), Meaning.EXISTS
    yield lambda: api.replace(Kind.SECRET, first_version), Meaning.CONFLICT
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "Not Valid"}, "spec": {}}
    yield lambda: api.create(Kind.WORKFLOW, workflow), Meaning.INVALID

    yield lambda: api.get(Kind.SECRET, missing), Meaning.NOT_FOUND
    yield lambda: api.delete(Kind.WORKFLOW, missing, other), Meaning.NOT_FOUND
    yield lambda: api.merge(Kind.WORKFLOW, missing, {"metadata": {"uid": other}}), Meaning.NOT_FOUND

    pod = job.pod["metadata"]["name"]
    yield lambda: api.merge(Kind.WORKFLOW, job.name, {"metadata": {"uid": other}}), Meaning.PRECONDITION_FAILED
    yield lambda: api.delete(Kind.WORKFLOW, job.name, other), Meaning.PRECONDITION_FAILED
    yield lambda: api.delete(Kind.POD, pod, other), Meaning.PRECONDITION_FAILED
    yield lambda: api.delete(Kind.SECRET, name, other), Meaning.PRECONDITION_FAILED
    replacement = {**secret, "metadata": {**meta, "uid": other}}
    yield lambda: api.replace(Kind.SECRET, replacement), Meaning.PRECONDITION_FAILED


# --- refusals that pass


@scenario.variants(**{name: variant for name, variant in VARIANTS.items() if name != "reading_the_kit"})
def conflict_of_a_quota_at(site: Site, wire: Wire, step: Match) -> None:
    fault = wire.answer_with_body(step, 409, CONFLICT, times=2)
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert fault.hits == 2
    job.expect_nothing_left()


@scenario.variants(**VARIANTS)
def gateways_404_at(site: Site, wire: Wire, step: Match) -> None:
    fault = wire.answer_with_body(step, 404, PAGE, times=3)
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert fault.hits == 3
    job.expect_nothing_left()


@scenario.variants(**VARIANTS)
def rejected_for_a_moment_at(site: Site, wire: Wire, step: Match) -> None:
    fault = wire.answer_with_status(step, 401, times=4)
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert fault.hits == 4
    job.expect_nothing_left()


@scenario
def rejected_for_good(site: Site, wire: Wire) -> None:
    wire.answer_with_status(Match("create", "workflows"), 401, times=FOREVER)
    job = site.launch(SLEEPS)
    job.expect_end(Reason.LAUNCH_FAILED, 101, DENIED_SECONDS)
    job.expect_nothing_left()
    assert job.workflows == []


# --- a gateway answers for the API server


@scenario
def gateways_404_for_everything(site: Site, wire: Wire) -> None:
    """Meanwhile no job counts as gone; the one that ends and the one that is aborted are told afterwards."""
    ending, aborted = (site.launch(EXITS_ON_REQUEST).expect_running() for _ in range(2))
    running = site.launch(EXITS_ON_REQUEST).expect_running()
    ending.exit_program(3, after=2)
    fault = wire.answer_with_body(lambda _: True, 404, PAGE, times=FOREVER)
    wire.cut_watches()
    aborted.abort()
    time.sleep(15)
    jobs = (ending, aborted, running)
    assert [job.launched_job.verdict for job in jobs] == [None] * len(jobs)
    fault.disarm()
    ending.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    aborted.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    running.exit_program(0)
    running.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    for job in jobs:
        job.expect_nothing_left()


OTHERS = ("login page", "empty object", "truncated JSON", "empty body", "captive portal", "firewall")
"""Answers of what is no Kubernetes. tests/unit/test_foreign_answers.py has all of them, for each request alone."""


@scenario.variants(**{name.replace(" ", "_"): {"name": name} for name in OTHERS})
def no_kubernetes_for_fifteen_seconds(site: Site, wire: Wire, name: str) -> None:
    """Something else answers every request: nothing is decided, running jobs go on, and a launch waits."""
    running, ending, aborted = (site.launch(EXITS_ON_REQUEST).expect_running() for _ in range(3))
    ending.exit_program(3, after=2)
    fault = wire.answer_as(FOREIGN_ANSWERS[name], lambda _: True, times=FOREVER)
    wire.cut_watches()
    aborted.abort()
    launched = site.launch(exits(0))
    time.sleep(15)
    jobs = (running, ending, aborted, launched)
    assert [job.launched_job.verdict for job in jobs] == [None] * len(jobs)
    assert fault.hits
    fault.disarm()
    ending.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    aborted.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    launched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    running.expect_stage(Stage.RUNNING).exit_program(0)
    running.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    assert [len(job.pods) for job in (running, launched)] == [1, 1]
    for job in jobs:
        job.expect_nothing_left()


@scenario.variants(login_page={"name": "login page"}, conflict={"name": "conflict"})
def no_kubernetes_at_each_step_of_a_launch(site: Site, wire: Wire, name: str) -> None:
    """No request counts as done because something has answered it."""
    faults = [wire.answer_as(FOREIGN_ANSWERS[name], step, times=2) for step in STEPS.values()]
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS * 2)
    assert [fault.hits for fault in faults] == [2] * len(faults)
    job.expect_nothing_left()
    assert len(job.pods) == 1


@scenario.variants(login_page={"name": "login page"}, empty_object={"name": "empty object"})
def no_kubernetes_at_the_end_of_a_job(site: Site, wire: Wire, name: str) -> None:
    """A deletion that something else has answered is repeated: neither credentials nor a pod stay."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    faults = [
        wire.answer_as(FOREIGN_ANSWERS[name], match, times=2)
        for match in (Match("patch", "workflows"), Match("delete", "pods"), Match("delete", "secrets"))
    ]
    job.abort()
    job.expect_end(Reason.ABORTED, 9, KILL_SECONDS)
    job.expect_nothing_left(within=60)
    assert [fault.hits for fault in faults] == [2] * len(faults)


DELETIONS = {"secrets": Match("delete", "secrets"), "workflows": Match("get", "workflows")}


@scenario.variants(credentials={"match": DELETIONS["secrets"]}, workflow={"match": DELETIONS["workflows"]})
def gateways_404_at_the_end_of(site: Site, wire: Wire, match: Match) -> None:
    """A Secret that a gateway does not know still exists, and so does a Workflow that it can't read."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    fault = wire.answer_with_body(match, 404, PAGE, times=3)
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS * 2)
    job.expect_nothing_left()
    assert fault.hits == 3


# --- the API server is never reached


@scenario
def api_never_reachable(site: Site, wire: Wire) -> None:
    """A launch fails although nothing was ever heard, and an abort ends another one at once."""
    wire.stop_answering()
    failing, aborted = site.launch(SLEEPS), site.launch(SLEEPS)
    time.sleep(3)
    aborted.abort()
    aborted.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    failing.expect_end(Reason.LAUNCH_FAILED, 101, GIVEN_UP_SECONDS)
    wire.resume_answering()
    for job in (failing, aborted):
        job.expect_nothing_left()
        assert job.workflows == []


@dataclass(frozen=True)
class PluginRoute(Route):
    """A route for a user whose credentials come from a plugin: a script that a test writes."""

    script: Path = Path()

    def user(self, token: str) -> dict[str, Any]:
        """Return the kubeconfig's user, whose plugin prints the token for a first time."""
        self.print_token(token)
        return {
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": "sh",
                "args": [str(self.script)],
                "interactiveMode": "Never",
            }
        }

    def print_token(self, token: str) -> None:
        """Let the plugin print a token that is to be renewed at once."""
        expiry = (datetime.now(UTC) + timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token, "expirationTimestamp": expiry},
        }
        self.script.write_text(f"echo '{json.dumps(credential)}'\n")

    def hang(self) -> None:
        """Let the plugin take minutes."""
        self.script.write_text("exec sleep 600\n")


@scenario
def plugin_hangs_from_the_start(cluster: Cluster) -> None:
    with Wire(cluster.target.launcher_kubeconfig) as wire, TemporaryDirectory() as folder:
        plugin = PluginRoute(wire.port, wire.route.certificate, script=Path(folder) / "plugin")
        with Site(cluster, wire=plugin) as site:
            plugin.hang()
            failing, aborted = site.launch(SLEEPS), site.launch(SLEEPS)
            time.sleep(3)
            aborted.abort()
            aborted.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
            failing.expect_end(Reason.LAUNCH_FAILED, 101, GIVEN_UP_SECONDS)
            plugin.print_token(read_token(cluster.target.launcher_kubeconfig))
            for job in (failing, aborted):
                job.expect_nothing_left(within=120)


@scenario
def plugin_hangs_while_jobs_run(cluster: Cluster) -> None:
    """The token is to be renewed all the time, and is valid: jobs start and end as if nothing was."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, TemporaryDirectory() as folder:
        plugin = PluginRoute(wire.port, wire.route.certificate, script=Path(folder) / "plugin")
        with Site(cluster, wire=plugin) as site:
            job = site.launch(EXITS_ON_REQUEST).expect_running()
            plugin.hang()
            other = site.launch(exits(0))
            other.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
            job.exit_program(3)
            job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
            for each in (job, other):
                each.expect_nothing_left()
            plugin.print_token(read_token(cluster.target.launcher_kubeconfig))


# --- the API server moves


def end_after_a_move(job: Job, within: float = MOVED_SECONDS) -> None:
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, within)
    job.expect_nothing_left()
    later = job.site.launch(exits(0))
    later.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    later.expect_nothing_left()


@scenario.variants(another_address={"with_tls": False}, another_authority={"with_tls": True})
def api_server_moved_to(cluster: Cluster, *, with_tls: bool) -> None:
    """The kubeconfig is rewritten after the server has moved."""
    # Without TLS the launcher sends no token, so the wire adds it.
    token = "" if with_tls else read_token(cluster.target.launcher_kubeconfig)
    old = Wire(cluster.target.launcher_kubeconfig, token, with_tls=with_tls)
    try:
        with Wire(cluster.target.launcher_kubeconfig, token, with_tls=with_tls) as new, Site(cluster, wire=old) as site:
            job = site.launch(EXITS_ON_REQUEST).expect_running()
            old.stop_answering()
            time.sleep(10)
            new.kubeconfig(site.kubeconfig, read_token(site.kubeconfig))
            eventually(lambda: new.open_watches == 2, MOVED_SECONDS, "the launcher watches at the new address")
            end_after_a_move(job)
    finally:
        old.close()


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
