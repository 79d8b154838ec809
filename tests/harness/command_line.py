"""The command line as people call it, in this process."""

from pathlib import Path

from click.testing import CliRunner, Result

from flargo.tools.cli.main import group


def run(*arguments: str | Path) -> Result:
    """Run ``flargo`` with these arguments; an exception that would be a traceback fails the test."""
    done = CliRunner().invoke(group(), [str(each) for each in arguments], prog_name="flargo")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def file_contents(root: Path) -> dict[str, bytes]:
    """The content of each file below a folder, by its path relative to the folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
