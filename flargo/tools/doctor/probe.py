"""A probe: a Workflow that makes no pod, by which a controller shows that it watches this namespace.

Its one step only waits, so that nobody who resumes it makes anything run, and a controller ends and deletes it by
itself, should the doctor die before deleting it.
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
"""What it takes. Whoever may not delete submits nothing."""
PROBE_LABEL = f"{GROUP}/doctor"
_POLL_SECONDS = 0.5
"""Seconds between looks."""
_EXTRA_SECONDS = 60
"""Seconds that it waits beyond the doctor's patience, and is then kept."""
_MAX_DELETE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Prober:
    """Where probes are submitted, and with what sense of time."""

    survey: Survey
    namespace: str
    now: Callable[[], float]
    pause: Callable[[float], None]

    def probe(self, instance_id: str | None, patience: float) -> Probe:
        """Submit one, see who takes notice within so many seconds, and delete it."""
        name = f"flargo-doctor-{secrets.token_hex(4)}"
        created = self.survey.post(self._to(), build_probe(name, self.namespace, instance_id, patience))
        if not created.status:  # the answer may be lost, and the probe made
            seen = self._look(name)
            created = seen if seen.ok else created
        made = Probe(instance_id, created)
        if not created.ok:
            return made
        uid = str((created.body.get("metadata") or {}).get("uid") or "")
        try:
            made = self._followed(made, name, patience)
        finally:
            gone = self._delete(name, uid)
        return replace(made, undeleted_name="" if gone else name)

    def _followed(self, probe: Probe, name: str, patience: float) -> Probe:
        begun = self.now()
        while True:
            seen = replace(probe, latest=self._look(name), seconds=self.now() - begun)
            if seen.phase or seen.latest.not_found or seen.seconds >= patience:
                return seen
            self.pause(_POLL_SECONDS)

    def _delete(self, name: str, uid: str) -> bool:
        for _ in range(_MAX_DELETE_TRIES):
            if self.survey.delete(self._to(name), uid).ok or self._look(name).not_found:
                return True
            self.pause(_POLL_SECONDS)
        return False

    def _look(self, name: str) -> Answer:
        return self.survey.get(self._to(name))

    def _to(self, name: str | None = None) -> BuildTarget:
        return partial(target.resource, f"apis/{ARGO_API_VERSION}", "workflows", namespace=self.namespace, name=name)


def build_probe(name: str, namespace: str, instance_id: str | None, patience: float) -> Object:
    """The Workflow of a probe. It bears no label by which a parent, or a sweep, would take it for a job."""
    labels = {PROBE_LABEL: "probe", **({INSTANCE_ID: instance_id} if instance_id else {})}
    step = {"name": "wait", "suspend": {"duration": str(round(patience) + _EXTRA_SECONDS)}}
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


def candidate_ids(wanted: str | None, labels: Iterable[Object], settings: Iterable[Object]) -> list[str | None]:
    """The instance ids to try next: none, what Workflows here bear, what controllers' settings say; never the same."""
    named = [*(each.get(INSTANCE_ID) for each in labels), *(each.get("instanceID") for each in settings)]
    # A setting is YAML, so an id of digits is a number there. What no label can hold is nobody's id.
    texts = [str(each) for each in named if isinstance(each, str | int) and not isinstance(each, bool)]
    ids = [None, *(text for text in texts if is_label_value(text))]
    return [each for each in dict.fromkeys(ids) if each != wanted]
