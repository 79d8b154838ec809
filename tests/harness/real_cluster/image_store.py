"""Puts the images into the cluster's registry and the node's own store."""

import tarfile
from pathlib import Path

from tests.harness.real_cluster import images, sandbox, state

ADDRESS = "10.88.0.1:5000"


def fill() -> None:
    """Push every image to the registry, and pull every one into containerd.

    The early pull saves the first pod the unpacking. A later pull (``imagePullPolicy: Always``) still asks the
    registry, and gets the same digest.
    """
    for name, full in images.names().items():
        push(images.archive(name), full)
        pull(full)


def push(archive: Path, full: str) -> None:
    """Push one archive to the registry; ``full`` is the image's name in pods."""
    target = f"docker://{_address(full)}"
    sandbox.run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", _source(archive), target)


def pull(full: str, socket: Path = state.CONTAINERD) -> None:
    """Pull one image from the registry into a node's containerd, under its name in pods."""
    images_of_node = ("ctr", f"--address={socket}", "images")
    sandbox.run(*images_of_node, "pull", "--plain-http", _address(full))
    sandbox.run(*images_of_node, "tag", "--force", _address(full), full)


def _address(full: str) -> str:
    return f"{ADDRESS}/{full.partition('/')[2]}"


def _source(archive: Path) -> str:
    """Return the archive as skopeo's source: OCI's format, or the older one of ``docker save``."""
    with tarfile.open(archive) as tar:
        kind = "oci-archive" if "oci-layout" in tar.getnames() else "docker-archive"
    return f"{kind}:{archive}"
