"""Commands write by flargo.tools.cli.output and flargo.tools.terminal only, which make foreign text inert."""

import ast
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import flargo
from flargo.tools import terminal
from flargo.tools.cli import output
from tests.harness.attacks import ALL_ATTACKS, ATTACKS, bad_characters

ROOT = Path(flargo.__file__).parent
WRITERS = {"tools/cli/output.py", "tools/terminal.py"}
EXCEPTIONS = {
    "tools/cli/main.py": ["sys.stderr.write"],  # that click is missing: nothing else could write
    "embedded/__main__.py": ["print", "print"],  # not a command of flargo's: it prints its own address and file
}
CALLS = {"echo", "secho", "echo_via_pager", "print", "print_exc", "print_exception", "print_json", "confirm", "prompt"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
RICH = {
    "rich.console": {"Console", "Group", "RenderableType"},
    "rich.live": {"Live"},
}
"""What may be used of rich elsewhere: it takes what flargo.tools.terminal has made, and makes no text itself."""


def written(source: str) -> Iterator[str]:
    """The places in a module that write, or make a text for rich, by themselves."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            parts = called.split(".")
            if parts[-1] in CALLS or (parts[-1] in {"write", "writelines"} and STREAMS & {*parts}):
                yield called
            if called in {"Console", "logging.basicConfig", "logging.StreamHandler"}:
                yield called
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            yield from (each.name for each in node.names if each.name not in RICH.get(node.module or "", ()))
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] == "rich")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_writes_by_itself(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name not in WRITERS:
        assert [*written(path.read_text())] == EXCEPTIONS.get(name, [])


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "click.echo(text, err=True)",
        "click.secho(text)",
        "console.print(text)",
        "sys.stdout.write(text)",
        "sys.stdout.buffer.write(text)",
        "from sys import stderr\nstderr.write(text)",
        "from rich.text import Text",
        "from rich import print as show",
        "import rich.table",
        "made = Console(stderr=True)",
        "traceback.print_exc()",
        "logging.basicConfig()",
        "click.confirm(text)",
    ],
)
def test_a_module_that_would_is_found(source: str) -> None:
    assert [*written(source)]


# The writers


@pytest.mark.parametrize("name", ATTACKS)
def test_each_writer_makes_each_attack_inert(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    attack = ATTACKS[name]
    output.write_line(attack)
    output.write_hanging(attack, attack, mark=attack)
    output.write_document(f"{attack}\n")
    output.write_message(attack)
    with pytest.raises(SystemExit):
        output.fail(attack, {}, 1, as_json=False)
    shown = capfd.readouterr()
    lines = 1 + attack.count("\n")
    assert (shown.out.count("\n"), shown.err.count("\n")) == (2 + lines, 2), "one line each, but for the document"
    assert bad_characters(shown.out.encode()) | bad_characters(shown.err.encode()) == set()


@pytest.mark.parametrize("name", ATTACKS)
def test_json_is_ascii_and_valid_unicode(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    attack = ATTACKS[name]
    output.write_json({"text": [attack], attack: 1})
    output.write_json_line({"text": attack})
    shown = capfd.readouterr().out
    assert bad_characters(shown.encode()) == set()
    assert shown.isascii()
    text = json.loads(shown.splitlines()[-1])["text"]
    assert text.encode().decode() == text
    assert "\ufffd" in text or text == attack


def test_every_writer_blanks_tokens(capfd: pytest.CaptureFixture[str]) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
    output.write_line(token)
    output.write_message(token)
    output.write_hanging("head ", token)
    output.write_json_line({token: token})
    terminal.write(terminal.console(), terminal.line(token))
    shown = capfd.readouterr()
    assert token not in shown.out + shown.err
    assert (shown.out + shown.err).count("[redacted]") == 6


def test_a_table_shows_markup_and_escapes_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    cells: list[terminal.Cell] = ["[red]x[/red]", ("[link=https://evil.example]y[/]", "bold"), "\x1b[31mz"]
    terminal.draw(terminal.console(), terminal.table(["A", "B", "C"], [cells]))
    shown = capfd.readouterr().out
    assert "[red]x[/red]" in shown
    assert "[link=https://evil.example]y[/]" in shown
    assert "\\x1b[31mz" in shown


def run(command: click.Command) -> None:
    command.main([], standalone_mode=False)


def test_what_libraries_warn_of_is_inert(capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @output.json_option
    @output.report_errors
    def warns(**_: Any) -> None:
        warnings.simplefilter("always")
        warnings.warn(ALL_ATTACKS, UserWarning, stacklevel=1)

    run(warns)
    shown = capfd.readouterr().err
    assert shown.startswith("Warning: UserWarning: ")
    assert bad_characters(shown.encode()) == set()


def test_what_libraries_log_is_inert(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = logging.lastResort

    @click.command()
    @output.json_option
    @output.report_errors
    def logs(**_: Any) -> None:
        try:
            raise RuntimeError(ALL_ATTACKS)  # noqa: TRY301
        except RuntimeError:
            logging.getLogger("somebody.else").exception("it said %s", ALL_ATTACKS)

    run(logs)
    shown = capfd.readouterr().err
    assert "Traceback" in shown
    assert bad_characters(shown.encode()) == set()
    assert logging.lastResort is before


@pytest.mark.parametrize("words", [("\x1b[2J",), ("--\x1b[2J",), ("render", "\x1b]0;x\x07"), ("jobs", "-n", "\u202ex")])
def test_wrong_usage_is_told_inert(words: tuple[str, ...]) -> None:
    code = "from flargo.tools.cli.main import main; import sys; sys.argv[0] = 'flargo'; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\\" in done.stderr
    assert bad_characters(done.stderr) == set()
