"""Finds the objects that a pod references in its namespace and cannot start without."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from flargo.terms import Object


class Kind(Enum):
    """The kinds of objects that a pod references, as the core API names them in paths."""

    SECRET = "secrets"  # noqa: S105  (a plural, no password)
    CONFIG_MAP = "configmaps"
    CLAIM = "persistentvolumeclaims"
    ACCOUNT = "serviceaccounts"


@dataclass(frozen=True, slots=True)
class Reference:
    """A pod's reference to one object."""

    kind: Kind
    name: str
    keys: tuple[str, ...] = ()
    """The keys that the object must have; empty if only the object itself must exist."""


def references(pod: Object) -> Iterator[Reference]:
    """Yield every Secret, ConfigMap and volume claim that a pod needs, except optional ones and image pull Secrets."""
    spec = pod["spec"]
    for volume in spec.get("volumes") or []:
        yield from _volume_references(volume)
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        yield from _container_references(container)


def pull_secrets(pod: Object) -> list[str]:
    """Return the names of the Secrets with which a pod's images are pulled."""
    return [str(each["name"]) for each in pod["spec"].get("imagePullSecrets") or [] if each.get("name")]


def semaphores(workflow: Object) -> Iterator[Reference]:
    """Yield the ConfigMaps and keys from which Argo reads how many Workflows may hold a semaphore at once."""
    for template in workflow["spec"]["templates"]:
        for each in (template.get("synchronization") or {}).get("semaphores") or []:
            yield from _key_reference(Kind.CONFIG_MAP, each.get("configMapKeyRef"))


def pod_account(pod: Object) -> str:
    """Return the service account of a pod."""
    return str(pod["spec"].get("serviceAccountName") or "default")


def _volume_references(volume: Object) -> Iterator[Reference]:
    if "persistentVolumeClaim" in volume:
        yield Reference(Kind.CLAIM, volume["persistentVolumeClaim"]["claimName"])
    sources = (volume.get("projected") or {}).get("sources") or []
    for source in [volume, *sources]:
        # The field is secretName in a volume, but name in a projection and everywhere else.
        yield from _object_reference(Kind.SECRET, source.get("secret"), "secretName" if source is volume else "name")
        yield from _object_reference(Kind.CONFIG_MAP, source.get("configMap"), "name")
    published = (volume.get("csi") or {}).get("nodePublishSecretRef")
    yield from _object_reference(Kind.SECRET, published, "name")


def _object_reference(kind: Kind, source: Object | None, name_field: str) -> Iterator[Reference]:
    if source and source.get(name_field) and not source.get("optional"):
        keys = tuple(str(item["key"]) for item in source.get("items") or [])
        yield Reference(kind, source[name_field], keys)


def _container_references(container: Object) -> Iterator[Reference]:
    for source in container.get("envFrom") or []:
        yield from _object_reference(Kind.SECRET, source.get("secretRef"), "name")
        yield from _object_reference(Kind.CONFIG_MAP, source.get("configMapRef"), "name")
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        yield from _key_reference(Kind.SECRET, source.get("secretKeyRef"))
        yield from _key_reference(Kind.CONFIG_MAP, source.get("configMapKeyRef"))


def _key_reference(kind: Kind, selector: Object | None) -> Iterator[Reference]:
    if selector and selector.get("name") and not selector.get("optional"):
        yield Reference(kind, selector["name"], (str(selector["key"]),))
