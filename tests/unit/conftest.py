"""Real startup kits, made once: provisioned, and prepared for Kubernetes, by nvflare's own commands."""

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from nvflare.tool.deploy.deploy_commands import prepare_deployment

# A machine that does other things, too, is no reason for a test to fail.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
_PROJECT = """
api_version: 3
name: lab
description: a federation for tests
participants:
  - {name: server.lab, type: server, org: lab, fed_learn_port: 8002, admin_port: 8003}
  - {name: site-1, type: client, org: lab}
  - {name: admin@lab.org, type: admin, org: lab, role: project_admin}
builders:
  - {path: nvflare.lighter.impl.workspace.WorkspaceBuilder, args: {template_file: [master_template.yml]}}
  - {path: nvflare.lighter.impl.static_file.StaticFileBuilder, args: {config_folder: config}}
  - {path: nvflare.lighter.impl.cert.CertBuilder}
  - {path: nvflare.lighter.impl.signature.SignatureBuilder}
"""
_KUBERNETES = """
runtime: k8s
namespace: lab
parent: {docker_image: "registry.example/flare:2.9", workspace_pvc: claim}
job_launcher: {pending_timeout: 60, image_pull_secrets: [registry]}
"""


@pytest.fixture(scope="session")
def made_kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``plain/``, ``k8s/`` and ``docker/``, each with a kit for server.lab and one for site-1."""
    root = tmp_path_factory.mktemp("kits")
    (root / "project.yml").write_text(_PROJECT)
    (root / "k8s.yaml").write_text(_KUBERNETES)
    (root / "docker.yaml").write_text('runtime: docker\nparent: {docker_image: "registry.example/flare:2.9"}\n')
    program = Path(sys.executable).with_name("nvflare")
    command = [str(program), "provision", "-p", "project.yml", "-w", "made"]
    subprocess.run(command, cwd=root, capture_output=True, check=True)
    (root / "made/lab/prod_00").rename(root / "plain")
    for runtime, site in (("k8s", "server.lab"), ("k8s", "site-1"), ("docker", "site-1")):
        paths = {"kit": root / "plain" / site, "output": root / runtime / site, "config": root / f"{runtime}.yaml"}
        prepare_deployment(Namespace(**{name: str(path) for name, path in paths.items()}))
    return root


@pytest.fixture
def kit(made_kits: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``kit("k8s/site-1")``: a copy of that kit, to be written to."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(made_kits / name, tmp_path / Path(name).name))

    return copied
