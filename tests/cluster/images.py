"""The container images of the cluster, each made once into the cache as an OCI archive.

No container registry and no daemon is needed: ``debootstrap`` and ``pip`` fill a folder, ``umoci``
makes it the one layer of an image, ``skopeo`` packs the image.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.cluster import parts, versions

# The registry that only the cluster knows, see registry.py.
HOST = "flargo.test"
PYTHON = "3.11"  # of Debian bookworm
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
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
    """What job pods run: Debian's python3 with NVIDIA FLARE and numpy, usable by any user."""

    def fill(root: Path) -> None:
        parts.run("debootstrap", "--variant=minbase", "--include=python3,ca-certificates", "bookworm", root)
        wheels = ("--only-binary", ":all:", "--implementation", "cp", "--python-version", PYTHON)
        quiet = ("--quiet", "--root-user-action=ignore", "--no-compile", "--disable-pip-version-check")
        wanted = (f"nvflare=={versions.NVFLARE}", "numpy")
        parts.run(sys.executable, "-m", "pip", "install", *quiet, *wheels, "--target", root / SITE, *wanted)
        # Compiled here: a job's user can't write there, and would compile everything at each start.
        subprocess.run(["chroot", root, "python3", "-m", "compileall", "-q", f"/{SITE}"], check=False)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for path in DROPPED:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).mkdir(parents=True)

    settings = {"config.cmd": "python3", "config.workingdir": "/"}
    recipe = f"1 nvflare=={versions.NVFLARE} numpy python{PYTHON} {DROPPED}"
    return _image(f"image-job-{versions.NVFLARE}", recipe, fill, settings)


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
