"""Kubeconfigs of any content: each is read, or is an error that quotes no secret."""

import json
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.access import ServerAddressError, server_url
from flargo.cluster.kubeconfig import Kubeconfig, KubeconfigError, Selection, merge, parse, select

SECRET = "t0psecret"
FOLDER = PurePath("/folder")
KEYS = [
    *("apiVersion", "kind", "current-context", "contexts", "clusters", "users", "name", "context", "cluster", "user"),
    *("namespace", "server", "proxy-url", "insecure-skip-tls-verify", "certificate-authority-data", "extensions"),
    *("token", "tokenFile", "username", "password", "client-key-data", "as", "as-groups", "as-user-extra"),
    *("exec", "command", "args", "env", "value", "auth-provider", "config", "id-token", "extension"),
]
leaves = st.sampled_from(["", "x", "Config", "v1", True, 5, 1.5, None])
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*KEYS, 5]), inner, max_size=5)
    ),
    max_leaves=30,
)


@st.composite
def documents(draw: Any) -> Any:
    """Draw a document that mostly has the shape of a kubeconfig."""
    named = {"contexts": "context", "clusters": "cluster", "users": "user"}
    rows = {key: draw(st.lists(st.fixed_dictionaries({"name": leaves, inner: values}))) for key, inner in named.items()}
    return draw(st.sampled_from([rows, {**rows, "current-context": draw(leaves)}, draw(values)]))


@given(st.lists(documents(), max_size=3), leaves)
def test_any_content_is_read_or_refused(contents: list[Any], context: Any) -> None:
    message = ""
    try:
        config = merge([parse(json.dumps(content).encode(), FOLDER) for content in contents])
        assert isinstance(select(config, context if isinstance(context, str) else None), Selection)
    except KubeconfigError as error:
        message = str(error)
    assert message.isprintable()


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    message = ""
    try:
        assert isinstance(parse(content, FOLDER), Kubeconfig)
    except KubeconfigError as error:
        message = str(error)
    assert message.isprintable()


@pytest.mark.parametrize("key", ["token", "password", "client-key-data", "exec", "auth-provider", "as-groups"])
@pytest.mark.parametrize("value", [[[SECRET]], {SECRET: SECRET}, SECRET])
def test_no_value_is_quoted(key: str, value: Any) -> None:
    """A secret may stand where it does not belong."""
    message = ""
    try:
        config = parse(json.dumps({"users": [{"name": "u", "user": {key: value}}]}).encode(), FOLDER)
        message = repr(config)
    except KubeconfigError as error:
        message = str(error)
    assert "'u'" in message
    assert SECRET not in message


def test_credentials_are_in_no_repr() -> None:
    plugin = {"args": [SECRET], "env": [{"name": "A", "value": SECRET}]}
    user = {"token": SECRET, "password": SECRET, "client-key-data": "dDBwc2VjcmV0", "exec": plugin}
    document = {"users": [{"name": "u", "user": user}]}
    text = repr(parse(json.dumps(document).encode(), FOLDER))
    assert "users" in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://a", "https://a"),
        ("HTTPS://a:6443/", "https://a:6443"),
        ("https://a/k8s/c/?x=1#y", "https://a/k8s/c"),
        ("a", "http://a"),
        ("a:80", "http://a:80"),
        ("127.0.0.1:80/", "http://127.0.0.1:80"),
        ("[::1]:80", "http://[::1]:80"),
        ("a/b", None),
        ("ftp://a", None),
        ("https://", None),
        ("https://a:b", None),
        ("https://[", None),
        (f"https://u:{SECRET}@a", None),
    ],
)
def test_addresses_are_completed_as_by_kubectl(address: str, expected: str | None) -> None:
    if expected is not None:
        assert server_url(address) == expected
        return
    with pytest.raises(ServerAddressError) as error:
        server_url(address)
    assert SECRET not in str(error.value)
