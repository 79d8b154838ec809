"""`flargo doctor`: find problems that would keep jobs from running, before a job fails."""

import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from flargo.cluster.survey import Survey
from flargo.flare.job_meta import read_meta
from flargo.flare.redact import REDACTION
from flargo.job import validate
from flargo.tools.cli.cluster_options import choose_cluster
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.option_types import FILE, NAMESPACE, CheckedText
from flargo.tools.cli.output import EXIT_PROBLEM, report_errors, write_hanging, write_line, write_result
from flargo.tools.cli.staged_kit import StagedParent, example_parent, parent_from_kit, show_warnings
from flargo.tools.doctor.access_checks import unused_rights
from flargo.tools.doctor.check_table import run_checks
from flargo.tools.doctor.facts import SiteNeeds
from flargo.tools.doctor.findings import Finding, Level, arrange
from flargo.tools.doctor.gather import Doctor
from flargo.tools.doctor.samples import build_samples
from flargo.tools.kit.chart import created_accounts, grants_rights, parent_account

_DEFAULT_ACCOUNT = "flargo-launcher"
"""The service account that deploy/ creates for the parent."""
_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red", Level.UNKNOWN: "cyan"}


@click.command(epilog=epilog("doctor"))
@click.option(
    "--kit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The site's prepared kit. Its namespace, accounts, settings and study files are used.",
)
@click.option(
    "--job",
    type=click.Path(exists=True, path_type=Path),
    help="A job to check: its folder or its meta.json, meta.conf or meta.yml.",
)
@click.option(
    "--namespace",
    "-n",
    type=NAMESPACE,
    help="The namespace of the jobs. Default: the kit's, else the kubeconfig context's.",
)
@click.option(
    "--account",
    type=CheckedText(validate.object_name),
    help="The FLARE parent's service account. Default: the one in the kit's chart, else flargo-launcher.",
)
@click.option(
    "--kubeconfig",
    type=FILE,
    help="The kubeconfig for the checks. Default: $KUBECONFIG, ~/.kube/config or the pod's service account; never the"
    " kit's.",
)
@click.option("--context", help="The kubeconfig's context to use. Default: its current context.")
@click.option(
    "--use-kit-kubeconfig",
    is_flag=True,
    help="Use the kubeconfig that the kit names. It can run any command, so use this only in the parent's own pod.",
)
@click.option(
    "--argo-namespace",
    "argo_namespaces",
    multiple=True,
    type=NAMESPACE,
    help="A namespace with a Workflow controller that serves this site, besides argo and the jobs' own; repeatable.",
)
@click.option(
    "--wait",
    default=15.0,
    show_default=True,
    type=click.FloatRange(0.5, 600),
    help="Seconds to wait for a controller to process the test Workflow.",
)
@click.option("--problems", "only_problems", is_flag=True, help="Print no check that found nothing wrong.")
@output_options(*DOCUMENTS)
@report_errors
def doctor(
    *,
    output_format: Format | None,
    only_problems: bool,
    kit: Path | None,
    job: Path | None,
    wait: float,
    use_kit_kubeconfig: bool,
    argo_namespaces: tuple[str, ...],
    **options: str | None,
) -> None:
    """Find problems that would keep jobs from running, before a job fails.

    Nothing is changed: one test Workflow that creates no pod is submitted, to see whether a controller processes it,
    and deleted again. All other checks read, or are dry runs. The exit code is 0 if no check failed, 1 if one failed or
    if the kubeconfig, the kit or the job cannot be used, and 2 if an option is wrong.
    """
    with show_warnings(), tempfile.TemporaryDirectory() as folder:
        meta = read_meta(job) if job is not None else None
        parent = example_parent(Path(folder)) if kit is None else parent_from_kit(kit, Path(folder))
        config_file = options["kubeconfig"]
        if use_kit_kubeconfig:
            config_file = _kit_kubeconfig(parent, config_file)
        needs = _site_needs(parent, meta, _namespace(parent, options, config_file))
    is_account_guessed = options["account"] is None
    launcher = None if use_kit_kubeconfig and is_account_guessed else options["account"] or needs.launcher
    needs = replace(needs, launcher=launcher, argo_namespaces=argo_namespaces)
    checker = Doctor(_survey(config_file, options["context"]), time.time, time.sleep)
    findings = run_checks(checker.gather(needs, is_account_guessed=is_account_guessed, probe_seconds=wait))
    if output_format is not None:
        levels = _count_levels(findings)
        document = {"namespace": needs.namespace, "summary": levels, "findings": [*map(asdict, findings)]}
        write_result(document, output_format)
    else:
        _write_findings(findings, only_problems=only_problems)
    if any(finding.level is Level.FAILURE for finding in findings):
        raise SystemExit(EXIT_PROBLEM)


def _survey(config_file: str | None, context: str | None) -> Survey:
    return Survey(choose_cluster(config_file, context).load, REDACTION.learn_own_token)


def _kit_kubeconfig(parent: StagedParent, other: str | None) -> str:
    """Return the kubeconfig that the kit names: the launcher's own, where this runs in the parent's pod.

    A kubeconfig can have any command run as the user who loads it, so a kit's is loaded only if a person asks for it.

    Raises:
        UsageError: the kit names no kubeconfig, the file does not exist, or --kubeconfig is given too.
    """
    file = parent.settings.config_file_path
    if other is not None:
        raise click.UsageError("--kubeconfig and --use-kit-kubeconfig cannot be combined.")
    if parent.site is None:
        raise click.UsageError("--use-kit-kubeconfig needs --kit.")
    if file is None:
        raise click.UsageError("The kit names no kubeconfig (config_file_path): omit --use-kit-kubeconfig.")
    if not Path(file).is_file():
        raise click.UsageError(
            f"The kit's kubeconfig {file} does not exist here: run this command in the parent's own pod."
        )
    return file


def _namespace(parent: StagedParent, options: dict[str, str | None], config_file: str | None) -> str:
    if options["namespace"] is not None:
        return options["namespace"]
    if parent.site is not None:
        return parent.settings.namespace
    return choose_cluster(config_file, options["context"]).namespace


def _site_needs(parent: StagedParent, meta: dict[str, Any] | None, namespace: str) -> SiteNeeds:
    settings, site = replace(parent.settings, namespace=namespace), parent.site
    samples, rejected_jobs = build_samples(meta, site.files if site is not None else {}, parent.simulation, settings)
    return SiteNeeds(
        namespace=namespace,
        launcher=parent_account(site) if site is not None and site.values is not None else _DEFAULT_ACCOUNT,
        executor=settings.argo.executor_service_account,
        instance_id=settings.argo.instance_id,
        chart_accounts=created_accounts(site) if site is not None else frozenset(),
        chart_grants_rights=site is not None and grants_rights(site),
        unused_rights=unused_rights(site.role, settings.argo) if site is not None else frozenset(),
        is_prepared=parent.is_prepared,
        samples=tuple(samples),
        rejected_jobs=rejected_jobs,
    )


def _count_levels(findings: list[Finding]) -> dict[str, int]:
    counter = Counter(finding.level for finding in findings)
    return {level.value: counter[level] for level in Level}


def _write_findings(findings: list[Finding], *, only_problems: bool) -> None:
    shown = [each for each in arrange(findings) if not only_problems or each.level is not Level.OK]
    width = max((len(finding.check) for finding in shown), default=0)
    for finding in shown:
        color, bold = _COLORS[finding.level], finding.level is Level.FAILURE
        write_hanging(f" {finding.check:{width}}  ", finding.what, mark=f"{finding.level:8}", color=color, bold=bold)
        if finding.todo:
            write_hanging(f"{'':8} {'':{width}}  -> ", finding.todo)
    write_line(", ".join(f"{number} {level}" for level, number in _count_levels(findings).items()))
