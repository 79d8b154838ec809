"""The file that tells when a parent of a workspace ran last: it proves nothing unless it is plainly right."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flargo.flare.heartbeat import FILE, Heartbeat

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A time of day that a test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeat(tmp_path: Path, clock: Clock) -> Heartbeat:
    return Heartbeat(tmp_path, clock)


def test_it_tells_how_long_ago_a_parent_ran(heartbeat: Heartbeat, clock: Clock, tmp_path: Path) -> None:
    assert heartbeat.seconds_since() is None
    heartbeat.write()
    clock.now += timedelta(seconds=7)
    heartbeat.write()
    clock.now += timedelta(seconds=42)
    assert Heartbeat(tmp_path, clock).seconds_since() == 42.0
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / FILE).parent.iterdir()] == [FILE.name]


def test_another_zone_of_time_does_not_matter(heartbeat: Heartbeat, tmp_path: Path) -> None:
    heartbeat.write()
    east = datetime.fromisoformat("2026-01-01T05:00:09+05:00")
    assert Heartbeat(tmp_path, lambda: east).seconds_since() == 9.0


def test_a_clock_that_was_set_back_proves_nothing(heartbeat: Heartbeat, clock: Clock) -> None:
    heartbeat.write()
    clock.now -= timedelta(seconds=1)
    assert heartbeat.seconds_since() is None


@pytest.mark.parametrize(
    "content", [b"", b"2026", b"2026-01-01T00:00:00", b"\xff\xfe", b"0" * 5000, b"9999-99-99T00:00:00+00:00", b"null"]
)
def test_a_damaged_file_proves_nothing(content: bytes, heartbeat: Heartbeat, clock: Clock, tmp_path: Path) -> None:
    heartbeat.write()
    (tmp_path / FILE).write_bytes(content)
    clock.now += timedelta(seconds=5)
    assert heartbeat.seconds_since() is None


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "folder above"])
def test_nothing_but_a_file_is_read_or_written(
    kind: str, heartbeat: Heartbeat, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever made the startup kit could otherwise choose what is overwritten, or let the parent hang."""
    target, path = tmp_path / "target", tmp_path / FILE
    target.mkdir() if kind == "folder above" else target.write_text("precious")
    if kind == "folder above":
        path.parent.symlink_to(target)
    else:
        path.parent.mkdir()
    match kind:
        case "link":
            path.symlink_to(target)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
    heartbeat.write()
    heartbeat.write()
    assert heartbeat.seconds_since() is None
    assert len([line for line in caplog.messages if "cannot be written" in line]) == 1
    assert [*target.iterdir()] == [] if kind == "folder above" else target.read_text() == "precious"
