"""Which runs of `flargo demo` keep their folder, and what they say about it."""

import io
import shlex
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from flargo.tools.demo import run as module
from flargo.tools.demo.options import DemoError, Options
from flargo.tools.demo.run import DemoContext, Interrupted, run
from flargo.tools.demo.screen import Screen

FAILURES = {
    "error": DemoError("The job did not end"),
    "error with a traceback": DemoError("site-1: ValueError", ["Traceback", "ValueError"]),
    "wrong weights": 1,
    "a defect of the demo": ZeroDivisionError(),
}


class Run:
    """A run of the demo whose steps end in a given way, with its folder and its output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        self._monkeypatch = monkeypatch
        self._output = io.StringIO()
        self.root = temporary

    def ends(self, end: int | BaseException, keep: Path | None = None, *, has_started: bool = True) -> int | None:
        """Run it, and return the exit code; None if it raises."""

        def steps(demo: DemoContext, _: ExitStack) -> int:
            self.root = demo.root
            (demo.root / "kubeconfig").write_text("token: s3cret")
            if has_started:
                (demo.root / "logs").mkdir()
                (demo.root / "logs" / "server.log").write_text("a log")
            if isinstance(end, BaseException):
                raise end
            return end

        self._monkeypatch.setattr(module, "_run_demo", steps)
        try:
            return run(Options(keep=keep), Screen(Console(file=self._output, width=500)))
        except ZeroDivisionError:
            return None

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in self._output.getvalue().splitlines()]

    def has_line(self, text: str) -> bool:
        return any(line.endswith(text) for line in self.lines)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)


@pytest.mark.parametrize("end", FAILURES.values(), ids=FAILURES)
def test_a_failed_run_keeps_its_folder_and_says_where(demo: Run, end: int | BaseException) -> None:
    """The command that deletes it is printed, and a kubeconfig that may hold credentials is gone already."""
    assert demo.ends(end) in {1, None}
    assert (demo.root / "logs" / "server.log").read_text() == "a log"
    assert not (demo.root / "kubeconfig").exists()
    assert demo.has_line(f"s kept kits and logs: {demo.root}")
    (command,) = (line.partition(": ")[2] for line in demo.lines if line.startswith("to delete them"))
    subprocess.run(shlex.split(command), check=True)
    assert not demo.root.exists()


@pytest.mark.parametrize("end", [DemoError("The cluster can't be reached"), ZeroDivisionError()])
def test_a_run_that_fails_before_its_federation_starts_has_nothing_to_keep(demo: Run, end: BaseException) -> None:
    assert demo.ends(end, has_started=False) in {1, None}
    assert not demo.root.exists()
    assert not any("kept" in line for line in demo.lines)


@pytest.mark.parametrize("end", [0, *map(Interrupted, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))])
def test_a_run_that_succeeds_or_is_interrupted_keeps_nothing(demo: Run, end: int | BaseException) -> None:
    code = end.number + 128 if isinstance(end, Interrupted) else 0
    assert demo.ends(end) == code
    assert not demo.root.exists()
    assert not any("kept" in line for line in demo.lines)


@pytest.mark.parametrize("end", [0, Interrupted(signal.SIGINT), *FAILURES.values()])
def test_a_chosen_folder_is_kept_without_its_kubeconfig(demo: Run, tmp_path: Path, end: int | BaseException) -> None:
    demo.ends(end, tmp_path / "mine")
    assert (tmp_path / "mine").exists()
    assert not (tmp_path / "mine" / "kubeconfig").exists()
    result = ", and the result" if end == 0 else ""
    assert demo.has_line(f"s kept kits and logs{result}: {tmp_path / 'mine'}")
    assert not any("to delete" in line for line in demo.lines)
