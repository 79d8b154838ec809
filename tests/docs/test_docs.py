"""Tests that the docs' tables, examples and pictures match the code."""

import re

import pytest

from flargo.control.command_queue import LIMITS, MAX_WORKERS
from flargo.control.loop import _WORKERS
from flargo.control.progress_notes import READ_SECONDS, TICK_SECONDS
from flargo.status.job_state import ActionKind
from flargo.tools.cli.main import COMMANDS
from tests.docs import tables
from tests.harness.paths import ROOT


@pytest.mark.parametrize(("file", "block"), tables.BLOCKS, ids=lambda name: name.replace(" ", "-"))
def test_table_matches_the_code(file: str, block: str) -> None:
    text = (ROOT / file).read_text()
    assert f"<!-- {block}: begin -->" in text
    assert tables.with_blocks(file, text) == text, "the docs' tables are out of date: run make docs"


def test_examples_are_what_flargo_submits() -> None:
    examples = tables.examples()
    assert len(examples) == len(tables.EXAMPLES)
    for path, text in examples.items():
        assert (ROOT / path).read_text() == text, "the examples are out of date: run make docs"
    written_by_hand = {"workflows/examples/exit-handler.yaml"}  # tests/unit/test_workflows.py checks it
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("workflows/examples/*")} == set(
        examples
    ) | written_by_hand


def test_outline_of_commands_is_theirs() -> None:
    assert (ROOT / tables.OUTLINE).read_text() == tables.command_outline(), "out of date: run make docs"


def test_every_command_has_a_picture() -> None:
    """Each command has a picture in docs/commands, and docs/commands.md shows each picture."""
    text = (ROOT / "docs/commands.md").read_text()
    pictures = {path.stem for path in ROOT.glob("docs/commands/*.svg")}
    assert {name for name in pictures if f"](commands/{name}.svg)" in text} == pictures
    assert pictures == (set(COMMANDS) - {"completion", "demo"}) | {"jobs-wide"}


def test_contributing_names_what_exists() -> None:
    """CONTRIBUTING.md names only files that exist, and only names that are in one of these files."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`((?:flargo|tests|docs|deploy|workflows)/[^`]+)`", text))
    assert len(paths) > 80
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    content = "\n".join((ROOT / path).read_text() for path in paths if (ROOT / path).is_file())
    names = set(re.findall(r"`([A-Za-z]\w*[A-Za-z])`", text.partition("## Style")[0]))
    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{name}\b", content)} == set()


def test_scale_states_the_numbers_of_threads() -> None:
    text = (ROOT / "docs/scale.md").read_text()
    assert f"and {MAX_WORKERS} for requests about jobs" in text
    words = (
        "eight to submit, eight for launches that wait for the pods of earlier ones, eight to report, "
        "eight to start lost jobs again, two watches"
    )
    assert words in text
    assert _WORKERS == 8
    limits = [LIMITS[kind] for kind in (ActionKind.CONFIRM, ActionKind.SHUTDOWN, ActionKind.DELETE_SECRET)]
    assert limits == [8, 6, 2], "these are in the text as words"
    assert "(eight that read, six that shut down, two that delete credentials, for example)" in text


def test_scale_states_the_requests_for_progress() -> None:
    text = (ROOT / "docs/scale.md").read_text()
    assert "one log a second at most for all jobs together, each every 5 seconds if there are at most five" in text
    assert "It writes when a round has changed, and so once a second at most." in text
    assert (TICK_SECONDS, READ_SECONDS) == (1.0, 5.0)
