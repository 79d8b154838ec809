"""Where the API server is and who we are there."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flargo.cluster.error_text import OwnError, describe

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

KUBECONFIG = "~/.kube/config"
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


_FILE_KEYS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""The fields of a kubeconfig that name files, relative to where it is."""
LoadConfig = Callable[[], "Configuration"]
"""Reads credentials, afresh each time."""


class ConfigError(OwnError):
    """A configuration that can't be used."""

    def __init__(self, what: str, problem: str) -> None:
        """Say which configuration it is, and what is wrong with it."""
        self.problem = problem
        super().__init__(f"{what} can't be used: {problem}")


class NoConfigError(OwnError):
    """Nothing says where a cluster is."""


def config_loader(
    config_file: str | None, context: str | None = None, on_plugin_line: Callable[[str], None] | None = None
) -> LoadConfig:
    """A function that reads the configuration afresh, and raises ConfigError.

    Args:
        config_file: a kubeconfig; None: the pod's service account.
        context: of the kubeconfig; None: its current one.
        on_plugin_line: called with each line that the kubeconfig's credential plugin writes to stderr; None: nobody
            reads it.
    """

    def load() -> "Configuration":
        from kubernetes import config  # noqa: PLC0415  (a slow import)
        from kubernetes.client.configuration import Configuration  # noqa: PLC0415

        # One of our own: the process-wide default belongs to whoever else uses the client.
        loaded = Configuration()
        try:
            if config_file:
                _load_kubeconfig(config_file, context, loaded, on_plugin_line)
            else:
                config.load_incluster_config(client_configuration=loaded)  # type: ignore[no-untyped-call]
        except Exception as error:  # the client's loaders raise whatever a wrong file makes them trip over
            if config_file:
                raise _unusable(config_file, error, context) from error
            raise ConfigError("the pod's service account", describe(error)) from error
        return loaded

    return load


def _load_kubeconfig(
    file: str, context: str | None, loaded: "Configuration", on_plugin_line: Callable[[str], None] | None
) -> None:
    """As ``kubernetes.config.load_kube_config``, with flargo's own way to run plugins."""
    from kubernetes.config.kube_config import KubeConfigMerger  # noqa: PLC0415

    from flargo.cluster.exec_plugin import KubeconfigLoader  # noqa: PLC0415  (imports the client)

    merged = KubeConfigMerger(file)  # type: ignore[no-untyped-call]
    if merged.config is None:
        raise ConfigError(f"the kubeconfig {file}", "it holds no configuration")
    loader = KubeconfigLoader(
        on_line=on_plugin_line,
        config_dict=merged.config,
        config_base_path=None,
        active_context=context,
        config_persister=merged.save_changes,
    )
    loader.load_and_set(loaded)  # type: ignore[no-untyped-call]


def default_kubeconfig() -> str | None:
    """The kubeconfig that kubectl takes when it is told of none; None in a pod that has none: its own account.

    Raises:
        NoConfigError: there is neither.
    """
    named = os.environ.get("KUBECONFIG", "")
    file = Path(KUBECONFIG).expanduser()
    if named or file.is_file():
        return named or str(file)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    raise NoConfigError(f"no cluster: there is no {KUBECONFIG}; name a kubeconfig with --kubeconfig or KUBECONFIG")


def contexts(config_file: str) -> dict[str, str]:
    """A kubeconfig's contexts, the current one first, each with the namespace that kubectl works in there.

    Raises:
        ConfigError: it can't be used.
    """
    from kubernetes import config  # noqa: PLC0415

    try:
        found, current = config.list_kube_config_contexts(config_file)  # type: ignore[no-untyped-call]
        rows = [current, *found]
        return {str(row["name"]): str((row.get("context") or {}).get("namespace") or "default") for row in rows}
    except Exception as error:  # the client's loader raises whatever a wrong file makes it trip over
        raise _unusable(config_file, error) from error


def _unusable(file: str, error: Exception, context: str | None = None) -> ConfigError:
    """Why a kubeconfig can't be used: what flargo finds wrong with it, since the client's words may hold a secret."""
    if isinstance(error, ConfigError):
        return error
    found = describe(error)
    return ConfigError(
        f"the kubeconfig {file}", found if isinstance(error, OwnError) else next(_problems(file, context), found)
    )


def _problems(files: str, context: str | None) -> Iterator[str]:
    """What is wrong with a kubeconfig, or with one of several, as far as that can be said without its content."""
    for file in files.split(os.pathsep):
        try:
            content = yaml.safe_load(Path(file).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            yield describe(error)
            continue
        yield from _problems_of(content, Path(file).parent, context)


def _problems_of(content: Any, folder: Path, context: str | None) -> Iterator[str]:
    for key in ("contexts", "clusters", "users"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            yield f"it has no list of {key}"
            return
    if context is None and not isinstance(content.get("current-context"), str):
        yield "it has no current-context"
    for group, inner in (("clusters", "cluster"), ("users", "user")):
        for row in content[group]:
            named = row.get(inner)
            for key in _FILE_KEYS:
                path = named.get(key) if isinstance(named, dict) else None
                if isinstance(path, str) and not (folder / path).is_file():
                    yield f"its {key} {path} is not there"


def in_cluster_namespace() -> str:
    """The namespace of the pod that this runs in."""
    try:
        return IN_CLUSTER_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"
