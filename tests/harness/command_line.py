"""The command line as people call it, in this process, and the files that it works on."""

from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from flargo.tools.cli.main import group


def run(*arguments: str | Path, color: bool = False) -> Result:
    """Run ``flargo`` with these arguments; an exception that would print a traceback fails the test.

    With ``color``, stdout counts as a terminal for click, which then leaves colours in it.
    """
    result = CliRunner().invoke(group(), [str(each) for each in arguments], prog_name="flargo", color=color)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def file_contents(root: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder, by its path relative to the folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write_kubeconfig(path: Path, server: str = "https://127.0.0.1:1", **context: str) -> str:
    """Write a kubeconfig with two contexts, ``one`` (with these fields besides) and ``two``, and return its path."""
    names = {"cluster": "c", "user": "u"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t0psecret"}}],
        "contexts": [{"name": "one", "context": {**names, **context}}, {"name": "two", "context": names}],
        "current-context": "one",
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)
