"""The images that each node has from the start: unpacked once into the cache, and lent to every node's containerd.

Unpacking them takes a busy machine up to 20 s, which a second node's start could not afford.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness.real_cluster import image_store, images, packages, parts

SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs") / "snapshots"
"""Where containerd keeps the unpacked layers, below its root."""
DATABASE = ".db"
"""How the names of containerd's databases end: the only files of it that change."""
START_SECONDS = 30.0
"""The limit for the start of a containerd."""


def unpacked() -> Path:
    """Return the root of a containerd that has every image, unpacked and under its name in pods."""
    archives = {full: images.archive(name) for name, full in images.names().items()}
    versions = [(full, str(archive), archive.stat().st_mtime_ns) for full, archive in archives.items()]

    def build(to: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="flargo-images-", dir="/var/tmp") as tmp, _containerd(to, Path(tmp)):
            for full, archive in archives.items():
                named = Path(tmp) / "image.tar"
                source, target = image_store.archive_source(archive), f"oci-archive:{named}:{full}"
                parts.run("skopeo", "--insecure-policy", "copy", "--quiet", source, target)
                parts.run("ctr", f"--address={tmp}/sock", "--namespace=k8s.io", "images", "import", named)
                named.unlink()

    return parts.part("node-images", f"1 {parts.run('containerd', '--version')} {versions}", build)


def lend(root: Path) -> None:
    """Give a containerd that does not run yet every image, in a root folder that does not exist yet.

    Only the databases are copied. Nobody changes blobs and layers: the blobs are linked, and the layers stay in the
    cache, since a file system that only lower layers are read from can be shared. What the node deletes are links.
    """
    source = unpacked()
    layers = str(source / SNAPSHOTS)
    shutil.copytree(
        source,
        root,
        ignore=lambda folder, names: names if folder == layers else [],
        copy_function=_copy,
    )
    for layer in (source / SNAPSHOTS).iterdir():
        (root / SNAPSHOTS / layer.name).symlink_to(layer)


def _copy(source: str, target: str) -> None:
    (shutil.copy2 if source.endswith(DATABASE) else images.link)(source, target)


@contextlib.contextmanager
def _containerd(root: Path, folder: Path) -> Iterator[None]:
    """Run a containerd with its socket in a folder."""
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{folder}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{folder}/sock"\n'
        f'[plugins."io.containerd.internal.v1.opt"]\npath = "{folder}/opt"\n'
    )
    program = shutil.which("containerd", path=packages.SBIN) or "containerd"
    with (folder / "log").open("wb") as log:
        # In a mount namespace of its own, so that no mount is left behind.
        process = subprocess.Popen(("unshare", "--mount", program, f"--config={config}"), stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not (folder / "sock").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait()
