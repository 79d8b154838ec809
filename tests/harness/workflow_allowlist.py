"""An allow-list of everything that a job's Workflow may contain, field by field.

It is written against Argo's and Kubernetes' objects and uses none of the code that builds them. A field that is not in
the list, or a value that does not have the listed shape, is a problem, whatever its effect. A job may only choose
``image``, ``command``, amounts of resources, and names that people read.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubernetes.utils import quantity

Object = dict[str, Any]
Shape = Callable[[Any, str], Iterator[str]]
"""Takes a value and its place, and yields the problems in it."""

LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
CODE = r"`[^`]{1,120}`"
NODE_NAME = r"[A-Za-z0-9][A-Za-z0-9-]{0,26}[A-Za-z0-9]"
AMOUNT = r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?"
IMAGE = r"[A-Za-z0-9\[][-A-Za-z0-9._:/@\[\]]{0,511}"
PROGRAM = r"(?!.*\$\()[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]{1,4096}"
MAX_QUANTITY = 2**63 - 1
"""Largest quantity that Kubernetes can count (resource.Quantity)."""
MAX_WORKFLOW_BYTES = 100_000
"""Bytes of a Workflow; etcd accepts about 1.5 MB."""


@dataclass(frozen=True)
class SiteFacts:
    """The parts of a Workflow that the site and FLARE determine, whatever a job's metadata contains."""

    role: str
    labels: Mapping[str, str]
    """Patterns of the labels for the site, the federation and the run of the parent."""
    args: Sequence[str]
    """The container's arguments; ``{JOB}`` stands for the job's id."""
    owner: str
    """The name of the parent's cell."""
    root: str
    """The directory of the parent's workspace."""
    startup: str
    """A pattern of the name of the Secret with the startup kit."""
    namespace: str = "default"
    mount: str = "/var/tmp/nvflare/workspace"
    account: str = "flargo-job"
    executor: str = "flargo-executor"
    credentials: Sequence[str] = ()
    """The variables whose values are in the launch's own Secret."""
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    mounts: Sequence[Object] = ()
    """The study's volume mounts, without the names, which nvflare chooses."""
    volumes: Sequence[Object] = ()
    ceilings: Mapping[str, str] = field(default_factory=dict)
    deadline: int | None = None
    images: str = IMAGE
    programs: str = PROGRAM


def find_problems(workflow: Object, job_id: str, site: SiteFacts) -> list[str]:
    """Return the problems of a job's Workflow; none if it is harmless."""
    if len(json.dumps(workflow)) > MAX_WORKFLOW_BYTES:
        return ["it is too large"]
    return [*_unsafe_text(workflow, "workflow"), *_workflow(job_id, site)(workflow, "workflow")]


def equals(expected: Any) -> Shape:
    """Return a shape of exactly this value, types included."""

    def check(value: Any, where: str) -> Iterator[str]:
        if json.dumps(value, sort_keys=True) != json.dumps(expected, sort_keys=True):
            yield f"{where} is {value!r}, not {expected!r}"

    return check


def matches(pattern: str) -> Shape:
    """Return a shape of strings that match a pattern as a whole."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            yield f"{where} is {value!r}, not like {pattern}"

    return check


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """Return a shape of dictionaries with these keys and no others."""
    shapes = {**required, **(optional or {})}

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where} is {value!r}, no dictionary"
            return
        yield from (f"{where}.{key} is not there" for key in required.keys() - value.keys())
        for key, entry in value.items():
            if key in shapes:
                yield from shapes[key](entry, f"{where}.{key}")
            else:
                yield f"{where}.{key} must not be there"

    return check


def list_of(*shapes: Shape) -> Shape:
    """Return a shape of lists that have an entry for each shape, in this order."""

    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, list) or len(value) != len(shapes):
            yield f"{where} is {value!r}, no list of {len(shapes)}"
            return
        for index, (entry, shape) in enumerate(zip(value, shapes, strict=True)):
            yield from shape(entry, f"{where}[{index}]")

    return check


def json_text(shape: Shape) -> Shape:
    """Return a shape of strings that contain JSON of a shape."""

    def check(value: Any, where: str) -> Iterator[str]:
        yield from shape(json.loads(value), where)

    return check


def _unsafe_text(value: Any, where: str) -> Iterator[str]:
    """Yield each string that has an expression of Argo, a control character or a lone surrogate, also among keys."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _unsafe_text(key, f"a key of {where}")
            yield from _unsafe_text(entry, f"{where}.{key}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _unsafe_text(entry, f"{where}[{index}]")
    elif isinstance(value, str) and re.search(
        r"\{\{|[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", value
    ):
        yield f"{where} is {value!r}"


def parse_quantity(text: str) -> Any:
    """Return a quantity's value, as Kubernetes' own client computes it."""
    return quantity.parse_quantity(text.removeprefix("+"))  # type: ignore[no-untyped-call]


def _amount(ceiling: str | None) -> Shape:
    def check(value: Any, where: str) -> Iterator[str]:
        problems = list(matches(AMOUNT)(value, where))
        if problems:
            yield from problems
        elif parse_quantity(value) > MAX_QUANTITY:
            yield f"{where} is {value}, more than Kubernetes can count"
        elif ceiling is not None and not 0 < parse_quantity(value) <= parse_quantity(ceiling):
            yield f"{where} is {value}, above {ceiling}"

    return check


def _gpus(ceiling: str | None) -> Shape:
    def check(value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, str) or not value.isascii() or not value.isdecimal():
            yield f"{where} is {value!r}, no number"
        elif ceiling is not None and int(value) > int(ceiling):
            yield f"{where} is {value}, above {ceiling}"

    return check


def _resources(site: SiteFacts) -> Shape:
    def amounts(ceilings: Mapping[str, str]) -> Shape:
        amount_shapes = {name: _amount(ceilings.get(name)) for name in ("cpu", "memory")}
        gpus = {"nvidia.com/gpu": _gpus(ceilings.get("nvidia.com/gpu"))}
        storage = {"ephemeral-storage": _amount(ceilings.get("ephemeral-storage"))}
        required = {name: shape for name, shape in amount_shapes.items() if name in ceilings}
        return record({**storage, **required}, {**amount_shapes, **gpus})

    # A request must not exceed the limit, since the scheduler looks at requests only.
    def ordered(value: Any, where: str) -> Iterator[str]:
        for name, request in value.get("requests", {}).items():
            limit = value.get("limits", {}).get(name)
            if limit is not None and parse_quantity(request) > parse_quantity(limit):
                yield f"{where}: {request} of {name} are requested, and {limit} the limit"

    def check(value: Any, where: str) -> Iterator[str]:
        # A job without a request has none in the Workflow, or 0.
        requests = record(
            {}, {name: matches(AMOUNT) for name in ("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu")}
        )
        problems = list(record({"limits": amounts(site.ceilings), "requests": requests})(value, where))
        yield from problems or ordered(value, where)

    return check


RESTRICTED = equals(
    {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
)


def _env(job_id: str, secret: str, site: SiteFacts) -> Shape:
    def plain(name: str, shape: Shape) -> Shape:
        return record({"name": equals(name), "value": shape})

    def secret_of(name: str, source: str, key: str) -> Shape:
        return equals({"name": name, "valueFrom": {"secretKeyRef": {"name": source, "key": key}}})

    # A path in the job's own folder, without .. in it; a site's name may have a slash.
    code = rf"{re.escape(site.mount)}/{re.escape(job_id)}(/(?!\.\.?/)[^/]+)*/custom"
    return list_of(
        *(plain(name, equals(value)) for name, value in site.env.items()),
        plain("PYTHONPATH", matches(code)),
        plain("NVFL_WORKSPACE_OWNER_FQCN", equals(site.owner)),
        *(secret_of(name, secret, name) for name in site.credentials),
        *(secret_of(name, source, key) for name, (source, key) in site.secret_env.items()),
    )


def _named_entry(entry: Object) -> Shape:
    return record({"name": matches(DNS_LABEL), **{key: equals(value) for key, value in entry.items()}})


def _workflow(job_id: str, site: SiteFacts) -> Shape:
    labels: Mapping[str, Shape] = {
        **{key: matches(value) for key, value in site.labels.items()},
        "app.kubernetes.io/managed-by": equals("flargo"),
        "flargo.dev/role": equals(site.role),
        "flargo.dev/job-id": matches(LABEL),
    }
    of_study = {"flargo.dev/study": matches(LABEL)}

    def whole(value: Any, where: str) -> Iterator[str]:
        name = value["metadata"]["name"]
        secret = f"nvflare-cred-{name}-{value['metadata']['annotations']['flargo.dev/attempt']}"
        container = record(
            {
                "args": equals([word.replace("{JOB}", job_id) for word in site.args]),
                "command": list_of(matches(site.programs)),
                "env": _env(job_id, secret, site),
                "image": matches(site.images),
                "imagePullPolicy": equals("Always"),
                "resources": _resources(site),
                "securityContext": RESTRICTED,
                "volumeMounts": list_of(
                    equals({"name": "workspace-job", "mountPath": site.mount}),
                    equals({"name": "startup-kit", "mountPath": f"{site.mount}/startup", "readOnly": True}),
                    *(_named_entry(mount) for mount in site.mounts),
                ),
            }
        )
        size = record({"sizeLimit": _amount(site.ceilings.get("ephemeral-storage"))})
        volumes = list_of(
            record({"name": equals("workspace-job"), "emptyDir": size}),
            record({"name": equals("startup-kit"), "secret": record({"secretName": matches(site.startup)})}),
            *(_named_entry(volume) for volume in site.volumes),
        )
        deadline = {} if site.deadline is None else {"activeDeadlineSeconds": equals(site.deadline)}
        template = record(
            {
                "name": equals("job"),
                "metadata": record({"labels": record(labels, of_study)}),
                "annotations": record({"workflows.argoproj.io/display-name": matches(NODE_NAME)}),
                "container": container,
                "volumes": volumes,
                "podSpecPatch": json_text(PATCH),
                **deadline,
            }
        )
        spec = record(
            {
                "entrypoint": equals("job"),
                "suspend": equals(True),
                "serviceAccountName": equals(site.account),
                "automountServiceAccountToken": equals(False),
                "executor": equals({"serviceAccountName": site.executor}),
                "ttlStrategy": equals({"secondsAfterSuccess": 86400, "secondsAfterFailure": 604800}),
                "templates": list_of(template),
            }
        )
        annotations = record(
            {
                "flargo.dev/attempt": matches(r"[a-z0-9]{1,20}"),
                "flargo.dev/job-name": matches(r".{0,120}"),
                "flargo.dev/site-name": matches(r".{1,120}"),
                "workflows.argoproj.io/title": matches(CODE),
                "workflows.argoproj.io/description": matches(rf"{CODE}, {site.role}(, study {CODE})?"),
            }
        )
        metadata = record(
            {
                "name": matches(DNS_LABEL),
                "namespace": equals(site.namespace),
                "labels": record(labels, of_study),
                "annotations": annotations,
            }
        )
        top = {
            "apiVersion": equals("argoproj.io/v1alpha1"),
            "kind": equals("Workflow"),
            "metadata": metadata,
            "spec": spec,
        }
        yield from record(top)(value, where)

    return whole


_EXECUTOR = {
    "resources": equals(
        {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "256Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "512Mi"},
        }
    ),
    "securityContext": RESTRICTED,
}
PATCH = record(
    {
        "initContainers": list_of(record({"name": equals("init"), **_EXECUTOR})),
        "containers": list_of(record({"name": equals("wait"), **_EXECUTOR})),
    }
)
