"""Records of running launches: complete, without secrets, and harmless when they are damaged or somebody else's."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.flare.job_record import JobRecord
from flargo.flare.launch_records import FOLDER, LaunchRecord, LaunchRecords, LostAttempt, RecordsError
from flargo.flare.redact import REDACTION
from flargo.job.next_attempt import next_attempt
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Launch, Object, Parent, Role, SecretData
from tests.harness.launches import launch

FIRST: Launch = launch(max_attempts=3, refused_attempts="this site grants 2", pending=30.0)
RUN = replace(FIRST.parent, epoch="next0run")
"""The parent's next run."""
JOB = FIRST.job_id


def without_secrets(first: Launch) -> Launch:
    """Return a launch as a record holds it, for the parent's next run."""
    return replace(
        first,
        parent=RUN,
        startup=SecretData(first.startup.name, {}),
        credentials=SecretData(first.credentials.name, {}),
    )


def saved(root: Path, **changes: Any) -> tuple[LaunchRecords, Path]:
    """Return the records of a workspace with one record, whose fields are changed, and its file."""
    records = LaunchRecords(root)
    records.save(LaunchRecord(FIRST, 1, FIRST.attempt))
    file = root / FOLDER / f"{JOB}.json"
    if changes:
        document = json.loads(file.read_text())
        file.write_text(json.dumps({**document, **changes}))
    return records, file


@pytest.mark.parametrize("number", [1, 2])
def test_a_record_is_read_as_it_was_saved(number: int, tmp_path: Path) -> None:
    records = LaunchRecords(tmp_path)
    records.save(LaunchRecord(FIRST, number, "a7"))
    (record,) = records.load(RUN)
    assert record == LaunchRecord(without_secrets(FIRST), number, "a7")
    pod = FIRST.pod["metadata"]["name"]
    assert record.workflow == (pod if number == 1 else f"{pod}-r1")
    assert record.credentials == f"nvflare-cred-{record.workflow}-a7"


LOSS = Verdict(Reason.DISRUPTED, 104, "node n1 was drained")
FAILURE = Verdict(Reason.PROGRAM_FAILED, 1, "exit code 3", 3)


def test_a_lost_attempt_and_a_verdict_are_read_as_they_were_saved(tmp_path: Path) -> None:
    records = LaunchRecords(tmp_path)
    records.save(LaunchRecord(FIRST, 2, "a2", LostAttempt("a1", LOSS)))
    records.note_verdict(JOB, FAILURE)
    (record,) = records.load(RUN)
    assert record == LaunchRecord(without_secrets(FIRST), 2, "a2", LostAttempt("a1", LOSS), FAILURE)
    assert record.before == LaunchRecord(without_secrets(FIRST), 1, "a1", None, FAILURE)
    assert record.before.before is None


def test_a_verdict_is_noted_only_on_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk may have been full when the job was launched."""
    records, file = saved(tmp_path)
    records.note_verdict("other", FAILURE)
    assert [each.name for each in file.parent.iterdir()] == [file.name]
    monkeypatch.setattr("os.open", _refuse)
    records.note_verdict(JOB, FAILURE)
    assert "its verdict cannot be recorded" in caplog.text


def _refuse(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_verdict_survives_one_that_was_half_written(tmp_path: Path) -> None:
    """The parent may die, or the disk be full, while a verdict is written; the next run of the parent notes another."""
    records, file = saved(tmp_path)
    records.note_verdict(JOB, FAILURE)
    whole, start = file.read_bytes(), len(file.read_bytes().splitlines(keepends=True)[0])
    for end in range(start, len(whole)):
        file.write_bytes(whole[:end])
        assert [found.verdict for found in records.load(RUN)] == [None], end
        records.note_verdict(JOB, LOSS)
        assert [found.verdict for found in records.load(RUN)] == [LOSS], end


def test_a_record_keeps_its_verdict_when_it_is_replaced(tmp_path: Path) -> None:
    records = LaunchRecords(tmp_path)
    records.save(LaunchRecord(FIRST, 1, "a1", verdict=FAILURE))
    assert [found.verdict for found in records.load(RUN)] == [FAILURE]


def test_a_recorded_verdict_is_redacted(tmp_path: Path) -> None:
    records, file = saved(tmp_path)
    credentials = SecretData("nvflare-cred-x", {"TOKEN": b"a-token-of-this-test"})
    REDACTION.learn(credentials, public=JOB)
    records.note_verdict(JOB, replace(FAILURE, detail="exited with a-token-of-this-test"))
    REDACTION.forget(credentials)
    assert "a-token-of-this-test" not in file.read_text()


def test_a_job_that_has_ended_begins_no_attempt(tmp_path: Path) -> None:
    """One thread may begin it while another one ends the job."""
    records, _ = saved(tmp_path)
    record = JobRecord(records, JOB, lambda: True)
    record.end(FAILURE)
    record.begin(LaunchRecord(FIRST, 2, "a2"))
    (found,) = records.load(RUN)
    assert (found.number, found.verdict) == (1, FAILURE)
    record.delete()
    assert records.load(RUN) == []


def test_a_parent_without_its_site_changes_no_record(tmp_path: Path) -> None:
    """Another parent of the site may have one under the same name."""
    records, _ = saved(tmp_path)
    record = JobRecord(records, JOB, lambda: False)
    record.end(FAILURE)
    record.delete()
    assert [found.verdict for found in records.load(RUN)] == [None]


def test_the_next_attempt_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """Except for the label with the run of the parent that launches it."""
    records, _ = saved(tmp_path)
    (record,) = records.load(RUN)
    complete = replace(record.first, startup=FIRST.startup, credentials=FIRST.credentials)
    own = build_plan(next_attempt(replace(FIRST, parent=RUN), 2, "a2"), check_settings())
    assert build_plan(next_attempt(complete, 2, "a2"), check_settings()) == own


def test_a_record_holds_no_secret(tmp_path: Path) -> None:
    """Neither a credential nor a file of the startup kit, in any form."""
    _, file = saved(tmp_path)
    content = file.read_bytes()
    values = {*FIRST.credentials.data.values(), *FIRST.startup.data.values()} - {b"", JOB.encode()}
    assert values
    for value in values:
        for line in filter(None, value.splitlines()):
            assert line not in content
            assert json.dumps(line.decode(errors="replace"))[1:-1].encode() not in content


def test_records_are_the_owners_only(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        _, file = saved(tmp_path)
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [each.name for each in file.parent.iterdir()] == [file.name], "nothing else is left"


def test_a_record_is_replaced_and_deleted(tmp_path: Path) -> None:
    records, file = saved(tmp_path)
    records.save(LaunchRecord(FIRST, 2, "a2"))
    assert [record.number for record in records.load(RUN)] == [2]
    records.delete(JOB)
    records.delete(JOB)
    assert not file.exists()
    assert records.load(RUN) == []


def test_no_folder_is_no_record(tmp_path: Path) -> None:
    assert LaunchRecords(tmp_path).load(RUN) == []
    LaunchRecords(tmp_path).delete(JOB)
    assert [*tmp_path.iterdir()] == []


RECORDED: Object = {"reason": "DISRUPTED", "code": 104, "detail": "drained", "exit_code": None}
"""A verdict as a record holds it."""
FIELDS: dict[str, list[Any]] = {
    "version": [0, 2, "1", None],
    "job_id": ["other", "", "../x", 7, None, "a/b"],
    "job_name": [None, 3, ["x"]],
    "study": [None, {}],
    "site": ["site-2", "", None],
    "federation": ["f" * 32, None],
    "first_attempt": ["", "A1", "a" * 21, "../a", None],
    "attempt": ["", "A1", "a" * 21, 5],
    "pod": [None, [], {}, {"metadata": None}, {"metadata": {"name": "../x"}}],
    "container": [None, 1],
    "startup": ["", "UPPER", "a/b", None],
    "credentials": ["", "a b", None],
    "pending": [-1, "30", True, float("inf"), float("nan")],
    "max_attempts": [0, 101, True, 1.5, None],
    "refused_attempts": [2, None],
    "number": [0, 4, "1", None],
    "lost": [7, {}, {"attempt": "../a", "verdict": RECORDED}, {"attempt": "a1"}, {"attempt": "a1", "verdict": {}}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values])
def test_a_damaged_field_is_refused_and_named(
    field: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records, file = saved(tmp_path, **{field: value})
    assert records.load(RUN) == []
    assert not file.exists(), "it would be refused at every start"
    assert "cannot be used" in caplog.text
    assert f"`{field}" in caplog.text


@pytest.mark.parametrize(
    "verdict",
    [
        "SUCCEEDED",
        None,
        {},
        {**RECORDED, "reason": "NO_REASON"},
        {**RECORDED, "reason": ["SUCCEEDED"]},
        {**RECORDED, "code": -1},
        {**RECORDED, "code": "0"},
        {**RECORDED, "exit_code": 1.5},
        {**RECORDED, "detail": None},
    ],
)
def test_a_damaged_verdict_is_refused_and_named(
    verdict: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records, file = saved(tmp_path)
    file.write_text(f"{file.read_text()}{json.dumps(verdict)}\n")
    assert records.load(RUN) == []
    assert not file.exists()
    assert "`verdict" in caplog.text


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused(field: str, tmp_path: Path) -> None:
    records, file = saved(tmp_path)
    document = json.loads(file.read_text())
    del document[field]
    file.write_text(json.dumps(document))
    # A launch without a limit for its wait has null there, and so has one that has lost nothing.
    may_be_null = field in {"pending", "lost"}
    assert [record.first.job_id for record in records.load(RUN)] == ([JOB] if may_be_null else [])


@pytest.mark.parametrize("spec", [None, {}, {"containers": None}, {"containers": ["main"]}, []])
def test_a_pod_without_containers_is_refused(spec: object, tmp_path: Path) -> None:
    records, _ = saved(tmp_path, pod={**FIRST.pod, "spec": spec})
    assert records.load(RUN) == []


CONTENTS: tuple[Callable[[bytes], bytes], ...] = (
    lambda _: b"",
    lambda text: text[: len(text) // 2],
    lambda text: text + text,
    lambda _: b"\xff\xfe\x00",
    lambda _: b"\0" * 4096,
    lambda _: b"[" * 100_000,
    lambda _: b'{"version": ' + b"9" * 5000 + b"}",
    lambda _: b"null",
    lambda text: b" " * (4 * 1024 * 1024) + text,
)


@pytest.mark.parametrize("damage", CONTENTS)
def test_a_damaged_file_hides_no_other(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    records, file = saved(tmp_path)
    other = replace(FIRST, job_id="0-other")
    records.save(LaunchRecord(other, 1, "a1"))
    file.write_bytes(damage(file.read_bytes()))
    assert [record.first.job_id for record in records.load(RUN)] == ["0-other"]
    assert not file.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_raises(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a disk makes of a record, the other jobs are taken back."""
    records, file = saved(tmp_path)
    content = bytearray(file.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    for record in records.load(RUN):
        assert record.first.job_id == JOB
        assert (record.first.parent, record.number <= record.first.max_attempts) == (RUN, True)


def test_a_record_under_another_name_is_refused(tmp_path: Path) -> None:
    """Its job would be taken back twice, and the deletion of its record would miss it."""
    records, file = saved(tmp_path)
    file.with_name("copy.json").write_bytes(file.read_bytes())
    file.with_name(f"{JOB}.json.bak").write_bytes(file.read_bytes())
    assert [record.first.job_id for record in records.load(RUN)] == [JOB]
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_parent_that_may_not_be_the_only_one_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one may be writing just now."""
    records, file = saved(tmp_path)
    partial = file.with_name(f".{file.name}-x7")
    partial.write_text('{"version": 1, "jo')
    assert len(records.load(RUN, is_owner=False)) == 1
    assert (partial.exists(), caplog.text) == (True, "")


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    records, file = saved(tmp_path)
    file.with_name(f".{file.name}-x7").write_text('{"version": 1, "jo')
    assert len(records.load(RUN)) == 1
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("linked", [FOLDER, FOLDER.parent])
def test_links_lead_nowhere(linked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A startup kit may come with a link in place of a folder. Nothing behind it is read, written or deleted."""
    precious = tmp_path / "elsewhere" / FOLDER.relative_to(linked) / f"{JOB}.json"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    (tmp_path / "kit" / linked).parent.mkdir(parents=True)
    (tmp_path / "kit" / linked).symlink_to(tmp_path / "elsewhere")
    records = LaunchRecords(tmp_path / "kit")
    records.save(LaunchRecord(FIRST, 1, "a1"))
    records.delete(JOB)
    assert records.load(RUN) == []
    assert (precious.read_text(), [*precious.parent.iterdir()]) == ("precious", [precious])
    assert caplog.text.count("is a link") == 2


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A FIFO would make the parent wait for ever."""
    records, file = saved(tmp_path)
    os.mkfifo(file.with_name("pipe.json"))
    file.with_name("folder.json").mkdir()
    (tmp_path / "target").write_text("precious")
    file.with_name("link.json").symlink_to(tmp_path / "target")
    assert len(records.load(RUN)) == 1
    assert (tmp_path / "target").read_text() == "precious"


def test_a_full_disk_fails_no_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "secret-path")

    monkeypatch.setattr("flargo.flare.launch_records.write_atomically", fail)
    monkeypatch.setattr(Path, "unlink", fail)
    records = LaunchRecords(tmp_path)
    records.save(LaunchRecord(FIRST, 1, "a1"))
    records.delete(JOB)
    assert "not recorded, so it ends if this parent restarts" in caplog.text
    assert "its record cannot be deleted" in caplog.text


def test_an_unreadable_folder_is_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FOLDER.parent).mkdir()
    (tmp_path / FOLDER).write_text("a file in its place")
    assert LaunchRecords(tmp_path).load(RUN) == []
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("method", ["iterdir", "open", "is_symlink"])
def test_a_disk_that_fails_is_no_lack_of_records(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs that they name would be ended. The volume of a workspace may be away for a moment."""
    records, file = saved(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle", "secret-path")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, fail)
        with pytest.raises(RecordsError, match="cannot be read: Stale file handle"):
            records.load(RUN)
        records.save(LaunchRecord(FIRST, 1, "a1"))
        records.delete(JOB)
    assert file.exists() or method != "is_symlink"


def test_a_record_that_is_deleted_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, _ = saved(tmp_path)

    def vanish(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "open", vanish)
    assert records.load(RUN) == []


def test_another_sites_record_is_not_used(tmp_path: Path) -> None:
    """The workspace was copied, or provisioned anew for another federation."""
    for other in (Parent("site-9", RUN.federation, "e1", Role.CLIENT), replace(RUN, federation="0" * 32)):
        records, file = saved(tmp_path)
        assert records.load(other) == []
        assert not file.exists()
