"""A job folder that the demo is given: its own files are copied, and nothing that it links to."""

import json
import os
from pathlib import Path

import pytest

from flargo.demo import jobs, run
from flargo.demo.options import DemoError, Options


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    (folder / "app/custom").mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"name": "mine"}))
    (folder / "app/custom/train.py").write_text("pass")
    (tmp_path / "secret").write_text("a secret of this machine")
    return folder


@pytest.mark.parametrize("target", ["../../../secret", "/etc/hostname", "train.py", "..", "nowhere"])
@pytest.mark.parametrize("path", ["app/custom/data", "app/config", "link"])
def test_a_link_in_a_job_is_named_and_nothing_is_copied(job: Path, tmp_path: Path, path: str, target: str) -> None:
    (job / path).symlink_to(target)
    with pytest.raises(DemoError, match="symbolic link") as error:
        jobs.own(job, tmp_path / "copies", "image")
    assert str(job / path) in str(error.value)
    assert not (tmp_path / "copies").exists()


def test_linked_metadata_is_not_read(job: Path, tmp_path: Path) -> None:
    (job / "meta.json").unlink()
    (tmp_path / "other.json").write_text("hunter2")
    (job / "meta.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(DemoError, match="symbolic link") as error:
        jobs.own(job, tmp_path / "copies", "image")
    assert "hunter2" not in str(error.value)


def test_what_is_no_regular_file_is_named(job: Path, tmp_path: Path) -> None:
    os.mkfifo(job / "app/pipe")
    with pytest.raises(DemoError, match="app/pipe is no regular file"):
        jobs.own(job, tmp_path / "copies", "image")


def test_a_job_is_refused_before_anything_is_started(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job / "link").symlink_to("/etc/hostname")
    monkeypatch.setattr(run, "engine", lambda *_: pytest.fail("an engine is started"))
    said: list[str] = []

    class Screen:
        seconds = 0.0

        def say(self, *words: str) -> None:
            said.extend(words)

    options = Options(2, 1, job, None, None, "default", "image", "127.0.0.1", None, 10.0)
    assert run.run(options, Screen()) == 1  # type: ignore[arg-type]
    assert any(str(job / "link") in each for each in said)


def test_the_folder_itself_may_be_a_link(job: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(job)
    copy = jobs.own(tmp_path / "alias", tmp_path / "copies", "image")
    assert (copy / "app/custom/train.py").read_text() == "pass"
    assert json.loads((copy / "meta.json").read_text())["launcher_spec"]["default"]["k8s"]["image"] == "image"
