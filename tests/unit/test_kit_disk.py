"""Tests of reading and writing hostile kits: nothing outside of the kit is read or written."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.job.validate import InvalidInput
from flargo.tools.cli import kit_disk
from flargo.tools.kit.files import Change
from flargo.tools.kit.site import COMM_CONFIG, LAUNCHER_RESOURCES, WRITTEN_FILES
from flargo.tools.kit.undo import RECORD

OUTSIDE = b"a secret of this machine"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Create a kit with two files, beside a folder that does not belong to it."""
    for folder in ("kit/local", "kit/startup", "outside"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kit/local/resources.json").write_bytes(b"kit: resources")
    (tmp_path / "kit/startup/fed_client.json").write_bytes(b"kit: client")
    (tmp_path / "outside/secret.json").write_bytes(OUTSIDE)
    return tmp_path / "kit"


def link(path: Path, target: str | Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Reading


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../outside/secret.json", "local/../startup/fed_client.json", "local//x", ".", "", "a\0b"]
)
def test_paths_out_of_the_kit_are_rejected(root: Path, path: str) -> None:
    with kit_disk.open_kit(root, follow_links=True) as kit, pytest.raises(InvalidInput, match="relative path"):
        kit.read(path)


def test_root_may_be_a_link(root: Path) -> None:
    link(root.parent / "alias", "kit")
    assert kit_disk.read_kit(root.parent / "alias") == kit_disk.read_kit(root) != {}


def test_links_inside_the_kit_can_be_followed(root: Path) -> None:
    """The kubelet makes such links: each file leads to ..data, and that to a dated folder."""
    dated = root / "local/..2026_01_01"
    dated.mkdir()
    (dated / "comm_config.json").write_bytes(b"kit: mounted")
    link(root / "local/..data", "..2026_01_01")
    link(root / COMM_CONFIG, "..data/comm_config.json")
    link(root / "local/up.json", "../startup/./fed_client.json")
    contents = kit_disk.read_kit(root, follow_links=True)
    assert contents[COMM_CONFIG] == b"kit: mounted"
    assert contents["local/up.json"] == b"kit: client"
    with pytest.raises(InvalidInput, match="symbolic link"):
        kit_disk.read_kit(root)


LINKS_OUT = {
    "absolute": "/etc/hostname",
    "absolute, to the kit itself": "KIT/startup/fed_client.json",
    "upwards": "../../outside/secret.json",
    "upwards and back": "../../kit/startup/fed_client.json",
    "by another link": "sideways/secret.json",
    "upwards behind a link": "inner/../../outside/secret.json",
}


@pytest.mark.parametrize("case", LINKS_OUT)
@pytest.mark.parametrize("follow_links", [True, False])
def test_links_out_of_the_kit_are_rejected(root: Path, case: str, *, follow_links: bool) -> None:
    link(root / "local/sideways", "../../outside")
    link(root / "local/inner", "../startup")
    link(root / COMM_CONFIG, LINKS_OUT[case].replace("KIT", str(root)))
    with pytest.raises(InvalidInput, match="symbolic link") as raised:
        kit_disk.read_kit(root, follow_links=follow_links)
    assert raised.value.field == COMM_CONFIG


@pytest.mark.parametrize("target", ["comm_config.json", "b.json"], ids=["itself", "a loop"])
def test_link_loops_are_rejected(root: Path, target: str) -> None:
    link(root / COMM_CONFIG, target)
    link(root / "local/b.json", "comm_config.json")
    with pytest.raises(InvalidInput, match="too many symbolic links"):
        kit_disk.read_kit(root, follow_links=True)


PARTS = st.sampled_from(
    ["..", ".", "", "local", "startup", "kit", "outside", "a.json", "b", "secret.json", "fed_client.json"]
)
TARGETS = st.lists(PARTS, min_size=1, max_size=7).map("/".join).filter(bool)


@given(targets=st.dictionaries(st.sampled_from(["local/a.json", "local/b", "startup/a.json", "b"]), TARGETS))
def test_no_links_lead_outside_the_kit(targets: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for folder in ("kit/local", "kit/startup", "outside"):
            (top / folder).mkdir(parents=True)
        (top / "kit/startup/fed_client.json").write_bytes(b"kit: client")
        (top / "outside/secret.json").write_bytes(OUTSIDE)
        for path, target in targets.items():
            link(top / "kit" / path, target)
        with kit_disk.open_kit(top / "kit", follow_links=True) as kit:
            for path in ("local/a.json", "local/b/a.json", "local/b/secret.json", "b/fed_client.json", "b/secret.json"):
                try:
                    content = kit.read(path)
                except InvalidInput:
                    continue
                assert content in {None, b"kit: client"}
                if content is not None:
                    assert (top / "kit" / path).read_bytes() == content


@pytest.mark.parametrize("replaced", ["local", "local/resources.json"])
def test_link_replacing_a_file_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch, replaced: str) -> None:
    """The link is made between the check of a name and its opening."""
    (root.parent / "outside/resources.json").write_bytes(OUTSIDE)
    target = {"local": "../outside", "local/resources.json": "../../outside/secret.json"}[replaced]
    original_stat = os.stat

    def stat_and_replace(name: str, **arguments: bool) -> os.stat_result:
        status = original_stat(name, **arguments)
        if name == Path(replaced).name and not (root / replaced).is_symlink():
            (root / replaced).rename(root / "old")
            link(root / replaced, target)
        return status

    with kit_disk.open_kit(root, follow_links=True) as kit:
        monkeypatch.setattr(os, "stat", stat_and_replace)
        try:
            content = kit.read("local/resources.json")
        except InvalidInput:
            content = None
    assert (root / replaced).is_symlink()
    assert content is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a FIFO", "a directory"])
def test_only_regular_files_are_read(root: Path, make: Callable[[Path], None]) -> None:
    make(root / COMM_CONFIG)
    with pytest.raises(InvalidInput, match="regular file") as raised:
        kit_disk.read_kit(root)
    assert raised.value.field == COMM_CONFIG


def test_too_large_file_is_rejected(root: Path) -> None:
    with (root / COMM_CONFIG).open("wb") as file:
        file.truncate(kit_disk.MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidInput, match=f"at most {kit_disk.MAX_FILE_BYTES} bytes") as raised:
        kit_disk.read_kit(root)
    assert raised.value.field == COMM_CONFIG


def test_too_large_kit_is_rejected(root: Path) -> None:
    for number in range(kit_disk.MAX_KIT_BYTES // kit_disk.MAX_FILE_BYTES + 1):
        with (root / f"local/{number}.json").open("wb") as file:
            file.truncate(kit_disk.MAX_FILE_BYTES)
    with pytest.raises(InvalidInput, match=f"at most {kit_disk.MAX_KIT_BYTES} bytes"):
        kit_disk.read_kit(root)


def test_too_large_directory_is_rejected(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit_disk, "MAX_ENTRIES", 2)
    for number in range(3):
        (root / f"local/{number}").touch()
    with pytest.raises(InvalidInput, match="at most 2"):
        kit_disk.read_kit(root)


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_no_descriptor_is_left_open(root: Path) -> None:
    link(root / "local/a.json", "../startup/../startup/fed_client.json")
    before = descriptors()
    kit_disk.read_kit(root, follow_links=True)
    for _ in range(3):
        with pytest.raises(InvalidInput):
            kit_disk.read_kit(root)
    kit_disk.write(root, [Change(COMM_CONFIG, None, b"x"), Change(COMM_CONFIG, b"x", None)])
    assert descriptors() == before


# Writing


@pytest.mark.parametrize("path", ["local/other.json", "../outside/secret.json", "/etc/x", "startup/site.key"])
def test_only_files_of_flargo_are_written(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a file that flargo writes"):
        kit_disk.write(root, [Change(COMM_CONFIG, None, b"new"), Change(path, None, b"new")])
    assert not (root / COMM_CONFIG).exists()


@pytest.mark.parametrize("path", sorted(WRITTEN_FILES | {RECORD}))
@pytest.mark.parametrize("after", [b"new", None], ids=["write", "remove"])
def test_writes_follow_no_link(tmp_path: Path, path: str, after: bytes | None) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        kit, outside = tmp_path / f"kit{depth}", tmp_path / f"outside{depth}"
        target = outside.joinpath(*parts[depth:])
        target.parent.mkdir(parents=True)
        target.write_bytes(OUTSIDE)
        link(kit.joinpath(*parts[:depth]), outside)
        with pytest.raises(InvalidInput, match="symbolic link") as raised:
            kit_disk.write(kit, [Change(path, None, after)])
        assert raised.value.field == path
        assert target.read_bytes() == OUTSIDE
        assert [*target.parent.iterdir()] == [target]


def test_writes_replace_no_link(root: Path) -> None:
    link(root / COMM_CONFIG, "../../outside/secret.json")
    with pytest.raises(InvalidInput, match="symbolic link"):
        kit_disk.write(root, [Change(COMM_CONFIG, None, b"new")])
    assert (root.parent / "outside/secret.json").read_bytes() == OUTSIDE
    assert sorted(each.name for each in (root / "local").iterdir()) == ["comm_config.json", "resources.json"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400, 0o755])
def test_changed_file_keeps_its_mode(root: Path, mode: int) -> None:
    (root / "local/resources.json").chmod(mode)
    kit_disk.write(root, [Change("local/resources.json", b"", b"new")])
    assert (root / "local/resources.json").read_bytes() == b"new"
    assert mode_of(root / "local/resources.json") == mode


@pytest.mark.parametrize(
    ("umask", "bound", "mode"), [(0o022, None, 0o644), (0o022, 0o600, 0o600), (0o077, 0o664, 0o600)]
)
def test_new_file_respects_mode_and_umask(root: Path, umask: int, bound: int | None, mode: int) -> None:
    before = os.umask(umask)
    try:
        kit_disk.write(root, [Change(LAUNCHER_RESOURCES, None, b"new", bound)])
    finally:
        os.umask(before)
    assert mode_of(root / LAUNCHER_RESOURCES) == mode


def test_change_can_only_narrow_a_mode(root: Path) -> None:
    file = root / "local/resources.json"
    file.chmod(0o640)
    kit_disk.write(root, [Change("local/resources.json", b"", b"1", 0o604)])
    assert mode_of(file) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_written_by_root_keep_the_owner(root: Path) -> None:
    for path in (root / "local", root / "local/resources.json"):
        os.chown(path, 1234, 4321)
    kit_disk.write(root, [Change("local/resources.json", b"", b"1"), Change(LAUNCHER_RESOURCES, None, b"1")])
    for name in ("local/resources.json", LAUNCHER_RESOURCES):
        status = (root / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 4321)


def test_failed_write_leaves_the_old_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "x")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="28"):
        kit_disk.write(root, [Change("local/resources.json", b"", b"new")])
    assert [each.read_bytes() for each in (root / "local").iterdir()] == [b"kit: resources"]
