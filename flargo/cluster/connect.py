"""Where the API server is and who we are there."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration


def configuration(config_file: str | None) -> Callable[[], "Configuration"]:
    """A function that reads the configuration afresh: a kubeconfig file, or the pod's service account for None."""

    def load() -> "Configuration":
        from kubernetes import config  # noqa: PLC0415  (a slow import)
        from kubernetes.client.configuration import Configuration  # noqa: PLC0415

        # One of our own: the process-wide default belongs to whoever else uses the client.
        loaded = Configuration()
        if config_file:
            config.load_kube_config(config_file, client_configuration=loaded)  # type: ignore[no-untyped-call]
        else:
            config.load_incluster_config(client_configuration=loaded)  # type: ignore[no-untyped-call]
        return loaded

    return load
