"""Who is believed what: every string that enters a Workflow, or overrules what flargo says of a job.

A job's author sits at another institution. What he may say is in ``JOB_SPEC`` and ``JOB_META``; the reader of a
launch (flargo.flare.request) takes these keys, with these checks, and looks at nothing else of the metadata but
``resource_spec``, which nvflare checks. The docs' table is made from this one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from flargo.job import validate
from flargo.job.validate import Check, InvalidInput

# nvflare/apis/utils/format_check.py asks for the same, without an end to it.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Source(Enum):
    """Who controls a string."""

    JOB = "job author"
    SITE = "site"
    FLARE = "FLARE"
    CLUSTER = "cluster"
    KIT = "startup kit"
    """Its author may sit at another institution, and the person who prepares or examines it elsewhere."""


@dataclass(frozen=True, slots=True)
class TrustRule:
    """One thing that is said, and how far it is believed."""

    subject: str
    source: Source
    destination: str
    """Where it ends up."""
    allowed: str
    consequence: str = "refused"
    check: Check | None = None
    """What holds it to that, for what is read at a launch."""

    def validate(self, field: str, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            Refused: it is not allowed.
        """
        return value if self.check is None else self.check(field, value)


def job_id(field: str, value: Any) -> str:
    """A job's id: part of names, of paths and of the command line, so no path of its own and no expression."""
    if not isinstance(value, str) or not _JOB_ID.fullmatch(value):
        raise InvalidInput(
            field, value or validate.MISSING, "1 to 128 letters, digits, ., _ and -, the first none of these marks"
        )
    return value


def _study(field: str, value: Any) -> str | None:
    return validate.line(field, value) if value else None


def _name(_: str, value: Any) -> str:
    # Far more than is shown of it; FLARE's metadata may hold megabytes.
    return value[: validate.MAX_LINE_LENGTH] if isinstance(value, str) else ""


def _empty_mapping(field: str, value: Any) -> None:
    given = validate.mapping(field, value)
    validate.refuse_unknown_keys(field, given, ())


def _if_set(check: Check) -> Check:
    """Null, zero and the empty string say nothing, as with the stock launcher; and a value stays as it was written."""

    def checked(field: str, value: Any) -> Any:
        if value:
            check(field, value)
        return value

    return checked


def _quantity_rule(what: str, goes: str) -> TrustRule:
    return TrustRule(
        what,
        Source.JOB,
        goes,
        "a Kubernetes quantity from 0 to 2^63-1; request not above limit; the site's ceiling",
        check=_if_set(validate.quantity),
    )


_RESOURCES = "the job container's `resources`"
JOB_SPEC: Final[Mapping[str, TrustRule]] = {
    "image": TrustRule(
        "`image`",
        Source.JOB,
        "the job container's `image`",
        "an image reference (name, tag, digest), at most 512 characters; the site's patterns",
        check=_if_set(validate.image),
    ),
    "python_path": TrustRule(
        "`python_path`",
        Source.JOB,
        "the job container's `command`, its only word",
        "one line of at most 4096 characters without `{{` and `$(`; the site's list",
        check=validate.plain_path,
    ),
    "cpu": _quantity_rule("`cpu`", _RESOURCES),
    "memory": _quantity_rule("`memory`", _RESOURCES),
    "cpu_request": _quantity_rule("`cpu_request`", _RESOURCES),
    "memory_request": _quantity_rule("`memory_request`", _RESOURCES),
    "ephemeral_storage": TrustRule(
        "`ephemeral_storage`",
        Source.JOB,
        f"{_RESOURCES}, and the size limit of its workspace",
        "a Kubernetes quantity in a string; the site's ceiling",
        check=validate.optional(validate.written_quantity),
    ),
    "num_of_gpus": TrustRule(
        "`num_of_gpus`",
        Source.JOB,
        f"{_RESOURCES}, under the site's name for a GPU",
        "a whole number from 0 to 2^31-1, as a number or in a string; the site's ceiling",
        check=validate.optional(validate.count),
    ),
    "pending_timeout": TrustRule(
        "`pending_timeout`",
        Source.JOB,
        "flargo's own clock; not in the Workflow",
        "seconds from 0 to 10^9, or null; the site's ceiling",
        check=validate.optional(validate.seconds, "null (no limit)"),
    ),
    "argo": TrustRule(
        "`argo`",
        Source.JOB,
        "nowhere",
        "an empty dictionary: no account, namespace, volume, host, security context, priority, patch, command or"
        " variable is a job's to name",
        check=_empty_mapping,
    ),
}
"""What a job may say in its part of launcher_spec: the stock launcher's keys, and ``argo`` to be told that it may not.

Other keys are ignored with one warning, as the stock launcher ignores them.
"""

JOB_META: Final[Mapping[str, TrustRule]] = {
    "job_id": TrustRule(
        "`job_id`",
        Source.FLARE,
        "names, labels, the command line, paths in the workspace",
        "letters, digits, `.`, `_`, `-`, at most 128; begins with a letter or digit",
        check=job_id,
    ),
    "name": TrustRule(
        "`name` of the job",
        Source.JOB,
        "the annotations `job-name` and `title`",
        "any text: shown on one line, 120 characters, in a Markdown code span, `{{` parted",
        "what is no text is not shown",
        check=_name,
    ),
    "study": TrustRule(
        "`study`",
        Source.FLARE,
        "a label and the `description`; picks the site's entry with its volumes and variables",
        "one line of at most 4096 characters; FLARE's server sets it to the study of the submitting session",
        check=_study,
    ),
}
"""What is read of the rest of a job's metadata, beside launcher_spec and resource_spec."""

OTHER_INPUTS: Final = (
    TrustRule(
        "`resource_spec`: `num_of_gpus`, `num_of_cpus`, `memory`",
        Source.JOB,
        _RESOURCES,
        "what nvflare takes: whole numbers, memory in Mi, Gi or Ti; the site's ceilings",
    ),
    TrustRule(
        "any other key in the metadata",
        Source.JOB,
        "nowhere",
        "anything",
        "ignored; in the job's part of launcher_spec with one warning",
    ),
    TrustRule(
        "what the job's code does",
        Source.JOB,
        "its own container",
        "what Pod Security `restricted`, the ceilings and the namespace's NetworkPolicy let it",
        "it has no Kubernetes token, and reads its own credentials and startup kit only",
    ),
    TrustRule(
        "the program's last words (`/dev/termination-log`)",
        Source.JOB,
        "the detail of its end: the parent's log, FLARE's error log of the job, `argo_outcome.json`, `flargo why`",
        "any text: in a log on one line of at most 1000 characters, without control characters",
        "a job can so give its own failure another name; it stays a failure",
    ),
    TrustRule(
        "`_process_rc.txt`, and other files that come home in the job's run directory",
        Source.JOB,
        "FLARE's status of the job; `argo_outcome.json` and `argo_log_tail.txt` lie in the same directory",
        "anything: FLARE believes the number in it over the launcher's code, unless that is 104",
        "a job can so call its own failure a success; no other job's",
    ),
    TrustRule(
        "the site's name",
        Source.FLARE,
        "names, labels, the title, the command line",
        "one line of at most 4096 characters without `{{`; in names and labels made valid, with a hash",
    ),
    TrustRule(
        "module, options, `--set`, the parent's cell and addresses",
        Source.FLARE,
        "the job container's `args` and `env`",
        "any text without `{{`",
    ),
    TrustRule(
        "credentials of the launch, files of the startup kit (`.crt`, `.key`, `.pem`, `.json`)",
        Source.FLARE,
        "two Secrets; the Workflow has their names only",
        "file names of letters, digits, `.`, `_`, `-`; 1 MiB",
    ),
    TrustRule(
        "the launcher's arguments, `argo` included",
        Source.SITE,
        "everywhere in the Workflow",
        "see Settings; checked when the parent starts",
        "the parent does not start",
    ),
    TrustRule(
        "`study_runtime.yaml`, `study_data.yaml`",
        Source.SITE,
        "image, volumes, variables, Secrets by name, the pod template",
        "what nvflare takes; Argo's own names are reserved, no `{{`",
    ),
    TrustRule(
        "names, uids and `flargo.dev/attempt` of Workflows and pods, read back",
        Source.CLUSTER,
        "paths of requests, also of deletes; selectors",
        "names and namespaces as Kubernetes validates them, a uid of letters, digits and `-`, an attempt of 1 to 20"
        " lower-case letters and digits; each part of a path is escaped, and the final URL is compared with the"
        " intended one",
        "counts as not there; nothing is sent",
    ),
    TrustRule(
        "a Secret that is to be deleted",
        Source.CLUSTER,
        "the delete of a launch's credentials, by a parent or `flargo sweep`",
        "its uid, flargo's label, and that very Workflow as owner",
        "left alone",
    ),
    TrustRule(
        "numbers and dates in objects and headers, such as `outputs.exitCode`, `resourceVersion`, `Retry-After`",
        Source.CLUSTER,
        "the return code, the order of events, waiting times",
        "at most 19 ASCII digits; a date with its zone",
        "counts as not there",
    ),
    TrustRule(
        "an object that flargo can't parse",
        Source.CLUSTER,
        "nowhere",
        "-",
        "skipped and named in the log once; nothing is concluded from a read that holds one",
    ),
    TrustRule(
        "messages in statuses and events, refusals of the API server, labels and annotations that people read",
        Source.CLUSTER,
        "the reason of an end; the commands' output",
        "any text; credentials are blanked in it, control characters made visible; in what a researcher reads the"
        " values that Kubernetes quotes are left out",
        "-",
    ),
    TrustRule(
        "the program's log",
        Source.JOB,
        "`flargo logs`; the last lines of a failed server's job in the result",
        "any bytes; on a terminal control characters are made visible and credentials blanked, in a file or a pipe"
        " the bytes stay",
        "-",
    ),
    TrustRule(
        "files of a startup kit",
        Source.KIT,
        "`prepare`, `render` and `doctor` on the machine of whoever runs them",
        "files below the kit only, of limited size; links only below the kit, and for `prepare` none; YAML with bounded"
        " aliases; of keys only names and sizes",
        "refused, and nothing is written",
    ),
    TrustRule(
        "the kubeconfig that a startup kit names",
        Source.KIT,
        "nowhere; with `doctor --use-kit-kubeconfig` the doctor's requests, and any command that it names",
        "-",
        "not read",
    ),
    TrustRule(
        "`.flargo/undo.json` of a startup kit",
        Source.KIT,
        "the files that `prepare --undo` writes",
        "only paths that `flargo prepare` writes itself, with contents of the right form",
        "refused, and nothing is written",
    ),
    TrustRule(
        "the parent's own environment",
        Source.SITE,
        "nowhere",
        "-",
        "never read for a pod",
    ),
)
"""What else is said, and checked elsewhere or by nobody."""

TABLE: Final = (*JOB_SPEC.values(), *JOB_META.values(), *OTHER_INPUTS)
