"""Vocabulary that all packages of flargo share: frozen data and enums, without behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, NewType

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON, with camelCase keys."""

Uid = NewType("Uid", str)
"""A Kubernetes ``metadata.uid``."""

GROUP = "flargo.dev"
"""Prefix of flargo's own labels and annotations."""
MANAGER = "flargo"
"""Value of the label ``app.kubernetes.io/managed-by`` on every object that flargo creates."""
MAIN_CONTAINER = "main"
"""The name that Argo gives the container of a step, here the one that runs the job's program."""
STEP_TEMPLATE = "job"
"""The name of the template of a Workflow's only step. Nodes of other templates are an administrator's handlers."""
NODE_NAME_ANNOTATION = "workflows.argoproj.io/node-name"
"""Annotation that Argo sets on every pod of a Workflow: the name of its node."""
WORKFLOW_NAME_LABEL = "workflows.argoproj.io/workflow"
"""Label that Argo sets on every pod of a Workflow: the Workflow's name. Pods are selected by it, because an
administrator's ``workflowDefaults`` may change the pods' own names."""
ARGO_API_VERSION = "argoproj.io/v1alpha1"
"""``apiVersion`` of a Workflow."""
WORKFLOW_TYPE = "workflow.argoproj.io"
"""How kubectl names the type of a Workflow before its name, as in workflow.argoproj.io/NAME."""
FLARE_COMPLETED = "FINISHED:COMPLETED"
"""FLARE's final status of a job that has succeeded (nvflare 2.9, RunStatus)."""
LEASE_API_VERSION = "coordination.k8s.io/v1"
"""``apiVersion`` of a Lease."""


class Label(StrEnum):
    """Labels on every Workflow, pod, Secret and Lease of flargo. People and watches select by them."""

    MANAGED_BY = "app.kubernetes.io/managed-by"
    FEDERATION = f"{GROUP}/federation"
    SITE = f"{GROUP}/site"
    ROLE = f"{GROUP}/role"
    JOB_ID = f"{GROUP}/job-id"
    STUDY = f"{GROUP}/study"
    ATTEMPT_NUMBER = f"{GROUP}/attempt-number"
    """Which attempt of its job at the site a Workflow is, from 1; only if the job may have more than one."""
    PARENT = f"{GROUP}/parent"
    """The epoch (``Parent.epoch``) of the FLARE parent process that launched the job. Each start of a parent has its
    own."""


class Annotation(StrEnum):
    """Annotations on a Workflow."""

    ATTEMPT = f"{GROUP}/attempt"
    """The random id of the launch. If the Workflow's name exists already and that Workflow has the same id, only the
    first response to its creation was lost; with another id the Workflow belongs to another launch."""
    NUDGED = f"{GROUP}/nudged"
    """When flargo last touched the Workflow to make Argo's controller process it; see flargo.status.reconcile."""
    RELEASED = f"{GROUP}/released"
    """Set when the Workflow is released. A suspended Workflow with it was suspended by a person. One without it is
    still being submitted, its release was lost, or its parent died during the launch."""
    ENDING = f"{GROUP}/ending"
    """The name of the reason for which flargo shut the Workflow down, or for which somebody else ended its pod: the
    Workflow itself does not show it."""
    ENDING_DETAIL = f"{GROUP}/ending-detail"
    """The message of the cluster at that time."""
    CLEARED = f"{GROUP}/cleared"
    """Set when a job's credentials are deleted and nothing of it runs any more. The next run of the parent then sends
    no request about the finished Workflow. A forged one keeps the job's credentials Secret on the cluster until the
    Workflow is deleted, which deletes the Secret; a Workflow that is not over is ended anyway."""
    MAX_ATTEMPTS = f"{GROUP}/max-attempts"
    """How many attempts the job may have; only beside Label.ATTEMPT_NUMBER. People's commands read it, and nothing
    else."""
    REFUSED_ATTEMPTS = f"{GROUP}/refused-attempts"
    """Why the site grants the job fewer attempts than it asks for; only then. People's commands show it."""
    VERDICT = f"{GROUP}/verdict"
    """On the last Workflow of a job that may have several attempts: the name of the reason that FLARE was told, where
    the Workflow itself does not show it. Between two attempts nothing else tells that no other one will follow."""
    VERDICT_DETAIL = f"{GROUP}/verdict-detail"
    """The message that belongs to that reason."""
    FLARE_STATUS = f"{GROUP}/flare-status"
    """On the Workflow of a job's server: FLARE's final status of the whole job. FLARE's processes exit with 0 although
    the training script has raised, so it may be an error where all Workflows have succeeded."""
    FLARE_ERROR = f"{GROUP}/flare-error"
    """The last error in the log of the job's server, where that status is not a success."""
    PROGRESS = f"{GROUP}/progress"
    """On the Workflow of a job's server: the round of training that has started last, "2/5", or "2" if the number of
    rounds is unknown."""
    JOB_NAME = f"{GROUP}/job-name"
    SITE_NAME = f"{GROUP}/site-name"
    TITLE = "workflows.argoproj.io/title"
    DESCRIPTION = "workflows.argoproj.io/description"


class TemplateAnnotation(StrEnum):
    """Annotations on the template of a Workflow's step. They are not the pod's."""

    DISPLAY_NAME = "workflows.argoproj.io/display-name"
    """The name of the step's node in the Argo UI, from Argo 3.7 on."""


class Role(StrEnum):
    """The side of a FLARE job that a parent launches."""

    SERVER = "server"
    CLIENT = "client"


class ServerJob(Enum):
    """What a client's parent knows about the server's process of a job."""

    RUNS = auto()
    """The process has answered."""
    GONE = auto()
    """The server has answered that this job's process is not connected to it."""
    UNKNOWN = auto()
    """There was no answer: the server cannot be reached, does not know this client, or is too slow."""


@dataclass(frozen=True, slots=True)
class Parent:
    """One run of one FLARE parent process, which owns the Workflows that it launches."""

    site: str
    """FLARE's name of the site, unchanged."""
    federation: str
    """32 hex digits of the SHA-256 of the root certificate (DER), the same for all parties of a federation."""
    epoch: str
    """A random id, new for every parent process."""
    role: Role


@dataclass(frozen=True, slots=True)
class SecretData:
    """The content of one Kubernetes Secret. The bytes must not appear in a repr, a log or an exception."""

    name: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTimeouts:
    """How long a job may wait before its program runs. In seconds with API contact; None means without limit."""

    pending: float | None = 120.0
    """While nodes lack something for the pod that they can run out of. FLARE's ``pending_timeout`` with its meaning: 0
    means no waiting."""
    unschedulable: float | None = 0.0
    """While no node can take the pod for any other reason than a shortage; 0 means no waiting, except for taints."""
    total: float | None = None
    """For all waiting together. FLARE's ``timeout``."""
    unclaimed: float | None = 120.0
    """While no Workflow controller processes the Workflow."""
    quota: float | None = 120.0
    """While the namespace's resource quota has no room for the pod."""
    queued: float | None = None
    """While Argo keeps the Workflow waiting for a lock or for its limit on parallel Workflows."""
    pulling: float | None = 3600.0
    """While an image is being pulled."""
    starting: float | None = 1800.0
    """While the pod has a node, or waits for the scheduler, and neither runs nor pulls an image."""
    placement: float | None = None
    """For all stages from the end of the submit until the pod has a node, together. For a server's job only, whose
    launch blocks the server's other jobs."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that FLARE requested, resolved against the site's files. It holds nothing of FLARE's context."""

    job_id: str
    """FLARE's job id, unchanged."""
    job_name: str
    study: str
    parent: Parent
    attempt: str
    """A random id, new for every launch."""
    pod: Object
    """The pod that nvflare's own renderer creates, but with the names of flargo's Secrets."""
    container: str
    """The name of the pod's job container."""
    startup: SecretData
    credentials: SecretData
    pending: float | None
    """The job's ``pending_timeout``, else the site's."""
    number: int = 1
    """Which attempt this is, from 1."""
    max_attempts: int = 1
    """How many attempts the job may have: with more than one, its process is started again if the cluster loses it."""
    refused_attempts: str = ""
    """Why the job gets fewer attempts than it asks for, as public text; empty if it does not."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Which credentials Secret belongs to a Workflow."""

    secret: str
    """The Secret's name."""
    workflow: str
    """The name of the Workflow that owns it."""
    workflow_uid: Uid | None
    """None: it is not known, and only the name is compared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The objects that a launch creates on the cluster, and its start timeouts."""

    name: str
    """The name of the Workflow, and with it of the pod."""
    namespace: str
    attempt: str
    workflow: Object
    """The Workflow, suspended. It is released when its Secrets exist."""
    startup: SecretData
    credentials: SecretData
    timeouts: StartTimeouts
    grace: int
    """Seconds between SIGTERM and SIGKILL when the job is ended; at least 1."""
    replaces: Credentials | None = None
    """The credentials of the attempt before, deleted just before those of this one are created: a job has one such
    Secret at a time, and no run of the parent can go on with a job that has none."""
