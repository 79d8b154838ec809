"""`flargo demo`: run a FLARE federation and a job as Argo Workflows on this machine, in about a minute."""

import sys
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from flargo.cluster.client_config import ConfigError, NoConfigError
from flargo.job import validate
from flargo.job.validate import InvalidInput
from flargo.tools.cli.cluster_options import choose_cluster
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.option_types import NAMESPACE, CheckedText
from flargo.tools.cli.output import EXIT_PROBLEM, EXIT_USAGE, fail, fail_config, report_errors
from flargo.tools.demo.options import DemoError, Options, OptionsError
from flargo.tools.demo.run import check_options, run
from flargo.tools.demo.screen import Screen
from flargo.tools.terminal import console

ROUNDS = 2
DRAIN_ROUNDS = 3
"""A round before the one in which a pod is evicted, and a round after it."""


@click.command(context_settings={"show_default": True}, epilog=epilog("demo"))
@click.option("--sites", default=2, type=click.IntRange(1, 20), help="The number of sites.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    show_default=f"{ROUNDS}, or {DRAIN_ROUNDS} with --drain",
    help="The number of rounds of the demo's own job.",
)
@click.option(
    "--drain",
    is_flag=True,
    help="Evict the pod of site-1 while it trains, as `kubectl drain` does: the site's program is started again.",
)
@click.option(
    "--job",
    type=click.Path(exists=True, path_type=Path),
    help="Run this FLARE job instead of the demo's own job: its folder, or its meta.json, meta.conf or meta.yml.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run on the cluster of this kubeconfig instead of the embedded engine.",
)
@click.option("--context", help="The kubeconfig's context to use.")
@click.option(
    "--namespace",
    "-n",
    default="default",
    type=NAMESPACE,
    help="The namespace of the Workflows. On a real cluster, the manifests in deploy/ are applied to it.",
)
@click.option("--image", help="The image of the job pods, where the job names none.")
@click.option(
    "--address",
    default="127.0.0.1",
    type=CheckedText(validate.host),
    help="The address at which job pods reach this machine.",
)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep kits, logs and the result in this new folder.")
@click.option("--timeout", default=300.0, type=click.FloatRange(1), help="The seconds that the job may take.")
@click.pass_context
@report_errors
def demo(ctx: click.Context, /, *, rounds: int | None, **options: object) -> None:
    """Provision a FLARE federation on this machine, run a job through flargo, show its progress, and clean up.

    Without --kubeconfig no cluster is needed: the embedded engine runs the job pods as processes of this machine.
    """
    default_rounds = DRAIN_ROUNDS if options["drain"] else ROUNDS
    checked = Options(rounds=rounds or default_rounds, **options)  # type: ignore[arg-type]  # click has checked the types
    if checked.drain and checked.job:
        raise click.UsageError("--drain works only with the demo's own job, not with --job.")
    if checked.job and rounds is not None:
        raise click.UsageError(
            "--rounds works only with the demo's own job, not with --job: the job's own code has them."
        )
    if checked.context and not checked.kubeconfig:
        raise click.UsageError("--context needs --kubeconfig.")
    if checked.kubeconfig is not None:
        _check_config(checked.kubeconfig, checked.context)
    if checked.job is not None:
        checked = replace(checked, job=_job_folder(checked.job))
    if ctx.get_parameter_source("sites") is not ParameterSource.DEFAULT:
        checked = replace(checked, is_site_count_given=True)
    try:
        check_options(checked)
    except OptionsError as error:
        raise click.UsageError(str(error)) from None
    except DemoError as error:
        fail(str(error), {}, EXIT_PROBLEM, None)
    sys.exit(run(checked, Screen(console())))


def _job_folder(job: Path) -> Path:
    """Return the job's folder. Exit as the other commands do if there is no job that can be read."""
    from flargo.flare.job_meta import MAIN_NAMES, meta_names, read_meta  # noqa: PLC0415  (a slow import)

    try:
        read_meta(job)
    except InvalidInput as error:
        fail(str(error), {}, EXIT_PROBLEM, None)
    if not job.is_dir() and job.name not in meta_names():
        fail(f"FLARE does not read `{job}`: name the job folder, or its {MAIN_NAMES}", {}, EXIT_PROBLEM, None)
    return job if job.is_dir() else job.parent


def _check_config(kubeconfig: Path, context: str | None) -> None:
    """Exit as the other commands do if the kubeconfig cannot be used, before the demo prints its first line."""
    try:
        choose_cluster(str(kubeconfig), context)
    except (ConfigError, NoConfigError) as error:
        fail_config(error)
    except InvalidInput as error:
        fail(str(error), {}, EXIT_USAGE, None)
