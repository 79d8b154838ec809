"""Tests of the job folder that a user names: its files are copied, but nothing that it links to."""

import json
import os
from pathlib import Path

import pytest

from flargo.tools.demo import job_folder, run
from flargo.tools.demo.options import DemoError, Options


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
def test_link_is_named_and_nothing_copied(job: Path, tmp_path: Path, path: str, target: str) -> None:
    (job / path).symlink_to(target)
    with pytest.raises(DemoError, match="symbolic link") as error:
        job_folder.copy_job(job, tmp_path / "copies", "image")
    assert str(job / path) in str(error.value)
    assert not (tmp_path / "copies").exists()


def test_linked_meta_json_is_not_read(job: Path, tmp_path: Path) -> None:
    (job / "meta.json").unlink()
    (tmp_path / "other.json").write_text("hunter2")
    (job / "meta.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(DemoError, match="symbolic link") as error:
        job_folder.copy_job(job, tmp_path / "copies", "image")
    assert "hunter2" not in str(error.value)


def test_fifo_in_a_job_is_named(job: Path, tmp_path: Path) -> None:
    os.mkfifo(job / "app/pipe")
    with pytest.raises(DemoError, match="app/pipe is not a regular file"):
        job_folder.copy_job(job, tmp_path / "copies", "image")


def test_invalid_job_starts_nothing(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job / "link").symlink_to("/etc/hostname")
    monkeypatch.setattr(run, "open_cluster", lambda *_: pytest.fail("a cluster is opened"))
    texts: list[str] = []

    class Screen:
        seconds = 0.0

        def print_line(self, *line: str) -> None:
            texts.extend(line)

    options = Options(2, 1, job, None, None, "default", "image", "127.0.0.1", None, 10.0)
    assert run.run(options, Screen()) == 1  # type: ignore[arg-type]
    assert any(str(job / "link") in text for text in texts)


def test_job_folder_itself_may_be_a_link(job: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(job)
    copy = job_folder.copy_job(tmp_path / "alias", tmp_path / "copies", "image")
    assert (copy / "app/custom/train.py").read_text() == "pass"
    assert json.loads((copy / "meta.json").read_text())["launcher_spec"]["default"]["k8s"]["image"] == "image"


@pytest.mark.parametrize(
    "content",
    ["[" * 5000, f'{{"min_clients": {"1" * 5000}}}', "{", "[1]", b"\xff\xfe\xfd", f'{{"a": "{"x" * 5_000_000}"}}'],
    ids=["brackets", "digits", "half", "a list", "no text", "too large"],
)
def test_unreadable_meta_json_is_named(job: Path, content: str | bytes) -> None:
    (job / "meta.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DemoError, match=r"meta\.json"):
        job_folder.read_meta(job)


@pytest.mark.parametrize("number", [10**9, -1, 1e9, float("nan"), "1" * 5000, "²", "٣", "x", [1], {}])
def test_impossible_min_clients_is_named(number: object) -> None:
    meta = {"min_clients": number} if number != {} else {"min_clients": {"a": 1}}
    with pytest.raises(DemoError, match="min_clients"):
        job_folder.site_names(meta, 2)


@pytest.mark.parametrize(
    ("number", "sites"), [(None, 2), (0, 2), (1, 2), (3, 3), ("3", 3), ("", 2), (3.5, 3), (True, 2)]
)
def test_min_clients_raises_the_number_of_sites(number: object, sites: int) -> None:
    assert job_folder.site_names({"min_clients": number}, 2) == tuple(f"site-{n}" for n in range(1, sites + 1))


@pytest.mark.parametrize(
    ("meta", "key"),
    [
        ({"deploy_map": [1]}, "deploy_map"),
        ({"deploy_map": "app"}, "deploy_map"),
        ({"deploy_map": {"app": None}}, "deploy_map\\['app'\\]"),
        ({"deploy_map": {"app": ["server", {"c": 1}]}}, "deploy_map\\['app'\\]"),
        ({"deploy_map": {"app": [{"sites": [1]}]}}, "deploy_map\\['app'\\]"),
        ({"mandatory_clients": 1}, "mandatory_clients"),
        ({"mandatory_clients": [["a"]]}, "mandatory_clients"),
        ({"mandatory_clients": "site-1"}, "mandatory_clients"),
        ({"deploy_map": {"app": [f"s{n}" for n in range(100_000)]}}, "names 100000 sites"),
    ],
)
def test_malformed_site_fields_are_named(meta: dict[str, object], key: str) -> None:
    with pytest.raises(DemoError, match=key):
        job_folder.site_names(meta, 2)


def test_sites_come_from_the_jobs_metadata() -> None:
    meta = {"deploy_map": {"app": ["server", "b", {"targets": ["c"]}], "other": {"sites": ["a", "@ALL"]}, "text": "e"}}
    assert job_folder.site_names({**meta, "mandatory_clients": ["a", "d"]}, 2) == ("b", "c", "a", "e", "d")
