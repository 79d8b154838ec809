"""Objects that flargo a06983c created for jobs, and how a later version must treat them.

tests/recordings/upgrade/a06983c.json holds the Workflow, the pods and the Secrets of three jobs as that version left
them on the embedded engine: one runs, one has finished, and one was not released yet.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any

from tests.harness.paths import RECORDINGS

Object = dict[str, Any]
FILE = RECORDINGS / "upgrade" / "a06983c.json"
_SERVER_FIELDS = ("uid", "creationTimestamp")
"""The fields of the metadata in the file that the API server had set."""


@dataclass(frozen=True)
class OldJob:
    """The objects of one job."""

    workflow: Object
    pods: tuple[Object, ...]
    secrets: tuple[Object, ...]

    @property
    def name(self) -> str:
        """The name of its Workflow."""
        return str(self.workflow["metadata"]["name"])

    @property
    def without_status(self) -> Object:
        """Its Workflow as the old version created it: suspended, and without what Argo added."""
        workflow = copy.deepcopy(self.workflow)
        workflow.pop("status", None)
        workflow["spec"]["suspend"] = True
        meta = workflow["metadata"]
        for field in _SERVER_FIELDS:
            meta.pop(field)
        meta["labels"] = {
            key: value for key, value in meta["labels"].items() if not key.startswith("workflows.argoproj.io")
        }
        meta["annotations"].pop("flargo.dev/released", None)
        return workflow


def old_jobs(federation: str) -> dict[str, OldJob]:
    """Return the jobs by their state, as if the site were in this federation (an id of 32 digits)."""
    text = FILE.read_text()
    old_id = json.loads(text)["running"]["workflow"]["metadata"]["labels"]["flargo.dev/federation"]
    rows: dict[str, Object] = json.loads(text.replace(old_id, federation[: len(old_id)]))
    return {state: OldJob(row["workflow"], tuple(row["pods"]), tuple(row["secrets"])) for state, row in rows.items()}
