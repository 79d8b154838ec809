"""A page of the docs that is run as it stands: the files that it shows, and the commands, step by step."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """A page with steps (``## 1. ...``), ``sh`` blocks to run, and YAML blocks that begin with their file's name.

    Blocks without a language are commands that only people run.
    """

    def __init__(self, path: Path, instead: Mapping[str, str]) -> None:
        """Read it; ``instead`` has other words for those that a reader has to replace as well."""
        text = path.read_text()
        for theirs, ours in instead.items():
            assert theirs in text, f"{path.name} has no {theirs}"
            text = text.replace(theirs, ours)
        first, *steps = re.split(r"^## (?=\d+\.)", text, flags=re.MULTILINE)
        assert not _FENCE.findall(first)
        self._steps = {int(step.partition(".")[0]): _FENCE.findall(step) for step in steps}

    def run(self, step: int, folder: Path, environment: Mapping[str, str]) -> str:
        """Write a step's files and run its commands in a folder, all in one shell, as a person would.

        Returns what they print, or fails with it.
        """
        blocks = self._steps[step]
        assert {language for language, _ in blocks} <= {"yaml", "sh"}
        for language, content in blocks:
            if language == "yaml":
                (folder / content.partition("\n")[0].removeprefix("# ")).write_text(content)
        commands = "".join(content for language, content in blocks if language == "sh")
        with subprocess.Popen(
            ("bash", "-euo", "pipefail", "-c", commands),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as shell:
            printed = shell.communicate()[0]
        with contextlib.suppress(ProcessLookupError):  # what it left in the background, where it failed half way
            os.killpg(shell.pid, signal.SIGTERM)
        assert shell.returncode == 0, f"{commands}\n{printed}"
        return printed
