"""Tests of the site's policy: one function decides, and reports the first value that is not allowed."""

from dataclasses import replace
from typing import Any

import pytest

from flargo.job.policy import Policy, Requested, enforce
from flargo.job.validate import InvalidInput

POLICY = Policy(
    images=("registry.example/*",),
    digests=True,
    python_paths=("/usr/bin/python3",),
    cpu="2",
    memory="1Gi",
    ephemeral_storage="2Gi",
    gpus=1,
    pending_timeout=60,
)
PLACES = {
    key: f"spec[{key!r}]"
    for key in (
        "image",
        "python_path",
        "pending_timeout",
        "cpu",
        "memory",
        "ephemeral_storage",
        "num_of_gpus",
    )
}
DIGEST = f"@sha256:{'0' * 64}"
FORBIDDEN: dict[str, Any] = {
    "image": "other.example/x",
    "limits": {"cpu": 3, "memory": "2Gi", "ephemeral-storage": "3Gi", "gpu": 2},
    "python_path": "/bin/python",
    "pending_timeout": 61.0,
}
CORRECTIONS: list[dict[str, Any]] = [
    {"image": "registry.example/x"},
    {"image": f"registry.example/x{DIGEST}"},
    {"limits": {**FORBIDDEN["limits"], "cpu": 2}},
    {"limits": {**FORBIDDEN["limits"], "cpu": 2, "memory": "1Gi"}},
    {"limits": {**FORBIDDEN["limits"], "cpu": 2, "memory": "1Gi", "ephemeral-storage": "2Gi"}},
    {"limits": {"cpu": 2, "memory": "1Gi", "ephemeral-storage": "2Gi", "gpu": 1}},
    {"python_path": "/usr/bin/python3"},
    {"pending_timeout": 60.0},
]


def test_violations_are_reported_in_order() -> None:
    """A job's author corrects one value after the other, and the messages follow the same order for everybody."""
    requested = Requested(places=PLACES, gpu="gpu", has_pending_timeout=True, **FORBIDDEN)
    fields = []
    for correction in CORRECTIONS:
        with pytest.raises(InvalidInput) as error:
            enforce(POLICY, requested)
        fields.append(str(error.value).split("'")[1])
        requested = replace(requested, **correction)
    enforce(POLICY, requested)
    assert fields == [
        "image",
        "image",
        "cpu",
        "memory",
        "ephemeral_storage",
        "num_of_gpus",
        "python_path",
        "pending_timeout",
    ]


def test_a_job_without_wishes_needs_limits_only() -> None:
    """The site's own image, Python path and timeout are not checked; a limit that the site requires is."""
    limits = {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}
    enforce(POLICY, Requested(places=PLACES, limits=limits, gpu="gpu"))
    with pytest.raises(InvalidInput, match="memory"):
        enforce(POLICY, Requested(places=PLACES, limits={**limits, "memory": "0"}, gpu="gpu"))
