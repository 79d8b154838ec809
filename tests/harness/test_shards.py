"""The tests that need a cluster are dealt out to several clusters, each test to one."""

import pytest

from tests.harness.real_cluster import shards


def test_every_file_has_its_time() -> None:
    assert set(shards.SECONDS) == {path.name for path in shards.FOLDER.glob("test_*.py")}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_each_file_is_in_one_shard(count: int) -> None:
    dealt = shards.assign_files(count)
    assert len(dealt) == count
    assert all(dealt)
    assert sorted(name for files in dealt for name in files) == sorted(shards.SECONDS)


def test_paths_are_those_of_one_shard() -> None:
    assert shards.paths("2/3") == [f"tests/cluster/{name}" for name in shards.assign_files(3)[1]]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "2", "x/4"])
def test_there_is_no_such_shard(shard: str) -> None:
    with pytest.raises(ValueError, match=shard):
        shards.paths(shard)
