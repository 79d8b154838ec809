"""The server's processes of jobs, as far as a client's parent can ask for them."""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode, ReturnReason
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message

from flargo.terms import ServerJob


class ServerJobs:
    """A cell's connection with FLARE's server, which answers the probes of jobs' processes. They run by default."""

    def __init__(self) -> None:
        self._answers: defaultdict[str, deque[ServerJob]] = defaultdict(lambda: deque([ServerJob.RUNS]))
        self._probes: defaultdict[str, int] = defaultdict(int)

    def answer(self, job_id: str, *answers: ServerJob) -> None:
        """Give the next probes of a job these answers; the last one is repeated."""
        self._answers[job_id] = deque(answers)

    def probes(self, job_id: str) -> int:
        """Return how many probes of a job there were."""
        return self._probes[job_id]

    def send_request(self, *, target: str, **_: Any) -> Message:
        """Answer a probe as nvflare 2.9 does (cellnet/core_cell.py, net_agent.py)."""
        job_id = FQCN.split(target)[-1]
        answers = self._answers[job_id]
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        self._probes[job_id] += 1
        match answer:
            case ServerJob.RUNS:
                return _reply(ReturnCode.OK, [(MessageHeaderKey.ORIGIN, target)])
            case ServerJob.GONE:
                returned = (MessageHeaderKey.RETURN_REASON, ReturnReason.CANT_FORWARD)
                return _reply(ReturnCode.COMM_ERROR, [(MessageHeaderKey.ORIGIN, FQCN.ROOT_SERVER), returned])
            case ServerJob.UNKNOWN:
                return _reply(ReturnCode.TIMEOUT, [])


def _reply(code: str, headers: Iterable[tuple[str, str]]) -> Message:
    message: Message = make_reply(code)
    message.add_headers(dict(headers))
    return message
