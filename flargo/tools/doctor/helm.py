"""Who manages an object, if that is a Helm chart, and advice that fits.

Helm undoes a change of its objects with the next upgrade, and refuses an upgrade if somebody else has created an object
of its chart. So the doctor advises no command that changes or creates such an object.
"""

from typing import Final

from flargo.terms import Label, Object

RELEASE_ANNOTATION: Final = "meta.helm.sh/release-name"
_MANAGER = "Helm"
"""Helm's value of the label app.kubernetes.io/managed-by, which charts give to their objects, too."""
APPLY_KIT_CHART: Final = (
    "Run `flargo prepare KIT`, `nvflare deploy k8s stage KIT`, and the `helm upgrade` that the latter prints."
)


def manager(item: Object) -> str:
    """Return the name of the Helm release that manages an object, as ``Helm release site-1``; empty if none does."""
    meta = item.get("metadata") or {}
    if (meta.get("labels") or {}).get(Label.MANAGED_BY) != _MANAGER:
        return ""
    release = (meta.get("annotations") or {}).get(RELEASE_ANNOTATION)
    return f"Helm release {release}" if release else "a Helm chart"


def keep_management(item: Object) -> Object:
    """Return an object reduced to what ``manager`` reads."""
    meta = item.get("metadata") or {}
    kept = {"labels": Label.MANAGED_BY, "annotations": RELEASE_ANNOTATION}
    maps = {field: meta.get(field) or {} for field in kept}
    return {"metadata": {field: {key: maps[field][key]} for field, key in kept.items() if key in maps[field]}}


def advise_change(item: Object, change: str, otherwise: str) -> str:
    """Return advice on an object: to make a change in the chart that manages it, or else other advice.

    Args:
        item: the object.
        change: what to do, as a sentence without its end, such as "Add the key".
        otherwise: the advice for an object that no chart manages.
    """
    who = manager(item)
    return f"{change} in the values of {who}, which manages it." if who else otherwise
