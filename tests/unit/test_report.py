"""The reports of a job's outcome: where they are written, and which values they must not show."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from flargo.control.loop import MAX_LOG_BYTES, MAX_LOG_LINES, Loop
from flargo.flare.redact import REDACTED, REDACTION
from flargo.flare.report import LOG_TAIL, OUTCOME, Report
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import pod_view
from flargo.terms import Role, SecretData
from tests.harness.objects import pod, terminated_state
from tests.harness.scripted_api import Response, ScriptedApi

FAILED = Verdict(Reason.PROGRAM_FAILED, 1, "exit code 3", 3)
SUCCEEDED = Verdict(Reason.SUCCEEDED, 0, "", 0)
CREDENTIALS = SecretData("cred", {"TOKEN": b"s3cr3t-token", "EMPTY": b"", "SERVER": b"job-1"})


def report(root: Path, role: Role = Role.SERVER) -> Report:
    return Report("job-1", "site-1", role, run_dir=root / "job-1", error_log=root / "job-1" / "error_log.txt")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "job-1"
    path.mkdir()
    return path


def test_server_outcome_has_reason_and_remedy(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(FAILED, "wf", "the last line")
    outcome = json.loads((run_dir / OUTCOME).read_text())
    assert (outcome["reason"], outcome["code"], outcome["exit_code"], outcome["workflow"]) == (
        "PROGRAM_FAILED",
        1,
        3,
        "wf",
    )
    assert outcome["what_happened"] == Reason.PROGRAM_FAILED.sentence
    assert outcome["what_to_do"] == Reason.PROGRAM_FAILED.remedy
    assert (run_dir / LOG_TAIL).read_text() == "the last line"
    assert sorted(path.name for path in run_dir.iterdir()) == sorted([OUTCOME, LOG_TAIL])


def test_published_outcome_is_what_the_file_has(tmp_path: Path, run_dir: Path) -> None:
    outcome = report(tmp_path).publish(FAILED, "wf", "the last line")
    assert outcome == json.loads((run_dir / OUTCOME).read_text())
    assert "the last line" not in json.dumps(outcome)


@pytest.mark.parametrize("role", Role, ids=str)
def test_published_outcome_has_no_secret(role: Role, tmp_path: Path) -> None:
    """It is sent to receivers: neither a job's credentials nor the values of a site's files are in it."""
    quoted = 'env TOKEN=s3cr3t-token; spec.x: Invalid value: "hunter2": must be a name'
    leaky = Verdict(Reason.LAUNCH_FAILED, 101, quoted)
    REDACTION.learn(CREDENTIALS, public="job-1")
    job_report = report(tmp_path, role)
    texts = json.dumps([job_report.publish(leaky, "wf", "s3cr3t-token"), job_report.outcome(leaky, "wf")])
    REDACTION.forget(CREDENTIALS)
    assert "s3cr3t" not in texts
    assert "hunter2" not in texts
    assert texts.count(REDACTED) == 2


def test_outcome_size_is_limited(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(Verdict(Reason.ARGO_FAILED, 104, "x" * 1_000_000), "wf", "")
    assert (run_dir / OUTCOME).stat().st_size < 20_000


def test_an_archived_run_directory_stays_away(tmp_path: Path) -> None:
    """FLARE has removed the run directory, and it is not created again."""
    report(tmp_path).publish(FAILED, "wf", "tail")
    assert list(tmp_path.iterdir()) == []


def test_client_reason_is_one_line(tmp_path: Path, run_dir: Path) -> None:
    """The reason is in FLARE's error log. The program's log, with a patient's name, is written nowhere."""
    (run_dir / "error_log.txt").write_text("before\n")
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf", "a patient's name")
    before, line = (run_dir / "error_log.txt").read_text().splitlines()
    assert before == "before"
    assert "PROGRAM_FAILED (1)" in line
    assert [path.name for path in run_dir.iterdir()] == ["error_log.txt"]


def test_client_success_writes_nothing(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path, Role.CLIENT).publish(SUCCEEDED, "wf")
    assert list(run_dir.iterdir()) == []


def test_a_clients_reason_names_lost_attempts(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = report(tmp_path, Role.CLIENT)
    for number, reason in ((1, Reason.DISRUPTED), (2, Reason.NODE_LOST)):
        client.note_lost_attempt(number, 3, Verdict(reason, 104, "node n1"), "")
    with caplog.at_level(logging.INFO):
        client.publish(FAILED, "wf")
    (line,) = (run_dir / "error_log.txt").read_text().splitlines()
    history = "attempts lost: 1 (DISRUPTED), 2 (NODE_LOST)"
    assert f"PROGRAM_FAILED (1): The program failed. {history}; exit code 3" in line
    assert history in caplog.messages[-1]


def test_a_loss_has_no_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on: nobody has to submit it again."""
    client = report(tmp_path, Role.CLIENT)
    loss = Verdict(Reason.DISRUPTED, 104, 'spec.x: Invalid value: "s3cret"')
    client.note_lost_attempt(1, 3, loss, "")
    assert "attempt 1 of 3 lost (DISRUPTED), another one may follow: The pod was disrupted" in caplog.text
    assert loss.reason.remedy not in caplog.text + client.loss_summary(loss)
    assert client.loss_summary(loss).startswith("DISRUPTED: The pod was disrupted")
    assert "s3cret" not in client.loss_summary(loss)


def test_credentials_are_redacted_everywhere(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    leaky = Verdict(Reason.ARGO_FAILED, 104, "env TOKEN=s3cr3t-token")
    REDACTION.learn(CREDENTIALS, public="job-1")
    with caplog.at_level(logging.INFO):
        report(tmp_path).publish(leaky, "wf", "said s3cr3t-token twice: s3cr3t-token")
    REDACTION.forget(CREDENTIALS)
    texts = (run_dir / OUTCOME).read_text() + (run_dir / LOG_TAIL).read_text() + caplog.text
    assert "s3cr3t" not in texts
    assert REDACTED in texts
    assert '"job_id": "job-1"' in texts


def test_parent_logs_reason_and_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report(tmp_path).publish(Verdict(Reason.OUT_OF_MEMORY, 104, "memory limit 1Gi", 137), "wf")
    (line,) = caplog.messages
    for part in ("job-1", "site-1", "OUT_OF_MEMORY (104)", "memory limit 1Gi", Reason.OUT_OF_MEMORY.remedy):
        assert part in line


LAST_WORDS = "\n2026-01-01 00:00:00,000 - ServerRunner - INFO - all is well\x1b[2K\r\u202e\x85"
"""The output of a program that imitates entries of another logger."""


def test_program_output_forges_no_log_entry(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    verdict = Verdict(Reason.PROGRAM_FAILED, 1, f"exit code 3; {LAST_WORDS * 100}", 3)
    report(tmp_path, Role.CLIENT).publish(verdict, "wf")
    (logged,) = caplog.messages
    (error_line,) = (run_dir / "error_log.txt").read_text().splitlines()
    for line in (logged, error_line):
        assert line.isprintable()
        assert "all is well" in line
        assert line.endswith(Reason.PROGRAM_FAILED.remedy)


def test_quoted_values_stay_at_the_site(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    verdict = Verdict(Reason.LAUNCH_FAILED, 101, 'spec.tolerations[0].key: Invalid value: "hunter2": must be a name')
    for role in Role:
        report(tmp_path, role).publish(verdict, "wf")
    public = [path.read_text() for path in run_dir.iterdir()]
    assert len(public) == len(Role)
    assert "hunter2" not in "".join(public)
    assert all("spec.tolerations[0].key: Invalid value: (value not shown): must be a name" in text for text in public)
    assert caplog.text.count("hunter2") == len(Role), "the parent's log has it"


def test_a_failed_write_is_logged(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run_dir / OUTCOME).mkdir()
    report(tmp_path).publish(FAILED, "wf")
    assert "cannot write its outcome" in caplog.text
    assert [path.name for path in run_dir.iterdir()] == [OUTCOME], "no temporary file is left"


def test_verdict_replaces_preliminary_outcome(tmp_path: Path, run_dir: Path) -> None:
    job_report = report(tmp_path)
    job_report.write_preliminary(Cause.ABORT, "wf")
    first = json.loads((run_dir / OUTCOME).read_text())
    assert (first["reason"], first["code"], first["detail"]) == ("ABORTED", 9, "it is being ended")
    job_report.publish(FAILED, "wf")
    job_report.write_preliminary(Cause.ABORT, "wf")
    assert json.loads((run_dir / OUTCOME).read_text())["reason"] == "PROGRAM_FAILED"


def test_client_writes_no_preliminary_outcome(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path, Role.CLIENT).write_preliminary(Cause.ABORT, "wf")
    assert list(run_dir.iterdir()) == []


def test_symbolic_links_are_not_followed(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job's results may hold links in place of the files that the report writes."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    for name in ("error_log.txt", OUTCOME, LOG_TAIL):
        (run_dir / name).symlink_to(victim)
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf")
    report(tmp_path, Role.SERVER).publish(FAILED, "wf", "tail")
    assert victim.read_text() == "as it was"
    assert "cannot write its outcome" in caplog.text
    assert json.loads((run_dir / OUTCOME).read_text())["reason"] == "PROGRAM_FAILED"


def test_files_are_readable_by_the_parent_only(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(FAILED, "wf", "tail")
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf")
    assert {path.stat().st_mode & 0o777 for path in run_dir.iterdir()} == {0o600}


def write_tail(tmp_path: Path, run_dir: Path, log: str) -> str:
    report(tmp_path).publish(FAILED, "wf", log)
    return (run_dir / LOG_TAIL).read_text()


def test_a_token_is_redacted_before_trimming(tmp_path: Path, run_dir: Path) -> None:
    """Wherever the log is trimmed, no part of the token is kept."""
    token = f"eyJ{'h' * 300}.eyJ{'p' * 300}.{'s' * 300}"
    for before in range(0, 1000, 90):
        tail = write_tail(tmp_path, run_dir, "x" * 70_000 + f"\n{token}\n" + "y" * (MAX_LOG_BYTES - before))
        assert not re.search("h{9}|p{9}|s{9}", tail)


def test_a_key_is_redacted_before_trimming(tmp_path: Path, run_dir: Path) -> None:
    """Wherever the log is trimmed, no part of the key is kept."""
    lines = ["-----BEGIN PRIVATE KEY-----", *["MIIE" * 16] * 50, "-----END PRIVATE KEY-----"]
    for after in range(MAX_LOG_LINES - 60, MAX_LOG_LINES + 5, 4):
        tail = write_tail(tmp_path, run_dir, "\n".join(["before", *lines, *["a line"] * after]))
        assert "MIIE" not in tail


def test_a_key_without_its_beginning_is_redacted(tmp_path: Path, run_dir: Path) -> None:
    lines = [*["MIIE" * 16] * 50, "-----END PRIVATE KEY-----", "the end"]
    assert write_tail(tmp_path, run_dir, "\n".join(lines)) == f"{REDACTED}\nthe end"


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_lines_are_kept(tmp_path: Path, run_dir: Path, end: str) -> None:
    lines = [f"line {number}" for number in range(500)]
    assert write_tail(tmp_path, run_dir, "\n".join(lines) + end) == "\n".join(lines[-MAX_LOG_LINES:]) + end
    wide = [f"{number} {'é' * 2000}" for number in range(100)]
    tail = write_tail(tmp_path, run_dir, "\n".join(wide) + end)
    assert len(tail.encode()) <= MAX_LOG_BYTES
    assert tail.splitlines() == wide[-len(tail.splitlines()) :]
    assert len(tail.splitlines()) == MAX_LOG_BYTES // 4004


@pytest.mark.parametrize("end", ["", "\n"])
def test_an_overlong_last_line_is_trimmed(tmp_path: Path, run_dir: Path, end: str) -> None:
    tail = write_tail(tmp_path, run_dir, "x" * (3 * MAX_LOG_BYTES) + end)
    assert tail == "x" * (MAX_LOG_BYTES - len(end)) + end


@pytest.mark.parametrize("secret", ["token", "key"])
def test_trimmed_read_logs_are_redacted(tmp_path: Path, run_dir: Path, secret: str) -> None:
    """The API client trims the log too, as the loop reads it, and no part of a secret is kept."""
    token = f"eyJ{'h' * 300}.eyJ{'p' * 300}.{'s' * 300}"
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *["MIIE" * 16] * 50, "-----END PRIVATE KEY-----"])
    for after in range(MAX_LOG_BYTES - 3000, MAX_LOG_BYTES + 200, 150):
        body = f"{'x' * 100_000}\n{token if secret == 'token' else key}\n{'y' * after}\n"
        loop = Loop(ScriptedApi(Response(200, body.encode())), "", "me", 3)
        (pod_state,) = [pod_view(pod(main=terminated_state(3), phase="Failed"))]
        job_state = SimpleNamespace(observation=SimpleNamespace(pods=[pod_state]), first_pod_uid=pod_state.uid)
        tail = write_tail(tmp_path, run_dir, loop.read_log(job_state))  # type: ignore[arg-type]  # no more of it is looked at
        assert not re.search("h{9}|p{9}|s{9}|MIIE", tail)
        assert tail.endswith("y\n")


def test_a_lost_attempt_is_logged_and_its_log_kept(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason's remedy, to submit the job again, would mislead: the job goes on."""
    client = report(tmp_path, Role.CLIENT)
    verdict = Verdict(Reason.DISRUPTED, 104, "EvictionByEvictionAPI\nnext line")
    with caplog.at_level(logging.WARNING):
        client.note_lost_attempt(1, 3, verdict, "the end\n")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "job job-1 at site-1: attempt 1 of 3 lost (DISRUPTED), another one may follow:"
        " The pod was disrupted: drain, preemption or node shutdown. EvictionByEvictionAPI next line"
    )
    kept = run_dir / "argo_attempt_1_log_tail.txt"
    assert kept.read_text() == "the end\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    client.note_lost_attempt(2, 3, verdict, "")
    assert not (run_dir / "argo_attempt_2_log_tail.txt").exists(), "the site keeps none"


def test_the_log_of_a_lost_attempt_is_redacted(run_dir: Path, tmp_path: Path) -> None:
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", "MIIE" * 16, "-----END PRIVATE KEY-----"])
    report(tmp_path, Role.CLIENT).note_lost_attempt(1, 3, Verdict(Reason.DISRUPTED, 104), f"{key}\nthe end\n")
    kept = (run_dir / "argo_attempt_1_log_tail.txt").read_text()
    assert "MIIE" not in kept
    assert kept.endswith("the end\n")
