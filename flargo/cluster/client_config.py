"""Where the API server is, and the credentials for it: a kubeconfig, or the pod's service account."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flargo.cluster.error_text import OwnError, describe

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

KUBECONFIG = "~/.kube/config"
"""The kubeconfig that kubectl uses by default."""
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""The file in a pod that holds the name of its namespace."""
_FILE_KEYS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""The fields of a kubeconfig that name files, relative to the kubeconfig's folder."""
LoadConfig = Callable[[], "Configuration"]
"""Reads the configuration and its credentials again at each call."""


class ConfigError(OwnError):
    """A configuration can't be used."""

    def __init__(self, what: str, problem: str) -> None:
        """Say which configuration it is, and what is wrong with it."""
        self.problem = problem
        super().__init__(f"{what} can't be used: {problem}")


class NoConfigError(OwnError):
    """No kubeconfig and no service account is there to say where the cluster is."""


def config_loader(
    config_file: str | None, context: str | None = None, on_plugin_line: Callable[[str], None] | None = None
) -> LoadConfig:
    """Return a function that reads the configuration anew at each call, and raises ConfigError.

    Args:
        config_file: a kubeconfig; None: the pod's service account.
        context: a context of the kubeconfig; None: its current context.
        on_plugin_line: called with each line that the kubeconfig's credential plugin writes to stderr; None: the
            plugin runs without anybody who could read them.
    """

    def load() -> "Configuration":
        from kubernetes import config  # noqa: PLC0415  (a slow import)
        from kubernetes.client.configuration import Configuration  # noqa: PLC0415

        # Not the process-wide default configuration: other code in this process may use it.
        configuration = Configuration()
        try:
            if config_file:
                _load_kubeconfig(config_file, context, configuration, on_plugin_line)
            else:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except Exception as error:  # the client's loaders raise any exception for a malformed file
            if config_file:
                raise _kubeconfig_error(config_file, error, context) from error
            raise ConfigError("the pod's service account", describe(error)) from error
        return configuration

    return load


def _load_kubeconfig(
    file: str, context: str | None, configuration: "Configuration", on_plugin_line: Callable[[str], None] | None
) -> None:
    """Fill in a configuration as ``kubernetes.config.load_kube_config`` does, with flargo's own way to run plugins."""
    from kubernetes.config.kube_config import KubeConfigMerger  # noqa: PLC0415

    from flargo.cluster.exec_plugin import KubeconfigLoader  # noqa: PLC0415  (imports the client)

    merger = KubeConfigMerger(file)  # type: ignore[no-untyped-call]
    if merger.config is None:
        raise ConfigError(f"the kubeconfig {file}", "it holds no configuration")
    loader = KubeconfigLoader(
        on_line=on_plugin_line,
        config_dict=merger.config,
        config_base_path=None,
        active_context=context,
        config_persister=merger.save_changes,
    )
    loader.load_and_set(configuration)  # type: ignore[no-untyped-call]


def default_kubeconfig() -> str | None:
    """Return the kubeconfig that kubectl uses by default; None in a pod without one, where the service account is used.

    Raises:
        NoConfigError: there is neither a kubeconfig nor a service account.
    """
    from_environment = os.environ.get("KUBECONFIG", "")
    file = Path(KUBECONFIG).expanduser()
    if from_environment or file.is_file():
        return from_environment or str(file)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return None
    raise NoConfigError(f"no cluster: there is no {KUBECONFIG}; name a kubeconfig with --kubeconfig or KUBECONFIG")


def contexts(config_file: str) -> dict[str, str]:
    """Return a kubeconfig's contexts, the current one first, each with the namespace that kubectl uses for it.

    Raises:
        ConfigError: the kubeconfig can't be used.
    """
    from kubernetes import config  # noqa: PLC0415

    try:
        rows, current = config.list_kube_config_contexts(config_file)  # type: ignore[no-untyped-call]
        return {
            str(row["name"]): str((row.get("context") or {}).get("namespace") or "default") for row in (current, *rows)
        }
    except Exception as error:  # the client's loader raises any exception for a malformed file
        raise _kubeconfig_error(config_file, error) from error


def _kubeconfig_error(file: str, error: Exception, context: str | None = None) -> ConfigError:
    """Return a ConfigError with the first problem that flargo itself finds: the client's text may hold a secret."""
    if isinstance(error, ConfigError):
        return error
    problem = describe(error)
    if not isinstance(error, OwnError):
        problem = next(_problems(file, context), problem)
    return ConfigError(f"the kubeconfig {file}", problem)


def _problems(files: str, context: str | None) -> Iterator[str]:
    """Yield what is wrong with a kubeconfig, or with one of several, without quoting its content."""
    for file in files.split(os.pathsep):
        try:
            content = yaml.safe_load(Path(file).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            yield describe(error)
            continue
        yield from _content_problems(content, Path(file).parent, context)


def _content_problems(content: Any, folder: Path, context: str | None) -> Iterator[str]:
    for key in ("contexts", "clusters", "users"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            yield f"it has no list of {key}"
            return
    if context is None and not isinstance(content.get("current-context"), str):
        yield "it has no current-context"
    for group, inner in (("clusters", "cluster"), ("users", "user")):
        for row in content[group]:
            entry = row.get(inner)
            for key in _FILE_KEYS:
                path = entry.get(key) if isinstance(entry, dict) else None
                if isinstance(path, str) and not (folder / path).is_file():
                    yield f"its {key} {path} is not there"


def in_cluster_namespace() -> str:
    """Return the namespace of the pod that this process runs in; ``default`` if that can't be read."""
    try:
        return IN_CLUSTER_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"
