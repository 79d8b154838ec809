"""The docs' tables and examples, which come from the code: ``python -m tests.docs.tables`` writes them anew."""

import ast
import inspect
import json
import logging
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass

import yaml

from flargo.job.plan import build_plan
from flargo.job.pod import DIFFERENCES
from flargo.job.policy import Policy
from flargo.job.settings import ArgoSettings
from flargo.job.trust import TABLE
from flargo.job.workflow import POD_FIELDS, Destination
from flargo.metrics import Metric
from flargo.status.reasons import Reason
from flargo.terms import Object
from flargo.tools.doctor.check_table import CHECKS
from tests.bench import faults, requests, start
from tests.bench import figures as scale
from tests.docs import fault_matrix
from tests.harness.differential.cases import samples
from tests.harness.paths import ROOT


def reasons() -> str:
    """Every reason for an end."""
    rows = ["| reason | code | what happened | what to do |", "|---|---|---|---|"]
    for reason in Reason:
        code = "own" if reason.code is None else int(reason.code)
        rows.append(f"| `{reason.name}` | {code} | {reason.sentence} | {reason.remedy} |")
    return "\n".join(rows)


def doctors_checks() -> str:
    """Everything that `flargo doctor` looks at."""
    rows = ["| check | is fine if | otherwise | what to do |", "|---|---|---|---|"]
    rows += [f"| {each.name} | {each.condition} | {each.consequence} | {each.remedy} |" for each in CHECKS]
    return "\n".join(rows)


def argo_settings() -> str:
    """The keys of the launchers' ``argo`` argument."""
    return _keys(ArgoSettings)


def site_policy() -> str:
    """The keys of ``argo.policy``."""
    return _keys(Policy)


def trust() -> str:
    """Who is believed what."""
    rows = ["| input | controlled by | goes to | allowed | otherwise |", "|---|---|---|---|---|"]
    rows += [
        f"| {rule.subject} | {rule.source.value} | {rule.destination} | {rule.allowed} | {rule.consequence} |"
        for rule in TABLE
    ]
    return "\n".join(rows)


def _keys(owner: type) -> str:
    said = _attribute_docstrings(owner)
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for field in fields(owner):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = {} if is_dataclass(default) else default
        meaning = said[field.name].replace("``", "`")
        rows.append(f"| `{field.name}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(rows)


def differences() -> str:
    """How flargo's pod differs from the stock launcher's."""
    rows = ["| difference | what | why |", "|---|---|---|"]
    rows += [f"| {each.name} | {each.change} | {each.reason} |" for each in DIFFERENCES]
    return "\n".join(rows)


def pod_fields() -> str:
    """Where each field of a pod's spec goes."""
    rows = ["| goes to | fields of the pod's spec |", "|---|---|"]
    for target in Destination:
        names = ", ".join(f"`{name}`" for name, goes in POD_FIELDS.items() if goes is target)
        rows.append(f"| {target.value} | {names} |")
    return "\n".join(rows)


def figures() -> str:
    """The figures of the last benchmark run."""
    return requests.table(json.loads(requests.RESULT.read_text()))


def side_by_side() -> str:
    """What the faults did to both launchers, when last compared."""
    return faults.table(json.loads(faults.RESULT.read_text()))


def scale_figures() -> str:
    """What many jobs cost."""
    return scale.table(scale.load())


def scale_targets() -> str:
    """What of that was to be reached."""
    return scale.targets(scale.load())


def starts() -> str:
    """How soon a program begins on real Argo."""
    return start.table(json.loads(start.RESULT.read_text()))


def metrics() -> str:
    """What a parent tells Prometheus."""
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for row in (metric.value for metric in Metric):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        rows.append(f"| `{row.name}` | {row.type} | {labels} | {row.help} |")
    return "\n".join(rows)


BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "argo settings"): argo_settings,
    ("README.md", "figures"): figures,
    ("docs/scale.md", "targets"): scale_targets,
    ("docs/scale.md", "figures"): scale_figures,
    ("docs/scale.md", "starts"): starts,
    ("docs/operations.md", "reasons"): reasons,
    ("docs/operations.md", "doctor"): doctors_checks,
    ("docs/operations.md", "metrics"): metrics,
    ("docs/faults.md", "side by side"): side_by_side,
    ("docs/faults.md", "matrix"): fault_matrix.listing,
    ("docs/design.md", "differences"): differences,
    ("docs/design.md", "pod fields"): pod_fields,
    ("docs/security.md", "trust"): trust,
    ("docs/security.md", "site policy"): site_policy,
}


EXAMPLES = {
    "server": "server: plain",
    "client": "client: cpu and memory",
    "client-gpus": "client: GPUs",
    "client-study": "client: all that a study can have",
    "client-queued": "client: queued",
    "client-pod-template": "client: pod template with a sidecar",
}
"""Rendered Workflows to read, by the matrix's cases; the real cluster's tests hold those to its strict checks."""


def examples() -> dict[str, str]:
    """The text of each example, by its path."""
    made = {}
    for name, settings, launch in samples():
        for file, case in EXAMPLES.items():
            if case == name:
                made[f"workflows/examples/{file}.yaml"] = _example(name, build_plan(launch, settings).workflow)
    return made


def _example(case: str, workflow: Object) -> str:
    """As YAML, with the place of the parent's workspace, which the matrix lays anew each time, as in production."""
    text = yaml.safe_dump(json.loads(json.dumps(workflow)), sort_keys=False, width=120)
    text = re.sub(r"(?<!/var)/tmp/[A-Za-z0-9_]+", "/var/tmp/nvflare/workspace", text)
    return f"# What flargo submits for: {case}. Written by `make docs`; a test holds it equal to the code.\n{text}"


def with_blocks(file: str, text: str) -> str:
    """A document with its tables as the code has them now."""
    for (name, block), table in BLOCKS.items():
        if name == file:
            begin, end = f"<!-- {block}: begin -->\n", f"<!-- {block}: end -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}{table()}\n{end}{after}"
    return text


def _attribute_docstrings(owner: type) -> dict[str, str]:
    """The text that follows each attribute of a class."""
    (body,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(body, ast.ClassDef)
    return {
        here.target.id: " ".join(after.value.value.split())
        for here, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(here, ast.AnnAssign)
        and isinstance(here.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the matrix has sites of all kinds, and reading them says so
    for document in sorted({name for name, _ in BLOCKS}):
        path = ROOT / document
        path.write_text(with_blocks(document, path.read_text()))
    for example, content in examples().items():
        (ROOT / example).write_text(content)
