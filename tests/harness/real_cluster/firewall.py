"""Enforces NetworkPolicies while a test needs it, by kube-router's firewall, and removes all its rules afterwards.

Without it nothing on the cluster enforces policies, as at many sites.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.harness.cluster import Cluster, eventually
from tests.harness.real_cluster import control, parts, sandbox, up

NAME = "kube-router"
CHAIN_PREFIXES = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
SET_PREFIXES = ("KUBE-SRC-", "KUBE-DST-")
BUILT_IN_CHAINS = ("INPUT", "FORWARD", "OUTPUT")
DNS = Path(__file__).with_name("dns-pod.yaml")


@contextlib.contextmanager
def enforce_network_policies(cluster: Cluster) -> Iterator[None]:
    """Enforce every NetworkPolicy of the cluster; a new policy, or a new pod, is covered after a moment.

    A policy can only select pods, so pods get their DNS from a pod meanwhile.
    """
    text = DNS.read_text()
    for placeholder, value in (
        ("image: IMAGE", cluster.target.job_image),
        ("path: PROGRAM", parts.program("coredns").parent),
    ):
        assert placeholder in text
        text = text.replace(placeholder, f"{placeholder.partition(' ')[0]} {value}")
    with cluster.apply(*yaml.safe_load_all(text), namespace="kube-system"):
        up.restart(NAME)
        try:
            yield
        finally:
            control.stop(NAME)
            remove_rules()


def remove_rules() -> None:
    """Remove kube-router's rules and sets, which it leaves behind, and no others."""
    saved = [line.split() for line in sandbox.run("iptables-save", "--table=filter").splitlines()]
    chains = [words[0][1:] for words in saved if words[0].startswith(tuple(f":{chain}" for chain in CHAIN_PREFIXES))]
    jumps = [words for words in saved if words[0] == "-A" and words[1] in BUILT_IN_CHAINS and words[-1] in chains]
    script = [
        "*filter",
        *(" ".join(["-D", *words[1:]]) for words in jumps),
        *(f"-F {chain}" for chain in chains),
        *(f"-X {chain}" for chain in chains),
        "COMMIT",
    ]
    sandbox.run("iptables-restore", "--noflush", stdin="\n".join(script) + "\n")
    for name in sandbox.run("ipset", "list", "-name").split():
        if name.startswith(SET_PREFIXES):
            # The kernel releases a set a moment after the last rule that names it.
            eventually(functools.partial(sandbox.succeeds, "ipset", "destroy", name), 10, f"the set {name} is gone")
