"""What to say if a package of one of flargo's extras is not installed. Imports nothing that may be missing."""

_EXTRAS = {
    "aiohttp": "demo",
    "click": "cli",
    "cryptography": "demo",
    "numpy": "demo",
    "prometheus_client": "metrics",
    "rich": "cli",
}
"""The extra that installs each package, by the name of its module."""


def describe_missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what is missing and how to install it; None if the module belongs to no extra of flargo's.

    flargo is in no package index, so the command is one for a checkout.
    """
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    return (
        f"the package {module} is not installed; this command needs it, and flargo's launcher does not."
        f" In a checkout of flargo: pip install '.[{extra}]'"
    )
