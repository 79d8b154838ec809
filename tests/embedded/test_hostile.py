"""Tests with clients that send anything: each gets Kubernetes' answer, and the engine still runs jobs."""

import copy
import http.client
import itertools
import json
import logging
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.embedded import Embedded, kubelet
from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import ARGO, CORE, EmbeddedCluster
from tests.harness.python_workflow import phase, workflow

Object = dict[str, Any]
NAMESPACE = "flare"
MERGE = "application/merge-patch+json"
NAMES = itertools.count()
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([2**63 - 1, -(2**63), 1e308, "..", "../x", "/etc", "a/b", "%2F", "-1", "1e999", "9" * 5000])
    | st.sampled_from(["Succeeded", "Running", "Terminate", "2026-01-01T00:00:00Z", "step", "[]", "{}", "1Gi"])
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
"""Any JSON that can be decoded. Other bodies have tests of their own."""
SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def full_workflow() -> Object:
    """Return a Workflow that runs, with every field that the engine reads."""
    item = workflow("whole", suspend=False)
    item["metadata"] |= {"annotations": {"a": "b"}, "finalizers": ["a/b"], "ownerReferences": []}
    item["spec"] |= {
        "ttlStrategy": {"secondsAfterFailure": 3600, "secondsAfterSuccess": 3600},
        "podGC": {"strategy": "OnPodCompletion", "deleteDelayDuration": "5s"},
        "volumes": [{"name": "kit", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 256}]}}],
    }
    item["spec"]["templates"][0] |= {
        "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}},
        "podSpecPatch": '{"terminationGracePeriodSeconds": 1}',
        "activeDeadlineSeconds": 60,
        "nodeSelector": {},
        "volumes": [{"name": "e", "emptyDir": {"sizeLimit": "1Gi"}}],
        "container": {
            "image": "any",
            "command": ["true"],
            "args": ["$(A)"],
            "env": [
                {"name": "A", "value": "b"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            "resources": {"limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"}},
            "volumeMounts": [{"name": "kit", "mountPath": "/kit"}, {"name": "e", "mountPath": "/e", "subPath": "a"}],
            "workingDir": "/e",
        },
    }
    return item


def ended_workflow() -> Object:
    """Return a Workflow that has ended, is owned, shut down and being deleted: more than a client may write."""
    item = full_workflow()
    item["metadata"] |= {
        "ownerReferences": [{"apiVersion": "v1", "kind": "Workflow", "name": "w", "uid": "u"}],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    item["spec"]["shutdown"] = "Stop"
    item["status"] = {
        "phase": "Failed",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:00Z",
        "nodes": {"whole": {"phase": "Failed", "message": "m"}},
    }
    return item


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within a value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths_of(entry, (*path, key))


@st.composite
def mutations(draw: st.DrawFn, item: Object) -> Any:
    """Draw an object in which up to three values are replaced by any JSON."""
    mutated: Any = copy.deepcopy(item)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(paths_of(mutated))))
        value = draw(ANY)
        if not path:
            return value
        target = mutated
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    return mutated


class Client:
    """An HTTP client that sends any bytes."""

    def __init__(self, embedded: Embedded) -> None:
        self.embedded = embedded
        trust = ssl.create_default_context(cadata=embedded.certificate.decode())
        self._connection = http.client.HTTPSConnection("127.0.0.1", embedded.port, timeout=20, context=trust)

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, Object]:
        """Send a request; return the response's code and its JSON, which must be strict."""
        headers = {"Authorization": f"Bearer {self.embedded.token}", "Content-Type": kind}
        self._connection.request(method, f"/{path}", body or None, headers)
        response = self._connection.getresponse()
        content: Object = json.loads(response.read(), parse_constant=_refuse_constant)
        return response.status, content

    def expect_refusal(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Object:
        """Send a request that must be refused, and return the Status object."""
        code, status = self.send(method, path, body, kind)
        assert 400 <= code < 500 or code == 501, status
        expected = ("Status", "v1", "Failure", code)
        assert (status["kind"], status["apiVersion"], status["status"], status["code"]) == expected
        assert status["message"]
        assert status["reason"]
        return status


def _refuse_constant(name: str) -> Any:
    raise AssertionError(f"the response contains {name}")


@pytest.fixture(scope="module")
def client(embedded: Embedded) -> Client:
    return Client(embedded)


def assert_jobs_run(cluster: EmbeddedCluster) -> None:
    """Assert that a normal job runs to its end."""
    name = f"normal-{next(NAMES)}"
    cluster.create(workflow(name, "print('text')", suspend=False))
    eventually(lambda: phase(cluster, name) == "Succeeded", 20, "a normal job succeeds")
    cluster.delete("workflows.argoproj.io", cluster.workflow(name))


WORKFLOWS, SECRETS = f"{ARGO}/namespaces/{NAMESPACE}/workflows", f"{CORE}/namespaces/{NAMESPACE}/secrets"
SECRET = {
    "kind": "Secret",
    "metadata": {"name": "whole", "labels": {"a": "b"}},
    "type": "Opaque",
    "data": {"a": "eA=="},
    "stringData": {"b": "c"},
}
QUOTA = {"kind": "ResourceQuota", "metadata": {"name": "whole"}, "spec": {"hard": {"pods": "1000"}}}
OPTIONS = {
    "kind": "DeleteOptions",
    "gracePeriodSeconds": 0,
    "preconditions": {"uid": "u", "resourceVersion": "1"},
    "propagationPolicy": "Background",
    "dryRun": ["All"],
}
POD = f"{CORE}/namespaces/{NAMESPACE}/pods/whole"
ACCOUNT = f"{CORE}/namespaces/{NAMESPACE}/serviceaccounts"
QUOTAS = f"{CORE}/namespaces/{NAMESPACE}/resourcequotas"
VERBS: dict[str, tuple[str, str, Object]] = {
    "create a Workflow": ("POST", WORKFLOWS, full_workflow()),
    "create a Workflow that has ended": ("POST", WORKFLOWS, ended_workflow()),
    "update a Workflow": ("PUT", f"{WORKFLOWS}/whole", full_workflow()),
    "patch a Workflow": ("PATCH", f"{WORKFLOWS}/whole", full_workflow()),
    "patch a Workflow's status": ("PATCH", f"{WORKFLOWS}/whole", {"status": ended_workflow()["status"]}),
    "delete a Workflow": ("DELETE", f"{WORKFLOWS}/whole", OPTIONS),
    "create a Secret": ("POST", SECRETS, SECRET),
    "update a Secret": ("PUT", f"{SECRETS}/whole", SECRET),
    "patch a Secret": ("PATCH", f"{SECRETS}/whole", SECRET),
    "delete a Secret": ("DELETE", f"{SECRETS}/whole", OPTIONS),
    "create a quota": ("POST", QUOTAS, QUOTA),
    "delete a quota": ("DELETE", f"{QUOTAS}/whole", OPTIONS),
    "create an account": ("POST", ACCOUNT, {"kind": "ServiceAccount", "metadata": {"name": "whole"}}),
    "delete an account": ("DELETE", f"{ACCOUNT}/whole", OPTIONS),
    "create a token": ("POST", f"{ACCOUNT}/default/token", {"kind": "TokenRequest", "spec": {"audiences": ["a"]}}),
    "delete a pod": ("DELETE", POD, OPTIONS),
    "evict a pod": ("POST", f"{POD}/eviction", {"kind": "Eviction", "deleteOptions": OPTIONS}),
}


@pytest.mark.parametrize("verb", VERBS)
def test_any_body_gets_an_answer(verb: str, cluster: EmbeddedCluster, client: Client) -> None:
    method, path, template = VERBS[verb]
    kind = MERGE if method == "PATCH" else "application/json"
    collection = path.partition("/whole")[0]
    codes: Counter[int] = Counter()

    def prepare() -> None:
        """Create the object that the path names, in case the last body has deleted it."""
        item = {"metadata": {"name": "whole"}, "spec": full_workflow()["spec"] if collection == WORKFLOWS else {}}
        if path != collection and collection != POD.partition("/whole")[0]:
            client.send("POST", collection, json.dumps(item).encode())

    @SETTINGS
    @given(body=mutations(template) | ANY)
    def send(body: Any) -> None:
        prepare()
        if method == "POST" and isinstance(body, dict) and isinstance(body.get("metadata"), dict):
            meta = body["metadata"]
            meta["name"] = f"whole-{next(NAMES)}" if meta.get("name") == "whole" else meta.get("name")
        code, content = client.send(method, path, json.dumps(body).encode(), kind)
        codes[code] += 1
        assert isinstance(content, dict)
        assert code < 500 or code == 501, content
        if code >= 400:
            assert (content["kind"], content["status"], content["code"]) == ("Status", "Failure", code)

    client.send("POST", SECRETS, json.dumps({"metadata": {"name": "s"}, "data": {"k": "eA=="}}).encode())
    send()
    assert "pod" in verb or {code // 100 for code in codes} == {2, 4}, codes
    assert_jobs_run(cluster)
    assert cluster.embedded._cluster.failure is None
    for resource in (WORKFLOWS, SECRETS, QUOTAS):
        for item in client.send("GET", resource)[1]["items"]:
            client.send("DELETE", f"{resource}/{item['metadata']['name']}")
    assert_jobs_run(cluster)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"5", 400),
        (b"{", 400),
        (b'{"metadata": 5}', 400),
        (b'{"metadata": {"name": "a", "labels": {"a": 1}}}', 400),
        (b'{"metadata": {"name": "a"}, "spec": []}', 422),
        (b'{"metadata": {"name": "a/b"}, "spec": {}}', 422),
        (b'{"metadata": {"name": "a%2Fb"}, "spec": {}}', 422),
        (b'{"metadata": {"name": ".."}, "spec": {}}', 422),
        (b'{"metadata": {}, "spec": {}}', 422),
        (b'{"metadata": {"name": "a"}, "spec": {"templates": [{"metadata": 5}]}}', 422),
        (b'{"metadata": {"name": "a"}, "spec": {"a": %s}}' % (b"9" * 5000), 400),
        (b'{"metadata": {"name": "a"}, "spec": {"a": 1e999}}', 400),
        (b'{"metadata": {"name": "a"}, "spec": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, 400),
        (b'{"metadata": {"name": "a"}, "spec": {"a": "%s"}}' % (b"x" * 2**25), 413),
    ],
)
def test_invalid_body_is_refused(client: Client, body: bytes, code: int) -> None:
    assert client.expect_refusal("POST", WORKFLOWS, body)["code"] == code


def test_invalid_patch_is_refused(cluster: EmbeddedCluster, client: Client) -> None:
    cluster.create(workflow("patched"))
    for body, code in (
        (b'{"metadata": 5}', 400),
        (b'{"metadata": {"labels": ["a"]}}', 400),
        (b'{"spec": []}', 422),
        (b'{"spec": {"templates": 5}}', 422),
        (b'{"status": {"phase": "Failed", "finishedAt": 5}}', 422),
        (b"[]", 400),
        (b"null", 400),
    ):
        assert client.expect_refusal("PATCH", f"{WORKFLOWS}/patched", body, MERGE)["code"] == code
    assert cluster.workflow("patched")["spec"]["suspend"] is True


@pytest.mark.parametrize("name", ["..%2Fsecrets%2Fx", "a%2Fb", "%2E%2E", "..", ".", "a%252Fb", "%ff"])
def test_encoded_slash_in_a_name_is_refused(cluster: EmbeddedCluster, client: Client, name: str) -> None:
    for path in (f"{WORKFLOWS}/{name}", f"{CORE}/namespaces/{name}/secrets/x", f"{SECRETS}/{name}", f"{POD}/{name}"):
        assert client.expect_refusal("DELETE", path)["code"] == 400
        assert client.expect_refusal("GET", path)["code"] == 400
    del cluster


def test_encoded_slash_begins_no_path_segment(cluster: EmbeddedCluster, client: Client) -> None:
    cluster.create({"kind": "Secret", "metadata": {"name": "kept"}})
    assert client.expect_refusal("DELETE", f"{CORE}/namespaces/other%2F..%2F{NAMESPACE}/secrets/kept")["code"] == 400
    assert client.expect_refusal("DELETE", f"{CORE}/namespaces/{NAMESPACE}/secrets%2Fkept")["code"] == 400
    assert client.expect_refusal("GET", f"{CORE}%2Fnamespaces/{NAMESPACE}/secrets/kept")["code"] == 501
    assert cluster.secrets("kept") == ["kept"]
    assert client.send("GET", f"{SECRETS}/%6bept")[0] == 200, "a letter may be encoded"


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "limit=-1",
        "limit=%C2%B2",
        "continue=x",
        "continue=eA%3D%3D",
        "continue=WzEsMl0%3D",
        "watch=true&timeoutSeconds=soon",
        "watch=true&timeoutSeconds=1e999",
        "watch=true&resourceVersion=%C2%B2",
        "watch=true&resourceVersion=" + "9" * 30,
        "labelSelector=a(b",
    ],
)
def test_invalid_query_is_refused(client: Client, query: str) -> None:
    assert client.expect_refusal("GET", f"{SECRETS}?{query}")["code"] == 400


@pytest.mark.parametrize("query", ["tailLines=x", "tailLines=-1", "limitBytes=%C2%B2", "sinceTime=soon", "sinceTime=0"])
def test_invalid_log_options_are_refused(cluster: EmbeddedCluster, client: Client, query: str) -> None:
    if not cluster.items("workflows", "of=spoke"):
        cluster.create(workflow("spoke", "print('text')", suspend=False))
    eventually(lambda: phase(cluster, "spoke") == "Succeeded", 20, "the Workflow has a log")
    assert client.expect_refusal("GET", f"{CORE}/namespaces/{NAMESPACE}/pods/spoke/log?{query}")["code"] == 400


def test_other_methods_are_not_served(client: Client) -> None:
    assert client.expect_refusal("TRACE", SECRETS)["code"] == 501
    assert client.expect_refusal("POST", f"{SECRETS}/x", b"{}")["code"] == 501


def with_volume(name: str, item_path: str = "k", **mount: str) -> Object:
    """Return a Workflow that mounts the Secret ``kit``."""
    item = workflow(name, "print('text')", suspend=False)
    container = item["spec"]["templates"][0]["container"]
    container["volumeMounts"] = [{"name": "kit", "mountPath": "/kit", **mount}]
    secret = {"secretName": "kit", "items": [{"key": "k", "path": item_path}]}
    item["spec"]["volumes"] = [{"name": "kit", "secret": secret}]
    return item


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (with_volume("climbs", "../../../climbed"), "spec.volumes[0].secret.items[0].path"),
        (with_volume("absolute", "/tmp/climbed"), "spec.volumes[0].secret.items[0].path"),
        (with_volume("below", subPath="../../../climbed"), "spec.containers[1].volumeMounts[0].subPath"),
        (with_volume("expanded", subPathExpr="../climbed"), "spec.containers[1].volumeMounts[0].subPathExpr"),
        (with_volume("mounted", mountPath="/kit/../../../climbed"), "spec.containers[1].volumeMounts[0].mountPath"),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "",
)
def test_path_out_of_a_volume_is_refused(cluster: EmbeddedCluster, client: Client, item: Object, field: str) -> None:
    """The Workflow is stored; the API refuses its pod, and names the field, as on a real cluster."""
    client.send("POST", SECRETS, json.dumps({"metadata": {"name": "kit"}, "data": {"k": "eA=="}}).encode())
    cluster.create(item)
    name = item["metadata"]["name"]
    eventually(lambda: phase(cluster, name) == "Error", 20, "the pod is refused")
    assert f'Pod "{name}" is invalid: {field}: Invalid value: ' in cluster.workflow(name)["status"]["message"]
    assert list(cluster.embedded.root.rglob("climbed")) == []
    assert not Path("/tmp/climbed").exists()


def test_failing_object_does_not_affect_others(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the sync of one object is logged once, without the error's text, and the sync is retried."""
    real = kubelet.sync_pod

    def sync_pod(view: kubelet.PodView, *others: Any) -> kubelet.PodActions:
        if view.pod.item["metadata"]["name"] == "unlucky":
            raise KeyError("planted")
        return real(view, *others)

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(kubelet, "sync_pod", sync_pod)
        cluster.create(workflow("unlucky", "print('late')", suspend=False))
        assert_jobs_run(cluster)
        time.sleep(2.5)
        assert phase(cluster, "unlucky") == "Running"
    (line,) = [line for line in caplog.messages if "unlucky" in line]
    assert "Sync of pods flare/unlucky failed (KeyError at test_hostile.py:" in line
    assert "planted" not in caplog.text
    eventually(lambda: phase(cluster, "unlucky") == "Succeeded", 20, "the sync is retried")
