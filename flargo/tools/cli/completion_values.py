"""Values that a shell completes: contexts of the kubeconfig, and jobs and sites of the cluster.

A shell inserts what it gets into the command line. Text of the cluster or of a file is therefore left out if a shell
would not take it literally.
"""

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

TIME_LIMIT = 2.0
"""Seconds that a cluster may take. A person waits at the prompt meanwhile."""
_LITERAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,252}")
Found = list[tuple[str, str]]
"""Values, and a text about each."""


def find_values(kind: str, options: Mapping[str, Any]) -> Found:
    """Return the values of a kind (``contexts``, ``jobs`` or ``sites``), or none if they cannot be read in time.

    Args:
        kind: what to find.
        options: the options of the command line so far, by click's names.
    """
    import logging  # noqa: PLC0415  (only if values are looked up)

    find = {"contexts": _contexts, "jobs": _jobs, "sites": _sites}[kind]
    # A warning would appear in the middle of the line that a person types.
    last_resort, logging.lastResort = logging.lastResort, logging.NullHandler()
    try:
        found = _within(TIME_LIMIT, lambda: find(options))
    finally:
        logging.lastResort = last_resort
    return [(value, text if _LITERAL.fullmatch(text) else "") for value, text in found if _LITERAL.fullmatch(value)]


def _within(seconds: float, find: Callable[[], Found]) -> Found:
    """Return what a function finds; nothing if it fails or takes too long. Its thread ends with this process."""
    results: list[Found] = []

    def run() -> None:
        try:
            results.append(find())
        except Exception:  # noqa: BLE001  (whatever is wrong, the command itself will say so)
            results.append([])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else []


def _contexts(options: Mapping[str, Any]) -> Found:
    from flargo.cluster.client_config import contexts  # noqa: PLC0415  (slow)

    return [(name, "") for name in contexts(options.get("kubeconfig"))[1]]


def _jobs(options: Mapping[str, Any]) -> Found:
    return [*{job: (job, name) for job, _, name in _workflows(options)}.values()]


def _sites(options: Mapping[str, Any]) -> Found:
    return [(site, "") for site in sorted({site for _, site, _ in _workflows(options)})]


def _workflows(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the job's id, the site and the job's name of each Workflow of the namespace, the newest first."""
    from flargo.cluster import client_config  # noqa: PLC0415  (slow)
    from flargo.cluster.api import Api, Kind  # noqa: PLC0415  (slow)
    from flargo.tools.jobs.site_job import selector, site_jobs, trim  # noqa: PLC0415  (slow)

    # Nobody can answer a credential plugin at this moment, so what it writes is not shown.
    choice = client_config.choose(options.get("kubeconfig"), options.get("context"))
    api = Api(choice.load, options.get("namespace") or choice.namespace, max_wait=TIME_LIMIT)
    items, _ = api.list(Kind.WORKFLOW, selector(), trim=trim)
    return [(job.job_id, job.site, job.name) for job in reversed(site_jobs(items, ()))]
