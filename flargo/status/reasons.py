"""The reasons for which a job ends: the return code for FLARE, a sentence for people, and a remedy.

The return codes are FLARE's (nvflare 2.9, ``ProcessExitCode`` and ``JobReturnCode``). FLARE counts a code that it does
not know as a success, so flargo returns only these:

==== ==================================================== ==============================
code meaning                                              FLARE's job status
==== ==================================================== ==============================
0    the program succeeded                                FINISHED:COMPLETED
1    the program failed                                   FINISHED:EXECUTION_EXCEPTION
9    somebody ended the job on purpose                    FINISHED:ABORTED
101  it could not start, or the program's own 101-103     FINISHED:EXECUTION_EXCEPTION
104  the infrastructure lost the job                      FINISHED:ABNORMAL
==== ==================================================== ==============================

101 is for what the job or the site has to correct. A pod that its node refused is 104, although no program ran: the
same job may run on another node.
"""

from enum import Enum, IntEnum
from typing import NamedTuple


class ReturnCode(IntEnum):
    """FLARE's return codes of a job."""

    SUCCESS = 0
    FAILED = 1
    ABORTED = 9
    NEVER_STARTED = 101
    LOST = 104


FLARE_EXIT_CODES = frozenset({101, 102, 103})
"""Exit codes that FLARE's job process sets itself: an exception, an unsafe component, a configuration error."""


class Row(NamedTuple):
    """A reason's row in the table of reasons."""

    code: int | None
    """The return code for FLARE; None stands for the program's own exit code."""
    sentence: str
    """A sentence that says what happened."""
    remedy: str
    """A sentence that says what to do; empty if there is nothing to do."""


class Reason(Enum):
    """The reason of a job's end. The names are stable: people and scripts rely on them."""

    SUCCEEDED = Row(ReturnCode.SUCCESS, "The program ended with exit code 0.", "")
    PROGRAM_FAILED = Row(ReturnCode.FAILED, "The program failed.", "Read the job's log.")
    PROGRAM_REPORTED = Row(None, "FLARE's job process reported a failure.", "Read the job's log.")

    ABORTED = Row(ReturnCode.ABORTED, "FLARE aborted the job.", "")
    SHUT_DOWN = Row(
        ReturnCode.ABORTED,
        "The Workflow was terminated from outside FLARE.",
        "Find out who ran argo terminate or argo stop.",
    )

    # Neither 9 nor 104: with those, the client would overrule the status that FLARE's server itself gives the job.
    CLEANED_UP = Row(ReturnCode.FAILED, "FLARE's server no longer runs the job.", "Read the FLARE server's log.")
    OUT_OF_MEMORY = Row(
        ReturnCode.LOST, "The job used more than its memory limit.", "Raise 'memory' in its launcher_spec."
    )
    EVICTED = Row(
        ReturnCode.LOST,
        "The pod was evicted by its node.",
        "Raise the limit that the message names, or free resources on the node. docs/rejoin.md says how a client's job"
        " can survive a node's pressure.",
    )
    DISRUPTED = Row(
        ReturnCode.LOST,
        "The pod was disrupted: drain, preemption or node shutdown.",
        "Submit the job again. docs/rejoin.md says how a client's job can survive this.",
    )
    DEADLINE = Row(
        ReturnCode.LOST,
        "The job exceeded its maximum running time.",
        "Raise 'argo.policy.running_time' or the pod template's activeDeadlineSeconds.",
    )
    NODE_LOST = Row(
        ReturnCode.LOST,
        "The node was lost, and the pod with it.",
        "Check the node, and submit the job again. docs/rejoin.md says how a client's job can survive this.",
    )
    POD_DELETED = Row(
        ReturnCode.LOST,
        "The pod was deleted while the job ran.",
        "Find out who deleted the pod, and submit the job again.",
    )
    NODE_REFUSED = Row(
        ReturnCode.LOST, "The node refused the pod before it started.", "Read the message, and submit the job again."
    )
    RUN_TWICE = Row(ReturnCode.LOST, "Argo started a second pod for the job; both were ended.", "Submit the job again.")
    WORKFLOW_DELETED = Row(
        ReturnCode.LOST,
        "The Workflow was deleted while the job ran.",
        "Find out who deleted the Workflow, and submit the job again.",
    )
    ARGO_FAILED = Row(
        ReturnCode.LOST, "Argo failed the Workflow.", "Read the message and the Workflow controller's log."
    )
    ORPHANED = Row(
        ReturnCode.LOST,
        "The FLARE parent process that launched the job died, and its next run has not taken the job back.",
        "Submit the job again. Why a client's job was not taken back is in its parent's log.",
    )
    NOT_LAUNCHED = Row(
        ReturnCode.LOST,
        "No FLARE parent launched this Workflow; Argo's Retry or Resubmit, for example, did.",
        "Submit the job to FLARE again.",
    )
    PARENT_ENDED = Row(ReturnCode.LOST, "The FLARE parent process ended, and the job with it.", "Submit the job again.")

    LAUNCH_FAILED = Row(ReturnCode.NEVER_STARTED, "The job could not be submitted to the cluster.", "Read the message.")
    INVALID = Row(
        ReturnCode.NEVER_STARTED,
        "Argo refused the Workflow.",
        "Check the message and the controller's workflowDefaults; if neither explains it, report a bug in flargo.",
    )
    POD_REFUSED = Row(
        ReturnCode.NEVER_STARTED,
        "Kubernetes refused the pod.",
        "Check what the message names: a quota, an admission policy, or a service account, which deploy/ or the kit's"
        " chart creates.",
    )
    IMAGE = Row(
        ReturnCode.NEVER_STARTED, "The image could not be pulled.", "Check the image's name and the pull secrets."
    )
    CONTAINER = Row(
        ReturnCode.NEVER_STARTED,
        "A container could not be created.",
        "Check what the message names: a Secret, the command or the user.",
    )
    INIT_FAILED = Row(
        ReturnCode.NEVER_STARTED,
        "An init container of the pod failed.",
        "Read the message and the init container's log.",
    )
    UNSCHEDULABLE = Row(
        ReturnCode.NEVER_STARTED,
        "No node can take the pod.",
        "Check what the message names: volume claims, node selectors or taints; if they take time, raise"
        " 'argo.unschedulable'.",
    )
    SHORTAGE = Row(
        ReturnCode.NEVER_STARTED,
        "No node had enough left for the pod within pending_timeout.",
        "Request less of what the message names, wait for other jobs, or raise pending_timeout; for a server's job,"
        " read the message.",
    )
    VOLUME = Row(
        ReturnCode.NEVER_STARTED,
        "A volume could not be mounted.",
        "Check what the message names: a claim, a Secret or the storage driver.",
    )
    SANDBOX = Row(
        ReturnCode.NEVER_STARTED,
        "The node could not create the pod's sandbox.",
        "Check what the message names: the network plugin or the container runtime.",
    )
    QUOTA = Row(
        ReturnCode.NEVER_STARTED,
        "The namespace's quota had no room for the pod.",
        "Wait for other jobs, request less, or raise the quota or 'argo.quota'.",
    )
    QUEUED = Row(
        ReturnCode.NEVER_STARTED,
        "Argo kept the Workflow waiting for a lock or for its limit on parallel Workflows.",
        "Find out which job holds the lock that the message names, or raise 'argo.queued'.",
    )
    SEMAPHORE = Row(
        ReturnCode.NEVER_STARTED,
        "Argo could not read the limit of the semaphore.",
        "Check the ConfigMap of 'argo.semaphore': its key must hold a whole number >= 1.",
    )
    PULLING = Row(
        ReturnCode.NEVER_STARTED, "The image was not pulled in time.", "Check the registry, or raise 'argo.pulling'."
    )
    UNCLAIMED = Row(
        ReturnCode.NEVER_STARTED,
        "No Workflow controller processed the Workflow.",
        "Check that a controller watches this namespace and that the instance id is right, or raise 'argo.unclaimed'.",
    )
    START_TIMEOUT = Row(
        ReturnCode.NEVER_STARTED,
        "The pod did not start in time.",
        "Check the pod's events for volume and network problems, or raise 'argo.starting'.",
    )
    TIMEOUT = Row(
        ReturnCode.NEVER_STARTED,
        "The job did not run within the launcher's timeout, which for a server's job is 900 s at most.",
        "Check what the message says the job waited for, or raise 'timeout'.",
    )

    @property
    def code(self) -> int | None:
        """Return the return code for FLARE; None stands for the program's own exit code."""
        return self.value.code

    @property
    def sentence(self) -> str:
        """Return a sentence that says what happened."""
        return self.value.sentence

    @property
    def remedy(self) -> str:
        """Return a sentence that says what to do; empty if there is nothing to do."""
        return self.value.remedy


PROGRAM_ENDS = frozenset({Reason.SUCCEEDED, Reason.PROGRAM_FAILED, Reason.PROGRAM_REPORTED, Reason.OUT_OF_MEMORY})
"""Reasons for which the program itself ended. Nothing that Argo does later changes them, so flargo lets Argo complete
the Workflow by itself."""
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
"""Reasons of a job that got no node, or did not start within its timeouts."""
