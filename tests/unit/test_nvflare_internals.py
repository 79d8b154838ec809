"""What flargo does with nvflare's internals: the probe of the server's process of a job."""

from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode, ReturnReason
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

from flargo.flare.nvflare_internals import PROBE_SECONDS, ServerJobProbe
from flargo.terms import ServerJob
from tests.harness.differential.cases import JOB_ID

TARGET = f"server.{JOB_ID}"


def reply(code: str, origin: str | None = None, reason: str | None = None) -> Message:
    """Return a reply as nvflare's cells build it: one of the cell's own has no origin."""
    message: Message = make_reply(code)
    headers = {MessageHeaderKey.ORIGIN: origin, MessageHeaderKey.RETURN_REASON: reason}
    message.add_headers({key: value for key, value in headers.items() if value is not None})
    return message


def probe(answer: Any) -> ServerJob:
    """Probe with a cell that gives an answer, or raises it."""

    def send_request(**_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ServerJobProbe(SimpleNamespace(core_cell=SimpleNamespace(send_request=send_request)), JOB_ID).probe()


def test_an_answer_of_the_process_means_it_runs() -> None:
    assert probe(reply(ReturnCode.OK, TARGET)) is ServerJob.RUNS


def test_the_servers_return_means_the_process_is_gone() -> None:
    """The server cannot forward the request, because no such cell is connected to it."""
    assert probe(reply(ReturnCode.COMM_ERROR, "server", ReturnReason.CANT_FORWARD)) is ServerJob.GONE


@pytest.mark.parametrize(
    "answer",
    [
        reply(ReturnCode.TIMEOUT),
        reply(ReturnCode.TARGET_UNREACHABLE),  # this parent has lost the server
        reply(ReturnCode.COMM_ERROR),  # this parent's own cell could not send
        reply(ReturnCode.COMM_ERROR, "relay-1", ReturnReason.CANT_FORWARD),  # the relay has lost the server
        reply(ReturnCode.UNAUTHENTICATED, "server", ReturnReason.INTERCEPT),  # the server does not know this client
        reply(ReturnCode.PROCESS_EXCEPTION, TARGET),
        reply(ReturnCode.OK, "server"),
        RuntimeError("Messenger is not running"),
        AttributeError("core_cell"),
        None,
    ],
    ids=range(10),
)
def test_anything_else_is_unknown(answer: object) -> None:
    """An attempt must not be given up because of a lost connection."""
    assert probe(answer) is ServerJob.UNKNOWN


def test_a_probe_is_bounded_and_silent() -> None:
    """Cells log failed requests as errors unless they are optional."""
    requests: list[dict[str, Any]] = []
    cell = SimpleNamespace(core_cell=SimpleNamespace(send_request=lambda **request: requests.append(request)))
    ServerJobProbe(cell, JOB_ID).probe()
    (request,) = requests
    assert (request["target"], request["timeout"], request["optional"]) == (TARGET, PROBE_SECONDS, True)
    assert PROBE_SECONDS <= 5
