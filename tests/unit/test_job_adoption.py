"""What becomes of recorded jobs if the API server, a webhook, a thread or the disk fails while they are taken back."""

import base64
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control import authority
from flargo.control.lease import LeaseStage, LeaseStatus
from flargo.control.reclaim import PATIENCE_SECONDS
from flargo.control.submit import SubmitError
from flargo.flare import job_adoption
from flargo.flare.job_adoption import AWAY_LIMIT, JobAdoption
from flargo.flare.launch_records import FOLDER, LaunchRecord, LaunchRecords
from flargo.flare.nvflare_internals import TOKEN_VARIABLE, AdoptionError
from flargo.flare.takeover import Takeover
from flargo.job.names import site_labels
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.job.validate import InvalidInput
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Launch, Object
from tests.harness.fake_api import THREAD_SECONDS, MemoryApi
from tests.harness.launches import launch

CONTEXT = cast("Any", None)
AWAY = 20.0
"""Seconds for which the site had no parent."""


class Transfer:
    """A workspace transfer; the test sees whether the job's process is still served."""

    def __init__(self, _cell: object, job_id: str, _workspace: str) -> None:
        self.job_id, self.is_removed = job_id, False

    def expect(self) -> None:
        pass

    def restore(self, _: str) -> None:
        pass

    def remove(self) -> None:
        self.is_removed = True


class Site:
    """The records and Workflows of an earlier run's jobs, with a clock that runs only in pauses."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, jobs: int = 1) -> None:
        self.now, self.is_held = 0.0, True
        self.api, self.records = MemoryApi(), LaunchRecords(root)
        self.taken: list[str] = []
        self.reported: list[tuple[str, Verdict]] = []
        """The ends of jobs that FLARE reports."""
        self.refusal: Exception | None = None
        """Why FLARE reports no end."""
        self.transfers: list[Transfer] = []
        self.on_adopt: Callable[[str], None] = lambda _: None
        """Called with the id of each job that is taken back; may fail."""
        self.launches = [self._launch(index) for index in range(jobs)]
        self.parent = replace(self.launches[0].parent, epoch="new0run")
        monkeypatch.setattr(job_adoption, "WorkspaceTransfer", self._transfer)
        monkeypatch.setattr(job_adoption, "ServerJobProbe", lambda *_: SimpleNamespace(probe=None))
        monkeypatch.setattr(job_adoption, "read_cell", lambda _: None)
        monkeypatch.setattr(job_adoption, "read_workspace", lambda _: str(root))
        report = SimpleNamespace(publish=lambda verdict, _: verdict, outcome=lambda verdict, _: verdict)
        monkeypatch.setattr(job_adoption, "read_report", lambda *_: report)
        monkeypatch.setattr(job_adoption, "read_startup_kit", lambda _: {})
        monkeypatch.setattr(job_adoption, "time", SimpleNamespace(monotonic=lambda: self.now))
        jobs_of_run = SimpleNamespace(adopt=self._adopt, report=self._report)
        self.notified: list[tuple[object, str]] = []
        """The outcomes of which the site's receiver is notified, here only their verdicts, and the ids of launches."""
        self.adoption = JobAdoption(
            self.api,
            cast("Any", jobs_of_run),
            self.parent,
            self.records,
            1,
            cast("Any", lambda *_: None),
            self.pause,
            self.may_change,
            lambda outcome, launch: self.notified.append((outcome, launch)),
        )

    def _launch(self, index: int) -> Launch:
        first = launch()
        pod = {**first.pod, "metadata": {**first.pod["metadata"], "name": f"job-{index}"}}
        first = replace(first, job_id=f"{first.job_id[:-3]}{index:03d}", pod=pod)
        record = LaunchRecord(first, 1, first.attempt)
        self.records.save(record)
        earlier = replace(first, parent=replace(first.parent, epoch="old0run"))
        item = dict(build_plan(earlier, check_settings()).workflow)
        item["metadata"] |= {"name": record.workflow, "uid": f"w{index}", "resourceVersion": "7"}
        self.api.store[Kind.WORKFLOW, record.workflow] = item
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": record.workflow, "uid": f"w{index}"}
        labels = site_labels(first.parent)
        self.api.store[Kind.SECRET, record.credentials] = {
            "metadata": {"name": record.credentials, "uid": f"s{index}", "labels": labels, "ownerReferences": [owner]},
            "data": {TOKEN_VARIABLE: base64.b64encode(b"token").decode()},
        }
        return first

    def _transfer(self, cell: object, job_id: str, workspace: str) -> Transfer:
        self.transfers.append(Transfer(cell, job_id, workspace))
        return self.transfers[-1]

    def _adopt(self, record: LaunchRecord, *_: object) -> None:
        self.on_adopt(record.first.job_id)
        self.taken.append(record.first.job_id)

    def _report(self, record: LaunchRecord, verdict: Verdict, _: object) -> None:
        """Note the end of a job as FLARE's executor does, or refuse it."""
        if self.refusal is not None:
            raise self.refusal
        self.reported.append((record.first.job_id, verdict))
        self.records.delete(record.first.job_id)

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def may_change(self, *, is_followed: bool) -> bool:
        stage = LeaseStage.HELD if self.is_held else LeaseStage.ACQUIRING
        return authority.may_change(stage, is_followed=is_followed)

    def adopts(self, away: float | None = AWAY) -> list[str]:
        """Try to take all jobs back; return the Workflows about which nothing is decided."""
        return sorted(self.adoption.adopt_all(CONTEXT, away))

    def fails(self, error: Exception, verb: str = "merge") -> Callable[[], None]:
        """Let each request of a kind fail; return the function that ends this."""
        answer = getattr(self.api, verb)

        def fail(*_: Any) -> Any:
            raise error

        setattr(self.api, verb, fail)
        return lambda: setattr(self.api, verb, answer)

    @property
    def recorded(self) -> list[str]:
        return [record.first.job_id for record in self.records.load(self.parent)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_a_job_is_taken_back_once(site: Site) -> None:
    assert (site.adopts(), site.adopts()) == ([], [])
    assert (len(site.taken), len(site.recorded)) == (1, 1)


ERRORS = {
    "no answer": ApiError("patch", "x", 0),
    "a webhook is down": ApiError("patch", "x", 500, "InternalError", "failed calling webhook: no endpoints available"),
    "a right is missing": ApiError("patch", "x", 403, "Forbidden", 'User "x" cannot patch resource "workflows"'),
    "a policy refuses it": ApiError("patch", "x", 403, "Forbidden", "ValidatingAdmissionPolicy 'x' denied request"),
    "the credentials are rejected": ApiError("patch", "x", 401, "Unauthorized"),
    "it changes all the time": ApiError("patch", "x", 409, "Conflict", "the object has been modified"),
    "it is not valid": ApiError("patch", "x", 422, "Invalid", "a defaulting webhook of somebody"),
}


NOT_FOUND = ApiError("patch", "x", 404, "NotFound", "a webhook says so")
"""No evidence as the answer to a change: a read must show that there is no Workflow."""


@pytest.mark.parametrize(
    ("verb", "error"),
    [*((verb, error) for verb in ("get", "merge") for error in ERRORS.values()), ("merge", NOT_FOUND)],
)
def test_no_error_of_the_cluster_ends_a_job(verb: str, error: ApiError, site: Site) -> None:
    """A drain took the policy engine with the parent, for example. The job's process is served meanwhile."""
    end = site.fails(error, verb)
    for _ in range(3):
        assert site.adopts() == ["job-0"]
        assert (len(site.recorded), site.taken) == (1, [])
    assert not any(transfer.is_removed for transfer in site.transfers)
    end()
    assert (site.adopts(), len(site.taken)) == ([], 1)


@pytest.mark.parametrize(
    "error", [OSError(116, "Stale file handle"), ValueError("a defect"), InvalidInput("kit", 1, "a kit")]
)
def test_no_error_of_the_disk_and_no_defect_ends_a_job(
    error: Exception, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> dict[str, bytes]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(job_adoption, "read_startup_kit", fail)
        assert (site.adopts(), site.adopts()) == (["job-0"], ["job-0"])
    (line,) = [text for text in caplog.messages if "not taken back yet" in text]
    assert "delete its Workflow job-0" in line
    assert (site.adopts(), len(site.taken)) == ([], 1)


@pytest.mark.parametrize("error", [SubmitError("another parent"), RuntimeError("can't start new thread")])
def test_a_job_that_cannot_be_followed_now_is_followed_later(error: Exception, site: Site) -> None:
    def fail(_: str) -> None:
        raise error

    site.on_adopt = fail
    assert (site.adopts(), len(site.recorded)) == (["job-0"], 1)
    site.on_adopt = lambda _: None
    assert (site.adopts(), len(site.taken)) == ([], 1)


def lose_workflow(site: Site) -> None:
    del site.api.store[Kind.WORKFLOW, "job-0"]


def lose_credentials(site: Site) -> None:
    for key in [key for key in site.api.store if key[0] is Kind.SECRET]:
        del site.api.store[key]


def relaunch(site: Site) -> None:
    site.api.store[Kind.WORKFLOW, "job-0"]["metadata"]["annotations"]["flargo.dev/attempt"] = "other"


def refuse_in_flare(site: Site) -> None:
    def refuse(_: str) -> None:
        raise AdoptionError("FLARE's executor knows the job already")

    site.on_adopt = refuse


@pytest.mark.parametrize("lose", [lose_workflow, lose_credentials, relaunch, refuse_in_flare])
@pytest.mark.parametrize("refusal", [None, AdoptionError("the job has no run directory"), RuntimeError("no thread")])
def test_evidence_ends_a_job(
    lose: Callable[[Site], None], refusal: Exception | None, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """FLARE's server hears of it, since it does not miss the job by itself."""
    site.refusal = refusal
    lose(site)
    assert (site.adopts(), site.recorded, site.taken) == ([], [], [])
    assert all(transfer.is_removed for transfer in site.transfers)
    ends = [(job, verdict.reason, verdict.code) for job, verdict in site.reported]
    assert ends == ([] if refusal else [(site.launches[0].job_id, Reason.ORPHANED, 104)])
    assert site.notified == ([] if refusal else [(site.reported[0][1], site.launches[0].attempt)])
    assert ("cannot be reported to FLARE's server" in caplog.text) == (refusal is not None)


def test_an_end_of_the_earlier_run_is_notified_with_its_id(site: Site) -> None:
    """Nobody knows whether the earlier run came to that; a receiver recognises the second time by the id."""
    first, verdict = site.launches[0], Verdict(Reason.PROGRAM_FAILED, 1, "exit code 3", 3)
    site.records.note_verdict(first.job_id, verdict)
    assert (site.adopts(), site.taken) == ([], [])
    assert site.reported == [(first.job_id, verdict)]
    assert site.notified == [(verdict, first.attempt)]
    assert site.adopts() == []
    assert len(site.notified) == 1, "once a run"


@pytest.mark.parametrize(("away", "is_taken"), [(AWAY_LIMIT, True), (AWAY_LIMIT + 1, False), (None, True)])
def test_only_a_time_that_is_known_ends_a_job(away: float | None, is_taken: bool, site: Site) -> None:  # noqa: FBT001
    """FLARE's heartbeat ends what its server has given up."""
    assert site.adopts(away) == []
    assert (bool(site.taken), bool(site.recorded)) == (is_taken, is_taken)


def test_one_jobs_trouble_is_not_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty jobs, whose requests take long. One answer 429 comes after the common time is over."""
    site, number = Site(tmp_path, monkeypatch, jobs=40), [0]

    def be_slow(_: int, moment: str) -> None:
        if moment == "before":
            site.now += 1.0
            number[0] += 1
            if number[0] == 4 * 38 + 2:
                assert site.now > PATIENCE_SECONDS
                raise ApiError("get", "secrets x", 429, "TooManyRequests", retry_after=1.0)

    site.api.trouble = be_slow
    assert site.adopts() == []
    assert len(site.taken) == 40


def test_an_outage_of_all_jobs_does_not_hold_up_launches_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No launch begins before each job was tried once."""
    site = Site(tmp_path, monkeypatch, jobs=100)
    end = site.fails(ERRORS["a webhook is down"])
    assert len(site.adopts()) == 100
    assert site.now <= PATIENCE_SECONDS + 10.0
    end()
    assert (site.adopts(), len(site.taken)) == ([], 100)


def test_launches_of_this_run_are_not_taken_back(site: Site, tmp_path: Path) -> None:
    """Its records are in the same folder."""
    end = site.fails(ERRORS["no answer"])
    assert site.adopts() == ["job-0"]
    site.adoption.seal()
    site._launch(1)
    half_written = tmp_path / FOLDER / "half-written.tmp"
    half_written.write_text("{")
    end()
    assert (site.adopts(), len(site.taken), site.adoption.find_open()) == ([], 1, frozenset())
    assert half_written.exists()
    assert len(site.recorded) == 2


class Keeper:
    """The site's Lease, held again by the time anybody waits for it."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def state(self) -> LeaseStatus:
        return LeaseStatus(LeaseStage.HELD, AWAY) if self.site.is_held else LeaseStatus(LeaseStage.ACQUIRING)

    def wait(self, until: Callable[[LeaseStatus], bool], _: float | None = None) -> bool:
        if not until(self.state):
            self.site.now, self.site.is_held = self.site.now + 180.0, True
        return until(self.state)


def begins(site: Site) -> list[str]:
    """Run the takeover until the parent's work begins; return the Workflows that are reserved then."""
    reserved, has_begun = [frozenset[str]()], threading.Event()

    def start() -> None:
        has_begun.set()
        ending.set()

    ending = threading.Event()
    takeover = Takeover(cast("Any", Keeper(site)), site.adoption, cast("Any", None), start, reserved.append, ending)
    threading.Thread(target=takeover._run, args=(CONTEXT,), daemon=True).start()
    assert has_begun.wait(THREAD_SECONDS)
    return sorted(reserved[-1])


def test_an_outage_after_the_lease_was_acquired(site: Site) -> None:
    """The API server goes away for three minutes, and the Lease cannot be renewed."""

    def be_away(_: int, moment: str) -> None:
        if moment == "before" and site.now < 180.0:
            site.is_held = site.now < 13.0
            raise ApiError("get", "workflows x", 0, message="no answer")
        site.is_held = True

    site.api.trouble = be_away
    assert (begins(site), len(site.taken)) == ([], 1)


def test_one_job_is_gone_while_the_lease_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody knows whether another parent has ended it, and the others have to wait as well."""
    site = Site(tmp_path, monkeypatch, jobs=3)
    lose_workflow(site)
    get, was_late = site.api.get, [False]

    def read(kind: Kind, name: str) -> Object:
        if name == "job-0" and not was_late[0]:
            was_late[0], site.is_held = True, False
        return get(kind, name)

    monkeypatch.setattr(site.api, "get", read)
    assert (begins(site), len(site.taken), len(site.recorded)) == ([], 2, 2)


def test_a_job_that_waits_is_reserved_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch, jobs=2)
    merge = site.api.merge

    def fail_for_one(kind: Kind, name: str, patch: Object) -> Object:
        if name == "job-1":
            raise ERRORS["a policy refuses it"]
        return merge(kind, name, patch)

    monkeypatch.setattr(site.api, "merge", fail_for_one)
    assert (begins(site), len(site.taken), len(site.recorded)) == (["job-1"], 1, 2)
