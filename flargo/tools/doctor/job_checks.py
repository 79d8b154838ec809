"""Checks of what jobs need: rendered, named, and held against the API server's own admission."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from flargo.cluster.answer import Answer
from flargo.job.validate import InvalidInput, amount
from flargo.terms import Object
from flargo.text import shell_command
from flargo.tools.doctor.argo_pod import patches_executor
from flargo.tools.doctor.facts import Facts, SampleJob
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unknown, unreadable, warning
from flargo.tools.doctor.references import Kind, Reference, pull_secrets, references, semaphores

PULL_TYPES = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")
_POD_SECURITY_MARK = "violates PodSecurity"
_QUOTA = re.compile(r"(exceeded|failed) quota: ")
_EXCEEDED = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
_GO_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_MAX_SHOWN = 40
_LATER = "Mend that, and look again."
_QUEUE = "Make it as deploy/queue.yaml does, or correct argo.semaphore."


def kit(facts: Facts) -> Iterator[CheckResult]:
    """Whether the kit uses flargo, and flargo itself would take a job, with each of the site's studies."""
    if not facts.needs.is_prepared:
        yield failure("The kit does not use flargo, or not as it would now.", "`flargo prepare KIT`, and stage it.")
    for name, why in facts.needs.rejected_jobs.items():
        yield failure(f"flargo would refuse {name}: {why}.", "Correct the file or setting that it names.")
    if facts.needs.samples:
        yield ok(f"flargo can make a Workflow of {_join_names(facts.needs.samples)}.")


def claims(facts: Facts) -> Iterator[CheckResult]:
    """Whether the volume claims are there."""
    return _check_references(facts, Kind.CLAIM, "volume claim", _judge_claim)


def secrets(facts: Facts) -> Iterator[CheckResult]:
    """Whether the Secrets that studies name are there, with the keys that they name."""
    return _check_references(facts, Kind.SECRET, "Secret", lambda _: None)


def config_maps(facts: Facts) -> Iterator[CheckResult]:
    """The same of ConfigMaps."""
    return _check_references(facts, Kind.CONFIG_MAP, "ConfigMap", lambda _: None)


def queue(facts: Facts) -> Iterator[CheckResult]:
    """Whether Argo can read how many jobs may run at once, where they queue."""
    named = sorted({each for sample in facts.needs.samples for each in semaphores(sample.workflow)}, key=str)
    if not named:
        yield ok("Jobs of this site do not queue.")
    for each in named:
        yield _judge_queue(facts.queues[each.name], each, facts.needs.namespace)


def _judge_queue(seen: Answer, of: Reference, namespace: str) -> CheckResult:
    """Judge a number as Argo reads it: Go's strconv.Atoi, of ``data`` only."""
    (key,) = of.keys
    instead = "with your number for the 2, or correct argo.semaphore."
    if seen.not_found:
        create = ("create", "configmap", of.name)
        made = kubectl(namespace, create, [f"--from-literal={key}=2"], names=(of.name, key))
        todo = f"`{made}`, {instead}" if made else _QUEUE
        return failure(f"There is no ConfigMap {of.name}, where jobs queue for their turn.", todo)
    if not seen.ok:
        return unreadable(f"ConfigMap {of.name}", seen)
    number = json.dumps({"data": {key: "2"}})
    patch = kubectl(namespace, ("patch", "configmap", of.name), [f"--patch={number}"], names=(of.name, key))
    todo = f"`{patch}`, {instead}" if patch else _QUEUE
    said = (seen.body.get("data") or {}).get(key)
    if said is None:
        return failure(f"ConfigMap {of.name} has no {key}, where jobs queue for their turn.", todo)
    if _GO_INTEGER.fullmatch(said) is None or int(said) < 1:
        told = f"In ConfigMap {of.name} {key} is {said[:_MAX_SHOWN]!r}, which is no whole number of 1 or more."
        return failure(told, todo)
    return ok(f"Jobs queue: ConfigMap {of.name} lets {int(said)} run at once ({key}).")


def image_pull_secrets(facts: Facts) -> Iterator[CheckResult]:
    """Whether the Secrets for pulling images are there, and of a type that the kubelet takes."""
    names = sorted({name for sample in facts.needs.samples for name in pull_secrets(sample.pod)})
    if not names:
        yield ok("No Secrets for pulling images are named.")
    for name in names:
        seen = facts.objects[Kind.SECRET, name]
        command = kubectl(facts.needs.namespace, ("create", "secret", "docker-registry", name), names=(name,))
        todo = f"`{command} ...`, or name" if command else "Name"
        todo += " another in image_pull_secrets."
        if seen.not_found:
            yield failure(f"There is no Secret {name} to pull images with.", todo)
        elif not seen.ok:
            yield unreadable(f"Secret {name}", seen)
        elif seen.body.get("type") not in PULL_TYPES:
            yield failure(f"Secret {name} is {seen.body.get('type')}, which no image is pulled with.", todo)
        else:
            yield ok(f"Secret {name} is there to pull images with.")


def workflow(facts: Facts) -> Iterator[CheckResult]:
    """Whether the API server would take the Workflows, to the last field."""
    for sample in facts.needs.samples:
        answer = facts.workflows[sample.name]
        if answer.lacks_permission or not answer.status:
            yield unreadable("A Workflow's dry run", answer)
            return
        if not answer.ok:
            todo = "See the message: a policy or webhook, or Argo's definitions are older than 3.6."
            yield failure(f"The API server would refuse the Workflow of {sample.name}: {answer}.", todo)
    if all(answer.ok for answer in facts.workflows.values()):
        yield ok("The API server would take the Workflow, all of its fields.")


def pod_security(facts: Facts) -> Iterator[CheckResult]:
    """Whether the namespace's Pod Security level admits the pods: it is enforced on pods and on nothing else."""
    labels = (facts.namespace.body.get("metadata") or {}).get("labels") or {}
    level = labels.get(_ENFORCE_LABEL)
    todo = "Change what the message names in the pod template or security_context (Argo's own init and wait: set"
    todo += f" argo.patch_executor), or the namespace's {_ENFORCE_LABEL}."
    fine = f"Pod Security admits the pods{f' (level {level})' if level else ''}."
    yield from _admission(
        facts, "Pod Security", lambda answer: _POD_SECURITY_MARK in answer.message, lambda _: todo, fine
    )


def quota(facts: Facts) -> Iterator[CheckResult]:
    """Whether the namespace's quota has room for a pod, now and ever."""
    for said in _admission(facts, "the quota", _is_quota, _quota_todo, "The namespace's quota has room for the pods."):
        yield warning(said.what, said.todo) if said.todo == _FULL else said


def pod(facts: Facts) -> Iterator[CheckResult]:
    """Whether anything else of the API server's refuses the pods."""
    fine = "The API server would take the pods."
    todo = "See the message: an account, a class, a limit range, a policy or a webhook."
    yield from _admission(
        facts,
        "admission",
        lambda answer: _POD_SECURITY_MARK not in answer.message and not _is_quota(answer),
        lambda _: todo,
        fine,
    )


def _admission(
    facts: Facts, who: str, concerns: Callable[[Answer], bool], todo: Callable[[Answer], str], fine: str
) -> Iterator[CheckResult]:
    """What one part of admission says. The API server stops at the first refusal, so others may hide behind it."""
    alike: dict[str, list[SampleJob]] = {}
    for sample in facts.needs.samples:
        if not facts.pods[sample.name].ok:
            alike.setdefault(str(facts.pods[sample.name]), []).append(sample)
    refusals = [(facts.pods[samples[0].name], samples) for samples in alike.values()]
    unasked = [answer for answer, _ in refusals if answer.lacks_permission or not answer.status]
    if unasked:
        yield unreadable(f"What {who} says to a pod", unasked[0])
        return
    mine = [(answer, samples) for answer, samples in refusals if concerns(answer)]
    for answer, samples in mine:
        yield _judge_refusal(facts, answer, samples, todo(answer))
    # The quota is asked last, so that all others have agreed where it refuses.
    before = [sample for answer, samples in refusals if not _is_quota(answer) for sample in samples]
    if before and not mine:
        told = f"What {who} says to the pod of {_join_names(before)} is not known: it is refused for another reason."
        yield unknown(told, _LATER)
    elif not mine:
        yield ok(fine)


def _judge_refusal(facts: Facts, answer: Answer, samples: list[SampleJob], todo: str) -> CheckResult:
    whose = _join_names(samples)
    if _depends_on_settings(facts, samples[0]):
        told = f"Without the controller's own settings of its containers the pod of {whose} would be refused"
        return unknown(f"{told}, and these could not be read: {answer}.", "Look at them, or set argo.patch_executor.")
    return failure(f"The pod of {whose} would be refused: {answer}.", todo)


def _depends_on_settings(facts: Facts, sample: SampleJob) -> bool:
    """Whether what Argo's containers are like is the controller's to say, and it is not known what it says."""
    return not patches_executor(sample.workflow) and not any(answer.ok for answer in facts.settings.values())


_FULL = "Wait until there is room, or raise the quota; flargo lets a job wait for 'argo.quota' seconds."


def _is_quota(answer: Answer) -> bool:
    return _QUOTA.search(answer.message) is not None


def _quota_todo(answer: Answer) -> str:
    """Whether a pod that finds no room now would find it in an empty namespace."""
    found = _EXCEEDED.search(answer.message)
    if found is None:
        return "Name what the message says in launcher_spec or the study, or give the namespace a LimitRange."
    requested, limited = (_parse_quantities(found[part]) for part in ("requested", "limited"))
    if all(requested[name] <= limited.get(name, requested[name]) for name in requested):
        return _FULL
    return "Raise the quota, or ask for less: no pod of this size ever fits."


def _parse_quantities(said: str) -> dict[str, Fraction]:
    found = {}
    for pair in said.split(","):
        name, _, value = pair.partition("=")
        try:
            found[name] = amount(value)
        except InvalidInput:
            continue
    return found


def _check_references(
    facts: Facts, kind: Kind, called: str, judge: Callable[[Object], CheckResult | None]
) -> Iterator[CheckResult]:
    """Whether everything of a kind that jobs name is there."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for sample in facts.needs.samples:
        for each in references(sample.pod):
            if each.kind is kind and each.name not in sample.own_secrets:
                keys, users = found.setdefault(each.name, (set(), []))
                keys.update(each.keys)
                users += [sample.name] if sample.name not in users else []
    for name, (keys, users) in sorted(found.items()):
        yield _judge_object(facts.objects[kind, name], f"{called} {name}", keys, users, judge)
    if not found:
        yield ok(f"No {called} is named.")


def _judge_object(
    seen: Answer, what: str, keys: set[str], users: list[str], judge: Callable[[Object], CheckResult | None]
) -> CheckResult:
    if seen.not_found:
        return failure(f"There is no {what}, which {_words(users)} needs.", f"Make the {what}, or correct its name.")
    if not seen.ok:
        return unreadable(f"{what[0].upper()}{what[1:]}", seen)
    lacking = sorted(keys - {*seen.body.get("keys", ())})
    if lacking:
        told = f"{what[0].upper()}{what[1:]} has no {', '.join(lacking)}, which {_words(users)} needs."
        return failure(told, "Add it, or correct the key's name.")
    return judge(seen.body) or ok(f"{what[0].upper()}{what[1:]} is there.")


def _judge_claim(body: Object) -> CheckResult | None:
    phase = (body.get("status") or {}).get("phase")
    name = body["metadata"]["name"]
    if phase == "Lost":
        return failure(f"Volume claim {name} has lost its volume.", "Restore the volume, or make the claim anew.")
    if phase != "Bound":
        command = shell_command("kubectl", "describe", "pvc", name, names=(name,))
        todo = "It is well if its class binds it to the first pod that uses it."
        todo = f"See `{command}`. {todo}" if command else todo
        return warning(f"Volume claim {name} is {phase}.", todo)
    return None


def _join_names(samples: Iterable[SampleJob]) -> str:
    return _words([sample.name for sample in samples])


def _words(names: list[str]) -> str:
    return ", ".join(names)
