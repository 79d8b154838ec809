"""What of the real cluster the embedded engine is knowingly unlike, and why: the one list.

A scenario is named by its test's name as pytest prints it, a recording by its file's. Each is a strict expected failure
(see conftest.py): the day it passes, it has to leave the list.
"""

from collections.abc import Mapping

NO_PULLS = "no registry is asked: of an image only its name is looked at"

ABSENT: Mapping[str, str] = {
    "test_scenario[registry never answers, pulling]": NO_PULLS,
    "test_scenario[registry never answers, timeout]": NO_PULLS,
    "test_scenario[argos container hangs when the program has ended]": "Argo's wait container is no process",
}
"""Skipped: what they do it to is not there at all."""

INIT = "a job's own init containers are not run"
ONE_PROCESS = "API server, controller and kubelet are one process: none of them can be away from the others"
ONE_NODE = "the node is only counted: it can't be lost, drained, or be fought for by priority"
QUEUES = "Argo's locks and its parallelism are not known"
DEFAULTS = "the controller has no ConfigMap, and so no workflowDefaults"

SCENARIOS: Mapping[str, str] = {
    "test_end[init container fails]": INIT,
    "test_end[init container's image missing]": INIT,
    "test_queued_on_a_lock_until_it_is_free_or_for_too_long": QUEUES,
    "test_queued_for_room_among_argos_workflows": QUEUES,
    "test_run_again_by_an_administrators_retry_strategy": DEFAULTS,
    "test_invalid_by_an_administrators_defaults": DEFAULTS,
    "test_controller_overlooks_the_release": ONE_PROCESS,
    "test_node_lost_and_back": ONE_NODE,
    "test_node_drained_while_jobs_run_and_wait": ONE_NODE,
    "test_preempted_by_a_more_important_pod": ONE_NODE,
    "test_api_server_away_for_thirty_seconds[frozen]": ONE_PROCESS,
    "test_api_server_away_for_thirty_seconds[stopped]": ONE_PROCESS,
}

OLDER = "recorded with an older flargo, which did something else then"
NO_NETWORK = "the recorded node has no network; here the registry answers that there is no such image"
TOLD_AFTER_ALL = (
    "the real Argo now and then looks once more at a pod that goes, though its step is over (not in evicted-and-deaf)"
)

RECORDINGS: Mapping[str, str] = {
    "end-image-missing": NO_NETWORK,
    "servers-launch-returns-when-the-job-cannot-start": NO_NETWORK,
    "end-image-s-name-invalid": OLDER,
    "end-init-container-fails": INIT,
    "end-init-container-s-image-missing": INIT,
    "controller-away-for-too-long": "a frozen controller goes on with what it has read; here it is as if ended",
    "controller-overlooks-the-release": ONE_PROCESS,
    "node-drained-while-jobs-run-and-wait": ONE_NODE,
    "node-lost-and-back": ONE_NODE,
    "preempted-by-a-more-important-pod": ONE_NODE,
    "queued-on-a-lock-until-it-is-free-or-for-too-long": QUEUES,
    "run-again-by-an-administrators-retry-strategy": DEFAULTS,
    "invalid-by-an-administrators-defaults": DEFAULTS,
    "registry-never-answers-pulling": NO_PULLS,
    "registry-never-answers-timeout": NO_PULLS,
    "api-server-away-for-thirty-seconds-frozen": ONE_PROCESS,
    "api-server-away-for-thirty-seconds-stopped": ONE_PROCESS,
    "argos-container-hangs-when-the-program-has-ended": ABSENT[
        "test_scenario[argos container hangs when the program has ended]"
    ],
}

RACES: Mapping[str, str] = {
    "end-more-on-disk-than-its-limit": "whether flargo's shutdown or Argo's look at the evicted pod is first",
    "argo-terminate-with-events-late-and-out-of-order-workflows": "how much of the Workflow is kept back",
    "watches-half-open": "whether flargo hears of the Workflow's end before it lets go",
    "workflows-end-lost": "whether flargo hears of the Workflow's end before it lets go",
    "controller-away-during-an-abort": TOLD_AFTER_ALL,
    "evicted-while-it-runs": TOLD_AFTER_ALL,
    "pod-deleted-while-it-runs": TOLD_AFTER_ALL,
    "argo-by-hand-terminate": "whether Argo's shutdown or flargo's kill is first, and so the code that is recorded",
    "end-program-missing": "whether Argo's wait container ends before flargo shuts the Workflow down",
    "end-past-its-deadline": "how many of the steps of a pod that starts are told of",
    "end-refused-by-its-node": "how many of the steps of a pod that starts are told of",
    "pod-deleted-as-soon-as-it-is-there": "how far the pod is by then, and whether Argo makes another one",
    **{
        f"submit-api-away-from-then-on-for-30-s-{step}": "how much of it is over when the API is back"
        for step in ("reading-the-kit", "writing-the-kit", "the-create", "the-credentials", "the-release")
    },
}
"""Recordings of what may go either way on any cluster: only the verdict is compared, and the pod's last phase
with its reason where both launchers saw a pod."""

_IMAGE = "flargo.test/job:not-there"
_NOT_PULLED = f'failed to pull and unpack image "{_IMAGE}": failed to resolve reference "{_IMAGE}"'

WORDS: Mapping[str, str] = {
    f"{_NOT_PULLED}: {_IMAGE}: not found": NO_NETWORK,
}
"""What is said here and in no recording."""
