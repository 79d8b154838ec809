"""The cluster as somebody other than flargo sees and touches it: kubectl, argo, and the node's processes."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.place import Place

Object = dict[str, Any]


class World:
    """One namespace, looked at with an administrator's eyes. Knows nothing of flargo but its labels."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def kubectl(self, *arguments: str, document: Object | None = None) -> str:
        """What kubectl prints; its failure is the test's."""
        words = ("kubectl", f"--kubeconfig={self.place.kubeconfig}", f"--namespace={self.place.namespace}")
        stdin = json.dumps(document) if document is not None else None
        done = subprocess.run((*words, *arguments), input=stdin, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def argo(self, *arguments: str) -> str:
        """What Argo's own command line prints."""
        words = ("argo", *arguments, f"--kubeconfig={self.place.kubeconfig}", f"--namespace={self.place.namespace}")
        done = subprocess.run(words, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind that a label selector matches."""
        select = (f"--selector={selector}",) if selector else ()
        found: list[Object] = json.loads(self.kubectl("get", kind, *select, "--output=json"))["items"]
        return found

    def workflows(self, job_id: str) -> dict[str, Object]:
        """A job's Workflows by site."""
        return {
            item["metadata"]["annotations"]["flargo.dev/site-name"]: item
            for item in self.items("workflows.argoproj.io", f"flargo.dev/job-id={job_id}")
        }

    def pods(self, job_id: str) -> list[Object]:
        """A job's pods."""
        return self.items("pods", f"flargo.dev/job-id={job_id}")

    def log(self, pod: Object) -> str:
        """What a pod's main container has said so far; nothing, where it has not begun."""
        words = ("kubectl", f"--kubeconfig={self.place.kubeconfig}", f"--namespace={self.place.namespace}")
        name = pod["metadata"]["name"]
        return subprocess.run(
            (*words, "logs", name, "--container=main"), text=True, capture_output=True, check=False
        ).stdout

    def living(self, job_id: str) -> list[str]:
        """The names of a job's pods that are not over."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(job_id)
            if pod["status"]["phase"] not in {"Succeeded", "Failed"}
        ]

    def secrets(self, prefix: str) -> list[str]:
        """The names of the Secrets that begin so."""
        return [name for item in self.items("secrets") if (name := item["metadata"]["name"]).startswith(prefix)]

    def processes(self, job_id: str) -> list[int]:
        """A job's processes on the node, looked for where no API can be wrong about them.

        On somebody's own cluster the nodes are out of sight, and the pods that run have to do.
        """
        if self.place.own:
            return [hash(name) for name in self.living(job_id)]
        return [pid for pid, command in _commands() if job_id.encode() in command]


def _commands() -> list[tuple[int, bytes]]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            found.append((int(entry.name), (entry / "cmdline").read_bytes()))
        except OSError:
            continue
    return found


def eventually(true: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is true; after how many seconds it was."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.25)
    return time.monotonic() - begun
