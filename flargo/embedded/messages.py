"""What Argo 3.7.18, the scheduler and the kubelet of Kubernetes 1.34 say, word for word (tests/recordings)."""

SHUTDOWN_NODE = "workflow shutdown with strategy:  {}"
"""Two spaces, as in 3.7."""
SHUTDOWN_NO_POD = "workflow shutdown with strategy: {}"
"""Of a step that has no pod: one space."""
SHUTDOWN = "Stopped with strategy '{}'"
POD_DELETED = "pod deleted"
ENTRY = "error in entry template execution: {}"
INVALID = "invalid spec: {}"
CONTAINER_ENDED = "{}: {} (exit code {})"
FORBIDDEN = 'pods "{}" is forbidden: {}'
NO_ACCOUNT = 'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found'
POD_SECURITY = 'violates PodSecurity "restricted:latest": host namespaces ({}=true)'
QUOTA = "exceeded quota: {0}, requested: {1}=1, used: {1}={2}, limited: {1}={3}"
POLICY = "ValidatingAdmissionPolicy '{0}' with binding '{0}' denied request: {1}"
INVALID_OBJECT = '{} "{}" is invalid: {}'
UNDECODED = "{0} cannot be handled as a {0}: {1}"
OBJECT_FORBIDDEN = '{} "{}" is forbidden: {}'
EXECUTOR = (
    'workflowtaskresults.argoproj.io is forbidden: User "system:serviceaccount:{namespace}:{name}" cannot create '
    'resource "workflowtaskresults" in API group "argoproj.io" in the namespace "{namespace}"'
)

NODES = "0/1 nodes are available: {}"
NO_HELP = (
    "{} no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)
INSUFFICIENT = "1 Insufficient {}"
SELECTOR = "1 node(s) didn't match Pod's node affinity/selector"
NO_CLAIM = 'persistentvolumeclaim "{}" not found. not found'

NO_SECRET = 'secret "{}" not found'  # noqa: S105  (words)
NO_KEY = "couldn't find key {} in Secret {}/{}"
NO_MOUNT = 'MountVolume.SetUp failed for volume "{}" : secret "{}" not found'
BAD_IMAGE = (
    'Failed to apply default image tag "{0}": couldn\'t parse image name "{0}": invalid reference format: '
    "repository name (library/{0}) must be lowercase"
)
NO_IMAGE = 'failed to pull and unpack image "{0}": failed to resolve reference "{0}": {0}: not found'
NO_PROGRAM = 'failed to find name in PATH: exec: "{0}": stat {0}: no such file or directory'
NO_PROGRAM_IN_PATH = 'failed to find name in PATH: exec: "{0}": executable file not found in $PATH'
NOT_STARTED = "failed to start container main: {}"
NOT_PREPARED = "failed to prepare the files of container main: {}"
NOT_LOCATED = "The container could not be located when the pod was terminated"
DEADLINE = "Pod was active on the node longer than the specified deadline"
OUT_OF = "Pod was rejected: Node didn't have enough resource: {}, requested: {:.0f}, used: {:.0f}, capacity: {:.0f}"
DISK = 'Container main exceeded its local ephemeral storage limit "{}". '
EMPTY_DIR = 'Usage of EmptyDir volume "{}" exceeds the limit "{}". '
EVICTING = "Eviction API: evicting"
WAITING_TO_START = 'container "{}" in pod "{}" is waiting to start: {}'
