"""Submits job folders to FLARE's server as far as it decides about a job's metadata, with the server's own code.

Job folders are written in each format that FLARE reads. The metadata has the shapes that occur in FLARE's own examples.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from nvflare.apis.job_def import DEFAULT_STUDY, JobMetaKey
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from tests.harness.differential.cases import JOB_ID

Meta = dict[str, Any]
_IMAGE = {"default": {"k8s": {"image": "registry.example/job:1"}}}
SHAPES: Mapping[str, Meta] = {
    "all sites": {"deploy_map": {"app": ["@ALL"]}, "min_clients": 2, "resource_spec": {}},
    "all sites, in small letters": {"deploy_map": {"app": ["@all"]}},
    "one app": {"name": "x", "deploy_map": {"app": ["server", "site-1"]}, "mandatory_clients": ["site-1"]},
    "an app for each": {
        "name": "x",
        "deploy_map": {"app_server": ["server"], "app_1": ["site-1"], "app_2": ["site-2"]},
    },
    "sites in an object": {"deploy_map": {"app": {"sites": ["server", "site-1"]}}, "min_clients": "1"},
    "targets in an object": {"deploy_map": {"app": {"targets": ["server", "site-1"]}}, "min_clients": 1.0},
    "objects in a list": {"deploy_map": {"app": [{"sites": ["server"]}, {"targets": ["site-1"]}, "site-2"]}},
    "a text": {"deploy_map": {"app": "@ALL"}, "min_clients": True},
    "portable resources": {"deploy_map": {"app": ["@ALL"]}, "resource_spec": {"site-1": {"num_of_gpus": 1}}},
    "default resources": {
        "deploy_map": {"app": ["@ALL"]},
        "resource_spec": {"@default": {"num_of_cpus": 2, "memory": "4Gi"}, "site-1": {"memory": "8Gi"}},
    },
    "resources of another launcher": {
        "deploy_map": {"app": ["@ALL"]},
        "resource_spec": {"site-2": {"num_of_gpus": 2, "mem_per_gpu_in_GiB": 4}},
    },
    "a launcher's resources": {
        "deploy_map": {"app": ["@ALL"]},
        "resource_spec": {"site-1": {"k8s": {"image": "registry.example/legacy:1"}, "process": {"num_of_gpus": 1}}},
        "launcher_spec": {},
    },
    "a site's launcher": {
        "deploy_map": {"app": ["@ALL"]},
        "launcher_spec": {**_IMAGE, "site-1": {"k8s": {"cpu": 2, "memory": "4Gi", "python_path": "/opt/python"}}},
    },
    "other launchers": {
        "deploy_map": {"app": ["@ALL"]},
        "launcher_spec": {**_IMAGE, "site-1": {"docker": {"image": "a:1"}, "process": {}, "k8s": {"num_of_gpus": 1}}},
    },
    "a study": {"deploy_map": {"app": ["@ALL"]}, "study": "cardio"},
    "an empty study": {"deploy_map": {"app": ["@ALL"]}, "study": ""},
    "another type of study": {"deploy_map": {"app": ["@ALL"]}, "study": 5},
    "custom properties": {
        "deploy_map": {"app": ["@ALL"]},
        "custom_props": {"owner": "me", "tags": ["a", "b"], "nested": {"x": None}},
        "edge_method": "cnn",
        "stats_pool_config": {},
    },
    "claims that FLARE replaces": {
        "deploy_map": {"app": ["@ALL"]},
        "byoc": True,
        "submitter_name": "root",
        "job_folder_name": "other",
        "status": "RUNNING",
    },
    "a scope": {"name": "x y", "deploy_map": {"app": ["@ALL"]}, "scope": "public", "job_id": JOB_ID},
}
"""Metadata that FLARE's server accepts, without an image where the site has one for its default study."""


def write_job(folder: Path, name: str, text: str, *, apps: tuple[str, ...] = ("app",)) -> Path:
    """Write a job folder with this text as its metadata, and a configuration for each app, and return the folder."""
    for app in apps:
        (folder / app / "config").mkdir(parents=True)
        for role in ("server", "client"):
            (folder / app / "config" / f"config_fed_{role}.json").write_text("{}")
    (folder / name).write_text(text)
    return folder


def apps_of(meta: Meta) -> tuple[str, ...]:
    """Return the apps that metadata names."""
    return tuple(meta["deploy_map"])


def hocon(meta: Meta) -> str:
    """Return metadata as people write HOCON: keys and blocks, without the outer braces."""
    return "\n".join(_hocon_lines(meta, ""))


def _hocon_lines(values: Meta, indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        name = json.dumps(key)
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name} {{", *_hocon_lines(value, f"{indent}  "), f"{indent}}}"]
        else:
            lines.append(f"{indent}{name} = {json.dumps(value)}  # {type(value).__name__}")
    return lines


WRITERS: Mapping[str, Callable[[Meta], str]] = {
    "meta.json": json.dumps,
    "meta.conf": hocon,
    "meta.yml": yaml.safe_dump,
    "meta.yaml": yaml.safe_dump,
    "meta.json.default": json.dumps,
    "meta.conf.default": hocon,
}


def submit(folder: Path, study: str = "") -> tuple[Meta | None, str]:
    """Return the metadata of a job as FLARE's server stores it, or None and why it refuses the job.

    Args:
        folder: the job folder.
        study: the study of the session that submits it; empty: as for a session that names none.
    """
    data = zip_directory_to_bytes(str(folder.parent), folder.name)
    try:
        is_valid, problem, meta = JobMetaValidator().validate(folder.name, data)
        stored = json.dumps(meta)
    except Exception as error:  # noqa: BLE001  (the server catches everything, too: job_cmds.py, submit_job)
        return None, type(error).__name__
    if not is_valid:
        return None, problem
    # job_cmds.py, submit_job
    meta = {**json.loads(stored), JobMetaKey.STUDY.value: study or DEFAULT_STUDY}
    return {"job_id": JOB_ID, **meta, "job_folder_name": folder.name}, ""
