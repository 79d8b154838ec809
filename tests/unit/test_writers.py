"""Commands write only through flargo.tools.cli.output and flargo.tools.terminal, which make foreign text inert."""

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
import yaml

import flargo
from flargo.tools import terminal
from flargo.tools.cli import formats, output
from flargo.tools.jobs.table import Column
from tests.harness.attacks import ALL_ATTACKS, ATTACKS, bad_characters

ROOT = Path(flargo.__file__).parent
WRITERS = {"tools/cli/output.py", "tools/terminal.py"}
EXCEPTIONS = {
    "tools/cli/streams.py": ["sys.stderr.write"],  # without click, or without stdout, there is no other writer
    "embedded/__main__.py": ["print", "print"],  # not a command of flargo's: it prints its own address and file
    "tools/demo/train.py": ["print"],  # not a command either: the program of the demo's job, which prints to its log
}
CALLS = {"echo", "secho", "echo_via_pager", "print", "print_exc", "print_exception", "print_json", "confirm", "prompt"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
RICH = {
    "rich.console": {"Console", "Group", "RenderableType"},
    "rich.live": {"Live"},
}
"""The names of rich that other modules may use: they draw what flargo.tools.terminal has built, and create no text."""


def find_direct_writes(source: str) -> Iterator[str]:
    """Yield the calls and imports in a module that write to a stream, or create a text for rich, directly."""
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
def test_only_writers_write(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name not in WRITERS:
        assert [*find_direct_writes(path.read_text())] == EXCEPTIONS.get(name, [])


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
def test_direct_writes_are_detected(source: str) -> None:
    assert [*find_direct_writes(source)]


# The writers


@pytest.mark.parametrize("name", ATTACKS)
def test_writers_make_attacks_inert(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    attack = ATTACKS[name]
    output.write_line(attack)
    output.write_hanging(attack, attack, mark=attack)
    output.write_document(f"{attack}\n")
    output.write_message(attack)
    with pytest.raises(SystemExit):
        output.fail(attack, {}, 1, None)
    captured = capfd.readouterr()
    lines = 1 + attack.count("\n")
    assert (captured.out.count("\n"), captured.err.count("\n")) == (2 + lines, 2), "only documents have more lines"
    assert bad_characters(captured.out.encode()) | bad_characters(captured.err.encode()) == set()


@pytest.mark.parametrize("name", ATTACKS)
def test_json_is_ascii_and_valid_unicode(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    attack = ATTACKS[name]
    output.write_result({"text": [attack], attack: 1}, formats.Format.JSON)
    output.write_next_result({"text": attack}, formats.Format.JSON)
    output_text = capfd.readouterr().out
    assert bad_characters(output_text.encode()) == set()
    assert output_text.isascii()
    text = json.loads(output_text.splitlines()[-1])["text"]
    assert text.encode().decode() == text
    assert "\ufffd" in text or text == attack


@pytest.mark.parametrize("name", ATTACKS)
def test_yaml_is_ascii_and_valid_unicode(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    attack = ATTACKS[name]
    output.write_next_result({"text": [attack], attack: 1}, formats.Format.YAML)
    output.write_next_result({"text": attack}, formats.Format.YAML)
    output_text = capfd.readouterr().out
    assert bad_characters(output_text.encode()) == set()
    assert output_text.isascii()
    _, document = yaml.safe_load_all(output_text)
    text = document["text"]
    assert text.encode().decode() == text
    assert "\ufffd" in text or text == attack


def test_writers_redact_tokens(capfd: pytest.CaptureFixture[str]) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
    output.write_line(token)
    output.write_message(token)
    output.write_hanging("head ", token)
    output.write_next_result({token: token}, formats.Format.JSON)
    output.write_result({token: token}, formats.Format.YAML)
    terminal.write(terminal.console(), terminal.line(token))
    captured = capfd.readouterr()
    assert token not in captured.out + captured.err
    assert (captured.out + captured.err).count("[redacted]") == 8


def test_table_shows_markup_literally(capfd: pytest.CaptureFixture[str]) -> None:
    cells: list[terminal.Cell] = ["[red]x[/red]", ("[link=https://evil.example]y[/]", "bold"), "\x1b[31mz"]
    headers = [Column(name, lambda *_: "") for name in "ABC"]
    for line in terminal.table(headers, [cells]):
        terminal.write(terminal.console(), line)
    output_text = capfd.readouterr().out
    assert "[red]x[/red]" in output_text
    assert "[link=https://evil.example]y[/]" in output_text
    assert "\\x1b[31mz" in output_text


def run(command: click.Command) -> None:
    command.main([], standalone_mode=False)


def test_library_warnings_are_inert(capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @formats.output_options(*formats.DOCUMENTS)
    @output.report_errors
    def warns(**_: Any) -> None:
        warnings.simplefilter("always")
        warnings.warn(ALL_ATTACKS, UserWarning, stacklevel=1)

    run(warns)
    output_text = capfd.readouterr().err
    assert output_text.startswith("Warning: UserWarning: ")
    assert bad_characters(output_text.encode()) == set()


def test_library_logs_are_inert(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = logging.lastResort

    @click.command()
    @formats.output_options(*formats.DOCUMENTS)
    @output.report_errors
    def logs(**_: Any) -> None:
        try:
            raise RuntimeError(ALL_ATTACKS)  # noqa: TRY301
        except RuntimeError:
            logging.getLogger("somebody.else").exception("it said %s", ALL_ATTACKS)

    run(logs)
    output_text = capfd.readouterr().err
    assert "Traceback" in output_text
    assert bad_characters(output_text.encode()) == set()
    assert logging.lastResort is before


@pytest.mark.parametrize(
    "arguments", [("\x1b[2J",), ("--\x1b[2J",), ("render", "\x1b]0;x\x07"), ("jobs", "-n", "\u202ex")]
)
def test_usage_errors_are_inert(arguments: tuple[str, ...]) -> None:
    code = "from flargo.tools.cli.main import main; import sys; sys.argv[0] = 'flargo'; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
    assert result.returncode == 2
    assert b"\\" in result.stderr
    assert bad_characters(result.stderr) == set()
