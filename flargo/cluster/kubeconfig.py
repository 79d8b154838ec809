"""Kubeconfigs as kubectl reads them: parsed, merged, and one context of them selected. Pure.

The rules are client-go's (v0.34: tools/clientcmd, loader.go, client_config.go and validation.go). Differences, which
never lead to another cluster or another user than kubectl's:

- A context that names a cluster or a user that is not there is an error. kubectl takes ``http://localhost:8080`` for
  the cluster, and asks for a user name at the terminal.
- A kubeconfig without a context to use is an error, not ``http://localhost:8080``.

A KubeconfigError quotes names of a kubeconfig and paths, and no other value of it.
"""

import base64
import binascii
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, TypeVar

import yaml

from flargo.cluster.error_text import OwnError, describe
from flargo.text import inert

EXEC_API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
"""The versions of ExecCredential that kubectl understands."""
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"
"""The extension of a cluster that is passed to credential plugins as ``config``."""
_DEFAULT_INTERACTIVE_MODE = {"client.authentication.k8s.io/v1beta1": "IfAvailable"}
_INTERACTIVE_MODES = frozenset({"Never", "IfAvailable", "Always"})
_PROXY_SCHEMES = ("http://", "https://", "socks5://")
_MAX_HINT_LENGTH = 500
"""Characters that are kept of a credential plugin's install hint."""
Entry = TypeVar("Entry", "Cluster", "Context", "User")


class KubeconfigError(OwnError):
    """A kubeconfig, or the selected part of it, can't be used."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a cluster is reached."""

    server: str = ""
    tls_server_name: str = ""
    is_insecure: bool = False
    ca_file: str = ""
    ca_data: bytes = b""
    proxy_url: str = field(default="", repr=False)
    disables_compression: bool = False
    plugin_config: Any = None
    """What the cluster has for credential plugins (the extension ``client.authentication.k8s.io/exec``)."""


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The user that the server is to take requests for."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Plugin:
    """A credential plugin: a program that prints credentials."""

    command: str
    """A name, which is looked up in PATH, or an absolute path."""
    api_version: str
    interactive_mode: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    install_hint: str = ""
    needs_cluster: bool = False


@dataclass(frozen=True, slots=True)
class AuthProvider:
    """A login that kubectl once had built in. Of these it still has ``oidc``."""

    name: str
    id_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """The credentials of a user."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    certificate_file: str = ""
    certificate_data: bytes = field(default=b"", repr=False)
    key_file: str = ""
    key_data: bytes = field(default=b"", repr=False)
    impersonation: Impersonation = Impersonation()
    plugin: Plugin | None = None
    auth_provider: AuthProvider | None = None

    @property
    def has_certificate(self) -> bool:
        """Whether a client certificate is named, which needs a key."""
        return bool(self.certificate_file or self.certificate_data)


@dataclass(frozen=True, slots=True)
class Context:
    """A user of a cluster, and the namespace that commands use."""

    cluster: str = ""
    user: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig, or several that are merged. All paths in it are absolute."""

    current_context: str = ""
    contexts: Mapping[str, Context] = field(default_factory=dict)
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """The context of a kubeconfig that is used."""

    context: str
    cluster: Cluster
    user: User
    namespace: str
    """Empty if the context names none."""


def parse(content: bytes, folder: PurePath) -> Kubeconfig:
    """Return the kubeconfig that a file contains.

    Args:
        content: the file's content, YAML or JSON.
        folder: the absolute path of the file's folder, against which relative paths are resolved.

    Raises:
        KubeconfigError: it is no kubeconfig, or an entry has a value of another type. One wrong entry is enough, even
            if no context uses it, as for kubectl.
    """
    try:
        # Only the first document of a file counts.
        document = next(iter(yaml.load_all(content, _Loader)), None)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KubeconfigError(describe(error)) from None
    if document is None:
        return Kubeconfig()
    if not isinstance(document, dict):
        raise KubeconfigError("it is not a mapping")
    top = _Fields(document, "")
    if top.text("kind") not in {"", "Config"} or top.text("apiVersion") not in {"", "v1"}:
        raise KubeconfigError("it is of another kind or apiVersion than Config and v1")
    return Kubeconfig(
        current_context=top.text("current-context"),
        contexts={name: _context(fields) for name, fields in top.named("contexts", "context")},
        clusters={name: _cluster(fields, folder) for name, fields in top.named("clusters", "cluster")},
        users={name: _user(fields, folder) for name, fields in top.named("users", "user")},
    )


def merge(configs: Iterable[Kubeconfig]) -> Kubeconfig:
    """Merge kubeconfigs as kubectl merges the files of KUBECONFIG: the first that has an entry wins, as a whole."""
    configs = tuple(configs)
    return Kubeconfig(
        current_context=next((each.current_context for each in configs if each.current_context), ""),
        contexts=_merge_entries(each.contexts for each in configs),
        clusters=_merge_entries(each.clusters for each in configs),
        users=_merge_entries(each.users for each in configs),
    )


def to_document(selection: Selection) -> dict[str, Any]:
    """Return a kubeconfig, as YAML holds it, with this context only. Its paths are absolute, so it can be anywhere."""
    context = {"cluster": "cluster", "user": "user", "namespace": selection.namespace}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": selection.context,
        "contexts": [{"name": selection.context, "context": _without_empty(context)}],
        "clusters": [{"name": "cluster", "cluster": _cluster_document(selection.cluster)}],
        "users": [{"name": "user", "user": _user_document(selection.user)}],
    }


def _cluster_document(cluster: Cluster) -> dict[str, Any]:
    extension = {"name": _EXEC_EXTENSION, "extension": cluster.plugin_config}
    fields = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.is_insecure,
        "certificate-authority": cluster.ca_file,
        "certificate-authority-data": base64.b64encode(cluster.ca_data).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disables_compression,
        "extensions": [extension] if cluster.plugin_config is not None else [],
    }
    return _without_empty(fields)


def _user_document(user: User) -> dict[str, Any]:
    as_whom, plugin, provider = user.impersonation, user.plugin, user.auth_provider
    fields: dict[str, Any] = {
        "token": user.token,
        "tokenFile": user.token_file,
        "username": user.username,
        "password": user.password,
        "client-certificate": user.certificate_file,
        "client-certificate-data": base64.b64encode(user.certificate_data).decode(),
        "client-key": user.key_file,
        "client-key-data": base64.b64encode(user.key_data).decode(),
        "as": as_whom.user,
        "as-uid": as_whom.uid,
        "as-groups": [*as_whom.groups],
        "as-user-extra": {key: [*values] for key, values in as_whom.extra},
    }
    if plugin is not None:
        fields["exec"] = {
            "apiVersion": plugin.api_version,
            "command": plugin.command,
            "args": [*plugin.args],
            "env": [{"name": name, "value": value} for name, value in plugin.env],
            "interactiveMode": plugin.interactive_mode,
            "installHint": plugin.install_hint,
            "provideClusterInfo": plugin.needs_cluster,
        }
    if provider is not None:
        fields["auth-provider"] = {"name": provider.name, "config": {"id-token": provider.id_token}}
    return _without_empty(fields)


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def _merge_entries(maps: Iterable[Mapping[str, Entry]]) -> dict[str, Entry]:
    merged: dict[str, Entry] = {}
    for entries in maps:
        merged = {**merged, **{name: entry for name, entry in entries.items() if name not in merged}}
    return merged


def select(config: Kubeconfig, context: str | None = None) -> Selection:
    """Return the named context, or else the current one, with its cluster and user.

    Raises:
        KubeconfigError: there is no such context, cluster or user, or it can't be used.
    """
    name = context or config.current_context
    if not name:
        raise KubeconfigError("it has no current-context; choose a context with `kubectl config use-context`")
    selected = config.contexts.get(name)
    if selected is None:
        raise KubeconfigError(f"it has no context {_quote(name)}")
    where = f"its context {_quote(name)}"
    cluster = config.clusters.get(selected.cluster)
    if cluster is None:
        problem = (
            f"the cluster {_quote(selected.cluster)}, which it does not have" if selected.cluster else "no cluster"
        )
        raise KubeconfigError(f"{where} names {problem}")
    user = config.users.get(selected.user) if selected.user else User()
    if user is None:
        raise KubeconfigError(f"{where} names the user {_quote(selected.user)}, which it does not have")
    for problem in itertools.chain(_cluster_problems(cluster, selected.cluster), _user_problems(user, selected.user)):
        raise KubeconfigError(problem)
    return Selection(name, cluster, user, selected.namespace)


def _cluster_problems(cluster: Cluster, name: str) -> Iterable[str]:
    """Yield what kubectl refuses in a cluster (validateClusterInfo)."""
    where = f"its cluster {_quote(name)}"
    if not cluster.server:
        yield f"{where} has no server"
    if cluster.proxy_url and not cluster.proxy_url.lower().startswith(_PROXY_SCHEMES):
        yield f"{where} has a proxy-url that begins with none of {', '.join(_PROXY_SCHEMES)}"
    if cluster.ca_file and cluster.ca_data:
        yield f"{where} has both certificate-authority and certificate-authority-data"


def _user_problems(user: User, name: str) -> Iterable[str]:
    """Yield what kubectl refuses in a user (validateAuthInfo, and transport.HTTPWrappersForConfig)."""
    where = f"its user {_quote(name)}"
    if (user.token or user.token_file) and (user.username or user.password):
        yield f"{where} has both a token and a username with a password"
    if user.has_certificate:
        if user.certificate_file and user.certificate_data:
            yield f"{where} has both client-certificate and client-certificate-data"
        if user.key_file and user.key_data:
            yield f"{where} has both client-key and client-key-data"
        if not user.key_file and not user.key_data:
            yield f"{where} has a client-certificate without a client-key"
    as_whom = user.impersonation
    if not as_whom.user and (as_whom.uid or as_whom.groups or as_whom.extra):
        yield f"{where} has as-uid, as-groups or as-user-extra without as"
    if user.plugin is not None:
        if user.auth_provider is not None:
            yield f"{where} has both exec and auth-provider"
        yield from _plugin_problems(user.plugin, where)


def _plugin_problems(plugin: Plugin, where: str) -> Iterable[str]:
    if not plugin.command:
        yield f"{where} has an exec without a command"
    if plugin.api_version not in EXEC_API_VERSIONS:
        yield f"{where} has an exec whose apiVersion is none of {', '.join(EXEC_API_VERSIONS)}"
    if any(not name for name, _ in plugin.env):
        yield f"{where} has an exec with an env without a name"
    if plugin.interactive_mode not in _INTERACTIVE_MODES:
        yield f"{where} has an exec whose interactiveMode is none of Never, IfAvailable and Always"


class _Loader(yaml.SafeLoader):
    """Reads a date as text, as kubectl does: a context may be called 2026-01-01."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a mapping, each read as one type. A field that is null counts as absent."""

    content: Mapping[Any, Any]
    where: str

    def text(self, key: str) -> str:
        return self._value(key, str, "") or ""

    def flag(self, key: str) -> bool:
        return bool(self._value(key, bool, False))

    def items(self, key: str) -> list[Any]:
        return self._value(key, list, []) or []

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.items(key)
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(key)
        return tuple(items)

    def data(self, key: str) -> bytes:
        try:
            return base64.b64decode("".join(self.text(key).split()), validate=True)
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{self.where}{key} is not base64") from None

    def path(self, key: str, folder: PurePath) -> str:
        path = self.text(key)
        return str(folder / path) if path else ""

    def mapping(self, key: str) -> "_Fields | None":
        content = self._value(key, dict, None)
        return _Fields(content, f"{self.where}{key}.") if content is not None else None

    def mappings(self, key: str) -> "list[_Fields]":
        items = self.items(key)
        if not all(isinstance(item, dict) for item in items):
            raise self._wrong(key)
        return [_Fields(item, f"{self.where}{key}.") for item in items]

    def named(self, key: str, inner: str) -> "list[tuple[str, _Fields]]":
        """Return a list's entries by their names.

        Raises:
            KubeconfigError: two entries have the same name, which kubectl refuses.
        """
        entries: dict[str, _Fields] = {}
        for row in self.mappings(key):
            name = row.text("name")
            if name in entries:
                raise KubeconfigError(f"its {key} have the name {_quote(name)} twice")
            entries[name] = _Fields({}, "") if row.content.get(inner) is None else row.within(inner, name)
        return [*entries.items()]

    def within(self, key: str, name: str) -> "_Fields":
        content = self._value(key, dict, {})
        return _Fields(content, f"its {key} {_quote(name)}: ")

    def _value(self, key: str, kind: type, default: Any) -> Any:
        value = self.content.get(key)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self._wrong(key)
        return value

    def _wrong(self, key: str) -> KubeconfigError:
        return KubeconfigError(f"{self.where}{key} has a value of another type than kubectl reads")


def _context(fields: _Fields) -> Context:
    return Context(fields.text("cluster"), fields.text("user"), fields.text("namespace"))


def _cluster(fields: _Fields, folder: PurePath) -> Cluster:
    extensions = {each.text("name"): each.content.get("extension") for each in fields.mappings("extensions")}
    return Cluster(
        server=fields.text("server"),
        tls_server_name=fields.text("tls-server-name"),
        is_insecure=fields.flag("insecure-skip-tls-verify"),
        ca_file=fields.path("certificate-authority", folder),
        ca_data=fields.data("certificate-authority-data"),
        proxy_url=fields.text("proxy-url"),
        disables_compression=fields.flag("disable-compression"),
        plugin_config=extensions.get(_EXEC_EXTENSION),
    )


def _user(fields: _Fields, folder: PurePath) -> User:
    plugin, provider, extra = (fields.mapping(key) for key in ("exec", "auth-provider", "as-user-extra"))
    return User(
        token=fields.text("token"),
        token_file=fields.path("tokenFile", folder),
        username=fields.text("username"),
        password=fields.text("password"),
        certificate_file=fields.path("client-certificate", folder),
        certificate_data=fields.data("client-certificate-data"),
        key_file=fields.path("client-key", folder),
        key_data=fields.data("client-key-data"),
        impersonation=Impersonation(
            user=fields.text("as"),
            uid=fields.text("as-uid"),
            groups=fields.texts("as-groups"),
            extra=tuple((str(key), extra.texts(key)) for key in extra.content) if extra is not None else (),
        ),
        plugin=_plugin(plugin, folder) if plugin is not None else None,
        auth_provider=_auth_provider(provider) if provider is not None else None,
    )


def _plugin(fields: _Fields, folder: PurePath) -> Plugin:
    command, api_version = fields.text("command"), fields.text("apiVersion")
    return Plugin(
        command=str(folder / command) if "/" in command else command,
        api_version=api_version,
        interactive_mode=fields.text("interactiveMode") or _DEFAULT_INTERACTIVE_MODE.get(api_version, ""),
        args=fields.texts("args"),
        env=tuple((each.text("name"), each.text("value")) for each in fields.mappings("env")),
        install_hint=inert(" ".join(fields.text("installHint").split()))[:_MAX_HINT_LENGTH],
        needs_cluster=fields.flag("provideClusterInfo"),
    )


def _auth_provider(fields: _Fields) -> AuthProvider:
    config = fields.mapping("config")
    return AuthProvider(fields.text("name"), config.text("id-token") if config is not None else "")


def _quote(name: str) -> str:
    return f"'{inert(name)}'"
