"""The Debian packages whose programs the cluster needs, and a check that names the missing ones."""

import os
import shutil

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "buildah",
    "umoci": "umoci",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
    "iptables": "iptables",
    "ipset": "ipset",
    "iproute2": "ip",
    "e2fsprogs": "mkfs.ext4",
    "openssl": "openssl",
    "postgresql": "/usr/lib/postgresql/15/bin/postgres",
    "util-linux": "nsenter",
}
"""Each package, with a program (or file) that shows that it is installed."""
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Folders of Debian's programs for administrators, which not every PATH has."""


def missing() -> list[str]:
    """Return the packages whose programs are missing."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    return [package for package, program in PACKAGES.items() if not shutil.which(program, path=path)]


def check() -> None:
    """Exit with the packages to install, before anything fails half way."""
    if os.geteuid():
        raise SystemExit("cluster: needs root (namespaces, mounts, containers)")
    if packages := missing():
        raise SystemExit(
            f"cluster: these Debian packages are missing: {' '.join(packages)}\n"
            f"cluster: install them: apt-get install --yes --no-install-recommends {' '.join(PACKAGES)}"
        )
