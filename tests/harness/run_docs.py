"""Runs a page of the docs as it stands: writes the files that it shows, and runs its commands, step by step."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """A page with steps (``## 1. ...``), ``sh`` blocks to run, and YAML blocks whose first line names their file.

    Blocks without a language hold commands for people only, and are not run.
    """

    def __init__(self, path: Path, replacements: Mapping[str, str]) -> None:
        """Read a page, and replace the names that its reader has to replace as well."""
        text = path.read_text()
        for old, new in replacements.items():
            assert old in text, f"{path.name} has no {old}"
            text = text.replace(old, new)
        first, *steps = re.split(r"^## (?=\d+\.)", text, flags=re.MULTILINE)
        assert not _FENCE.findall(first)
        self._steps = {int(step.partition(".")[0]): _FENCE.findall(step) for step in steps}

    def run(self, step: int, folder: Path, environment: Mapping[str, str]) -> str:
        """Write a step's files and run its commands in a folder, all in one shell, as a person would.

        Return what the commands print; fail with that if one of them fails.
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
            output = shell.communicate()[0]
        with contextlib.suppress(ProcessLookupError):  # background processes of a step that failed half way
            os.killpg(shell.pid, signal.SIGTERM)
        assert shell.returncode == 0, f"{commands}\n{output}"
        return output
