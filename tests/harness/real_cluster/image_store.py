"""Puts images into the cluster's registry."""

import tarfile
from pathlib import Path

from tests.harness.real_cluster import images, sandbox

ADDRESS = "10.88.0.1:5000"


def fill() -> None:
    """Push every image to the registry.

    Nodes have the images already (node_images.py). A pull (``imagePullPolicy: Always``) still asks the registry, and
    gets the same digest.
    """
    for name, full in images.names().items():
        push(images.archive(name), full)


def push(archive: Path, full: str) -> None:
    """Push one archive to the registry; ``full`` is the image's name in pods."""
    options = ("--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false")
    target = f"docker://{ADDRESS}/{full.partition('/')[2]}"
    sandbox.run("skopeo", *options, archive_source(archive), target)


def archive_source(archive: Path) -> str:
    """Return the archive as skopeo's source: OCI's format, or the older one of ``docker save``."""
    with tarfile.open(archive) as tar:
        kind = "oci-archive" if "oci-layout" in tar.getnames() else "docker-archive"
    return f"{kind}:{archive}"
