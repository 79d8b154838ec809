"""A container's file system without mounts: each volume is a directory, and paths in words lead to it.

A mount path that stands in an argument or a variable's value as a path is rewritten to the volume's directory, the
longest first. A volume that is mounted within another one is a directory in it; a link would do, but for programs that
walk a tree and follow none, as FLARE does to find its configuration. ``/tmp`` is a directory of the pod's own.
"""

import base64
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flargo.embedded import safe_paths
from flargo.embedded.kubelet import main_of
from flargo.embedded.model import Object

FindSecret = Callable[[str], Object | None]
_TMP = "/tmp"  # noqa: S108  (the container's)
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a container's paths are."""

    paths: Mapping[str, Path] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        """A text with all paths of the container's as they are here."""
        if not self.paths:
            return text
        longest_first = "|".join(re.escape(path) for path in sorted(self.paths, key=len, reverse=True))
        return re.sub(rf"(?<![\w./-])({longest_first})(?![\w.-])", lambda found: str(self.paths[found[1]]), text)


@dataclass(frozen=True, slots=True)
class Program:
    """What is run for a container, where, and with what."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


def build(pod: Object, folder: Path, secret: FindSecret, claims: Mapping[str, Path]) -> Paths:
    """Make the directories of a pod's volumes, and say where the main container's mount paths are.

    Raises:
        ValueError: a path would lead out of the pod's directory, or of a volume.
        OSError: a directory or file cannot be made; there is a link on the way to it, for example.
    """
    places = {_TMP: folder / "tmp"}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("tmp", "home", "volumes"):
        safe_paths.make_folder(folder, name)
    volumes = {row["name"]: row for row in pod["spec"].get("volumes") or []}
    placed: dict[str, Path] = {}
    for mount in sorted(main_of(pod).get("volumeMounts") or [], key=lambda it: len(it["mountPath"])):
        name, path, inner = mount["name"], mount["mountPath"].rstrip("/"), mount.get("subPath", "")
        around = max((each for each in places if path.startswith(f"{each}/") and each != _TMP), key=len, default=None)
        within = path[len(around) + 1 :] if around is not None else ""
        if name not in placed:
            here = (places[around], within) if around is not None and not inner else (folder / "volumes", name)
            placed[name] = _volume(volumes[name], *here, secret, claims)
        place = safe_paths.make_folder(placed[name], inner)
        if around is not None and places[around] / within != place:
            safe_paths.link(places[around], within, place)
        places[path] = place
    return Paths(places)


def program(pod: Object, where: Paths, folder: Path, secret: FindSecret, python: str) -> Program:
    """What main runs: references resolved, paths mapped, Python being this one."""
    container = main_of(pod)
    said: dict[str, str] = {}
    for variable in container.get("env") or []:
        said[variable["name"]] = _value(pod, variable, said, secret)
    given = [_expanded(word, said) for word in (*(container.get("command") or []), *(container.get("args") or []))]
    first, *rest = [where(word) for word in given] or [""]
    if re.fullmatch(r"python(\d(\.\d+)?)?", os.path.basename(first)):  # noqa: PTH119  (a word, not a file)
        first = python
    base = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "LANG": "C.UTF-8",
        "HOSTNAME": pod["metadata"]["name"],
    }
    environment = {**base, **{name: where(value) for name, value in said.items()}}
    work = Path(where(container["workingDir"])) if container.get("workingDir") else folder / "home"
    return Program((first, *rest), environment, work)


def _volume(row: Object, root: Path, relative: str, secret: FindSecret, claims: Mapping[str, Path]) -> Path:
    """Make a volume's directory, at the place that it has, unless it is one of this machine's."""
    if "persistentVolumeClaim" in row:
        return claims[row["persistentVolumeClaim"]["claimName"]].resolve()
    place = safe_paths.make_folder(root, relative)
    if "secret" in row:
        _write(row["secret"], place, (secret(row["secret"]["secretName"]) or {}).get("data") or {})
    return place


def _write(source: Object, place: Path, data: Mapping[str, str]) -> None:
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    for item in items:
        if item["key"] in data:
            mode = item.get("mode") or source.get("defaultMode") or 0o400
            safe_paths.write(place, item["path"], base64.b64decode(data[item["key"]]), mode)


def _value(pod: Object, variable: Object, said: Mapping[str, str], secret: FindSecret) -> str:
    source = variable.get("valueFrom")
    if not source:
        return _expanded(str(variable.get("value") or ""), said)
    if wanted := source.get("secretKeyRef"):
        data = (secret(wanted["name"]) or {}).get("data") or {}
        return base64.b64decode(data.get(wanted["key"], "")).decode(errors="surrogateescape")
    path = (source.get("fieldRef") or {}).get("fieldPath", "")
    fields = {f"metadata.{name}": pod["metadata"].get(name, "") for name in ("name", "namespace", "uid")}
    return str({**fields, "spec.nodeName": pod["spec"].get("nodeName", "")}.get(path, ""))


def _expanded(text: str, said: Mapping[str, str]) -> str:
    """``$(NAME)`` as Kubernetes resolves it: what is unknown stays, ``$$`` is a dollar."""
    return _REFERENCE.sub(lambda it: "$" if it[0] == "$$" else said.get(it[1], it[0]), text)
