"""Where Argo keeps what is gone from the cluster: what the commands that look for it are told, and the way there."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from flargo.cluster.api import Api
from flargo.flare.redact import REDACTION
from flargo.job.validate import HIDDEN, InvalidInput
from flargo.tools.cli.output import PROBLEM, say
from flargo.tools.jobs.archive_reader import ArchiveReader, WithArchive
from flargo.tools.jobs.reader import ClusterReader, Reader

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False)
_TOKEN = re.compile(r"\s*(?:bearer\s+)?([!-~]+)\s*", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s?#@]+", re.IGNORECASE)


class Place(NamedTuple):
    """An archive, as it was said."""

    server: str | None
    token: str | None
    ca: str | None


def archive_options(command: Command) -> Command:
    """A command that may read Argo's archive: it is told where that is, as ``archive``."""

    @functools.wraps(command)
    def wrapped(*args: Any, argo_server: str | None, argo_token: str | None, argo_ca: str | None, **more: Any) -> None:
        command(*args, archive=Place(argo_server, argo_token, argo_ca), **more)

    made = click.option("--argo-ca", type=_FILE, help="With the certificates to trust instead of the usual.")(wrapped)
    made = click.option("--argo-token", type=_FILE, help="With a bearer token for the Argo Server.")(made)
    said = "An Argo Server, to tell of what is gone from the cluster, too: by Argo's archive."
    return click.option("--argo-server", metavar="URL", help=said)(made)  # type: ignore[return-value]


def reader(api: Api, archive: Place) -> Reader:
    """What reads the cluster, and the archive if there is one; nothing is asked yet.

    Raises:
        Refused: an option is wrong, or of no use.
        OSError: a file can't be read.
    """
    cluster = ClusterReader(api)
    if archive.server is None:
        for option, value in (("--argo-token", archive.token), ("--argo-ca", archive.ca)):
            if value is not None:
                raise InvalidInput(option, value, "nothing without --argo-server")
        return cluster
    server, token = _server(archive.server), _token(archive.token) if archive.token is not None else None
    from flargo.cluster.argo_archive import Archive  # noqa: PLC0415  (imports Hera, which takes a second)

    return WithArchive(cluster, ArchiveReader(Archive(server, api.namespace, token, archive.ca)))


def troubled(source: Reader) -> None:
    """What could not be read is told beside what could, and the command fails."""
    if source.trouble:
        say(f"Error: {source.trouble}")
        raise SystemExit(PROBLEM)


def _server(said: str) -> str:
    try:
        fine = bool(_ADDRESS.fullmatch(said)) and bool(urlsplit(said).hostname) and urlsplit(said).port != 0
    except ValueError:  # a port that is none
        fine = False
    if not fine:
        # What stands before an @ may be a password.
        value = HIDDEN if "@" in said else said
        raise InvalidInput(
            "--argo-server", value, "an address as https://argo.example:2746, perhaps with a path after it"
        )
    return said


def _token(file: str) -> str:
    found = _TOKEN.fullmatch(Path(file).read_text(errors="replace"))
    if found is None:
        raise InvalidInput("--argo-token", file, "a file with one token and nothing else but the word Bearer before it")
    REDACTION.learn_own_token(found[1])
    return f"Bearer {found[1]}"
