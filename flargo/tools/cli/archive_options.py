"""The options that name an Argo Server with an archive, and the reader that they lead to."""

import functools
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from flargo.cluster.api import Api
from flargo.cluster.token_file import TokenFileError, read_bearer_token
from flargo.flare.redact import REDACTION
from flargo.job.validate import HIDDEN, InvalidInput
from flargo.tools.cli.option_types import FILE
from flargo.tools.cli.output import EXIT_PROBLEM, Command, write_message
from flargo.tools.jobs.archive_reader import ArchiveReader, ClusterAndArchiveReader
from flargo.tools.jobs.reader import ClusterReader, Reader

_URL = re.compile(r"https?://[^\s?#@]+", re.IGNORECASE)


class ArchiveOptions(NamedTuple):
    """The values of the archive's options, not yet checked."""

    server: str | None
    token_file: str | None
    ca_file: str | None


def archive_options(command: Command) -> Command:
    """Add the options that name an archive. The command takes them as ``archive``."""

    @functools.wraps(command)
    def with_archive(
        *args: Any, argo_server: str | None, argo_token: str | None, argo_ca: str | None, **options: Any
    ) -> None:
        command(*args, archive=ArchiveOptions(argo_server, argo_token, argo_ca), **options)

    ca_help = "A file with the CA certificates to trust for the Argo Server, in place of the system's."
    token_help = "A file with a bearer token for the Argo Server."  # noqa: S105  (no token)
    server_help = "An Argo Server whose archive is read too, for jobs that were deleted from the cluster."
    with_ca = click.option("--argo-ca", type=FILE, help=ca_help)(with_archive)
    with_token = click.option("--argo-token", type=FILE, help=token_help)(with_ca)
    return click.option("--argo-server", metavar="URL", help=server_help)(with_token)  # type: ignore[return-value]


def build_reader(api: Api, archive: ArchiveOptions) -> Reader:
    """Return a reader of the cluster, and of the archive if the options name one. No request is made.

    Raises:
        InvalidInput: an option is wrong.
        UsageError: an option has no effect without another one.
        OSError: a file cannot be read.
    """
    cluster = ClusterReader(api)
    if archive.server is None:
        for option, value in (("--argo-token", archive.token_file), ("--argo-ca", archive.ca_file)):
            if value is not None:
                raise click.UsageError(f"{option} needs --argo-server.")
        return cluster
    server = _checked_url(archive.server)
    token = _authorization(archive.token_file) if archive.token_file is not None else None
    from flargo.cluster.argo_archive import Archive  # noqa: PLC0415  (imports Hera, which takes a second)

    return ClusterAndArchiveReader(cluster, ArchiveReader(Archive(server, api.namespace, token, archive.ca_file)))


def fail_if_incomplete(reader: Reader) -> None:
    """Write what could not be read, after what could, and fail the command."""
    if reader.read_problem:
        write_message(f"Error: {reader.read_problem}")
        raise SystemExit(EXIT_PROBLEM)


def _checked_url(url: str) -> str:
    try:
        is_valid = bool(_URL.fullmatch(url)) and bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # the port is no number
        is_valid = False
    if not is_valid:
        # What stands before an @ may be a password.
        value = HIDDEN if "@" in url else url
        raise InvalidInput(
            "--argo-server", value, "an address as https://argo.example:2746, perhaps with a path after it"
        )
    return url


def _authorization(token_file: str) -> str:
    try:
        token = read_bearer_token(token_file)
    except TokenFileError:
        raise InvalidInput(
            "--argo-token", token_file, "a file with one token and nothing else but the word Bearer before it"
        ) from None
    REDACTION.learn_own_token(token)
    return f"Bearer {token}"
