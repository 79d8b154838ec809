"""The Debian packages whose programs the cluster needs: named here once, and asked for by name when missing."""

import os
import shutil

# Each package, with a program (or file) that shows it is there.
NEEDED = {
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
    "openssl": "openssl",
    "postgresql": "/usr/lib/postgresql/15/bin/postgres",
    "util-linux": "nsenter",
}
# Where Debian keeps the programs of administrators, which not every PATH names.
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


def missing() -> list[str]:
    """The packages whose programs are not to be found."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    return [package for package, program in NEEDED.items() if not shutil.which(program, path=path)]


def check() -> None:
    """Say what to install, before anything fails half way."""
    if os.geteuid():
        raise SystemExit("cluster: needs root (namespaces, mounts, containers)")
    if lacking := missing():
        raise SystemExit(
            f"cluster: these Debian packages are missing: {' '.join(lacking)}\n"
            f"cluster: install them: apt-get install --yes --no-install-recommends {' '.join(NEEDED)}"
        )
