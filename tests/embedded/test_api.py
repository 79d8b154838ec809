"""The API as a client that is not flargo's meets it: the plain ``kubernetes`` client, and bare HTTP."""

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
from tests.harness.embedded_cluster import ARGO, CORE, EmbeddedCluster, RefusedError
from tests.harness.python_workflow import phase, workflow

NAMESPACE = "flare"
MERGE = "application/merge-patch+json"
WORKFLOWS = ("argoproj.io", "v1alpha1", NAMESPACE, "workflows")


@pytest.fixture(scope="module")
def api(cluster: EmbeddedCluster) -> Any:
    """The kubernetes client's ApiClient."""
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
    """The API says no, as Kubernetes would."""
    with pytest.raises(ApiException) as caught:
        yield
    status = json.loads(caught.value.body or "")
    assert (caught.value.status, status["kind"], status["code"], status["reason"]) == (code, "Status", code, reason)


def test_an_object_is_created_read_patched_replaced_and_deleted(core: Any) -> None:
    made = core.create_namespaced_secret(NAMESPACE, secret("whole", key="value"))
    assert base64.b64decode(made.data["key"]) == b"value"
    patched = core.patch_namespaced_secret(
        "whole", NAMESPACE, {"data": {"key": None, "other": "eA=="}}, _content_type=MERGE
    )
    assert patched.data == {"other": "eA=="}
    assert int(patched.metadata.resource_version) > int(made.metadata.resource_version)
    patched.data = {"third": "eQ=="}
    core.replace_namespaced_secret("whole", NAMESPACE, patched)
    assert core.read_namespaced_secret("whole", NAMESPACE).data == {"third": "eQ=="}
    core.delete_namespaced_secret("whole", NAMESPACE)
    with refused(404, "NotFound"):
        core.read_namespaced_secret("whole", NAMESPACE)


def test_a_name_is_taken_once(core: Any) -> None:
    core.create_namespaced_secret(NAMESPACE, secret("taken"))
    with refused(409, "AlreadyExists"):
        core.create_namespaced_secret(NAMESPACE, secret("taken"))


def test_an_older_version_is_not_written_over_a_newer_one(core: Any) -> None:
    old = core.create_namespaced_secret(NAMESPACE, secret("raced"))
    core.patch_namespaced_secret("raced", NAMESPACE, {"data": {"a": "eA=="}}, _content_type=MERGE)
    with refused(409, "Conflict"):
        core.replace_namespaced_secret("raced", NAMESPACE, old)
    with refused(409, "Conflict"):
        core.patch_namespaced_secret("raced", NAMESPACE, {"metadata": {"uid": "another"}}, _content_type=MERGE)


def test_a_deletion_meets_only_the_object_that_it_names(core: Any) -> None:
    made = core.create_namespaced_secret(NAMESPACE, secret("named"))
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    with refused(409, "Conflict"):
        core.delete_namespaced_secret("named", NAMESPACE, body=wrong)
    right = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=made.metadata.uid))
    core.delete_namespaced_secret("named", NAMESPACE, body=right)


def test_a_dry_run_changes_nothing(core: Any) -> None:
    made = core.create_namespaced_secret(NAMESPACE, secret("dry"), dry_run="All")
    assert made.metadata.uid
    with refused(404, "NotFound"):
        core.read_namespaced_secret("dry", NAMESPACE)
    core.create_namespaced_secret(NAMESPACE, secret("dry"))
    core.patch_namespaced_secret("dry", NAMESPACE, {"data": {"a": "eA=="}}, dry_run="All", _content_type=MERGE)
    core.delete_namespaced_secret("dry", NAMESPACE, dry_run="All")
    assert core.read_namespaced_secret("dry", NAMESPACE).data is None


def test_a_list_selects_and_comes_in_pages(core: Any) -> None:
    for number in range(5):
        made = secret(f"page-{number}")
        made.metadata.labels = {"test": "pages", "odd": str(number % 2)}
        core.create_namespaced_secret(NAMESPACE, made)

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


def test_a_watch_tells_all_changes_after_a_version_and_leaving_a_selection(custom: Any) -> None:
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
    heard = [event["type"] for event in events]
    assert heard[0] == "ADDED"
    assert heard[-1] == "DELETED"
    assert set(heard[1:-1]) <= {"MODIFIED"}


def lines(cluster: EmbeddedCluster, query: str) -> list[dict[str, Any]]:
    """The events of a watch of Secrets that ends after a second."""
    said = cluster.request("GET", f"{cluster.path('secrets')}?watch=true&timeoutSeconds=1&{query}")
    # A single line is JSON as a whole.
    return [said] if isinstance(said, dict) else [json.loads(line) for line in said.splitlines()]


def test_a_watch_tells_what_comes_into_its_selection_and_nothing_of_others(cluster: EmbeddedCluster, core: Any) -> None:
    version = core.list_namespaced_secret(NAMESPACE).metadata.resource_version
    core.create_namespaced_secret(NAMESPACE, secret("comes"))
    core.create_namespaced_secret(NAMESPACE, secret("stays"))
    labelled = {"metadata": {"labels": {"in": "yes"}}}
    core.patch_namespaced_secret("comes", NAMESPACE, labelled, _content_type=MERGE)
    core.patch_namespaced_secret("stays", NAMESPACE, {"data": {"a": "eA=="}}, _content_type=MERGE)
    (event,) = lines(cluster, f"resourceVersion={version}&labelSelector=in=yes")
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "comes")


def test_a_watch_ends_with_a_bookmark_if_it_was_asked_for(cluster: EmbeddedCluster, core: Any) -> None:
    version = core.list_namespaced_secret(NAMESPACE).metadata.resource_version
    (last,) = lines(cluster, f"allowWatchBookmarks=true&resourceVersion={version}")
    assert last["type"] == "BOOKMARK"
    assert int(last["object"]["metadata"]["resourceVersion"]) >= int(version)
    assert lines(cluster, f"resourceVersion={version}&labelSelector=none") == []


def test_who_asks_for_what_is_forgotten_hears_410(tmp_path: Path) -> None:
    with Embedded(namespace=NAMESPACE, watch_cache_size=5) as small:
        cluster = EmbeddedCluster(small, tmp_path)
        version = cluster.request("GET", cluster.path("secrets"))["metadata"]["resourceVersion"]
        for number in range(6):
            cluster.create({"kind": "Secret", "metadata": {"name": f"s-{number}"}})
        (error,) = lines(cluster, f"resourceVersion={version}")
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert len(lines(cluster, f"resourceVersion={int(version) + 1}")) == 5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{CORE}/namespaces/flare/pods"),
        ("PATCH", f"{CORE}/namespaces/flare/pods/x"),
        ("DELETE", f"{CORE}/namespaces/flare/secrets"),
        ("GET", f"{CORE}/namespaces/flare/configmaps"),
        ("GET", f"{CORE}/namespaces/flare/workflows"),
        ("POST", f"{CORE}/namespaces/flare/pods/x/exec"),
        ("GET", f"{ARGO}/namespaces/flare/workflows/x/status/y"),
        ("PUT", "apis/apps/v1/namespaces/flare/deployments/x"),
    ],
)
def test_what_is_not_served_says_so(cluster: EmbeddedCluster, method: str, path: str) -> None:
    with pytest.raises(RefusedError) as caught:
        cluster.request(method, path, {} if method != "GET" else None)
    assert caught.value.code == 501
    assert f"{method} /{path}" in caught.value.status["message"]


def test_a_patch_of_another_kind_is_not_taken_for_a_merge(cluster: EmbeddedCluster, core: Any) -> None:
    core.create_namespaced_secret(NAMESPACE, secret("strategic"))
    with pytest.raises(RefusedError, match="strategic-merge"):
        cluster.request("PATCH", cluster.path("secrets", "strategic"), {}, "application/strategic-merge-patch+json")


def test_nobody_comes_in_without_a_token(cluster: EmbeddedCluster) -> None:
    with pytest.raises(RefusedError) as caught:
        cluster.request("GET", cluster.path("secrets"), token="wrong")
    assert (caught.value.code, caught.value.status["reason"]) == (401, "Unauthorized")


def test_an_accounts_token_lets_in(cluster: EmbeddedCluster) -> None:
    made = cluster.request(
        "POST", f"{cluster.path('serviceaccounts', 'flargo-launcher')}/token", {"kind": "TokenRequest"}
    )
    assert cluster.request("GET", cluster.path("secrets"), token=made["status"]["token"])["kind"] == "SecretList"


def test_it_listens_on_the_loopback_device_only(embedded: Embedded) -> None:
    (address,) = embedded._runner.addresses
    assert address[0] == "127.0.0.1"


def test_a_secret_goes_with_its_workflow_and_at_once_with_a_wrong_one(cluster: EmbeddedCluster, custom: Any) -> None:
    made = custom.create_namespaced_custom_object(*WORKFLOWS, workflow("owner"))
    owner = {"apiVersion": made["apiVersion"], "kind": "Workflow", "name": "owner", "uid": made["metadata"]["uid"]}
    for name, owners in (("owned", [owner]), ("stray", [{**owner, "uid": "another"}])):
        cluster.create({"kind": "Secret", "metadata": {"name": name, "ownerReferences": owners}})
    eventually(lambda: cluster.secrets("stray") == [], 2, "the stray one is collected")
    assert cluster.secrets("owned") == ["owned"]
    custom.delete_namespaced_custom_object(*WORKFLOWS, "owner")
    eventually(lambda: cluster.secrets("owned") == [], 2, "what was owned is collected")


def test_a_log_is_read_by_its_end_by_bytes_and_while_it_grows(cluster: EmbeddedCluster, custom: Any, core: Any) -> None:
    code = ("import time", "for number in range(5): print('line', number)", "time.sleep(1)", "print('last')")
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("talks", *code, suspend=False))
    eventually(lambda: cluster.log({"metadata": {"name": "talks"}}).count("\n") == 5, 10, "it has begun")
    path = f"{cluster.path('pods', 'talks')}/log?container=main"
    assert cluster.request("GET", f"{path}&tailLines=2") == "line 3\nline 4\n"
    assert cluster.request("GET", f"{path}&tailLines=2&limitBytes=4") == "line"
    followed = core.read_namespaced_pod_log("talks", NAMESPACE, container="main", follow=True)
    assert followed.splitlines() == [*(f"line {number}" for number in range(5)), "last"]
    with refused(400, "BadRequest"):
        core.read_namespaced_pod_log("talks", NAMESPACE, container="other")
    eventually(lambda: phase(cluster, "talks") == "Succeeded", 5, "it is over")


def test_a_workflow_is_told_of_in_the_order_in_which_argo_tells(cluster: EmbeddedCluster, custom: Any) -> None:
    version = custom.list_namespaced_custom_object(*WORKFLOWS)["metadata"]["resourceVersion"]
    code = ("import time", "time.sleep(0.5)", "raise SystemExit(3)")
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("ordered", *code, suspend=False))
    query = f"watch=true&resourceVersion={version}&labelSelector=of=ordered&timeoutSeconds=3"
    seen = []
    for line in cluster.stream_lines(f"{cluster.path('workflows')}?{query}"):
        status = json.loads(line)["object"].get("status") or {}
        node = (status.get("nodes") or {}).get("ordered") or {}
        said = (status.get("phase", ""), node.get("phase", ""), (node.get("outputs") or {}).get("exitCode", ""))
        seen += [said] if said not in seen else []
    assert seen == [
        ("", "", ""),
        ("Running", "", ""),
        ("Running", "Pending", ""),
        ("Running", "Running", ""),
        ("Running", "Running", "3"),
        ("Failed", "Failed", "3"),
    ]


def test_a_finished_workflow_goes_when_its_time_has_come(cluster: EmbeddedCluster, custom: Any) -> None:
    kept = {"ttlStrategy": {"secondsAfterSuccess": 1, "secondsAfterFailure": 3600}}
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("kept", suspend=False, **kept))
    eventually(lambda: cluster.items("workflows", "of=kept") == [], 10, "it has gone")
    assert [pod for pod in cluster.items("pods") if pod["metadata"]["name"] == "kept"] == []


def test_a_policy_denies_what_bears_its_labels(cluster: EmbeddedCluster, custom: Any, core: Any) -> None:
    with cluster.embedded.admission_policy(Policy("x", "workflows", {"of": "barred"}, "not on a Tuesday")):
        with pytest.raises(ApiException) as caught:
            custom.create_namespaced_custom_object(*WORKFLOWS, workflow("barred"))
        custom.create_namespaced_custom_object(*WORKFLOWS, workflow("other"))
        core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "barred", "labels": {"of": "barred"}}})
    assert caught.value.status == 422
    why = "ValidatingAdmissionPolicy 'x' with binding 'x' denied request: not on a Tuesday"
    assert json.loads(str(caught.value.body))["message"] == f'workflows.argoproj.io "barred" is forbidden: {why}'
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("barred"))


def test_a_quota_counts_workflows(cluster: EmbeddedCluster, custom: Any) -> None:
    counted = "count/workflows.argoproj.io"
    with cluster.quota("q", **{counted: "0"}), pytest.raises(ApiException) as caught:
        custom.create_namespaced_custom_object(*WORKFLOWS, workflow("counted"))
    assert caught.value.status == 403
    assert f"exceeded quota: q, requested: {counted}=1, used: {counted}=" in str(caught.value.body)
    custom.create_namespaced_custom_object(*WORKFLOWS, workflow("counted"))


def test_a_bug_of_the_engine_is_told_to_everybody(tmp_path: Path) -> None:
    broken = Embedded(namespace=NAMESPACE)
    broken.__enter__()
    cluster = EmbeddedCluster(broken, tmp_path)
    broken._cluster.settings = None  # type: ignore[assignment]
    cluster.create(workflow("unlucky", suspend=False))
    time.sleep(0.3)
    with pytest.raises(RefusedError, match=r"flargo\.embedded has failed: AttributeError") as caught:
        cluster.request("GET", cluster.path("secrets"))
    assert caught.value.code == 500
    with pytest.raises(AttributeError):
        broken.__exit__(None, None, None)


def test_while_the_controller_is_away_everything_stays_as_it_was(tmp_path: Path) -> None:
    with Embedded(Settings(delays=Delays(notice=0.01)), namespace=NAMESPACE) as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        embedded.set_controller(running=False)
        cluster.create(workflow("frozen", suspend=False))
        time.sleep(0.5)
        assert phase(cluster, "frozen") == ""
        embedded.set_controller(running=True)
        eventually(lambda: phase(cluster, "frozen") == "Succeeded", 10, "it goes on")


def test_a_pod_that_would_have_its_node_just_now_goes_with_its_workflow(tmp_path: Path) -> None:
    with Embedded(Settings(delays=Delays(schedule=3600)), namespace=NAMESPACE) as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        cluster.create(workflow("unwanted", suspend=False))
        eventually(lambda: cluster.items("pods"), 5, "its pod waits for a node")
        embedded._cluster.settings = Settings()
        cluster.delete("workflows.argoproj.io", cluster.workflow("unwanted"))
        eventually(lambda: cluster.items("pods") == [], 5, "it has gone")
        cluster.create(workflow("next", suspend=False))
        eventually(lambda: phase(cluster, "next") == "Succeeded", 10, "the engine goes on")
