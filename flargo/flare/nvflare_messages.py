"""Translates nvflare's errors about a site's files into errors of flargo's that quote nothing from these files.

nvflare 2.9 describes an error only in the text of a ValueError, which begins with the file and the key, and often ends
with the value. The text is matched against nvflare's sentences (study_runtime.py, study_data.py and k8s_launcher.py in
nvflare/app_opt/job_launcher), and is never repeated: the result is a place in the file and a text of flargo's. For a
sentence that is not in the tables, such as one of a later nvflare, only the file and the type of the error remain.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from flargo.job.site_errors import Place, SiteFileError

_MAX_MESSAGE_LENGTH = 4000
"""Characters of a message that are matched: a message may quote a whole file."""
_ANY_NAME: Final = "*"
"""Stands for a name that the site chooses."""
_RUNTIME: Final[Mapping[str, Any]] = {
    "format_version": {},
    "studies": {
        _ANY_NAME: {
            "container": {"image": {}},
            "datasets": {_ANY_NAME: {"type": {}, "source": {}, "mode": {}}},
            "env": {_ANY_NAME: {}},
            "secret_env": {_ANY_NAME: {"source": {}, "key": {}}},
            "secret_mounts": {_ANY_NAME: {"source": {}, "mount_path": {}, "mode": {}, "items": {_ANY_NAME: {}}}},
            "docker_kwargs": {},
            "slurm": {},
        }
    },
}
"""The keys of study_runtime.yaml. The path in a message is resolved with them."""
_LABEL = r"(?P<label>[^'\"]{1,400}?)"
"""The path at the beginning of a message. It ends before quotes, since nvflare quotes values."""
_TEMPLATE = r"(?:inline pod_template|pod_template file '.*?')"

_RUNTIME_SENTENCES: Final = (
    (r"study name ", "study names of a-z, 0-9, _ and -, a letter or digit first and last"),
    (r"(?P<label>format_version) must be (?P<version>\d+), got ", "{version}"),
    (r"file content must be a mapping\.", "a mapping with format_version and studies"),
    (r"docker_kwargs is Docker-only", "no study with `docker_kwargs`: this launcher is for Kubernetes"),
    (r"slurm is Slurm-only", "no study with `slurm`: this launcher is for Kubernetes"),
    (r"pod_template must be a non-empty string\.", "a pod_template that is a mapping, or names a file"),
    (
        r"pod_template must be a relative path",
        "a pod_template that is a mapping, or a relative path to a file below this one's folder",
    ),
    (r"pod_template file '.*' was not found\.", "a pod_template whose file is there (it was not found)"),
    (rf"{_TEMPLATE} must be a mapping\.", "a pod_template that is a mapping"),
    (rf"{_TEMPLATE} must define kind: Pod\.", "a pod_template of kind: Pod"),
    (r"could not read pod_template file ", "a pod_template whose file can be read{cause}"),
    (r"could not parse pod_template file ", "a pod_template whose file is YAML (nvflare could not parse it{cause})"),
    (rf"{_LABEL} must be a mapping\.", "a mapping"),
    (rf"{_LABEL}(?: key| variable name)? must be a non-empty string\.", "a non-empty string"),
    (rf"{_LABEL} must be 'ro' or 'rw'\.", "'ro' or 'rw'"),
    (rf"{_LABEL} must be 'ro';", "'ro', as secret mounts are always read-only"),
    (rf"{_LABEL} must be an absolute path\.", "an absolute path"),
    (rf"{_LABEL} must be a scalar value\.", "a string, a number, true or false"),
    (rf"{_LABEL} must not be empty; set", "a value that is not empty"),
    (rf"{_LABEL} must not be empty; omit", "at least one key; without `items` all of the Secret's keys are mounted"),
    (rf"{_LABEL} has unknown type ", "a dataset without a `type`, or with the type 'mount'"),
    (rf"{_LABEL} type '", "a dataset without a `type`, or with the type 'mount'"),
    (rf"{_LABEL} (?:dataset|mount) name ", "a name of a-z, 0-9, _ and -, a letter or digit first and last"),
    (
        rf"{_LABEL} variable name '",
        "a variable that the launcher does not set itself, unlike PYTHONPATH and FLARE's credentials",
    ),
    (rf"{_LABEL} defines \[", "each variable in `env` or in `secret_env`, not in both"),
)
_DATA_SENTENCES: Final = (
    (r"file at study_data_file_path '.*' does not contain a dictionary", "a dictionary of studies"),
    (r"study_data\.yaml uses study -> dataset", "a dictionary of datasets for each study"),
    (r"(?:study|dataset) name ", "study and dataset names of a-z, 0-9, _ and -, a letter or digit first and last"),
    (
        r"dataset entry '(?P<study>[^/']+)/[^/']*' in '.*' must be a dictionary",
        "a dictionary with source and mode for each dataset",
    ),
    (r"dataset entry '(?P<study>[^/']+)/(?P<dataset>[^/']+)' in '.*' must define", "a `source` that is not empty"),
    (r"dataset entry '(?P<study>[^/']+)/(?P<dataset>[^/']+)' in '.*' must set mode", "a `mode` of 'ro' or 'rw'"),
)
_FILE_SENTENCES: Final = (
    (r"Could not read study (?:runtime|data) file ", "a file that can be read{cause}"),
    (r"Could not parse study (?:runtime|data) file ", "YAML (nvflare could not parse it{cause})"),
)
_UNKNOWN_KEYS = re.compile(
    rf"(?:top level|{_LABEL}) has unknown key\(s\) (?P<unknown>\[.*?\]); allowed: (?P<known>\[.*?\])\."
)
_TEMPLATE_SENTENCE = re.compile(
    r"(?P<owner>pod manifest|pod spec|container)"
    r"(?: (?P<field>template|metadata|spec|containers|volumes|imagePullSecrets|volumeMounts|env))?"
    r" (?P<rule>must be a dictionary|must be a list|entries must be dictionaries)\."
)
_SEVERAL_CONTAINERS = "pod_template has multiple containers and none is named"
_NOT_A_POD = "pod manifest template must define kind: Pod."


def study_file_error(file: str, error: Exception) -> SiteFileError:
    """Translate nvflare's error about a study file, of either version."""
    place = Place(f"{file}:")
    if not isinstance(error, ValueError):
        return SiteFileError(place, _describe_type(error))
    text = str(error)[:_MAX_MESSAGE_LENGTH]
    runtime_text = text.removeprefix(f"study runtime file '{file}': ")
    if runtime_text == text:
        translation = _translate((*_FILE_SENTENCES, *_DATA_SENTENCES), text, place, error)
    else:
        translation = _unknown_key_error(runtime_text, place) or _translate(
            _RUNTIME_SENTENCES, runtime_text, place, error
        )
    return translation or SiteFileError(place, _describe_type(error))


def pod_template_error(error: Exception) -> SiteFileError:
    """Translate an error of nvflare's renderer about a pod template."""
    place, text = Place("pod_template"), str(error)[:_MAX_MESSAGE_LENGTH] if isinstance(error, ValueError) else ""
    if text.startswith(_SEVERAL_CONTAINERS):
        return SiteFileError(place, "one container with the name nvflare_job, since there are several")
    if text.startswith(_NOT_A_POD):
        return SiteFileError(place, "kind: Pod")
    match = _TEMPLATE_SENTENCE.match(text)
    if match is None:
        return SiteFileError(place, _describe_type(error))
    part = " ".join(filter(None, (match["owner"], match["field"])))
    return SiteFileError(place, f"a template that nvflare can merge with the job: its {part} {match['rule']}")


def _describe_type(error: Exception) -> str:
    return f"what nvflare accepts (it raises {type(error).__name__}, whose text may quote the file and is not shown)"


def _translate(
    sentences: tuple[tuple[str, str], ...], text: str, place: Place, error: Exception
) -> SiteFileError | None:
    for pattern, allowed in sentences:
        match = re.match(pattern, text, re.DOTALL)
        if match is not None:
            groups = match.groupdict()
            version = groups.get("version") or ""
            return SiteFileError(
                _find_place(place, groups), allowed.format(cause=_describe_cause(error), version=version)
            )
    return None


def _find_place(place: Place, groups: Mapping[str, str | None]) -> Place:
    if "study" in groups:
        return place.name(*(groups[part] or "" for part in ("study", "dataset") if part in groups))
    return _follow_label(place, groups["label"] or "") if "label" in groups else place


def _follow_label(place: Place, label: str) -> Place:
    """Return the place that a path of nvflare's names, such as ``studies.cardio.datasets.images.mode``.

    A name that the site chose is shown only if a field stands below it: in ``env: {hunter2}`` the key is a password.
    """
    schema: Mapping[str, Any] = _RUNTIME
    parts = label.split(".")
    for index, part in enumerate(parts):
        if part in schema:
            place, schema = place.key(part), schema[part]
        elif _ANY_NAME in schema and index + 1 < len(parts):
            place, schema = place.name(part), schema[_ANY_NAME]
        else:
            return place
    return place


def _unknown_key_error(text: str, place: Place) -> SiteFileError | None:
    match = _UNKNOWN_KEYS.match(text)
    if match is None:
        return None
    unknown_keys, known_keys = [*_parse_list(match["unknown"])], [*_parse_list(match["known"])]
    # The dot says that a mapping stands below the label, so its last name is shown too.
    owner = _follow_label(place, f"{match['label']}.") if match["label"] else place
    allowed = f"one of {', '.join(key for key in known_keys if isinstance(key, str) and key.isidentifier())}"
    return SiteFileError(owner.key(unknown_keys[0]) if unknown_keys else owner, allowed)


def _parse_list(text: str) -> Iterator[object]:
    """Yield the items of a list in Python's notation; nothing if it is cut off."""
    try:
        yield from ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return


def _describe_cause(error: Exception) -> str:
    """Describe the error that nvflare wrapped without quoting the file: its errno, or its line of a YAML file."""
    inner = error.__cause__
    if isinstance(inner, OSError) and inner.errno is not None:
        return f" ({os.strerror(inner.errno)})"
    mark = inner.problem_mark if isinstance(inner, yaml.MarkedYAMLError) else None
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
