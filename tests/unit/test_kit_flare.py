"""FLARE's own code accepts a prepared kit: its configuration loaders, scheduler, staging and job bundle."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.job_schedulers.job_scheduler import DefaultJobScheduler
from nvflare.app_opt.job_launcher.workspace_cell_transfer import _zip_workspace_to_file
from nvflare.tool.deploy.k8s_stage import stage_k8_deployment, unstage_k8_deployment

from flargo.tools.cli import kit_disk
from flargo.tools.kit.preparation import PrepareOptions, prepare
from flargo.tools.kit.undo import plan_undo

Kit = Callable[[str], Path]
Loaded = dict[str, tuple[dict[str, Any], dict[str, Any]]]
"""The components that FLARE's parent and a job's process build from each kit."""
JOB = "11111111-2222-3333-4444-555555555555"
KITS = ("k8s/site-1", "k8s/server.lab", "plain/site-1", "plain/server.lab")
_LOAD = """
import json, os, sys
from argparse import Namespace
from nvflare.apis.workspace import Workspace
from nvflare.private.fed.app.fl_conf import FLClientStarterConfiger, FLServerStarterConfiger
import flargo.flare.launcher

server = {"sp_scheme": "grpc", "sp_target": "server:8002"}
parent = {"parent_url": "tcp://parent:8102", "parent_conn_sec": "mtls"}

def load(root, role, site, job):
    arguments = Namespace(workspace=root, job_id=job, **server, **parent)
    configer = FLServerStarterConfiger if role == "server" else FLClientStarterConfiger
    options = ["secure_train=true", "org=lab", "config_folder=config", f"uid={site}"]
    loaded = configer(Workspace(root, site), arguments, options)
    loaded.configure()
    built = {name: f"{type(each).__module__}.{type(each).__name__}" for name, each in loaded.components.items()}
    allowed = len(loaded.config_data["class_allow_list"])
    handlers = [type(each).__name__ for each in loaded.handlers]
    print("LOADED", json.dumps({"built": built, "allowed": allowed, "handlers": handlers}), flush=True)

for each in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:  # FLARE keeps its configuration in globals
        load(*each)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"FLARE does not load {each}")
"""
"""The first steps of server_train and client_train (no job), and of runner_process and worker_process (a job)."""


def make(root: Path, **options: Any) -> Path:
    kit_disk.write(root, prepare(kit_disk.read_kit(root), PrepareOptions(**options)).changes)
    return root


@pytest.fixture(scope="module")
def loaded_kits(shared_kits: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Prepare each kit, and load it with FLARE's own loaders."""
    # A server's stores are made where the kit says, so the workspace is a place that this test may write to.
    workspace = str(tmp_path_factory.mktemp("workspace"))
    arguments = []
    for name in KITS:
        root = shutil.copytree(shared_kits / name, tmp_path_factory.mktemp("kit") / Path(name).name)
        make(root, namespace="lab", workspace=workspace)
        role, site = ("server", "server") if "server" in name else ("client", root.name)
        arguments += [(str(root), role, site, job) for job in ("", JOB)]
    command = [sys.executable, "-c", _LOAD, json.dumps(arguments)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = [line.removeprefix("LOADED ") for line in process.stdout.splitlines() if line.startswith("LOADED ")]
    parents_and_jobs = iter([json.loads(line) for line in lines])
    return dict(zip(KITS, zip(parents_and_jobs, parents_and_jobs, strict=True), strict=True))


@pytest.mark.parametrize("name", KITS)
def test_parent_has_one_launcher_jobs_none(loaded_kits: Loaded, name: str) -> None:
    parent, job = loaded_kits[name]
    side = "Server" if "server" in name else "Client"
    assert [each for each in parent["handlers"] if "JobLauncher" in each] == [f"{side}ArgoJobLauncher"]
    assert parent["built"]["argo_launcher"] == f"flargo.flare.launcher.{side}ArgoJobLauncher"
    assert {**job["built"], "argo_launcher": parent["built"]["argo_launcher"]} == parent["built"]
    assert not any("launcher" in path.lower() for path in job["built"].values())
    assert parent["allowed"] == job["allowed"] > 50


def test_jobs_over_the_limit_keep_waiting(kit: Kit) -> None:
    """FLARE gives up on a job that it has tried to schedule often enough; waiting for max_jobs does not count."""
    root = make(kit("k8s/server.lab"), max_jobs=2)
    components = json.loads((root / "local/resources.json").read_text())["components"]
    (component,) = (part for part in components if part["id"] == "job_scheduler")
    scheduler = DefaultJobScheduler(**component["args"])

    class Waiting:
        job_id, meta = "waiting", dict[str, Any]()

    scheduler.scheduled_jobs = ["running", "running too"]
    for _ in range(scheduler.max_schedule_count + 1):
        assert scheduler.schedule_job(None, [Waiting()], FLContext()) == (None, None)
    assert Waiting.meta == {}, "FLARE gives up on a job that it has counted often enough"
    scheduler.remove_scheduled_job("running")
    assert not scheduler._exceed_max_jobs(FLContext())


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake kubectl first on the path; return the file to which it writes the manifests that it is given."""
    manifests = tmp_path / "given.yaml"
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n[ \"$1\" = apply ] && {{ cat; echo ---; }} >> '{manifests}'\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return manifests


@pytest.mark.parametrize("name", ["k8s/site-1", "k8s/server.lab"])
def test_nvflare_stages_a_prepared_kit(kit: Kit, name: str, kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = kit(name)
    before = kit_disk.read_kit(root)
    make(root)
    stage_k8_deployment(Namespace(kit=str(root)))
    assert f"{root}/helm_chart --namespace lab" in capsys.readouterr().out
    config_map, secret = (each for each in yaml.safe_load_all(kubectl.read_text()) if each)
    paths = {
        item["path"]
        for item in yaml.safe_load((root / "helm_chart/values.yaml").read_text())["workspaceConfig"]["local"]["items"]
    }
    assert {"resources.json", "resources.json.default", "flargo__p_resources.json", "comm_config.json"} <= paths
    assert not any("undo" in path for path in paths)
    assert any(b"ArgoJobLauncher" in b64decode(text) for text in config_map["binaryData"].values())
    assert (config_map["metadata"]["namespace"], secret["kind"]) == ("lab", "Secret")
    assert prepare(kit_disk.read_kit(root), PrepareOptions()).changes == [], "staging is no reason to prepare again"
    unstage_k8_deployment(Namespace(kit=str(root)))
    kit_disk.write(root, plan_undo(kit_disk.read_kit(root)))
    assert kit_disk.read_kit(root) == before


def test_undo_data_stays_out_of_job_pods(kit: Kit, tmp_path: Path) -> None:
    root = make(kit("k8s/site-1"))
    assert (root / ".flargo/undo.json").is_file()
    _zip_workspace_to_file(str(root), JOB, str(tmp_path / "bundle.zip"))
    names = zipfile.ZipFile(tmp_path / "bundle.zip").namelist()
    assert "local/resources.json" in names
    assert not [name for name in names if not name.startswith("local/") or "undo" in name]
