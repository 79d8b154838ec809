"""`flargo doctor`: what would keep a job from running here, found before one fails."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from flargo.cluster import client_config
from flargo.cluster.client_config import ConfigError
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.survey import Survey
from flargo.flare.redact import REDACTION
from flargo.job import validate
from flargo.job.validate import InvalidInput, Verbatim
from flargo.tools.cli.cluster_options import load_config
from flargo.tools.cli.option_types import NAMESPACE, WORD, Checked
from flargo.tools.cli.output import PROBLEM, beside, data, data_json, json_option, reporting
from flargo.tools.cli.staged_kit import Staged, example, job_meta, of_kit, warnings
from flargo.tools.doctor.check_table import examine
from flargo.tools.doctor.facts import Questions
from flargo.tools.doctor.findings import Finding, Level
from flargo.tools.doctor.gather import Doctor
from flargo.tools.doctor.samples import samples
from flargo.tools.kit.chart import parent_account
from flargo.tools.kit.files import prefix_field

CANNOT = 2
"""Exit code: nothing could be looked at."""
_DEPLOYED = "flargo-launcher"
"""The account that deploy/ makes for the parent."""
_MARKS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red", Level.UNKNOWN: "cyan"}


@click.command()
@click.option(
    "--kit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The site's prepared kit: its namespace, accounts, settings and study files are taken.",
)
@click.option("--job", type=click.Path(exists=True, path_type=Path), help="A job's folder or meta.json to look at.")
@click.option(
    "--namespace", "-n", type=NAMESPACE, help="Where jobs run. Default: as the kit says, else the kubeconfig's."
)
@click.option(
    "--account",
    type=Checked(validate.object_name),
    help="The FLARE parent's service account. Default: the kit's chart's, else flargo-launcher.",
)
@click.option(
    "--kubeconfig",
    type=WORD,
    help="Who looks. Default: $KUBECONFIG, ~/.kube/config, the pod's account; never the kit's.",
)
@click.option("--context", help="A context of that kubeconfig.")
@click.option(
    "--use-kit-kubeconfig",
    is_flag=True,
    help="Use the kubeconfig that the kit names, which can run any command. Only in the parent's own pod.",
)
@click.option(
    "--argo-namespace",
    "argo_namespaces",
    multiple=True,
    type=NAMESPACE,
    help="A namespace whose Workflow controller serves this site, beside argo and the jobs' own; repeatable.",
)
@click.option(
    "--wait", default=15.0, show_default=True, type=click.FloatRange(0.5, 600), help="Seconds a controller may take."
)
@json_option
@reporting
def doctor(
    *,
    as_json: bool,
    kit: Path | None,
    job: Path | None,
    wait: float,
    use_kit_kubeconfig: bool,
    argo_namespaces: tuple[str, ...],
    **said: str | None,
) -> None:
    """Find what would keep a job from running, before one fails.

    Changes nothing: it submits one Workflow that makes no pod, to see that a controller takes notice, and deletes it;
    all else is read, or tried as a dry run. The exit code is 0 if no failure was found, 1 if one was, 2 if
    nothing could be looked at.
    """
    with warnings(), tempfile.TemporaryDirectory() as folder:
        with _of_option("--job"):
            meta = job_meta(job) if job is not None else None
        with _of_option("--kit"):
            staged = example(Path(folder)) if kit is None else of_kit(kit, Path(folder))
        config_file = _kubeconfig_of(staged, said["kubeconfig"]) if use_kit_kubeconfig else said["kubeconfig"]
        wanted = _wanted(staged, meta, _namespace(staged, said, config_file))
    guessed = said["account"] is None
    launcher = None if use_kit_kubeconfig and guessed else said["account"] or wanted.launcher
    wanted = replace(wanted, launcher=launcher, argo_namespaces=argo_namespaces)
    asking = Doctor(_survey(config_file, said["context"]), time.time, time.sleep)
    findings = examine(asking.gather(wanted, guessed=guessed, patience=wait))
    if as_json:
        data_json(_report(findings, wanted))
    else:
        _tell(findings)
    if any(finding.level is Level.FAILURE for finding in findings):
        raise SystemExit(PROBLEM)


@contextmanager
def _of_option(option: str) -> Iterator[None]:
    """Whatever is wrong with what an option names, the doctor could not run: exit code 2."""
    try:
        yield
    except InvalidInput as refused:
        raise prefix_field(option, refused) from None


def _survey(config_file: str | None, context: str | None) -> Survey:
    load, _ = _reached(config_file, context)
    try:
        return Survey(load, REDACTION.learn_own_token)
    except Exception as error:  # noqa: BLE001  (the client's loader raises whatever a wrong file makes it trip over)
        raise _unusable(config_file, error) from None


def _reached(config_file: str | None, context: str | None) -> tuple[client_config.LoadConfig, str]:
    try:
        return load_config(config_file, context)
    except InvalidInput:
        raise
    except OwnError as error:
        raise _unusable(config_file, error) from None


def _unusable(config_file: str | None, error: Exception) -> InvalidInput:
    problem = error.problem if isinstance(error, ConfigError) else describe(error)
    return InvalidInput("--kubeconfig", config_file or Verbatim("the default"), f"a usable one: {problem}")


def _kubeconfig_of(staged: Staged, other: str | None) -> str:
    """The kubeconfig that the kit names: the launcher's own, where this runs in the parent's pod.

    A kubeconfig can have any command run, as whoever loads it, so a kit's is loaded only if a person says so.

    Raises:
        UsageError: the kit names none, it is not there, or another one is named too.
    """
    file = staged.settings.config_file_path
    if other is not None:
        raise click.UsageError("--kubeconfig and --use-kit-kubeconfig cannot be combined.")
    if staged.site is None:
        raise click.UsageError("--use-kit-kubeconfig needs --kit.")
    if file is None:
        raise click.UsageError("The kit names no kubeconfig (config_file_path): leave --use-kit-kubeconfig out.")
    if not Path(file).is_file():
        raise click.UsageError(f"The kit's kubeconfig {file} is not here: run this in the parent's own pod.")
    return file


def _namespace(staged: Staged, said: dict[str, str | None], config_file: str | None) -> str:
    if said["namespace"] is not None:
        return said["namespace"]
    if staged.site is not None:
        return staged.settings.namespace
    return _reached(config_file, said["context"])[1]


def _wanted(staged: Staged, meta: dict[str, Any] | None, namespace: str) -> Questions:
    settings, site = replace(staged.settings, namespace=namespace), staged.site
    made, refused = samples(meta, site.files if site is not None else {}, staged.stage, settings)
    return Questions(
        namespace=namespace,
        launcher=parent_account(site) if site is not None and site.values is not None else _DEPLOYED,
        executor=settings.argo.executor_service_account,
        instance_id=settings.argo.instance_id,
        prepared=staged.prepared,
        samples=tuple(made),
        refused=refused,
    )


def _report(findings: list[Finding], wanted: Questions) -> dict[str, Any]:
    return {"namespace": wanted.namespace, "summary": _counted(findings), "findings": [*map(asdict, findings)]}


def _counted(findings: list[Finding]) -> dict[str, int]:
    counter = Counter(finding.level for finding in findings)
    return {level.value: counter[level] for level in Level}


def _tell(findings: list[Finding]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        color, bold = _MARKS[finding.level], finding.level is Level.FAILURE
        beside(f" {finding.check:{width}}  ", finding.what, mark=f"{finding.level:8}", color=color, bold=bold)
        if finding.todo:
            beside(f"{'':8} {'':{width}}  -> ", finding.todo)
    counted = _counted(findings)
    data(", ".join(f"{number} {level}" for level, number in counted.items()))
