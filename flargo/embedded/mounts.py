"""Gives a container its files without real mounts: each volume is a directory, and mount paths are rewritten.

A mount path that stands in an argument or in a variable's value as a path is replaced by the volume's directory; where
several match, the longest is. A volume that is mounted within another one is a directory in it. A link would do, but
for programs that walk a tree without following links, as FLARE does to find its configuration. ``/tmp`` is a directory
of the pod's own.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flargo.embedded import safe_paths
from flargo.embedded.kubelet import FindSecret, main_container
from flargo.embedded.model import Object

_TMP = "/tmp"  # noqa: S108  (the container's)
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class PathMap:
    """The directories of this machine that stand for a container's mount paths."""

    directories: Mapping[str, Path] = field(default_factory=dict)

    def rewrite(self, text: str) -> str:
        """Return a text in which the container's mount paths are replaced by the directories of this machine."""
        if not self.directories:
            return text
        longest_first = "|".join(re.escape(path) for path in sorted(self.directories, key=len, reverse=True))
        pattern = rf"(?<![\w./-])({longest_first})(?![\w.-])"
        return re.sub(pattern, lambda match: str(self.directories[match[1]]), text)


@dataclass(frozen=True, slots=True)
class Program:
    """The command that is run for a container, with its environment and working directory."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: Path


def build_volumes(pod: Object, folder: Path, find_secret: FindSecret, claims: Mapping[str, Path]) -> PathMap:
    """Create the directories of a pod's volumes, and map the main container's mount paths to them.

    Args:
        pod: the pod.
        folder: the pod's directory.
        find_secret: returns a Secret of the pod's namespace.
        claims: the directory of each persistent volume claim.

    Raises:
        ValueError: a path would lead out of the pod's directory, or of a volume.
        OSError: a directory or file cannot be created, for example because a link is on the way to it.
    """
    directories = {_TMP: folder / "tmp"}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("tmp", "home", "volumes"):
        safe_paths.make_folder(folder, name)
    volumes = {row["name"]: row for row in pod["spec"].get("volumes") or []}
    volume_folders: dict[str, Path] = {}
    for mount in sorted(main_container(pod).get("volumeMounts") or [], key=lambda it: len(it["mountPath"])):
        name, path, subpath = mount["name"], mount["mountPath"].rstrip("/"), mount.get("subPath", "")
        outer = max(
            (each for each in directories if path.startswith(f"{each}/") and each != _TMP), key=len, default=None
        )
        relative = path[len(outer) + 1 :] if outer is not None else ""
        if name not in volume_folders:
            location = (
                (directories[outer], relative) if outer is not None and not subpath else (folder / "volumes", name)
            )
            volume_folders[name] = _make_volume(volumes[name], *location, find_secret, claims)
        directory = safe_paths.make_folder(volume_folders[name], subpath)
        if outer is not None and directories[outer] / relative != directory:
            safe_paths.link(directories[outer], relative, directory)
        directories[path] = directory
    return PathMap(directories)


def build_program(pod: Object, path_map: PathMap, folder: Path, find_secret: FindSecret, python: str) -> Program:
    """Return the program of the main container, with references resolved and mount paths rewritten.

    Args:
        pod: the pod.
        path_map: the directories of its mount paths.
        folder: the pod's directory.
        find_secret: returns a Secret of the pod's namespace.
        python: the interpreter that replaces any ``python`` of the image.
    """
    container = main_container(pod)
    variables: dict[str, str] = {}
    for variable in container.get("env") or []:
        variables[variable["name"]] = _variable_value(pod, variable, variables, find_secret)
    command = [*(container.get("command") or []), *(container.get("args") or [])]
    first, *rest = [path_map.rewrite(_expand(argument, variables)) for argument in command] or [""]
    if re.fullmatch(r"python(\d(\.\d+)?)?", os.path.basename(first)):  # noqa: PTH119  (an argument, not a file)
        first = python
    base = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "HOSTNAME": pod["metadata"]["name"],
    }
    environment = {**base, **{name: path_map.rewrite(value) for name, value in variables.items()}}
    workdir = Path(path_map.rewrite(container["workingDir"])) if container.get("workingDir") else folder / "home"
    return Program((first, *rest), environment, workdir)


def _make_volume(
    volume: Object, root: Path, relative: str, find_secret: FindSecret, claims: Mapping[str, Path]
) -> Path:
    """Create a volume's directory below ``root``; a claim has one already."""
    if "persistentVolumeClaim" in volume:
        return claims[volume["persistentVolumeClaim"]["claimName"]].resolve()
    directory = safe_paths.make_folder(root, relative)
    if "secret" in volume:
        data = (find_secret(volume["secret"]["secretName"]) or {}).get("data") or {}
        _write_secret(volume["secret"], directory, data)
    return directory


def _write_secret(source: Object, directory: Path, data: Mapping[str, str]) -> None:
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    for item in items:
        if item["key"] in data:
            mode = item.get("mode") or source.get("defaultMode") or 0o400
            safe_paths.write(directory, item["path"], base64.b64decode(data[item["key"]]), mode)


def _variable_value(pod: Object, variable: Object, earlier: Mapping[str, str], find_secret: FindSecret) -> str:
    """Return the value of a variable, which may refer to earlier ones."""
    source = variable.get("valueFrom")
    if not source:
        return _expand(str(variable.get("value") or ""), earlier)
    if key_ref := source.get("secretKeyRef"):
        data = (find_secret(key_ref["name"]) or {}).get("data") or {}
        return base64.b64decode(data.get(key_ref["key"], "")).decode(errors="surrogateescape")
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    fields = {f"metadata.{name}": pod["metadata"].get(name, "") for name in ("name", "namespace", "uid")}
    return str({**fields, "spec.nodeName": pod["spec"].get("nodeName", "")}.get(path, ""))


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` as Kubernetes does: unknown names stay as they are, and ``$$`` is a dollar."""
    return _REFERENCE.sub(lambda it: "$" if it[0] == "$$" else variables.get(it[1], it[0]), text)
