"""Tests of the embedded engine's checks of objects and paths, and of files that must stay below their folder."""

import base64
import json
import os
import string
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.embedded import kubelet, pod_manifest, safe_paths, schema
from flargo.embedded.model import quantity
from flargo.embedded.mounts import build_volumes
from flargo.embedded.store import RefusedError, Store

Object = dict[str, Any]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
LINK = "Not a directory|File exists"
SECRET = {"name": "kit", "secret": {"secretName": "kit"}}


def pod(*mounts: Object, volumes: list[Object]) -> Object:
    meta = {"name": "p", "namespace": "n", "uid": "u"}
    main = {"name": "main", "image": "i", "volumeMounts": list(mounts)}
    wait = {"name": "wait", "image": "i"}
    init = {"name": "init", "image": "i"}
    return {"metadata": meta, "spec": {"containers": [main, wait], "initContainers": [init], "volumes": volumes}}


def problem_text(item: Object, resource: str = "pods") -> str:
    problem = schema.find_problem(resource, item)
    return str(problem) if problem else ""


def secret_pod(path: str) -> Object:
    items = [{"key": "k", "path": path}]
    return pod(
        {"name": "kit", "mountPath": "/kit"}, volumes=[{"name": "kit", "secret": {"secretName": "s", "items": items}}]
    )


# JSON


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "line 1, column 2"),
        (b"\xff", "not UTF-8"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"1e999", "out of range"),
        (b"9223372036854775808", "64 bits"),
        (b"1" * 100_000, "64 bits"),
        (b"[" * 102 + b"]" * 102, "max depth"),
        (b"[" * 100_000, "max depth"),
        (b'{"a":' * 100_000, "max depth"),
    ],
)
def test_json_beyond_kubernetes_limits_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match="invalid JSON") as caught:
        schema.decode_json(raw)
    assert reason in str(caught.value)


def test_unpaired_surrogates_are_replaced() -> None:
    assert schema.decode_json(rb'{"\ud800": "a\udfffb"}') == {"\ufffd": "a\ufffdb"}


@given(JSON)
def test_other_json_is_decoded_unchanged(value: Any) -> None:
    assert schema.decode_json(json.dumps(value)) == value


# Shapes


@pytest.mark.parametrize("resource", ["workflows", "pods", "secrets", "serviceaccounts", "resourcequotas", "events"])
@given(item=JSON, meta=JSON, spec=JSON, status=JSON)
def test_any_json_can_be_checked(resource: str, item: Any, meta: Any, spec: Any, status: Any) -> None:
    for each in (item, {"metadata": meta, "spec": spec, "status": status}):
        assert str(schema.find_problem(resource, each) or "ok")


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ([], "<nil>"),
        ({"metadata": 5}, "metadata"),
        ({"metadata": {"name": "a/b"}}, "metadata.name"),
        ({"metadata": {"name": ".."}}, "metadata.name"),
        ({"metadata": {"name": "A"}}, "metadata.name"),
        ({"metadata": {"name": "a\n"}}, "metadata.name"),
        ({"metadata": {"name": "a" * 254}}, "metadata.name"),
        ({"metadata": {"generateName": "../"}}, "metadata.generateName"),
        ({"metadata": {"namespace": "a.b"}}, "metadata.namespace"),
        ({"metadata": {"labels": {"a": 1}}}, "metadata.labels[a]"),
        ({"metadata": {"labels": {"a": "b c"}}}, "metadata.labels[a]"),
        ({"metadata": {"labels": {"a/b/c": ""}}}, "metadata.labels"),
        ({"metadata": {"labels": ["a"]}}, "metadata.labels"),
        ({"metadata": {"annotations": {"a": {}}}}, "metadata.annotations[a]"),
        ({"metadata": {"ownerReferences": [{"kind": "Workflow"}]}}, "metadata.ownerReferences[0].apiVersion"),
        ({"metadata": {"creationTimestamp": "9999-99-99T00:00:00Z"}}, "metadata.creationTimestamp"),
        ({"spec": []}, "spec"),
        ({"spec": {"templates": {}}}, "spec.templates"),
        ({"spec": {"templates": [{"metadata": 5}]}}, "spec.templates[0].metadata"),
        ({"spec": {"templates": [{"container": []}]}}, "spec.templates[0].container"),
        ({"spec": {"ttlStrategy": {"secondsAfterSuccess": 2**40}}}, "spec.ttlStrategy.secondsAfterSuccess"),
        ({"status": {"finishedAt": "never"}}, "status.finishedAt"),
        ({"status": {"nodes": {"a": 1}}}, "status.nodes[a]"),
    ],
)
def test_problem_of_a_workflow_names_its_path(item: Any, path: str) -> None:
    problem = schema.find_problem("workflows", item)
    assert problem is not None
    assert problem.path == path


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"../x": "eA=="}, "data[../x]"),
        ({"a/b": "eA=="}, "data[a/b]"),
        ({"..x": "eA=="}, "data[..x]"),
        ({"a": "no base64"}, "data[a]"),
        ({"a": 1}, "data[a]"),
    ],
)
def test_problem_of_a_secret_names_its_path(data: Object, path: str) -> None:
    problem = schema.find_problem("secrets", {"data": data})
    assert problem is not None
    assert problem.path == path


def test_invalid_objects_get_kubernetes_codes() -> None:
    store = Store(lambda: 0.0)
    for resource, item, code, start in (
        ("workflows", {"metadata": {"name": "a"}, "spec": []}, 422, 'Workflow.argoproj.io "a" is invalid: spec: '),
        ("workflows", {"metadata": 5}, 400, "Workflow.argoproj.io cannot be handled"),
        ("secrets", {"metadata": {"name": "a"}, "data": []}, 400, "Secret cannot be handled"),
        ("secrets", {"metadata": {"name": "../a"}}, 422, 'Secret "../a" is invalid: metadata.name: '),
    ):
        with pytest.raises(RefusedError) as caught:
            store.create(resource, "n", item)
        assert caught.value.code == code
        assert caught.value.message.startswith(start)
    with pytest.raises(RefusedError, match=r"metadata\.namespace"):
        store.create("secrets", "..", {"metadata": {"name": "a"}})


def test_deletion_fields_of_clients_are_ignored() -> None:
    store = Store(lambda: 0.0)
    fields = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}
    created = store.create("secrets", "n", {"metadata": {"name": "a", **fields}})
    assert not set(fields) & set(created["metadata"])
    (entry,) = store.select("secrets")
    key = next(iter(store._objects))
    assert not set(fields) & set(store.merge(key, {"metadata": fields})["metadata"])
    assert entry.item == created


@pytest.mark.parametrize(
    "patch", ["[]", "5", '{"containers": 5}', '{"containers": null}', '{"containers": []}', "[" * 5000]
)
def test_invalid_pod_spec_patch_is_refused(patch: str) -> None:
    """The Workflow, the pod's schema or the admission refuses it."""
    template = {"name": "t", "container": {"image": "i"}, "podSpecPatch": patch}
    workflow = {"metadata": {"name": "w", "uid": "u"}, "spec": {"entrypoint": "t", "templates": [template]}}
    if pod_manifest.find_problem(workflow):
        return
    item = pod_manifest.build_pod(workflow)
    assert problem_text(item) or "it has no container main" in kubelet.admission_denial(item, {"default"}, "")


@given(st.text(alphabet=string.digits + ".eEmkKMGTPi-+_ ²infa", max_size=12))
def test_quantity_is_finite_or_refused(text: str) -> None:
    try:
        number = quantity(text)
    except ValueError:
        return
    assert 0 <= number < float("inf")


# Paths


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../x", "must not contain '..'"),
        ("a/../../x", "must not contain '..'"),
        ("..", "must not contain '..'"),
        ("/etc/x", "must be a relative path"),
        ("..data", "must not start with '..'"),
        ("", "Required value"),
    ],
)
def test_item_path_must_stay_in_its_volume(path: str, reason: str) -> None:
    text = problem_text(secret_pod(path))
    assert text.startswith("spec.volumes[0].secret.items[0].path: ")
    assert reason in text
    for source in ("secret", "configMap"):
        volume = {"name": "kit", "projected": {"sources": [{source: {"items": [{"key": "k", "path": path}]}}]}}
        assert f"spec.volumes[0].projected.sources[0].{source}.items[0].path" in problem_text(pod(volumes=[volume]))


@pytest.mark.parametrize("field", ["subPath", "subPathExpr"])
@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc"])
def test_sub_path_must_stay_in_its_volume(field: str, path: str) -> None:
    item = pod({"name": "kit", "mountPath": "/kit", field: path}, volumes=[SECRET])
    assert problem_text(item).startswith(f"spec.containers[0].volumeMounts[0].{field}: Invalid value: ")


@pytest.mark.parametrize("path", ["/a/../../x", "a", "/", "/a//b", "/a/./b", ""])
def test_mount_path_must_be_absolute_and_plain(path: str) -> None:
    assert "volumeMounts[0].mountPath" in problem_text(pod({"name": "kit", "mountPath": path}, volumes=[SECRET]))


def test_mount_paths_must_differ() -> None:
    mounts = [{"name": "kit", "mountPath": path} for path in ("/a", "/a/")]
    assert "Duplicate value" in problem_text(pod(*mounts, volumes=[SECRET]))


def test_volume_name_must_be_a_label() -> None:
    assert problem_text(pod(volumes=[{"name": "../x", "emptyDir": {}}])).startswith("spec.volumes[0].name: ")


def test_sub_path_expression_is_unsupported() -> None:
    item = pod({"name": "kit", "mountPath": "/kit", "subPathExpr": "$(A)"}, volumes=[SECRET])
    assert problem_text(item) == ""
    assert "subPathExpr" in kubelet.admission_denial(item, {"default"}, "")


def build_in(folder: Path, item: Object, claim: Path | None = None) -> Path:
    """Build a pod's volumes below ``folder``, and return the pod's folder, outside of which nothing may be written."""
    root = folder / "pods" / "u"
    data = {"k": base64.b64encode(b"value").decode()}
    build_volumes(item, root, lambda _: {"data": data}, {"c": claim} if claim else {})
    return root


def files_outside(folder: Path) -> set[Path]:
    """Return the files below ``folder`` that are outside the folder of pods."""
    return {path for path in folder.rglob("*") if not path.is_relative_to(folder / "pods")}


@pytest.mark.parametrize("path", ["../x", "a/../../../x", "/x"])
def test_unchecked_paths_cannot_leave_a_volume(path: str, tmp_path: Path) -> None:
    """The API refuses such a pod, but the code that writes files does not rely on that."""
    outer_path = f"{tmp_path}/x" if path == "/x" else path
    with pytest.raises(ValueError, match="out of its folder"):
        build_in(tmp_path, secret_pod(outer_path))
    assert files_outside(tmp_path) == set()
    item = pod({"name": "kit", "mountPath": "/kit", "subPath": outer_path}, volumes=[SECRET])
    with pytest.raises(ValueError, match="out of its folder"):
        build_in(tmp_path / "second", item)


def test_sub_path_follows_no_link(tmp_path: Path) -> None:
    """An earlier job may have left a link in a claim."""
    claim, elsewhere = tmp_path / "claim", tmp_path / "elsewhere"
    claim.mkdir()
    elsewhere.mkdir()
    (claim / "link").symlink_to(elsewhere)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    for path in ("link", "link/inner"):
        item = pod({"name": "data", "mountPath": "/data", "subPath": path}, volumes=[volume])
        with pytest.raises(OSError, match=LINK):
            build_in(tmp_path / path.replace("/", "-"), item, claim)
    assert list(elsewhere.iterdir()) == []


def test_files_are_not_written_through_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "link").symlink_to(elsewhere)
    (tmp_path / "volume" / "file").symlink_to(elsewhere / "file")
    for path in ("link/file", "file"):
        with pytest.raises(OSError, match=LINK):
            safe_paths.write(tmp_path / "volume", path, b"", 0o400)
    with pytest.raises(OSError, match=LINK):
        safe_paths.link(tmp_path / "volume", "link/inner", tmp_path)
    assert list(elsewhere.iterdir()) == []


@given(path=st.lists(st.sampled_from(["..", ".", "", "a", "b", "..a", "a..", "link"]), max_size=6).map("/".join))
def test_nothing_is_created_outside_a_folder(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("below")
    inner, elsewhere = root / "inner", root / "elsewhere"
    inner.mkdir()
    elsewhere.mkdir()
    (inner / "link").symlink_to(elsewhere)
    try:
        folder = safe_paths.make_folder(inner, path)
        assert folder.is_dir()
        assert PurePosixPath(os.path.normpath(folder)).is_relative_to(inner)
        safe_paths.write(folder, "file", b"x", 0o400)
    except (OSError, ValueError):
        pass
    assert list(elsewhere.iterdir()) == []
    assert {each.name for each in root.iterdir()} == {"inner", "elsewhere"}


@pytest.mark.parametrize("amount", ["many", "1e400", "", True])
def test_quota_of_no_quantity_is_refused(amount: object) -> None:
    """The engine counts pods against it, so an accepted one stopped every job of the namespace."""
    problem = schema.find_problem("resourcequotas", {"spec": {"hard": {"pods": amount}}})
    assert problem is not None
    assert problem.path == "spec.hard[pods]"
