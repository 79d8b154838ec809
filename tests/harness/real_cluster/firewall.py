"""NetworkPolicies count for as long as a test wants it: kube-router's firewall, which is taken down without a trace.

Without it nothing on the cluster holds pods to any policy, as on many a site.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.harness.cluster import Cluster, eventually
from tests.harness.real_cluster import control, parts, sandbox, up

NAME = "kube-router"
CHAINS = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
SETS = ("KUBE-SRC-", "KUBE-DST-")
BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
DNS = Path(__file__).with_name("dns-pod.yaml")


@contextlib.contextmanager
def enforced(cluster: Cluster) -> Iterator[None]:
    """Every NetworkPolicy of the cluster counts; a new one, or one for a new pod, a moment after it is there.

    What policies select has to be a pod, so pods' names are asked of one, too.
    """
    text = DNS.read_text()
    for theirs, ours in (
        ("image: IMAGE", cluster.target.job_image),
        ("path: PROGRAM", parts.program("coredns").parent),
    ):
        assert theirs in text
        text = text.replace(theirs, f"{theirs.partition(' ')[0]} {ours}")
    with cluster.apply(*yaml.safe_load_all(text), namespace="kube-system"):
        up.restart(NAME)
        try:
            yield
        finally:
            control.stop(NAME)
            clear()


def clear() -> None:
    """Remove its rules and sets, which it leaves where they are, and nobody else's."""
    saved = [line.split() for line in sandbox.run("iptables-save", "--table=filter").splitlines()]
    chains = [words[0][1:] for words in saved if words[0].startswith(tuple(f":{chain}" for chain in CHAINS))]
    jumps = [words for words in saved if words[0] == "-A" and words[1] in BUILT_IN and words[-1] in chains]
    script = [
        "*filter",
        *(" ".join(["-D", *words[1:]]) for words in jumps),
        *(f"-F {chain}" for chain in chains),
        *(f"-X {chain}" for chain in chains),
        "COMMIT",
    ]
    sandbox.run("iptables-restore", "--noflush", stdin="\n".join(script) + "\n")
    for name in sandbox.run("ipset", "list", "-name").split():
        if name.startswith(SETS):
            # The kernel lets go of a set a moment after the last rule that names it.
            eventually(functools.partial(sandbox.works, "ipset", "destroy", name), 10, f"the set {name} is gone")
