"""The embedded engine against recordings of the real cluster: the same scenario, the same phases, reasons and words.

What the launchers of this session's fault matrix saw was written down as on the real cluster, by the same recorder.
"""

from pathlib import Path

import pytest

from tests.cluster import recorder, versions
from tests.embedded import unlike
from tests.embedded.sequence import messages, sequences

REAL = sorted((recorder.FOLDER / versions.ARGO).glob("*.jsonl"))
MODULES = {file.name for file in Path(__file__).parent.glob("test_faults*.py")}


@pytest.fixture
def played(request: pytest.FixtureRequest, recordings: Path) -> Path:
    """The folder of the recordings, which have been made by now."""
    here = Path(__file__).parent
    if not {item.path.name for item in request.session.items if item.path.parent == here} >= MODULES:
        pytest.skip("compares what the fault matrix has left: run all of tests/embedded")
    return recordings


@pytest.mark.parametrize("real", REAL, ids=lambda file: file.stem)
def test_recording(real: Path, played: Path) -> None:
    ours = played / real.name
    assert ours.exists(), "its scenario has left no recording"
    wanted, found = sequences(real), sequences(ours)
    if real.stem in unlike.RACES:
        wanted, found = ({"POD": it["POD"][-1:]} for it in (wanted, found))
    assert found == wanted


def test_all_words_are_the_real_ones(played: Path) -> None:
    real = {message for file in REAL for message in messages(file)}
    ours = {message for file in played.glob("*.jsonl") for message in messages(file)}
    assert ours - real == set(unlike.WORDS)
