"""Checks of the service accounts and their rights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from flargo.cluster.answer import Answer
from flargo.job.settings import ArgoSettings
from flargo.terms import Role
from flargo.tools.doctor.cluster_checks import is_allowed
from flargo.tools.doctor.facts import Facts, Right
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unreadable, warning
from flargo.tools.doctor.helm import APPLY_KIT_CHART, manager
from flargo.tools.doctor.references import Kind, pod_account

TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105  (a type)
OWNER_ANNOTATION = "kubernetes.io/service-account.name"
"""The annotation of a token Secret that names the token's account."""
_LEASE_RIGHTS = frozenset(Right("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update"))
_EVENT_RIGHT = Right("", "events", "create")
_NO_LEASE = "a second parent of the site is not noticed, and a client's parent that restarts ends its running jobs"
OPTIONAL_RIGHTS: Final[Mapping[Right, str]] = {
    _EVENT_RIGHT: "people see no Events about jobs that were started again",
    **dict.fromkeys(_LEASE_RIGHTS, _NO_LEASE),
}
"""Rights without which jobs run, and what is missing then."""


def unused_rights(role: Role, argo: ArgoSettings) -> frozenset[Right]:
    """Return the optional rights that a parent never uses.

    Only a client's parent holds a Lease, and only to take its jobs back (``argo.adopt``). Only a client's jobs are
    started again, of which Events tell, and only where the site's policy allows it.
    """
    has_lease = role is Role.CLIENT and argo.adopt
    has_attempts = role is Role.CLIENT and argo.policy.rejoin > 0
    return (frozenset() if has_lease else _LEASE_RIGHTS) | (frozenset() if has_attempts else {_EVENT_RIGHT})


def token_secret_name(executor: str) -> str:
    """Return the name under which Argo looks for its executor's token (GetSecretTokenName in its util package)."""
    return f"{executor}.service-account-token"


def launcher(facts: Facts) -> Iterator[CheckResult]:
    """Check that the FLARE parent's account exists and has every right that flargo uses."""
    name, namespace = facts.needs.launcher, facts.needs.namespace
    if name is not None and facts.objects[Kind.ACCOUNT, name].not_found:
        todo = _advise_account(facts, name, "Apply deploy/ or the kit's chart, name another account with --account")
        yield failure(f"There is no service account {name} for the FLARE parent.", todo)
    own_name = facts.username.removeprefix(f"system:serviceaccount:{namespace}:")
    account = name or (own_name if own_name != facts.username else None)
    user = account or facts.username or "The current user"
    yield from _check_rights(facts, user, facts.launcher_rights, account)


def executor(facts: Facts) -> Iterator[CheckResult]:
    """Check that Argo's containers can report the results of a job's steps."""
    name = facts.needs.executor
    secret = token_secret_name(name)
    account, token = facts.objects[Kind.ACCOUNT, name], facts.objects[Kind.SECRET, secret]
    if account.not_found:
        todo = _advise_account(facts, name)
        yield failure(f"There is no service account {name} for Argo's containers.", todo)
    elif not (account.ok or _has_token(token)):
        yield unreadable(f"Service account {name}", account)
    else:
        yield ok(f"Service account {name} for Argo's containers exists.")
    yield _judge_token(facts, secret, token, account_is_missing=account.not_found)
    yield from _check_rights(facts, name, facts.executor_rights, name)


def job_account(facts: Facts) -> Iterator[CheckResult]:
    """Check that the accounts of job pods exist."""
    names = sorted({pod_account(sample.pod) for sample in facts.needs.samples})
    for name in names:
        account = facts.objects[Kind.ACCOUNT, name]
        users = [sample.name for sample in facts.needs.samples if pod_account(sample.pod) == name]
        if account.not_found:
            yield failure(f"There is no service account {name} for job pods.", _advise_account(facts, name))
        elif account.ok or any(facts.pods[user].ok for user in users):
            yield ok(f"Service account {name} for job pods exists.")
        else:
            yield unreadable(f"Service account {name}", account)


def _check_rights(
    facts: Facts, user: str, reviews: Mapping[Right, Answer], account: str | None
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
        todo = _advise_rights(facts, account, qualified, verbs)
        what = f"{user} may not {', '.join(verbs)} {qualified} in namespace {facts.needs.namespace}"
        effects = [OPTIONAL_RIGHTS.get(right) for right in rights]
        if None in effects:
            yield failure(f"{what}.", todo)
        else:
            yield warning(f"{what}, so {effects[0]}.", todo)
    if not missing:
        yield ok(f"{user} has all the rights that flargo needs.")


def _advise_rights(facts: Facts, account: str | None, qualified: str, verbs: Sequence[str]) -> str:
    """Return how to grant an account verbs on a resource, which is named with its group."""
    if account is None:
        return "Apply deploy/ or the kit's chart."
    if account in facts.needs.chart_accounts:
        if facts.needs.chart_grants_rights:
            return f"The kit's chart grants this. {APPLY_KIT_CHART}"
    elif who := _manager_of(facts, account):
        return f"Let {who}, which manages the account, grant this. {APPLY_KIT_CHART}"
    commands = _grant_commands(account, facts.needs.namespace, qualified, verbs)
    return f"Apply deploy/ or the kit's chart{f', or: {commands}.' if commands else ''}"


def _advise_account(facts: Facts, name: str, other: str = "Apply deploy/ or the kit's chart") -> str:
    """Return how to create an account. One that is created beside a chart makes Helm refuse to install the chart."""
    if name in facts.needs.chart_accounts:
        return f"The kit's chart creates it. {APPLY_KIT_CHART}"
    command = kubectl(facts.needs.namespace, ("create", "serviceaccount", name), names=(name,))
    return f"{other}, or create it{f': `{command}`' if command else ''}."


def _manager_of(facts: Facts, account: str) -> str:
    answer = facts.objects.get((Kind.ACCOUNT, account))
    return manager(answer.body) if answer is not None else ""


def _judge_token(facts: Facts, secret: str, token: Answer, *, account_is_missing: bool) -> CheckResult:
    name = facts.needs.executor
    todo = f"Create it as in deploy/executor.yaml: type {TOKEN_TYPE}, annotation {OWNER_ANNOTATION}: {name}."
    if name in facts.needs.chart_accounts:
        todo = f"The kit's chart creates it. {APPLY_KIT_CHART}"
    elif who := _manager_of(facts, name) or manager(token.body):
        todo = f"Let {who} create it. {APPLY_KIT_CHART}"
    elif account_is_missing:
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


def _grant_commands(account: str, namespace: str, qualified: str, verbs: Sequence[str]) -> str:
    """Return the commands that grant an account verbs on a resource; empty if a name in them is not valid."""
    role = f"{account}-{qualified.partition('.')[0].replace('/', '-')}"
    rights = (f"--verb={','.join(verbs)}", f"--resource={qualified}")
    create = kubectl(namespace, ("create", "role", role, *rights), names=(role,))
    subject = (f"--role={role}", f"--serviceaccount={namespace}:{account}")
    bind = kubectl(namespace, ("create", "rolebinding", role, *subject), names=(role, account))
    return f"`{create}`, `{bind}`" if create and bind else ""
