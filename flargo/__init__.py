"""NVIDIA FLARE jobs as Argo Workflows.

A site names one of these in a ``local/<name>__p_resources.json``:

- ``flargo.ServerArgoJobLauncher`` for the FLARE server,
- ``flargo.ClientArgoJobLauncher`` for a FLARE client.

They are loaded when they are asked for, so that importing flargo costs nothing.
"""

from typing import Any

__all__ = ["ClientArgoJobLauncher", "ServerArgoJobLauncher"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flargo.flare import launcher  # noqa: PLC0415  (late on purpose)

    return getattr(launcher, name)
