"""What a pod names in its namespace and cannot start without."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from flargo.terms import Object


class Kind(Enum):
    """What is named, in the core API's words."""

    SECRET = "secrets"  # noqa: S105  (a plural, no password)
    CONFIG_MAP = "configmaps"
    CLAIM = "persistentvolumeclaims"
    ACCOUNT = "serviceaccounts"


@dataclass(frozen=True, slots=True)
class Reference:
    """One naming of one object."""

    kind: Kind
    name: str
    keys: tuple[str, ...] = ()
    """Which of the object's have to be there; none: it as a whole."""


def references(pod: Object) -> Iterator[Reference]:
    """Every Secret, ConfigMap and volume claim that a pod needs; those that are optional, or pulled with, left out."""
    spec = pod["spec"]
    for volume in spec.get("volumes") or []:
        yield from _volume_references(volume)
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        yield from _container_references(container)


def pull_secrets(pod: Object) -> list[str]:
    """The Secrets that images are pulled with."""
    return [str(each["name"]) for each in pod["spec"].get("imagePullSecrets") or [] if each.get("name")]


def semaphores(workflow: Object) -> Iterator[Reference]:
    """The ConfigMaps and keys in which Argo reads how many of a Workflow's kind may run at once."""
    for template in workflow["spec"]["templates"]:
        for each in (template.get("synchronization") or {}).get("semaphores") or []:
            yield from _key_reference(Kind.CONFIG_MAP, each.get("configMapKeyRef"))


def pod_account(pod: Object) -> str:
    """The service account that a pod runs as."""
    return str(pod["spec"].get("serviceAccountName") or "default")


def _volume_references(volume: Object) -> Iterator[Reference]:
    if "persistentVolumeClaim" in volume:
        yield Reference(Kind.CLAIM, volume["persistentVolumeClaim"]["claimName"])
    sources = (volume.get("projected") or {}).get("sources") or []
    for source in [volume, *sources]:
        # A volume says secretName where a projection, as everything else, says name.
        yield from _object_reference(Kind.SECRET, source.get("secret"), "secretName" if source is volume else "name")
        yield from _object_reference(Kind.CONFIG_MAP, source.get("configMap"), "name")
    published = (volume.get("csi") or {}).get("nodePublishSecretRef")
    yield from _object_reference(Kind.SECRET, published, "name")


def _object_reference(kind: Kind, said: Object | None, name: str) -> Iterator[Reference]:
    if said and said.get(name) and not said.get("optional"):
        yield Reference(kind, said[name], tuple(str(item["key"]) for item in said.get("items") or []))


def _container_references(container: Object) -> Iterator[Reference]:
    for source in container.get("envFrom") or []:
        yield from _object_reference(Kind.SECRET, source.get("secretRef"), "name")
        yield from _object_reference(Kind.CONFIG_MAP, source.get("configMapRef"), "name")
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        yield from _key_reference(Kind.SECRET, source.get("secretKeyRef"))
        yield from _key_reference(Kind.CONFIG_MAP, source.get("configMapKeyRef"))


def _key_reference(kind: Kind, said: Object | None) -> Iterator[Reference]:
    if said and said.get("name") and not said.get("optional"):
        yield Reference(kind, said["name"], (str(said["key"]),))
