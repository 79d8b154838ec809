"""What a site says about its jobs, checked once, when the launcher is built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flargo.job import validate
from flargo.job.policy import Policy
from flargo.job.validate import MISSING, Endpoint, InvalidInput
from flargo.terms import GROUP, StartTimeouts

DEFAULT_PYTHON_PATH = "/usr/local/bin/python"
RESERVED_PREFIXES = (f"{GROUP}/", "workflows.argoproj.io/", "app.kubernetes.io/managed-by")
"""Label and annotation keys that begin so belong to flargo or Argo: nobody else may set them."""
_DAY = 24 * 60 * 60
_MIN_RETENTION_SECONDS = 60


def unreserved_key(where: str, key: Any) -> str:
    """The key of a label or annotation that is neither flargo's nor Argo's."""
    validate.qualified_key(where, key)
    if key.startswith(RESERVED_PREFIXES):
        raise InvalidInput(where, key, f"a key that does not begin with {', '.join(RESERVED_PREFIXES)}")
    return str(key)


def _labels(where: str, value: Any) -> dict[str, str]:
    given = validate.mapping(where, value)
    return {unreserved_key(where, key): validate.label_value(f"{where}[{key!r}]", said) for key, said in given.items()}


def _annotations(where: str, value: Any) -> dict[str, str]:
    given = validate.mapping(where, value)
    return {unreserved_key(where, key): validate.text(f"{where}[{key!r}]", said) for key, said in given.items()}


def _retention(where: str, value: Any) -> int | None:
    check = validate.optional(
        validate.at_least(_MIN_RETENTION_SECONDS, "a whole number of seconds"),
        "null (it stays until somebody deletes it)",
    )
    return check(where, value)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Semaphore:
    """Where Argo reads how many may run at once: a whole number in a ConfigMap of the jobs' namespace."""

    name: str
    """Of the ConfigMap."""
    key: str
    """Of the number in it."""


def _semaphore(where: str, value: Any) -> Semaphore | None:
    if value is None:
        return None
    said = validate.mapping(where, value)
    validate.refuse_unknown_keys(where, said, ("name", "key"))
    return Semaphore(
        name=validate.object_name(f"{where}['name']", said.get("name", MISSING)),
        key=validate.config_key(f"{where}['key']", said.get("key", MISSING)),
    )


@dataclass(frozen=True, slots=True)
class ArgoSettings:
    """The ``argo`` argument of a launcher: what FLARE's own launcher has no word for. Every key has a default."""

    service_account: str = validate.key(validate.object_name, "flargo-job")
    """Of the job's pod, unless its pod template names one. It needs no rights."""
    executor_service_account: str = validate.key(validate.object_name, "flargo-executor")
    """Of Argo's own containers in the pod: may create and patch ``workflowtaskresults``."""
    image_pull_policy: str | None = validate.key(
        validate.optional(validate.one_of("Always", "IfNotPresent", "Never")), None
    )
    """Of the job's image, whatever the pod template says; ``null``: as the pod template says, else Always."""
    gpu_resource: str = validate.key(validate.extended_resource, "nvidia.com/gpu")
    """What a GPU is called on the site's nodes, as in ``amd.com/gpu`` or ``nvidia.com/mig-1g.10gb``."""
    labels: Mapping[str, str] = validate.key(_labels, {})
    """Added to every Workflow and pod."""
    annotations: Mapping[str, str] = validate.key(_annotations, {})
    """Added to every Workflow and pod."""
    instance_id: str | None = validate.key(validate.optional(validate.label_value), None)
    """Of the Workflow controller, if it was given one: it takes no notice of Workflows without it."""
    keep_success: int | None = validate.key(_retention, _DAY)
    """Seconds for which a Workflow that succeeded is kept, and with it its pod and log; ``null``: for ever."""
    keep_failure: int | None = validate.key(_retention, 7 * _DAY)
    """The same for one that did not succeed."""
    kill_grace: int = validate.key(validate.at_least(1, "a whole number of seconds"), 3)
    """Seconds between SIGTERM and SIGKILL when a job is ended. 0 would prove nothing about the process."""
    patch_executor: bool = validate.key(validate.boolean, True)
    """Give Argo's containers ``init`` and ``wait`` a security context and resources. False where the controller's
    configuration does so, or where its pods have no such containers (Argo 4.1 without init container)."""
    executor_resources: Mapping[str, Mapping[str, str]] = validate.key(
        validate.resources,
        # Argo's program, over 100 MB, is copied into the pod, and the kubelet holds the pod's total use against the
        # sum of its containers' limits: without a share of its own, it would count against the job's workspace.
        {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "256Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "512Mi"},
        },
    )
    """Of ``init`` and of ``wait``."""
    run_as_user: int = validate.key(validate.at_least(1, "a numeric user id"), 1000)
    """User of a pod's containers where the site's security context names none."""
    policy: Policy = validate.key(validate.record(Policy), Policy())  # noqa: RUF009  (makes a field)
    """What jobs may ask for: see the site's policy in docs/security.md."""
    metrics_address: Endpoint | None = validate.key(  # noqa: RUF009  (makes a field)
        validate.optional(validate.endpoint, "null (no metrics)"), None
    )
    """Where to serve metrics to Prometheus, as in ``0.0.0.0:9464`` (in a pod) or ``127.0.0.1:9464`` (this machine
    only); needs ``flargo[metrics]``. See docs/operations.md."""
    semaphore: Semaphore | None = validate.key(_semaphore, None)  # noqa: RUF009  (makes a field)
    """The ``name`` of a ConfigMap and a ``key`` in it, where Argo reads how many client jobs may run at once; the
    others queue. It needs ``queued``. A server's jobs never queue."""
    unclaimed: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().unclaimed
    )
    """Seconds for which no Workflow controller may take notice of a job."""
    quota: float | None = validate.key(validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().quota)
    """Seconds for which the namespace's quota may have no room for a job."""
    queued: float | None = validate.key(validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().queued)
    """Seconds for which Argo may keep a job waiting for a lock or for room. Needed where there is a ``semaphore``."""
    pulling: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().pulling
    )
    """Seconds that the pull of an image may take."""
    starting: float | None = validate.key(
        validate.optional(validate.seconds, "null (no limit)"), StartTimeouts().starting
    )
    """Seconds that a pod may take to run apart from all that."""
    server_pending: float = validate.key(validate.positive_seconds, 120.0)
    """Seconds after which a server's job that has no node fails, whatever it waits for and whatever its
    ``pending_timeout`` is: FLARE's server launches one job after another, and each launch waits for its process."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A launcher's arguments, checked. Those of nvflare 2.9's K8sJobLauncher mean what they mean there."""

    config_file_path: str | None
    """A kubeconfig; None: the pod's own service account."""
    study_data_pvc_file_path: str | None
    timeout: float | None
    """Seconds that a job may take to run, all waiting together."""
    namespace: str
    pending_timeout: float | None
    """Seconds that a job may wait for cpu, memory and GPUs; 0: not at all."""
    python_path: str
    """Of the Python in a job's image, unless the job says."""
    security_context: Mapping[str, Any] | None
    """Of the pod."""
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
    """Check a launcher's arguments, whose defaults are the stock launcher's.

    Raises:
        Refused: one is wrong, or two do not go together; it says which, what it is and what is allowed.
    """
    named_python = next((path for path in (default_python_path, python_path) if path is not None), DEFAULT_PYTHON_PATH)
    seconds_or_none = validate.optional(validate.seconds)
    return Settings(
        config_file_path=validate.optional(validate.text)(
            "config_file_path", None if config_file_path == "" else config_file_path
        ),
        study_data_pvc_file_path=validate.optional(validate.text)("study_data_pvc_file_path", study_data_pvc_file_path),
        timeout=seconds_or_none("timeout", timeout),
        namespace=validate.dns_label("namespace", namespace),
        pending_timeout=seconds_or_none("pending_timeout", pending_timeout),
        python_path=validate.text("default_python_path", named_python),
        security_context=validate.optional(validate.mapping)("security_context", security_context),
        ephemeral_storage=validate.written_quantity("ephemeral_storage", ephemeral_storage),
        workspace_mount_path=validate.absolute_path("workspace_mount_path", workspace_mount_path),
        image_pull_secrets=_pull_secrets(image_pull_secrets),
        argo=_require_queued(validate.record(ArgoSettings)("argo", argo)),
    )


def _require_queued(argo: ArgoSettings) -> ArgoSettings:
    """Two sites' semaphores can wait for each other, and only time ends that. No length of it suits every site."""
    if argo.semaphore is not None and argo.queued is None:
        raise InvalidInput("argo['queued']", None, "a number of seconds, for argo['semaphore'] is set")
    return argo


def _pull_secrets(names: Any) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list):
        raise InvalidInput("image_pull_secrets", names, "a list of names of Secrets, or null")
    return tuple(validate.object_name(f"image_pull_secrets[{index}]", name) for index, name in enumerate(names))
