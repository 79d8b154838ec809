"""The embedded engine against recordings of the real cluster: the same scenario, the same phases, reasons and words.

What the launchers saw in an earlier run of the fault matrix was written down as on the real cluster, by the same
recorder.
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
def played() -> Path:
    """The folder in which the fault matrix has left its recordings."""
    folder = os.environ.get("FLARGO_RECORD")
    if not folder:
        pytest.skip("compares what a run of the fault matrix has left: make embedded")
    return Path(folder)


QUOTED = re.compile(r"(Unschedulable|ErrImagePull|CreateContainerConfigError|main: Error \(exit code \d+\)): (.+)")
"""How Argo quotes the scheduler and the kubelet. When flargo is quick, a recording ends before Argo has quoted."""


@pytest.mark.parametrize("real", REAL, ids=lambda file: file.stem)
def test_recording(real: Path, played: Path) -> None:
    ours = played / real.name
    assert ours.exists(), "its scenario has left no recording"
    assert verdict(ours) == verdict(real)
    if real.stem in known_differences.RACES:
        # On either cluster it may all be over, and the pod gone, before the launcher looks.
        seen = [pod for pod in map(last_pod, (ours, real)) if pod]
        assert seen == seen[:1] * len(seen)
    else:
        assert sequences(ours) == sequences(real)


def test_all_words_are_the_real_ones(played: Path) -> None:
    real = {QUOTED.sub(r"\2", message) for file in REAL for message in messages(file)}
    made = [played / file.name for file in REAL if (played / file.name).exists()]
    ours = {QUOTED.sub(r"\2", message) for file in made for message in messages(file)}
    assert ours - real == set(known_differences.WORDS)


def verdict(recording: Path) -> object:
    """What FLARE was told, and the return code."""
    return json.loads(recording.read_text().splitlines()[-1])


def last_pod(recording: Path) -> list[str]:
    """The last phase of its pod, and the reason of that."""
    pods = sequences(recording)["POD"]
    return list(pods[-1][:2]) if pods else []
