"""The trust table: every input that enters a Workflow or can change what flargo reports about a job.

Each rule names an input, who controls it, where its value ends up, and which values are allowed. A job's author is at
another institution. ``JOB_SPEC`` and ``JOB_META`` hold everything that a job's author may set: flargo.flare.request
reads these keys with these checks, and nothing else of the metadata except ``resource_spec``, which nvflare checks.
The table in docs/security.md is generated from this one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from flargo.job import validate
from flargo.job.validate import Check, InvalidInput

# nvflare/apis/utils/format_check.py has the same rule without a maximum length.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Source(Enum):
    """The party that controls an input."""

    JOB = "job author"
    SITE = "site"
    FLARE = "FLARE"
    CLUSTER = "cluster"
    KIT = "startup kit"
    """Its author may be at another institution than the person who runs flargo on it."""


@dataclass(frozen=True, slots=True)
class TrustRule:
    """One input from outside flargo, and how far flargo trusts it."""

    subject: str
    """The input: a key, a file, or a phrase that describes it. Markdown, like the texts below."""
    source: Source
    destination: str
    """The place where the value ends up."""
    allowed: str
    """The values that are allowed."""
    consequence: str = "refused"
    """The consequence for a value that is not allowed."""
    check: Check | None = None
    """The check that enforces ``allowed`` when a launch is read; None if the rule is enforced elsewhere."""

    def validate(self, field: str, value: Any) -> Any:
        """Return a value in the form that flargo uses.

        Raises:
            InvalidInput: the value is not allowed.
        """
        return value if self.check is None else self.check(field, value)


def job_id(field: str, value: Any) -> str:
    """Check for a job's id. It is part of names, paths and the command line, so it has no slash and no expression."""
    if not isinstance(value, str) or not _JOB_ID.fullmatch(value):
        raise InvalidInput(
            field, value or validate.MISSING, "1 to 128 letters, digits, ., _ and -, beginning with a letter or digit"
        )
    return value


def _study(field: str, value: Any) -> str | None:
    return validate.line(field, value) if value else None


def _name(_: str, value: Any) -> str:
    # FLARE's metadata may hold megabytes; display texts are far shorter than this.
    return value[: validate.MAX_LINE_LENGTH] if isinstance(value, str) else ""


def _argo(field: str, value: Any) -> dict[str, Any]:
    options = validate.mapping(field, value)
    validate.refuse_unknown_keys(field, options, (REJOIN,))
    if REJOIN in options:
        validate.between(0, MAX_REJOIN)(f"{field}[{REJOIN!r}]", options[REJOIN])
    return options


def _if_set(check: Check) -> Check:
    """Return a check that accepts null, zero and "" as "not set", like FLARE's own launcher.

    It returns the value as it was written.
    """

    def check_if_set(field: str, value: Any) -> Any:
        if value:
            check(field, value)
        return value

    return check_if_set


REJOIN = "rejoin"
"""The only key of a job's ``argo``."""
MAX_REJOIN = 99
"""The largest number of further attempts that a job may ask for, and a site may allow."""
_RESOURCES = "the job container's `resources`"


def _quantity_rule(key: str) -> TrustRule:
    return TrustRule(
        f"`{key}`",
        Source.JOB,
        _RESOURCES,
        "a Kubernetes quantity from 0 to 2^63-1; request not above limit; the site's ceiling",
        check=_if_set(validate.quantity),
    )


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
        "the job container's `command`, as its only element",
        "one line of at most 4096 characters without `{{` and `$(`; the site's list",
        check=validate.plain_path,
    ),
    "cpu": _quantity_rule("cpu"),
    "memory": _quantity_rule("memory"),
    "cpu_request": _quantity_rule("cpu_request"),
    "memory_request": _quantity_rule("memory_request"),
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
        f"{_RESOURCES}, under the site's resource name for GPUs",
        "a whole number from 0 to 2^31-1, as a number or in a string; the site's ceiling",
        check=validate.optional(validate.count),
    ),
    "pending_timeout": TrustRule(
        "`pending_timeout`",
        Source.JOB,
        "flargo's own timeout; not in the Workflow",
        "seconds from 0 to 10^9, or null; the site's ceiling",
        check=validate.optional(validate.seconds, "null (no limit)"),
    ),
    "argo": TrustRule(
        "`argo`",
        Source.JOB,
        "how often a client's process that the cluster has lost is started again",
        f"`rejoin`, a whole number from 0 to {MAX_REJOIN}, and nothing else: a job cannot set an account, namespace,"
        " volume, host, security context, priority, patch, command or variable",
        "refused; above the site's `argo.policy.rejoin`: that many",
        check=_argo,
    ),
}
"""The keys that a job may have in its part of launcher_spec: those of FLARE's own launcher, and ``argo``. Other keys
are ignored with one warning, like FLARE's launcher ignores them."""

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
        "the annotations `job-name` and `title`; the node's name in the Argo UI",
        "any text: shown on one line, 120 characters, in a Markdown code span, with a space inside `{{`",
        "a value that is not a string is not shown",
        check=_name,
    ),
    "study": TrustRule(
        "`study`",
        Source.FLARE,
        "a label and the `description`; selects the site's entry with its volumes and variables",
        "one line of at most 4096 characters; FLARE's server sets it to the study of the submitting session",
        check=_study,
    ),
}
"""Everything that flargo reads of a job's metadata besides launcher_spec and resource_spec."""

OTHER_INPUTS: Final = (
    TrustRule(
        "`resource_spec`: `num_of_gpus`, `num_of_cpus`, `memory`",
        Source.JOB,
        _RESOURCES,
        "what nvflare accepts: whole numbers, memory in Mi, Gi or Ti; the site's ceilings",
    ),
    TrustRule(
        "any other key in the metadata",
        Source.JOB,
        "nowhere",
        "anything",
        "ignored; in the job's part of launcher_spec with one warning",
    ),
    TrustRule(
        "actions of the job's code",
        Source.JOB,
        "its own container",
        "what Pod Security `restricted`, the ceilings and the namespace's NetworkPolicy allow",
        "it has no Kubernetes token, and can read only its own credentials and startup kit",
    ),
    TrustRule(
        "the program's termination message (`/dev/termination-log`)",
        Source.JOB,
        "the detail of its end: the parent's log, FLARE's error log of the job, `argo_outcome.json`, `flargo why`",
        "any text: in a log on one line of at most 1000 characters, without control characters",
        "a job can describe its own failure wrongly this way; it stays a failure",
    ),
    TrustRule(
        "`_process_rc.txt`, and other files in the job's run directory that return to the parent",
        Source.JOB,
        "FLARE's status of the job; `argo_outcome.json` and `argo_log_tail.txt` are in the same directory",
        "anything: FLARE prefers the number in it to the launcher's return code, unless that is 104",
        "a job can report its own failure as a success this way, but no other job's",
    ),
    TrustRule(
        "the site's name",
        Source.FLARE,
        "names, labels, the title, the command line",
        "one line of at most 4096 characters without `{{`; names and labels have a valid form of it, with a hash",
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
        "two Secrets; the Workflow has only their names",
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
        "image, volumes, variables, names of Secrets, the pod template",
        "what nvflare accepts; Argo's own names are reserved, no `{{`",
    ),
    TrustRule(
        "names, uids and `flargo.dev/attempt` of Workflows and pods, as the cluster returns them",
        Source.CLUSTER,
        "paths of requests, also of deletes; selectors",
        "names and namespaces as Kubernetes validates them, a uid of letters, digits and `-`, an attempt of 1 to 20"
        " lower-case letters and digits; each part of a path is escaped, and the final URL is compared with the"
        " intended one",
        "treated as absent; no request is sent",
    ),
    TrustRule(
        "`flargo.dev/cleared` on a Workflow",
        Source.CLUSTER,
        "a parent's start: whether the credentials of an earlier run's finished Workflow are looked for",
        "any text: it is believed of a Workflow that is over and whose pods have ended, and of no other",
        "whoever forges it keeps that job's credentials Secret on the cluster until the Workflow is deleted",
    ),
    TrustRule(
        "`flargo.dev/parent` on a Workflow",
        Source.CLUSTER,
        "whether an unfinished Workflow that no launch follows counts as left by an earlier run (`ORPHANED`) or as"
        " started again (`NOT_LAUNCHED`); whether the credentials of a finished one are looked for",
        "any text: it is only compared with the parent's own run",
        "it counts as another run's, and a Workflow without it as nobody's, which is left alone; whoever forges it can"
        " keep a job's credentials Secret on the cluster until the Workflow is deleted",
    ),
    TrustRule(
        "`flargo.dev/attempt-number` and `flargo.dev/max-attempts` on a Workflow",
        Source.CLUSTER,
        "the commands: which Workflows are attempts of one job, and whether another one may follow",
        f"whole numbers from 1 to {MAX_REJOIN + 1}, the first not above the second",
        "treated as absent; whoever forges them can hide an attempt that has ended behind another Workflow in"
        " `flargo jobs`, but none that runs or waits, and `flargo why` shows all",
    ),
    TrustRule(
        "`flargo.dev/refused-attempts` on a Workflow",
        Source.CLUSTER,
        "`flargo why`: why a job has fewer attempts than it asks for",
        "any text, shown on one line of 1000 characters",
        "whoever forges it can show people a wrong reason",
    ),
    TrustRule(
        "`flargo.dev/verdict` and `flargo.dev/verdict-detail` on a Workflow",
        Source.CLUSTER,
        "the commands: what FLARE was told about a job with several attempts",
        "the name of a reason with a code of its own, on a Workflow that has ended; any text as detail",
        "ignored; whoever forges them can show people another end than FLARE was told",
    ),
    TrustRule(
        "`flargo.dev/flare-status` and `flargo.dev/flare-error` on a Workflow",
        Source.CLUSTER,
        "the commands: FLARE's final status of a job, and the last error of its server",
        "`FINISHED:` with at most 40 capital letters and `_`, on the Workflow of a server; any text as error, which is"
        " shown on one line",
        "ignored; whoever forges them can show people another status than FLARE has",
    ),
    TrustRule(
        "the rounds of training: `Round N started` in the log of a job's server, `num_rounds` in its configuration",
        Source.JOB,
        "`flargo.dev/progress` on the Workflow of the job's server",
        "whole numbers up to a million; a number of rounds that is not below the round",
        "a job can report a wrong round of its own this way",
    ),
    TrustRule(
        "`flargo.dev/progress` on a Workflow",
        Source.CLUSTER,
        "the commands: the round of training",
        "`N/M` or `N`, on the Workflow of a server",
        "ignored; whoever forges it can show people another round",
    ),
    TrustRule(
        "the Lease of the site: holder, times, duration, version",
        Source.CLUSTER,
        "whether a client's parent launches jobs, and what it knows of an earlier run; its log",
        "a Lease with the site's labels; a duration of 15 to 60 s; times of the years 2000 to 2200, which shorten no"
        " wait unless the API server's clock agrees; the holder is shown on one line of 120 characters",
        "treated as absent, or as somebody else's Lease, which flargo does not change; whoever may write it can stop a"
        " parent from launching jobs, or let two parents work for up to 13 s",
    ),
    TrustRule(
        "the credentials Secret of a job that a restarted client's parent takes back",
        Source.CLUSTER,
        "the token with which the job's process fetches its workspace and delivers its results; the job's next"
        " attempts; what is redacted",
        "a Secret of the launch's name, with flargo's label, and the launch's very Workflow as its owner",
        "the job is not taken back, and its Workflow is ended; whoever may write Secrets in the namespace can set the"
        " token",
    ),
    TrustRule(
        "a Secret that flargo is about to delete",
        Source.CLUSTER,
        "the delete of a launch's credentials, by a parent or `flargo sweep`",
        "its uid, flargo's label, and the launch's Workflow as its owner",
        "not deleted",
    ),
    TrustRule(
        "numbers and dates in objects and headers, such as `outputs.exitCode`, `resourceVersion`, `Retry-After`",
        Source.CLUSTER,
        "the return code, the order of events, waiting times",
        "at most 19 ASCII digits; a date with its zone",
        "treated as absent",
    ),
    TrustRule(
        "an object that flargo cannot parse",
        Source.CLUSTER,
        "nowhere",
        "-",
        "skipped, and named once in the log; flargo concludes nothing from a list that contains one",
    ),
    TrustRule(
        "messages in statuses and events, errors of the API server, labels and annotations that people read",
        Source.CLUSTER,
        "the reason why a job ended; the commands' output",
        "any text; credentials are redacted and control characters escaped; values that Kubernetes quotes are removed"
        " from what a researcher reads",
        "-",
    ),
    TrustRule(
        "the program's log",
        Source.JOB,
        "`flargo logs`; the last lines, in the result of a server's job that failed",
        "any bytes; on a terminal control characters are escaped and credentials redacted, in a file or a pipe the"
        " bytes are unchanged",
        "-",
    ),
    TrustRule(
        "files of a startup kit",
        Source.KIT,
        "`prepare`, `render` and `doctor` on the machine where they run",
        "files below the kit only, of limited size; links only below the kit, and for `prepare` none; YAML with bounded"
        " aliases; only the names and sizes of keys",
        "refused, and nothing is written",
    ),
    TrustRule(
        "the kubeconfig that a startup kit names",
        Source.KIT,
        "nowhere; with `doctor --use-kit-kubeconfig` the doctor's requests, and any command that the file names",
        "-",
        "not read",
    ),
    TrustRule(
        "`.flargo/undo.json` of a startup kit",
        Source.KIT,
        "the files that `prepare --undo` writes",
        "only paths that `flargo prepare` itself writes, with contents of the right form",
        "refused, and nothing is written",
    ),
    TrustRule(
        "records of launches, below `.flargo/launches` in the workspace of a client's parent",
        Source.SITE,
        "which jobs the parent's next run takes back; the pods of their next attempts; the end that FLARE is told of a"
        " job whose end was not reported yet",
        "files of at most 4 MiB that are no links, named after their jobs, with the parent's site and federation, names"
        " as Kubernetes validates them, and attempts, reasons and codes within their limits; the Workflow must have the"
        " recorded attempt's id and the site's labels",
        "deleted, and the job's Workflow is ended; whoever may write there chooses a site's next pods, as with its"
        " study files",
    ),
    TrustRule(
        "`.flargo/heartbeat` in the workspace of a client's parent",
        Source.SITE,
        "for how long the site had no parent",
        "a date with its zone, of at most 100 bytes, in a file that is no link; a date in the future proves nothing",
        "only the Lease counts; whoever may write there can have a job taken back that FLARE's server has given up,"
        " which FLARE ends then",
    ),
    TrustRule(
        "the answers of a site's receiver of notifications (`argo.notify`), and the file with its token",
        Source.SITE,
        "when an outcome is sent again; the `Authorization` header of the POST",
        "of an answer its status and a `Retry-After` in seconds, of which 300 are obeyed; of the file one word of"
        " printable ASCII, at most 16 KiB",
        "not read; without a proper token nothing is sent",
    ),
    TrustRule(
        "the parent's own environment",
        Source.SITE,
        "nowhere",
        "-",
        "never read for a pod",
    ),
)
"""Inputs that are checked elsewhere, or not at all."""

TABLE: Final = (*JOB_SPEC.values(), *JOB_META.values(), *OTHER_INPUTS)
