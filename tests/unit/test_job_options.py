"""An error about a job's option names the place where the job's author has written the option."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.flare.request import read_launch
from flargo.job.settings import check_settings
from flargo.job.validate import InvalidInput
from flargo.terms import Role
from tests.harness.differential.cases import ATTEMPT, EPOCH, IMAGE, JOB_ID
from tests.harness.differential.parent import Parent

Object = dict[str, Any]
Keys = tuple[str, ...]

DEFAULT: Keys = ("launcher_spec", "default", "k8s")
SITE: Keys = ("launcher_spec", "site-1", "k8s")
OTHER_SITE: Keys = ("launcher_spec", "site-2", "k8s")
LEGACY: Keys = ("resource_spec", "site-1", "k8s")
PORTABLE_DEFAULT: Keys = ("resource_spec", "@default")
PORTABLE_SITE: Keys = ("resource_spec", "site-1")
PORTABLE_PROCESS: Keys = ("resource_spec", "site-1", "process")

VALID: Object = {
    "python_path": "/usr/bin/python3",
    "cpu": "2",
    "memory": "1Gi",
    "cpu_request": "1",
    "memory_request": "512Mi",
    "ephemeral_storage": "1Gi",
    "num_of_gpus": 1,
    "pending_timeout": 5,
    "argo": {"rejoin": 1},
}
INVALID: Object = {
    "image": "a b",
    "python_path": "{{x}}",
    "cpu": "many",
    "memory": "8Ei",
    "cpu_request": "-1",
    "memory_request": "1GB",
    "ephemeral_storage": 5,
    "num_of_gpus": "two",
    "pending_timeout": -1,
    "argo": {"service_account": "admin"},
}
"""A wrong value for each key of launcher_spec."""
LIMITS: Object = {
    "images": ["other.example/*"],
    "python_paths": ["/bin/python"],
    "cpu": "1",
    "memory": "1Mi",
    "ephemeral_storage": "1Mi",
    "gpus": 0,
    "pending_timeout": 1,
}
"""A policy that forbids each of the valid values; each entry limits the key of the same name, but for the spelling."""
LIMITED_KEYS = {"images": "image", "python_paths": "python_path", "gpus": "num_of_gpus"}
INVALID_PORTABLE: Object = {"num_of_gpus": -1, "num_of_cpus": 0, "memory": "5GB"}
HUGE_PORTABLE: Object = {"num_of_gpus": 10**30, "num_of_cpus": 10**30, "memory": f"{10**30}Ti"}
"""Values that nvflare accepts and Kubernetes cannot count."""


def path(keys: Keys) -> str:
    """Return the path of a value in the job's metadata, as messages show it."""
    return keys[0] + "".join(f"[{key!r}]" for key in keys[1:])


def put(meta: Object, keys: Keys, value: Any) -> Object:
    """Set a value in the job's metadata."""
    *parents, last = keys
    block = meta
    for key in parents:
        block = block.setdefault(key, {})
    block[last] = deepcopy(value)
    return meta


def read(tmp_path: Path, meta: Object, policy: Object | None = None) -> None:
    """Read the launch of a job."""
    job = {"job_id": JOB_ID, "name": "x", **deepcopy(meta)}
    site = check_settings(argo={"policy": policy or {}})
    context = Parent(tmp_path, Role.CLIENT, files={}).context(JOB_ID)
    _, transfer = read_launch(job, context, Role.CLIENT, site, attempt=ATTEMPT, epoch=EPOCH)
    transfer.remove()


def wrong_field(tmp_path: Path, meta: Object, policy: Object | None = None) -> str:
    """Return the field that the refusal of a job names."""
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, meta, policy)
    return caught.value.field


many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
blocks = st.dictionaries(st.sampled_from(sorted(VALID)), st.none(), max_size=6).map(
    lambda keys: {key: VALID[key] for key in keys}
)


@st.composite
def misplaced(draw: st.DrawFn, wrong: Object) -> tuple[Object, Keys]:
    """Return a job with one wrong value that counts, and where it is written."""
    key = draw(st.sampled_from(sorted(wrong)))
    where = draw(st.sampled_from((DEFAULT, SITE, LEGACY)))
    meta: Object = put({}, OTHER_SITE, draw(blocks))
    if where is LEGACY:
        put(meta, LEGACY, draw(blocks))
    else:
        for each in (DEFAULT, SITE):
            put(meta, each, draw(blocks))
        if where is DEFAULT:
            meta["launcher_spec"]["site-1"]["k8s"].pop(key, None)  # the site's value would override it
        if draw(st.booleans()):
            put(meta, LEGACY, dict(INVALID))  # FLARE reads it only if launcher_spec says nothing
    block = put(meta, (*where, "image"), IMAGE)
    put(block, (*where, key), wrong[key])
    return meta, (*where, key)


@many
@given(misplaced(INVALID))
def test_a_wrong_value_is_named_where_it_is_written(tmp_path: Path, case: tuple[Object, Keys]) -> None:
    meta, keys = case
    where = path(keys) + ("['service_account']" if keys[-1] == "argo" else "")
    assert wrong_field(tmp_path, meta) == where


@many
@given(misplaced({**VALID, "image": IMAGE}), st.sampled_from(sorted(LIMITS)))
def test_a_forbidden_value_is_named_where_it_is_written(tmp_path: Path, case: tuple[Object, Keys], limit: str) -> None:
    meta, keys = case
    key = LIMITED_KEYS.get(limit, limit)
    where = (*keys[:-1], key)
    put(meta, where, {**VALID, "image": IMAGE}[key])
    if where[:-1] == DEFAULT:
        meta["launcher_spec"]["site-1"]["k8s"].pop(key, None)
    for name in ("cpu_request", "memory_request"):
        for each in (DEFAULT, SITE, LEGACY):
            meta.get(each[0], {}).get(each[1], {}).get(each[2], {}).pop(name, None)
    assert wrong_field(tmp_path, meta, {limit: LIMITS[limit]}) == path(where)


@many
@given(st.permutations((DEFAULT, SITE)), st.sampled_from(("cpu", "memory")), st.booleans())
def test_a_request_above_its_limit_names_both(
    tmp_path: Path,
    places: list[Keys],
    name: str,
    is_same: bool,  # noqa: FBT001
) -> None:
    request, limit = places[0], places[0 if is_same else 1]
    meta = put(put({}, (*request, f"{name}_request"), "3Ti"), (*limit, name), "1Gi")
    put(meta, (*DEFAULT, "image"), IMAGE)
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, meta)
    assert caught.value.field == path((*request, f"{name}_request"))
    assert path((*limit, name)) in caught.value.allowed


@many
@given(
    st.sampled_from((PORTABLE_DEFAULT, PORTABLE_SITE, PORTABLE_PROCESS)),
    st.sampled_from(sorted(INVALID_PORTABLE)),
    st.booleans(),
)
@pytest.mark.parametrize("wrong", [INVALID_PORTABLE, HUGE_PORTABLE], ids=["invalid", "huge"])
def test_a_wrong_portable_value_is_named_where_it_is_written(
    tmp_path: Path,
    wrong: Object,
    where: Keys,
    key: str,
    has_default: bool,  # noqa: FBT001
) -> None:
    valid = {"num_of_gpus": 1, "num_of_cpus": 1, "memory": "1Gi"}
    meta = put({}, (*DEFAULT, "image"), IMAGE)
    if has_default or where is PORTABLE_PROCESS:
        put(meta, PORTABLE_DEFAULT, valid)
    put(meta, (*where, key), wrong[key])
    assert wrong_field(tmp_path, meta) == path((*where, key))


@pytest.mark.parametrize(("limit", "key"), [("cpu", "num_of_cpus"), ("memory", "memory"), ("gpus", "num_of_gpus")])
@pytest.mark.parametrize("where", [PORTABLE_DEFAULT, PORTABLE_SITE], ids=str)
def test_a_forbidden_portable_value_is_named_where_it_is_written(
    tmp_path: Path, limit: str, key: str, where: Keys
) -> None:
    meta = put({}, (*DEFAULT, "image"), IMAGE)
    put(meta, (*where, key), {"num_of_gpus": 1, "num_of_cpus": 2, "memory": "1Gi"}[key])
    assert wrong_field(tmp_path, meta, {limit: LIMITS[limit]}) == path((*where, key))


SHAPES = tuple(
    keys[:length]
    for keys in (DEFAULT, SITE, LEGACY, PORTABLE_DEFAULT, PORTABLE_PROCESS)
    for length in range(1, len(keys) + 1)
)


@pytest.mark.parametrize("value", ["x", 5, [["image", "x"]], ["k8s", "process"]], ids=str)
@pytest.mark.parametrize("keys", dict.fromkeys(SHAPES), ids=path)
def test_a_block_of_a_wrong_type_is_named(tmp_path: Path, keys: Keys, value: object) -> None:
    meta: Object = {}
    if keys[0] == "resource_spec" and keys != LEGACY:
        put(meta, (*DEFAULT, "image"), IMAGE)
    if keys[:2] == PORTABLE_SITE and keys != LEGACY:
        put(meta, PORTABLE_DEFAULT, {})  # only then nvflare reads every kind of block of a site
    put(meta, keys, value)
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, meta)
    assert caught.value.field == path(keys)
    assert "a dictionary" in caught.value.allowed


@pytest.mark.parametrize(
    ("meta", "where"),
    [
        ({}, SITE),
        (put({}, (*DEFAULT, "cpu"), 1), DEFAULT),
        (put({}, (*SITE, "cpu"), 1), SITE),
        (put(put({}, (*DEFAULT, "cpu"), 1), (*SITE, "cpu"), 1), SITE),
        (put(put({}, (*DEFAULT, "cpu"), 1), SITE, {}), DEFAULT),
        (put(put({}, (*DEFAULT, "image"), ""), (*SITE, "cpu"), 1), DEFAULT),
        (put({}, (*LEGACY, "cpu"), 1), LEGACY),
    ],
)
def test_a_missing_option_is_named_in_the_authors_block(tmp_path: Path, meta: Object, where: Keys) -> None:
    assert wrong_field(tmp_path, meta) == path((*where, "image"))


def test_a_value_of_the_sites_is_not_called_the_jobs(tmp_path: Path) -> None:
    """The launcher's own ephemeral_storage may be above the policy's; the job's author has not written it."""
    meta = put({}, (*DEFAULT, "image"), IMAGE)
    assert wrong_field(tmp_path, meta, {"ephemeral_storage": "1Mi"}) == "ephemeral_storage (the site's default)"


def test_ignored_keys_are_named_where_they_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meta = put(put({}, (*DEFAULT, "imag"), 1), (*SITE, "image"), IMAGE)
    read(tmp_path, put(meta, (*SITE, "gpus"), 1))
    texts = [record.getMessage() for record in caplog.records]
    for where, key in ((DEFAULT, "imag"), (SITE, "gpus")):
        assert any(text.startswith(f"{path(where)}: ") and f"['{key}']" in text for text in texts), texts
