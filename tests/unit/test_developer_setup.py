"""The first commands of a contributor: `make` prepares .venv, and pre-commit runs what `make lint` runs."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.harness.paths import ROOT

PYTHON = """\
#!/bin/sh
# Replaces a Python: logs its arguments, and creates a venv whose pip does nothing.
echo "$@" >> {log}
case "$1" in
  -c) exec python3 -c "import sys; sys.version_info = {version}; exec(sys.argv[1])" "$2" ;;
  -m) if [ "$3" = --clear ]; then rm -rf .venv; fi
      mkdir -p .venv/bin; printf '#!/bin/sh\\n' > .venv/bin/pip; chmod +x .venv/bin/pip ;;
esac
"""


@pytest.fixture(autouse=True)
def first_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide that `make unit` may be running these tests: a nested make prints which folder it enters."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a folder with the Makefile and the files on which its rules for .venv depend."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-demo.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def make(checkout: Path, target: str, version: tuple[int, int] = (3, 11)) -> "subprocess.CompletedProcess[str]":
    python = checkout / "python"
    python.write_text(PYTHON.format(log=checkout / "log", version=version))
    python.chmod(0o755)
    command = ("make", f"PYTHON={python}", target)
    return subprocess.run(command, cwd=checkout, text=True, capture_output=True, check=False)


def calls(checkout: Path) -> list[str]:
    """Return the logged calls of Python, except those that ask for its version."""
    return [line for line in (checkout / "log").read_text().splitlines() if not line.startswith("-c")]


@pytest.mark.parametrize("target", [".venv/ready", ".venv/demo"])
def test_old_python_is_rejected_before_installing(checkout: Path, target: str) -> None:
    """The error names the version, and no venv is created."""
    result = make(checkout, target, (3, 9))
    assert result.returncode != 0
    assert "flargo needs Python 3.11 or newer" in result.stderr
    assert "is 3.9" in result.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("target", [".venv/ready", ".venv/demo"])
def test_incomplete_venv_is_created_again(checkout: Path, target: str) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "incomplete").touch()
    result = make(checkout, target)
    assert result.returncode == 0, result.stderr
    assert "Installing" in result.stdout
    assert calls(checkout) == ["-m venv --clear .venv"]
    assert not (checkout / ".venv" / "incomplete").exists()
    assert (checkout / target).exists()


def test_developer_tools_extend_the_demo_venv(checkout: Path) -> None:
    for target in (".venv/demo", ".venv/ready"):
        assert make(checkout, target).returncode == 0
    assert calls(checkout) == ["-m venv --clear .venv"]


@pytest.mark.parametrize(("stamp", "installs"), [("", "demo"), ("ready", "")])
def test_demo_installs_only_what_it_needs(checkout: Path, stamp: str, installs: str) -> None:
    (checkout / ".venv").mkdir()
    if stamp:
        (checkout / ".venv" / stamp).touch()
    result = subprocess.run(("make", "-n", "demo"), cwd=checkout, text=True, capture_output=True, check=True)
    locks = set(re.findall(r"-r (\S+)", result.stdout))
    assert locks == ({f"requirements-{installs}.lock"} if installs else set())


def test_pre_commit_runs_what_make_lint_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    command = ("make", "-n", "-o", ".venv/ready", "lint")
    lint = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert hooks == lint.splitlines()
