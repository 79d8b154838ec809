"""Builds the cluster's container images, each once into the cache as an OCI archive.

It needs no container registry and no daemon: ``debootstrap`` or Go fill a folder, ``umoci`` makes it the only layer of
an image, and ``skopeo`` packs the image. ``buildah`` builds the images of ``deploy/images`` on that, from the same
Dockerfiles that a site builds, without a network.
"""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.harness.paths import ROOT
from tests.harness.real_cluster import parts, versions

HOST = "flargo.test"
"""The registry's name, which only the cluster's containerd resolves (daemons.py)."""
PYTHON = "3.11"  # the version of Debian bookworm, and of the Dockerfiles' base image
DOCKERFILES = ROOT / "deploy" / "images"
REMOVED_PATHS = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/i18n",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/cache/debconf",
    "var/log",
    "dev",
)
"""Paths that no job reads: documentation, translations, package lists and caches."""


def names() -> dict[str, str]:
    """Return each image's full name, as pods and containerd use it."""
    tags = {"job": versions.NVFLARE, "argoexec": f"v{versions.ARGO}", "pause": "1"}
    return {name: f"{HOST}/{name}:{tag}" for name, tag in tags.items()}


def archive(name: str) -> Path:
    """Return the archive of one image: the ready-made one if there is one, else the built one."""
    if versions.READY and (ready := versions.READY / "images" / f"{name}.tar").exists():
        return ready
    return {"job": job, "argoexec": argoexec, "pause": pause}[name]() / "image.tar"


def pause() -> Path:
    """Build the image of the pod sandbox: one static program."""
    return _scratch("pause", parts.program("pause"), "/bin/pause")


def argoexec() -> Path:
    """Build the image of Argo's executor, which has one static program, run by its name as in Argo's own image."""
    return _scratch("argoexec", parts.program("argoexec"), "argoexec")


def job() -> Path:
    """Build the image of job pods: deploy/images/job.Dockerfile."""
    lock, base, packages = DOCKERFILES / "job.txt", _base(), wheels()

    def build(to: Path) -> None:
        build_dockerfile("job", base / "image.tar", packages, to / "image.tar")

    recipe = f"2 {base.name} {lock.read_text()} {(DOCKERFILES / 'job.Dockerfile').read_text()}"
    return parts.part(f"image-job-{versions.NVFLARE}", recipe, build)


def parent(folder: Path) -> Path:
    """Build the image of FLARE parents with this checkout's flargo: deploy/images/parent.Dockerfile on the job image.

    It is not cached, since flargo changes. It needs no network, so a test builds it inside the sandbox.
    """
    with tempfile.TemporaryDirectory(prefix="flargo-wheels-") as tmp:
        for wheel in wheels().iterdir():
            (Path(tmp) / wheel.name).symlink_to(wheel)
        _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp, ROOT)
        build_dockerfile("parent", archive("job"), Path(tmp), folder / "parent.tar")
    return folder / "parent.tar"


def build_dockerfile(name: str, base: Path, packages: Path, to: Path) -> None:
    """Build a Dockerfile of ``deploy/images`` into an archive, from a base image's archive and a folder of wheels."""
    with tempfile.TemporaryDirectory(prefix="flargo-build-", dir="/var/tmp", ignore_cleanup_errors=True) as tmp:
        context = Path(tmp) / "context"
        shutil.copytree(DOCKERFILES, context, ignore=shutil.ignore_patterns("wheels"))
        shutil.copytree(packages, context / "wheels", copy_function=link)
        # unshare removes the network, which buildah can't with this isolation, the only one that works everywhere.
        buildah = ("unshare", "--net", "buildah", f"--root={tmp}/root", f"--runroot={tmp}/run")
        image = parts.run(*buildah, "pull", "--quiet", "--policy=always", f"oci-archive:{base}").strip()
        options = ("--isolation=chroot", "--pull-never", "--quiet")
        argument = f"--build-arg={'JOB' if name == 'parent' else 'BASE'}={image}"
        parts.run(
            *buildah, "build", *options, argument, f"--tag={name}", f"--file={context}/{name}.Dockerfile", context
        )
        parts.run(*buildah, "push", "--quiet", name, f"oci-archive:{to}:image")


def wheels() -> Path:
    """Download the packages of both images, with the lock's hashes, by the command of docs/install.md."""
    lines = (ROOT / "docs" / "install.md").read_text().splitlines()
    (arguments,) = (shlex.split(line)[1:] for line in lines if line.startswith("pip download "))

    def build(to: Path) -> None:
        replacements = {"--dest=deploy/images/wheels": f"--dest={to}"}
        _pip(*(replacements.pop(argument, argument) for argument in arguments), "--quiet")
        assert not replacements, arguments

    return parts.part("wheels", f"2 {arguments} {(DOCKERFILES / 'parent.txt').read_text()}", build)


def _pip(*arguments: str | Path) -> None:
    parts.run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def link(source: str, target: str) -> None:
    """Link a file instead of copying it, if the file system can."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copy(source, target)


def _base() -> Path:
    """Build a base image instead of python:3.11-slim, which no package registry has: Debian's own Python, with pip."""

    def fill(root: Path) -> None:
        include = "--include=python3,python3-pip,ca-certificates"
        parts.run("debootstrap", "--variant=minbase", include, "bookworm", root)
        # As in python:3.11-slim, Python is in /usr/local/bin, and only pip installs packages.
        for name in ("python", "python3"):
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
        (root / f"usr/lib/python{PYTHON}/EXTERNALLY-MANAGED").unlink()
        for path in REMOVED_PATHS:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir(parents=True)

    return _image("image-base", f"1 python{PYTHON} {REMOVED_PATHS}", fill, {"config.cmd": "python3"})


def _scratch(name: str, program: Path, entrypoint: str) -> Path:
    """Build an image of one static program in /bin."""

    def fill(root: Path) -> None:
        (root / "bin").mkdir()
        shutil.copy(program, root / "bin" / name)
        (root / "bin" / name).chmod(0o755)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)

    settings = {"config.entrypoint": entrypoint, "config.env": "PATH=/bin"}
    return _image(f"image-{name}", f"1 {program}", fill, settings)


def _image(name: str, recipe: str, fill: Callable[[Path], None], settings: dict[str, str]) -> Path:
    """Return a part that has ``image.tar``, an image whose only layer is what ``fill(folder)`` writes."""

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory(dir=versions.CACHE, prefix=".rootfs-", ignore_cleanup_errors=True) as tmp:
            root, layout = Path(tmp) / "root", Path(tmp) / "layout"
            root.mkdir(mode=0o755)
            root.chmod(0o755)  # the mode of "/" in the image; after a strict umask, no user could read it
            fill(root)
            image = f"{layout}:image"
            parts.run("umoci", "init", "--layout", layout)
            parts.run("umoci", "new", "--image", image)
            parts.run("umoci", "insert", "--image", image, root, "/")
            options = [f"--{key}={value}" for key, value in settings.items()]
            parts.run("umoci", "config", "--image", image, *options)
            parts.run(
                "skopeo",
                "--insecure-policy",
                "copy",
                "--quiet",
                f"oci:{image}",
                f"oci-archive:{to / 'image.tar'}:image",
            )

    return parts.part(name, recipe, build)
