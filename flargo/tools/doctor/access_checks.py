"""Checks of accounts and what they may do."""

from collections.abc import Iterator, Mapping, Sequence

from flargo.cluster.answer import Answer
from flargo.tools.doctor.cluster_checks import is_allowed
from flargo.tools.doctor.facts import Facts, Right
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unreadable
from flargo.tools.doctor.references import Kind, pod_account

TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105  (a type)
OWNER_ANNOTATION = "kubernetes.io/service-account.name"
"""The annotation that says whose token a Secret holds."""


def token_secret_name(executor: str) -> str:
    """Where Argo looks for its executor's token (GetSecretTokenName in its util package)."""
    return f"{executor}.service-account-token"


def launcher(facts: Facts) -> Iterator[CheckResult]:
    """Whether the FLARE parent's account is there, and may do what flargo does."""
    name, where = facts.needs.launcher, facts.needs.namespace
    if name is not None and facts.objects[Kind.ACCOUNT, name].not_found:
        todo = (
            f"Apply deploy/ or the kit's chart, name another with --account, or make it{_create_account(name, where)}"
        )
        yield failure(f"There is no service account {name} for the FLARE parent.", todo)
    own = facts.username.removeprefix(f"system:serviceaccount:{where}:")
    known = name or (own if own != facts.username else None)
    yield from _check_rights(known or facts.username or "Whoever asks", facts.launcher_rights, known, where)


def executor(facts: Facts) -> Iterator[CheckResult]:
    """Whether Argo's containers can report what became of a job."""
    name, where = facts.needs.executor, facts.needs.namespace
    secret = token_secret_name(name)
    made, token = facts.objects[Kind.ACCOUNT, name], facts.objects[Kind.SECRET, secret]
    if made.not_found:
        todo = f"Apply deploy/ or the kit's chart, or make it{_create_account(name, where)}"
        yield failure(f"There is no service account {name} for Argo's containers.", todo)
    elif not (made.ok or _holds_token(token)):
        yield unreadable(f"Whether there is a service account {name}", made)
    else:
        yield ok(f"Service account {name} is there for Argo's containers.")
    yield _judge_token(name, secret, token, account_is_missing=made.not_found)
    yield from _check_rights(name, facts.executor_rights, name, where)


def job_account(facts: Facts) -> Iterator[CheckResult]:
    """Whether the accounts that jobs run as are there."""
    names = sorted({pod_account(sample.pod) for sample in facts.needs.samples})
    for name in names:
        made = facts.objects[Kind.ACCOUNT, name]
        users = [sample.name for sample in facts.needs.samples if pod_account(sample.pod) == name]
        if made.not_found:
            todo = f"Apply deploy/ or the kit's chart, or make it{_create_account(name, facts.needs.namespace)}"
            yield failure(f"There is no service account {name}, as which jobs run.", todo)
        elif made.ok or any(facts.pods[user].ok for user in users):
            yield ok(f"Service account {name} is there for jobs.")
        else:
            yield unreadable(f"Whether there is a service account {name}", made)


def _check_rights(who: str, reviews: Mapping[Right, Answer], name: str | None, where: str) -> Iterator[CheckResult]:
    """One failure for each resource, with the command that gives what is missing."""
    hidden = [answer for answer in reviews.values() if not answer.ok]
    if hidden:
        yield unreadable(f"What {who} may do", hidden[0])
        return
    lacking: dict[tuple[str, str], list[str]] = {}
    for right, answer in reviews.items():
        if not is_allowed(answer.body):
            lacking.setdefault((right.group, right.resource), []).append(right.verb)
    for (group, resource), verbs in lacking.items():
        what = f"{resource}.{group}" if group else resource
        todo = "Apply deploy/ or the kit's chart"
        if name is not None and (commands := _grant_commands(name, where, what, resource, verbs)):
            todo += f", or: {commands}."
        yield failure(f"{who} may not {', '.join(verbs)} {what} in namespace {where}.", todo)
    if not lacking:
        yield ok(f"{who} may do all that it has to.")


def _judge_token(name: str, secret: str, token: Answer, *, account_is_missing: bool) -> CheckResult:
    todo = f"Make it as deploy/executor.yaml does: type {TOKEN_TYPE}, annotation {OWNER_ANNOTATION}: {name}."
    if account_is_missing:
        todo = f"Make the account first, then the Secret, which goes with its account. {todo}"
    if token.not_found:
        return failure(f"There is no Secret {secret}, so Argo's containers have no token.", todo)
    if not token.ok:
        return unreadable(f"Secret {secret}", token)
    if token.body.get("type") != TOKEN_TYPE or token.body.get("owner") != name:
        return failure(f"Secret {secret} is not the token of {name}.", f"Delete it. {todo}")
    if not _holds_token(token):
        return failure(
            f"Secret {secret} holds no token.", "See that the account is there and the token controller runs."
        )
    return ok(f"Secret {secret} holds the executor's token.")


def _holds_token(token: Answer) -> bool:
    """Kubernetes deletes such a Secret with its account."""
    return token.ok and "token" in token.body.get("keys", ())


def _grant_commands(name: str, where: str, what: str, resource: str, verbs: Sequence[str]) -> str:
    role = f"{name}-{resource.replace('/', '-')}"
    rights = (f"--verb={','.join(verbs)}", f"--resource={what}")
    give = kubectl(where, ("create", "role", role, *rights), names=(role,))
    binding = (f"--role={role}", f"--serviceaccount={where}:{name}")
    bind = kubectl(where, ("create", "rolebinding", role, *binding), names=(role, name))
    return f"`{give}`, `{bind}`" if give and bind else ""


def _create_account(name: str, where: str) -> str:
    command = kubectl(where, ("create", "serviceaccount", name), names=(name,))
    return f": `{command}`." if command else "."
