"""Reads a job's options for one site from its metadata, and where the job's author has written each.

FLARE merges several blocks of the metadata: ``launcher_spec`` has one for all sites (``default``) and one for each
site, and so has ``resource_spec``. nvflare's own functions decide which value counts. What is here finds the block
that holds it, so that an error names the block that its author has to correct.
"""

import heapq
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nvflare.apis.job_def import JobMetaKey

from flargo.flare import nvflare_internals
from flargo.job import names, validate
from flargo.job.choices import JobOptions
from flargo.job.trust import JOB_SPEC, REJOIN
from flargo.job.validate import InvalidInput

_MODE = nvflare_internals.MODE
_LAUNCHER, _RESOURCES = JobMetaKey.JOB_LAUNCHER_SPEC.value, JobMetaKey.RESOURCE_SPEC.value
_DEFAULT, _PORTABLE_DEFAULT, _PROCESS = "default", "@default", "process"
"""Keys with a meaning of their own in launcher_spec and resource_spec (nvflare/utils/job_launcher_utils.py)."""
_EXAMPLES = {
    _LAUNCHER: {_DEFAULT: {_MODE: {"image": "registry.example/name:tag"}}},
    _RESOURCES: {_PORTABLE_DEFAULT: {"num_of_gpus": 1}},
}
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
_MAX_IGNORED_KEYS = 10
"""Ignored keys of a block that the warning names."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Block:
    """A dictionary of options in a job's metadata."""

    path: str
    options: Mapping[str, Any]

    def place(self, key: str) -> str:
        return f"{self.path}[{key!r}]"


def read_launcher_options(job_meta: dict[str, Any], site: str) -> JobOptions:
    """Return the job's options for this launcher, checked. Unknown keys are ignored with a warning, as nvflare does.

    Raises:
        InvalidInput: an option, or a block of options, is not allowed.
    """
    paths = [(_LAUNCHER,), *_below(_LAUNCHER, _DEFAULT, _MODE), *_below(_LAUNCHER, site, _MODE)]
    legacy = [(_RESOURCES,), *_below(_RESOURCES, site, _MODE)]
    merged = _resolve(job_meta, site, nvflare_internals.launcher_spec, (*paths, *legacy))
    blocks = _launcher_blocks(job_meta, site)
    options = _locate(merged, blocks, _path(_LAUNCHER, site, _MODE))
    _warn_of_unknown_keys(options, blocks)
    _warn_of_misplaced_keys(job_meta, site)
    checked = {key: rule.validate(options.place(key), merged[key]) for key, rule in JOB_SPEC.items() if key in merged}
    return JobOptions(checked, options.places, options.block)


def read_portable_options(job_meta: dict[str, Any], site: str) -> JobOptions:
    """Return the job's resources that are common to all of nvflare's launchers.

    Raises:
        InvalidInput: one of them, or a block of them, is not allowed.
    """
    blocks = _portable_blocks(job_meta, site)
    where = _path(_RESOURCES, site)
    paths = [(_RESOURCES,), (_RESOURCES, _PORTABLE_DEFAULT), *_below(_RESOURCES, site, _PROCESS)]
    try:
        merged = _resolve(job_meta, site, nvflare_internals.portable_spec, paths)
    except InvalidInput:
        _check_portable(_locate(_merge(blocks), blocks, where))
        raise
    return _locate(merged, blocks, where)


def _resolve(
    job_meta: dict[str, Any],
    site: str,
    resolve: Callable[[dict[str, Any], str], dict[str, Any]],
    paths: Iterable[tuple[str, ...]],
) -> dict[str, Any]:
    """Return the options that apply to a site, by nvflare's own function.

    Args:
        job_meta: the job's metadata.
        site: the site's name.
        resolve: nvflare's function.
        paths: the keys of every block that the function reads, each after the one that contains it.
    """
    paths = [*paths]
    options: Any = None
    try:
        options = resolve(job_meta, site)
        return validate.mapping("", options)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        # nvflare does not check the shape of the metadata, and the text of its exception helps nobody.
        raise _shape_error(job_meta, paths, options) from None


def _shape_error(job_meta: Mapping[str, Any], paths: list[tuple[str, ...]], options: Any) -> InvalidInput:
    """Return the error for the first block that is no dictionary. An empty value of any type counts as absent."""
    for keys in paths:
        value = _value(job_meta, keys)
        if value and not _is_options(value):
            return InvalidInput(_path(*keys), value, f"a dictionary, as in {_example(keys[0])}")
    # Only resource_spec's block of this launcher is returned as it is, also if it is empty.
    return InvalidInput(_path(*paths[-1]), options, f"a dictionary, as in {_example(paths[-1][0])}")


def _example(part: str) -> str:
    """Return an example of a part of the metadata, written as a whole."""
    return str({part: _EXAMPLES[part]})


def _is_options(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _launcher_blocks(job_meta: Mapping[str, Any], site: str) -> list[_Block]:
    """Return the blocks that nvflare merges into a site's launcher options; the first takes precedence."""
    default, own = (_LAUNCHER, _DEFAULT, _MODE), (_LAUNCHER, site, _MODE)
    if _value(job_meta, default) or _value(job_meta, own) is not None:
        return _existing_blocks(job_meta, (own, default))
    return _existing_blocks(job_meta, ((_RESOURCES, site, _MODE),))


def _portable_blocks(job_meta: Mapping[str, Any], site: str) -> list[_Block]:
    """Return the blocks that nvflare merges into a site's portable resources; the first takes precedence."""
    own = _value(job_meta, (_RESOURCES, site))
    is_nested = isinstance(own, dict) and nvflare_internals.is_nested_resource_spec(own)
    process = (_RESOURCES, site, _PROCESS) if is_nested else (_RESOURCES, site)
    return _existing_blocks(job_meta, (process, (_RESOURCES, _PORTABLE_DEFAULT)))


def _existing_blocks(job_meta: Mapping[str, Any], paths: Iterable[tuple[str, ...]]) -> list[_Block]:
    candidates = ((keys, _value(job_meta, keys)) for keys in paths)
    return [_Block(_path(*keys), value) for keys, value in candidates if isinstance(value, dict)]


def _merge(blocks: Iterable[_Block]) -> dict[str, Any]:
    return {key: value for block in reversed([*blocks]) for key, value in block.options.items()}


def _locate(merged: dict[str, Any], blocks: Iterable[_Block], otherwise: str) -> JobOptions:
    """Return merged options with the places of all of them.

    Args:
        merged: the options.
        blocks: the blocks that they come from; the first takes precedence.
        otherwise: the path of the block for options that are in none.
    """
    filled = [block for block in blocks if block.options]
    places = {key: block.place(key) for block in reversed(filled) for key in block.options}
    return JobOptions(merged, places, filled[0].path if filled else otherwise)


def _check_portable(portable: JobOptions) -> None:
    """Apply the rules of nvflare's _validate_portable_values, in its order.

    Raises:
        InvalidInput: a value is not allowed.
    """
    checks = {
        "num_of_gpus": validate.at_least(0, "a whole number"),
        "num_of_cpus": validate.at_least(1, "a whole number"),
        "memory": _portable_memory,
    }
    for key, check in checks.items():
        if key in portable.values:
            check(portable.place(key), portable.values[key])


def _portable_memory(field: str, value: Any) -> None:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise InvalidInput(field, value, "a whole number > 0 with Mi, Gi, or Ti, as in '8Gi'")


def _warn_of_unknown_keys(options: JobOptions, blocks: Iterable[_Block]) -> None:
    for block in blocks:
        unknown = {key for key in block.options if key not in JOB_SPEC and options.place(key) == block.place(key)}
        if unknown:
            _log.warning(
                "%s: %d unknown keys are ignored: %s; known keys are %s",
                block.path,
                len(unknown),
                [names.display_text(key) for key in heapq.nsmallest(_MAX_IGNORED_KEYS, unknown)],
                ", ".join(sorted(JOB_SPEC)),
            )


def _warn_of_misplaced_keys(job_meta: Mapping[str, Any], site: str) -> None:
    """Warn of keys beside the launcher's block instead of in it: nvflare takes them for launchers, and ignores them."""
    for block in _existing_blocks(job_meta, dict.fromkeys(((_LAUNCHER, site), (_LAUNCHER, _DEFAULT)))):
        for key in sorted(set(block.options) & {*JOB_SPEC, REJOIN}):
            inside = "['argo']" if key == REJOIN else ""
            _log.warning("%s is ignored: write it in %s%s", block.place(key), block.place(_MODE), inside)


def _below(part: str, *keys: str) -> list[tuple[str, ...]]:
    """Return the keys of a block in a part of the metadata, after those of the blocks that contain it."""
    return [(part, *keys[: length + 1]) for length in range(len(keys))]


def _path(part: str, *keys: str) -> str:
    return part + "".join(f"[{key!r}]" for key in keys)


def _value(job_meta: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return a value in nested dictionaries; None if there is none."""
    value: Any = job_meta
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
