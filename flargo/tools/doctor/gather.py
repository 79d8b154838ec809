"""Gathers the facts for the checks from the cluster. No fact is judged here, and no object is left behind."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from flargo.cluster import target
from flargo.cluster.answer import Answer
from flargo.cluster.meaning import Meaning
from flargo.cluster.survey import BuildTarget, Survey
from flargo.job import validate
from flargo.terms import ARGO_API_VERSION, Object
from flargo.tools.doctor.access_checks import OWNER_ANNOTATION, token_secret_name
from flargo.tools.doctor.argo_pod import build_pod
from flargo.tools.doctor.cluster_checks import CONFIG_MAP, executor_settings, is_allowed, parse_settings
from flargo.tools.doctor.facts import Clock, Facts, Probe, Right, SiteNeeds
from flargo.tools.doctor.helm import keep_management
from flargo.tools.doctor.probe import PROBE_RIGHTS, Prober, candidate_ids
from flargo.tools.doctor.references import Kind, pod_account, pull_secrets, references, semaphores
from flargo.tools.kit.chart import EXECUTOR_RULES, LAUNCHER_RULES

_REVIEWS: Final = "authorization.k8s.io/v1"
_IDENTITY: Final = "authentication.k8s.io/v1"
_CONTROLLER_QUERY: Final = {"labelSelector": "app=workflow-controller", "limit": "50"}
"""The query for controllers' pods, which Argo's manifests and Helm chart label so."""
_ARGO_NAMESPACE = "argo"
"""The namespace of the controller in Argo's manifests."""
_ACCOUNT = "system:serviceaccount"
_UNREACHABLE = frozenset({Meaning.AWAY, Meaning.UNANSWERED, Meaning.UNAUTHENTICATED})
"""The errors after which no other request is sent."""
_DRY_RUN = "flargo-doctor-dry-run"
_MAX_CANDIDATE_IDS, _CANDIDATE_SECONDS = 3, 5.0
"""The limit for the instance ids that are tried after the site's own, and the seconds for each of them."""


@dataclass(frozen=True, slots=True)
class Doctor:
    """Gathers facts through a survey. The functions for time are passed in, so that tests need not wait."""

    survey: Survey
    now: Callable[[], float]
    """Returns the seconds since 1970."""
    pause: Callable[[float], None]
    """Waits for some seconds."""

    def gather(self, needs: SiteNeeds, *, is_account_guessed: bool, probe_seconds: float) -> Facts:
        """Gather all facts.

        Args:
            needs: the objects and settings that the site needs.
            is_account_guessed: the user has not named the parent's account; if the doctor itself runs as an account of
                the site's namespace, it takes that account for the parent's.
            probe_seconds: the time that a controller may take to pick up a probe.
        """
        version = self.survey.get(target.version)
        start = self.now()
        review = self.survey.post(
            partial(target.resource, f"apis/{_IDENTITY}", "selfsubjectreviews"),
            _document(_IDENTITY, "SelfSubjectReview"),
        )
        uncertainty = (self.now() - start) / 2
        clock = Clock(review.date or version.date, start + uncertainty, uncertainty)
        is_unreachable = not review.ok and review.meaning in _UNREACHABLE
        if not (version.ok or review.ok) or is_unreachable:
            return Facts(needs, review if is_unreachable else version, clock)
        username = str(((review.body.get("status") or {}).get("userInfo") or {}).get("username") or "")
        if is_account_guessed and username.startswith(f"{_ACCOUNT}:{needs.namespace}:"):
            needs = replace(needs, launcher=None)
        return self._complete(Facts(needs, version, clock, is_reachable=True, username=username), probe_seconds)

    def _complete(self, facts: Facts, probe_seconds: float) -> Facts:
        """Add all facts that need a reachable API server."""
        needs, get = facts.needs, self.survey.get
        namespace = needs.namespace
        trusted = dict.fromkeys((namespace, _ARGO_NAMESPACE, *needs.argo_namespaces))
        controllers = self._controllers(trusted)
        settings = self._settings(controllers, trusted)
        executor = executor_settings(parse_settings(answer.body) for answer in settings.values())
        probe_rights = self._rights(namespace, None, PROBE_RIGHTS)
        may_probe = all(map(_is_granted, probe_rights.values()))
        return replace(
            facts,
            namespace=get(partial(target.resource, "api/v1", "namespaces", name=namespace)),
            argo=get(partial(target.group, f"apis/{ARGO_API_VERSION}")),
            controllers=controllers,
            other_controllers=self._other_controllers(trusted),
            settings=settings,
            launcher_rights=self._rights(namespace, needs.launcher, _used_rights(needs)),
            executor_rights=self._rights(namespace, needs.executor, split_rules(EXECUTOR_RULES)),
            probe_rights=probe_rights,
            probes=self._probes(needs, settings, probe_seconds) if may_probe else (),
            objects={(kind, name): self._object(namespace, kind, name) for kind, name in named_objects(needs)},
            queues={name: get(_core_path(namespace, "configmaps", name)) for name in queue_names(needs)},
            workflows={each.name: self._dry_run(namespace, each.workflow) for each in needs.samples},
            pods={each.name: self._dry_run(namespace, build_pod(each.workflow, executor)) for each in needs.samples},
        )

    def _controllers(self, namespaces: Iterable[str]) -> Answer:
        """Return the pods of controllers in these namespaces, in one answer."""
        answers = [
            self.survey.get(partial(target.resource, "api/v1", "pods", namespace=name, query=_CONTROLLER_QUERY))
            for name in namespaces
        ]
        items = [pod for answer in answers for pod in answer.body.get("items") or []]
        return replace(next((answer for answer in answers if answer.ok), answers[0]), body={"items": items})

    def _other_controllers(self, trusted: Collection[str]) -> tuple[str, ...]:
        """Return the other namespaces with pods that carry a controller's label; nothing else of those pods is read."""
        everywhere = partial(target.resource, "api/v1", "pods", query=_CONTROLLER_QUERY)
        pods = self.survey.get(everywhere).body.get("items") or []
        names = {str(pod["metadata"].get("namespace")) for pod in pods}
        return tuple(sorted(name for name in names - {*trusted} if _is_name(validate.dns_label, name)))

    def _settings(self, controllers: Answer, trusted: Iterable[str]) -> dict[str, Answer]:
        """Return the controllers' ConfigMaps; if no controller is visible, those with the default name that exist."""
        pods = controllers.body.get("items") or []
        names = {where: _config_map_name(pod) for pod in pods if (where := pod["metadata"].get("namespace"))}
        valid_names = {where: name for where, name in names.items() if _is_name(validate.object_name, name)}
        candidates = valid_names or dict.fromkeys(trusted, CONFIG_MAP)
        answers = {where: self.survey.get(_core_path(where, "configmaps", name)) for where, name in candidates.items()}
        return {where: answer for where, answer in answers.items() if not answer.not_found}

    def _probes(self, needs: SiteNeeds, settings: Mapping[str, Answer], seconds: float) -> tuple[Probe, ...]:
        """Submit a probe with the site's instance id; if no controller picks it up, try other instance ids."""
        prober = Prober(self.survey, needs.namespace, self.now, self.pause)
        first = prober.probe(needs.instance_id, seconds)
        if first.phase or not first.latest.ok:
            return (first,)
        to = partial(
            target.resource, f"apis/{ARGO_API_VERSION}", "workflows", namespace=needs.namespace, query={"limit": "100"}
        )
        workflows = self.survey.get(to).body.get("items") or []
        labels = [item["metadata"].get("labels") or {} for item in workflows]
        others = candidate_ids(needs.instance_id, labels, (parse_settings(answer.body) for answer in settings.values()))
        candidate_seconds = min(seconds, _CANDIDATE_SECONDS)
        return (first, *(prober.probe(other, candidate_seconds) for other in others[:_MAX_CANDIDATE_IDS]))

    def _rights(self, namespace: str, account: str | None, rights: Iterable[Right]) -> dict[Right, Answer]:
        """Return access reviews of an account's rights, or of the current user's (None)."""
        kind = "SelfSubjectAccessReview" if account is None else "LocalSubjectAccessReview"
        to = partial(target.resource, f"apis/{_REVIEWS}", f"{kind.lower()}s")
        user: Object = {}
        if account is not None:
            to = partial(to, namespace=namespace)
            groups = [f"{_ACCOUNT}s", f"{_ACCOUNT}s:{namespace}", "system:authenticated"]
            user = {"user": f"{_ACCOUNT}:{namespace}:{account}", "groups": groups}
        reviews = {}
        for right in rights:
            document = _document(_REVIEWS, kind, spec={**user, "resourceAttributes": _attributes(namespace, right)})
            reviews[right] = self.survey.post(to, {**document, "metadata": {"namespace": namespace} if user else {}})
        return reviews

    def _object(self, namespace: str, kind: Kind, name: str) -> Answer:
        keep = {Kind.SECRET: _keys_only, Kind.CONFIG_MAP: _keys_only}.get(kind)
        return self.survey.get(_core_path(namespace, kind.value, name), keep)

    def _dry_run(self, namespace: str, document: Object) -> Answer:
        kind = {"Workflow": f"apis/{ARGO_API_VERSION}", "Pod": "api/v1"}[document["kind"]]
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        to = partial(target.resource, kind, f"{document['kind'].lower()}s", namespace=namespace, query=query)
        # A running job may have the document's own name.
        document = {**document, "metadata": {**document["metadata"], "namespace": namespace, "name": _DRY_RUN}}
        return self.survey.post(to, document)


def _core_path(namespace: str, plural: str, name: str) -> BuildTarget:
    """Return the path of an object of Kubernetes' core API, whose name comes from a kit or from the cluster."""
    return partial(target.resource, "api/v1", plural, namespace=namespace, name=name)


def _used_rights(needs: SiteNeeds) -> list[Right]:
    return [right for right in split_rules(LAUNCHER_RULES) if right not in needs.unused_rights]


def split_rules(rules: Iterable[Object]) -> list[Right]:
    """Split the rules of a Role into single rights."""
    return [
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def named_objects(needs: SiteNeeds) -> list[tuple[Kind, str]]:
    """Return kind and name of every object that must exist in the namespace."""
    objects: list[tuple[Kind, str]] = [
        (Kind.ACCOUNT, needs.executor),
        (Kind.SECRET, token_secret_name(needs.executor)),
        *([(Kind.ACCOUNT, needs.launcher)] if needs.launcher is not None else []),
    ]
    for sample in needs.samples:
        objects.append((Kind.ACCOUNT, pod_account(sample.pod)))
        objects += [(Kind.SECRET, name) for name in pull_secrets(sample.pod)]
        objects += [(each.kind, each.name) for each in references(sample.pod) if each.name not in sample.own_secrets]
    return [*dict.fromkeys(objects)]


def queue_names(needs: SiteNeeds) -> set[str]:
    """Return the names of the ConfigMaps that limit how many jobs run at once."""
    return {each.name for sample in needs.samples for each in semaphores(sample.workflow)}


def _document(group_version: str, kind: str, **parts: Any) -> Object:
    return {"apiVersion": group_version, "kind": kind, **parts}


def _attributes(namespace: str, right: Right) -> dict[str, str]:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"namespace": namespace, "verb": right.verb, "group": right.group, "resource": resource}
    return {**attributes, **({"subresource": subresource} if subresource else {})}


def _is_granted(review: Answer) -> bool:
    return review.ok and is_allowed(review.body)


def _config_map_name(pod: Object) -> str:
    """Return the name of a controller's ConfigMap; Argo's manifests and chart pass it as ``--configmap NAME``."""
    for container in pod["spec"].get("containers") or []:
        arguments = [part for each in container.get("args") or [] for part in str(each).split("=", 1)]
        if "--configmap" in arguments[:-1]:
            return arguments[arguments.index("--configmap") + 1]
    return CONFIG_MAP


def _is_name(check: validate.Check, value: str) -> bool:
    try:
        check("", value)
    except validate.InvalidInput:
        return False
    return True


def _keys_only(item: Object) -> Object:
    """Reduce a Secret or ConfigMap to its type, its manager, its token's account and the keys that have a value."""
    data = {**(item.get("data") or {}), **(item.get("binaryData") or {})}
    annotations = item["metadata"].get("annotations") or {}
    keys = sorted(key for key, value in data.items() if value)
    reduced = {"type": item.get("type", ""), "owner": annotations.get(OWNER_ANNOTATION), "keys": keys}
    return {**keep_management(item), **reduced}
