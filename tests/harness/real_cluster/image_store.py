"""Brings the images to where the cluster finds them: its registry, and the node's own store."""

import tarfile
from pathlib import Path

from tests.harness.real_cluster import images, sandbox

ADDRESS = "10.88.0.1:5000"


def fill() -> None:
    """Push every image to the registry, and pull every one into containerd.

    The early pull spares the first pod the unpacking; a later one (``imagePullPolicy: Always``)
    still asks the registry, and finds the digest that is there.
    """
    for name, full in images.names().items():
        push(images.archive(name), full)
        pull(full)


def push(archive: Path, full: str) -> None:
    """Push one archive to the registry; ``full`` is the name pods call it by."""
    target = f"docker://{_address(full)}"
    sandbox.run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", _source(archive), target)


def pull(full: str) -> None:
    """Pull one image from the registry into containerd, under the name pods call it by."""
    sandbox.run("ctr", "images", "pull", "--plain-http", _address(full))
    sandbox.run("ctr", "images", "tag", "--force", _address(full), full)


def _address(full: str) -> str:
    return f"{ADDRESS}/{full.partition('/')[2]}"


def _source(archive: Path) -> str:
    """The archive as skopeo is told of it: OCI's kind, or the older one of ``docker save``."""
    with tarfile.open(archive) as opened:
        kind = "oci-archive" if "oci-layout" in opened.getnames() else "docker-archive"
    return f"{kind}:{archive}"
