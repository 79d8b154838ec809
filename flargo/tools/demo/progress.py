"""Reads a job's progress from the cluster's objects, FLARE's status and a log, and describes it in lines. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from flargo.job.names import label_value
from flargo.log_rounds import MAX_NUMBER, parse_started_round
from flargo.parsing import whole_number
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.views import workflow_view
from flargo.terms import Label, Object
from flargo.tools.jobs.site_job import STAGE_TEXTS, diagnose_workflow

_FINISHED_PREFIX = "FINISHED:"
"""The prefix of FLARE's status of a job that has ended (nvflare 2.9, RunStatus)."""
_STATE_TEXTS = {**STAGE_TEXTS, Stage.ABSENT: "waits for FLARE"}
# A line that FedAvg of nvflare 2.9 logs (app_common/workflows/fedavg.py).
_RESULTS_AGGREGATED = re.compile(r"Aggregated ([0-9]+)/([0-9]+) results")


@dataclass(frozen=True, slots=True)
class Party:
    """The state of the job at one party, which is the server or a site."""

    name: str
    workflow: str = ""
    stage: Stage = Stage.ABSENT
    reason: Reason | None = None
    detail: str = ""

    @property
    def state_text(self) -> str:
        """The state as a text for users."""
        if self.reason is Reason.SUCCEEDED:
            return "ended (exit code 0)"
        if self.reason is not None:
            return f"{self.reason.sentence.rstrip('.')}" + (f" ({self.detail})" if self.detail else "")
        return _STATE_TEXTS[self.stage]


@dataclass(frozen=True, slots=True)
class Round:
    """A round of training, counted from 1."""

    number: int
    results: int = 0
    """The number of results averaged so far."""
    expected_results: int = 0
    """The number of results that the round needs; 0 until the first result is averaged."""

    def describe(self, total: int) -> str:
        """Return the round's state as a text for users; ``total`` is the number of rounds, 0 if it is unknown."""
        name = f"round {self.number}" + (f" of {total}" if total else "")
        if not self.expected_results:
            return f"{name}: sites train"
        return f"{name}: {self.results} of {self.expected_results} results averaged"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job's progress at one moment."""

    parties: tuple[Party, ...] = ()
    status: str = ""
    """FLARE's status of the job."""
    rounds: tuple[Round, ...] = ()

    @property
    def is_finished(self) -> bool:
        """True if FLARE's status says that the job has ended."""
        return self.status.startswith(_FINISHED_PREFIX)

    @property
    def has_ended(self) -> bool:
        """True if every Workflow of the job that the cluster shows has ended."""
        return all(party.stage in {Stage.ENDED, Stage.ABSENT} for party in self.parties)


def parse_parties(names: Iterable[str], workflows: Sequence[Object], pods: Sequence[Object]) -> tuple[Party, ...]:
    """Return the state of a job at each party: that of its latest attempt there.

    Args:
        names: the parties' names in FLARE.
        workflows: the job's Workflows, as the API server returns them.
        pods: the job's pods, likewise.
    """
    by_attempt = sorted(workflows, key=_attempt_number)
    workflow_of_site = {item["metadata"]["labels"][Label.SITE]: item for item in by_attempt}
    return tuple(_parse_party(name, workflow_of_site.get(label_value(name)), pods) for name in names)


def parse_rounds(log: str) -> tuple[Round, ...]:
    """Return the rounds that are mentioned in the log of the server's job process."""
    rounds: list[Round] = []
    for line in log.splitlines():
        number = parse_started_round(line)
        if number is not None:
            rounds.append(Round(number))
        elif rounds and (match := _RESULTS_AGGREGATED.search(line)):
            results, expected = (whole_number(digits, MAX_NUMBER) for digits in match.groups())
            if results is not None and expected is not None:
                rounds[-1] = Round(rounds[-1].number, results, expected)
    return tuple(rounds)


def describe_changes(before: Snapshot, now: Snapshot, total: int = 0) -> Iterator[str]:
    """Yield one line for each difference between two snapshots.

    Args:
        before: the earlier snapshot.
        now: the current snapshot.
        total: the number of rounds; 0 if it is unknown.
    """
    parties_before = {party.name: party for party in before.parties}
    width = max((len(party.name) for party in now.parties), default=0)
    for party in now.parties:
        old = parties_before.get(party.name, Party(party.name))
        if (party.state_text, party.workflow) != (old.state_text, old.workflow):
            workflow = f", Workflow {party.workflow}" if party.workflow != old.workflow else ""
            yield f"{party.name:{width}}  {party.state_text}{workflow}"
    yield from (each.describe(total) for each in now.rounds if each not in before.rounds)
    if now.status != before.status and now.status:
        yield f"FLARE says {now.status}"


def _attempt_number(workflow: Object) -> int:
    return whole_number(workflow["metadata"]["labels"].get(Label.ATTEMPT_NUMBER, ""), MAX_NUMBER) or 1


def _parse_party(name: str, workflow: Object | None, pods: Sequence[Object]) -> Party:
    if workflow is None:
        return Party(name)
    diagnosis = diagnose_workflow(workflow, pods)
    return Party(name, workflow_view(workflow).name, diagnosis.stage, diagnosis.reason, diagnosis.detail)
