"""What the views of a pod prove about its program: that it has begun, or that it never will. Pure.

Argo creates another pod for a job if the first one is gone before Argo has seen it run, as on a drain. Two programs may
have run then, unless something proves that the first one never began. A pod that has vanished proves nothing.
"""

from enum import Enum, auto

from flargo.status.views import PodView

_NODE_AWAY = ("DeletionByPodGC", "DeletionByTaintManager")
"""The beginnings of the disruptions of pods whose node may be gone or cut off. Kubernetes' pod garbage collector ends
such a pod in its kubelet's place, also one that the taint manager deletes from a node that is out of service
(gc_controller.go, gcTerminating): the kubelet could not tell that the program had begun."""


class ProgramStart(Enum):
    """Whether the program of a pod has begun."""

    UNKNOWN = auto()
    BEGUN = auto()
    """It has, or may have on a machine that another one has replaced as the node of that name."""
    NEVER = auto()
    """It has not, and never will: the pod has ended, or was deleted before it had a node."""


def note_start(
    earlier: ProgramStart, pod: PodView, *, is_deleted: bool, has_gap: bool, earlier_address: str = ""
) -> ProgramStart:
    """Return what is proven about a pod's program after another view of the pod.

    Args:
        earlier: what the views before have proven.
        pod: the view.
        is_deleted: the pod does not exist any more, and this was its last state.
        has_gap: states of the pod before this view, or before the first one that showed its end, may have been missed.
        earlier_address: the address of the pod's node in the view before, if there was one.
    """
    # A kubelet writes its node's address into each status (kubelet_pods.go, generateAPIPodStatus). Another address
    # under the same name is probably that of a new machine, whose kubelet knows nothing of what the first one did.
    is_replaced = bool(earlier_address and pod.host_address) and pod.host_address != earlier_address
    if earlier is ProgramStart.BEGUN or pod.has_run or (is_replaced and earlier is not ProgramStart.NEVER):
        return ProgramStart.BEGUN
    is_unplaced = is_deleted and not pod.scheduled
    return ProgramStart.NEVER if is_unplaced or _has_ended_unstarted(pod, has_gap=has_gap) else earlier


def _has_ended_unstarted(pod: PodView, *, has_gap: bool) -> bool:
    """Return whether a kubelet has ended a pod whose program had not begun.

    If the program's container does not exist, since its image is still being pulled for example, the kubelet makes an
    end up. When it evicts a pod, it does so for programs that have run, too (observed with Kubernetes 1.34). A kubelet
    that restarts, and refuses a pod whose program runs, drops the containers' statuses (kubelet.go, rejectPod).
    """
    if not pod.is_terminal or pod.disruption.startswith(_NODE_AWAY):
        return False
    if pod.exit is None:
        return not (has_gap and pod.reason)
    return not (has_gap or pod.reason)
