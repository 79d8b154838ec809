"""A FLARE parent as its launcher sees it: a workspace on disk and an FLContext, without a network."""

import base64
import hashlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.workspace import Workspace

from flargo.terms import Role

CERTIFICATE = b"the DER of a root certificate"
FEDERATION = hashlib.sha256(CERTIFICATE).hexdigest()[:32]
KIT: Mapping[str, bytes] = {
    "rootCA.pem": b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n" % base64.b64encode(CERTIFICATE),
    "client.crt": b"a certificate",
    "client.key": b"a \x00 key \xff",
    "fed_client.json": b"{}",
    "signature.json": b"{}",
}
"""Files of a startup kit that a launch copies to the job."""
FILES_NOT_COPIED: Mapping[str, bytes] = {"start.sh": b"#!/bin/sh\n", "readme.txt": b"read me"}
"""Files of a startup kit that stay at the parent."""


class Cell:
    """A fake of a parent's cell, with the methods that the workspace transfer calls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connected: set[str] = set()

    def is_cell_connected(self, target_fqcn: str) -> bool:
        return target_fqcn in self.connected

    def get_fqcn(self) -> str:
        return self.name

    def register_request_cb(self, channel: str, topic: str, cb: Callable[..., Any]) -> None:
        """Ignore the callback, since no request ever arrives."""


@dataclass(frozen=True)
class Parent:
    """Everything that a launcher reads, except the job's metadata and the launcher's arguments."""

    root: Path
    role: Role
    site: str = "site-1"
    options: tuple[str, ...] = ()
    process: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the job's process that are added or replaced; None removes one."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text files by their paths in the workspace."""
    runtime: Mapping[str, Any] | None = None
    """The value of ``studies`` in local/study_runtime.yaml; None: there is no such file."""

    def __post_init__(self) -> None:
        for folder in ("startup", "local"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, content in {**KIT, **FILES_NOT_COPIED}.items():
            (self.root / "startup" / name).write_bytes(content)
        if self.runtime is not None:
            text = yaml.safe_dump({"format_version": 2, "studies": dict(self.runtime)})
            (self.root / "local" / "study_runtime.yaml").write_text(text)
        for path, text in self.files.items():
            (self.root / path).write_text(text)

    def context(self, job_id: str, process: Mapping[str, Any] | None = None) -> FLContext:
        """Return the FLContext of one launch, whose process may have arguments of its own."""
        context = FLContext()
        workspace = Workspace(str(self.root), self.site)
        process = self.process if process is None else process
        entries = {
            ReservedKey.IDENTITY_NAME: self.site,
            ReservedKey.ENGINE: Namespace(cell=Cell("server" if self.role is Role.SERVER else self.site)),
            FLContextKey.WORKSPACE_OBJECT: workspace,
            FLContextKey.ARGS: Namespace(workspace=str(self.root), set=list(self.options)),
            FLContextKey.JOB_PROCESS_ARGS: self._process_args(job_id, workspace, process),
        }
        for key, value in entries.items():
            context.set_prop(key, value, private=True, sticky=False)
        return context

    def _process_args(self, job_id: str, workspace: Workspace, process: Mapping[str, Any]) -> dict[str, Any]:
        role_args = _server_args(job_id) if self.role is Role.SERVER else _client_args(self.site, workspace)
        common_args = {
            JobProcessArgs.JOB_ID: ("-n", job_id),
            JobProcessArgs.WORKSPACE: ("-m", str(self.root)),
            JobProcessArgs.PARENT_CONN_SEC: ("--parent_conn_sec", "mtls"),
            JobProcessArgs.OPTIONS: ("--set", " ".join(self.options)),
        }
        merged = {**common_args, **role_args, **process}
        return {key: value for key, value in merged.items() if value is not None}


def _server_args(job_id: str) -> dict[str, Any]:
    """Return the arguments that nvflare/private/fed/server/server_engine.py passes."""
    return {
        JobProcessArgs.EXE_MODULE: ("-m", "nvflare.private.fed.app.server.runner_process"),
        JobProcessArgs.STARTUP_CONFIG_FILE: ("-s", "fed_server.json"),
        JobProcessArgs.APP_ROOT: ("-r", f"/workspace/{job_id}/app_server"),
        JobProcessArgs.AUTH_TOKEN: ("-t", job_id),
        JobProcessArgs.TOKEN_SIGNATURE: ("-ts", "a signature"),
        JobProcessArgs.PARENT_URL: ("-p", "tcp://server:8102"),
        JobProcessArgs.ROOT_URL: ("-u", "grpc://server:8002"),
        JobProcessArgs.SERVICE_HOST: ("--host", "server"),
        JobProcessArgs.SERVICE_PORT: ("--port", "8002"),
        JobProcessArgs.SSID: ("--ssid", "a session"),
    }


def _client_args(site: str, workspace: Workspace) -> dict[str, Any]:
    """Return the arguments that nvflare/private/fed/client/client_executor.py passes."""
    return {
        JobProcessArgs.EXE_MODULE: ("-m", "nvflare.private.fed.app.client.worker_process"),
        JobProcessArgs.CLIENT_NAME: ("-c", site),
        JobProcessArgs.AUTH_TOKEN: ("-t", "a token"),
        JobProcessArgs.TOKEN_SIGNATURE: ("-ts", "a signature"),
        JobProcessArgs.SSID: ("-d", "a session"),
        JobProcessArgs.STARTUP_DIR: ("-w", workspace.get_startup_kit_dir()),
        JobProcessArgs.PARENT_URL: ("-p", "tcp://site:8102"),
        JobProcessArgs.SCHEME: ("-scheme", "grpc"),
        JobProcessArgs.TARGET: ("-g", "server:8002"),
        JobProcessArgs.STARTUP_CONFIG_FILE: ("-s", "fed_client.json"),
    }
