"""The daemons of one node, kubelet and containerd: their commands and their configuration files."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.harness.real_cluster import images, packages, parts, pki, state


@dataclasses.dataclass(frozen=True)
class NodeSettings:
    """What differs between the nodes."""

    name: str
    """The node's name in Kubernetes."""
    folder: Path
    """Where its files are; the paths of sockets in it must stay short."""
    disk: Path
    """The folder whose file system the kubelet watches: for volumes and logs of pods."""
    address: str
    """The address at which the API server reaches the kubelet."""
    pods: str
    """The addresses of its pods; the first one is the bridge's."""
    cgroup: str
    """The cgroup of all its pods."""
    kubeconfig: Path
    kubelet: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the kubelet's configuration that only this node has."""

    @property
    def socket(self) -> Path:
        """The socket of its containerd."""
        return self.folder / "containerd.sock"


SECOND_NODE_MEMORY = 3 * 2**30
"""Bytes of memory that all pods of the second node may use together."""
SECOND_NODE_DISK = 8 * 2**30
"""Bytes of the second node's disk."""
SECOND_NODE_RESERVE = 2**30
"""Bytes of each that have to be free: the kubelet evicts pods when less are."""


def memory_of_machine() -> int:
    """Return the machine's memory in bytes, which each kubelet takes for its node's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


FIRST_NODE = NodeSettings(
    name="flargo",
    folder=state.RUN,
    disk=state.RUN,
    address="10.88.0.1",
    pods="10.88.0.0/16",
    cgroup=state.CGROUP,
    kubeconfig=pki.kubeconfig_path("kubelet"),
)

SECOND_NODE = NodeSettings(
    name="flargo-2",
    folder=state.RUN / "node-2",
    disk=state.RUN / "node-2" / "disk",
    address="10.90.0.2",
    pods="10.89.0.0/16",
    cgroup=f"{state.CGROUP}/node-2",
    kubeconfig=pki.kubeconfig_path("kubelet-2"),
    # Its pods can exhaust the node and not the machine: they share a part of the memory, and the disk is its own.
    kubelet={
        "systemReserved": {"memory": str(max(memory_of_machine() - SECOND_NODE_MEMORY, 0))},
        "evictionHard": {
            "memory.available": str(SECOND_NODE_RESERVE),
            "nodefs.available": str(SECOND_NODE_RESERVE),
            "imagefs.available": "1%",
        },
        "evictionPressureTransitionPeriod": "10s",
    },
)
"""The node that second_node.py starts."""


def write(node: NodeSettings) -> None:
    """Write the configuration files of a node's daemons below ``config`` in its folder, which must not exist."""
    config = node.folder / "config"
    (config / "cni").mkdir(parents=True)
    (config / "kubelet.yaml").write_text(yaml.safe_dump(kubelet_configuration(node)))
    (config / "containerd.toml").write_text(containerd_configuration(node))
    (config / "cni" / "10-flargo.conflist").write_text(json.dumps(pod_network(node)))


def table(node: NodeSettings) -> dict[str, dict[str, Any]]:
    """Return each daemon's command, and the port that shows that it is ready."""
    return {
        "containerd": {"command": [debian_program("containerd"), f"--config={node.folder}/config/containerd.toml"]},
        "kubelet": {"command": kubelet(node), "port": 10250},
    }


def bridge_commands(node: NodeSettings) -> list[str]:
    """Return the commands that create the bridge of a node's pods.

    The bridge gets a hardware address of its own: without one it takes the lowest of its ports' addresses, which
    changes as pods come and go, and whoever had just resolved its gateway lost it for up to a minute.
    """
    address, _, bits = gateway(node.pods).partition("/")
    hardware = ":".join(f"{int(number):02x}" for number in address.split("."))
    return [
        f"ip link add cni0 address 0a:58:{hardware} type bridge",
        f"ip address add {address}/{bits} dev cni0",
        "ip link set cni0 up",
    ]


def gateway(pods: str) -> str:
    """Return the first address of a range of addresses, with the range's length."""
    network, _, bits = pods.partition("/")
    return f"{network.rpartition('.')[0]}.1/{bits}"


def debian_program(name: str) -> str:
    """Return the path of a program of Debian."""
    return shutil.which(name, path=packages.SBIN) or name


def kubelet(node: NodeSettings) -> list[str]:
    """Return the command of a node's kubelet."""
    options = {
        "config": node.folder / "config" / "kubelet.yaml",
        "kubeconfig": node.kubeconfig,
        "root-dir": node.disk / "kubelet",
        "cert-dir": node.folder / "kubelet-pki",
        "hostname-override": node.name,
        "node-ip": node.address,
    }
    return [str(parts.program("kubelet")), *(f"--{key}={value}" for key, value in options.items())]


def kubelet_configuration(node: NodeSettings) -> dict[str, Any]:
    """Return a kubelet's configuration: a cgroup of the node's own, and no eviction because of a full disk."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "resolvConf": "",
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "podLogsDir": str(node.disk / "pod-logs"),
        "serializeImagePulls": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        **node.kubelet,
    }


def pod_network(node: NodeSettings) -> dict[str, Any]:
    """Return the network of a node's pods, for the plugins that connect them to its bridge."""
    return {
        "cniVersion": "0.4.0",
        "name": "flargo",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def containerd_configuration(node: NodeSettings) -> str:
    """Return a node's containerd configuration, which reads images from the cluster's registry."""
    return f"""\
version = 2
root = "{node.folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{node.socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{node.folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.names()["pause"]}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{node.folder}/config/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{images.HOST}"]
endpoint = ["http://10.88.0.1:5000"]
"""
