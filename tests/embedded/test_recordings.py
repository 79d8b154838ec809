"""Compares the embedded engine with recordings of the real cluster: the same phases, reasons and messages.

An earlier run of the fault matrix on the embedded engine has left recordings, which the same recorder wrote as on the
real cluster.
"""

import json
import os
import re
from pathlib import Path

import pytest

from tests.embedded import known_differences
from tests.harness import recorder
from tests.harness.real_cluster import versions
from tests.harness.sequence import messages, sequences

REAL = sorted((recorder.FOLDER / versions.ARGO).glob("*.jsonl"))


@pytest.fixture
def played_folder() -> Path:
    """The folder with the recordings of the fault matrix on the embedded engine."""
    folder = os.environ.get("FLARGO_RECORD")
    if not folder:
        pytest.skip("needs the recordings of a run of the fault matrix: make embedded")
    return Path(folder)


QUOTED = re.compile(r"(Unschedulable|ErrImagePull|CreateContainerConfigError|main: Error \(exit code \d+\)): (.+)")
"""The form in which Argo quotes the scheduler and the kubelet. If flargo is fast, a recording ends before that."""


@pytest.mark.parametrize("real", REAL, ids=lambda file: file.stem)
def test_recording(real: Path, played_folder: Path) -> None:
    ours = played_folder / real.name
    assert ours.exists(), "the scenario has left no recording"
    assert verdict(ours) == verdict(real)
    if real.stem in known_differences.RACES:
        # On both clusters the pod may have been removed before the launcher observed it.
        pods = [pod for pod in map(last_pod, (ours, real)) if pod]
        assert pods == pods[:1] * len(pods)
    else:
        assert sequences(ours) == sequences(real)


def test_all_messages_are_in_a_recording(played_folder: Path) -> None:
    real = {QUOTED.sub(r"\2", message) for file in REAL for message in messages(file)}
    recordings = [played_folder / file.name for file in REAL if (played_folder / file.name).exists()]
    ours = {QUOTED.sub(r"\2", message) for file in recordings for message in messages(file)}
    assert ours - real == set(known_differences.MESSAGES)


def verdict(recording: Path) -> object:
    """Return the last line of a recording: the verdict that FLARE got, with the return code."""
    return json.loads(recording.read_text().splitlines()[-1])


def last_pod(recording: Path) -> list[str]:
    """Return the last phase and reason of a recording's pod; empty if it has none."""
    pods = sequences(recording)["POD"]
    return list(pods[-1][:2]) if pods else []
