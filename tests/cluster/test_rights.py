"""Tests that the launcher's Role is minimal: every right is used, and without any one of them something fails."""

import secrets
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.control.lease import LeaseStage
from flargo.flare.report import LOG_TAIL
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.harness.cluster import Cluster
from tests.harness.executor_site import ExecutorSite
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import audit
from tests.harness.site import IGNORES_SIGTERM, SLEEPS, START_SECONDS, Site, exits
from tests.harness.wire import Wire

MAX_PARALLEL_RIGHTS = 5
VOLUME_FAILURE_SECONDS = 120.0
"""Seconds within which a job fails whose volume cannot be mounted."""
MISSING_SECRET = {"source": "not-there", "mount_path": "/etc/keys"}
Rule = dict[str, Any]
Right = tuple[str, str]
"""The verb and the resource of a right."""


def role() -> list[Rule]:
    """Return the rules of the Role in deploy/launcher.yaml."""
    documents = yaml.safe_load_all((DEPLOY / "launcher.yaml").read_text())
    (rules,) = (each["rules"] for each in documents if each["kind"] == "Role")
    return list(rules)


OPTIONAL_RIGHTS: set[Right] = {("create", "events")}
"""Rights without which nothing fails (tests/unit/test_attempt_notes.py)."""
RIGHTS: list[Right] = [
    (verb, what)
    for rule in role()
    for what in rule["resources"]
    for verb in rule["verbs"]
    if (verb, what) not in OPTIONAL_RIGHTS
]


def without(right: Right) -> list[Rule]:
    """Return the Role's rules without one right."""
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if [right] != [(verb, what) for what in rule["resources"]]]}
        for rule in role()
    ]
    return [rule for rule in rules if rule["verbs"]]


def use_every_right(server: Site, client: ExecutorSite) -> None:
    """Make the launchers use every right.

    A server's job fails, is launched again with a newer kit and is aborted; a client's job waits for its volume. The
    client's parent holds the Lease of its site until the end.
    """
    client.start()
    assert _holds_lease(client), "the Lease is not acquired"
    stuck = client.launch(SLEEPS, study="s")
    failure = server.launch(f"print('last words', flush=True)\n{exits(3)}", job_id=_with_run_folder(server))
    failure.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    tail = server.root / failure.id / LOG_TAIL
    assert "last words" in tail.read_text()
    failure.expect_nothing_left()
    (server.root / "startup" / "more.json").write_text("{}")
    relaunch = server.launch(IGNORES_SIGTERM + SLEEPS, job_id=failure.id)
    relaunch.expect_running()
    loops = [site.launcher._loop for site in (server, client)]
    assert [loop.seconds_out_of_sync() for loop in loops if loop is not None] == [0.0, 0.0]
    relaunch.abort()
    relaunch.expect_nothing_left()
    stuck.expect_end(Reason.VOLUME, 101, VOLUME_FAILURE_SECONDS)
    stuck.expect_nothing_left()
    assert _holds_lease(client), "the Lease is not renewed"


def _holds_lease(client: ExecutorSite) -> bool:
    takeover = client.launcher._takeover
    return takeover is not None and takeover._lease.state.stage is LeaseStage.HELD


def _with_run_folder(server: Site) -> str:
    """Create a job's run folder, as FLARE does before it launches the job, and return the job's id."""
    job_id = secrets.token_hex(16)
    (server.root / job_id).mkdir()
    return job_id


def sites(cluster: Cluster, stack: ExitStack, token: str = "") -> tuple[Site, ExecutorSite]:
    """Return a server and a client that use a token, by default that of the launcher's own account.

    An earlier run of the client's parent has left a Lease, so that the next one reads it.
    """
    wires = [stack.enter_context(Wire(cluster.target.launcher_kubeconfig)) if token else None for _ in Role]
    studies = {"s": {"secret_mounts": {"k": MISSING_SECRET}}}
    server = stack.enter_context(Site(cluster, role=Role.SERVER, wire=wires[0], token=token))
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    earlier, client = (ExecutorSite(cluster, root, studies=studies, wire=wires[1], token=token) for _ in range(2))
    stack.enter_context(client)
    earlier.start()
    earlier.shut_down()
    return server, client


def test_every_right_of_the_role_is_used(cluster: Cluster) -> None:
    if cluster.target.audit_log is None:
        pytest.skip("the audit log of a cluster of one's own cannot be read")
    mark = audit.mark(cluster.target.audit_log)
    with ExitStack() as stack:
        use_every_right(*sites(cluster, stack))
    assert _rights_used(cluster, mark) - OPTIONAL_RIGHTS == set(RIGHTS)


@pytest.fixture(scope="module")
def errors_without(cluster: Cluster) -> Iterator[dict[Right, "Future[str]"]]:
    """The error that occurs without each right; a few rights are tried in parallel."""
    with ThreadPoolExecutor(MAX_PARALLEL_RIGHTS, thread_name_prefix="right") as threads:
        yield {right: threads.submit(_error_without, cluster, right) for right in RIGHTS}


@pytest.mark.parametrize("right", RIGHTS, ids=" ".join)
def test_launcher_fails_without_any_one_right(errors_without: dict[Right, "Future[str]"], right: Right) -> None:
    error = errors_without[right].result()
    print(error)
    assert error


def _error_without(cluster: Cluster, right: Right) -> str:
    name = f"less-{'-'.join(right).replace('/', '-')}"
    meta = {"name": name, "namespace": cluster.target.namespace}
    group = "rbac.authorization.k8s.io/v1"
    try:
        cluster.kubectl("create", "serviceaccount", name)
        cluster.create({"apiVersion": group, "kind": "Role", "metadata": meta, "rules": without(right)})
        subject = f"--serviceaccount={cluster.target.namespace}:{name}"
        cluster.kubectl("create", "rolebinding", name, f"--role={name}", subject)
        with ExitStack() as stack:
            server, client = sites(cluster, stack, cluster.kubectl("create", "token", name))
            try:
                use_every_right(server, client)
            except AssertionError as error:
                return str(error) or repr(error)
        return ""
    finally:
        for kind in ("rolebinding", "role", "serviceaccount"):
            cluster.kubectl("delete", kind, name, "--ignore-not-found")


def _rights_used(cluster: Cluster, mark: int) -> set[tuple[str, str]]:
    """Return the rights that flargo itself used successfully; kubectl uses the same account in other tests."""
    assert cluster.target.audit_log is not None
    return {
        (event["verb"], "/".join(filter(None, (event["objectRef"]["resource"], event["objectRef"].get("subresource")))))
        for offset, event in audit.events(cluster.target.audit_log)
        if offset >= mark
        and event["user"]["username"].endswith(":flargo-launcher")
        and event.get("userAgent", "").startswith("flargo")
        and event.get("responseStatus", {}).get("code", 500) < 400
    }
