"""The kubeconfig that the demo gives to its FLARE parents leads to the chosen context of the person's own."""

import json
from pathlib import Path, PurePath

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.client_config import config_loader
from flargo.cluster.kubeconfig import (
    EXEC_API_VERSIONS,
    AuthProvider,
    Cluster,
    Context,
    Impersonation,
    Plugin,
    Selection,
    User,
    parse,
    to_document,
)
from flargo.tools.demo.backend import _select_context
from flargo.tools.demo.options import DemoError
from tests.harness.command_line import write_kubeconfig


def test_relative_paths_stay_valid(tmp_path: Path) -> None:
    """They are relative to the folder of a link, as for kubectl; the plugin's path was not resolved."""
    mine, elsewhere, root = (tmp_path / name for name in ("mine", "elsewhere", "root"))
    for folder in (mine, elsewhere, root):
        folder.mkdir()
    version = "client.authentication.k8s.io/v1"
    plugin = {"apiVersion": version, "command": "./plugin", "interactiveMode": "Never"}
    document = {
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://a", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
    }
    (elsewhere / "config").write_text(json.dumps(document))
    (mine / "config").symlink_to(elsewhere / "config")
    (mine / "ca.crt").write_text("an authority")
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "t"}}
    (mine / "plugin").write_text(f"#!/bin/sh\necho '{json.dumps(credential)}'\n")
    (mine / "plugin").chmod(0o755)
    access = config_loader(str(_select_context(mine / "config", "x", root)))()
    assert (access.token, access.tls.authorities) == ("t", b"an authority")


TEXTS = st.text(max_size=6) | st.sampled_from(["yes", "1e3", "2026-01-01", "null", "a: b"])
PATHS = st.just("") | TEXTS.map(lambda text: f"/x/{text.replace('/', '')}x")
IMPERSONATIONS = st.builds(
    Impersonation,
    user=TEXTS,
    uid=TEXTS,
    groups=st.lists(TEXTS, max_size=2).map(tuple),
    extra=st.dictionaries(TEXTS, st.lists(TEXTS, max_size=2).map(tuple), max_size=2).map(
        lambda each: tuple(each.items())
    ),
)
PLUGINS = st.builds(
    Plugin,
    command=st.sampled_from(["aws", "/opt/bin/aws"]),
    api_version=st.sampled_from(EXEC_API_VERSIONS),
    interactive_mode=st.sampled_from(["Never", "IfAvailable"]),
    args=st.lists(TEXTS, max_size=2).map(tuple),
    env=st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple),
    install_hint=st.sampled_from(["", "install it"]),
    needs_cluster=st.booleans(),
)
USERS = st.builds(
    User,
    **dict.fromkeys(("token", "username", "password"), TEXTS),
    **dict.fromkeys(("token_file", "certificate_file", "key_file"), PATHS),
    certificate_data=st.binary(max_size=5),
    key_data=st.binary(max_size=5),
    impersonation=IMPERSONATIONS,
    plugin=st.none() | PLUGINS,
    auth_provider=st.none() | st.builds(AuthProvider, name=TEXTS, id_token=TEXTS),
)
CLUSTERS = st.builds(
    Cluster,
    **dict.fromkeys(("server", "tls_server_name", "proxy_url"), TEXTS),
    is_insecure=st.booleans(),
    ca_file=PATHS,
    ca_data=st.binary(max_size=5),
    disables_compression=st.booleans(),
    plugin_config=st.none() | st.dictionaries(TEXTS, TEXTS, max_size=2),
)


@given(st.builds(Selection, context=TEXTS.filter(bool), cluster=CLUSTERS, user=USERS, namespace=TEXTS))
def test_a_written_context_is_read_as_it_was(selection: Selection) -> None:
    config = parse(yaml.safe_dump(to_document(selection), sort_keys=False).encode(), PurePath("/elsewhere"))
    assert config.current_context == selection.context
    assert config.contexts == {selection.context: Context("cluster", "user", selection.namespace)}
    assert config.clusters == {"cluster": selection.cluster}
    assert config.users == {"user": selection.user}


def test_the_copy_is_private_and_has_one_context(tmp_path: Path) -> None:
    file = Path(write_kubeconfig(tmp_path / "config", namespace="lab"))
    copy = _select_context(file, "two", tmp_path)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [each["name"] for each in yaml.safe_load(copy.read_text())["contexts"]] == ["two"]
    assert _select_context(file, None, tmp_path) == file
    with pytest.raises(DemoError, match="it has no context 'three'"):
        _select_context(file, "three", tmp_path)
