"""Every way a job can end, with what FLARE is told, what people are told, and what they can do.

The return codes are FLARE's (nvflare 2.9, ``ProcessExitCode`` and ``JobReturnCode``). FLARE counts a code
that it does not know as a success, so nothing else is ever returned:

==== ==================================================== ==============================
code meaning                                              FLARE's job status
==== ==================================================== ==============================
0    done                                                 FINISHED:COMPLETED
1    the program failed                                   FINISHED:EXECUTION_EXCEPTION
9    somebody ended it on purpose                         FINISHED:ABORTED
101  it could never start, or the program's own 101-103   FINISHED:EXECUTION_EXCEPTION
104  the infrastructure lost it                           FINISHED:ABNORMAL
==== ==================================================== ==============================
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class ReturnCode(IntEnum):
    """What FLARE is told."""

    SUCCESS = 0
    FAILED = 1
    ABORTED = 9
    NEVER_STARTED = 101
    LOST = 104


FLARE_EXIT_CODES = frozenset({101, 102, 103})
"""Exit codes that FLARE's job process chooses itself: exception, unsafe component, configuration error."""


class Row(NamedTuple):
    """A reason's row of the table."""

    code: int | None
    """What FLARE is told; None: the program's own exit code."""
    sentence: str
    remedy: str


class Reason(Enum):
    """Why a job ended; the stable names of flargo's contract with people and scripts."""

    SUCCEEDED = Row(ReturnCode.SUCCESS, "The program ended with exit code 0.", "")
    PROGRAM_FAILED = Row(ReturnCode.FAILED, "The program failed.", "Read the job's log.")
    PROGRAM_REPORTED = Row(None, "FLARE's job process reported a failure.", "Read the job's log.")

    ABORTED = Row(ReturnCode.ABORTED, "FLARE aborted the job.", "")
    SHUT_DOWN = Row(
        ReturnCode.ABORTED, "The Workflow was terminated from outside FLARE.", "Ask who used argo terminate or stop."
    )

    # Not 9 or 104: FLARE's server would let those overrule its own outcome of the job, which is what counts here.
    CLEANED_UP = Row(ReturnCode.FAILED, "FLARE's server no longer runs the job.", "See the FLARE server's log.")
    OUT_OF_MEMORY = Row(
        ReturnCode.LOST, "The job used more than its memory limit.", "Raise 'memory' in its launcher_spec."
    )
    EVICTED = Row(
        ReturnCode.LOST, "The pod was evicted by its node.", "See the message; raise the limit or free the node."
    )
    DISRUPTED = Row(
        ReturnCode.LOST, "The pod was disrupted: drain, preemption or node shutdown.", "Submit the job again."
    )
    DEADLINE = Row(
        ReturnCode.LOST,
        "The job ran longer than it may.",
        "Raise 'argo.policy.running_time' or the pod template's activeDeadlineSeconds.",
    )
    NODE_LOST = Row(
        ReturnCode.LOST, "The node was lost, and the pod with it.", "Look at the node; submit the job again."
    )
    POD_DELETED = Row(
        ReturnCode.LOST, "The pod was deleted while the job ran.", "Find out who deletes pods; submit again."
    )
    NODE_REFUSED = Row(ReturnCode.LOST, "The node refused the pod before it started.", "See the message; submit again.")
    RUN_TWICE = Row(ReturnCode.LOST, "Argo started a second pod for the job; both were ended.", "Submit the job again.")
    WORKFLOW_DELETED = Row(
        ReturnCode.LOST, "The Workflow was deleted while the job ran.", "Find out who deletes Workflows."
    )
    ARGO_FAILED = Row(
        ReturnCode.LOST, "Argo failed the Workflow.", "See the message and the Workflow controller's log."
    )
    ORPHANED = Row(ReturnCode.LOST, "The FLARE parent that ran the job had died.", "Submit the job again.")
    PARENT_ENDED = Row(ReturnCode.LOST, "The FLARE parent process ended, and the job with it.", "Submit the job again.")

    LAUNCH_FAILED = Row(ReturnCode.NEVER_STARTED, "The job could not be put on the cluster.", "See the message.")
    INVALID = Row(
        ReturnCode.NEVER_STARTED,
        "Argo refused the Workflow.",
        "See the message, and the controller's workflowDefaults; else report it as a bug of flargo.",
    )
    POD_REFUSED = Row(
        ReturnCode.NEVER_STARTED, "Kubernetes refused the pod.", "See the message: quota, policy or account."
    )
    IMAGE = Row(
        ReturnCode.NEVER_STARTED, "The image could not be pulled.", "Check the image's name and the pull secrets."
    )
    CONTAINER = Row(
        ReturnCode.NEVER_STARTED, "A container could not be created.", "See the message: Secret, command or user."
    )
    INIT_FAILED = Row(
        ReturnCode.NEVER_STARTED,
        "A container that prepares the pod failed.",
        "See the message, and that container's log.",
    )
    UNSCHEDULABLE = Row(
        ReturnCode.NEVER_STARTED, "No node can take the pod.", "See the message: claims, selectors, taints."
    )
    SHORTAGE = Row(
        ReturnCode.NEVER_STARTED,
        "No node had enough free cpu, memory or GPUs within pending_timeout.",
        "Ask for less, wait for other jobs, or raise pending_timeout; for a server's job see the message.",
    )
    VOLUME = Row(
        ReturnCode.NEVER_STARTED, "A volume could not be mounted.", "See the message: claim, Secret or driver."
    )
    SANDBOX = Row(
        ReturnCode.NEVER_STARTED, "The node could not set the pod up.", "See the message: network or runtime."
    )
    QUOTA = Row(
        ReturnCode.NEVER_STARTED,
        "The namespace's quota had no room for the pod.",
        "Wait for other jobs, ask for less, or raise the quota or 'argo.quota'.",
    )
    QUEUED = Row(
        ReturnCode.NEVER_STARTED,
        "Argo kept the Workflow waiting for a lock or for room.",
        "See the message, and who holds the lock; or raise 'argo.queued'.",
    )
    SEMAPHORE = Row(
        ReturnCode.NEVER_STARTED,
        "Argo could not read how many jobs may run at once.",
        "See the message: the ConfigMap of 'argo.semaphore', its key, and a whole number >= 1 there.",
    )
    PULLING = Row(
        ReturnCode.NEVER_STARTED, "The image was not pulled in time.", "Check the registry, or raise 'argo.pulling'."
    )
    UNCLAIMED = Row(
        ReturnCode.NEVER_STARTED,
        "No Workflow controller took notice of the Workflow.",
        "Check that a controller watches this namespace and the instance id is right; or raise 'argo.unclaimed'.",
    )
    START_TIMEOUT = Row(
        ReturnCode.NEVER_STARTED,
        "The pod did not start in time.",
        "See the pod's events: volumes, network; or raise 'argo.starting'.",
    )
    TIMEOUT = Row(
        ReturnCode.NEVER_STARTED,
        "The job did not run within the launcher's timeout, which for a server's job is 900 s at most.",
        "See the message: what it waited for; or raise 'timeout'.",
    )

    @property
    def code(self) -> int | None:
        """What FLARE is told; None: the program's own exit code."""
        return self.value.code

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return self.value.sentence

    @property
    def remedy(self) -> str:
        """What to do about it; empty where there is nothing to do."""
        return self.value.remedy


PROGRAM_ENDS = frozenset({Reason.SUCCEEDED, Reason.PROGRAM_FAILED, Reason.PROGRAM_REPORTED, Reason.OUT_OF_MEMORY})
"""Ends of the program's own: nothing that Argo does later changes what they say, and it is left to finish the Workflow
in its own time."""
NOT_STARTED_IN_TIME = frozenset(
    {
        Reason.UNCLAIMED,
        Reason.QUEUED,
        Reason.QUOTA,
        Reason.SHORTAGE,
        Reason.UNSCHEDULABLE,
        Reason.PULLING,
        Reason.START_TIMEOUT,
        Reason.TIMEOUT,
    }
)
"""Ends of a job that found no place, or did not come to run within its time."""
