"""The nodes of a cluster, and what an administrator, the scheduler and a failing machine do to them."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.real_cluster import second_node
from tests.harness.real_cluster.node_daemons import (
    SECOND_NODE,
    SECOND_NODE_DISK,
    SECOND_NODE_MEMORY,
    SECOND_NODE_RESERVE,
)

SYSTEM_NAMESPACE = "kube-system"
"""The namespace of pods that no Pod Security standard restricts."""
PRESSURE_SECONDS = 60.0
"""The limit for a change of a node's pressure to be reported: kubelets look every 10 s, and report every 10 s."""
TAINT = "flargo.test/unfit"
"""The key of the taint of :meth:`Node.evict_by_taint`."""
TAKES_MEMORY = f"""
import time
taken = b'x' * {SECOND_NODE_MEMORY - SECOND_NODE_RESERVE + 50 * 2**20}
time.sleep(3600)
"""
"""Code that takes so much of the second node's memory that its kubelet evicts pods."""
TAKES_DISK = f"""
import os, time
os.posix_fallocate(os.open('/disk/taken', os.O_CREAT | os.O_WRONLY), 0, {SECOND_NODE_DISK - SECOND_NODE_RESERVE})
time.sleep(3600)
"""
"""Code that takes so much of the second node's disk that its kubelet evicts pods."""


class Node:
    """A node, whichever cluster it belongs to. What is done to it in a ``with`` is undone at the end."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def conditions(self) -> dict[str, str]:
        """Return the status of each of the node's conditions: True, False or Unknown."""
        status = json.loads(self.cluster.kubectl("get", "node", self.name, "--output=json"))["status"]
        return {row["type"]: row["status"] for row in status["conditions"]}

    def expect_condition(self, condition: str, status: str) -> None:
        """Wait until the node's kubelet has reported this status of a condition."""
        eventually(lambda: self.conditions()[condition] == status, PRESSURE_SECONDS, f"{condition} is {status}")

    def cpus(self) -> float:
        """Return how many processors the node has for pods."""
        status = json.loads(self.cluster.kubectl("get", "node", self.name, "--output=json"))["status"]
        text = str(status["allocatable"]["cpu"])
        return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)

    @contextlib.contextmanager
    def cordon(self) -> Iterator[None]:
        """Let no further pod be scheduled on the node."""
        self.cluster.kubectl("cordon", self.name)
        try:
            yield
        finally:
            self.cluster.kubectl("uncordon", self.name)

    @contextlib.contextmanager
    def drain(self, selector: str) -> Iterator[None]:
        """Cordon the node, evict its pods that a label selector matches by the API, and wait until they are gone."""
        with self.cluster.drain(selector, self.name):
            yield

    @contextlib.contextmanager
    def evict_by_taint(self) -> Iterator[None]:
        """Taint the node with NoExecute: every pod that does not tolerate the taint is deleted at once."""
        self.cluster.kubectl("taint", "node", self.name, f"{TAINT}=true:NoExecute")
        try:
            yield
        finally:
            self.cluster.kubectl("taint", "node", self.name, f"{TAINT}-")

    @contextlib.contextmanager
    def preempt(self, cpus: float) -> Iterator[None]:
        """Run a more important pod that needs this many of the node's processors, and wait until it runs."""
        important = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "flargo-test-preempts"},
            "value": 1_000_000,
        }
        pod = self._pod(
            "flargo-test-preempts",
            "import time; time.sleep(3600)",
            nodeSelector={"kubernetes.io/hostname": self.name},
            priorityClassName="flargo-test-preempts",
        )
        pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": f"{cpus:.3f}"}}
        with self.cluster.apply(important, pod, namespace=SYSTEM_NAMESPACE):
            yield

    def _pod(self, name: str, code: str, **spec: Any) -> Object:
        """Return a pod that runs Python code as root."""
        container: Object = {
            "name": "main",
            "image": self.cluster.target.job_image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", code],
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1, "restartPolicy": "Never", **spec}
        metadata = {"name": name, "namespace": SYSTEM_NAMESPACE}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class SecondNode(Node):
    """The test cluster's second node (real_cluster/second_node.py), whose resources and power tests can take."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, SECOND_NODE.name)

    @contextlib.contextmanager
    def exhaust_memory(self) -> Iterator[None]:
        """Take most of the memory, by a pod that the kubelet never evicts: other pods are evicted for it."""
        with self._exhaust(self._pod("flargo-test-takes-memory", TAKES_MEMORY), "MemoryPressure"):
            yield

    @contextlib.contextmanager
    def exhaust_disk(self) -> Iterator[None]:
        """Take most of the disk, by a pod that the kubelet never evicts: other pods are evicted for it."""
        pod = self._pod("flargo-test-takes-disk", TAKES_DISK, volumes=[{"name": "disk", "emptyDir": {}}])
        pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "disk", "mountPath": "/disk"}]
        with self._exhaust(pod, "DiskPressure"):
            yield

    @contextlib.contextmanager
    def lose_connection(self) -> Iterator[None]:
        """Cut the node off: its pods go on, and are marked for deletion once it has been silent for 20 s."""
        second_node.cut()
        try:
            yield
        finally:
            second_node.mend()
            second_node.wait_until_ready()

    @contextlib.contextmanager
    def lose_power(self) -> Iterator[None]:
        """End all of the node's processes at once, without a word to anybody; start the node again at the end."""
        second_node.power_off()
        try:
            yield
        finally:
            second_node.power_on()
            second_node.wait_until_ready()

    @contextlib.contextmanager
    def _exhaust(self, pod: Object, condition: str) -> Iterator[None]:
        """Run a critical pod on the node, whatever else waits; at the end, wait until the node accepts pods again."""
        pod["spec"] |= {"nodeName": self.name, "priorityClassName": "system-node-critical"}
        with self.cluster.apply(pod, namespace=SYSTEM_NAMESPACE):
            yield
            # The kubelet evicts, and rejects new pods, up to 10 s before it reports that: without a wait for the
            # report, the wait for its end would end at once.
            self.expect_condition(condition, "True")
        self.expect_condition(condition, "False")
        second_node.wait_until_ready()
