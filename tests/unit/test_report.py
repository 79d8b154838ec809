"""Where the reason for a job's end is told, and what must not be told there."""

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
DONE = Verdict(Reason.SUCCEEDED, 0, "", 0)
CREDENTIALS = SecretData("cred", {"TOKEN": b"s3cr3t-token", "EMPTY": b"", "SERVER": b"job-1"})


def report(root: Path, role: Role = Role.SERVER) -> Report:
    return Report("job-1", "site-1", role, run_dir=root / "job-1", error_log=root / "job-1" / "error_log.txt")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "job-1"
    path.mkdir()
    return path


def test_a_servers_outcome_says_what_happened_and_what_to_do(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(FAILED, "wf", "the last line")
    told = json.loads((run_dir / OUTCOME).read_text())
    assert (told["reason"], told["code"], told["exit_code"], told["workflow"]) == ("PROGRAM_FAILED", 1, 3, "wf")
    assert told["what_happened"] == Reason.PROGRAM_FAILED.sentence
    assert told["what_to_do"] == Reason.PROGRAM_FAILED.remedy
    assert (run_dir / LOG_TAIL).read_text() == "the last line"
    assert sorted(path.name for path in run_dir.iterdir()) == sorted([OUTCOME, LOG_TAIL])


def test_an_outcome_is_bounded_whatever_the_cluster_says(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(Verdict(Reason.ARGO_FAILED, 104, "x" * 1_000_000), "wf", "")
    assert (run_dir / OUTCOME).stat().st_size < 20_000


def test_a_run_directory_that_flare_has_archived_does_not_come_back(tmp_path: Path) -> None:
    report(tmp_path).publish(FAILED, "wf", "tail")
    assert list(tmp_path.iterdir()) == []


def test_a_clients_reason_is_one_line_in_flares_error_log_and_its_log_stays_at_the_site(
    tmp_path: Path, run_dir: Path
) -> None:
    (run_dir / "error_log.txt").write_text("before\n")
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf", "a patient's name")
    before, line = (run_dir / "error_log.txt").read_text().splitlines()
    assert before == "before"
    assert "PROGRAM_FAILED (1)" in line
    assert [path.name for path in run_dir.iterdir()] == ["error_log.txt"]


def test_a_clients_success_is_no_error(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path, Role.CLIENT).publish(DONE, "wf")
    assert list(run_dir.iterdir()) == []


def test_credentials_are_in_none_of_it(tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    leaky = Verdict(Reason.ARGO_FAILED, 104, "env TOKEN=s3cr3t-token")
    REDACTION.learn(CREDENTIALS, public="job-1")
    with caplog.at_level(logging.INFO):
        report(tmp_path).publish(leaky, "wf", "said s3cr3t-token twice: s3cr3t-token")
    REDACTION.forget(CREDENTIALS)
    written = (run_dir / OUTCOME).read_text() + (run_dir / LOG_TAIL).read_text() + caplog.text
    assert "s3cr3t" not in written
    assert REDACTED in written
    assert '"job_id": "job-1"' in written


def test_the_parents_log_has_one_line_with_reason_and_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report(tmp_path).publish(Verdict(Reason.OUT_OF_MEMORY, 104, "memory limit 1Gi", 137), "wf")
    (line,) = caplog.messages
    for part in ("job-1", "site-1", "OUT_OF_MEMORY (104)", "memory limit 1Gi", Reason.OUT_OF_MEMORY.remedy):
        assert part in line


LAST_WORDS = "\n2026-01-01 00:00:00,000 - ServerRunner - INFO - all is well\x1b[2K\r\u202e\x85"
"""Of a program that would rather have somebody else say something."""


def test_a_programs_last_words_make_no_entry_of_their_own_in_a_log(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = Verdict(Reason.PROGRAM_FAILED, 1, f"exit code 3; {LAST_WORDS * 100}", 3)
    report(tmp_path, Role.CLIENT).publish(verdict, "wf")
    (said,) = caplog.messages
    (written,) = (run_dir / "error_log.txt").read_text().splitlines()
    for line in (said, written):
        assert line.isprintable()
        assert "all is well" in line
        assert line.endswith(Reason.PROGRAM_FAILED.remedy)


def test_a_value_that_the_api_server_quotes_stays_at_the_site(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = Verdict(Reason.LAUNCH_FAILED, 101, 'spec.tolerations[0].key: Invalid value: "hunter2": must be a name')
    for role in Role:
        report(tmp_path, role).publish(verdict, "wf")
    public = [path.read_text() for path in run_dir.iterdir()]
    assert len(public) == len(Role)
    assert "hunter2" not in "".join(public)
    assert all("spec.tolerations[0].key: Invalid value: (value not shown): must be a name" in text for text in public)
    assert caplog.text.count("hunter2") == len(Role), "the parent's log has it"


def test_a_disk_that_fails_keeps_nothing_from_being_told(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / OUTCOME).mkdir()
    report(tmp_path).publish(FAILED, "wf")
    assert "cannot write its outcome" in caplog.text
    assert [path.name for path in run_dir.iterdir()] == [OUTCOME], "no temporary file is left"


def test_an_abort_is_written_down_before_its_end_is_seen_and_then_replaced(tmp_path: Path, run_dir: Path) -> None:
    told = report(tmp_path)
    told.write_preliminary(Cause.ABORT, "wf")
    first = json.loads((run_dir / OUTCOME).read_text())
    assert (first["reason"], first["code"], first["detail"]) == ("ABORTED", 9, "it is being ended")
    told.publish(FAILED, "wf")
    told.write_preliminary(Cause.ABORT, "wf")
    assert json.loads((run_dir / OUTCOME).read_text())["reason"] == "PROGRAM_FAILED"


def test_a_client_writes_no_abort_down(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path, Role.CLIENT).write_preliminary(Cause.ABORT, "wf")
    assert list(run_dir.iterdir()) == []


def test_a_link_that_a_job_brought_home_is_not_followed(
    tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    for name in ("error_log.txt", OUTCOME, LOG_TAIL):
        (run_dir / name).symlink_to(victim)
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf")
    report(tmp_path, Role.SERVER).publish(FAILED, "wf", "tail")
    assert victim.read_text() == "as it was"
    assert "cannot write its outcome" in caplog.text
    assert json.loads((run_dir / OUTCOME).read_text())["reason"] == "PROGRAM_FAILED"


def test_what_is_written_is_the_parents_own(tmp_path: Path, run_dir: Path) -> None:
    report(tmp_path).publish(FAILED, "wf", "tail")
    report(tmp_path, Role.CLIENT).publish(FAILED, "wf")
    assert {path.stat().st_mode & 0o777 for path in run_dir.iterdir()} == {0o600}


def kept(tmp_path: Path, run_dir: Path, log: str) -> str:
    report(tmp_path).publish(FAILED, "wf", log)
    return (run_dir / LOG_TAIL).read_text()


def test_a_token_that_the_cut_would_part_is_blanked_before(tmp_path: Path, run_dir: Path) -> None:
    token = f"eyJ{'h' * 300}.eyJ{'p' * 300}.{'s' * 300}"
    for before in range(0, 1000, 90):
        tail = kept(tmp_path, run_dir, "x" * 70_000 + f"\n{token}\n" + "y" * (MAX_LOG_BYTES - before))
        assert not re.search("h{9}|p{9}|s{9}", tail)


def test_a_key_that_the_cut_would_part_is_blanked_before(tmp_path: Path, run_dir: Path) -> None:
    lines = ["-----BEGIN PRIVATE KEY-----", *["MIIE" * 16] * 50, "-----END PRIVATE KEY-----"]
    for after in range(MAX_LOG_LINES - 60, MAX_LOG_LINES + 5, 4):
        tail = kept(tmp_path, run_dir, "\n".join(["before", *lines, *["a line"] * after]))
        assert "MIIE" not in tail


def test_a_key_that_had_lost_its_beginning_is_blanked(tmp_path: Path, run_dir: Path) -> None:
    lines = [*["MIIE" * 16] * 50, "-----END PRIVATE KEY-----", "the end"]
    assert kept(tmp_path, run_dir, "\n".join(lines)) == f"{REDACTED}\nthe end"


@pytest.mark.parametrize("end", ["", "\n"])
def test_of_a_log_its_last_lines_are_kept(tmp_path: Path, run_dir: Path, end: str) -> None:
    lines = [f"line {number}" for number in range(500)]
    assert kept(tmp_path, run_dir, "\n".join(lines) + end) == "\n".join(lines[-MAX_LOG_LINES:]) + end
    wide = [f"{number} {'é' * 2000}" for number in range(100)]
    tail = kept(tmp_path, run_dir, "\n".join(wide) + end)
    assert len(tail.encode()) <= MAX_LOG_BYTES
    assert tail.splitlines() == wide[-len(tail.splitlines()) :]
    assert len(tail.splitlines()) == MAX_LOG_BYTES // 4004


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_that_is_too_long_by_itself_is_cut(tmp_path: Path, run_dir: Path, end: str) -> None:
    tail = kept(tmp_path, run_dir, "x" * (3 * MAX_LOG_BYTES) + end)
    assert tail == "x" * (MAX_LOG_BYTES - len(end)) + end


@pytest.mark.parametrize("secret", ["token", "key"])
def test_what_is_read_of_a_log_is_cut_after_it_is_redacted(tmp_path: Path, run_dir: Path, secret: str) -> None:
    """As the loop reads it: the transport's own cut goes through no secret that is kept."""
    token = f"eyJ{'h' * 300}.eyJ{'p' * 300}.{'s' * 300}"
    key = "\n".join(["-----BEGIN PRIVATE KEY-----", *["MIIE" * 16] * 50, "-----END PRIVATE KEY-----"])
    for after in range(MAX_LOG_BYTES - 3000, MAX_LOG_BYTES + 200, 150):
        body = f"{'x' * 100_000}\n{token if secret == 'token' else key}\n{'y' * after}\n"
        loop = Loop(ScriptedApi(Response(200, body.encode())), "", "me", 3)
        (seen,) = [pod_view(pod(main=terminated_state(3), phase="Failed"))]
        life = SimpleNamespace(observation=SimpleNamespace(pods=[seen]), first_pod_uid=seen.uid)
        tail = kept(tmp_path, run_dir, loop._read_log(life))  # type: ignore[arg-type]  # no more of it is looked at
        assert not re.search("h{9}|p{9}|s{9}|MIIE", tail)
        assert tail.endswith("y\n")
