"""Real startup kits: provisioned, and prepared for a runtime, by nvflare's own commands."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from nvflare.tool.deploy.deploy_commands import prepare_deployment

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
KITS = (("k8s", "server.lab"), ("k8s", "site-1"), ("docker", "site-1"))
"""The runtime and the participant of each kit that is prepared."""


def make_kits(root: Path) -> None:
    """Write kits below a folder: ``plain/`` (as provisioned), ``k8s/`` and ``docker/``, one folder per participant.

    The server is ``server.lab`` and the client site ``site-1``. It takes seconds: make them once per test session.
    """
    (root / "project.yml").write_text(_PROJECT)
    (root / "k8s.yaml").write_text(_KUBERNETES)
    (root / "docker.yaml").write_text('runtime: docker\nparent: {docker_image: "registry.example/flare:2.9"}\n')
    program = Path(sys.executable).with_name("nvflare")
    argv = [str(program), "provision", "-p", "project.yml", "-w", "made"]
    subprocess.run(argv, cwd=root, capture_output=True, check=True)
    (root / "made/lab/prod_00").rename(root / "plain")
    for runtime, participant in KITS:
        paths = {
            "kit": root / "plain" / participant,
            "output": root / runtime / participant,
            "config": root / f"{runtime}.yaml",
        }
        prepare_deployment(Namespace(**{name: str(path) for name, path in paths.items()}))
