"""What nvflare's loaders and renderer say against a site's files, as errors of flargo's that quote nothing of them.

nvflare 2.9 says what is wrong in the text of a ValueError only, beginning with the file and the key, and often ending
with the value. Its text is matched against the sentences that nvflare has (study_runtime.py, study_data.py and
k8s_launcher.py in nvflare/app_opt/job_launcher), and never repeated: what comes out is a place and flargo's own words.
A sentence that is not in the tables, as of a later nvflare, leaves the file and the type of the error.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from flargo.job.site_errors import Place, SiteFileError

_LONGEST = 4000
"""Characters of a message that are looked at: what it quotes may be as long as the file."""
_CHOSEN: Final = "*"
"""Stands for names of the site's choosing."""
_RUNTIME: Final[Mapping[str, Any]] = {
    "format_version": {},
    "studies": {
        _CHOSEN: {
            "container": {"image": {}},
            "datasets": {_CHOSEN: {"type": {}, "source": {}, "mode": {}}},
            "env": {_CHOSEN: {}},
            "secret_env": {_CHOSEN: {"source": {}, "key": {}}},
            "secret_mounts": {_CHOSEN: {"source": {}, "mount_path": {}, "mode": {}, "items": {_CHOSEN: {}}}},
            "docker_kwargs": {},
            "slurm": {},
        }
    },
}
"""The keys of study_runtime.yaml, by which the path in a message is read."""
_LABEL = r"(?P<label>[^'\"]{1,400}?)"
"""What a message begins with. A value that is quoted in it stands in quotes."""
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
    (rf"{_LABEL}(?: key| variable name)? must be a non-empty string\.", "a text that is not empty"),
    (rf"{_LABEL} must be 'ro' or 'rw'\.", "'ro' or 'rw'"),
    (rf"{_LABEL} must be 'ro';", "'ro', as secret mounts are always read-only"),
    (rf"{_LABEL} must be an absolute path\.", "an absolute path"),
    (rf"{_LABEL} must be a scalar value\.", "a text, a number, true or false"),
    (rf"{_LABEL} must not be empty; set", "a value that is not empty"),
    (rf"{_LABEL} must not be empty; omit", "at least one key; without `items` all of the Secret's keys are mounted"),
    (rf"{_LABEL} has unknown type ", "a dataset whose `type`, where it has one, is 'mount'"),
    (rf"{_LABEL} type '", "a dataset whose `type`, where it has one, is 'mount'"),
    (rf"{_LABEL} (?:dataset|mount) name ", "a name of a-z, 0-9, _ and -, a letter or digit first and last"),
    (
        rf"{_LABEL} variable name '",
        "a variable that the launcher does not set itself, as it does PYTHONPATH and FLARE's credentials",
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
    r"(?P<of>pod manifest|pod spec|container)"
    r"(?: (?P<field>template|metadata|spec|containers|volumes|imagePullSecrets|volumeMounts|env))?"
    r" (?P<rule>must be a dictionary|must be a list|entries must be dictionaries)\."
)
_SEVERAL_CONTAINERS = "pod_template has multiple containers and none is named"
_NOT_A_POD = "pod manifest template must define kind: Pod."


def study_file_error(file: str, error: Exception) -> SiteFileError:
    """What is wrong with a study file, of either version."""
    place = Place(f"{file}:")
    if not isinstance(error, ValueError):
        return SiteFileError(place, _only_type(error))
    text = str(error)[:_LONGEST]
    of_runtime = text.removeprefix(f"study runtime file '{file}': ")
    if of_runtime == text:
        found = _matched((*_FILE_SENTENCES, *_DATA_SENTENCES), text, place, error)
    else:
        found = _unknown_key(of_runtime, place) or _matched(_RUNTIME_SENTENCES, of_runtime, place, error)
    return found or SiteFileError(place, _only_type(error))


def pod_template_error(error: Exception) -> SiteFileError:
    """What is wrong with a pod template that nvflare's renderer does not take."""
    place, text = Place("pod_template"), str(error)[:_LONGEST] if isinstance(error, ValueError) else ""
    if text.startswith(_SEVERAL_CONTAINERS):
        return SiteFileError(place, "one of its containers with the name nvflare_job, where there are several")
    if text.startswith(_NOT_A_POD):
        return SiteFileError(place, "kind: Pod")
    found = _TEMPLATE_SENTENCE.match(text)
    if found is None:
        return SiteFileError(place, _only_type(error))
    part = " ".join(filter(None, (found["of"], found["field"])))
    return SiteFileError(place, f"one that nvflare can merge with the job: its {part} {found['rule']}")


def _only_type(error: Exception) -> str:
    return f"what nvflare takes (it raises {type(error).__name__}, whose text may quote the file and is not shown)"


def _matched(sentences: tuple[tuple[str, str], ...], text: str, place: Place, error: Exception) -> SiteFileError | None:
    for pattern, allowed in sentences:
        found = re.match(pattern, text, re.DOTALL)
        if found is not None:
            groups = found.groupdict()
            version = groups.get("version") or ""
            return SiteFileError(_place(place, groups), allowed.format(cause=_cause(error), version=version))
    return None


def _place(place: Place, groups: Mapping[str, str | None]) -> Place:
    if "study" in groups:
        return place.name(*(groups[part] or "" for part in ("study", "dataset") if part in groups))
    return _of_label(place, groups["label"] or "") if "label" in groups else place


def _of_label(place: Place, label: str) -> Place:
    """The place that a path of nvflare's names: ``studies.cardio.datasets.images.mode``.

    A name of the site's choosing is shown only with a field below it: ``env: {hunter2}`` has a password for a key.
    """
    below: Mapping[str, Any] = _RUNTIME
    parts = label.split(".")
    for at, part in enumerate(parts):
        if part in below:
            place, below = place.key(part), below[part]
        elif _CHOSEN in below and at + 1 < len(parts):
            place, below = place.name(part), below[_CHOSEN]
        else:
            return place
    return place


def _unknown_key(text: str, place: Place) -> SiteFileError | None:
    found = _UNKNOWN_KEYS.match(text)
    if found is None:
        return None
    unknown, known = [*_words(found["unknown"])], [*_words(found["known"])]
    # A mapping stands below the label, so its last name is a name.
    of = _of_label(place, f"{found['label']}.") if found["label"] else place
    allowed = f"one of {', '.join(key for key in known if isinstance(key, str) and key.isidentifier())}"
    return SiteFileError(of.key(unknown[0]) if unknown else of, allowed)


def _words(written: str) -> Iterator[object]:
    """A list as Python writes it."""
    try:
        yield from ast.literal_eval(written)
    except (ValueError, SyntaxError):
        return


def _cause(error: Exception) -> str:
    """What the error that nvflare passed on tells by itself: an errno, or a line of a YAML file."""
    inner = error.__cause__
    if isinstance(inner, OSError) and inner.errno is not None:
        return f" ({os.strerror(inner.errno)})"
    mark = inner.problem_mark if isinstance(inner, yaml.MarkedYAMLError) else None
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
