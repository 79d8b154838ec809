"""Where the API server is and who we are there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

KUBECONFIG = "~/.kube/config"
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


Load = Callable[[], "Configuration"]
"""Reads credentials, afresh each time."""


def configuration(config_file: str | None, context: str | None = None) -> Load:
    """A function that reads the configuration afresh: a kubeconfig file, or the pod's service account for None."""

    def load() -> "Configuration":
        from kubernetes import config  # noqa: PLC0415  (a slow import)
        from kubernetes.client.configuration import Configuration  # noqa: PLC0415

        # One of our own: the process-wide default belongs to whoever else uses the client.
        loaded = Configuration()
        if config_file:
            config.load_kube_config(config_file, context, client_configuration=loaded)  # type: ignore[no-untyped-call]
        else:
            config.load_incluster_config(client_configuration=loaded)  # type: ignore[no-untyped-call]
        return loaded

    return load


def usual_config() -> str | None:
    """The kubeconfig that kubectl takes when it is told of none; None in a pod that has none: its own account.

    Raises:
        FileNotFoundError: there is neither.
    """
    named = os.environ.get("KUBECONFIG", "")
    file = Path(KUBECONFIG).expanduser()
    if named or file.is_file():
        return named or str(file)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    raise FileNotFoundError(f"no cluster: there is no {KUBECONFIG}; name a kubeconfig with --kubeconfig or KUBECONFIG")


def contexts(config_file: str) -> dict[str, str]:
    """A kubeconfig's contexts, the current one first, each with the namespace that kubectl works in there.

    Raises:
        ValueError: it can't be used.
    """
    from kubernetes import config  # noqa: PLC0415

    try:
        found, current = config.list_kube_config_contexts(config_file)  # type: ignore[no-untyped-call]
        rows = [current, *found]
        return {str(row["name"]): str((row.get("context") or {}).get("namespace") or "default") for row in rows}
    except Exception as error:  # the client's loader raises whatever a wrong file makes it trip over
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the kubeconfig {config_file} can't be used: {said}") from error


def own_namespace() -> str:
    """The namespace of the pod that this runs in."""
    try:
        return IN_CLUSTER_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"
