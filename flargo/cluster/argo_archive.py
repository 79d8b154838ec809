"""Argo's archive, read through an Argo Server with Hera's WorkflowsService: Workflows in plain dicts.

Hera knows the paths, the parameters and the shapes. The session that it is given bounds each answer in time and size,
and raises the one error of this room where an answer is none: Hera's own reading of a refusal takes its form for
granted.
Importing Hera takes a second: import this module only where an archive is to be read.
"""

import re
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from hera.workflows.models import WorkflowList
from hera.workflows.service import WorkflowsService
from pydantic import BaseModel

from flargo.cluster.api import (
    CONNECT_TIMEOUT,
    MAX_ERROR_RESPONSE_BYTES,
    MAX_MESSAGE_LENGTH,
    MAX_PAGES,
    PAGE_SIZE,
    TooLongError,
)
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ArchiveError, ArchiveProblem
from flargo.parsing import is_uid
from flargo.terms import Object

READ_TIMEOUT = 30.0
"""Seconds: a page of a large archive is a slow question to its database."""
ANSWER_SECONDS = 120.0
"""Seconds in which the body of an answer must have come, however steadily it comes."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that is no refusal. A Workflow has 1.5 MiB at most, and a list tells little of each."""
_READ = 64 * 1024
"""Bytes that are read at once."""
_PATH = re.compile(r"api/v1/archived-workflows(/[A-Za-z0-9][-A-Za-z0-9]*)?")
"""The paths of the two questions, below the path that the Argo Server is served under."""
_NOBODY = "none"
"""A uid that no Workflow has."""
_UNSUPPORTED = "not supported"
"""What an Argo Server without an archive says to a question for one Workflow (Argo 3.7, persist/sqldb/
null_workflow_archive.go); asked for a list, it says that there are none."""
Answer = TypeVar("Answer", bound=BaseModel)


class Archive:
    """The archived Workflows of a namespace. Every method raises ArchiveError, and nothing else."""

    def __init__(self, server: str, namespace: str, token: str | None = None, ca: str | None = None) -> None:
        """Ask nothing yet.

        Args:
            server: the Argo Server's address, with the path that it is served under.
            namespace: whose Workflows.
            token: a bearer token, with or without that word before it; None where the server wants none.
            ca: a file with the certificates to trust in place of the usual ones.
        """
        self._server = server
        # Without the slash, a path that the server is served under would be lost (urljoin).
        host, verify = f"{server.rstrip('/')}/", ca if ca is not None else True
        session = _Session(server)
        self._service = WorkflowsService(host, verify, token, session=session)  # type: ignore[arg-type]
        self._namespace = namespace

    def list(self, labels: str) -> list[Object]:
        """What a list tells of the Workflows that a label selector matches, those that began last first.

        That is metadata, phase and message: neither the steps nor most of the spec (Argo 3.7, ListWorkflows).
        """
        found: dict[str, Object] = {}
        page, asked = "", set[str]()
        while page not in asked:
            if len(asked) >= MAX_PAGES:
                raise ArchiveError(self._server, ArchiveProblem.STRANGE, f"it names more than {MAX_PAGES} pages")
            asked.add(page)
            answer = self._ask(partial(self._page, labels, page))
            # What is archived meanwhile moves others to the next page, where they are told again.
            for item in answer.items or ():
                found.setdefault(*self._known(item))
            page = answer.metadata.continue_ or ""
            if not page:
                if not found:
                    self._see_that_it_is_kept()
                return [*found.values()]
        raise ArchiveError(self._server, ArchiveProblem.STRANGE, "it names a page again that it has told")

    def _page(self, labels: str, page: str) -> WorkflowList:
        return self._service.list_archived_workflows(
            labels, limit=str(PAGE_SIZE), continue_=page or None, namespace=self._namespace
        )

    def get(self, uid: str) -> Object | None:
        """The whole Workflow; None: it is not there, or no longer."""
        if not is_uid(uid):
            # It becomes part of a path, and Hera escapes nothing.
            raise ArchiveError(self._server, ArchiveProblem.STRANGE, "it told of a Workflow with an impossible uid")
        try:
            found, item = self._known(self._ask(partial(self._service.get_archived_workflow, uid)))
        except ArchiveError as error:
            if error.problem is ArchiveProblem.ABSENT:
                return None
            raise
        if found != uid:
            raise ArchiveError(
                self._server, ArchiveProblem.STRANGE, "it tells of another Workflow than it was asked for"
            )
        return item

    def _see_that_it_is_kept(self) -> None:
        try:
            self.get(_NOBODY)
        except ArchiveError as error:
            if _UNSUPPORTED in error.message:
                raise ArchiveError(self._server, ArchiveProblem.NO_ARCHIVE, error.message, error.status) from None
            raise

    def _known(self, item: BaseModel) -> tuple[str, Object]:
        """A Workflow as it is on the wire, with its uid."""
        try:
            plain: Object = item.model_dump(mode="json", by_alias=True, exclude_none=True)
        except (TypeError, ValueError, RecursionError):  # pydantic's own limit of nesting is a ValueError
            raise ArchiveError(
                self._server, ArchiveProblem.STRANGE, "a Workflow that can't be written as JSON"
            ) from None
        uid = plain["metadata"].get("uid")
        if not isinstance(uid, str) or not is_uid(uid):
            raise ArchiveError(self._server, ArchiveProblem.STRANGE, "a Workflow without a usable uid")
        return uid, plain

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except requests.exceptions.JSONDecodeError:
            raise ArchiveError(self._server, ArchiveProblem.STRANGE, "its answer is no JSON") from None
        except TooLongError as error:
            raise ArchiveError(self._server, ArchiveProblem.STRANGE, f"its answer has {error}") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ArchiveError(self._server, _what(error), describe(error)) from None
        except RecursionError:
            raise ArchiveError(self._server, ArchiveProblem.STRANGE, "its answer is nested too deeply") from None
        except (TypeError, ValueError):  # of Hera's models (pydantic's is a ValueError)
            raise ArchiveError(
                self._server, ArchiveProblem.STRANGE, "its answer has not the shape of a Workflow"
            ) from None


class _Session(requests.Session):
    """Bounds answers in time and size; holds them to the archive's paths; raises refusals; leaves ~/.netrc out."""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server = server
        # Or else what ~/.netrc has for the host would take the token's place.
        self.auth = _as_it_is

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """See requests."""
        bounds = {"timeout": (CONNECT_TIMEOUT, READ_TIMEOUT), "allow_redirects": False, "stream": True}
        response = super().request(*args, **{**kwargs, **bounds})
        with closing(response):
            if response.is_redirect:
                said = "it redirects elsewhere, which flargo does not follow"
                raise ArchiveError(self._server, ArchiveProblem.STRANGE, said)
            if not response.ok:
                raise self._refusal(response)
            _read_body(response, MAX_ANSWER)
        return response

    def _refusal(self, response: requests.Response) -> ArchiveError:
        message, status = _message(response), response.status_code
        if message is None and status == HTTPStatus.BAD_REQUEST and urlsplit(self._server).scheme.lower() == "http":
            # So answers a server of https (Go's net/http), and the answer is mostly cut off: no word of Argo's.
            return ArchiveError(self._server, ArchiveProblem.UNREACHED, "it may expect https")
        return ArchiveError.from_status(self._server, status, message if message is not None else response.reason or "")

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read the whole body of a redirect to prepare a request that is never sent."""
        del resp

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request whose final URL is one of the archive's; see requests."""
        base, sent = urlsplit(self._server), urlsplit(str(request.url))
        path = sent.path.removeprefix(f"{base.path.rstrip('/')}/")
        if (sent.scheme, sent.hostname) != (base.scheme.lower(), base.hostname) or not _PATH.fullmatch(path):
            raise ArchiveError(
                self._server, ArchiveProblem.STRANGE, "what it told leads to another path than its archive"
            )
        return super().send(request, **kwargs)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _read_body(response: requests.Response, most: int) -> None:
    """Read an answer's body where requests looks for it.

    Raises:
        TooLongError: it has more bytes than ``most``.
        OSError, HTTPError: it can't be read, or has not come within ANSWER_SECONDS.
    """
    body, deadline = bytearray(), time.monotonic() + ANSWER_SECONDS
    # read1 gives what has come: stream() would wait for a whole block, however slowly its bytes come.
    while chunk := response.raw.read1(_READ, decode_content=True):
        body += chunk
        if len(body) > most:
            raise TooLongError(f"more than {most} bytes")
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout
    response._content, response._content_consumed = bytes(body), True  # noqa: SLF001


def _message(response: requests.Response) -> str | None:
    """What Argo says in a refusal; None: nothing, as in a proxy's, which is mostly a page."""
    try:
        _read_body(response, MAX_ERROR_RESPONSE_BYTES)
        said = response.json()
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
        return None
    message = said.get("message") if isinstance(said, dict) else None
    return message[:MAX_MESSAGE_LENGTH] if isinstance(message, str) else None


def _what(error: Exception) -> ArchiveProblem:
    if isinstance(error, requests.exceptions.SSLError):
        return ArchiveProblem.UNTRUSTED
    timeouts = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
    return ArchiveProblem.SILENT if isinstance(error, timeouts) else ArchiveProblem.UNREACHED
