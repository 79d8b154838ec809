"""The words that all rooms of flargo share: frozen data and enums, no behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NewType

Object = dict[str, Any]
"""A Kubernetes object as it travels: plain JSON, camelCase keys."""

Uid = NewType("Uid", str)
"""A Kubernetes ``metadata.uid``."""

GROUP = "flargo.dev"
"""Prefix of every label and annotation that is flargo's own."""
MANAGER = "flargo"
"""The value of ``app.kubernetes.io/managed-by`` on every object of flargo."""


MAIN_CONTAINER = "main"
"""The name that Argo gives the container of a step, here the one that runs the job's program."""
WORKFLOW_NAME_LABEL = "workflows.argoproj.io/workflow"
"""Label that Argo sets on every pod of a Workflow: the Workflow's name. Pods are selected by it, because an
administrator's ``workflowDefaults`` may change the pods' own names."""
ARGO_API_VERSION = "argoproj.io/v1alpha1"
"""``apiVersion`` of a Workflow."""


class Label(StrEnum):
    """Labels on every Workflow, pod and Secret of flargo; people and watches select on them."""

    MANAGED_BY = "app.kubernetes.io/managed-by"
    FEDERATION = f"{GROUP}/federation"
    SITE = f"{GROUP}/site"
    ROLE = f"{GROUP}/role"
    JOB_ID = f"{GROUP}/job-id"
    STUDY = f"{GROUP}/study"
    PARENT = f"{GROUP}/parent"
    """The run of the FLARE parent process that launched it: another value means another life of the parent."""


class Annotation(StrEnum):
    """Annotations on a Workflow."""

    ATTEMPT = f"{GROUP}/attempt"
    """The random id of one launch: a 409 with the same id is a lost reply, with another id somebody else's."""
    NUDGED = f"{GROUP}/nudged"
    """When Argo's controller was made to look again; see flargo.status.reconcile."""
    RELEASED = f"{GROUP}/released"
    """Its launch was over: if it is suspended, then by somebody, and not because its parent died over it."""
    ENDING = f"{GROUP}/ending"
    """Why flargo had Argo end it: a reason's name. What is seen afterwards is a shutdown, whoever wanted it."""
    ENDING_DETAIL = f"{GROUP}/ending-detail"
    """The cluster's own words of then."""
    JOB_NAME = f"{GROUP}/job-name"
    SITE_NAME = f"{GROUP}/site-name"
    TITLE = "workflows.argoproj.io/title"
    DESCRIPTION = "workflows.argoproj.io/description"


class Role(StrEnum):
    """Which side of a FLARE job a launch is."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Parent:
    """One run of one FLARE parent process: who launches, and whose Workflows are whose."""

    site: str
    """FLARE's name of the site, as it is."""
    federation: str
    """32 hex digits of the SHA-256 of the root certificate (DER): equal for all parties of a federation."""
    epoch: str
    """Random, new for every parent process."""
    role: Role


@dataclass(frozen=True, slots=True)
class SecretData:
    """The content of one Kubernetes Secret. The bytes have no place in a repr, a log or an exception."""

    name: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StartTimeouts:
    """How long a job may wait before its process runs, in seconds during which the API was heard; None: no limit."""

    pending: float | None = 120.0
    """Unschedulable for lack of cpu, memory or GPUs. FLARE's ``pending_timeout``, with its meaning (0: at once)."""
    total: float | None = None
    """All waiting together. FLARE's ``timeout``."""
    unclaimed: float | None = 120.0
    """No Workflow controller takes notice."""
    quota: float | None = 120.0
    """The namespace's quota has no room for the pod."""
    queued: float | None = None
    """Argo makes it wait for a lock, or for room among its Workflows."""
    pulling: float | None = 3600.0
    """An image is being pulled."""
    starting: float | None = 1800.0
    """It has a node or waits for a scheduler to look at it, no image is being pulled, and yet it does not run."""
    placement: float | None = None
    """All stages from the end of its submit until its pod has a node together. For a server's job, whose launch keeps
    the server's other jobs waiting."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One job launch as FLARE asks for it, resolved against the site's files; nothing of FLARE's context is kept."""

    job_id: str
    """FLARE's job id, as it is."""
    job_name: str
    study: str
    parent: Parent
    attempt: str
    """Random, new for every launch."""
    pod: Object
    """The pod as nvflare's own renderer makes it, Secret names being flargo's."""
    container: str
    """The name of the pod's job container."""
    startup: SecretData
    credentials: SecretData
    pending: float | None
    """The job's ``pending_timeout``, else the site's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a launch puts on the cluster, and how long it may wait there."""

    name: str
    """Of the Workflow, and so of its pod."""
    namespace: str
    attempt: str
    workflow: Object
    """Suspended: it is released when its Secrets are there."""
    startup: SecretData
    credentials: SecretData
    timeouts: StartTimeouts
    grace: int
    """Seconds between SIGTERM and SIGKILL when the job is ended; at least 1."""
