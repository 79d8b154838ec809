"""The options that select a cluster, a namespace and jobs, and the API client that they lead to."""

from collections.abc import Callable

import click

from flargo.cluster import client_config
from flargo.cluster.api import Api
from flargo.flare.redact import REDACTION, StreamRedaction
from flargo.job.validate import InvalidInput, Sentence
from flargo.tools.cli.option_types import FILE, NAMESPACE, SINGLE_LINE
from flargo.tools.cli.output import Command, write_message

site_option = click.option("--site", type=SINGLE_LINE, help="Only jobs at this site (its name in FLARE).")
federation_option = click.option(
    "--federation",
    type=SINGLE_LINE,
    help="Only jobs of this federation (the value of the label flargo.dev/federation).",
)


def cluster_options(command: Command) -> Command:
    """Add the options that select a cluster and a namespace: ``kubeconfig``, ``context`` and ``namespace``."""
    command = click.option(
        "--kubeconfig",
        type=FILE,
        help="The kubeconfig file. Default: $KUBECONFIG or ~/.kube/config; in a pod, the pod's service account.",
    )(command)
    command = click.option("--context", help="The kubeconfig's context to use. Default: its current context.")(command)
    return click.option(
        "--namespace", "-n", type=NAMESPACE, help="The namespace of the jobs. Default: the context's namespace."
    )(command)


selector_option = click.option(
    "--selector",
    "-l",
    "workflow_labels",
    type=SINGLE_LINE,
    help="Only jobs whose Workflows have these labels, as in kubectl: key=value,key2!=value2.",
)
all_namespaces_option = click.option(
    "--all-namespaces", "-A", is_flag=True, help="The jobs of all namespaces. --namespace is ignored then."
)


def choose_cluster(kubeconfig: str | None, context: str | None) -> client_config.Choice:
    """Return the cluster that kubectl would work on with these options. No request is made.

    Raises:
        InvalidInput: the kubeconfig has no such context.
        ConfigError: the kubeconfig cannot be used.
        NoConfigError: there is no kubeconfig, and this is no pod.
    """
    if context is not None:
        files, contexts = client_config.contexts(kubeconfig)
        if not contexts:
            raise InvalidInput("--context", context, Sentence("needs a kubeconfig with contexts, and there is none"))
        if context not in contexts:
            raise InvalidInput("--context", context, f"a context of {files}: {', '.join(contexts)}")
    return client_config.choose(kubeconfig, context, _plugin_line_writer())


def _plugin_line_writer() -> Callable[[str], None]:
    """Return a writer of one credential plugin's lines. It redacts them as one text, since a key has several lines."""
    redaction = StreamRedaction(REDACTION)
    return lambda line: write_message(redaction.redact(line))


def write_place(api: Api) -> None:
    """Write on which server and in which namespace a command acts. It does so before it changes anything.

    Raises:
        LoadError: the configuration can't be loaded.
    """
    write_message(f"{describe_place(api)}:")


def describe_place(api: Api) -> str:
    """Return the server and the namespace of a client, for people."""
    return f"API server {api.server}, namespace {api.namespace}"


def api_for(kubeconfig: str | None, context: str | None, namespace: str | None) -> Api:
    """Return the API client for a namespace. It raises what ``choose_cluster`` raises."""
    choice = choose_cluster(kubeconfig, context)
    # Without a limit: the kubeconfig's plugin may ask the person who runs the command.
    return Api(choice.load, namespace or choice.namespace, on_credential=REDACTION.learn_own_token, max_wait=None)
