"""The docs say what the code says."""

import pytest

from tests import docs


@pytest.mark.parametrize(("file", "block"), docs.BLOCKS, ids=lambda name: name.replace(" ", "-"))
def test_a_table_of_the_docs_is_the_codes(file: str, block: str) -> None:
    text = (docs.ROOT / file).read_text()
    assert f"<!-- {block}: begin -->" in text
    assert docs.with_blocks(file, text) == text, "write the docs' tables anew: make docs"
