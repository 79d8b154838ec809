"""Which test files run on which of several clusters that stand side by side.

The files are dealt out by how long each takes: the longest first, each to the cluster that has the least to do so far.
"""

from tests.harness.paths import ROOT

FOLDER = ROOT / "tests" / "cluster"
SECONDS = {
    "test_abuse.py": 90,
    "test_admission_policy.py": 175,
    "test_archive.py": 200,
    "test_cluster.py": 65,
    "test_commands.py": 340,
    "test_demo.py": 60,
    "test_doctor.py": 230,
    "test_faults.py": 235,
    "test_faults_daemons.py": 700,
    "test_faults_wire.py": 340,
    "test_federation.py": 865,
    "test_forged.py": 90,
    "test_manifests.py": 55,
    "test_metrics.py": 15,
    "test_network_policy.py": 120,
    "test_parents.py": 700,
    "test_prepare.py": 150,
    "test_queue.py": 415,
    "test_rights.py": 280,
    "test_workflows.py": 200,
}
"""How long each file takes with three more clusters on the same two cores, which had much else to do.

Only how they compare matters. ``pytest --durations=0`` tells them anew.
"""


def shards(count: int) -> list[list[str]]:
    """The files of each of ``count`` clusters."""
    dealt: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(SECONDS, key=SECONDS.__getitem__, reverse=True):
        min(dealt, key=lambda files: sum(SECONDS[file] for file in files)).append(name)
    return dealt


def paths(shard: str) -> list[str]:
    """The files of one shard (``2/4`` is the second of four) as paths from the project's folder."""
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"{shard} names no shard: the second of four is 2/4")
    return [str((FOLDER / name).relative_to(ROOT)) for name in shards(int(count))[int(number) - 1]]
