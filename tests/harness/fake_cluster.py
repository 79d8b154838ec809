"""An API server in memory for the doctor to look at: healthy, until a test breaks something."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate

from flargo.cluster.answer import Answer
from flargo.cluster.survey import Survey, Trim
from flargo.cluster.target import Target
from flargo.job.workflow import INSTANCE_ID
from flargo.terms import Object
from flargo.tools.doctor.check_table import examine
from flargo.tools.doctor.facts import Questions, Sample
from flargo.tools.doctor.findings import Finding, Level
from flargo.tools.doctor.gather import Doctor
from tests.harness.differential.cases import dataset, study, study_case
from tests.harness.launches import launch, plan_for

HOME = "lab"
NOW = 1_700_000_000.0
TOKEN = "kubernetes.io/service-account-token"
STUDY = study(
    datasets={"a": dataset("claim", "ro")},
    secret_env={"B": {"source": "study", "key": "k"}},
)


def sample(**arguments: object) -> Sample:
    """A job of a study with a volume claim and a Secret."""
    made = plan_for(
        launch(study_case("full", STUDY, arguments={"image_pull_secrets": ["registry"]})), namespace=HOME, **arguments
    )
    return Sample("a job", json.loads(json.dumps(made.workflow)), frozenset({made.startup.name, made.credentials.name}))


def wanted(**changes: object) -> Questions:
    """What a site with that job needs."""
    said: dict[str, object] = {"launcher": "flargo-launcher", "executor": "flargo-executor", "instance_id": None}
    said["argo_namespaces"] = ("argo-system",)
    said["samples"] = changes.get("samples") or (sample(),)
    return Questions(namespace=HOME, **{**said, **changes})  # type: ignore[arg-type]


def _healthy() -> dict[str, Object]:
    core = f"/api/v1/namespaces/{HOME}"
    secret = {"type": TOKEN, "metadata": {"annotations": {"kubernetes.io/service-account.name": "flargo-executor"}}}
    docker = {"type": "kubernetes.io/dockerconfigjson", "metadata": {}, "data": {".dockerconfigjson": "aGlkZGVu"}}
    return {
        "/version": {"gitVersion": "v1.34.4"},
        "/apis/argoproj.io/v1alpha1": {"resources": [{"name": "workflows"}, {"name": "workflowtaskresults"}]},
        "/api/v1/pods": {"items": []},
        f"/apis/argoproj.io/v1alpha1/namespaces/{HOME}/workflows": {"items": []},
        core: {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        **{f"{core}/serviceaccounts/flargo-{each}": {"metadata": {}} for each in ("launcher", "executor", "job")},
        f"{core}/secrets/flargo-executor.service-account-token": {**secret, "data": {"token": "aGlkZGVu"}},
        f"{core}/secrets/study": {"type": "Opaque", "metadata": {}, "data": {"k": "aGlkZGVu"}},
        f"{core}/secrets/registry": docker,
        f"{core}/persistentvolumeclaims/claim": {"metadata": {"name": "claim"}, "status": {"phase": "Bound"}},
        f"{core}/configmaps/workflow-controller-configmap": {"metadata": {}, "data": {}},
    }


@dataclass
class Clinic(Survey):
    """The API server, and what is wrong with it."""

    objects: dict[str, Object] = field(default_factory=_healthy)
    user: str = "admin"
    denied: set[str] = field(default_factory=set)
    """What the parent's or executor's account may not do, as ``get pods/log``."""
    barred: set[str] = field(default_factory=set)
    """Parts of paths that whoever asks may not read or write."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """What is answered at some paths."""
    controllers: tuple[str | None, ...] = (None,)
    """The instance ids of the controllers that watch the namespace."""
    phase: str = "Running"
    message: str = ""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Why admission refuses a kind."""
    down: str = ""
    skew: float = 0.0
    slow: float = 0.0
    """Seconds that an answer takes."""
    keeps: bool = False
    """Whether deletes fail."""
    made: list[Object] = field(default_factory=list)
    """Probes that were submitted."""
    tried: list[Object] = field(default_factory=list)
    """Pods of dry runs."""
    reviewed: list[Object] = field(default_factory=list)
    """The attributes of the access reviews."""
    requested: list[str] = field(default_factory=list)
    """The paths of all requests."""
    time: float = NOW

    def examined(self, asked: Questions | None = None, *, guessed: bool = False) -> list[Finding]:
        """What the doctor finds."""
        doctor = Doctor(self, lambda: self.time, self.pause)
        return examine(doctor.gather(asked or wanted(), guessed=guessed, patience=15.0))

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds

    def drop(self, part: str) -> None:
        """Delete what has this in its path."""
        (path,) = (path for path in self.objects if path.endswith(part))
        del self.objects[path]

    def of(self, part: str) -> Object:
        """The object whose path ends so."""
        (path,) = (path for path in self.objects if path.endswith(part))
        return self.objects[path]

    def _send(self, method: str, where: Target, body: Object | None, keep: Trim | None) -> Answer:
        self.time += self.slow
        path = replace(where, query=()).url
        self.requested.append(path)
        answer = self._answer(method, path, dict(where.query), body)
        date = formatdate(self.time + self.skew, usegmt=True)
        if not answer.ok:
            return Answer(answer.status, reason=answer.reason, message=answer.message, date=date)
        return Answer(answer.status, keep(answer.body) if keep else answer.body, date=date)

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Object | None) -> Answer:
        if self.down:
            return Answer(0, message=self.down)
        if path in self.statuses:
            return Answer(self.statuses[path], message="so it is")
        if any(part in path for part in self.barred):
            return Answer(403, message=f'x is forbidden: User "me" cannot {method.lower()} resource "x"')
        if method == "POST" and body is not None:
            return self._post(path, query, body)
        if method == "DELETE":
            if self.keeps:
                return Answer(500, message="etcd")
            del self.objects[path]
            return Answer(200)
        found = self.objects.get(path)
        if found is None and path.startswith("/api/v1/namespaces/") and path.endswith("/pods"):
            name = path.split("/")[4]
            items = self.objects["/api/v1/pods"]["items"]
            found = {"items": [pod for pod in items if pod["metadata"]["namespace"] == name]}
        return Answer(404, reason="NotFound", message=f"{path} not found") if found is None else Answer(200, found)

    def _post(self, path: str, query: Mapping[str, str], body: Object) -> Answer:
        kind = body["kind"]
        if kind == "SelfSubjectReview":
            return Answer(201, {"status": {"userInfo": {"username": self.user}}})
        if kind.endswith("AccessReview"):
            asked = body["spec"]["resourceAttributes"]
            self.reviewed.append(asked)
            what = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            return Answer(201, {"status": {"allowed": f"{asked['verb']} {what}" not in self.denied}})
        if f"/api/v1/namespaces/{HOME}" not in self.objects:
            return Answer(404, message=f'namespaces "{HOME}" not found')
        if self.refusals.get(kind):
            return Answer(403, message=self.refusals[kind])
        if query.get("dryRun") == "All":
            assert query.get("fieldValidation") == "Strict"
        else:
            assert kind == "Workflow", "nothing else is ever made"
            self._submit(path, body)
        self.tried += [body] if kind == "Pod" else []
        return Answer(201, {**body, "metadata": {**body["metadata"], "uid": "u"}})

    def _submit(self, path: str, body: Object) -> None:
        self.made.append(body)
        served = body["metadata"]["labels"].get(INSTANCE_ID) in self.controllers
        status = {"phase": self.phase, "message": self.message} if served else {}
        self.objects[f"{path}/{body['metadata']['name']}"] = {**body, "status": status}


def failed(findings: list[Finding]) -> set[str]:
    """The checks that found a failure."""
    return {finding.check for finding in findings if finding.level is Level.FAILURE}
