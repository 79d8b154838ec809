"""What people see of FLARE's own status of a job: beside the end of its programs, which exit with 0 after an error."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import Result
from nvflare.apis.job_def import RunStatus

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.flare.redact import REDACTION
from flargo.parsing import is_final_status
from flargo.terms import SecretData
from flargo.tools.cli import jobs, why
from flargo.tools.cli.main import group
from flargo.tools.jobs.explanation import explain
from flargo.tools.jobs.flare_status import FlareStatus
from flargo.tools.jobs.last_error import last_error
from flargo.tools.jobs.site_job import share_server_notes, site_jobs
from flargo.tools.jobs.table import build_rows, columns
from tests.harness import command_line
from tests.harness.fake_api import RecordingApi
from tests.harness.objects import Object, job_workflow, pod, terminated_state
from tests.harness.paths import ROOT

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
FAILED = "FINISHED:EXECUTION_EXCEPTION"
ERROR = "Result from site-1 is bad"
MISSING_RIGHT = 'forbidden: User "u" cannot do resource "x" in API group "" in the namespace "flare"'
LOG = """\
2026-11-30 02:04:22,513 - ClientRunner - INFO - [identity=site-1] - invoking task executor
2026-11-30 02:04:22,840 - TaskScriptRunner - ERROR - Traceback (most recent call last):
  File "train.py", line 4, in <module>
    raise ValueError('no \x1b[2Jpatients')
ValueError: no \x1b[2Jpatients t0psecret

2026-11-30 02:04:22,841 - TaskScriptRunner - ERROR - fire abort event
time="2026-11-30T02:04:29.2Z" level=info msg="sub-process exited" argo=true error="<nil>"
"""


def server_job(status: str = FAILED, error: str = ERROR, role: str = "server") -> Object:
    notes = {"flargo.dev/flare-status": status, "flargo.dev/flare-error": error}
    item = job_workflow("job-server", site="server", uid="w0", phase="Succeeded", notes=notes)
    item["metadata"]["labels"] |= {"flargo.dev/role": role, "flargo.dev/site": "server"}
    return item


def client_job(**more: Any) -> Object:
    return job_workflow(phase="Succeeded", **more)


def ended_pod(name: str = "job-site", uid: str = "w1") -> Object:
    return pod(name, uid=f"p-{name}", owner=uid, main=terminated_state(0, "Completed"), phase="Succeeded")


PODS = (ended_pod(), ended_pod("job-server", "w0"))


def test_servers_note_counts_for_all_sites_of_the_job() -> None:
    other = client_job(name="other-site", uid="w2", job_id="22222222-bbbb")
    shared = share_server_notes(site_jobs([server_job(), client_job(), other], PODS))
    rows = {(job.job_id[:8], job.site): job.as_dict() for job in shared}
    found = {key: (row["flare_status"], row["flare_error"]) for key, row in rows.items()}
    assert found == {
        ("11111111", "server"): (FAILED, ERROR),
        ("11111111", "site-1"): (FAILED, ERROR),
        ("22222222", "site-1"): (None, None),
    }


@pytest.mark.parametrize(
    "workflow",
    [
        server_job("RUNNING"),
        server_job("FINISHED:" + "X" * 41),
        server_job("FINISHED:a\x1b[2J"),
        server_job(role="client"),
        client_job(notes={"flargo.dev/flare-status": FAILED}),
    ],
)
def test_notes_that_are_no_servers_final_status_are_ignored(workflow: Object) -> None:
    (job,) = site_jobs([workflow], ())
    assert job.flare is None


def test_forged_error_is_one_short_line() -> None:
    (job,) = site_jobs([server_job(error="a\n\x1b[31m" + "b" * 10_000)], ())
    assert job.flare is not None
    assert len(job.flare.error) == 500
    assert job.flare.error.isprintable()


def test_column_is_shown_once_a_status_is_known() -> None:
    unknown = site_jobs([client_job()], PODS)
    assert "FLARE" not in [column.name for column in columns(unknown)]
    known = share_server_notes(site_jobs([server_job(), client_job()], PODS))
    shown = columns(known)
    index = [column.name for column in shown].index("FLARE")
    rows = build_rows(known, NOW, shown)
    assert [row[index - 1 : index + 1] for row in rows] == [("SUCCEEDED", "EXCEPTION")] * 2


@pytest.mark.parametrize("status", [*(each.value for each in RunStatus if is_final_status(each.value))])
def test_column_is_narrow(status: str) -> None:
    """Beside it, a row of 80 columns has room for everything else that is always shown."""
    assert len(FlareStatus(status).short_text) <= 13
    assert FlareStatus("FINISHED:" + "X" * 40).short_text == "X" * 12 + "…"


Ask = Callable[..., Result]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> RecordingApi:
    api = RecordingApi(
        (Kind.WORKFLOW, server_job()), (Kind.WORKFLOW, client_job()), *((Kind.POD, each) for each in PODS)
    )
    api.log_texts = {"job-site": LOG, "job-server": "all is well\n"}

    def connected(**_: str | None) -> Api:
        return api

    for module in (jobs, why):
        monkeypatch.setattr(module, "api_for", connected)
    return api


def rows_of(output: str, heading: str) -> list[str]:
    """Return the lines of a site's report."""
    lines = output.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(heading))
    end = next((number for number in range(begin + 1, len(lines)) if not lines[number]), len(lines))
    return lines[begin:end]


def test_jobs_shows_flares_error_beside_success(cluster: RecordingApi) -> None:
    del cluster
    output = command_line.run("jobs").stdout
    assert output.count("SUCCEEDED  EXCEPTION") == 2


def test_jobs_says_where_flares_status_is_unknown(cluster: RecordingApi) -> None:
    """A client's cluster has no note of it. Every program of a job that FLARE counts as failed may have succeeded."""
    assert command_line.run("jobs").stderr == ""
    cluster.store.pop((Kind.WORKFLOW, "job-server"))
    assert "may differ: `nvflare job meta JOB`\n" in command_line.run("jobs").stderr
    assert command_line.run("jobs", "--json").stderr == ""
    cluster.store[Kind.WORKFLOW, "job-site"] = job_workflow()
    cluster.store.pop((Kind.POD, "job-site"))
    assert command_line.run("jobs").stderr == "", "a job that has not ended has no status yet"


def test_why_shows_flares_status_and_the_error_in_the_log(cluster: RecordingApi) -> None:
    del cluster
    REDACTION.learn(credentials := SecretData("cred", {"TOKEN": b"t0psecret"}), public="x")
    try:
        output = command_line.run("why", "11111111").stdout
    finally:
        REDACTION.forget(credentials)
    head, *report = rows_of(output, "site-1 (client): ")
    assert head == f"site-1 (client): SUCCEEDED, FLARE hears 0, FLARE says {FAILED}"
    assert report[-5:-1] == [
        "  last error     Traceback (most recent call last):",
        '                   File "train.py", line 4, in <module>',
        "                     raise ValueError('no [2Jpatients')",
        "                 ValueError: no [2Jpatients [redacted]",
    ]
    assert report[-1].startswith("  what to do     Look for the site whose log has an error")
    assert f"But the whole job has failed: FLARE says {FAILED}." in report[0]
    assert f"  server's log   {ERROR}" in report
    assert "last error" not in "\n".join(rows_of(output, "server (server): "))


def test_why_fits_80_columns(
    cluster: RecordingApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLARE's status is long: the line with it was broken in the middle of a word."""
    del cluster
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    group()(["why", "11111111"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    begin = lines.index("server (server): SUCCEEDED, FLARE hears 0, FLARE says")
    assert lines[begin + 1] == f"                 {FAILED}"


def test_why_reads_no_log_if_it_is_told_to(cluster: RecordingApi) -> None:
    cluster.log_texts = {}
    cluster.refusals["log"] = ApiError("log", "pods job-site", 403, "Forbidden", MISSING_RIGHT)
    (server, site) = json.loads(command_line.run("why", "11111111", "--json").stdout)
    assert "right to get pods/log" in site["log_unread"]
    assert server["last_error"] is None
    (server, site) = json.loads(command_line.run("why", "11111111", "--json", "--no-log").stdout)
    assert (site["last_error"], site["log_unread"]) == (None, None)


def test_why_reads_the_end_of_a_log(cluster: RecordingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log may be of any size, and docs/operations.md says how much of it is read."""
    limits: list[tuple[Any, ...]] = []

    def log(pod: str, *more: Any) -> str:
        del pod
        limits.append(more)
        return ""

    monkeypatch.setattr(cluster, "log", log)
    assert command_line.run("why", "11111111").exit_code == 0
    assert limits == [("main", 2000, 256 * 1024, 10.0)] * 2
    text = (ROOT / "docs/operations.md").read_text()
    assert "It reads the end of the program's log (2,000 lines, 256 KiB)" in text


def test_why_reads_no_log_of_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that FLARE has tolerated would mislead."""
    api = RecordingApi((Kind.WORKFLOW, server_job("FINISHED:COMPLETED", "")), (Kind.POD, PODS[1]))
    api.log_texts = {"job-server": LOG}
    monkeypatch.setattr(why, "api_for", lambda **_: api)
    output = command_line.run("why", "11111111").stdout
    assert "FLARE says FINISHED:COMPLETED" in output
    assert "last error" not in output
    assert "has failed" not in output


def test_why_says_where_flares_status_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    api = RecordingApi((Kind.WORKFLOW, client_job()), (Kind.POD, PODS[0]))
    monkeypatch.setattr(why, "api_for", lambda **_: api)
    output = command_line.run("why", "11111111").stdout
    assert "FLARE's own status may differ: `nvflare job meta 11111111-aaaa`" in output


def test_watch_writes_a_line_when_flares_status_comes(capsys: pytest.CaptureFixture[str]) -> None:
    before = server_job()
    del before["metadata"]["annotations"]["flargo.dev/flare-status"]
    snapshots = [share_server_notes(site_jobs([each], PODS)) for each in (before, before, server_job())]
    jobs._write_changes(iter(snapshots), None)
    lines = [line.split("server  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["ENDED  SUCCEEDED", "ENDED  SUCCEEDED  FLARE EXCEPTION"]


def test_a_deep_traceback_is_cut_at_its_beginning() -> None:
    frames = "".join(f'  File "train.py", line {number}\n' for number in range(100))
    text = last_error(f"Traceback (most recent call last):\n{frames}ValueError: {'x' * 1000}\n")
    first, *lines = text.splitlines()
    assert first == "[96 lines are left out]"
    assert (len(lines), lines[0], len(lines[-1])) == (6, '  File "train.py", line 95', 200)


def test_error_of_the_servers_note_is_shown_once() -> None:
    log = f"2026-11-30 02:04:22,513 - ServerRunner - ERROR - [identity=fed] - {ERROR}\n"
    server, site = share_server_notes(site_jobs([server_job(), client_job()], PODS))
    if server.role != "server":
        server, site = site, server
    assert explain(server, (), log).last_error == ""
    assert explain(site, (), log + log.replace(ERROR, "another")).last_error == "another"


def training_server(note: str, role: str = "server") -> Object:
    item = job_workflow("job-server", site="server", uid="w0", notes={"flargo.dev/progress": note})
    item["metadata"]["labels"] |= {"flargo.dev/role": role, "flargo.dev/site": "server"}
    return item


def test_servers_round_is_shown_for_all_sites_of_the_job() -> None:
    rows = share_server_notes(site_jobs([training_server("2/5"), job_workflow()], ()))
    assert [(row["round"], row["rounds"]) for row in (job.as_dict() for job in rows)] == [(2, 5)] * 2
    shown = columns(rows)
    index = [column.name for column in shown].index("ROUND")
    assert [row[index] for row in build_rows(rows, NOW, shown)] == ["2/5", "2/5"]
    assert ("progress", "round 2 of 5") in explain(rows[0], ()).evidence


@pytest.mark.parametrize("workflow", [training_server("6/5"), training_server("2/5", "client")])
def test_forged_round_is_ignored(workflow: Object) -> None:
    (job,) = site_jobs([workflow], ())
    assert job.rounds is None
    assert "ROUND" not in [column.name for column in columns([job])]


def test_watch_writes_one_line_for_a_new_round(capsys: pytest.CaptureFixture[str]) -> None:
    snapshots = [
        share_server_notes(site_jobs([training_server(note), job_workflow()], ())) for note in ("1/5", "2/5", "2/5")
    ]
    jobs._write_changes(iter(snapshots), None)
    lines = [line.split("11111111-aaaa  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert sorted(lines[:2]) == ["server  WAITING    round 1 of 5", "site-1  WAITING    round 1 of 5"]
    assert lines[2:] == ["server  WAITING    round 2 of 5"]
