"""A cluster in memory for tests of the doctor: healthy, until a test breaks something."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus

from flargo.cluster.answer import Answer
from flargo.cluster.meaning import Meaning
from flargo.cluster.survey import Survey, Trim
from flargo.cluster.target import Target
from flargo.job.workflow import INSTANCE_ID
from flargo.terms import Object
from flargo.tools.doctor.check_table import run_checks
from flargo.tools.doctor.facts import SampleJob, SiteNeeds
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


def sample_job(**arguments: object) -> SampleJob:
    """Return a job whose study has a volume claim and a Secret."""
    study_launch = launch(study_case("full", STUDY, arguments={"image_pull_secrets": ["registry"]}))
    plan = plan_for(study_launch, namespace=HOME, **arguments)
    own_secrets = frozenset({plan.startup.name, plan.credentials.name})
    return SampleJob("a job", json.loads(json.dumps(plan.workflow)), own_secrets)


def site_needs(**changes: object) -> SiteNeeds:
    """Return what a site with that job needs of its cluster, with changes."""
    needs: dict[str, object] = {"launcher": "flargo-launcher", "executor": "flargo-executor", "instance_id": None}
    needs["argo_namespaces"] = ("argo-system",)
    needs["samples"] = changes.get("samples") or (sample_job(),)
    return SiteNeeds(namespace=HOME, **{**needs, **changes})  # type: ignore[arg-type]


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
class FakeCluster(Survey):
    """The cluster's API server, as the doctor's Survey reaches it, and the faults that a test gives it."""

    objects: dict[str, Object] = field(default_factory=_healthy)
    user: str = "admin"
    denied_rights: set[str] = field(default_factory=set)
    """The rights that the parent's or executor's account lacks, as ``get pods/log``."""
    forbidden_paths: set[str] = field(default_factory=set)
    """Parts of paths that the doctor's own account may not read or write."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """HTTP statuses that replace the answers at some paths."""
    controllers: tuple[str | None, ...] = (None,)
    """The instance ids of the controllers that watch the namespace."""
    phase: str = "Running"
    message: str = ""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """The messages with which admission refuses objects, by kind."""
    connection_error: str = ""
    """The error of every request; empty: the server answers."""
    clock_skew: float = 0.0
    """Seconds by which the server's clock is ahead."""
    answer_seconds: float = 0.0
    """The time that an answer takes."""
    deletes_fail: bool = False
    """True if every delete fails."""
    probes: list[Object] = field(default_factory=list)
    """The probes that the doctor has submitted."""
    dry_run_pods: list[Object] = field(default_factory=list)
    """The pods that the doctor has tried in dry runs."""
    reviewed_attributes: list[Object] = field(default_factory=list)
    """The attributes of the access reviews that the doctor has asked for."""
    requested_paths: list[str] = field(default_factory=list)
    """The paths of all requests."""
    time: float = NOW

    def run_doctor(self, needs: SiteNeeds | None = None, *, is_account_guessed: bool = False) -> list[Finding]:
        """Run all checks and return their findings."""
        doctor = Doctor(self, lambda: self.time, self.pause)
        return run_checks(
            doctor.gather(needs or site_needs(), is_account_guessed=is_account_guessed, probe_seconds=15.0)
        )

    def pause(self, seconds: float) -> None:
        """Advance the clock."""
        self.time += seconds

    def delete_object(self, ending: str) -> None:
        """Delete the object whose path ends with this."""
        (path,) = (path for path in self.objects if path.endswith(ending))
        del self.objects[path]

    def object_at(self, ending: str) -> Object:
        """Return the object whose path ends with this."""
        (path,) = (path for path in self.objects if path.endswith(ending))
        return self.objects[path]

    def _send(self, method: str, where: Target, body: Object | None, keep: Trim | None) -> Answer:
        self.time += self.answer_seconds
        path = replace(where, query=()).url
        self.requested_paths.append(path)
        answer = self._answer(method, path, dict(where.query), body)
        date = formatdate(self.time + self.clock_skew, usegmt=True)
        if not answer.ok:
            return replace(answer, date=date)
        return Answer(answer.status, keep(answer.body) if keep else answer.body, date=date)

    def _answer(self, method: str, path: str, query: Mapping[str, str], body: Object | None) -> Answer:
        if self.connection_error:
            return Answer(0, message=self.connection_error)
        if path in self.statuses:
            code = self.statuses[path]
            page = Meaning.NOT_SERVED if code == HTTPStatus.NOT_FOUND else None
            return Answer(code, message="a status that the test set", own_meaning=page)
        if any(part in path for part in self.forbidden_paths):
            return Answer(403, message=f'x is forbidden: User "me" cannot {method.lower()} resource "x"')
        if method == "POST" and body is not None:
            return self._post(path, query, body)
        if method == "DELETE":
            if self.deletes_fail:
                return Answer(500, message="etcd")
            del self.objects[path]
            return Answer(200)
        item = self.objects.get(path)
        if item is None and path.startswith("/api/v1/namespaces/") and path.endswith("/pods"):
            name = path.split("/")[4]
            items = self.objects["/api/v1/pods"]["items"]
            item = {"items": [pod for pod in items if pod["metadata"]["namespace"] == name]}
        return Answer(404, reason="NotFound", message=f"{path} not found") if item is None else Answer(200, item)

    def _post(self, path: str, query: Mapping[str, str], body: Object) -> Answer:
        kind = body["kind"]
        if kind == "SelfSubjectReview":
            return Answer(201, {"status": {"userInfo": {"username": self.user}}})
        if kind.endswith("AccessReview"):
            attributes = body["spec"]["resourceAttributes"]
            self.reviewed_attributes.append(attributes)
            resource = "/".join(filter(None, (attributes["resource"], attributes.get("subresource"))))
            right = f"{attributes['verb']} {resource}"
            return Answer(201, {"status": {"allowed": right not in self.denied_rights}})
        if f"/api/v1/namespaces/{HOME}" not in self.objects:
            return Answer(404, reason="NotFound", message=f'namespaces "{HOME}" not found')
        if self.refusals.get(kind):
            return Answer(403, message=self.refusals[kind])
        if query.get("dryRun") == "All":
            assert query.get("fieldValidation") == "Strict"
        else:
            assert kind == "Workflow", "the doctor creates only probes"
            self._submit(path, body)
        self.dry_run_pods += [body] if kind == "Pod" else []
        return Answer(201, {**body, "metadata": {**body["metadata"], "uid": "u"}})

    def _submit(self, path: str, body: Object) -> None:
        self.probes.append(body)
        is_watched = body["metadata"]["labels"].get(INSTANCE_ID) in self.controllers
        status = {"phase": self.phase, "message": self.message} if is_watched else {}
        self.objects[f"{path}/{body['metadata']['name']}"] = {**body, "status": status}


def failed_checks(findings: list[Finding]) -> set[str]:
    """Return the names of the checks with a failure."""
    return {finding.check for finding in findings if finding.level is Level.FAILURE}
