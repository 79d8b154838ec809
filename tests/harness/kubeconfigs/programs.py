"""Runs kubectl, and flargo's commands, with a row of the table, and returns what the servers heard."""

import json
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flargo.cluster.api import Kind
from flargo.cluster.client_config import ConfigError, NoConfigError
from flargo.cluster.errors import ApiError
from flargo.job.validate import InvalidInput
from flargo.tools.cli.cluster_options import api_for
from tests.harness.kubeconfigs.rows import Row, write_files
from tests.harness.kubeconfigs.servers import Servers

Object = dict[str, Any]
_SECONDS = 60
_RESOLVER = re.compile(r" on [0-9.]+:53(?=:)")
"""The machine's own name server, in kubectl's messages."""


def run_kubectl(row: Row, servers: Servers, folder: Path, program: str = "kubectl") -> Object:
    """Return what a server heard from ``kubectl get pods``, or that there was no request, and kubectl's message."""
    environment = write_files(row, folder, servers.values)
    process = subprocess.run(
        [_path(program), "get", "pods", f"--cache-dir={folder / 'cache'}", "--request-timeout=5s", *row.options],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    message = servers.without_ports(lines[-1].replace(f"{folder}/", "")) if lines else ""
    return _heard(servers, folder) or {"message": _RESOLVER.sub("", message)}


def run_flargo(row: Row, servers: Servers, folder: Path) -> Object:
    """Return what a server heard from flargo, as its commands reach one, or flargo's message if there was none."""
    environment = write_files(row, folder, servers.values)
    options = dict(each.removeprefix("--").split("=", 1) for each in row.options)
    message = ""
    with _surroundings(folder, environment), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            api_for(options.get("kubeconfig"), options.get("context"), options.get("namespace")).list(Kind.POD)
        except (ApiError, ConfigError, NoConfigError, InvalidInput) as error:
            message = str(error)
    return _heard(servers, folder) or {"message": message}


@contextmanager
def _surroundings(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    with chdir(folder), patch.dict(os.environ, {"PATH": os.environ["PATH"], **environment}, clear=True):
        yield


def _heard(servers: Servers, folder: Path) -> Object:
    request = servers.take()
    info = folder / "exec-info"
    if request and info.exists():
        request["plugin"] = json.loads(servers.without_ports(info.read_text()))
        authority = request["plugin"]["spec"].get("cluster", {}).get("certificate-authority-data")
        if authority:
            request["plugin"]["spec"]["cluster"]["certificate-authority-data"] = authority == servers.values["ca"]
    return request


def _path(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not in PATH")
    return path


def version(program: str = "kubectl") -> str:
    """Return kubectl's version."""
    argv = [_path(program), "version", "--client", "--output=json"]
    document = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return str(document["clientVersion"]["gitVersion"])
