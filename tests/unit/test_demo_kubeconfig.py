"""The kubeconfig that the demo gives to its FLARE parents leads to the chosen context of the person's own."""

import json
from pathlib import Path

from flargo.cluster.client_config import config_loader
from flargo.tools.demo.backend import _select_context


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
