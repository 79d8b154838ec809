"""Messages of Argo 3.7.18 and of Kubernetes 1.34 (API server, scheduler, kubelet), word for word.

Recordings of a real cluster (tests/recordings) prove them.
"""

NODE_SHUTDOWN = "workflow shutdown with strategy:  {}"
"""Argo 3.7 writes two spaces."""
NODE_SHUTDOWN_WITHOUT_POD = "workflow shutdown with strategy: {}"
"""The message of a step without a pod has one space."""
WORKFLOW_STOPPED = "Stopped with strategy '{}'"
POD_DELETED = "pod deleted"
ENTRY_TEMPLATE_ERROR = "error in entry template execution: {}"
EXIT_TEMPLATE_ERROR = "error in exit template execution : {}"
INVALID_SPEC = "invalid spec: {}"
WAITING_FOR_LOCK = "Waiting for {} lock. Lock status: {}/{}"
CONTAINER_EXITED = "{}: {} (exit code {})"
POD_FORBIDDEN = 'pods "{}" is forbidden: {}'
NO_ACCOUNT = 'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
NO_EXECUTOR_ACCOUNT = 'serviceaccounts "{}" not found'
"""Argo's controller reads the executor's account for the name of its token."""
POD_SECURITY_VIOLATION = 'violates PodSecurity "restricted:latest": host namespaces ({}=true)'
QUOTA_EXCEEDED = "exceeded quota: {0}, requested: {1}=1, used: {1}={2}, limited: {1}={3}"
POLICY_DENIAL = "ValidatingAdmissionPolicy '{0}' with binding '{0}' denied request: {1}"
INVALID_OBJECT = '{} "{}" is invalid: {}'
CANNOT_DECODE = "{0} cannot be handled as a {0}: {1}"
OBJECT_FORBIDDEN = '{} "{}" is forbidden: {}'
EXECUTOR_FORBIDDEN = (
    'workflowtaskresults.argoproj.io is forbidden: User "system:serviceaccount:{namespace}:{name}" cannot create '
    'resource "workflowtaskresults" in API group "argoproj.io" in the namespace "{namespace}"'
)

NODES_AVAILABLE = "0/1 nodes are available: {}"
PREEMPTION_NOT_HELPFUL = (
    "{} no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)
INSUFFICIENT = "1 Insufficient {}"
SELECTOR_MISMATCH = "1 node(s) didn't match Pod's node affinity/selector"
AFFINITY_FAILED = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
CLAIM_NOT_FOUND = 'persistentvolumeclaim "{}" not found. not found'

SECRET_NOT_FOUND = 'secret "{}" not found'  # noqa: S105  (a message)
SECRET_KEY_NOT_FOUND = "couldn't find key {} in Secret {}/{}"  # noqa: S105  (a message)
MOUNT_FAILED = 'MountVolume.SetUp failed for volume "{}" : secret "{}" not found'
INVALID_IMAGE_NAME = (
    'Failed to apply default image tag "{0}": couldn\'t parse image name "{0}": invalid reference format: '
    "repository name (library/{0}) must be lowercase"
)
IMAGE_NOT_FOUND = 'failed to pull and unpack image "{0}": failed to resolve reference "{0}": {0}: not found'
PROGRAM_NOT_FOUND = 'failed to find name in PATH: exec: "{0}": stat {0}: no such file or directory'
PROGRAM_NOT_IN_PATH = 'failed to find name in PATH: exec: "{0}": executable file not found in $PATH'
MAIN_NOT_STARTED = "failed to start container main: {}"
MAIN_NOT_PREPARED = "failed to prepare the files of container main: {}"
CONTAINER_NOT_LOCATED = "The container could not be located when the pod was terminated"
DEADLINE_EXCEEDED = "Pod was active on the node longer than the specified deadline"
OUT_OF_RESOURCE = (
    "Pod was rejected: Node didn't have enough resource: {}, requested: {:.0f}, used: {:.0f}, capacity: {:.0f}"
)
STORAGE_LIMIT_EXCEEDED = 'Container main exceeded its local ephemeral storage limit "{}". '
EMPTY_DIR_LIMIT_EXCEEDED = 'Usage of EmptyDir volume "{}" exceeds the limit "{}". '
EVICTING = "Eviction API: evicting"
WAITING_TO_START = 'container "{}" in pod "{}" is waiting to start: {}'
