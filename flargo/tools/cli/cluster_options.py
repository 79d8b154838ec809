"""Which cluster, which namespace, which jobs: what the commands that look at a cluster are told, and the way there."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from flargo.cluster import client_config
from flargo.cluster.api import Api
from flargo.flare.redact import REDACTION, StreamRedaction
from flargo.job.validate import InvalidInput
from flargo.tools.cli.option_types import NAMESPACE, WORD
from flargo.tools.cli.output import say

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False)

site_option = click.option("--site", type=WORD, help="Only of this site, by its name in FLARE.")
federation_option = click.option(
    "--federation", type=WORD, help="Only of this federation, by its label (flargo.dev/federation)."
)


def cluster_options(command: Command) -> Command:
    """A command that is told where a cluster is."""
    command = click.option("--kubeconfig", type=_FILE, help="Default: as kubectl's; in a pod, its account.")(command)
    command = click.option("--context", help="Of the kubeconfig. Default: its current one.")(command)
    return click.option("--namespace", "-n", type=NAMESPACE, help="Where jobs run. Default: the context's.")(command)


def load_config(kubeconfig: str | None, context: str | None) -> tuple[client_config.LoadConfig, str]:
    """The way to a cluster, and the namespace that goes with it; nothing is asked yet.

    Raises:
        Refused: there is no such context.
        ConfigError: the kubeconfig can't be used.
        NoConfigError: there is none.
    """
    file = kubeconfig or client_config.default_kubeconfig()
    if file is None:
        if context is not None:
            raise InvalidInput("--context", context, "nothing where there is no kubeconfig")
        return client_config.config_loader(None), client_config.in_cluster_namespace()
    known = client_config.contexts(file)
    if context is not None and context not in known:
        raise InvalidInput("--context", context, f"one of {file}'s: {', '.join(known)}")
    chosen = context or next(iter(known))
    return client_config.config_loader(file, chosen, _plugin_line()), known[chosen]


def _plugin_line() -> Callable[[str], None]:
    """Shows the lines of one credential plugin, redacted as one text: a key has several lines."""
    redaction = StreamRedaction(REDACTION)
    return lambda line: say(redaction.redact(line))


def api_for(kubeconfig: str | None, context: str | None, namespace: str | None) -> Api:
    """The way to a namespace; raises what ``reached`` raises."""
    load, usual = load_config(kubeconfig, context)
    return Api(load, namespace or usual, on_credential=REDACTION.learn_own_token)
