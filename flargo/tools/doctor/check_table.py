"""The table of all checks, and the function that runs them."""

from typing import Final

from flargo.tools.doctor import access_checks, cluster_checks, job_checks
from flargo.tools.doctor.facts import Facts
from flargo.tools.doctor.findings import Check, Finding, Level

_ACCOUNTS = "Apply `deploy/`, or the kit's chart: `nvflare deploy k8s stage`, then its `helm upgrade`."

_EMBEDDED = (
    "Not checked, because this is flargo's embedded engine, which needs no accounts, rights or separate controller, and"
    " has no Pod Security, quotas or volume claims."
)
_EMBEDDED_TODO = "Run flargo doctor on the cluster of the site before you run its jobs there."

CHECKS: Final = (
    Check(
        "api",
        "the API server answers and accepts the credentials",
        "No job starts, and running jobs are not followed.",
        "Correct the kubeconfig's server, context or credentials, or repair the network.",
        cluster_checks.api,
    ),
    Check(
        "clock",
        "this machine's clock and the API server's are less than 5 s apart (a failure: 60 s)",
        "Tokens and certificates may be rejected as expired or not valid yet.",
        "Synchronise both clocks (NTP).",
        cluster_checks.clock,
        ("api",),
    ),
    Check(
        "namespace",
        "the namespace exists and is not being deleted",
        "`LAUNCH_FAILED`",
        "Create it, or name another one: `flargo prepare KIT --namespace NAMESPACE`.",
        cluster_checks.namespace,
        ("api",),
    ),
    Check(
        "argo",
        "Argo 3.6 or newer serves its API `argoproj.io/v1alpha1` with every resource that flargo uses",
        "`LAUNCH_FAILED`",
        "Install or upgrade Argo Workflows.",
        cluster_checks.argo,
        ("api",),
        needs_cluster=True,
    ),
    Check(
        "controller",
        "a Workflow controller with the site's instance id picks up a probe Workflow in the namespace",
        "`UNCLAIMED`",
        "Let a controller watch the namespace, or run `flargo prepare KIT --argo instance_id=ID` (or `null`).",
        cluster_checks.controller,
        ("namespace", "argo"),
        needs_cluster=True,
    ),
    Check(
        "restrictions",
        "the controller accepts Workflows without a `workflowTemplateRef`, and does not retry failed steps",
        "`INVALID`, or a second pod for each job that fails, which flargo ends at once",
        "Change `workflowRestrictions` or `workflowDefaults` in the controller's ConfigMap.",
        cluster_checks.restrictions,
        ("namespace", "argo"),
        needs_cluster=True,
    ),
    Check(
        "launcher",
        "the FLARE parent's account exists and has all rights in `deploy/launcher.yaml`",
        "`LAUNCH_FAILED`, or a job that flargo cannot follow or end; without the rights to create events and on Leases"
        " only a warning",
        _ACCOUNTS,
        access_checks.launcher,
        ("namespace",),
        needs_cluster=True,
    ),
    Check(
        "executor",
        "the account of Argo's containers and its token's Secret exist, and the account may report results",
        "The pod does not start (`VOLUME`), or ends without a result.",
        _ACCOUNTS,
        access_checks.executor,
        ("namespace",),
        needs_cluster=True,
    ),
    Check(
        "job account",
        "the accounts of job pods exist",
        "`POD_REFUSED`",
        _ACCOUNTS,
        access_checks.job_account,
        ("namespace",),
        needs_samples=True,
        needs_cluster=True,
    ),
    Check(
        "kit",
        "the kit is prepared, and flargo can build a Workflow for a job with each of the site's studies",
        "FLARE's own launcher runs the job, or flargo rejects it.",
        "Run `flargo prepare KIT`, or correct the file that the message names; `flargo render` shows more.",
        job_checks.kit,
    ),
    Check(
        "volume claims",
        "the volume claims of studies exist and have their volumes",
        "`UNSCHEDULABLE`",
        "Create them, or correct the study file.",
        job_checks.claims,
        ("namespace",),
        needs_samples=True,
        needs_cluster=True,
    ),
    Check(
        "study secrets",
        "the Secrets of studies and pod templates exist, with the keys that they use",
        "`CONTAINER` or `VOLUME`",
        "Create them, or correct the study file.",
        job_checks.secrets,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "config maps",
        "the ConfigMaps of pod templates exist, with the keys that they use",
        "`CONTAINER` or `VOLUME`",
        "Create them, or correct the pod template.",
        job_checks.config_maps,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "queue",
        "`argo.semaphore` is not set, or its ConfigMap exists and its key is a whole number of 1 or more",
        "`SEMAPHORE`",
        "Create it as in `deploy/queue.yaml`, or correct `argo.semaphore`.",
        job_checks.queue,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "pull secrets",
        "the Secrets for pulling images exist and have the right type",
        "`IMAGE`",
        "Create them with `kubectl create secret docker-registry`, or correct `image_pull_secrets`.",
        job_checks.image_pull_secrets,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "workflow",
        "the API server accepts the Workflow in a strict dry run",
        "`LAUNCH_FAILED`",
        "Read the message: the cause is a policy, a webhook, or definitions older than Argo 3.6.",
        job_checks.workflow,
        ("namespace", "argo"),
        needs_samples=True,
    ),
    Check(
        "pod security",
        "the namespace's Pod Security level admits the pods, in a dry run",
        "`POD_REFUSED`",
        "Change the pod template or `security_context`, or the namespace's level.",
        job_checks.pod_security,
        ("namespace",),
        needs_samples=True,
        needs_cluster=True,
    ),
    Check(
        "quota",
        "the namespace's quota has room for a pod",
        "`QUOTA`",
        "Raise the quota, or request less.",
        job_checks.quota,
        ("namespace",),
        needs_samples=True,
        needs_cluster=True,
    ),
    Check(
        "pod",
        "no other part of the API server's admission rejects the pods",
        "`POD_REFUSED`",
        "Read the message: the cause is an account, a class, a limit range, a policy or a webhook.",
        job_checks.pod,
        ("namespace",),
        needs_samples=True,
        needs_cluster=True,
    ),
)


def run_checks(facts: Facts) -> list[Finding]:
    """Return the findings of all checks, in the table's order.

    A check is skipped, with a finding that says so, if a check that it depends on has failed or was skipped.
    """
    findings: list[Finding] = []
    failed: dict[str, str] = {}
    """The checks that failed or were skipped, each with the check whose failure began it."""
    for check in CHECKS:
        blocker = next((name for name in check.depends_on if name in failed), None)
        if blocker is not None:
            failed[check.name] = failed[blocker]
            what = f"Not checked, because the check {failed[blocker]} did not succeed."
            findings.append(Finding(check.name, Level.UNKNOWN, what, "Solve that problem first."))
            continue
        if check.needs_cluster and facts.is_embedded:
            findings.append(Finding(check.name, Level.UNKNOWN, _EMBEDDED, _EMBEDDED_TODO))
            continue
        if check.needs_samples and not facts.needs.samples:
            what = "Not checked, because flargo can build no job."
            findings.append(Finding(check.name, Level.UNKNOWN, what, "Solve the problems of the check kit first."))
            continue
        results = [Finding(check.name, result.level, result.what, result.todo) for result in check.run(facts)]
        if any(finding.level is Level.FAILURE for finding in results):
            failed[check.name] = check.name
        findings += results
    return findings
