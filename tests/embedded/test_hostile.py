"""Clients that send anything: each is answered as Kubernetes would, and the engine goes on."""

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
"""All of it can be decoded: what cannot has tests of its own."""
SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def whole() -> Object:
    """A Workflow that runs, with all that the engine reads of one."""
    made = workflow("whole", suspend=False)
    made["metadata"] |= {"annotations": {"a": "b"}, "finalizers": ["a/b"], "ownerReferences": []}
    made["spec"] |= {
        "ttlStrategy": {"secondsAfterFailure": 3600, "secondsAfterSuccess": 3600},
        "podGC": {"strategy": "OnPodCompletion", "deleteDelayDuration": "5s"},
        "volumes": [{"name": "kit", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 256}]}}],
    }
    made["spec"]["templates"][0] |= {
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
    return made


def over() -> Object:
    """A Workflow that is over, owned, shut down and being deleted, as no client has to write it."""
    made = whole()
    made["metadata"] |= {
        "ownerReferences": [{"apiVersion": "v1", "kind": "Workflow", "name": "w", "uid": "u"}],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
    }
    made["spec"]["shutdown"] = "Stop"
    made["status"] = {
        "phase": "Failed",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:00Z",
        "nodes": {"whole": {"phase": "Failed", "message": "m"}},
    }
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


@st.composite
def nearly(draw: st.DrawFn, item: Object) -> Any:
    """An object in which a few values have been replaced by anything."""
    made: Any = copy.deepcopy(item)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(places(made))))
        value = draw(ANY)
        if not path:
            return value
        target = made
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
    return made


class Client:
    """Sends any bytes, and reads any answer."""

    def __init__(self, embedded: Embedded) -> None:
        self.embedded = embedded
        trust = ssl.create_default_context(cadata=embedded.certificate.decode())
        self._connection = http.client.HTTPSConnection("127.0.0.1", embedded.port, timeout=20, context=trust)

    def send(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, Object]:
        headers = {"Authorization": f"Bearer {self.embedded.token}", "Content-Type": kind}
        self._connection.request(method, f"/{path}", body or None, headers)
        answer = self._connection.getresponse()
        said: Object = json.loads(answer.read(), parse_constant=_no_constant)
        return answer.status, said

    def refused(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Object:
        """Send what has to be refused; the Status."""
        code, said = self.send(method, path, body, kind)
        assert 400 <= code < 500 or code == 501, said
        assert (said["kind"], said["apiVersion"], said["status"], said["code"]) == ("Status", "v1", "Failure", code)
        assert said["message"]
        assert said["reason"]
        return said


def _no_constant(name: str) -> Any:
    raise AssertionError(f"an answer with {name}")


@pytest.fixture(scope="module")
def client(embedded: Embedded) -> Client:
    return Client(embedded)


def runs_a_job(cluster: EmbeddedCluster) -> None:
    """A normal job runs to its end."""
    name = f"normal-{next(NAMES)}"
    cluster.create(workflow(name, "print('well')", suspend=False))
    eventually(lambda: phase(cluster, name) == "Succeeded", 20, "a normal job still runs")
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
    "create a Workflow": ("POST", WORKFLOWS, whole()),
    "create a Workflow that is over": ("POST", WORKFLOWS, over()),
    "update a Workflow": ("PUT", f"{WORKFLOWS}/whole", whole()),
    "patch a Workflow": ("PATCH", f"{WORKFLOWS}/whole", whole()),
    "patch a Workflow's status": ("PATCH", f"{WORKFLOWS}/whole", {"status": over()["status"]}),
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
def test_any_body_is_answered_and_the_engine_goes_on(verb: str, cluster: EmbeddedCluster, client: Client) -> None:
    method, path, like = VERBS[verb]
    kind = MERGE if method == "PATCH" else "application/json"
    collection = path.partition("/whole")[0]
    answers: Counter[int] = Counter()

    def prepare() -> None:
        """The object that the path names is there, whatever the last body did to it."""
        item = {"metadata": {"name": "whole"}, "spec": whole()["spec"] if collection == WORKFLOWS else {}}
        if path != collection and collection != POD.partition("/whole")[0]:
            client.send("POST", collection, json.dumps(item).encode())

    @SETTINGS
    @given(body=nearly(like) | ANY)
    def send(body: Any) -> None:
        prepare()
        if method == "POST" and isinstance(body, dict) and isinstance(body.get("metadata"), dict):
            names = body["metadata"]
            names["name"] = f"whole-{next(NAMES)}" if names.get("name") == "whole" else names.get("name")
        code, said = client.send(method, path, json.dumps(body).encode(), kind)
        answers[code] += 1
        assert isinstance(said, dict)
        assert code < 500 or code == 501, said
        if code >= 400:
            assert (said["kind"], said["status"], said["code"]) == ("Status", "Failure", code)

    client.send("POST", SECRETS, json.dumps({"metadata": {"name": "s"}, "data": {"k": "eA=="}}).encode())
    send()
    assert "pod" in verb or {each // 100 for each in answers} == {2, 4}, answers
    runs_a_job(cluster)
    assert cluster.embedded._cluster.failure is None
    for resource in (WORKFLOWS, SECRETS, QUOTAS):
        for item in client.send("GET", resource)[1]["items"]:
            client.send("DELETE", f"{resource}/{item['metadata']['name']}")
    runs_a_job(cluster)


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
def test_a_body_of_another_shape_is_refused(client: Client, body: bytes, code: int) -> None:
    assert client.refused("POST", WORKFLOWS, body)["code"] == code


def test_a_patch_cannot_make_an_object_of_another_shape(cluster: EmbeddedCluster, client: Client) -> None:
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
        assert client.refused("PATCH", f"{WORKFLOWS}/patched", body, MERGE)["code"] == code
    assert cluster.workflow("patched")["spec"]["suspend"] is True


@pytest.mark.parametrize("name", ["..%2Fsecrets%2Fx", "a%2Fb", "%2E%2E", "..", ".", "a%252Fb", "%ff"])
def test_an_encoded_slash_reaches_no_other_object(cluster: EmbeddedCluster, client: Client, name: str) -> None:
    for path in (f"{WORKFLOWS}/{name}", f"{CORE}/namespaces/{name}/secrets/x", f"{SECRETS}/{name}", f"{POD}/{name}"):
        assert client.refused("DELETE", path)["code"] == 400
        assert client.refused("GET", path)["code"] == 400
    del cluster


def test_an_encoded_path_is_not_another_path(cluster: EmbeddedCluster, client: Client) -> None:
    cluster.create({"kind": "Secret", "metadata": {"name": "kept"}})
    assert client.refused("DELETE", f"{CORE}/namespaces/other%2F..%2F{NAMESPACE}/secrets/kept")["code"] == 400
    assert client.refused("DELETE", f"{CORE}/namespaces/{NAMESPACE}/secrets%2Fkept")["code"] == 400
    assert client.refused("GET", f"{CORE}%2Fnamespaces/{NAMESPACE}/secrets/kept")["code"] == 501
    assert cluster.secrets("kept") == ["kept"]
    assert client.send("GET", f"{SECRETS}/%6bept")[0] == 200, "other encoding means what it means everywhere"


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
def test_a_query_that_cannot_be_understood_is_refused(client: Client, query: str) -> None:
    assert client.refused("GET", f"{SECRETS}?{query}")["code"] == 400


@pytest.mark.parametrize("query", ["tailLines=x", "tailLines=-1", "limitBytes=%C2%B2", "sinceTime=soon", "sinceTime=0"])
def test_a_part_of_a_log_that_cannot_be_understood_is_refused(
    cluster: EmbeddedCluster, client: Client, query: str
) -> None:
    if not cluster.items("workflows", "of=spoke"):
        cluster.create(workflow("spoke", "print('said')", suspend=False))
    eventually(lambda: phase(cluster, "spoke") == "Succeeded", 20, "it has spoken")
    assert client.refused("GET", f"{CORE}/namespaces/{NAMESPACE}/pods/spoke/log?{query}")["code"] == 400


def test_a_method_that_is_not_kubernetes_is_not_served(client: Client) -> None:
    assert client.refused("TRACE", SECRETS)["code"] == 501
    assert client.refused("POST", f"{SECRETS}/x", b"{}")["code"] == 501


def with_volume(name: str, item: str = "k", **mount: str) -> Object:
    made = workflow(name, "print('ran')", suspend=False)
    container = made["spec"]["templates"][0]["container"]
    container["volumeMounts"] = [{"name": "kit", "mountPath": "/kit", **mount}]
    secret = {"secretName": "kit", "items": [{"key": "k", "path": item}]}
    made["spec"]["volumes"] = [{"name": "kit", "secret": secret}]
    return made


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (with_volume("climbs", "../../../climbed"), "spec.volumes[0].secret.items[0].path"),
        (with_volume("absolute", "/tmp/climbed"), "spec.volumes[0].secret.items[0].path"),
        (with_volume("below", subPath="../../../climbed"), "spec.containers[1].volumeMounts[0].subPath"),
        (with_volume("expanded", subPathExpr="../climbed"), "spec.containers[1].volumeMounts[0].subPathExpr"),
        (with_volume("mounted", mountPath="/kit/../../../climbed"), "spec.containers[1].volumeMounts[0].mountPath"),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "",
)
def test_a_path_that_climbs_makes_no_pod(cluster: EmbeddedCluster, client: Client, made: Object, field: str) -> None:
    """As on a cluster: the Workflow is stored, and its pod is refused by the API with the field's path."""
    client.send("POST", SECRETS, json.dumps({"metadata": {"name": "kit"}, "data": {"k": "eA=="}}).encode())
    cluster.create(made)
    name = made["metadata"]["name"]
    eventually(lambda: phase(cluster, name) == "Error", 20, "its pod is refused")
    assert f'Pod "{name}" is invalid: {field}: Invalid value: ' in cluster.workflow(name)["status"]["message"]
    assert list(cluster.embedded.root.rglob("climbed")) == []
    assert not Path("/tmp/climbed").exists()


def test_one_object_that_cannot_be_moved_holds_up_no_other(
    cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug that one object meets is logged once, without the error's text; the object is tried again."""
    real = kubelet.sync_pod

    def sync_pod(view: kubelet.PodView, *others: Any) -> kubelet.PodActions:
        if view.pod.item["metadata"]["name"] == "unlucky":
            raise KeyError("planted")
        return real(view, *others)

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(kubelet, "sync_pod", sync_pod)
        cluster.create(workflow("unlucky", "print('late')", suspend=False))
        runs_a_job(cluster)
        time.sleep(2.5)
        assert phase(cluster, "unlucky") == "Running"
    (line,) = [line for line in caplog.messages if "unlucky" in line]
    assert "Sync of pods flare/unlucky failed (KeyError at test_hostile.py:" in line
    assert "planted" not in caplog.text
    eventually(lambda: phase(cluster, "unlucky") == "Succeeded", 20, "it is tried again")
