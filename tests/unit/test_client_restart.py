"""Two runs of a client's parent, one after the other: FLARE's events, what is taken back, and what is not."""

import base64
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager

import flargo
from flargo.backoff import Backoff
from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.authority import may_change
from flargo.control.lease import LeaseStage
from flargo.flare import request
from flargo.flare.heartbeat import FILE
from flargo.flare.job_adoption import AWAY_LIMIT
from flargo.flare.launch_records import FOLDER
from flargo.flare.nvflare_internals import TOKEN_VARIABLE
from flargo.flare.redact import REDACTED, REDACTION
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause
from flargo.terms import Role, SecretData
from tests.harness.differential.cases import JOB_ID
from tests.harness.differential.parent import Parent
from tests.harness.fake_api import THREAD_SECONDS
from tests.harness.objects import pod, terminated_state
from tests.harness.parent_runs import OTHER, History, Run, wait_for


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    monkeypatch.setattr("flargo.flare.launcher.END_PATIENCE", 0.3)  # the programs in memory do not end
    runs = History(tmp_path)
    yield runs
    runs.close()


def test_a_running_job_is_taken_back(history: History, caplog: pytest.LogCaptureFixture) -> None:
    first = history.with_a_running_job()
    assert (first.is_own, first.records) == (True, [f"{JOB_ID}.json"])
    token = history.token
    first.is_killed()
    with caplog.at_level(logging.INFO):
        second = history.begins().starts()
    assert second.is_own
    assert second.engine.jobs == [JOB_ID], "FLARE's heartbeats name the job"
    assert second.accepts_results(token)
    assert not second.accepts_results("another")
    assert second.records == first.records
    assert f"job {JOB_ID} at site-1: taken back, Workflow" in caplog.text
    assert "shutdown" not in second.workflow["spec"], "no orphan"


def test_a_jobs_end_after_the_restart_is_reported(history: History) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    name = first.workflow["metadata"]["name"]
    uid = first.workflow["metadata"]["uid"]
    first.workflow["status"]["phase"] = "Succeeded"
    history.api.store[Kind.POD, name] = pod(name, owner=uid, main=terminated_state(0, "Completed"), phase="Succeeded")
    second = history.begins().starts()
    assert second.engine.completed.wait(THREAD_SECONDS)
    assert (second.engine.reports, second.engine.jobs, second.records) == ([(JOB_ID, 0)], [], [])


def test_flares_abort_reaches_the_job(history: History) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    second = history.begins().starts()
    second.engine.client_executor.run_processes[JOB_ID][RunProcessKey.JOB_HANDLE].terminate(heartbeat_cleanup=True)
    wait_for(lambda: second.workflow["spec"].get("shutdown"))
    assert second.workflow["metadata"]["annotations"]["flargo.dev/ending"] == "ABORTED"


def test_a_new_job_runs_beside_it(history: History) -> None:
    history.with_a_running_job().is_killed()
    second = history.begins().starts()
    (history.root / OTHER["job_id"]).mkdir()
    handle = second.launcher.launch_job(OTHER, second.engine.new_context())
    assert handle._job.wait(lambda job: job.is_released, THREAD_SECONDS)
    assert len(second.records) == 2


def test_the_process_is_answered_before_the_lease_is_held(history: History) -> None:
    """The wait for the Lease may take 15 s, and the process asks only once. Nothing is changed on the cluster."""
    first = history.with_a_running_job()
    token = history.token
    first.launcher._takeover._lease.close(release=False)
    second = history.begins()
    with pytest.MonkeyPatch.context() as patch:
        for patience in ("START_PATIENCE", "OUTAGE_PATIENCE", "DECISION_PATIENCE"):
            patch.setattr(f"flargo.flare.takeover.{patience}", 0.05)
        second.fires(EventType.SYSTEM_BOOTSTRAP)
    wait_for(lambda: second.accepts_results(token))
    assert not second.accepts_results("another")
    assert (second.is_own, second.engine.jobs) == (False, [])
    assert second.workflow == first.workflow


def test_results_that_came_first_count(history: History) -> None:
    """The process has delivered them before the job was taken back, and was then drained."""
    first = history.with_a_running_job()
    token = history.token
    first.is_killed()
    second = history.begins()
    second.fires(EventType.SYSTEM_BOOTSTRAP)
    assert second.accepts_results(token)
    WorkspaceTransferManager.get_or_create(second.engine.cell).remove_job(JOB_ID)
    name = first.workflow["metadata"]["name"]
    node = {"id": name, "type": "Pod", "phase": "Error", "templateName": "job", "message": "pod deleted"}
    first.workflow["status"] = {"phase": "Failed", "nodes": {name: node}}
    del history.api.store[Kind.POD, name]
    second.fires(EventType.AFTER_CLIENT_REGISTER, EventType.SYSTEM_START)
    assert second.engine.completed.wait(THREAD_SECONDS)
    assert second.engine.reports == [(JOB_ID, 0)]


def lose_workflow(run: Run) -> None:
    del run.api.store[Kind.WORKFLOW, run.workflow["metadata"]["name"]]


def lose_credentials(run: Run) -> None:
    del run.api.store[Kind.SECRET, run.credentials["metadata"]["name"]]


def lose_token(run: Run) -> None:
    del run.credentials["data"][TOKEN_VARIABLE]


def damage_token(run: Run) -> None:
    run.credentials["data"][TOKEN_VARIABLE] = base64.b64encode("tökén".encode()).decode()


def empty_token(run: Run) -> None:
    run.credentials["data"][TOKEN_VARIABLE] = ""


def relabel(run: Run) -> None:
    run.workflow["metadata"]["labels"]["flargo.dev/site"] = "site-9"


def relaunch(run: Run) -> None:
    run.workflow["metadata"]["annotations"]["flargo.dev/attempt"] = "other"


def lose_run_directory(run: Run) -> None:
    for path in (run.root / JOB_ID).iterdir():
        path.unlink()
    (run.root / JOB_ID).rmdir()


LOSSES: dict[Callable[[Run], None], str] = {
    lose_workflow: "does not exist",
    lose_credentials: "its credentials are deleted",
    lose_token: f"holds no {TOKEN_VARIABLE}",
    damage_token: f"holds no {TOKEN_VARIABLE}",
    empty_token: f"holds no {TOKEN_VARIABLE}",
    relabel: "is not the one that was launched",
    relaunch: "is not the one that was launched",
}


def assert_not_taken_back(run: Run, caplog: pytest.LogCaptureFixture, why: str, *, is_reported: bool = True) -> None:
    """FLARE's server hears that the job has ended at this site, if its executor can report that."""
    (line,) = [text for text in caplog.messages if "not taken back, and its Workflow" in text]
    assert why in line
    wait_for(lambda: (run.engine.jobs, run.records) == ([], []))
    assert run.engine.reports == ([(JOB_ID, 104)] if is_reported else [])
    assert not WorkspaceTransferManager.get_or_create(run.engine.cell).jobs


@pytest.mark.parametrize("lose", LOSSES)
def test_a_job_that_lacks_something_is_not_taken_back(
    lose: Callable[[Run], None], history: History, caplog: pytest.LogCaptureFixture
) -> None:
    first = history.with_a_running_job()
    token = history.token
    first.is_killed()
    lose(first)
    second = history.begins().starts()
    assert_not_taken_back(second, caplog, LOSSES[lose])
    assert not second.accepts_results(token)


def test_a_job_without_a_run_directory_is_not_taken_back(history: History, caplog: pytest.LogCaptureFixture) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    second = history.begins()
    lose_run_directory(first)
    second.starts()
    assert_not_taken_back(second, caplog, "has no run directory", is_reported=False)
    wait_for(lambda: second.workflow["spec"].get("shutdown"))


def add_strange_file(run: Run) -> Callable[[], object]:
    file = run.root / "startup" / "a bad name.key"
    file.write_text("x")
    return file.unlink


def hide_startup_file(run: Run) -> Callable[[], object]:
    file, hidden = run.root / "startup" / "rootCA.pem", run.root / "hidden"
    file.rename(hidden)
    return lambda: hidden.rename(file)


@pytest.mark.parametrize(("spoil", "why"), [(add_strange_file, "a bad name.key"), (hide_startup_file, "rootCA.pem")])
def test_a_job_waits_for_the_startup_kit(
    spoil: Callable[[Run], Callable[[], object]],
    why: str,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes on meanwhile, and other jobs can be launched."""
    monkeypatch.setattr("flargo.flare.takeover.RETRY", Backoff((0.1,)))
    first = history.with_a_running_job()
    first.is_killed()
    second = history.begins()
    second.fires(EventType.SYSTEM_BOOTSTRAP)
    repair = spoil(first)
    second.fires(EventType.AFTER_CLIENT_REGISTER)
    (line,) = [text for text in caplog.messages if "not taken back yet" in text]
    assert why in line
    second.launcher._takeover.require()
    assert second.records == [f"{JOB_ID}.json"]
    repair()
    wait_for(lambda: second.engine.jobs == [JOB_ID] and second.launcher._loop._jobs)
    second.fires(EventType.SYSTEM_START)
    assert second.is_own
    assert "shutdown" not in second.workflow["spec"]


def test_a_job_that_is_taken_back_late_is_followed(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop runs already, and nothing of the job changes after that."""
    monkeypatch.setattr("flargo.flare.takeover.RETRY", Backoff((0.1,)))
    first = history.with_a_running_job()
    first.is_killed()
    repair = add_strange_file(first)
    name, uid = first.workflow["metadata"]["name"], first.workflow["metadata"]["uid"]
    first.workflow["status"]["phase"] = "Succeeded"
    history.api.store[Kind.POD, name] = pod(name, owner=uid, main=terminated_state(0, "Completed"), phase="Succeeded")
    second = history.begins().starts()
    assert second.engine.jobs == []
    repair()
    assert second.engine.completed.wait(THREAD_SECONDS)
    assert (second.engine.reports, second.records) == ([(JOB_ID, 0)], [])


def test_a_site_without_a_parent_for_too_long_loses_its_job(history: History, caplog: pytest.LogCaptureFixture) -> None:
    first = history.with_a_running_job()
    first.is_killed(AWAY_LIMIT + 5)
    second = history.begins().starts()
    assert_not_taken_back(second, caplog, "s are the limit")
    wait_for(lambda: second.workflow["spec"].get("shutdown"))
    assert second.workflow["metadata"]["annotations"]["flargo.dev/ending"] == "ORPHANED"


def test_a_parent_that_was_cut_off_from_the_cluster_takes_its_job_back(history: History) -> None:
    """It was registered with FLARE's server all the time, and could not renew its Lease."""
    first = history.with_a_running_job()
    first.is_killed(AWAY_LIMIT + 60)
    (history.root / FILE).write_text((datetime.now(UTC) - timedelta(seconds=20)).isoformat())
    second = history.begins().starts()
    assert (second.is_own, second.engine.jobs) == (True, [JOB_ID])


@pytest.mark.parametrize("has_heartbeat", [True, False])
def test_a_job_outlives_the_lease(has_heartbeat: bool, history: History) -> None:  # noqa: FBT001
    """Somebody has deleted the Lease. Without the heartbeat's file, nobody knows for how long the parent was away."""
    first = history.with_a_running_job()
    first.is_killed()
    (name,) = [name for kind, name in history.api.store if kind is Kind.LEASE]
    del history.api.store[Kind.LEASE, name]
    if not has_heartbeat:
        (history.root / FILE).unlink()
    second = history.begins().starts()
    assert (second.is_own, second.engine.jobs) == (True, [JOB_ID])


def test_a_defect_about_one_job_keeps_no_other_from_return(
    history: History, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = history.with_a_running_job()
    record = json.loads((history.root / FOLDER / f"{JOB_ID}.json").read_text())
    first.is_killed()
    for other in ("0-first", "z-last"):
        (history.root / other).mkdir()
        (history.root / FOLDER / f"{other}.json").write_text(json.dumps({**record, "job_id": other}))

    def fail(meta: dict[str, Any], *args: Any) -> Any:
        if meta["job_id"] == "0-first":
            raise ValueError("a defect")
        return request.read_report(meta, *args)

    monkeypatch.setattr("flargo.flare.job_adoption.read_report", fail)
    second = history.begins().starts()
    assert JOB_ID in second.engine.jobs
    assert "job 0-first at site-1: not taken back" in caplog.text


def test_credentials_are_redacted_while_the_job_runs(history: History) -> None:
    first = history.with_a_running_job()
    token = history.token
    first.is_killed()
    REDACTION.forget(SecretData(first.credentials["metadata"]["name"], {}))
    assert token in REDACTION.redact(token)
    second = history.begins().starts()
    assert REDACTION.redact(f"-{token}-") == f"-{REDACTED}-"
    second.ends()
    assert REDACTION.redact(token) == token


def test_an_administrators_lower_limit_counts(history: History) -> None:
    history.with_a_running_job().is_killed()
    second = history.begins(policy={"rejoin": 1}).starts()
    (attempts,) = second.launcher._jobs._running
    assert attempts._state.rules.max_attempts == 2


def refuse_leases(history: History, *verbs: str) -> None:
    """Let the API server refuse requests about Leases, as a Role does that was written for an earlier flargo."""

    def refuse(verb: str, method: str) -> None:
        answer = getattr(history.api, method)

        def respond(kind: Kind, item: Any, *more: Any) -> Any:
            if kind is Kind.LEASE:
                raise ApiError(verb, "leases", 403, "Forbidden", f'User "x" cannot {verb} resource "leases"')
            return answer(kind, item, *more)

        setattr(history.api, method, respond)

    methods = {"get": "get_with_time", "create": "create", "update": "replace"}
    for verb in verbs:
        refuse(verb, methods[verb])


@pytest.mark.parametrize("verbs", [("get", "create", "update"), ("create", "update"), ("update",)], ids=str)
def test_without_a_right_on_leases_jobs_end_as_before(
    verbs: tuple[str, ...], history: History, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The Role is that of an earlier flargo: launches go on at once, and one warning says what to do."""
    first = history.with_a_running_job()
    first.is_killed()
    if verbs != ("update",):
        for key in [key for key in history.api.store if key[0] is Kind.LEASE]:
            del history.api.store[key]
    shutil.rmtree(history.root / FOLDER)  # The earlier flargo has recorded nothing.
    monkeypatch.setattr("flargo.control.lease.REFUSAL_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("flargo.flare.takeover.LAUNCH_PATIENCE", 0.0)
    refuse_leases(history, *verbs)
    second = history.begins().starts()
    wait_for(lambda: second.workflow["spec"].get("shutdown"))
    assert second.workflow["metadata"]["annotations"]["flargo.dev/ending"] == "ORPHANED"
    assert second.engine.jobs == []
    assert not WorkspaceTransferManager.get_or_create(second.engine.cell).jobs
    handle = second.launcher.launch_job(OTHER, second.engine.new_context())
    assert handle._job.wait(lambda job: job.is_released, THREAD_SECONDS)
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    (line,) = [text for text in warnings if "Lease" in text]
    assert "apply deploy/launcher.yaml again, or the kit's chart" in line


def test_a_right_on_leases_that_is_missing_for_a_while_ends_no_job(
    history: History, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A RoleBinding is replaced, which takes longer than an API server's start. Launches go on at once."""
    monkeypatch.setattr("flargo.control.lease.REFUSAL_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("flargo.control.lease.RECHECK_SECONDS", 0.1)
    history.with_a_running_job().is_killed()
    answer = history.api.get_with_time
    refuse_leases(history, "get")
    second = history.begins().starts()
    second.launcher._takeover.require()
    assert (second.engine.jobs, second.records) == ([], [f"{JOB_ID}.json"])
    assert "are taken back once the right on Leases is there: apply deploy/launcher.yaml again" in caplog.text
    history.api.get_with_time = answer  # type: ignore[method-assign]
    wait_for(lambda: second.engine.jobs == [JOB_ID] and second.launcher._loop._jobs)
    assert second.is_own
    assert "shutdown" not in second.workflow["spec"]


def test_a_right_on_leases_that_comes_later_is_used(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent then has a Lease, and ends and launches what it did before."""
    monkeypatch.setattr("flargo.control.lease.REFUSAL_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("flargo.control.lease.RECHECK_SECONDS", 0.2)
    with monkeypatch.context() as patch:

        def refuse(*_: Any) -> Any:
            raise ApiError("get", "leases", 403, "Forbidden", 'User "x" cannot get resource "leases"')

        patch.setattr(history.api, "get_with_time", refuse)
        run = history.begins().starts()
        run.launches()
    wait_for(lambda: run.launcher._takeover._lease.state.stage is LeaseStage.HELD)
    assert all(run.launcher._may_change(is_followed=own) for own in (True, False))
    run.is_killed()
    assert history.begins().starts().engine.jobs == [JOB_ID]


@pytest.mark.parametrize("is_taken_back", [True, False])
def test_a_parent_that_was_cut_off_leaves_its_successors_job_alone(
    is_taken_back: bool,  # noqa: FBT001
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has not read the Lease yet. A job that nobody has taken back is still its own."""
    first = history.with_a_running_job()
    workflow = first.workflow
    key = (Kind.WORKFLOW, workflow["metadata"]["name"])

    def is_ended() -> bool:
        return key not in history.api.store or "shutdown" in workflow["spec"]

    if is_taken_back:
        workflow["metadata"]["labels"]["flargo.dev/parent"] = "next0run"
    allow = partial(may_change, LeaseStage.ACQUIRING)
    monkeypatch.setattr(first.launcher._takeover._lease, "may_change", allow)
    requests = history.api.requests
    first.launcher._jobs.stop_all(Cause.ABORT)
    wait_for(lambda: history.api.requests > requests)
    if not is_taken_back:
        wait_for(is_ended)
    threading.Event().wait(0.3)
    assert is_ended() is not is_taken_back


def test_a_second_parent_keeps_flares_client_from_starting(history: History) -> None:
    first = history.with_a_running_job()
    first.launcher._takeover._lease.close(release=False)
    (lease,) = [item for (kind, _), item in history.api.store.items() if kind is Kind.LEASE]
    second, seen = history.begins(), list[int]()

    def renew(number: int, when: str) -> None:
        if when == "before":
            seen.append(number)
            history.api._stamp(Kind.LEASE, lease)  # the first parent renews between any two requests

    history.api.trouble = renew
    with pytest.raises(UnsafeComponentError, match="another FLARE parent of this site is alive"):
        second.fires(EventType.SYSTEM_BOOTSTRAP)
    assert second.launcher._takeover is None
    assert (second.is_own, second.records) == (False, [f"{JOB_ID}.json"])


# --- as before, where nothing is taken back


def test_without_flares_first_event_all_is_as_before(history: History) -> None:
    """A program that uses the launcher by itself, for example: it has no Lease and no records."""
    run = history.begins()
    run.fires(EventType.SYSTEM_START)
    run.launches()
    assert [kind for kind, _ in history.api.store if kind is Kind.LEASE] == []
    assert not (history.root / FOLDER.parent).exists()


def expect_as_before(run: Run) -> None:
    """The parent ends what its earlier run has left, as soon as it starts, and asks for no Lease."""
    leases = {name: dict(item["spec"]) for (kind, name), item in run.api.store.items() if kind is Kind.LEASE}
    run.starts()
    wait_for(lambda: run.workflow["spec"].get("shutdown"))
    assert (run.engine.jobs, run.launcher._takeover) == ([], None)
    assert leases == {name: item["spec"] for (kind, name), item in run.api.store.items() if kind is Kind.LEASE}
    run.launcher.launch_job(OTHER, run.engine.new_context())
    assert run.records == [f"{JOB_ID}.json"], "no new record"


def test_a_site_can_switch_it_off(history: History, caplog: pytest.LogCaptureFixture) -> None:
    history.with_a_running_job().is_killed()
    expect_as_before(history.begins(adopt=False))
    assert "argo.adopt" not in caplog.text


def test_another_nvflare_switches_it_off_with_one_warning(
    history: History, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.with_a_running_job().is_killed()
    changes = ("nvflare.x has 2, not 1", "nvflare.y cannot be read")
    monkeypatch.setattr("flargo.flare.launcher.find_changes", lambda: changes)
    expect_as_before(history.begins())
    (line,) = [record.getMessage() for record in caplog.records if "argo.adopt" in record.getMessage()]
    assert line.startswith("argo.adopt is off")
    assert changes[0] in line


def expect_nothing_launched_or_ended(run: Run, why: str) -> None:
    """FLARE's client has swallowed an exception and gone on."""
    run.fires(EventType.AFTER_CLIENT_REGISTER, EventType.SYSTEM_START)
    handle = run.launcher.launch_job(OTHER, run.engine.new_context())
    assert handle._job.verdict.reason is Reason.LAUNCH_FAILED
    assert why in handle._job.verdict.detail
    assert run.launcher._loop is None or not run.launcher._loop._threads
    assert "shutdown" not in run.workflow["spec"]
    assert run.records == [f"{JOB_ID}.json"]


def test_an_incomplete_context_launches_and_ends_nothing(
    history: History, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The file may be there a moment later, and the parent would then end what it has not taken back."""
    history.with_a_running_job().is_killed()
    run, certificate = history.begins(), tmp_path / "startup" / "rootCA.pem"
    content = certificate.read_bytes()
    certificate.unlink()
    run.fires(EventType.SYSTEM_BOOTSTRAP)
    assert run.launcher._takeover is None
    assert "launches and ends no jobs until it is started again" in caplog.text
    certificate.write_bytes(content)
    expect_nothing_launched_or_ended(run, "rootCA.pem")


@pytest.mark.parametrize(
    "target",
    [
        "flargo.flare.launcher.LeaseKeeper",
        "flargo.flare.launcher.JobAdoption.serve",
        "flargo.control.lease_keeper.LeaseKeeper.start",
        "flargo.flare.launcher.find_changes",
    ],
)
def test_a_takeover_that_cannot_be_prepared_keeps_flares_client_from_starting(
    target: str, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLARE swallows any other exception, and would go on without a takeover."""
    history.with_a_running_job().is_killed()
    run = history.begins()

    def fail(*_: object) -> None:
        raise ValueError("a defect, with a secret")

    monkeypatch.setattr(target, fail)
    with pytest.raises(UnsafeComponentError, match=r"an unexpected ValueError, raised at .*argo.adopt false") as raised:
        run.fires(EventType.SYSTEM_BOOTSTRAP)
    assert "secret" not in str(raised.value)
    expect_nothing_launched_or_ended(run, "an unexpected ValueError")


def test_records_that_cannot_be_read_keep_flares_client_from_starting(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.with_a_running_job().is_killed()
    run = history.begins()

    def fail(_: Path) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fail)
        with pytest.raises(UnsafeComponentError, match=r"records of launches in .* cannot be read: Stale file handle"):
            run.fires(EventType.SYSTEM_BOOTSTRAP)
    expect_nothing_launched_or_ended(run, "Stale file handle")


def test_a_server_takes_nothing_back(history: History) -> None:
    """Its jobs' tokens die with it."""
    root = history.root / "server"
    server = Parent(root, Role.SERVER)
    launcher = flargo.ServerArgoJobLauncher(workspace_mount_path=str(root))
    launcher._api = history.api
    for event in (EventType.SYSTEM_BOOTSTRAP, EventType.SYSTEM_START):
        launcher.handle_event(event, server.context(JOB_ID))
    launcher.handle_event(EventType.SYSTEM_END, server.context(JOB_ID))
    assert history.api.store == {}


# --- the end of a parent


def test_an_end_in_order_ends_the_jobs_and_releases_the_lease(history: History) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    second = history.begins().starts()
    second.ends()
    assert second.workflow["spec"]["shutdown"] == "Terminate"
    assert second.engine.completed.wait(THREAD_SECONDS)
    assert (second.records, second.engine.reports) == ([], [(JOB_ID, 104)])
    (lease,) = [item for (kind, _), item in history.api.store.items() if kind is Kind.LEASE]
    assert lease["spec"]["holderIdentity"] == ""


def test_an_end_during_the_start_leaves_the_jobs_to_the_next_run(history: History) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    second = history.begins()
    second.fires(EventType.SYSTEM_BOOTSTRAP)
    second.ends()
    assert (second.records, second.is_own) == ([f"{JOB_ID}.json"], False)
    assert "shutdown" not in second.workflow["spec"]
    third = history.begins().starts()
    assert (third.is_own, third.engine.jobs) == (True, [JOB_ID])
