"""Checks of sample jobs: flargo builds them, the objects that they name exist, and the API server admits them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from flargo.cluster.answer import Answer
from flargo.cluster.meaning import NO_CONTACT, Meaning
from flargo.job.validate import InvalidInput, amount
from flargo.terms import Object
from flargo.text import shell_command
from flargo.tools.doctor.argo_pod import patches_executor
from flargo.tools.doctor.facts import Facts, SampleJob
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unknown, unreadable, warning
from flargo.tools.doctor.helm import advise_change
from flargo.tools.doctor.references import Kind, Reference, pull_secrets, references, semaphores

PULL_TYPES = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")
_POD_SECURITY_MARK = "violates PodSecurity"
_EXCEEDED = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_ENFORCE_LABEL = "pod-security.kubernetes.io/enforce"
_GO_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_MAX_SHOWN = 40
"""The limit for a value that a message quotes, in characters."""
_CREATE_QUEUE = "Create it as in deploy/queue.yaml, or correct argo.semaphore."


def kit(facts: Facts) -> Iterator[CheckResult]:
    """Check that the kit uses flargo, and that flargo itself accepts a job with each of the site's studies."""
    if not facts.needs.is_prepared:
        what = "The kit does not use flargo, or `flargo prepare` would change it again."
        yield failure(what, "Run `flargo prepare KIT`, and stage the kit.")
    for name, reason in facts.needs.rejected_jobs.items():
        yield failure(f"flargo would reject {name}: {reason}.", "Correct the file or setting that the message names.")
    if facts.needs.samples:
        yield ok(f"flargo can build a Workflow for {_join_names(facts.needs.samples)}.")


def claims(facts: Facts) -> Iterator[CheckResult]:
    """Check that the volume claims of sample jobs exist and have their volumes."""
    return _check_references(facts, Kind.CLAIM, "volume claim", _judge_claim)


def secrets(facts: Facts) -> Iterator[CheckResult]:
    """Check that the Secrets of sample jobs exist, with the keys that the jobs use."""
    return _check_references(facts, Kind.SECRET, "Secret", lambda _: None)


def config_maps(facts: Facts) -> Iterator[CheckResult]:
    """Check that the ConfigMaps of sample jobs exist, with the keys that the jobs use."""
    return _check_references(facts, Kind.CONFIG_MAP, "ConfigMap", lambda _: None)


def queue(facts: Facts) -> Iterator[CheckResult]:
    """Check that Argo can read how many jobs may run at once, if the site's jobs queue."""
    limits = sorted({each for sample in facts.needs.samples for each in semaphores(sample.workflow)}, key=str)
    if not limits:
        yield ok("Jobs of this site do not queue.")
    for limit in limits:
        yield _judge_queue(facts.queues[limit.name], limit, facts.needs.namespace)


def _judge_queue(answer: Answer, limit: Reference, namespace: str) -> CheckResult:
    """Judge a ConfigMap's number as Argo reads it: by Go's strconv.Atoi, and from ``data`` only."""
    (key,) = limit.keys
    instead = "with your own number instead of 2, or correct argo.semaphore."
    if answer.not_found:
        command = ("create", "configmap", limit.name)
        create = kubectl(namespace, command, [f"--from-literal={key}=2"], names=(limit.name, key))
        todo = f"Run `{create}` {instead}" if create else _CREATE_QUEUE
        return failure(f"There is no ConfigMap {limit.name}, which limits how many jobs run at once.", todo)
    if not answer.ok:
        return unreadable(f"ConfigMap {limit.name}", answer)
    data = json.dumps({"data": {key: "2"}})
    patch = kubectl(namespace, ("patch", "configmap", limit.name), [f"--patch={data}"], names=(limit.name, key))
    todo = f"Run `{patch}` {instead}" if patch else _CREATE_QUEUE
    todo = advise_change(answer.body, f"Set {key} to the number", todo)
    text = (answer.body.get("data") or {}).get(key)
    if text is None:
        what = f"ConfigMap {limit.name} has no key {key}, which limits how many jobs run at once."
        return failure(what, todo)
    if _GO_INTEGER.fullmatch(text) is None or int(text) < 1:
        what = f"{key} in ConfigMap {limit.name} is {text[:_MAX_SHOWN]!r}, but must be a whole number of 1 or more."
        return failure(what, todo)
    return ok(f"Jobs queue: ConfigMap {limit.name} lets {int(text)} run at once ({key}).")


def image_pull_secrets(facts: Facts) -> Iterator[CheckResult]:
    """Check that the Secrets for pulling images exist and have a type that the kubelet accepts."""
    names = sorted({name for sample in facts.needs.samples for name in pull_secrets(sample.pod)})
    if not names:
        yield ok("Jobs name no Secrets for pulling images.")
    for name in names:
        answer = facts.objects[Kind.SECRET, name]
        command = kubectl(facts.needs.namespace, ("create", "secret", "docker-registry", name), names=(name,))
        todo = f"Create it: `{command} ...`, or name" if command else "Name"
        todo += " another Secret in image_pull_secrets."
        if answer.not_found:
            yield failure(f"There is no Secret {name} for pulling images.", todo)
        elif not answer.ok:
            yield unreadable(f"Secret {name}", answer)
        elif answer.body.get("type") not in PULL_TYPES:
            what = f"Secret {name} has type {answer.body.get('type')}, with which no image can be pulled."
            yield failure(what, advise_change(answer.body, "Correct it", todo))
        else:
            yield ok(f"Secret {name} for pulling images exists.")


def workflow(facts: Facts) -> Iterator[CheckResult]:
    """Check that the API server would accept the Workflows of sample jobs, with every field."""
    for sample in facts.needs.samples:
        answer = facts.workflows[sample.name]
        if answer.lacks_permission or answer.meaning in NO_CONTACT:
            yield unreadable("The dry run of a Workflow", answer)
            return
        if not answer.ok:
            todo = "Read the message: a policy or webhook rejects it, or Argo's definitions are older than 3.6."
            yield failure(f"The API server would reject the Workflow of {sample.name}: {answer}.", todo)
    if all(answer.ok for answer in facts.workflows.values()):
        yield ok("The API server would accept the Workflow with all its fields.")


def pod_security(facts: Facts) -> Iterator[CheckResult]:
    """Check that the namespace's Pod Security level admits the pods; it is enforced on pods and on nothing else."""
    labels = (facts.namespace.body.get("metadata") or {}).get("labels") or {}
    level = labels.get(_ENFORCE_LABEL)
    label = f"the namespace's label {_ENFORCE_LABEL}"
    todo = (
        "Change the fields that the message names, in the pod template or in security_context, or change "
        f"{advise_change(facts.namespace.body, label, f'{label}.')} For Argo's own containers (init and wait), set "
        "argo.patch_executor."
    )
    success = f"Pod Security admits the pods{f' (level {level})' if level else ''}."
    yield from _admission(
        facts, "Pod Security", lambda answer: _POD_SECURITY_MARK in answer.message, lambda _: todo, success
    )


def quota(facts: Facts) -> Iterator[CheckResult]:
    """Check that the namespace's quota has room for a pod, now and at all."""
    success = "The namespace's quota has room for the pods."
    for result in _admission(facts, "the quota", _is_quota, _quota_todo, success):
        yield warning(result.what, result.todo) if result.todo == _QUOTA_FULL else result


def pod(facts: Facts) -> Iterator[CheckResult]:
    """Check that no other part of the API server's admission rejects the pods."""
    success = "The API server would accept the pods."
    todo = "Read the message: the cause is an account, a class, a limit range, a policy or a webhook."
    yield from _admission(
        facts,
        "admission",
        lambda answer: _POD_SECURITY_MARK not in answer.message and not _is_quota(answer),
        lambda _: todo,
        success,
    )


def _admission(
    facts: Facts, part: str, concerns: Callable[[Answer], bool], todo: Callable[[Answer], str], success: str
) -> Iterator[CheckResult]:
    """Yield the results of one part of admission.

    The API server stops at the first rejection, so nothing is known of the parts that it would have asked later.

    Args:
        facts: the facts.
        part: the part's name, as messages name it.
        concerns: whether a rejection comes from this part.
        todo: the advice for a rejection by this part.
        success: the message if this part rejects no pod.
    """
    samples_by_answer: dict[str, list[SampleJob]] = {}
    for sample in facts.needs.samples:
        if not facts.pods[sample.name].ok:
            samples_by_answer.setdefault(str(facts.pods[sample.name]), []).append(sample)
    rejections = [(facts.pods[samples[0].name], samples) for samples in samples_by_answer.values()]
    failed_requests = [answer for answer, _ in rejections if answer.lacks_permission or answer.meaning in NO_CONTACT]
    if failed_requests:
        yield unreadable(f"The decision of {part} on a pod", failed_requests[0])
        return
    own = [(answer, samples) for answer, samples in rejections if concerns(answer)]
    for answer, samples in own:
        yield _judge_rejection(facts, answer, samples, todo(answer))
    # The API server asks the quota last, so all other parts have agreed if the quota rejects a pod.
    earlier = [sample for answer, samples in rejections if not _is_quota(answer) for sample in samples]
    if earlier and not own:
        what = f"The decision of {part} on the pod of {_join_names(earlier)} is unknown: it is rejected before that."
        yield unknown(what, "Correct that first, then run flargo doctor again.")
    elif not own:
        yield ok(success)


def _judge_rejection(facts: Facts, answer: Answer, samples: list[SampleJob], todo: str) -> CheckResult:
    names = _join_names(samples)
    if _depends_on_settings(facts, samples[0]):
        what = (
            f"The pod of {names} would be rejected, unless the controller's settings of Argo's own containers change "
            f"that; these settings could not be read: {answer}."
        )
        return unknown(what, "Check those settings, or set argo.patch_executor.")
    return failure(f"The pod of {names} would be rejected: {answer}.", todo)


def _depends_on_settings(facts: Facts, sample: SampleJob) -> bool:
    """Return whether the controller's settings, which could not be read, decide about fields of Argo's containers."""
    return not patches_executor(sample.workflow) and not any(answer.ok for answer in facts.settings.values())


_QUOTA_FULL = "Wait until other pods end, or raise the quota. flargo lets a job wait for argo.quota seconds."


def _is_quota(answer: Answer) -> bool:
    return answer.meaning is Meaning.QUOTA


def _quota_todo(answer: Answer) -> str:
    """Return the advice for a pod that a quota rejects: would the pod fit into an empty namespace?"""
    match = _EXCEEDED.search(answer.message)
    if match is None:
        return "Set what the message names in launcher_spec or the study, or give the namespace a LimitRange."
    requested, limited = (_parse_quantities(match[part]) for part in ("requested", "limited"))
    if all(requested[name] <= limited.get(name, requested[name]) for name in requested):
        return _QUOTA_FULL
    return "Raise the quota, or request less: a pod of this size never fits."


def _parse_quantities(text: str) -> dict[str, Fraction]:
    """Parse a list such as ``pods=1,limits.cpu=2``; entries that are not quantities are left out."""
    quantities = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        try:
            quantities[name] = amount(value)
        except InvalidInput:
            continue
    return quantities


def _check_references(
    facts: Facts, kind: Kind, noun: str, judge: Callable[[Object], CheckResult | None]
) -> Iterator[CheckResult]:
    """Check that every object of a kind that sample jobs name exists."""
    uses: dict[str, tuple[set[str], list[str]]] = {}
    for sample in facts.needs.samples:
        for each in references(sample.pod):
            if each.kind is kind and each.name not in sample.own_secrets:
                keys, users = uses.setdefault(each.name, (set(), []))
                keys.update(each.keys)
                users += [sample.name] if sample.name not in users else []
    for name, (keys, users) in sorted(uses.items()):
        yield _judge_object(facts.objects[kind, name], f"{noun} {name}", keys, users, judge)
    if not uses:
        yield ok(f"Jobs name no {noun}.")


def _judge_object(
    answer: Answer, noun: str, keys: set[str], users: list[str], judge: Callable[[Object], CheckResult | None]
) -> CheckResult:
    subject, jobs = f"{noun[0].upper()}{noun[1:]}", ", ".join(users)
    if answer.not_found:
        return failure(f"There is no {noun}, which {jobs} needs.", f"Create the {noun}, or correct its name.")
    if not answer.ok:
        return unreadable(subject, answer)
    missing = sorted(keys - {*answer.body.get("keys", ())})
    if missing:
        what = f"{subject} has no key {', '.join(missing)}, which {jobs} needs."
        return failure(what, advise_change(answer.body, "Add the key", "Add the key, or correct its name."))
    return judge(answer.body) or ok(f"{subject} exists.")


def _judge_claim(body: Object) -> CheckResult | None:
    phase = (body.get("status") or {}).get("phase")
    name = body["metadata"]["name"]
    if phase == "Lost":
        return failure(f"Volume claim {name} has lost its volume.", "Restore the volume, or create the claim again.")
    if phase != "Bound":
        command = shell_command("kubectl", "describe", "pvc", name, names=(name,))
        todo = "This is fine if its storage class waits for the first pod that uses the claim (WaitForFirstConsumer)."
        todo = f"See `{command}`. {todo}" if command else todo
        return warning(f"Volume claim {name} is {phase}.", todo)
    return None


def _join_names(samples: Iterable[SampleJob]) -> str:
    return ", ".join(sample.name for sample in samples)
