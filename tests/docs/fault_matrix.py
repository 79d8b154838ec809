"""List the scenarios of the fault matrix, which pytest collects from tests/cluster/test_faults*.py, as Markdown."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

from tests.harness.paths import ROOT

_TABLE_TESTS = {"end", "scenario"}
"""Tests whose parameters alone name the scenario."""


@functools.cache
def listing() -> str:
    """Return all scenarios, module by module, as Markdown."""
    rows: dict[str, list[str]] = {}
    for file, test in _collect():
        rows.setdefault(file, []).append(_scenario_name(test))
    parts = [f"{sum(map(len, rows.values()))} scenarios."]
    for file, names in rows.items():
        parts.append(f"### {Path(file).name}\n\n{_summary(ROOT / file)} {len(names)} scenarios:")
        parts.append("\n".join(f"- {name}" for name in names))
    return "\n\n".join(parts)


def _collect() -> list[tuple[str, str]]:
    """Return each test's file and name, in the order of execution."""
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/cluster/test_faults*.py"))
    argv = (sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *files)
    output = subprocess.run(argv, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [(file, test) for file, colons, test in (line.partition("::") for line in output.splitlines()) if colons]


def _scenario_name(test: str) -> str:
    """Render ``test_submit[late-the create]`` as "submit: late-the create"."""
    name, _, parameters = test.partition("[")
    name = name.removeprefix("test_").replace("_", " ")
    row = parameters.removesuffix("]")
    if name in _TABLE_TESTS:
        return row
    return f"{name}: {row}" if row else name


def _summary(file: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return re.sub(r"\s+", " ", docstring.partition("\n\n")[0])
