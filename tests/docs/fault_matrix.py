"""The fault matrix as a list: what pytest finds in tests/cluster/test_faults*.py, in people's words."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

from tests.harness.paths import ROOT

_HOLDERS = {"end", "scenario"}
"""Tests that are nothing but a name for a table of rows."""


@functools.cache
def listing() -> str:
    """All rows, module by module, as Markdown."""
    rows: dict[str, list[str]] = {}
    for file, test in _collected():
        rows.setdefault(file, []).append(_words(test))
    parts = [f"{sum(map(len, rows.values()))} scenarios."]
    for file, names in rows.items():
        parts.append(f"### {Path(file).name}\n\n{_summary(ROOT / file)} {len(names)} scenarios:")
        parts.append("\n".join(f"- {name}" for name in names))
    return "\n\n".join(parts)


def _collected() -> list[tuple[str, str]]:
    """Each test's file and name, in the order in which they are run."""
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/cluster/test_faults*.py"))
    words = (sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *files)
    said = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [(file, test) for file, colons, test in (line.partition("::") for line in said.splitlines()) if colons]


def _words(test: str) -> str:
    """``test_submit[late-the create]`` as "submit: late-the create"."""
    name, _, parameters = test.partition("[")
    name = name.removeprefix("test_").replace("_", " ")
    row = parameters.removesuffix("]")
    if name in _HOLDERS:
        return row
    return f"{name}: {row}" if row else name


def _summary(file: Path) -> str:
    """The first paragraph of a module's docstring."""
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    return re.sub(r"\s+", " ", said.partition("\n\n")[0])
