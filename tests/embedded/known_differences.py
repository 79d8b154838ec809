"""Lists the known differences of the embedded engine from a real cluster, with their reasons.

A scenario is named as pytest prints its test, a recording by its file's name. conftest.py marks each as a strict
expected failure: as soon as it passes, it must be removed from the list.
"""

from collections.abc import Mapping

NO_PULLS = "the engine pulls no images, and checks only their names"

ABSENT: Mapping[str, str] = {
    "test_scenario[registry never answers, pulling]": NO_PULLS,
    "test_scenario[registry never answers, timeout]": NO_PULLS,
    "test_scenario[argos container hangs when the program has ended]": "Argo's wait container is not a process",
}
"""Scenarios that are skipped, because the engine lacks the component that they disturb."""

INIT = "the engine does not run a job's own init containers"
ONE_PROCESS = "API server, controller and kubelet are one process, so none of them can be cut off from the others"
ONE_NODE = "the node is only simulated: it can't be lost or drained, and pods are not preempted"
QUEUES = "the engine has no limit of parallel Workflows"
NO_HOOKS = "the engine refuses lifecycle hooks"
DEFAULTS = "the engine runs no step again: it refuses a retryStrategy"

SCENARIOS: Mapping[str, str] = {
    "test_end[init container fails]": INIT,
    "test_end[init container's image missing]": INIT,
    "test_queued_for_room_among_argos_workflows": QUEUES,
    "test_run_again_by_an_administrators_retry_strategy": DEFAULTS,
    "test_controller_overlooks_the_release": ONE_PROCESS,
    "test_node_lost_and_back": ONE_NODE,
    "test_node_drained_while_jobs_run_and_wait": ONE_NODE,
    "test_preempted_by_a_more_important_pod": ONE_NODE,
    **{
        f"test_{name}": ONE_NODE
        for name in (
            "drained_node",
            "tainted_node",
            "preempted",
            "evicted_for_its_node[memory]",
            "evicted_for_its_node[disk]",
            "node_without_power_is_back_in_time",
            "node_cut_off_and_back",
        )
    },
    "test_scenario[drained with a delay]": NO_HOOKS,
    "test_scenario[ends within the drain delay]": NO_HOOKS,
    "test_api_server_away_for_thirty_seconds[frozen]": ONE_PROCESS,
    "test_api_server_away_for_thirty_seconds[stopped]": ONE_PROCESS,
}

FROZEN = "a frozen controller continues with what it has read; here it is as if stopped"
OLDER = "recorded with an older flargo, which behaved differently"
NO_NETWORK = "the recorded node has no network; here the registry answers that the image does not exist"
LATE_POD_STATUS = "the real Argo sometimes reads a terminating pod once more although its step has ended"

RECORDINGS: Mapping[str, str] = {
    "end-image-missing": NO_NETWORK,
    "servers-launch-returns-when-the-job-cannot-start": NO_NETWORK,
    "end-image-s-name-invalid": OLDER,
    "end-init-container-fails": INIT,
    "end-init-container-s-image-missing": INIT,
    "controller-away-for-too-long": FROZEN,
    "controller-overlooks-the-release": ONE_PROCESS,
    "node-drained-while-jobs-run-and-wait": ONE_NODE,
    "node-lost-and-back": ONE_NODE,
    "preempted-by-a-more-important-pod": ONE_NODE,
    **{
        f"{name}{attempt}": ONE_NODE
        for name in (
            "drained-node",
            "tainted-node",
            "preempted",
            "evicted-for-its-node-memory",
            "evicted-for-its-node-disk",
            "node-without-power-is-back-in-time",
            "node-cut-off-and-back",
        )
        for attempt in ("", "-attempt-2")
    },
    "drained-with-a-delay": NO_HOOKS,
    "drained-with-a-delay-attempt-2": NO_HOOKS,
    "ends-within-the-drain-delay": NO_HOOKS,
    "run-again-by-an-administrators-retry-strategy": DEFAULTS,
    "registry-never-answers-pulling": NO_PULLS,
    "registry-never-answers-timeout": NO_PULLS,
    "suspended-by-a-person-before-its-start-and-aborted": "the engine makes no node for a step that never had a pod",
    "api-server-away-for-thirty-seconds-frozen": ONE_PROCESS,
    "api-server-away-for-thirty-seconds-stopped": ONE_PROCESS,
    "argos-container-hangs-when-the-program-has-ended": ABSENT[
        "test_scenario[argos container hangs when the program has ended]"
    ],
}

RESUMED = "whether flargo resumes the Workflow before Argo records the step's end"

DRAINED_POD = "whether Argo reads the end of a pod that is being deleted before the pod is removed"
START_STATES = "how many of a starting pod's states are reported"

RACES: Mapping[str, str] = {
    "end-more-on-disk-than-its-limit": "whether flargo's shutdown or Argo's reading of the evicted pod comes first",
    "argo-terminate-with-events-late-and-out-of-order-workflows": "how many of the Workflow's events are held back",
    "watches-half-open": "whether flargo observes the Workflow's end before it stops watching",
    "workflows-end-lost": "whether flargo observes the Workflow's end before it stops watching",
    "controller-away-during-an-abort": LATE_POD_STATUS,
    "evicted-while-it-runs": LATE_POD_STATUS,
    "evicted-and-deaf": "whether Argo has seen the pod run by then, which decides whether flargo shuts it down",
    "pod-deleted-while-it-runs": LATE_POD_STATUS,
    "argo-by-hand-terminate": "whether Argo's shutdown or flargo's kill comes first, which decides the recorded code",
    "end-program-missing": "whether Argo's wait container ends before flargo shuts the Workflow down",
    "end-past-its-deadline": START_STATES,
    "end-refused-by-its-node": START_STATES,
    "deleted-right-after-its-exit-pod": "whether Argo reads the pod's end before the pod is deleted",
    "deleted-right-after-its-exit-workflow": "whether Argo completes the Workflow before it is deleted",
    "abort-that-meets-shutdown-503-three-times": "whether the killed pod or the fourth shutdown reaches Argo first",
    "suspended-while-it-runs-aborted": RESUMED,
    "suspended-while-it-runs-exits-3": RESUMED,
    "pod-deleted-as-soon-as-it-is-there": "how far the pod has come by then, and whether Argo recreates it",
    "own-end-more-on-disk-than-its-limit": "whether main's status or the pod's reason is reported first",
    "drained-while-it-starts": "how many reconciliations Argo needs for a shutdown",
    "api-server-away-between-attempts-attempt-2": START_STATES,
    "second-attempt-is-refused-by-its-node-attempt-2": START_STATES,
    **dict.fromkeys(
        (
            "abort-while-the-second-attempt-is-submitted",
            "abort-while-the-second-attempt-runs-deaf",
            "abort-while-the-second-attempt-runs-heeds",
            "abort-while-the-pod-is-drained",
            "api-server-away-between-attempts",
            "deleted-by-hand-pod",
            "drained-and-deaf",
            "drained-as-soon-as-it-runs",
            "drained-twice",
            "drained-twice-attempt-2",
            "drained-while-it-runs",
            "drained-while-it-runs",
            "drained-with-events-late-and-out-of-order-pod",
            "drained-with-events-late-and-out-of-order-workflow",
            "drained-without-the-jobs-consent",
            "drained-without-the-sites-permission",
            "ended-between-attempts-abort",
            "handler-while-the-next-attempt-runs",
            "ended-between-attempts-cleanup",
            "limit-reached",
            "limit-reached-attempt-2",
            "log-of-a-lost-attempt-is-kept",
            "parent-is-shut-down-between-attempts",
            "pod-deleted-where-that-counts",
            "second-attempt-fails",
            "second-attempt-finds-no-node",
            "second-attempt-finds-no-server-gone",
            "second-attempt-finds-no-server-runs",
            "second-attempt-is-refused",
            "second-attempt-is-refused-by-its-node",
            "second-attempt-is-submitted-with-difficulty",
            "server-cannot-be-reached-for-a-moment",
            "servers-job-ends-before-the-second-attempt-runs",
            "servers-job-has-ended-before-the-second-attempt",
        ),
        DRAINED_POD,
    ),
    **{
        f"submit-api-away-from-then-on-for-30-s-{step}": "how much of the submission is done when the API is back"
        for step in ("reading-the-kit", "writing-the-kit", "the-create", "the-credentials", "the-release")
    },
}
"""Recordings whose events race on every cluster: only the verdict is compared, and the pod's last phase with its reason
if both launchers observed a pod."""

_IMAGE = "flargo.test/job:not-there"
_NOT_PULLED = f'failed to pull and unpack image "{_IMAGE}": failed to resolve reference "{_IMAGE}"'

MESSAGES: Mapping[str, str] = {
    f"{_NOT_PULLED}: {_IMAGE}: not found": NO_NETWORK,
}
"""Messages of the embedded engine that are in no recording."""
