"""Decides how a cluster is reached: by which kubeconfigs and which context, or as the pod's service account.

The rules are kubectl's (client-go's clientcmd: loading_rules.go and client_config.go), for every command and for the
launcher. The ``kubernetes`` client has rules of its own, by which the same files lead to other clusters and users, so
it is not used.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from flargo.cluster import service_account
from flargo.cluster.access import Access
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.exec_plugin import LineCallback
from flargo.cluster.kubeconfig import Kubeconfig, KubeconfigError, Selection, merge, parse, select, to_document
from flargo.cluster.selected_access import load_selection

_DEFAULT_FILE = ".kube/config"
"""The kubeconfig that is read by default, in the user's HOME."""
_MAX_BYTES = 16 * 1024 * 1024
"""Bytes of a kubeconfig: a device such as /dev/zero has no end."""
LoadConfig = Callable[[], Access]
"""Reads the configuration and its credentials again at each call. It raises ConfigError."""


class ConfigError(OwnError):
    """A configuration can't be used."""

    def __init__(self, what: str, problem: str) -> None:
        """Say which configuration it is, and what is wrong with it."""
        self.problem = problem
        super().__init__(f"{what} can't be used: {problem}")


class NoConfigError(OwnError):
    """No kubeconfig and no service account is there to say where the cluster is."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The cluster that a command works on."""

    load: LoadConfig
    namespace: str
    """The namespace of a command that names none."""


def config_loader(
    config_file: str | None, context: str | None = None, on_plugin_line: LineCallback | None = None
) -> LoadConfig:
    """Return a function that reads the configuration anew at each call.

    Args:
        config_file: a kubeconfig; None: the pod's service account.
        context: a context of the kubeconfig; None: its current context.
        on_plugin_line: called with each line that the kubeconfig's credential plugin writes to stderr; None: the
            plugin runs without anybody who could read them.
    """
    if config_file is None:
        return _load_service_account
    return _Kubeconfigs((os.path.expanduser(config_file),), must_exist=True).loader(context, on_plugin_line)  # noqa: PTH111


def choose(kubeconfig: str | None, context: str | None, on_plugin_line: LineCallback | None = None) -> Choice:
    """Return the cluster that kubectl would work on with the same options.

    The context is chosen now: if somebody changes the kubeconfig's current context meanwhile, the command goes on with
    the cluster that it began with.

    Args:
        kubeconfig: the option ``--kubeconfig``.
        context: the option ``--context``.
        on_plugin_line: as for ``config_loader``.

    Raises:
        ConfigError: the kubeconfig can't be used.
        NoConfigError: there is neither a kubeconfig nor a service account.
    """
    files = _Kubeconfigs.of(kubeconfig)
    config = files.read()
    if not files.must_exist and not context and not config.current_context:
        if service_account.is_present():
            return Choice(_load_service_account, service_account.namespace())
        files.raise_missing()
    selection = files.select(config, context)
    default = service_account.namespace() if service_account.is_present() else "default"
    return Choice(files.loader(selection.context, on_plugin_line), selection.namespace or default)


def export_context(kubeconfig: str, context: str | None) -> str:
    """Return a kubeconfig, as YAML, that leads where ``choose`` leads, for a program that takes no context.

    Raises:
        ConfigError: the kubeconfig can't be used.
    """
    files = _Kubeconfigs.of(kubeconfig)
    return yaml.safe_dump(to_document(files.select(files.read(), context)), sort_keys=False)


def contexts(kubeconfig: str | None) -> tuple[str, Sequence[str]]:
    """Return the kubeconfigs' paths and the names of their contexts; raise the errors of ``choose``.

    In a pod without a kubeconfig there are none. Elsewhere that is a NoConfigError.
    """
    files = _Kubeconfigs.of(kubeconfig)
    names = [*files.read().contexts]
    if not names and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        files.raise_missing()
    return files.names, names


@dataclass(frozen=True, slots=True)
class _Kubeconfigs:
    """The files that are read, the most important first."""

    files: tuple[str, ...]
    must_exist: bool
    """Whether a missing file is an error. Otherwise it is skipped."""

    @classmethod
    def of(cls, kubeconfig: str | None) -> "_Kubeconfigs":
        """Return the files that kubectl reads: ``--kubeconfig``, or those of KUBECONFIG, or ``~/.kube/config``."""
        if kubeconfig is not None:
            return cls((kubeconfig,), must_exist=True)
        listed = os.environ.get("KUBECONFIG", "")
        home = os.environ.get("HOME", "")
        files = listed.split(os.pathsep) if listed else [f"{home}/{_DEFAULT_FILE}"] if home else []
        return cls(tuple(dict.fromkeys(file for file in files if file)), must_exist=False)

    @property
    def names(self) -> str:
        """The files, for messages."""
        return os.pathsep.join(self.files)

    def read(self) -> Kubeconfig:
        """Return the files, merged.

        Raises:
            ConfigError: a file can't be read, or is no kubeconfig. kubectl then uses none of the others either.
        """
        return merge(config for config in map(self._read_file, self.files) if config is not None)

    def raise_missing(self) -> None:
        """Raise NoConfigError if none of the files is there."""
        if any(Path(file).exists() for file in self.files):
            return
        names = self.names if os.environ.get("KUBECONFIG") else f"~/{_DEFAULT_FILE}"
        raise NoConfigError(f"no cluster: there is no {names}; name a kubeconfig with --kubeconfig or KUBECONFIG")

    def _read_file(self, file: str) -> Kubeconfig | None:
        try:
            with Path(file).open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise KubeconfigError(f"it has more than {_MAX_BYTES} bytes")  # noqa: TRY301
            return parse(content, Path(file).absolute().parent)
        except FileNotFoundError as error:
            if self.must_exist:
                raise ConfigError(f"the kubeconfig {file}", describe(error)) from None
            return None
        except (OSError, ValueError, KubeconfigError) as error:
            raise ConfigError(f"the kubeconfig {file}", describe(error)) from None

    def select(self, config: Kubeconfig, context: str | None) -> Selection:
        """Return the context, or else the current one; raise ConfigError if it can't be used."""
        try:
            return select(config, context)
        except KubeconfigError as error:
            raise ConfigError(f"the kubeconfig {self.names}", str(error)) from None

    def loader(self, context: str | None, on_plugin_line: LineCallback | None) -> LoadConfig:
        """Return a function that reads the files and the credentials again at each call.

        If no context is named, it goes on with the one that was current at its first call: jobs are not looked for on
        another cluster because somebody has changed the current context meanwhile.
        """

        def load() -> Access:
            nonlocal context
            selection = self.select(self.read(), context)
            context = selection.context
            try:
                return load_selection(selection, on_plugin_line)
            except OwnError as error:
                raise ConfigError(f"the kubeconfig {self.names}", str(error)) from error

        return load


def _load_service_account() -> Access:
    try:
        return service_account.load()
    except OwnError as error:
        raise ConfigError("the pod's service account", str(error)) from error
