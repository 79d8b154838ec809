"""The embedded engine's checks of what clients send, and its files that stay below their folder."""

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


def problem(item: Object, resource: str = "pods") -> str:
    found = schema.find_problem(resource, item)
    return str(found) if found else ""


def secret_pod(path: str) -> Object:
    items = [{"key": "k", "path": path}]
    return pod(
        {"name": "kit", "mountPath": "/kit"}, volumes=[{"name": "kit", "secret": {"secretName": "s", "items": items}}]
    )


# JSON


@pytest.mark.parametrize(
    ("raw", "why"),
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
def test_json_that_kubernetes_cannot_decode_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match="invalid JSON") as caught:
        schema.decode_json(raw)
    assert why in str(caught.value)


def test_half_of_a_surrogate_pair_is_replaced() -> None:
    assert schema.decode_json(rb'{"\ud800": "a\udfffb"}') == {"\ufffd": "a\ufffdb"}


@given(JSON)
def test_other_json_is_decoded_as_it_is(value: Any) -> None:
    assert schema.decode_json(json.dumps(value)) == value


# Shapes


@pytest.mark.parametrize("resource", ["workflows", "pods", "secrets", "serviceaccounts", "resourcequotas", "events"])
@given(item=JSON, meta=JSON, spec=JSON, status=JSON)
def test_any_json_has_a_shape_or_a_problem(resource: str, item: Any, meta: Any, spec: Any, status: Any) -> None:
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
def test_a_workflow_of_another_shape_is_refused_by_path(item: Any, path: str) -> None:
    found = schema.find_problem("workflows", item)
    assert found is not None
    assert found.path == path


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
def test_a_secret_of_another_shape_is_refused_by_path(data: Object, path: str) -> None:
    found = schema.find_problem("secrets", {"data": data})
    assert found is not None
    assert found.path == path


def test_what_is_refused_is_400_or_422_as_kubernetes_has_it() -> None:
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


def test_a_client_does_not_choose_the_time_of_a_deletion() -> None:
    store = Store(lambda: 0.0)
    chosen = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}
    made = store.create("secrets", "n", {"metadata": {"name": "a", **chosen}})
    assert not set(chosen) & set(made["metadata"])
    (seen,) = store.select("secrets")
    key = next(iter(store._objects))
    assert not set(chosen) & set(store.merge(key, {"metadata": chosen})["metadata"])
    assert seen.item == made


@pytest.mark.parametrize(
    "patch", ["[]", "5", '{"containers": 5}', '{"containers": null}', '{"containers": []}', "[" * 5000]
)
def test_a_pod_spec_patch_cannot_make_a_pod_that_the_engine_stumbles_over(patch: str) -> None:
    template = {"name": "t", "container": {"image": "i"}, "podSpecPatch": patch}
    workflow = {"metadata": {"name": "w", "uid": "u"}, "spec": {"entrypoint": "t", "templates": [template]}}
    if pod_manifest.find_problem(workflow):
        return
    made = pod_manifest.build_pod(workflow)
    assert problem(made) or "it has no container main" in kubelet.admission_denial(made, {"default"}, "")


@given(st.text(alphabet=string.digits + ".eEmkKMGTPi-+_ ²infa", max_size=12))
def test_a_quantity_is_a_finite_number(text: str) -> None:
    try:
        number = quantity(text)
    except ValueError:
        return
    assert 0 <= number < float("inf")


# Paths


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../x", "must not contain '..'"),
        ("a/../../x", "must not contain '..'"),
        ("..", "must not contain '..'"),
        ("/etc/x", "must be a relative path"),
        ("..data", "must not start with '..'"),
        ("", "Required value"),
    ],
)
def test_an_items_path_stays_in_its_volume(path: str, why: str) -> None:
    said = problem(secret_pod(path))
    assert said.startswith("spec.volumes[0].secret.items[0].path: ")
    assert why in said
    for source in ("secret", "configMap"):
        volume = {"name": "kit", "projected": {"sources": [{source: {"items": [{"key": "k", "path": path}]}}]}}
        assert f"spec.volumes[0].projected.sources[0].{source}.items[0].path" in problem(pod(volumes=[volume]))


@pytest.mark.parametrize("field", ["subPath", "subPathExpr"])
@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc"])
def test_a_sub_path_stays_in_its_volume(field: str, path: str) -> None:
    made = pod({"name": "kit", "mountPath": "/kit", field: path}, volumes=[SECRET])
    assert problem(made).startswith(f"spec.containers[0].volumeMounts[0].{field}: Invalid value: ")


@pytest.mark.parametrize("path", ["/a/../../x", "a", "/", "/a//b", "/a/./b", ""])
def test_a_mount_path_is_one_place(path: str) -> None:
    assert "volumeMounts[0].mountPath" in problem(pod({"name": "kit", "mountPath": path}, volumes=[SECRET]))


def test_two_volumes_are_not_mounted_at_one_place() -> None:
    mounts = [{"name": "kit", "mountPath": path} for path in ("/a", "/a/")]
    assert "Duplicate value" in problem(pod(*mounts, volumes=[SECRET]))


def test_a_volumes_name_is_no_path() -> None:
    assert problem(pod(volumes=[{"name": "../x", "emptyDir": {}}])).startswith("spec.volumes[0].name: ")


def test_a_sub_path_expression_is_not_left_out_in_silence() -> None:
    made = pod({"name": "kit", "mountPath": "/kit", "subPathExpr": "$(A)"}, volumes=[SECRET])
    assert problem(made) == ""
    assert "subPathExpr" in kubelet.admission_denial(made, {"default"}, "")


def built(made: Object, folder: Path, claim: Path | None = None) -> Path:
    """The folder of a pod, beside which nothing may be written."""
    root = folder / "pods" / "u"
    data = {"k": base64.b64encode(b"value").decode()}
    build_volumes(made, root, lambda _: {"data": data}, {"c": claim} if claim else {})
    return root


def outside(folder: Path) -> set[Path]:
    """What is beside the folder of the pod."""
    return {path for path in folder.rglob("*") if not path.is_relative_to(folder / "pods")}


@pytest.mark.parametrize("path", ["../x", "a/../../../x", "/x"])
def test_no_file_is_written_beside_a_volume_even_unchecked(path: str, tmp_path: Path) -> None:
    """The API refuses such a pod; where files are written it is not relied on."""
    item = f"{tmp_path}/x" if path == "/x" else path
    with pytest.raises(ValueError, match="out of its folder"):
        built(secret_pod(item), tmp_path)
    assert outside(tmp_path) == set()
    made = pod({"name": "kit", "mountPath": "/kit", "subPath": item}, volumes=[SECRET])
    with pytest.raises(ValueError, match="out of its folder"):
        built(made, tmp_path / "second")


def test_a_sub_path_follows_no_link_that_an_earlier_job_left(tmp_path: Path) -> None:
    claim, elsewhere = tmp_path / "claim", tmp_path / "elsewhere"
    claim.mkdir()
    elsewhere.mkdir()
    (claim / "link").symlink_to(elsewhere)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "c"}}
    for path in ("link", "link/inner"):
        made = pod({"name": "data", "mountPath": "/data", "subPath": path}, volumes=[volume])
        with pytest.raises(OSError, match=LINK):
            built(made, tmp_path / path.replace("/", "-"), claim)
    assert list(elsewhere.iterdir()) == []


def test_a_secret_is_not_written_through_a_link(tmp_path: Path) -> None:
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
def test_nothing_is_made_beside_a_folder(path: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("below")
    inner, elsewhere = root / "inner", root / "elsewhere"
    inner.mkdir()
    elsewhere.mkdir()
    (inner / "link").symlink_to(elsewhere)
    try:
        made = safe_paths.make_folder(inner, path)
        assert made.is_dir()
        assert PurePosixPath(os.path.normpath(made)).is_relative_to(inner)
        safe_paths.write(made, "file", b"x", 0o400)
    except (OSError, ValueError):
        pass
    assert list(elsewhere.iterdir()) == []
    assert {each.name for each in root.iterdir()} == {"inner", "elsewhere"}
