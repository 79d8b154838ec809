"""What of the real cluster the embedded engine is knowingly unlike, and why: the one list.

A scenario is named by its test's name as pytest prints it, a recording by its file's. Each is a strict expected failure
(see conftest.py): the day it passes, it has to leave the list.
"""

from collections.abc import Mapping

ABSENT: Mapping[str, str] = {
    "test_scenario[argos container hangs when the program has ended]": "Argo's wait container is no process",
}
"""Skipped: what they do it to is not there at all."""

INIT = "a job's own init containers are not run"
ONE_PROCESS = "API server, controller and kubelet are one process: none of them can be away from the others"
ONE_NODE = "the node is only counted: it can't be lost, drained, or be fought for by priority"
QUEUES = "Argo's locks and its parallelism are not known"

SCENARIOS: Mapping[str, str] = {
    "test_end[init container fails]": INIT,
    "test_end[init container's image missing]": INIT,
    "test_queued_on_a_lock_until_it_is_free_or_for_too_long": QUEUES,
    "test_queued_for_room_among_argos_workflows": QUEUES,
    "test_controller_overlooks_the_release": ONE_PROCESS,
    "test_node_lost_and_back": ONE_NODE,
    "test_node_drained_while_jobs_run_and_wait": ONE_NODE,
    "test_preempted_by_a_more_important_pod": ONE_NODE,
    "test_api_server_away_for_thirty_seconds[frozen]": ONE_PROCESS,
    "test_api_server_away_for_thirty_seconds[stopped]": ONE_PROCESS,
}
