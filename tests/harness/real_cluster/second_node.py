"""Starts and ends a second node for the tests that need one: for drains, node pressure, preemption and lost nodes.

It is a kubelet and a containerd in namespaces of their own inside the sandbox (mounts, network, processes), with pods,
a cgroup and a disk of their own. A cable (a veth pair) connects it with the sandbox's network, so that it can be cut,
and one process ends all of it, so that it can lose its power. Without it the cluster is as it always was.
"""

import concurrent.futures
import contextlib
import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.harness.real_cluster import control, node_daemons, node_images, packages, pki, sandbox, state, up
from tests.harness.real_cluster.node_daemons import SECOND_NODE as NODE
from tests.harness.real_cluster.node_daemons import SECOND_NODE_DISK

DAEMON = "node-2"
"""The node's first process, among the sandbox's daemons, and the sandbox's end of the cable."""
NEAR_END, FAR_END = "10.90.0.1", NODE.address
"""The addresses of the cable's ends."""
LOSS_FLAGS = ("--node-monitor-grace-period=20s", "--node-monitor-period=1s", "--node-eviction-rate=10")
"""Flags of the controller manager: a silent node is NotReady after 20 s, not after 50. Kubelets report every 10 s."""
DISK_IMAGE = NODE.folder / "disk.img"
CUT = (("raw", "PREROUTING", "-i"), ("mangle", "POSTROUTING", "-o"))
"""The node's chains of iptables that every packet on the cable passes: table, chain and option of the device."""


@contextlib.contextmanager
def started() -> Iterator[None]:
    """Start the node and wait until it is ready; end and remove it at the end of the ``with``."""
    stop()  # an interrupted test has perhaps left it
    try:
        start()
        yield
    finally:
        stop()


def start() -> None:
    """Start the node, and let the cluster notice lost nodes sooner."""
    if not NODE.folder.exists():
        _prepare()
    _format_disk()
    with concurrent.futures.ThreadPoolExecutor() as executor:
        restart = executor.submit(_set_flags, LOSS_FLAGS)
        power_on()
        restart.result()
    wait_until_ready()


def stop() -> None:
    """End the node, and remove it and its pods from the API; the controller manager gets its usual flags."""
    if not NODE.folder.exists():
        return
    if DAEMON in control.daemons():
        power_off()
    on_node = f"--field-selector=spec.nodeName={NODE.name}"
    force = ("--force", "--grace-period=0", "--wait=false")
    sandbox.run("kubectl", "delete", "pods", "--all-namespaces", on_node, *force)
    sandbox.run("kubectl", "delete", "node", NODE.name, "--ignore-not-found")
    _set_flags(())


def power_on() -> None:
    """Start the node's processes, and connect it."""
    for name in ("control.sock", "init.json"):
        (NODE.folder / name).unlink(missing_ok=True)
    for tree in sandbox.cgroups():
        (tree / NODE.folder.name).mkdir(exist_ok=True)
    control.start(DAEMON)
    sandbox.wait("the second node", (NODE.folder / "init.json").exists, 20, only=DAEMON)
    _connect()
    control.ask("start", folder=NODE.folder, name="containerd")
    version = ("ctr", f"--address={NODE.socket}", "version")
    sandbox.wait("its containerd", functools.partial(sandbox.succeeds, *version), 30, only=DAEMON)
    control.ask("start", folder=NODE.folder, name="kubelet")


def power_off() -> None:
    """End all processes of the node at once. Nobody in the cluster is told, not even by the end of a connection."""
    cut()
    control.signal(DAEMON, "KILL")
    sandbox.wait("the second node's end", lambda: DAEMON not in control.daemons(), 20, only="kube-apiserver")
    # The kernel removes the cable with the node's network a moment later.
    with contextlib.suppress(sandbox.ClusterError):
        sandbox.run("ip", "link", "delete", DAEMON)
    for tree in sandbox.cgroups():
        for folder, _, _ in os.walk(tree / NODE.folder.name, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def cut() -> None:
    """Let no packet through the cable: the node's processes go on, and nobody hears of them."""
    for table, chain, option in CUT:
        run("iptables", "--wait", "--table", table, "--insert", chain, option, "eth0", "--jump", "DROP")


def mend() -> None:
    """Let packets through the cable again."""
    for table, chain, option in CUT:
        run("iptables", "--wait", "--table", table, "--delete", chain, option, "eth0", "--jump", "DROP")


def wait_until_ready() -> None:
    """Wait until the node accepts pods."""
    sandbox.wait("the second node", is_ready, 90, only=DAEMON)


def is_ready() -> bool:
    """Return whether the node is ready, and no taint keeps pods away."""
    taints = ("kubectl", "get", "node", NODE.name, "--output=jsonpath={.spec.taints}")
    return up.is_node_ready(NODE.name) and not sandbox.run(*taints)


def run(*command: str, stdin: str = "") -> str:
    """Run a command in the node's network, and return its output."""
    pid = json.loads((NODE.folder / "init.json").read_text())["pid"]
    return sandbox.run("nsenter", f"--target={pid}", "--net", "--", *command, stdin=stdin)


def _prepare() -> None:
    """Write what all starts of the node share."""
    for name in ("logs", "pids", "disk"):
        (NODE.folder / name).mkdir(parents=True)
    node_daemons.write(NODE)
    node_images.lend(NODE.folder / "containerd")
    subject = f"/O=system:nodes/CN=system:node:{NODE.name}"
    pki.make_client("kubelet-2", subject, NODE.kubeconfig, server="https://10.88.0.1:443")
    (NODE.folder / "daemons.json").write_text(json.dumps(node_daemons.table(NODE)))
    commands = ["ip link set lo up", f"mount -o loop {DISK_IMAGE} {NODE.disk}", *node_daemons.bridge_commands(NODE)]
    (NODE.folder / "setup.json").write_text(json.dumps(commands))


def _format_disk() -> None:
    """Make an empty disk: a file that takes only the space that is used."""
    DISK_IMAGE.unlink(missing_ok=True)
    with DISK_IMAGE.open("wb") as file:
        file.truncate(SECOND_NODE_DISK)
    subprocess.run(("mkfs.ext4", "-q", DISK_IMAGE), check=True, env={"PATH": packages.SBIN})


def _connect() -> None:
    """Lay the cable between the sandbox's network and the node's, with a route through it to the pods of each."""
    pid = json.loads((NODE.folder / "init.json").read_text())["pid"]
    near = (
        f"link add {DAEMON} type veth peer name eth0 netns {pid}",
        f"address add {NEAR_END}/30 dev {DAEMON}",
        f"link set {DAEMON} up",
        f"route add {NODE.pods} via {FAR_END}",
    )
    far = (f"address add {FAR_END}/30 dev eth0", "link set eth0 up", f"route add default via {NEAR_END}")
    sandbox.run("ip", "-batch", "-", stdin="\n".join(near) + "\n")
    run("ip", "-batch", "-", stdin="\n".join(far) + "\n")


def _set_flags(flags: tuple[str, ...]) -> None:
    """Restart the controller manager with these of the LOSS_FLAGS, unless it has just these."""
    path = state.RUN / "daemons.json"
    table = json.loads(path.read_text())
    command = table["kube-controller-manager"]["command"]
    changed = [*(word for word in command if word not in LOSS_FLAGS), *flags]
    if changed != command:
        table["kube-controller-manager"]["command"] = changed
        new = path.with_suffix(".new")
        new.write_text(json.dumps(table, indent=1))
        new.rename(path)  # process 1 reads the file whenever it starts a daemon
        up.restart("kube-controller-manager")
