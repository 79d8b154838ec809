"""What is to be looked at, and what was seen of it. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flargo.cluster.answer import Answer
from flargo.terms import Object
from flargo.tools.doctor.argo_pod import build_pod
from flargo.tools.doctor.references import Kind

NOT_ASKED = Answer(0, message="not asked")


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One thing that an account may do in a namespace."""

    group: str
    resource: str
    """With its subresource, as ``pods/log``."""
    verb: str

    def __str__(self) -> str:
        """As people say it."""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


@dataclass(frozen=True, slots=True)
class SampleJob:
    """A job that the site would submit."""

    name: str
    """For people: which job, or which study's."""
    workflow: Object
    own_secrets: frozenset[str]
    """The Secrets that flargo makes for it."""

    @property
    def pod(self) -> Object:
        """The pod that Argo would make of it."""
        return build_pod(self.workflow)


@dataclass(frozen=True, slots=True)
class SiteNeeds:
    """What a site needs of its cluster."""

    namespace: str
    launcher: str | None
    """The FLARE parent's service account; None: whoever asks is the parent."""
    executor: str
    """The service account of Argo's containers."""
    instance_id: str | None
    """Of the Workflow controller."""
    argo_namespaces: tuple[str, ...] = ()
    """Where else, by what a person has said, a Workflow controller serves the site."""
    is_prepared: bool = True
    """Whether the site's kit uses flargo."""
    samples: tuple[SampleJob, ...] = ()
    rejected_jobs: Mapping[str, str] = field(default_factory=dict)
    """Why flargo itself would refuse the others, by their names."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A Workflow that makes no pod, submitted to see who takes notice."""

    instance_id: str | None
    created: Answer
    latest: Answer = NOT_ASKED
    """The last look at it."""
    seconds: float = 0.0
    """After how many the controller had taken notice, or nobody waited any longer."""
    undeleted_name: str = ""
    """Its name, where it could not be deleted."""

    @property
    def phase(self) -> str:
        """Argo's word for how it is; empty: no controller has taken notice."""
        return str((self.latest.body.get("status") or {}).get("phase") or "")

    @property
    def message(self) -> str:
        """Argo's words on that."""
        return str((self.latest.body.get("status") or {}).get("message") or "")


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks, read at once."""

    date: str
    """The API server's, as its answer has it."""
    local: float
    """This machine's, in seconds since 1970."""
    uncertainty: float
    """Seconds by which the two readings may be apart."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen. What was not asked is ``UNASKED`` or empty."""

    needs: SiteNeeds
    version: Answer
    """Of the API server; where it is not reached, why."""
    clock: Clock
    is_reachable: bool = False
    """Whether the API server answers and takes the credentials. Without that nothing else was asked."""
    username: str = ""
    """Who asked, by the API server's name for it; empty: it does not say."""
    namespace: Answer = NOT_ASKED
    argo: Answer = NOT_ASKED
    """The resources of Argo's API."""
    controllers: Answer = NOT_ASKED
    """The pods of Workflow controllers, in the namespaces that are trusted with that."""
    other_controllers: tuple[str, ...] = ()
    """Other namespaces with pods that call themselves a Workflow controller. Anybody can give a pod their label."""
    settings: Mapping[str, Answer] = field(default_factory=dict)
    """The ConfigMaps that a controller may have its settings from, by their namespaces."""
    launcher_rights: Mapping[Right, Answer] = field(default_factory=dict)
    """Reviews of the launcher's."""
    executor_rights: Mapping[Right, Answer] = field(default_factory=dict)
    probe_rights: Mapping[Right, Answer] = field(default_factory=dict)
    """Reviews of what whoever asks needs for a probe."""
    probes: tuple[Probe, ...] = ()
    """The first is one as jobs are; the others look for what their instance id should have been."""
    objects: Mapping[tuple[Kind, str], Answer] = field(default_factory=dict)
    """What jobs name, by kind and name. Of Secrets no byte."""
    queues: Mapping[str, Answer] = field(default_factory=dict)
    """The ConfigMaps that say how many jobs run at once, by their names."""
    workflows: Mapping[str, Answer] = field(default_factory=dict)
    """Strict dry runs of the samples, by their names."""
    pods: Mapping[str, Answer] = field(default_factory=dict)
    """Dry runs of their pods."""
