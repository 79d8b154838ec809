"""Tests of the API with clients other than flargo's: the ``kubernetes`` package, and plain HTTP."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch  # type: ignore[attr-defined,unused-ignore]
from kubernetes.client.exceptions import ApiException

from flargo.embedded import Delays, Embedded, Policy, Settings
from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import ARGO, CORE, EmbeddedCluster, ResponseError
from tests.harness.python_workflow import phase, workflow

NAMESPACE = "flare"
MERGE = "application/merge-patch+json"
WORKFLOWS = ("argoproj.io", "v1alpha1", NAMESPACE, "workflows")


@pytest.fixture(scope="module")
def api(cluster: EmbeddedCluster) -> Any:
    """An ApiClient of the kubernetes package."""
    return config.new_client_from_config(str(cluster.target.kubeconfig))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def core(api: Any) -> Any:
    return client.CoreV1Api(api)


@pytest.fixture(scope="module")
def custom(api: Any) -> Any:
    return client.CustomObjectsApi(api)


def secret(name: str, **data: str) -> Any:
    return client.V1Secret(metadata=client.V1ObjectMeta(name=name), string_data=data)


@contextmanager
def refused(code: int, reason: str) -> Iterator[None]:
    """Expect that the API refuses a request with a Status object."""
    with pytest.raises(ApiException) as caught:
        yield
    status = json.loads(caught.value.body or "")
    assert (caught.value.status, status["kind"], status["code"], status["reason"]) == (code, "Status", code, reason)


def test_create_read_patch_replace_delete(core: Any) -> None:
    created = core.create_namespaced_secret(NAMESPACE, secret("whole", key="value"))
    assert base64.b64decode(created.data["key"]) == b"value"
    patched = core.patch_namespaced_secret(
        "whole", NAMESPACE, {"data": {"key": None, "other": "eA=="}}, _content_type=MERGE
    )
    assert patched.data == {"other": "eA=="}
    assert int(patched.metadata.resource_version) > int(created.metadata.resource_version)
    patched.data = {"third": "eQ=="}
    core.replace_namespaced_secret("whole", NAMESPACE, patched)
    assert core.read_namespaced_secret("whole", NAMESPACE).data == {"third": "eQ=="}
    core.delete_namespaced_secret("whole", NAMESPACE)
    with refused(404, "NotFound"):
        core.read_namespaced_secret("whole", NAMESPACE)


def test_second_object_of_a_name_conflicts(core: Any) -> None:
    core.create_namespaced_secret(NAMESPACE, secret("taken"))
    with refused(409, "AlreadyExists"):
        core.create_namespaced_secret(NAMESPACE, secret("taken"))


def test_update_of_an_older_version_conflicts(core: Any) -> None:
    old_version = core.create_namespaced_secret(NAMESPACE, secret("raced"))
    core.patch_namespaced_secret("raced", NAMESPACE, {"data": {"a": "eA=="}}, _content_type=MERGE)
    with refused(409, "Conflict"):
        core.replace_namespaced_secret("raced", NAMESPACE, old_version)
    with refused(422, "Invalid"):
        core.patch_namespaced_secret("raced", NAMESPACE, {"metadata": {"uid": "another"}}, _content_type=MERGE)


def test_delete_checks_its_preconditions(core: Any) -> None:
    created = core.create_namespaced_secret(NAMESPACE, secret("named"))
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    with refused(409, "Conflict"):
        core.delete_namespaced_secret("named", NAMESPACE, body=wrong)
    right = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=created.metadata.uid))
    core.delete_namespaced_secret("named", NAMESPACE, body=right)


def test_dry_run_stores_nothing(core: Any) -> None:
    result = core.create_namespaced_secret(NAMESPACE, secret("dry"), dry_run="All")
    assert result.metadata.uid
    with refused(404, "NotFound"):
        core.read_namespaced_secret("dry", NAMESPACE)
    core.create_namespaced_secret(NAMESPACE, secret("dry"))
    core.patch_namespaced_secret("dry", NAMESPACE, {"data": {"a": "eA=="}}, dry_run="All", _content_type=MERGE)
    core.delete_namespaced_secret("dry", NAMESPACE, dry_run="All")
    assert core.read_namespaced_secret("dry", NAMESPACE).data is None


def test_list_has_selectors_and_pages(core: Any) -> None:
    for number in range(5):
        item = secret(f"page-{number}")
        item.metadata.labels = {"test": "pages", "odd": str(number % 2)}
        core.create_namespaced_secret(NAMESPACE, item)

    def names(labels: str, **more: Any) -> list[str]:
        return [
            row.metadata.name for row in core.list_namespaced_secret(NAMESPACE, label_selector=labels, **more).items
        ]

    assert names("test=pages,odd!=1") == ["page-0", "page-2", "page-4"]
    assert names("test in (pages, others), !even") == [f"page-{number}" for number in range(5)]
    assert names("test", field_selector="metadata.name=page-3") == ["page-3"]
    first = core.list_namespaced_secret(NAMESPACE, label_selector="test=pages", limit=3)
    rest = core.list_namespaced_secret(
        NAMESPACE, label_selector="test=pages", limit=3, _continue=first.metadata._continue
    )
    assert [row.metadata.name for row in (*first.items, *rest.items)] == [f"page-{number}" for number in range(5)]
    assert rest.metadata._continue is None


def test_watch_sends_all_changes_of_its_selection(custom: Any) -> None:
    """An object that leaves the selection is reported as deleted."""
    version = custom.list_namespaced_custom_object(*WORKFLOWS)["metadata"]["resourceVersion"]
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("watched"))
    patch = {"metadata": {"labels": {"of": "nobody"}}}

    def change() -> None:
        time.sleep(0.5)
        custom.patch_namespaced_custom_object(*WORKFLOWS, "watched", patch)

    threading.Thread(target=change).start()
    stream: Any = watch.Watch()  # type: ignore[no-untyped-call]
    events = stream.stream(
        custom.list_namespaced_custom_object,
        *WORKFLOWS,
        label_selector="of=watched",
        resource_version=version,
        timeout_seconds=2,
    )
    types = [event["type"] for event in events]
    assert types[0] == "ADDED"
    assert types[-1] == "DELETED"
    assert set(types[1:-1]) <= {"MODIFIED"}


def watch_events(cluster: EmbeddedCluster, query: str) -> list[dict[str, Any]]:
    """Return the events of a watch of Secrets that ends after a second."""
    response = cluster.request("GET", f"{cluster.path('secrets')}?watch=true&timeoutSeconds=1&{query}")
    # A response of a single line is JSON, and so has been decoded already.
    return [response] if isinstance(response, dict) else [json.loads(line) for line in response.splitlines()]


def test_object_that_enters_a_selection_is_added(cluster: EmbeddedCluster, core: Any) -> None:
    version = core.list_namespaced_secret(NAMESPACE).metadata.resource_version
    core.create_namespaced_secret(NAMESPACE, secret("comes"))
    core.create_namespaced_secret(NAMESPACE, secret("stays"))
    labelled = {"metadata": {"labels": {"in": "yes"}}}
    core.patch_namespaced_secret("comes", NAMESPACE, labelled, _content_type=MERGE)
    core.patch_namespaced_secret("stays", NAMESPACE, {"data": {"a": "eA=="}}, _content_type=MERGE)
    (event,) = watch_events(cluster, f"resourceVersion={version}&labelSelector=in=yes")
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "comes")


def test_watch_ends_with_a_bookmark_on_request(cluster: EmbeddedCluster, core: Any) -> None:
    version = core.list_namespaced_secret(NAMESPACE).metadata.resource_version
    (last,) = watch_events(cluster, f"allowWatchBookmarks=true&resourceVersion={version}")
    assert last["type"] == "BOOKMARK"
    assert int(last["object"]["metadata"]["resourceVersion"]) >= int(version)
    assert watch_events(cluster, f"resourceVersion={version}&labelSelector=none") == []


def test_watch_from_an_expired_version_gets_410(tmp_path: Path) -> None:
    with Embedded(namespace=NAMESPACE, watch_cache_size=5) as small:
        cluster = EmbeddedCluster(small, tmp_path)
        version = cluster.request("GET", cluster.path("secrets"))["metadata"]["resourceVersion"]
        for number in range(6):
            cluster.create({"kind": "Secret", "metadata": {"name": f"s-{number}"}})
        (error,) = watch_events(cluster, f"resourceVersion={version}")
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert len(watch_events(cluster, f"resourceVersion={int(version) + 1}")) == 5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{CORE}/namespaces/flare/pods"),
        ("PATCH", f"{CORE}/namespaces/flare/pods/x"),
        ("DELETE", f"{CORE}/namespaces/flare/secrets"),
        ("GET", f"{CORE}/namespaces/flare/endpoints"),
        ("GET", f"{CORE}/namespaces/flare/workflows"),
        ("POST", f"{CORE}/namespaces/flare/pods/x/exec"),
        ("GET", f"{ARGO}/namespaces/flare/workflows/x/status/y"),
        ("PUT", "apis/apps/v1/namespaces/flare/deployments/x"),
    ],
)
def test_unserved_request_gets_501(cluster: EmbeddedCluster, method: str, path: str) -> None:
    with pytest.raises(ResponseError) as caught:
        cluster.request(method, path, {} if method != "GET" else None)
    assert caught.value.code == 501
    assert f"{method} /{path}" in caught.value.status["message"]


def test_strategic_merge_patch_is_not_served(cluster: EmbeddedCluster, core: Any) -> None:
    core.create_namespaced_secret(NAMESPACE, secret("strategic"))
    with pytest.raises(ResponseError, match="strategic-merge"):
        cluster.request("PATCH", cluster.path("secrets", "strategic"), {}, "application/strategic-merge-patch+json")


def test_wrong_token_is_unauthorized(cluster: EmbeddedCluster) -> None:
    with pytest.raises(ResponseError) as caught:
        cluster.request("GET", cluster.path("secrets"), token="wrong")
    assert (caught.value.code, caught.value.status["reason"]) == (401, "Unauthorized")


def test_service_account_token_is_accepted(cluster: EmbeddedCluster) -> None:
    path = f"{cluster.path('serviceaccounts', 'flargo-launcher')}/token"
    token = cluster.request("POST", path, {"kind": "TokenRequest"})["status"]["token"]
    assert cluster.request("GET", cluster.path("secrets"), token=token)["kind"] == "SecretList"


def test_server_listens_on_loopback_only(embedded: Embedded) -> None:
    (address,) = embedded._runner.addresses
    assert address[0] == "127.0.0.1"


def test_secrets_are_collected_without_their_owner(cluster: EmbeddedCluster, custom: Any) -> None:
    """A Secret whose owner has another uid is collected at once; an owned one when its Workflow is deleted."""
    created = custom.create_namespaced_custom_object(*WORKFLOWS, workflow("owner"))
    uid = created["metadata"]["uid"]
    owner = {"apiVersion": created["apiVersion"], "kind": "Workflow", "name": "owner", "uid": uid}
    for name, owners in (("owned", [owner]), ("stray", [{**owner, "uid": "another"}])):
        cluster.create({"kind": "Secret", "metadata": {"name": name, "ownerReferences": owners}})
    eventually(lambda: cluster.secrets("stray") == [], 2, "the Secret with a wrong owner is collected")
    assert cluster.secrets("owned") == ["owned"]
    custom.delete_namespaced_custom_object(*WORKFLOWS, "owner")
    eventually(lambda: cluster.secrets("owned") == [], 2, "the owned Secret is collected")


def test_log_tail_limit_and_follow(cluster: EmbeddedCluster, custom: Any, core: Any) -> None:
    code = ("import time", "for number in range(5): print('line', number)", "time.sleep(1)", "print('last')")
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("talks", *code, suspend=False))
    eventually(lambda: cluster.log({"metadata": {"name": "talks"}}).count("\n") == 5, 10, "the program has printed")
    path = f"{cluster.path('pods', 'talks')}/log?container=main"
    assert cluster.request("GET", f"{path}&tailLines=2") == "line 3\nline 4\n"
    assert cluster.request("GET", f"{path}&tailLines=2&limitBytes=4") == "line"
    log = core.read_namespaced_pod_log("talks", NAMESPACE, container="main", follow=True)
    assert log.splitlines() == [*(f"line {number}" for number in range(5)), "last"]
    with refused(400, "BadRequest"):
        core.read_namespaced_pod_log("talks", NAMESPACE, container="other")
    eventually(lambda: phase(cluster, "talks") == "Succeeded", 5, "the Workflow has ended")


def test_workflow_states_come_in_argos_order(cluster: EmbeddedCluster, custom: Any) -> None:
    version = custom.list_namespaced_custom_object(*WORKFLOWS)["metadata"]["resourceVersion"]
    code = ("import time", "time.sleep(0.5)", "raise SystemExit(3)")
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("ordered", *code, suspend=False))
    query = f"watch=true&resourceVersion={version}&labelSelector=of=ordered&timeoutSeconds=3"
    states: list[tuple[str, str, str]] = []
    for line in cluster.stream_lines(f"{cluster.path('workflows')}?{query}"):
        status = json.loads(line)["object"].get("status") or {}
        node = (status.get("nodes") or {}).get("ordered") or {}
        state = (status.get("phase", ""), node.get("phase", ""), (node.get("outputs") or {}).get("exitCode", ""))
        states += [state] if state not in states else []
    assert states == [
        ("", "", ""),
        ("Running", "", ""),
        ("Running", "Pending", ""),
        ("Running", "Running", ""),
        ("Running", "Running", "3"),
        ("Failed", "Failed", "3"),
    ]


def test_ended_workflow_is_deleted_after_its_ttl(cluster: EmbeddedCluster, custom: Any) -> None:
    ttl = {"ttlStrategy": {"secondsAfterSuccess": 1, "secondsAfterFailure": 3600}}
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("kept", suspend=False, **ttl))
    eventually(lambda: cluster.items("workflows", "of=kept") == [], 10, "the Workflow is deleted")
    assert [pod for pod in cluster.items("pods") if pod["metadata"]["name"] == "kept"] == []


def test_admission_policy_denies_by_labels(cluster: EmbeddedCluster, custom: Any, core: Any) -> None:
    with cluster.embedded.admission_policy(Policy("x", "workflows", {"of": "barred"}, "not on a Tuesday")):
        with pytest.raises(ApiException) as caught:
            custom.create_namespaced_custom_object(*WORKFLOWS, workflow("barred"))
        custom.create_namespaced_custom_object(*WORKFLOWS, workflow("other"))
        core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "barred", "labels": {"of": "barred"}}})
    assert caught.value.status == 422
    denial = "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: not on a Tuesday"
    assert json.loads(str(caught.value.body))["message"] == f'workflows.argoproj.io "barred" is forbidden: {denial}'
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("barred"))


def test_quota_limits_workflows(cluster: EmbeddedCluster, custom: Any) -> None:
    resource = "count/workflows.argoproj.io"
    with cluster.apply_quota("q", **{resource: "0"}), pytest.raises(ApiException) as caught:
        custom.create_namespaced_custom_object(*WORKFLOWS, workflow("counted"))
    assert caught.value.status == 403
    assert f"exceeded quota: q, requested: {resource}=1, used: {resource}=" in str(caught.value.body)
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("counted"))


def test_failed_engine_answers_every_request_with_500(tmp_path: Path) -> None:
    engine = Embedded(namespace=NAMESPACE)
    engine.__enter__()
    cluster = EmbeddedCluster(engine, tmp_path)
    engine._cluster.settings = None  # type: ignore[assignment]
    cluster.create(workflow("unlucky", suspend=False))
    time.sleep(0.3)
    with pytest.raises(ResponseError, match=r"flargo\.embedded has failed: AttributeError") as caught:
        cluster.request("GET", cluster.path("secrets"))
    assert caught.value.code == 500
    with pytest.raises(AttributeError):
        engine.__exit__(None, None, None)


def test_stopped_controller_changes_nothing(tmp_path: Path) -> None:
    with Embedded(Settings(delays=Delays(notice=0.01)), namespace=NAMESPACE) as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        embedded.set_controller(running=False)
        cluster.create(workflow("frozen", suspend=False))
        time.sleep(0.5)
        assert phase(cluster, "frozen") == ""
        embedded.set_controller(running=True)
        eventually(lambda: phase(cluster, "frozen") == "Succeeded", 10, "the controller goes on")


def test_pod_about_to_be_bound_is_collected(tmp_path: Path) -> None:
    """The pod of a deleted Workflow is removed even if the scheduler could bind it at that moment."""
    with Embedded(Settings(delays=Delays(schedule=3600)), namespace=NAMESPACE) as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        cluster.create(workflow("unwanted", suspend=False))
        eventually(lambda: cluster.items("pods"), 5, "the pod waits for a node")
        embedded._cluster.settings = Settings()
        cluster.delete("workflows.argoproj.io", cluster.workflow("unwanted"))
        eventually(lambda: cluster.items("pods") == [], 5, "the pod is collected")
        cluster.create(workflow("next", suspend=False))
        eventually(lambda: phase(cluster, "next") == "Succeeded", 10, "the engine still runs jobs")
