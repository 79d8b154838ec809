"""The container images of the cluster, each made once into the cache as an OCI archive.

No container registry and no daemon is needed: ``debootstrap`` or Go fill a folder, ``umoci`` makes it the one layer
of an image, ``skopeo`` packs the image. The images of ``deploy/images`` are built by ``buildah`` on that, from the
very Dockerfiles that a site builds, without a network.
"""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.harness.paths import ROOT
from tests.harness.real_cluster import parts, versions

# The registry that only the cluster knows, see registry.py.
HOST = "flargo.test"
PYTHON = "3.11"  # of Debian bookworm, and of the base that the Dockerfiles name
DOCKERFILES = ROOT / "deploy" / "images"
# What no job reads: documentation, translations, package lists and caches.
DROPPED = (
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


def names() -> dict[str, str]:
    """Each image's full name, as pods and containerd call it."""
    tags = {"job": versions.NVFLARE, "argoexec": f"v{versions.ARGO}", "pause": "1"}
    return {name: f"{HOST}/{name}:{tag}" for name, tag in tags.items()}


def archive(name: str) -> Path:
    """The archive of one image, ready-made where a folder of such was named, else built."""
    if versions.READY and (ready := versions.READY / "images" / f"{name}.tar").exists():
        return ready
    return {"job": job, "argoexec": argoexec, "pause": pause}[name]() / "image.tar"


def pause() -> Path:
    """The image of the pod sandbox: one static program."""
    program = parts.program("pause")
    return _scratch("pause", program, "/bin/pause")


def argoexec() -> Path:
    """Argo's executor, as its own image has it: one static program, run by name."""
    return _scratch("argoexec", parts.program("argoexec"), "argoexec")


def job() -> Path:
    """What job pods run: deploy/images/job.Dockerfile."""
    lock, base, packages = DOCKERFILES / "job.txt", _base(), wheels()

    def build(to: Path) -> None:
        dockerfile("job", base / "image.tar", packages, to / "image.tar")

    recipe = f"2 {base.name} {lock.read_text()} {(DOCKERFILES / 'job.Dockerfile').read_text()}"
    return parts.part(f"image-job-{versions.NVFLARE}", recipe, build)


def parent(folder: Path) -> Path:
    """What FLARE parents run, with the flargo of this checkout: deploy/images/parent.Dockerfile on the job image.

    Not kept, since flargo is what changes. It needs no network, so a test makes it, inside.
    """
    with tempfile.TemporaryDirectory(prefix="flargo-wheels-") as tmp:
        for wheel in wheels().iterdir():
            (Path(tmp) / wheel.name).symlink_to(wheel)
        _pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp, ROOT)
        dockerfile("parent", archive("job"), Path(tmp), folder / "parent.tar")
    return folder / "parent.tar"


def dockerfile(name: str, base: Path, packages: Path, to: Path) -> None:
    """Build a Dockerfile of ``deploy/images`` on a base (an archive), with a folder of wheels, to an archive."""
    with tempfile.TemporaryDirectory(prefix="flargo-build-", dir="/var/tmp", ignore_cleanup_errors=True) as tmp:
        context = Path(tmp) / "context"
        shutil.copytree(DOCKERFILES, context, ignore=shutil.ignore_patterns("wheels"))
        shutil.copytree(packages, context / "wheels", copy_function=_link)
        # Without any network, which buildah itself can't say of this isolation, the one that works everywhere.
        buildah = ("unshare", "--net", "buildah", f"--root={tmp}/root", f"--runroot={tmp}/run")
        image = parts.run(*buildah, "pull", "--quiet", "--policy=always", f"oci-archive:{base}").strip()
        alone = ("--isolation=chroot", "--pull-never", "--quiet")
        argument = f"--build-arg={'JOB' if name == 'parent' else 'BASE'}={image}"
        parts.run(*buildah, "build", *alone, argument, f"--tag={name}", f"--file={context}/{name}.Dockerfile", context)
        parts.run(*buildah, "push", "--quiet", name, f"oci-archive:{to}:image")


def wheels() -> Path:
    """The packages of both images by the hashes of the lock, fetched by the command of docs/install.md."""
    lines = (ROOT / "docs" / "install.md").read_text().splitlines()
    (said,) = (shlex.split(line)[1:] for line in lines if line.startswith("pip download "))

    def build(to: Path) -> None:
        elsewhere = {"--dest=deploy/images/wheels": f"--dest={to}"}
        _pip(*(elsewhere.pop(word, word) for word in said), "--quiet")
        assert not elsewhere, said

    return parts.part("wheels", f"2 {said} {(DOCKERFILES / 'parent.txt').read_text()}", build)


def _pip(*arguments: str | Path) -> None:
    parts.run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def _link(source: str, target: str) -> None:
    """Instead of a copy, where the file system lets it."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copy(source, target)


def _base() -> Path:
    """What stands in for python:3.11-slim, which no package registry has: Debian's own Python, with pip."""

    def fill(root: Path) -> None:
        wanted = "--include=python3,python3-pip,ca-certificates"
        parts.run("debootstrap", "--variant=minbase", wanted, "bookworm", root)
        # As there, it is found in /usr/local/bin, and nobody but pip installs packages.
        for name in ("python", "python3"):
            (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
        (root / f"usr/lib/python{PYTHON}/EXTERNALLY-MANAGED").unlink()
        for path in DROPPED:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir(parents=True)

    return _image("image-base", f"1 python{PYTHON} {DROPPED}", fill, {"config.cmd": "python3"})


def _scratch(name: str, program: Path, entrypoint: str) -> Path:
    """An image of nothing but one static program in /bin."""

    def fill(root: Path) -> None:
        (root / "bin").mkdir()
        shutil.copy(program, root / "bin" / name)
        (root / "bin" / name).chmod(0o755)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)

    settings = {"config.entrypoint": entrypoint, "config.env": "PATH=/bin"}
    return _image(f"image-{name}", f"1 {program}", fill, settings)


def _image(name: str, recipe: str, fill: Callable[[Path], None], settings: dict[str, str]) -> Path:
    """A part that holds ``image.tar``: one layer that ``fill(folder)`` made."""

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory(dir=versions.CACHE, prefix=".rootfs-", ignore_cleanup_errors=True) as tmp:
            root, layout = Path(tmp) / "root", Path(tmp) / "layout"
            root.mkdir(mode=0o755)
            root.chmod(0o755)  # becomes the mode of "/" in the image; a strict umask would lock users out
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
