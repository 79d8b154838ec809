"""Checks of the service accounts and their rights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from flargo.cluster.answer import Answer
from flargo.tools.doctor.cluster_checks import is_allowed
from flargo.tools.doctor.facts import Facts, Right
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unreadable, warning
from flargo.tools.doctor.references import Kind, pod_account

TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105  (a type)
OWNER_ANNOTATION = "kubernetes.io/service-account.name"
"""The annotation of a token Secret that names the token's account."""
_NO_LEASE = "a second parent of the site is not noticed, and a client's parent that restarts ends its running jobs"
OPTIONAL_RIGHTS: Final[Mapping[Right, str]] = {
    Right("", "events", "create"): "people see no Events about jobs that were started again",
    **{Right("coordination.k8s.io", "leases", verb): _NO_LEASE for verb in ("create", "get", "update")},
}
"""Rights without which jobs run, and what is missing then."""


def token_secret_name(executor: str) -> str:
    """Return the name under which Argo looks for its executor's token (GetSecretTokenName in its util package)."""
    return f"{executor}.service-account-token"


def launcher(facts: Facts) -> Iterator[CheckResult]:
    """Check that the FLARE parent's account exists and has every right that flargo uses."""
    name, namespace = facts.needs.launcher, facts.needs.namespace
    if name is not None and facts.objects[Kind.ACCOUNT, name].not_found:
        create = _create_account(name, namespace)
        todo = f"Apply deploy/ or the kit's chart, name another account with --account, or create it{create}"
        yield failure(f"There is no service account {name} for the FLARE parent.", todo)
    own_name = facts.username.removeprefix(f"system:serviceaccount:{namespace}:")
    account = name or (own_name if own_name != facts.username else None)
    user = account or facts.username or "The current user"
    yield from _check_rights(user, facts.launcher_rights, account, namespace)


def executor(facts: Facts) -> Iterator[CheckResult]:
    """Check that Argo's containers can report the results of a job's steps."""
    name, namespace = facts.needs.executor, facts.needs.namespace
    secret = token_secret_name(name)
    account, token = facts.objects[Kind.ACCOUNT, name], facts.objects[Kind.SECRET, secret]
    if account.not_found:
        todo = f"Apply deploy/ or the kit's chart, or create it{_create_account(name, namespace)}"
        yield failure(f"There is no service account {name} for Argo's containers.", todo)
    elif not (account.ok or _has_token(token)):
        yield unreadable(f"Service account {name}", account)
    else:
        yield ok(f"Service account {name} for Argo's containers exists.")
    yield _judge_token(name, secret, token, account_is_missing=account.not_found)
    yield from _check_rights(name, facts.executor_rights, name, namespace)


def job_account(facts: Facts) -> Iterator[CheckResult]:
    """Check that the accounts of job pods exist."""
    names = sorted({pod_account(sample.pod) for sample in facts.needs.samples})
    for name in names:
        account = facts.objects[Kind.ACCOUNT, name]
        users = [sample.name for sample in facts.needs.samples if pod_account(sample.pod) == name]
        if account.not_found:
            todo = f"Apply deploy/ or the kit's chart, or create it{_create_account(name, facts.needs.namespace)}"
            yield failure(f"There is no service account {name} for job pods.", todo)
        elif account.ok or any(facts.pods[user].ok for user in users):
            yield ok(f"Service account {name} for job pods exists.")
        else:
            yield unreadable(f"Service account {name}", account)


def _check_rights(
    user: str, reviews: Mapping[Right, Answer], account: str | None, namespace: str
) -> Iterator[CheckResult]:
    """Yield one finding for each resource, with the command that grants the missing rights.

    It is a failure, or a warning if only optional rights are missing.
    """
    failed_reviews = [answer for answer in reviews.values() if not answer.ok]
    if failed_reviews:
        yield unreadable(f"The rights of {user}", failed_reviews[0])
        return
    missing: dict[tuple[str, str], list[Right]] = {}
    for right, answer in reviews.items():
        if not is_allowed(answer.body):
            missing.setdefault((right.group, right.resource), []).append(right)
    for (group, resource), rights in missing.items():
        verbs = [right.verb for right in rights]
        qualified = f"{resource}.{group}" if group else resource
        todo = "Apply deploy/ or the kit's chart"
        if account is not None and (commands := _grant_commands(account, namespace, qualified, resource, verbs)):
            todo += f", or: {commands}."
        what = f"{user} may not {', '.join(verbs)} {qualified} in namespace {namespace}"
        effects = [OPTIONAL_RIGHTS.get(right) for right in rights]
        if None in effects:
            yield failure(f"{what}.", todo)
        else:
            yield warning(f"{what}, so {effects[0]}.", todo)
    if not missing:
        yield ok(f"{user} has all the rights that flargo needs.")


def _judge_token(name: str, secret: str, token: Answer, *, account_is_missing: bool) -> CheckResult:
    todo = f"Create it as in deploy/executor.yaml: type {TOKEN_TYPE}, annotation {OWNER_ANNOTATION}: {name}."
    if account_is_missing:
        todo = f"Create the account first, because Kubernetes deletes a token Secret without its account. {todo}"
    if token.not_found:
        return failure(f"There is no Secret {secret}, so Argo's containers have no token.", todo)
    if not token.ok:
        return unreadable(f"Secret {secret}", token)
    if token.body.get("type") != TOKEN_TYPE or token.body.get("owner") != name:
        return failure(f"Secret {secret} is not the token of {name}.", f"Delete it. {todo}")
    if not _has_token(token):
        todo = "Check that the account exists and that Kubernetes' token controller runs."
        return failure(f"Secret {secret} holds no token.", todo)
    return ok(f"Secret {secret} holds the executor's token.")


def _has_token(token: Answer) -> bool:
    """Return whether a token Secret holds a token. Its account exists then, as Kubernetes deletes both together."""
    return token.ok and "token" in token.body.get("keys", ())


def _grant_commands(account: str, namespace: str, qualified: str, resource: str, verbs: Sequence[str]) -> str:
    """Return the commands that grant an account verbs on a resource; empty if a name in them is not valid."""
    role = f"{account}-{resource.replace('/', '-')}"
    rights = (f"--verb={','.join(verbs)}", f"--resource={qualified}")
    create = kubectl(namespace, ("create", "role", role, *rights), names=(role,))
    subject = (f"--role={role}", f"--serviceaccount={namespace}:{account}")
    bind = kubectl(namespace, ("create", "rolebinding", role, *subject), names=(role, account))
    return f"`{create}`, `{bind}`" if create and bind else ""


def _create_account(name: str, namespace: str) -> str:
    command = kubectl(namespace, ("create", "serviceaccount", name), names=(name,))
    return f": `{command}`." if command else "."
