"""The docs say what the code says."""

import pytest

from flargo.tools.cli.main import COMMANDS
from tests.docs import tables
from tests.harness.paths import ROOT


@pytest.mark.parametrize(("file", "block"), tables.BLOCKS, ids=lambda name: name.replace(" ", "-"))
def test_a_table_of_the_docs_is_the_codes(file: str, block: str) -> None:
    text = (ROOT / file).read_text()
    assert f"<!-- {block}: begin -->" in text
    assert tables.with_blocks(file, text) == text, "write the docs' tables anew: make docs"


def test_the_examples_are_what_flargo_submits() -> None:
    made = tables.examples()
    assert len(made) == len(tables.EXAMPLES)
    for path, text in made.items():
        assert (ROOT / path).read_text() == text, "write the examples anew: make docs"
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("workflows/examples/*")} == set(made)


def test_every_command_has_a_picture_and_every_picture_is_shown() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    drawn = {path.stem for path in ROOT.glob("docs/commands/*.svg")}
    assert {name for name in drawn if f"](commands/{name}.svg)" in text} == drawn == set(COMMANDS) - {"demo"}
