"""A launcher's arguments, which are the site's settings for its jobs. They are checked once, in the constructor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flargo.job import validate
from flargo.job.policy import Policy
from flargo.job.validate import HIDDEN, MISSING, Endpoint, InvalidInput
from flargo.terms import GROUP, StartTimeouts

DEFAULT_PYTHON_PATH = "/usr/local/bin/python"
RESERVED_PREFIXES = (f"{GROUP}/", "workflows.argoproj.io/", "app.kubernetes.io/managed-by")
"""Prefixes of the label and annotation keys that flargo and Argo set. Nobody else may set such a key."""
_DAY = 24 * 60 * 60
_MIN_RETENTION_SECONDS = 60
_MAX_DRAIN_DELAY = 60 * 60


def unreserved_key(where: str, key: Any) -> str:
    """Check for the key of a label or annotation that is neither flargo's nor Argo's."""
    validate.qualified_key(where, key)
    if key.startswith(RESERVED_PREFIXES):
        raise InvalidInput(where, key, f"a key that does not begin with {', '.join(RESERVED_PREFIXES)}")
    return str(key)


def _labels(where: str, value: Any) -> dict[str, str]:
    entries = validate.mapping(where, value).items()
    return {unreserved_key(where, key): validate.label_value(f"{where}[{key!r}]", entry) for key, entry in entries}


def _annotations(where: str, value: Any) -> dict[str, str]:
    entries = validate.mapping(where, value).items()
    return {unreserved_key(where, key): validate.text(f"{where}[{key!r}]", entry) for key, entry in entries}


def _retention(where: str, value: Any) -> int | None:
    check = validate.optional(
        validate.at_least(_MIN_RETENTION_SECONDS, "a whole number of seconds"),
        "null (it stays until somebody deletes it)",
    )
    return check(where, value)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Semaphore:
    """A ConfigMap entry in the jobs' namespace, from which Argo reads how many jobs may run at once."""

    name: str
    """The name of the ConfigMap."""
    key: str
    """The key in its data; the value is a whole number."""


def _semaphore(where: str, value: Any) -> Semaphore | None:
    if value is None:
        return None
    reference = validate.mapping(where, value)
    validate.refuse_unknown_keys(where, reference, ("name", "key"))
    return Semaphore(
        name=validate.object_name(f"{where}['name']", reference.get("name", MISSING)),
        key=validate.config_key(f"{where}['key']", reference.get("key", MISSING)),
    )


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a launcher sends each job's outcome."""

    url: str
    token_file: str | None
    """The path, in the parent, of a file with a bearer token; None: the receiver wants none."""


def _receiver(where: str, value: Any) -> Receiver | None:
    """Check for a receiver. An error shows no value: a token may stand where its file belongs."""
    if value is None:
        return None
    keys = ("url", "token_file")
    if not isinstance(value, dict):
        raise InvalidInput(where, HIDDEN, f"a dictionary with the keys {' and '.join(keys)}, or null")
    for unknown in sorted(set(value) - set(keys), key=str):
        raise InvalidInput(f"{where}[{unknown!r}]", HIDDEN, f"one of the keys {', '.join(keys)}")
    token_file, field = value.get("token_file"), f"{where}['token_file']"
    try:
        file = validate.optional(validate.absolute_path)(field, token_file)
    except InvalidInput:
        raise InvalidInput(field, HIDDEN, "the absolute path of a file that holds the token, or null") from None
    return Receiver(validate.receiver_url(f"{where}['url']", value.get("url", MISSING)), file)


@dataclass(frozen=True, slots=True)
class ArgoSettings:
    """The ``argo`` argument of a launcher: settings that FLARE's own launcher does not have. Each has a default."""

    service_account: str = validate.key(validate.object_name, "flargo-job")
    """Service account of the job's pod, unless the pod template names one. It needs no permissions."""
    executor_service_account: str = validate.key(validate.object_name, "flargo-executor")
    """Service account of Argo's own containers in the pod. It needs create and patch on ``workflowtaskresults``."""
    image_pull_policy: str | None = validate.key(
        validate.optional(validate.one_of("Always", "IfNotPresent", "Never")), None
    )
    """Pull policy of the job's image; overrides the pod template. ``null``: the pod template's policy, else Always."""
    gpu_resource: str = validate.key(validate.extended_resource, "nvidia.com/gpu")
    """Resource name of a GPU on the site's nodes, such as ``amd.com/gpu`` or ``nvidia.com/mig-1g.10gb``."""
    labels: Mapping[str, str] = validate.key(_labels, {})
    """Labels that are added to every Workflow and pod."""
    annotations: Mapping[str, str] = validate.key(_annotations, {})
    """Annotations that are added to every Workflow and pod."""
    instance_id: str | None = validate.key(validate.optional(validate.label_value), None)
    """Instance id of the Workflow controller, if it has one: such a controller ignores Workflows without its id."""
    keep_success: int | None = validate.key(_retention, _DAY)
    """Seconds for which a Workflow that succeeded is kept, with its pod and log; ``null``: it is never deleted."""
    keep_failure: int | None = validate.key(_retention, 7 * _DAY)
    """Seconds for which a Workflow that did not succeed is kept; ``null``: it is never deleted."""
    kill_grace: int = validate.key(validate.at_least(1, "a whole number of seconds"), 3)
    """Seconds between SIGTERM and SIGKILL when a job is ended. With 0 nothing would prove that the process ended."""
    adopt: bool = validate.key(validate.boolean, True)
    """Take a client's running jobs back when its FLARE parent restarts. Needs nvflare 2.9, a right on Leases, and a
    parent's workspace that outlives it. With ``false``, and at a server, a parent's next run ends the jobs of the one
    before. See docs/rejoin.md."""
    rejoin_deleted: bool = validate.key(validate.boolean, False)
    """Start the process of a job with ``argo.rejoin`` again also if somebody has deleted its pod. By default that ends
    the job: whoever deletes a pod may mean the job."""
    keep_lost_log: bool = validate.key(validate.boolean, False)
    """Keep the end of the log of each attempt that the cluster loses in the job's run directory at the site. A client's
    log may hold patients' data."""
    drain_delay: int = validate.key(validate.between(0, _MAX_DRAIN_DELAY), 0)
    """Seconds for which a job's program goes on after a drain or a preemption has begun to end its pod, so that a
    running upload can finish. It is added to the pod's grace period; Kubernetes counts both together."""
    patch_executor: bool = validate.key(validate.boolean, True)
    """Give Argo's containers ``init`` and ``wait`` a security context and resources. Set it to false if the
    controller's configuration does so, or if pods have no such containers (Argo 4.1 without init container)."""
    executor_resources: Mapping[str, Mapping[str, str]] = validate.key(
        validate.resources,
        # Argo copies its program, over 100 MB, into the pod, and the kubelet compares the pod's total use with the sum
        # of its containers' limits. Without a limit of its own, the program would use up the job's workspace.
        {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "256Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "512Mi"},
        },
    )
    """Resources of each of the containers ``init`` and ``wait``."""
    run_as_user: int = validate.key(validate.at_least(1, "a numeric user id"), 1000)
    """Numeric user id of a pod's containers, unless the site's security context sets one."""
    policy: Policy = validate.key(validate.record(Policy), Policy())  # noqa: RUF009  (makes a field)
    """Limits for what jobs may ask for: see the site's policy in docs/security.md."""
    metrics_address: Endpoint | None = validate.key(  # noqa: RUF009  (makes a field)
        validate.optional(validate.endpoint, "null (no metrics)"), None
    )
    """Address that serves metrics to Prometheus, such as ``0.0.0.0:9464`` (in a pod) or ``127.0.0.1:9464`` (this
    machine only). Needs ``flargo[metrics]``; see docs/operations.md."""
    notify: Receiver | None = validate.key(_receiver, None)  # noqa: RUF009  (makes a field)
    """A ``url`` to which each job's outcome is posted as JSON, and ``token_file``, the path of a file in the parent
    with a bearer token (optional). ``null``: nobody is notified. See docs/operations.md."""
    semaphore: Semaphore | None = validate.key(_semaphore, None)  # noqa: RUF009  (makes a field)
    """The ``name`` of a ConfigMap and a ``key`` in it. Argo reads there how many client jobs may run at once; the
    others queue. Requires ``queued``. A server's jobs never queue."""
    unclaimed: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().unclaimed
    )
    """Seconds after which a job fails that no Workflow controller has picked up."""
    quota: float | None = validate.key(validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().quota)
    """Seconds after which a job fails that exceeds what is left of the namespace's quota."""
    queued: float | None = validate.key(validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().queued)
    """Seconds after which a job fails that waits in Argo for a lock or a parallelism limit. Required with
    ``semaphore``."""
    unschedulable: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().unschedulable
    )
    """Seconds after which a job fails whose pod no node can take, for another reason than a shortage: a node selector,
    a volume claim that is not bound yet. Set it where a node pool is scaled to zero. Once an autoscaler creates a node
    for the pod (events ``TriggeredScaleUp``, ``Nominated``), the longer one of it and ``pending_timeout`` counts."""
    pulling: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().pulling
    )
    """Seconds that pulling an image may take."""
    starting: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().starting
    )
    """Seconds that a pod may take to start, not counting the waiting times that the other timeouts limit."""
    server_pending: float = validate.key(validate.positive_seconds, 120.0)
    """Seconds after which a server's job that has no node fails, whatever it waits for and whatever its
    ``pending_timeout`` is. FLARE's server launches one job at a time, and each launch waits until its job runs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A launcher's arguments, checked. Arguments of nvflare 2.9's K8sJobLauncher have the same meaning as there."""

    config_file_path: str | None
    """Path of a kubeconfig; None: use the service account of the parent's pod."""
    study_data_pvc_file_path: str | None
    timeout: float | None
    """Seconds within which a job must run, all waiting times together; None: no limit."""
    namespace: str
    pending_timeout: float | None
    """Seconds that a job may wait for what nodes can run out of, such as GPUs; 0: it does not wait; None: no limit."""
    python_path: str
    """Path of Python in a job's image, unless the job sets its own."""
    security_context: Mapping[str, Any] | None
    """Security context of the pod."""
    ephemeral_storage: str
    workspace_mount_path: str
    image_pull_secrets: tuple[str, ...]
    argo: ArgoSettings


def check_settings(  # noqa: PLR0913  (the launcher's own arguments)
    *,
    config_file_path: str | None = None,
    study_data_pvc_file_path: str | None = None,
    timeout: float | None = None,
    namespace: str = "default",
    pending_timeout: float | None = 120,
    python_path: str | None = None,
    security_context: dict[str, Any] | None = None,
    ephemeral_storage: str = "1Gi",
    default_python_path: str | None = None,
    workspace_mount_path: str = "/var/tmp/nvflare/workspace",  # noqa: S108  (nvflare's own default)
    image_pull_secrets: list[str] | None = None,
    argo: dict[str, Any] | None = None,
) -> Settings:
    """Check a launcher's arguments. Their defaults are those of nvflare's own launcher.

    Raises:
        InvalidInput: an argument is not allowed, or not allowed together with another one.
    """
    python = next((path for path in (default_python_path, python_path) if path is not None), DEFAULT_PYTHON_PATH)
    seconds_or_none = validate.optional(validate.seconds)
    return Settings(
        config_file_path=validate.optional(validate.text)(
            "config_file_path", None if config_file_path == "" else config_file_path
        ),
        study_data_pvc_file_path=validate.optional(validate.text)("study_data_pvc_file_path", study_data_pvc_file_path),
        timeout=seconds_or_none("timeout", timeout),
        namespace=validate.dns_label("namespace", namespace),
        pending_timeout=seconds_or_none("pending_timeout", pending_timeout),
        python_path=validate.text("default_python_path", python),
        security_context=validate.optional(validate.mapping)("security_context", security_context),
        ephemeral_storage=validate.written_quantity("ephemeral_storage", ephemeral_storage),
        workspace_mount_path=validate.absolute_path("workspace_mount_path", workspace_mount_path),
        image_pull_secrets=_pull_secrets(image_pull_secrets),
        argo=_require_queued(validate.record(ArgoSettings)("argo", argo)),
    )


def _require_queued(argo: ArgoSettings) -> ArgoSettings:
    """Refuse a semaphore without ``queued``.

    Jobs of two sites can wait for each other's semaphores, and only a timeout ends that. No default suits every site.
    """
    if argo.semaphore is not None and argo.queued is None:
        raise InvalidInput("argo['queued']", None, "a number of seconds, which argo['semaphore'] requires")
    return argo


def _pull_secrets(names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list):
        raise InvalidInput("image_pull_secrets", names, "a list of Secrets' names, or null")
    return tuple(validate.object_name(f"image_pull_secrets[{index}]", name) for index, name in enumerate(names))
