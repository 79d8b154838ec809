"""Submits probes: Workflows without pods, by which a controller shows that it watches the namespace.

A probe's one step only waits, so nothing runs if somebody resumes it. The controller ends and deletes the probe by
itself if the doctor is killed before it can delete the probe.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from flargo.cluster import target
from flargo.cluster.answer import Answer
from flargo.cluster.survey import BuildTarget, Survey
from flargo.job.validate import is_label_value
from flargo.job.workflow import INSTANCE_ID
from flargo.terms import ARGO_API_VERSION, GROUP, Object
from flargo.tools.doctor.facts import Probe, Right

PROBE_RIGHTS: Final = tuple(Right("argoproj.io", "workflows", verb) for verb in ("create", "get", "delete"))
"""The rights that a probe needs. Without the right to delete it, none is submitted."""
PROBE_LABEL = f"{GROUP}/doctor"
_POLL_SECONDS = 0.5
"""The interval between two requests for the probe's state."""
_EXTRA_SECONDS = 60
"""The seconds that a probe lasts longer than the doctor waits, and the seconds that it is kept after its end."""
_MAX_DELETE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Prober:
    """Submits probes to a namespace. The functions for time are passed in, so that tests need not wait."""

    survey: Survey
    namespace: str
    now: Callable[[], float]
    pause: Callable[[float], None]

    def probe(self, instance_id: str | None, seconds: float) -> Probe:
        """Submit a probe, wait until a controller picks it up or the seconds are over, and delete it."""
        name = f"flargo-doctor-{secrets.token_hex(4)}"
        created = self.survey.post(self._target(), build_probe(name, self.namespace, instance_id, seconds))
        if not created.status:  # the answer may be lost although the probe was created
            latest = self._get(name)
            created = latest if latest.ok else created
        probe = Probe(instance_id, created)
        if not created.ok:
            return probe
        uid = str((created.body.get("metadata") or {}).get("uid") or "")
        try:
            probe = self._follow(probe, name, seconds)
        finally:
            is_deleted = self._delete(name, uid)
        return replace(probe, undeleted_name="" if is_deleted else name)

    def _follow(self, probe: Probe, name: str, max_seconds: float) -> Probe:
        start = self.now()
        while True:
            probe = replace(probe, latest=self._get(name), seconds=self.now() - start)
            if probe.phase or probe.latest.not_found or probe.seconds >= max_seconds:
                return probe
            self.pause(_POLL_SECONDS)

    def _delete(self, name: str, uid: str) -> bool:
        for _ in range(_MAX_DELETE_TRIES):
            if self.survey.delete(self._target(name), uid).ok or self._get(name).not_found:
                return True
            self.pause(_POLL_SECONDS)
        return False

    def _get(self, name: str) -> Answer:
        return self.survey.get(self._target(name))

    def _target(self, name: str | None = None) -> BuildTarget:
        return partial(target.resource, f"apis/{ARGO_API_VERSION}", "workflows", namespace=self.namespace, name=name)


def build_probe(name: str, namespace: str, instance_id: str | None, seconds: float) -> Object:
    """Return the Workflow of a probe, without any label by which a parent or a sweep would take it for a job."""
    labels = {PROBE_LABEL: "probe", **({INSTANCE_ID: instance_id} if instance_id else {})}
    step = {"name": "wait", "suspend": {"duration": str(round(seconds) + _EXTRA_SECONDS)}}
    return {
        "apiVersion": ARGO_API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "entrypoint": step["name"],
            "templates": [step],
            "ttlStrategy": {"secondsAfterCompletion": _EXTRA_SECONDS},
        },
    }


def candidate_ids(own: str | None, labels: Iterable[Object], settings: Iterable[Object]) -> list[str | None]:
    """Return instance ids to try after the site's own: none, those of Workflows here, and those in settings."""
    ids = [*(each.get(INSTANCE_ID) for each in labels), *(each.get("instanceID") for each in settings)]
    # A setting is YAML, so an id of digits is a number there. A text that no label can hold is not an instance id.
    texts = [str(each) for each in ids if isinstance(each, str | int) and not isinstance(each, bool)]
    candidates = [None, *(text for text in texts if is_label_value(text))]
    return [each for each in dict.fromkeys(candidates) if each != own]
