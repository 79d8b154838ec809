"""The files of tests/cluster are divided among several clusters, each file to one."""

import pytest

from tests.harness.real_cluster import shards


def test_every_file_has_a_time() -> None:
    assert set(shards.SECONDS) == {path.name for path in shards.FOLDER.glob("test_*.py")}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_each_file_is_in_one_shard(count: int) -> None:
    assignments = shards.assign_files(count)
    assert len(assignments) == count
    assert all(assignments)
    assert sorted(name for files in assignments for name in files) == sorted(shards.SECONDS)


def test_paths_of_one_shard() -> None:
    assert shards.paths("2/3") == [f"tests/cluster/{name}" for name in shards.assign_files(3)[1]]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "2", "x/4"])
def test_invalid_shards_are_refused(shard: str) -> None:
    with pytest.raises(ValueError, match=shard):
        shards.paths(shard)
