"""``python -m tests.docs.tables``: write the docs' tables and examples, which are generated from the code."""

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
from flargo.status.diagnosis import DEFAULT_PATIENCE, PATIENCE, WAITING_REASONS
from flargo.status.reasons import Reason
from flargo.terms import Object
from flargo.tools.cli import outline
from flargo.tools.doctor.check_table import CHECKS
from tests.bench import faults, rejoin, requests, start
from tests.bench import figures as scale
from tests.docs import conventions, fault_matrix, kubeconfigs
from tests.harness.differential.cases import samples
from tests.harness.paths import ROOT


def reasons() -> str:
    """Return the table of all reasons for the end of a job."""
    rows = ["| reason | code | what happened | what to do |", "|---|---|---|---|"]
    for reason in Reason:
        code = "own" if reason.code is None else int(reason.code)
        rows.append(f"| `{reason.name}` | {code} | {reason.sentence} | {reason.remedy} |")
    return "\n".join(rows)


def patience() -> str:
    """Return the table of what may pass when a container does not start, and how long each may last."""
    rows = ["| a container waits with | seconds | why |", "|---|---|---|"]
    rows += [f"| {row.examples} | {row.seconds:g} | {row.meaning} |" for row in PATIENCE]
    others = ", ".join(
        f"`{reason}`" for reason in WAITING_REASONS if not any(reason in row.examples for row in PATIENCE)
    )
    rows.append(f"| otherwise {others} | {DEFAULT_PATIENCE:g} | The next try may succeed. |")
    return "\n".join(rows)


def doctors_checks() -> str:
    """Return the table of the checks of `flargo doctor`."""
    rows = ["| check | is fine if | otherwise | what to do |", "|---|---|---|---|"]
    rows += [f"| {each.name} | {each.condition} | {each.consequence} | {each.remedy} |" for each in CHECKS]
    return "\n".join(rows)


def argo_settings() -> str:
    """Return the table of the keys of the launchers' ``argo`` argument."""
    return _keys(ArgoSettings)


def site_policy() -> str:
    """Return the table of the keys of ``argo.policy``."""
    return _keys(Policy)


def trust() -> str:
    """Return the trust table: each input, who controls it, and what is allowed."""
    rows = ["| input | controlled by | goes to | allowed | otherwise |", "|---|---|---|---|---|"]
    rows += [
        f"| {rule.subject} | {rule.source.value} | {rule.destination} | {rule.allowed} | {rule.consequence} |"
        for rule in TABLE
    ]
    return "\n".join(rows)


def _keys(owner: type) -> str:
    docstrings = _attribute_docstrings(owner)
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for field in fields(owner):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = {} if is_dataclass(default) else default
        meaning = docstrings[field.name].replace("``", "`")
        rows.append(f"| `{field.name}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(rows)


def differences() -> str:
    """Return the table of differences between flargo's pod and the stock launcher's."""
    rows = ["| difference | what | why |", "|---|---|---|"]
    rows += [f"| {each.name} | {each.change} | {each.reason} |" for each in DIFFERENCES]
    return "\n".join(rows)


def pod_fields() -> str:
    """Return the table of the destinations of the fields of a pod's spec."""
    rows = ["| goes to | fields of the pod's spec |", "|---|---|"]
    for destination in Destination:
        names = ", ".join(f"`{name}`" for name, place in POD_FIELDS.items() if place is destination)
        rows.append(f"| {destination.value} | {names} |")
    return "\n".join(rows)


def request_figures() -> str:
    """Return the table of the API requests of a job, from the last benchmark run."""
    return requests.table(json.loads(requests.RESULT.read_text()))


def fault_comparison() -> str:
    """Return the table of both launchers' results under faults, from the last benchmark run."""
    return faults.table(json.loads(faults.RESULT.read_text()))


def scale_figures() -> str:
    """Return the table of the cost of many jobs, from the last benchmark run."""
    return scale.table(scale.load())


def scale_targets() -> str:
    """Return the table of the targets for many jobs, and whether they were met."""
    return scale.targets(scale.load())


def start_figures() -> str:
    """Return the table of the seconds until a program starts on real Argo."""
    return start.table(json.loads(start.RESULT.read_text()))


def rejoin_figures() -> str:
    """Return the table of the seconds from a drain until the site trains again."""
    return rejoin.table(json.loads(rejoin.RESULT.read_text()))


def metrics() -> str:
    """Return the table of a parent's Prometheus metrics."""
    rows = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for row in (metric.value for metric in Metric):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        rows.append(f"| `{row.name}` | {row.type} | {labels} | {row.help} |")
    return "\n".join(rows)


def alerts() -> str:
    """Return the table of the alerts in deploy/prometheus-rules.yaml."""
    (group,) = yaml.safe_load((ROOT / "deploy/prometheus-rules.yaml").read_text())["spec"]["groups"]
    rows = ["| alert | condition | what to do |", "|---|---|---|"]
    for rule in group["rules"]:
        duration = f" for {rule['for']}" if "for" in rule else ""
        rows.append(f"| `{rule['alert']}` | `{rule['expr']}`{duration} | {rule['annotations']['description']} |")
    return "\n".join(rows)


BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "argo settings"): argo_settings,
    ("README.md", "figures"): request_figures,
    ("docs/scale.md", "targets"): scale_targets,
    ("docs/scale.md", "figures"): scale_figures,
    ("docs/scale.md", "starts"): start_figures,
    ("docs/rejoin.md", "figures"): rejoin_figures,
    ("docs/operations.md", "reasons"): reasons,
    ("docs/operations.md", "patience"): patience,
    ("docs/operations.md", "doctor"): doctors_checks,
    ("docs/operations.md", "metrics"): metrics,
    ("docs/operations.md", "alerts"): alerts,
    ("docs/commands.md", "conventions"): conventions.listing,
    ("docs/faults.md", "side by side"): fault_comparison,
    ("docs/faults.md", "matrix"): fault_matrix.listing,
    ("docs/kubeconfig.md", "kubeconfigs"): kubeconfigs.table,
    ("docs/design.md", "differences"): differences,
    ("docs/design.md", "pod fields"): pod_fields,
    ("docs/security.md", "trust"): trust,
    ("docs/security.md", "site policy"): site_policy,
}


OUTLINE = f"flargo/tools/cli/{outline.FILE}"
EXAMPLES = {
    "server": "server: plain",
    "client": "client: cpu and memory",
    "client-gpus": "client: GPUs",
    "client-study": "client: all that a study can have",
    "client-queued": "client: queued",
    "client-pod-template": "client: pod template with a sidecar",
}
"""The example Workflows, each with the case of the differential test that it shows. Cluster tests validate them."""


def examples() -> dict[str, str]:
    """Return the text of each example, by its path."""
    texts = {}
    for name, settings, launch in samples():
        for file, case in EXAMPLES.items():
            if case == name:
                texts[f"workflows/examples/{file}.yaml"] = _example(name, build_plan(launch, settings).workflow)
    return texts


def _example(case: str, workflow: Object) -> str:
    """Render a Workflow as YAML, with a production path for the parent's workspace, which is temporary here."""
    text = yaml.safe_dump(json.loads(json.dumps(workflow)), sort_keys=False, width=120)
    text = re.sub(r"(?<!/var)/tmp/[A-Za-z0-9_]+", "/var/tmp/nvflare/workspace", text)
    return f"# The Workflow that flargo submits for this case: {case}.\n# Written by `make docs`; do not edit.\n{text}"


def command_outline() -> str:
    """Return the outline of flargo's commands, from which a shell's completion is fast."""
    settings = [field.name for field in fields(ArgoSettings)]
    rows = {name: outline.describe(name, command, settings) for name, command in conventions.commands()}
    return json.dumps(rows, indent=1) + "\n"


def with_blocks(file: str, text: str) -> str:
    """Return a document with its tables replaced by newly generated ones."""
    for (name, block), table in BLOCKS.items():
        if name == file:
            begin, end = f"<!-- {block}: begin -->\n", f"<!-- {block}: end -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}{table()}\n{end}{after}"
    return text


def _attribute_docstrings(owner: type) -> dict[str, str]:
    """Return the docstring that follows each attribute of a class."""
    (body,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(body, ast.ClassDef)
    return {
        attribute.target.id: " ".join(text.value.value.split())
        for attribute, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # reading the unusual sites of the differential test logs warnings
    for document in sorted({name for name, _ in BLOCKS}):
        path = ROOT / document
        path.write_text(with_blocks(document, path.read_text()))
    (ROOT / OUTLINE).write_text(command_outline())
    for example, content in examples().items():
        (ROOT / example).write_text(content)
