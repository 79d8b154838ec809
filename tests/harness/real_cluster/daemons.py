"""The daemons of the sandbox: the command, port and configuration files of each. Those of a node: node_daemons.py."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from tests.harness.real_cluster import images, node_daemons, parts, pki, sandbox, state
from tests.harness.real_cluster.node_daemons import FIRST_NODE, SECOND_NODE, debian_program

REQUEUE = os.environ.get("FLARGO_ARGO_REQUEUE", "2s")  # Argo's own default of 10s makes tests slow

# The order of the start: daemons that need only the machine, then the API server, then what is applied to it.
FIRST = ("etcd", "kube-apiserver", "containerd", "registry")
SECOND = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
THIRD = ("workflow-controller", "coredns")
# "kube-router" is started by firewall.py only, and "node-2" by second_node.py.


def write(namespace: str) -> None:
    """Write all configuration files, and ``setup.json`` and ``daemons.json`` for process 1."""
    for folder in ("logs", "pids"):
        (state.RUN / folder).mkdir()
    node_daemons.write(FIRST_NODE)
    _save("audit-policy", AUDIT_POLICY)
    _save("registry", registry_configuration())
    (state.CONFIG / "Corefile").write_text(COREFILE)
    (state.RUN / "setup.json").write_text(json.dumps([*ADDRESSES, *node_daemons.bridge_commands(FIRST_NODE)]))
    (state.RUN / "daemons.json").write_text(json.dumps(table(namespace), indent=1))


def table(namespace: str) -> dict[str, dict[str, Any]]:
    """Return each daemon's command, the port that shows that it is ready, and its environment variables."""
    return {
        "etcd": {"command": etcd(), "port": 2379},
        "kube-apiserver": {"command": kube_apiserver(), "port": 443},
        **node_daemons.table(FIRST_NODE),
        "registry": {
            "command": [debian_program("docker-registry"), "serve", f"{state.CONFIG}/registry.yaml"],
            "port": 5000,
        },
        "kube-controller-manager": {"command": kube_controller_manager(), "port": 10257},
        "kube-scheduler": {"command": kube_scheduler(), "port": 10259},
        "kube-proxy": {"command": kube_proxy(), "port": 10249},
        "kube-router": {"command": kube_router(), "port": 20244},
        "coredns": {"command": [*_built_command("coredns"), "-conf", f"{state.CONFIG}/Corefile"], "port": 8181},
        "workflow-controller": {"command": workflow_controller(namespace), "port": 6060, "env": ARGO_ENVIRONMENT},
        "node-2": {"command": sandbox.boot_command(SECOND_NODE.folder)},
    }


def _built_command(name: str, /, **flags: str | Path) -> list[str]:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
    return [str(parts.program(name)), *options]


def _save(name: str, document: dict[str, Any]) -> None:
    (state.CONFIG / f"{name}.yaml").write_text(yaml.safe_dump(document))


def etcd() -> list[str]:
    """Return the command of an etcd of one member, whose data ends with the sandbox: it is never synced to disk."""
    return [*_built_command("etcd", name="flargo", data_dir=state.RUN / "etcd", log_level="warn"), "--unsafe-no-fsync"]


def kube_apiserver() -> list[str]:
    """Return the API server's command.

    It listens on the port of the Service "kubernetes", whose address the loopback device has: it needs no kube-proxy.
    """
    return _built_command(
        "kube-apiserver",
        advertise_address="10.88.0.1",
        bind_address="0.0.0.0",  # noqa: S104 - inside the sandbox
        secure_port="443",
        etcd_servers="http://127.0.0.1:2379",
        service_cluster_ip_range="10.96.0.0/24",
        endpoint_reconciler_type="none",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        client_ca_file=state.PKI / "ca.crt",
        tls_cert_file=state.PKI / "kube-apiserver.crt",
        tls_private_key_file=state.PKI / "kube-apiserver.key",
        service_account_issuer="https://kubernetes.default.svc",
        service_account_key_file=state.PKI / "service-accounts.key",
        service_account_signing_key_file=state.PKI / "service-accounts.key",
        kubelet_preferred_address_types="InternalIP",
        audit_log_path=state.AUDIT,
        audit_log_maxsize="4096",
        audit_policy_file=state.CONFIG / "audit-policy.yaml",
    )


def kube_controller_manager() -> list[str]:
    """Return the controller manager's command: service account tokens, garbage collector, node lifecycle and others."""
    return _built_command(
        "kube-controller-manager",
        kubeconfig=pki.kubeconfig_path("kube-controller-manager"),
        use_service_account_credentials="true",
        service_account_private_key_file=state.PKI / "service-accounts.key",
        root_ca_file=state.PKI / "ca.crt",
        leader_elect="false",
        bind_address="127.0.0.1",
    )


def kube_scheduler() -> list[str]:
    """Return the scheduler's command, with its default settings."""
    kubeconfig = pki.kubeconfig_path("kube-scheduler")
    return _built_command("kube-scheduler", kubeconfig=kubeconfig, leader_elect="false", bind_address="127.0.0.1")


def kube_proxy() -> list[str]:
    """Return kube-proxy's command: iptables in the sandbox's own network, and none of the machine's settings."""
    return _built_command(
        "kube-proxy",
        kubeconfig=pki.kubeconfig_path("kube-proxy"),
        hostname_override="flargo",
        proxy_mode="iptables",
        cluster_cidr="10.88.0.0/16",
        conntrack_max_per_core="0",
        conntrack_tcp_timeout_established="0",
        conntrack_tcp_timeout_close_wait="0",
    )


def kube_router() -> list[str]:
    """Return kube-router's command, with its firewall only."""
    return _built_command(
        "kube-router",
        kubeconfig=state.ADMIN,
        hostname_override="flargo",
        run_firewall="true",
        run_router="false",
        run_service_proxy="false",
        run_loadbalancer="false",
        # kube-router lets pods reach any Service address that the node itself has, whatever policies say: usually a
        # node has none. This node has those of the API server and CoreDNS, so kube-router gets an unused range.
        service_cluster_ip_range="198.18.0.0/24",
        v="1",
    )


def registry_configuration() -> dict[str, Any]:
    """Return the registry's configuration: plain HTTP inside the sandbox, and a storage that outlives it."""
    return {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(state.REGISTRY)}, "delete": {"enabled": True}},
        "http": {"addr": ":5000"},
    }


def workflow_controller(namespace: str) -> list[str]:
    """Return the command of Argo's controller, for one namespace and with an account of its own."""
    return [
        *_built_command(
            "workflow-controller",
            kubeconfig=state.ARGO,
            namespace=namespace,
            managed_namespace=namespace,
            executor_image=images.names()["argoexec"],
            executor_image_pull_policy="IfNotPresent",
        ),
        "--namespaced",
    ]


ARGO_ENVIRONMENT = {"LEADER_ELECTION_DISABLE": "true", "DEFAULT_REQUEUE_TIME": REQUEUE}

ADDRESSES = (
    "ip link set lo up",
    "ip address add 10.96.0.1/32 dev lo",  # the Service "kubernetes", reachable without kube-proxy
    "ip address add 10.96.0.10/32 dev lo",  # where CoreDNS listens
)

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}

COREFILE = f"""\
. {{
    bind 10.96.0.10
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local {{
        kubeconfig {pki.kubeconfig_path("coredns")}
    }}
}}
"""
