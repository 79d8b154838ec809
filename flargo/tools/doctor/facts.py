"""The facts on which the doctor's checks are run: a site's needs, and the cluster's answers. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flargo.cluster.answer import Answer
from flargo.terms import Object
from flargo.tools.doctor.argo_pod import build_pod
from flargo.tools.doctor.references import Kind

_EMBEDDED_SUFFIX = "-flargo.embedded"
"""The end of the embedded engine's version."""
NOT_ASKED = Answer(0, message="not asked")


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """The right of an account to use one verb on one resource in a namespace."""

    group: str
    resource: str
    """The resource, with its subresource if it has one, as ``pods/log``."""
    verb: str

    def __str__(self) -> str:
        """The right as ``get pods/log`` or ``create workflows.argoproj.io``."""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


@dataclass(frozen=True, slots=True)
class SampleJob:
    """A job as the site would submit it."""

    name: str
    """A description for users: which job it is, or which study's."""
    workflow: Object
    own_secrets: frozenset[str]
    """The names of the Secrets that flargo creates together with the Workflow."""

    @property
    def pod(self) -> Object:
        """The pod that Argo would create from the Workflow."""
        return build_pod(self.workflow)


@dataclass(frozen=True, slots=True)
class SiteNeeds:
    """The objects and settings that a site's jobs need in its cluster."""

    namespace: str
    launcher: str | None
    """The FLARE parent's service account; None if the doctor's own user is the parent."""
    executor: str
    """The service account of Argo's containers."""
    instance_id: str | None
    """The instance id of the Workflow controller."""
    chart_accounts: frozenset[str] = frozenset()
    """The accounts that the kit's Helm chart creates; empty if there is no kit or no chart."""
    chart_grants_rights: bool = False
    """True if the chart grants these accounts their rights."""
    unused_rights: frozenset[Right] = frozenset()
    """Rights of deploy/launcher.yaml that this site's parent never uses."""
    argo_namespaces: tuple[str, ...] = ()
    """More namespaces with a Workflow controller that serves the site, as the user has named them."""
    is_prepared: bool = True
    """True if the site's kit uses flargo and `flargo prepare` would not change it."""
    samples: tuple[SampleJob, ...] = ()
    rejected_jobs: Mapping[str, str] = field(default_factory=dict)
    """The reasons why flargo itself would reject other sample jobs, by the names of the jobs."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A Workflow without a pod that is submitted to see whether a controller picks it up."""

    instance_id: str | None
    created: Answer
    latest: Answer = NOT_ASKED
    """The latest state of the Workflow."""
    seconds: float = 0.0
    """The seconds until a controller picked up the Workflow, or until the wait for that ended."""
    undeleted_name: str = ""
    """The Workflow's name if it could not be deleted."""

    @property
    def phase(self) -> str:
        """Argo's phase of the Workflow; empty if no controller has picked it up."""
        return str((self.latest.body.get("status") or {}).get("phase") or "")

    @property
    def message(self) -> str:
        """Argo's message about the phase."""
        return str((self.latest.body.get("status") or {}).get("message") or "")


@dataclass(frozen=True, slots=True)
class Clock:
    """The API server's clock and this machine's, read at about the same moment."""

    date: str
    """The ``Date`` header of an answer of the API server."""
    local: float
    """This machine's time, in seconds since 1970."""
    uncertainty: float
    """The seconds that may lie between the two readings."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the doctor has gathered. A field that was not asked for is NOT_ASKED or empty."""

    needs: SiteNeeds
    version: Answer
    """The API server's version, or the error if the server is not reachable."""
    clock: Clock
    is_reachable: bool = False
    """True if the API server answers and accepts the credentials. If not, nothing else was asked."""
    username: str = ""
    """The API server's name for the doctor's own user; empty if the server does not give it."""
    namespace: Answer = NOT_ASKED
    argo: Answer = NOT_ASKED
    """The resources of Argo's API."""
    controllers: Answer = NOT_ASKED
    """The pods of Workflow controllers in the namespaces that are trusted to run them."""
    other_controllers: tuple[str, ...] = ()
    """Other namespaces with pods that carry a Workflow controller's label. Anybody can give a pod that label."""
    settings: Mapping[str, Answer] = field(default_factory=dict)
    """The ConfigMaps that may hold a controller's settings, by their namespaces."""
    launcher_rights: Mapping[Right, Answer] = field(default_factory=dict)
    """Access reviews of the launcher's rights."""
    executor_rights: Mapping[Right, Answer] = field(default_factory=dict)
    probe_rights: Mapping[Right, Answer] = field(default_factory=dict)
    """Access reviews of the rights that the doctor's own user needs to submit a probe."""
    probes: tuple[Probe, ...] = ()
    """The first probe has the instance id of the site's jobs; the others try instance ids that may be right."""
    objects: Mapping[tuple[Kind, str], Answer] = field(default_factory=dict)
    """The objects that jobs need, by kind and name. Secrets are without any of their values."""
    queues: Mapping[str, Answer] = field(default_factory=dict)
    """The ConfigMaps that limit how many jobs run at once, by their names."""
    workflows: Mapping[str, Answer] = field(default_factory=dict)
    """Strict dry runs of the sample jobs' Workflows, by the names of the jobs."""
    pods: Mapping[str, Answer] = field(default_factory=dict)
    """Dry runs of the sample jobs' pods, by the names of the jobs."""

    @property
    def is_embedded(self) -> bool:
        """True if the API server is flargo's embedded engine."""
        return str(self.version.body.get("gitVersion") or "").endswith(_EMBEDDED_SUFFIX)
