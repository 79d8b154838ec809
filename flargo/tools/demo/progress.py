"""What is happening, as data and as words: from the cluster's objects, FLARE's status and a log to lines. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flargo.job.names import label_value
from flargo.parsing import whole_number
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.views import workflow_view
from flargo.terms import Label, Object
from flargo.tools.jobs.site_job import STAGE_TEXTS, diagnose_workflow

_ENDED = "FINISHED:"
"""What FLARE's status of a job that has ended begins with (nvflare 2.9, RunStatus)."""
COMPLETED = "FINISHED:COMPLETED"
_WORDS = {**STAGE_TEXTS, Stage.ABSENT: "waits for FLARE"}
# What nvflare 2.9's FedAvg logs (app_common/workflows/fedavg.py); it counts rounds from 0.
_BEGUN = re.compile(r"Round ([0-9]+) started")
_GOT = re.compile(r"Aggregated ([0-9]+)/([0-9]+) results")
_MAX_COUNTED = 10**6
"""Rounds, and results of a round. A line that tells of more is not FLARE's."""


@dataclass(frozen=True, slots=True)
class Party:
    """The server or a site, and how its part of the job is."""

    name: str
    workflow: str = ""
    stage: Stage = Stage.ABSENT
    reason: Reason | None = None
    detail: str = ""

    @property
    def words(self) -> str:
        """How it is, for people."""
        if self.reason is Reason.SUCCEEDED:
            return "ended (exit code 0)"
        if self.reason is not None:
            return f"{self.reason.sentence.rstrip('.')}" + (f" ({self.detail})" if self.detail else "")
        return _WORDS[self.stage]


@dataclass(frozen=True, slots=True)
class Round:
    """A round of training, counted from 1."""

    number: int
    got: int = 0
    of: int = 0
    """Results averaged, of so many expected; 0: not yet."""

    def words(self, total: int) -> str:
        """How it is, for people; ``total`` is 0 where it is not known."""
        name = f"round {self.number}" + (f" of {total}" if total else "")
        return f"{name}: {self.got} of {self.of} results averaged" if self.of else f"{name}: sites train"


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is seen of a job at one moment."""

    parties: tuple[Party, ...] = ()
    status: str = ""
    """FLARE's."""
    rounds: tuple[Round, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether FLARE says that it has ended."""
        return self.status.startswith(_ENDED)

    @property
    def over(self) -> bool:
        """Whether nothing of it is on the cluster that has not ended."""
        return all(party.stage in {Stage.ENDED, Stage.ABSENT} for party in self.parties)


def parties(names: Iterable[str], workflows: Sequence[Object], pods: Sequence[Object]) -> tuple[Party, ...]:
    """How each party's part of the job is.

    Args:
        names: of the parties, as FLARE knows them.
        workflows: this job's, as they are on the wire.
        pods: likewise.
    """
    found = {item["metadata"]["labels"][Label.SITE]: item for item in workflows}
    return tuple(_party(name, found.get(label_value(name)), pods) for name in names)


def rounds(log: str) -> tuple[Round, ...]:
    """The rounds that the log of the server's job process tells of."""
    found: list[Round] = []
    for line in log.splitlines():
        if begun := _BEGUN.search(line):
            number = whole_number(begun[1], _MAX_COUNTED)
            found += [Round(number + 1)] if number is not None else []
        elif found and (told := _GOT.search(line)):
            got, of = whole_number(told[1], _MAX_COUNTED), whole_number(told[2], _MAX_COUNTED)
            if got is not None and of is not None:
                found[-1] = Round(found[-1].number, got, of)
    return tuple(found)


def news(before: Seen, now: Seen, total: int = 0) -> Iterator[str]:
    """What has changed, a line each.

    Args:
        before: what was seen before.
        now: what is seen now.
        total: how many rounds there will be; 0: nobody knows.
    """
    was = {party.name: party for party in before.parties}
    width = max((len(party.name) for party in now.parties), default=0)
    for party in now.parties:
        old = was.get(party.name, Party(party.name))
        if party.words != old.words:
            yield f"{party.name:{width}}  {party.words}" + (f", Workflow {party.workflow}" if not old.workflow else "")
    known = set(before.rounds)
    yield from (each.words(total) for each in now.rounds if each not in known)
    if now.status != before.status and now.status:
        yield f"FLARE says {now.status}"


def _party(name: str, workflow: Object | None, pods: Sequence[Object]) -> Party:
    if workflow is None:
        return Party(name)
    found = diagnose_workflow(workflow, pods)
    return Party(name, workflow_view(workflow).name, found.stage, found.reason, found.detail)
