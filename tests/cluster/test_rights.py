"""The launcher's Role is what it needs: all of it is used, and without any one right something goes wrong."""

import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from flargo.flare.report import LOG_TAIL
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.harness.cluster import Cluster
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import audit
from tests.harness.site import IGNORES_SIGTERM, SLEEPS, START_SECONDS, Site, exits
from tests.harness.wire import Wire

AT_ONCE = 5
LONG = 120.0
MISSING_SECRET = {"source": "not-there", "mount_path": "/etc/keys"}
Rule = dict[str, Any]
Right = tuple[str, str]
"""Verb and resource."""


def role() -> list[Rule]:
    """The rules of deploy/launcher.yaml."""
    documents = yaml.safe_load_all((DEPLOY / "launcher.yaml").read_text())
    (rules,) = (each["rules"] for each in documents if each["kind"] == "Role")
    return list(rules)


RIGHTS: list[Right] = [(verb, what) for rule in role() for what in rule["resources"] for verb in rule["verbs"]]


def without(right: Right) -> list[Rule]:
    """The rules but for one right."""
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if [right] != [(verb, what) for what in rule["resources"]]]}
        for rule in role()
    ]
    return [rule for rule in rules if rule["verbs"]]


def a_day(server: Site, client: Site) -> None:
    """All that a launcher does: a job fails, is launched again with a newer kit, and is aborted; another one waits."""
    stuck = client.launch(SLEEPS, study="s")
    failed = server.launch(f"print('last words', flush=True)\n{exits(3)}", job_id=_with_run_folder(server))
    failed.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    tail = server.root / failed.id / LOG_TAIL
    assert "last words" in tail.read_text()
    failed.expect_nothing_left()
    (server.root / "startup" / "more.json").write_text("{}")
    again = server.launch(IGNORES_SIGTERM + SLEEPS, job_id=failed.id)
    again.expect_running()
    loops = [site.launcher._loop for site in (server, client)]
    assert [loop.seconds_out_of_sync() for loop in loops if loop is not None] == [0.0, 0.0]
    again.abort()
    again.expect_nothing_left()
    stuck.expect_end(Reason.VOLUME, 101, LONG)
    stuck.expect_nothing_left()


def _with_run_folder(server: Site) -> str:
    """FLARE makes a job's run folder before it launches it."""
    job_id = secrets.token_hex(16)
    (server.root / job_id).mkdir()
    return job_id


def sites(cluster: Cluster, stack: ExitStack, token: str = "") -> tuple[Site, Site]:
    """A server and a client with an account's token; the launcher's own if there is none."""
    wires = [stack.enter_context(Wire(cluster.target.launcher_kubeconfig)) if token else None for _ in Role]
    studies = {"s": {"secret_mounts": {"k": MISSING_SECRET}}}
    server = stack.enter_context(Site(cluster, role=Role.SERVER, wire=wires[0], token=token))
    return server, stack.enter_context(Site(cluster, studies=studies, wire=wires[1], token=token))


def test_the_role_is_what_is_used(cluster: Cluster) -> None:
    if cluster.target.audit_log is None:
        pytest.skip("somebody's own cluster: its audit log is not within reach")
    begun = audit.mark(cluster.target.audit_log)
    with ExitStack() as stack:
        a_day(*sites(cluster, stack))
    assert _used(cluster, begun) == set(RIGHTS)


@pytest.fixture(scope="module")
def days(cluster: Cluster) -> Iterator[dict[Right, "Future[str]"]]:
    """What goes wrong on a day without a right, for each of them; some at a time."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="day") as threads:
        yield {right: threads.submit(_day_without, cluster, right) for right in RIGHTS}


@pytest.mark.parametrize("right", RIGHTS, ids=" ".join)
def test_without_any_one_right_something_goes_wrong(days: dict[Right, "Future[str]"], right: Right) -> None:
    problem = days[right].result()
    print(problem)
    assert problem


def _day_without(cluster: Cluster, right: Right) -> str:
    name = f"less-{'-'.join(right).replace('/', '-')}"
    meta = {"name": name, "namespace": cluster.target.namespace}
    group = "rbac.authorization.k8s.io/v1"
    try:
        cluster.kubectl("create", "serviceaccount", name)
        cluster.create({"apiVersion": group, "kind": "Role", "metadata": meta, "rules": without(right)})
        subject = f"--serviceaccount={cluster.target.namespace}:{name}"
        cluster.kubectl("create", "rolebinding", name, f"--role={name}", subject)
        with ExitStack() as stack:
            those = sites(cluster, stack, cluster.kubectl("create", "token", name))
            try:
                a_day(*those)
            except AssertionError as problem:
                return str(problem) or repr(problem)
        return ""
    finally:
        for kind in ("rolebinding", "role", "serviceaccount"):
            cluster.kubectl("delete", kind, name, "--ignore-not-found")


def _used(cluster: Cluster, since: int) -> set[tuple[str, str]]:
    """What flargo itself asked for, and was let; other tests' kubectl has the same account."""
    assert cluster.target.audit_log is not None
    return {
        (event["verb"], "/".join(filter(None, (event["objectRef"]["resource"], event["objectRef"].get("subresource")))))
        for target, event in audit.events(cluster.target.audit_log)
        if target >= since
        and event["user"]["username"].endswith(":flargo-launcher")
        and event.get("userAgent", "").startswith("flargo")
        and event.get("responseStatus", {}).get("code", 500) < 400
    }
