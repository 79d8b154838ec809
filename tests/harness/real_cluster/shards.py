"""Divides the test files among several clusters that run side by side.

The files are assigned by their times: the longest first, each to the cluster with the least total so far.
"""

from tests.harness.paths import ROOT

FOLDER = ROOT / "tests" / "cluster"
SECONDS = {
    "test_abuse.py": 90,
    "test_admission_policy.py": 175,
    "test_adoption.py": 470,
    "test_archive.py": 200,
    "test_cluster.py": 65,
    "test_commands.py": 340,
    "test_demo.py": 120,
    "test_doctor.py": 230,
    "test_faults.py": 235,
    "test_faults_by_hand.py": 150,
    "test_faults_daemons.py": 1000,
    "test_faults_exit_handlers.py": 150,
    "test_faults_nodes.py": 400,
    "test_faults_refusals.py": 340,
    "test_faults_rejoin.py": 165,
    "test_faults_wire.py": 340,
    "test_federation.py": 865,
    "test_federation_rejoin.py": 140,
    "test_forged.py": 90,
    "test_kubectl.py": 40,
    "test_lease.py": 75,
    "test_manifests.py": 55,
    "test_metrics.py": 15,
    "test_network_policy.py": 120,
    "test_parents.py": 980,
    "test_prepare.py": 150,
    "test_queue.py": 415,
    "test_rights.py": 280,
    "test_second_node.py": 230,
    "test_workflows.py": 200,
}
"""The time of each file, measured with three more clusters on the same two busy cores.

Only their ratios matter. ``pytest --durations=0`` measures them again.
"""


def assign_files(count: int) -> list[list[str]]:
    """Return the files of each of ``count`` clusters."""
    assignments: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(SECONDS, key=SECONDS.__getitem__, reverse=True):
        min(assignments, key=lambda files: sum(SECONDS[file] for file in files)).append(name)
    return assignments


def paths(shard: str) -> list[str]:
    """Return the files of one shard (``2/4`` is the second of four) as paths from the project's folder."""
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"{shard!r} is not a shard; the second of four is 2/4")
    return [str((FOLDER / name).relative_to(ROOT)) for name in assign_files(int(count))[int(number) - 1]]
