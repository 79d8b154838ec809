"""Reads Argo's archive through an Argo Server, with Hera's WorkflowsService; Workflows are plain dicts.

Hera knows the paths, the parameters and the models. The session that it gets from here limits each response in time and
size, and raises ArchiveError for an error status: Hera itself assumes that an error response has a certain form.
Importing Hera takes a second, so import this module only where an archive is read.
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

from flargo.cluster.api import MAX_PAGES, PAGE_SIZE
from flargo.cluster.bodies import CHUNK_BYTES, MAX_ERROR_RESPONSE_BYTES, TooLongError
from flargo.cluster.connection import CONNECT_TIMEOUT
from flargo.cluster.error_text import describe
from flargo.cluster.errors import MAX_MESSAGE_LENGTH, ArchiveError, ArchiveProblem
from flargo.parsing import is_uid
from flargo.terms import Object

READ_TIMEOUT = 30.0
"""Seconds without a byte after which a request fails: the database may be slow to read a page of a large archive."""
MAX_BODY_SECONDS = 120.0
"""Seconds within which the whole body of a response must have arrived, even if its bytes arrive steadily."""
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""Bytes of a successful response. A Workflow has 1.5 MiB at most, and a list holds only a little of each."""
_PATH = re.compile(r"api/v1/archived-workflows(/[A-Za-z0-9][-A-Za-z0-9]*)?")
"""The paths of the two requests, below the path that the Argo Server is served under."""
_NO_LIMIT = 0
"""The page size with which Argo lists everything at once (Argo 3.7, persist/sqldb/selector.go)."""
_MAY_BE_TOO_LARGE = frozenset(
    {
        ArchiveProblem.INVALID_ANSWER,
        ArchiveProblem.TIMEOUT,
        ArchiveProblem.SERVER_ERROR,
        ArchiveProblem.REFUSED,
    }
)
"""How the list of a large archive in one answer may fail although its pages can be read: it is larger than flargo reads
or Argo's own gRPC messages may be (MaxGRPCMessageSize, which answers 429), or a database or gateway takes too long."""
_UNUSED_UID = "none"
"""A uid that no Workflow has."""
_UNSUPPORTED = "not supported"
"""Part of the error of an Argo Server without an archive when one Workflow is requested (Argo 3.7, persist/sqldb/
null_workflow_archive.go). If a list is requested, such a server returns an empty one."""
Model = TypeVar("Model", bound=BaseModel)


class Archive:
    """Reads the archived Workflows of one namespace. Every method raises ArchiveError, and nothing else."""

    def __init__(self, server: str, namespace: str, token: str | None = None, ca: str | None = None) -> None:
        """Prepare the session; no request is sent yet.

        Args:
            server: the Argo Server's address, with the path that it is served under.
            namespace: the namespace of the Workflows.
            token: a bearer token, with or without the word Bearer in front; None if the server needs no token.
            ca: a file with the certificates to trust instead of the usual ones.
        """
        self._server = server
        # Without the slash, urljoin would drop the last part of the path that the server is served under.
        host, verify = f"{server.rstrip('/')}/", ca if ca is not None else True
        session = _Session(server)
        self._service = WorkflowsService(host, verify, token, session=session)  # type: ignore[arg-type]
        self._namespace = namespace

    def list(self, labels: str) -> list[Object]:
        """List the Workflows that match a label selector, the latest start first.

        A listed Workflow has metadata, phase and message, but neither steps nor most of the spec (Argo 3.7,
        ListWorkflows).
        """
        workflows: dict[str, Object] = {}
        page, read_pages, count = "", set[str](), 0
        while page not in read_pages:
            if len(read_pages) >= MAX_PAGES:
                raise self._invalid_answer(f"its list has more than {MAX_PAGES} pages")
            read_pages.add(page)
            answer = self._request(partial(self._list_page, labels, page))
            count += len(answer.items or ())
            for item in answer.items or ():
                workflows.setdefault(*self._to_plain(item))
            page = answer.metadata.continue_ or ""
            if not page:
                if not workflows:
                    self._check_archive_exists()
                return [*(self._add_left_out(labels, workflows) if count > len(workflows) else workflows).values()]
        raise self._invalid_answer("it returns a page of the list twice")

    def _add_left_out(self, labels: str, listed: dict[str, Object]) -> dict[str, Object]:
        """List the Workflows in one answer, and return them together with those that were listed by pages.

        Argo orders Workflows by the second of their start, and a page is an offset (Argo 3.7, persist/sqldb). So of
        several that started in one second, a page may repeat one and leave out another one. A Workflow that is archived
        meanwhile also makes one appear twice.
        """
        try:
            answer = self._request(partial(self._list_page, labels, "", limit=_NO_LIMIT))
        except ArchiveError as error:
            if error.problem not in _MAY_BE_TOO_LARGE:
                raise
            return listed
        return {**dict(map(self._to_plain, answer.items or ())), **listed}

    def _list_page(self, labels: str, page: str, limit: int | None = None) -> WorkflowList:
        size = str(PAGE_SIZE if limit is None else limit)
        return self._service.list_archived_workflows(
            labels, limit=size, continue_=page or None, namespace=self._namespace
        )

    def get(self, uid: str) -> Object | None:
        """Read a whole Workflow by its uid; None if the archive does not have it, or no longer."""
        if not is_uid(uid):
            # The uid becomes part of a path, and Hera escapes nothing.
            raise self._invalid_answer("it listed a Workflow with an invalid uid")
        try:
            answer_uid, workflow = self._to_plain(self._request(partial(self._service.get_archived_workflow, uid)))
        except ArchiveError as error:
            if error.problem is ArchiveProblem.NOT_FOUND:
                return None
            raise
        if answer_uid != uid:
            raise self._invalid_answer("it returned another Workflow than the requested one")
        return workflow

    def _check_archive_exists(self) -> None:
        """Raise ArchiveError if the server keeps no archive, which its empty list does not show."""
        try:
            self.get(_UNUSED_UID)
        except ArchiveError as error:
            if _UNSUPPORTED in error.message:
                raise ArchiveError(self._server, ArchiveProblem.NO_ARCHIVE, error.message, error.status) from None
            raise

    def _to_plain(self, workflow: BaseModel) -> tuple[str, Object]:
        """Return a Workflow's uid, and the Workflow in the form that it has on the wire."""
        try:
            plain: Object = workflow.model_dump(mode="json", by_alias=True, exclude_none=True)
        except (TypeError, ValueError, RecursionError):  # pydantic raises ValueError at its own nesting limit
            raise self._invalid_answer("a Workflow can't be written as JSON") from None
        uid = plain["metadata"].get("uid")
        if not isinstance(uid, str) or not is_uid(uid):
            raise self._invalid_answer("a Workflow has no usable uid")
        return uid, plain

    def _request(self, call: Callable[[], Model]) -> Model:
        """Call a method of Hera's service; raise every failure as an ArchiveError."""
        try:
            return call()
        except requests.exceptions.JSONDecodeError:
            raise self._invalid_answer("its answer is not JSON") from None
        except TooLongError as error:
            raise self._invalid_answer(f"its answer has {error}") from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ArchiveError(self._server, _connection_problem(error), describe(error)) from None
        except RecursionError:
            raise self._invalid_answer("its answer is nested too deeply") from None
        except (TypeError, ValueError):  # raised by Hera's models (pydantic's error is a ValueError)
            raise self._invalid_answer("its answer does not have the shape of a Workflow") from None

    def _invalid_answer(self, message: str) -> ArchiveError:
        return ArchiveError(self._server, ArchiveProblem.INVALID_ANSWER, message)


class _Session(requests.Session):
    """A session that limits responses in time and size, requests only the archive's paths, and ignores ~/.netrc."""

    def __init__(self, server: str) -> None:
        super().__init__()
        self._server = server
        # Without an auth of its own, requests would replace the token by the host's entry in ~/.netrc.
        self.auth = _keep_request

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request within the limits; raise ArchiveError for a redirect or an error status."""
        limits = {"timeout": (CONNECT_TIMEOUT, READ_TIMEOUT), "allow_redirects": False, "stream": True}
        response = super().request(*args, **{**kwargs, **limits})
        with closing(response):
            if response.is_redirect:
                message = "it redirects to another URL, which flargo does not follow"
                raise ArchiveError(self._server, ArchiveProblem.INVALID_ANSWER, message)
            if not response.ok:
                raise self._error_from(response)
            _read_body(response, MAX_RESPONSE_BYTES)
        return response

    def _error_from(self, response: requests.Response) -> ArchiveError:
        message, status = _error_message(response), response.status_code
        if message is None and status == HTTPStatus.BAD_REQUEST and urlsplit(self._server).scheme.lower() == "http":
            # A server of https answers like this (Go's net/http), mostly cut off, so the answer has no message of Argo.
            return ArchiveError(self._server, ArchiveProblem.UNREACHABLE, "it may expect https")
        return ArchiveError.from_status(self._server, status, message if message is not None else response.reason or "")

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: requests would read a redirect's whole body to prepare a request that is never sent."""
        del resp

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, provided that its final URL is one of the archive's."""
        base, url = urlsplit(self._server), urlsplit(str(request.url))
        path = url.path.removeprefix(f"{base.path.rstrip('/')}/")
        if (url.scheme, url.hostname) != (base.scheme.lower(), base.hostname) or not _PATH.fullmatch(path):
            message = "its answer leads to a path outside its archive"
            raise ArchiveError(self._server, ArchiveProblem.INVALID_ANSWER, message)
        return super().send(request, **kwargs)


def _keep_request(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _read_body(response: requests.Response, max_bytes: int) -> None:
    """Read a response's body and store it where requests looks for it.

    Not shared with flargo.cluster.bodies.read_bounded: requests keeps the body of a response in its own way.

    Raises:
        TooLongError: the body is longer than ``max_bytes``.
        OSError, HTTPError: the body can't be read, or has not arrived within MAX_BODY_SECONDS.
    """
    body, deadline = bytearray(), time.monotonic() + MAX_BODY_SECONDS
    # read1 returns the bytes that have arrived. stream() would wait for a whole chunk, and miss the deadline.
    while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            raise TooLongError(f"more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout
    response._content, response._content_consumed = bytes(body), True  # noqa: SLF001


def _error_message(response: requests.Response) -> str | None:
    """Return Argo's message in an error response; None if there is none, as in a proxy's HTML page."""
    try:
        _read_body(response, MAX_ERROR_RESPONSE_BYTES)
        content = response.json()
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
        return None
    message = content.get("message") if isinstance(content, dict) else None
    return message[:MAX_MESSAGE_LENGTH] if isinstance(message, str) else None


def _connection_problem(error: Exception) -> ArchiveProblem:
    if isinstance(error, requests.exceptions.SSLError):
        return ArchiveProblem.UNTRUSTED
    timeouts = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)
    return ArchiveProblem.TIMEOUT if isinstance(error, timeouts) else ArchiveProblem.UNREACHABLE
