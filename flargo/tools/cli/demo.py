"""``flargo demo``: see a federation's job run as Argo Workflows, in a minute."""

import sys
from pathlib import Path

import click

from flargo.job import validate
from flargo.tools.cli.option_types import NAMESPACE, Checked
from flargo.tools.demo.options import Options
from flargo.tools.demo.run import run
from flargo.tools.demo.screen import Screen
from flargo.tools.terminal import console


@click.command(context_settings={"show_default": True})
@click.option("--sites", default=2, type=click.IntRange(1, 20), help="Number of sites.")
@click.option("--rounds", default=2, type=click.IntRange(1, 100), help="Rounds of the demo's own job.")
@click.option("--job", type=click.Path(path_type=Path), help="A FLARE job folder of yours, instead of the demo's own.")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="A real cluster's, instead of the embedded engine.")
@click.option("--context", help="A context of that kubeconfig.")
@click.option(
    "--namespace",
    default="default",
    type=NAMESPACE,
    help="Where Workflows are made; on a real cluster deploy/ is applied.",
)
@click.option("--image", help="The job pods' image, where the job names none.")
@click.option(
    "--address",
    default="127.0.0.1",
    type=Checked(validate.host),
    help="This machine's address as job pods reach it.",
)
@click.option("--keep", type=click.Path(path_type=Path), help="A new folder for kits, logs and the result.")
@click.option("--timeout", default=300.0, type=click.FloatRange(1), help="Seconds that the job may take.")
def demo(**said: object) -> None:
    """Provision a FLARE federation on this machine, run a job through flargo, show it, and clean up.

    Without --kubeconfig it needs no cluster: the embedded engine runs job pods as processes of this machine.
    """
    options = Options(**said)  # type: ignore[arg-type]  # click has checked them
    if options.context and not options.kubeconfig:
        raise click.UsageError("--context needs --kubeconfig.")
    sys.exit(run(options, Screen(console())))
