"""Ask the cluster. Nothing is judged here, and nothing is left behind."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from flargo.cluster import target
from flargo.cluster.answer import Answer
from flargo.cluster.survey import BuildTarget, Survey
from flargo.job import validate
from flargo.terms import ARGO_API_VERSION, Object
from flargo.tools.doctor.access_checks import OWNER_ANNOTATION, token_secret_name
from flargo.tools.doctor.argo_pod import build_pod
from flargo.tools.doctor.cluster_checks import CONFIG_MAP, executor_settings, is_allowed, parse_settings
from flargo.tools.doctor.facts import Clock, Facts, Probe, Right, SiteNeeds
from flargo.tools.doctor.probe import PROBE_RIGHTS, Prober, candidate_ids
from flargo.tools.doctor.references import Kind, pod_account, pull_secrets, references, semaphores
from flargo.tools.kit.chart import EXECUTOR_RULES, LAUNCHER_RULES

_REVIEWS: Final = "authorization.k8s.io/v1"
_IDENTITY: Final = "authentication.k8s.io/v1"
_CONTROLLER_QUERY: Final = {"labelSelector": "app=workflow-controller", "limit": "50"}
"""The label of controllers' pods, in Argo's manifests and in its Helm chart."""
_ARGO_NAMESPACE = "argo"
"""Where Argo's manifests put the controller."""
_ACCOUNT = "system:serviceaccount"
_UNREACHABLE_STATUSES = (0, 401)
"""Statuses after which nothing else need be asked: no answer, and credentials that are not taken."""
_DRY_RUN = "flargo-doctor-dry-run"
_MAX_CANDIDATE_IDS, _CANDIDATE_SECONDS = 3, 5.0
"""How many other instance ids are tried, and for how many seconds each."""


@dataclass(frozen=True, slots=True)
class Doctor:
    """Who asks, and with what sense of time."""

    survey: Survey
    now: Callable[[], float]
    """Seconds since 1970."""
    pause: Callable[[float], None]

    def gather(self, wanted: SiteNeeds, *, guessed: bool, patience: float) -> Facts:
        """Look at everything.

        Args:
            wanted: what a site needs.
            guessed: nobody has named the parent's account, so one of the namespace that asks is taken for it.
            patience: seconds for which a controller may take no notice.
        """
        version = self.survey.get(target.version)
        begun = self.now()
        me = self.survey.post(
            partial(target.resource, f"apis/{_IDENTITY}", "selfsubjectreviews"),
            _document(_IDENTITY, "SelfSubjectReview"),
        )
        doubt = (self.now() - begun) / 2
        clock = Clock(me.date or version.date, begun + doubt, doubt)
        if not (version.ok or me.ok) or me.status in _UNREACHABLE_STATUSES:
            return Facts(wanted, me if me.status in _UNREACHABLE_STATUSES else version, clock)
        name = str(((me.body.get("status") or {}).get("userInfo") or {}).get("username") or "")
        if guessed and name.startswith(f"{_ACCOUNT}:{wanted.namespace}:"):
            wanted = replace(wanted, launcher=None)
        return self._seen(Facts(wanted, version, clock, is_reachable=True, username=name), patience)

    def _seen(self, facts: Facts, patience: float) -> Facts:
        wanted, get = facts.needs, self.survey.get
        home = wanted.namespace
        trusted = dict.fromkeys((home, _ARGO_NAMESPACE, *wanted.argo_namespaces))
        controllers = self._controllers(trusted)
        settings = self._settings(controllers, trusted)
        executor = executor_settings(parse_settings(answer.body) for answer in settings.values())
        may_probe = self._rights(home, None, PROBE_RIGHTS)
        return replace(
            facts,
            namespace=get(partial(target.resource, "api/v1", "namespaces", name=home)),
            argo=get(partial(target.group, f"apis/{ARGO_API_VERSION}")),
            controllers=controllers,
            other_controllers=self._other_controllers(trusted),
            settings=settings,
            launcher_rights=self._rights(home, wanted.launcher, split_rules(LAUNCHER_RULES)),
            executor_rights=self._rights(home, wanted.executor, split_rules(EXECUTOR_RULES)),
            probe_rights=may_probe,
            probes=self._probes(wanted, settings, patience) if all(map(_is_granted, may_probe.values())) else (),
            objects={named: self._object(home, *named) for named in named_objects(wanted)},
            queues={name: get(_core_path(home, "configmaps", name)) for name in queue_names(wanted)},
            workflows={each.name: self._dry_run(home, each.workflow) for each in wanted.samples},
            pods={each.name: self._dry_run(home, build_pod(each.workflow, executor)) for each in wanted.samples},
        )

    def _controllers(self, namespaces: Iterable[str]) -> Answer:
        """The pods of controllers in these namespaces, in one answer."""
        answers = [
            self.survey.get(partial(target.resource, "api/v1", "pods", namespace=name, query=_CONTROLLER_QUERY))
            for name in namespaces
        ]
        items = [pod for answer in answers for pod in answer.body.get("items") or []]
        return replace(next((answer for answer in answers if answer.ok), answers[0]), body={"items": items})

    def _other_controllers(self, trusted: Collection[str]) -> tuple[str, ...]:
        """The other namespaces in which pods bear a controller's label. Nothing else is read of those pods."""
        everywhere = partial(target.resource, "api/v1", "pods", query=_CONTROLLER_QUERY)
        listed = self.survey.get(everywhere).body.get("items") or []
        names = {str(pod["metadata"].get("namespace")) for pod in listed}
        return tuple(sorted(name for name in names - {*trusted} if _is_name(validate.dns_label, name)))

    def _settings(self, controllers: Answer, trusted: Iterable[str]) -> dict[str, Answer]:
        """The controllers' ConfigMaps; where no controller is in sight, those of the usual places that are there."""
        pods = controllers.body.get("items") or []
        named = {where: _config_map(pod) for pod in pods if (where := pod["metadata"].get("namespace"))}
        places = {where: name for where, name in named.items() if _is_name(validate.object_name, name)}
        guesses = {} if places else dict.fromkeys(trusted, CONFIG_MAP)
        found = {
            where: self.survey.get(_core_path(where, "configmaps", name))
            for where, name in {**places, **guesses}.items()
        }
        return {where: answer for where, answer in found.items() if not answer.not_found}

    def _probes(self, wanted: SiteNeeds, settings: Mapping[str, Answer], patience: float) -> tuple[Probe, ...]:
        """One as jobs are; if nobody takes notice, others that tell which instance id would be right."""
        prober = Prober(self.survey, wanted.namespace, self.now, self.pause)
        first = prober.probe(wanted.instance_id, patience)
        if first.phase or not first.latest.ok:
            return (first,)
        to = partial(
            target.resource, f"apis/{ARGO_API_VERSION}", "workflows", namespace=wanted.namespace, query={"limit": "100"}
        )
        listed = self.survey.get(to).body.get("items") or []
        labels = [item["metadata"].get("labels") or {} for item in listed]
        others = candidate_ids(
            wanted.instance_id, labels, (parse_settings(answer.body) for answer in settings.values())
        )
        short = min(patience, _CANDIDATE_SECONDS)
        return (first, *(prober.probe(other, short) for other in others[:_MAX_CANDIDATE_IDS]))

    def _rights(self, home: str, account_name: str | None, rights: Iterable[Right]) -> dict[Right, Answer]:
        """Access reviews: of an account's rights, or of one's own."""
        kind = "SelfSubjectAccessReview" if account_name is None else "LocalSubjectAccessReview"
        to = partial(target.resource, f"apis/{_REVIEWS}", f"{kind.lower()}s")
        who: Object = {}
        if account_name is not None:
            to = partial(to, namespace=home)
            groups = [f"{_ACCOUNT}s", f"{_ACCOUNT}s:{home}", "system:authenticated"]
            who = {"user": f"{_ACCOUNT}:{home}:{account_name}", "groups": groups}
        made = {}
        for right in rights:
            document = _document(_REVIEWS, kind, spec={**who, "resourceAttributes": _attributes(home, right)})
            made[right] = self.survey.post(to, {**document, "metadata": {"namespace": home} if who else {}})
        return made

    def _object(self, home: str, kind: Kind, name: str) -> Answer:
        keep = {Kind.SECRET: _keys_only, Kind.CONFIG_MAP: _keys_only}.get(kind)
        return self.survey.get(_core_path(home, kind.value, name), keep)

    def _dry_run(self, home: str, document: Object) -> Answer:
        kind = {"Workflow": f"apis/{ARGO_API_VERSION}", "Pod": "api/v1"}[document["kind"]]
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        to = partial(target.resource, kind, f"{document['kind'].lower()}s", namespace=home, query=query)
        # Not its own name, which a job that runs may have.
        document = {**document, "metadata": {**document["metadata"], "namespace": home, "name": _DRY_RUN}}
        return self.survey.post(to, document)


def _core_path(namespace: str, plural: str, name: str) -> BuildTarget:
    """The path of an object of Kubernetes' core API, of a name that a kit or the cluster says."""
    return partial(target.resource, "api/v1", plural, namespace=namespace, name=name)


def split_rules(rules: Iterable[Object]) -> list[Right]:
    """The rules of a Role, one right at a time."""
    return [
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def named_objects(wanted: SiteNeeds) -> list[tuple[Kind, str]]:
    """Everything in the namespace that has to be there."""
    named: list[tuple[Kind, str]] = [
        (Kind.ACCOUNT, wanted.executor),
        (Kind.SECRET, token_secret_name(wanted.executor)),
        *([(Kind.ACCOUNT, wanted.launcher)] if wanted.launcher is not None else []),
    ]
    for sample in wanted.samples:
        named.append((Kind.ACCOUNT, pod_account(sample.pod)))
        named += [(Kind.SECRET, name) for name in pull_secrets(sample.pod)]
        named += [(each.kind, each.name) for each in references(sample.pod) if each.name not in sample.own_secrets]
    return [*dict.fromkeys(named)]


def queue_names(wanted: SiteNeeds) -> set[str]:
    """The ConfigMaps that say how many jobs run at once."""
    return {each.name for sample in wanted.samples for each in semaphores(sample.workflow)}


def _document(group_version: str, kind: str, **parts: Any) -> Object:
    return {"apiVersion": group_version, "kind": kind, **parts}


def _attributes(home: str, right: Right) -> dict[str, str]:
    resource, _, subresource = right.resource.partition("/")
    said = {"namespace": home, "verb": right.verb, "group": right.group, "resource": resource}
    return {**said, **({"subresource": subresource} if subresource else {})}


def _is_granted(review: Answer) -> bool:
    return review.ok and is_allowed(review.body)


def _config_map(pod: Object) -> str:
    """As Argo's manifests and chart name it to the controller: ``--configmap NAME``."""
    for container in pod["spec"].get("containers") or []:
        words = [word for each in container.get("args") or [] for word in str(each).split("=", 1)]
        if "--configmap" in words[:-1]:
            return words[words.index("--configmap") + 1]
    return CONFIG_MAP


def _is_name(check: validate.Check, value: str) -> bool:
    try:
        check("", value)
    except validate.InvalidInput:
        return False
    return True


def _keys_only(item: Object) -> Object:
    """Of a Secret no byte: its type, whose token it is, and the keys that have a value."""
    data = {**(item.get("data") or {}), **(item.get("binaryData") or {})}
    annotations = item["metadata"].get("annotations") or {}
    keys = sorted(key for key, value in data.items() if value)
    return {"type": item.get("type", ""), "owner": annotations.get(OWNER_ANNOTATION), "keys": keys}
