"""`flargo completion`: print the script with which a shell completes flargo's command lines."""

import click
from click.shell_completion import get_completion_class

from flargo.tools.cli.examples import epilog
from flargo.tools.cli.output import report_errors, write_document

COMPLETE_VARIABLE = "_FLARGO_COMPLETE"
"""The environment variable with which a shell's script asks flargo for completions."""


@click.command(epilog=epilog("completion"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@report_errors
def completion(shell: str) -> None:
    """Print the script with which a shell completes flargo's commands, options, jobs, sites and contexts.

    SHELL is bash, zsh or fish.

    In bash and zsh: source <(flargo completion bash), or zsh. In fish: flargo completion fish | source

    Jobs and sites are read from the cluster that the command line names so far, for at most two seconds.
    `kubectl flargo` is completed by kubectl's own script.
    """
    complete = get_completion_class(shell)
    assert complete is not None
    write_document(complete(click.Group(), {}, "flargo", COMPLETE_VARIABLE).source())
