"""The table of checks, and facts judged by it."""

from typing import Final

from flargo.tools.doctor import access_checks, cluster_checks, job_checks
from flargo.tools.doctor.facts import Facts
from flargo.tools.doctor.findings import Check, Finding, Level

_ACCOUNTS = "Apply `deploy/`, or the kit's chart: `nvflare deploy k8s stage`, then its `helm upgrade`."

CHECKS: Final = (
    Check(
        "api",
        "the API server answers, and takes the credentials",
        "No job starts, and none is followed.",
        "Correct the kubeconfig's server, context or credentials, or the network.",
        cluster_checks.api,
    ),
    Check(
        "clock",
        "this machine's clock and the API server's are less than 5 s apart (a failure: 60 s)",
        "Tokens and certificates are not valid yet, or no longer.",
        "Have both machines synchronised (NTP).",
        cluster_checks.clock,
        ("api",),
    ),
    Check(
        "namespace",
        "the namespace is there, and not being deleted",
        "`LAUNCH_FAILED`",
        "Make it, or name the right one: `flargo prepare KIT --namespace NAMESPACE`.",
        cluster_checks.namespace,
        ("api",),
    ),
    Check(
        "argo",
        "Argo's API `argoproj.io/v1alpha1` is served with all that flargo uses, by Argo 3.6 or newer",
        "`LAUNCH_FAILED`",
        "Install or upgrade Argo Workflows.",
        cluster_checks.argo,
        ("api",),
    ),
    Check(
        "controller",
        "a Workflow controller takes notice of a probe in this namespace, with this instance id",
        "`UNCLAIMED`",
        "Have a controller watch the namespace; `flargo prepare KIT --argo instance_id=ID` (or `null`).",
        cluster_checks.controller,
        ("namespace", "argo"),
    ),
    Check(
        "restrictions",
        "the controller takes Workflows that are made from no template, and runs no failed step again",
        "`INVALID`, or a second pod for each job that fails, which is ended at once",
        "Change `workflowRestrictions` or `workflowDefaults` in the controller's ConfigMap.",
        cluster_checks.restrictions,
        ("namespace", "argo"),
    ),
    Check(
        "launcher",
        "the FLARE parent's account is there, and may do all that `deploy/launcher.yaml` allows it",
        "`LAUNCH_FAILED`, or a job that cannot be followed or ended",
        _ACCOUNTS,
        access_checks.launcher,
        ("namespace",),
    ),
    Check(
        "executor",
        "the account of Argo's containers is there, its token's Secret too, and it may report results",
        "The pod never starts (`VOLUME`), or ends without a result.",
        _ACCOUNTS,
        access_checks.executor,
        ("namespace",),
    ),
    Check(
        "job account",
        "the accounts that jobs run as are there",
        "`POD_REFUSED`",
        _ACCOUNTS,
        access_checks.job_account,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "kit",
        "the kit is prepared, and flargo itself can make a Workflow of a job with each of the site's studies",
        "FLARE's own launcher runs the job, or the launch is refused.",
        "`flargo prepare KIT`; correct the file that the message names: `flargo render` shows more.",
        job_checks.kit,
    ),
    Check(
        "volume claims",
        "the volume claims of studies are there, and have their volumes",
        "`UNSCHEDULABLE`",
        "Make them, or correct the study file.",
        job_checks.claims,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "study secrets",
        "the Secrets of studies and pod templates are there, with the keys that are used",
        "`CONTAINER` or `VOLUME`",
        "Make them, or correct the study file.",
        job_checks.secrets,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "config maps",
        "the ConfigMaps of pod templates are there, with the keys that are used",
        "`CONTAINER` or `VOLUME`",
        "Make them, or correct the pod template.",
        job_checks.config_maps,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "queue",
        "where `argo.semaphore` is set, its ConfigMap is there, with the key and a whole number of 1 or more",
        "`SEMAPHORE`",
        "Make it, as `deploy/queue.yaml` does, or correct `argo.semaphore`.",
        job_checks.queue,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "pull secrets",
        "the Secrets that images are pulled with are there, and are such Secrets",
        "`IMAGE`",
        "`kubectl create secret docker-registry`, or correct `image_pull_secrets`.",
        job_checks.image_pull_secrets,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "workflow",
        "the API server takes the Workflow in a strict dry run",
        "`LAUNCH_FAILED`",
        "See the message: a policy, a webhook, or definitions older than Argo 3.6.",
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
    ),
    Check(
        "quota",
        "the namespace's quota has room for a pod",
        "`QUOTA`",
        "Raise the quota, or ask for less.",
        job_checks.quota,
        ("namespace",),
        needs_samples=True,
    ),
    Check(
        "pod",
        "nothing else of the API server's admission refuses the pods",
        "`POD_REFUSED`",
        "See the message: an account, a class, a limit range, a policy or a webhook.",
        job_checks.pod,
        ("namespace",),
        needs_samples=True,
    ),
)


def run_checks(facts: Facts) -> list[Finding]:
    """All findings, in the table's order. What builds on something that failed is not judged."""
    made: list[Finding] = []
    failed: set[str] = set()
    for check in CHECKS:
        missing = next((name for name in check.depends_on if name in failed), None)
        if missing is not None:
            failed.add(check.name)
            made.append(
                Finding(check.name, Level.UNKNOWN, f"Not looked at: {missing} comes first.", "Mend that first.")
            )
            continue
        if check.needs_samples and not facts.needs.samples:
            made.append(
                Finding(check.name, Level.UNKNOWN, "Not looked at: no job could be made.", "See the kit's check.")
            )
            continue
        found = [Finding(check.name, said.level, said.what, said.todo) for said in check.run(facts)]
        if any(finding.level is Level.FAILURE for finding in found):
            failed.add(check.name)
        made += found
    return made
