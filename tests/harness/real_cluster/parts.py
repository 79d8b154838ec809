"""Builds the cluster's programs from package registries, once per version, into a cache.

A part is a folder below :data:`versions.CACHE`, named after its content and a hash of its recipe. It is complete as
soon as it exists, since it is built under another name and renamed.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.harness.real_cluster import versions

KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
GO = (1, 25)
ARGO_PROGRAMS = {"workflow-controller": "cmd/workflow-controller", "argoexec": "cmd/argoexec", "argo": "cmd/argo"}


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Run a command and return its output; if it fails, print all its output and raise an error."""
    process = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, text=True, capture_output=True, check=False)
    if process.returncode:
        sys.stderr.write(process.stdout + process.stderr)
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return process.stdout


def part(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of a part, which ``build(folder)`` fills if the cache does not have it."""
    target = versions.CACHE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    if not target.exists():
        sys.stderr.write(f"cluster: building {target.name}\n")
        versions.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=versions.CACHE, prefix=f".{name}-", ignore_cleanup_errors=True) as tmp:
            folder = Path(tmp) / "part"
            folder.mkdir()
            build(folder)
            folder.rename(target)
    return target


@functools.cache
def check_go() -> None:
    """Exit with the version of Go that is needed, before a build fails with an obscure message."""
    minimum = ".".join(map(str, GO))
    if not shutil.which("go"):
        raise SystemExit(f"cluster: no go on PATH; Go {minimum} or newer is needed")
    version = re.search(r"go(\d+)\.(\d+)", run("go", "version", GOTOOLCHAIN="local"))
    if not version or (int(version[1]), int(version[2])) < GO:
        raise SystemExit(f"cluster: the go on PATH is too old; Go {minimum} or newer is needed")


def run_go(*arguments: str | Path, cwd: Path, **env: str) -> str:
    """Run the go command and return its output."""
    check_go()
    # Sources are still checked against the checksum database; only the download of other toolchains is off.
    return run("go", *arguments, cwd=cwd, CGO_ENABLED="0", GOTOOLCHAIN="local", GOFLAGS="-trimpath", **env)


def download_module(path: str, version: str, cwd: Path) -> Path:
    """Download a Go module, and return its read-only source folder."""
    return Path(json.loads(run_go("mod", "download", "-json", f"{path}@{version}", cwd=cwd))["Dir"])


def kubernetes() -> Path:
    """Build kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl."""
    return _kubernetes("kubernetes", KUBERNETES_PROGRAMS)


def kube_proxy() -> Path:
    """Build kube-proxy: of the same module, but a part of its own, so that adding it did not rebuild the others."""
    return _kubernetes("kube-proxy", ("kube-proxy",))


def _kubernetes(part_name: str, programs: tuple[str, ...]) -> Path:
    """Build some of Kubernetes' programs as one part."""
    version = versions.KUBERNETES
    staging = f"v0.{version.split('.', 1)[1]}"

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            here = Path(tmp)
            source = download_module("k8s.io/kubernetes", f"v{version}", here)
            # Its go.mod requires the k8s.io/* staging modules at v0.0.0, and replaces them with folders that a
            # module zip does not have; they are published as v0.<minor>.<patch>.
            go_mod = json.loads(run_go("mod", "edit", "-json", source / "go.mod", cwd=here))
            names = [row["Old"]["Path"] for row in go_mod["Replace"] if row["New"]["Path"].startswith("./staging")]
            lines = "\n".join(f"\t{name} => {name} {staging}" for name in names)
            (here / "go.mod").write_text(
                f"module cluster\n\ngo {go_mod['Go']}\n\nrequire k8s.io/kubernetes v{version}\n\n"
                f"replace (\n{lines}\n)\n"
            )
            (here / "tools.go").write_text(
                "package cluster\n\nimport (\n"
                + "".join(f'\t_ "k8s.io/kubernetes/cmd/{name}"\n' for name in programs)
                + ")\n"
            )
            major, minor, _ = version.split(".")
            stamp = " ".join(
                f"-X k8s.io/component-base/version.{key}={value}"
                for key, value in {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}.items()
            )
            for name in programs:
                package = f"k8s.io/kubernetes/cmd/{name}"
                run_go("build", "-mod=mod", "-ldflags", f"-s -w {stamp}", "-o", to / name, package, cwd=here)

    return part(f"{part_name}-{version}", "1", build)


def etcd() -> Path:
    """Build the etcd server. Debian's 3.4 lacks RequestWatchProgress, without which watch-lists fail."""
    return _program("etcd", "go.etcd.io/etcd/server/v3", versions.ETCD)


def coredns() -> Path:
    """Build CoreDNS, the cluster's DNS server."""
    return _program("coredns", "github.com/coredns/coredns", versions.COREDNS)


def helm() -> Path:
    """Build Helm, which installs a kit's chart; Debian has no package of it."""
    return _program("helm", "helm.sh/helm/v3", versions.HELM, folder="/cmd/helm")


def kube_router() -> Path:
    """Build kube-router, which enforces NetworkPolicies where a test needs it (firewall.py)."""
    path = "github.com/cloudnativelabs/kube-router/v2"
    return _program("kube-router", path, versions.KUBE_ROUTER, folder="/cmd/kube-router")


def _program(name: str, path: str, version: str, *, folder: str = "") -> Path:
    """Build one program of a module that builds without changes."""

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            here = Path(tmp)
            run_go("mod", "init", "cluster", cwd=here)
            run_go("get", f"{path}{folder}@v{version}", cwd=here)
            run_go("build", "-mod=mod", "-ldflags", "-s -w", "-o", to / name, f"{path}{folder}", cwd=here)

    return part(f"{name}-{version}", "1", build)


def argo() -> Path:
    """Argo's controller, executor and CLI, and its full (strict) CRDs in ``crds/``."""
    version = versions.ARGO

    def build(to: Path) -> None:
        path = f"github.com/argoproj/argo-workflows/v{version.split('.', maxsplit=1)[0]}"
        with tempfile.TemporaryDirectory() as tmp:
            here = Path(tmp)
            source = download_module(path, f"v{version}", here)
            replaced = json.loads(run_go("mod", "edit", "-json", source / "go.mod", cwd=here))
            replace = "\n".join(
                f"replace {row['Old']['Path']} => {row['New']['Path']} {row['New']['Version']}"
                for row in replaced.get("Replace") or []
            )
            (here / "go.mod").write_text(
                f"module cluster\n\ngo {replaced['Go']}\n\nrequire {path} v{version}\n\n{replace}\n"
            )
            imports = "".join(f'\t_ "{path}/{folder}"\n' for folder in ARGO_PROGRAMS.values())
            (here / "tools.go").write_text(f"package cluster\n\nimport (\n{imports})\n")
            run_go("mod", "tidy", "-e", cwd=here)
            run_go("mod", "vendor", "-e", cwd=here)
            _complete_argo_source(here / "vendor" / path)
            for name, folder in ARGO_PROGRAMS.items():
                stamp = f"-s -w -X {path}.version=v{version}"
                run_go("build", "-mod=vendor", "-ldflags", stamp, "-o", to / name, f"{path}/{folder}", cwd=here)
            shutil.copytree(source / "manifests" / "base" / "crds" / "full", to / "crds")
            subprocess.run(["chmod", "-R", "u+w", to / "crds"], check=True)

    return part(f"argo-{version}", "1", build)


def _complete_argo_source(tree: Path) -> None:
    """Add what a module zip can't have: a symbolic link and the built user interface."""
    signals = tree / "workflow" / "executor" / "osspecific"
    (signals / "signal_linux.go").unlink(missing_ok=True)
    (signals / "signal_linux.go").symlink_to("signal_darwin.go")
    page = tree / "ui" / "dist" / "app" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<!doctype html><title>Argo</title>\n")


def pause() -> Path:
    """Build the program of the pod sandbox, which keeps the namespaces and reaps orphans."""
    source = Path(__file__).with_name("pause.go").read_text()

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory() as tmp:
            here = Path(tmp)
            (here / "main.go").write_text(source)
            run_go("mod", "init", "pause", cwd=here)
            run_go("build", "-ldflags", "-s -w", "-o", to / "pause", ".", cwd=here)

    return part("pause", source, build)


def program(name: str) -> Path:
    """Return the path of one program: the ready-made one if there is one, else the built one."""
    if versions.READY and (ready := versions.READY / "bin" / name).exists():
        return ready
    if name in KUBERNETES_PROGRAMS:
        return kubernetes() / name
    if name in ARGO_PROGRAMS:
        return argo() / name
    others = {
        "etcd": etcd,
        "pause": pause,
        "kube-proxy": kube_proxy,
        "kube-router": kube_router,
        "coredns": coredns,
        "helm": helm,
    }
    return others[name]() / name


def crds() -> Path:
    """Return the folder of Argo's full custom resource definitions."""
    if versions.READY and (ready := versions.READY / "crds").exists():
        return ready
    return argo() / "crds"
