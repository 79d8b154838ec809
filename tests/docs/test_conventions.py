"""The table of conventions is true of kubectl, argo and flargo."""

import functools
import re
import shutil
import subprocess

import pytest

from tests.docs import conventions
from tests.docs.conventions import CONVENTIONS
from tests.harness.real_cluster import versions

ARGO = shutil.which("argo") or next((str(path) for path in versions.CACHE.glob("argo-*/argo")), None)
TOOLS = {"kubectl": shutil.which("kubectl"), "argo": ARGO}
ROWS = [(tool, getattr(row, tool)) for row in CONVENTIONS for tool in TOOLS if getattr(row, tool) is not None]
ALL = dict(conventions.commands())


@functools.cache
def help_text(program: str, command: str) -> str:
    arguments = [command] if command == "options" else [command, "--help"]
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize(("tool", "row"), ROWS, ids=lambda each: each if isinstance(each, str) else " ".join(each))
def test_other_tools_spell_it_so(tool: str, row: tuple[str, str]) -> None:
    program = TOOLS[tool]
    if program is None:
        pytest.skip(f"there is no {tool} on this machine")
    command, spelling = row
    assert re.search(rf"^\s+{re.escape(spelling)}[ =]", help_text(program, command), re.MULTILINE)


@pytest.mark.parametrize("row", CONVENTIONS, ids=lambda row: row.option)
def test_flargo_spells_it_as_they_do(row: conventions.Convention) -> None:
    """Every command of flargo's with the option has all spellings that the other tools share."""
    shared = set.intersection(*({*each[1].split(", ")} for each in (row.kubectl, row.argo) if each is not None))
    owners = [found for command in ALL.values() if (found := conventions.options(command).get(row.option))]
    assert owners
    assert shared
    assert [option.opts for option in owners if not shared <= set(option.opts)] == []


def test_no_short_option_means_two_things() -> None:
    meanings: dict[str, set[str]] = {}
    for command in ALL.values():
        for name, option in conventions.options(command).items():
            for short in (each for each in option.opts if not each.startswith("--")):
                meanings.setdefault(short, set()).add(name)
    assert {short: names for short, names in meanings.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"completion", "demo"}))
def test_every_command_has_documents(name: str) -> None:
    option = conventions.options(ALL[name])["--output"]
    assert option.type.choices[:2] == ("json", "yaml")  # type: ignore[attr-defined]
    assert "--json" in conventions.options(ALL[name])
