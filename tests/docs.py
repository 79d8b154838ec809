"""The tables of the docs that the code is the source of: ``python -m tests.docs`` writes them anew."""

import ast
import inspect
import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

from flargo.job.pod import DIFFERENCES
from flargo.job.settings import ArgoSettings
from flargo.job.workflow import POD_FIELDS, Goes
from flargo.status.reasons import Reason
from tests.bench import requests

ROOT = Path(__file__).parent.parent


def reasons() -> str:
    """Every reason for an end."""
    rows = ["| reason | code | what happened | what to do |", "|---|---|---|---|"]
    for reason in Reason:
        code = "own" if reason.code is None else int(reason.code)
        rows.append(f"| `{reason.name}` | {code} | {reason.sentence} | {reason.remedy} |")
    return "\n".join(rows)


def argo_settings() -> str:
    """The keys of the launchers' ``argo`` argument."""
    said = _attribute_docstrings(ArgoSettings)
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for field in fields(ArgoSettings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        meaning = said[field.name].replace("``", "`")
        rows.append(f"| `{field.name}` | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(rows)


def differences() -> str:
    """How flargo's pod differs from the stock launcher's."""
    rows = ["| difference | what | why |", "|---|---|---|"]
    rows += [f"| {each.name} | {each.what} | {each.why} |" for each in DIFFERENCES]
    return "\n".join(rows)


def pod_fields() -> str:
    """Where each field of a pod's spec goes."""
    rows = ["| goes to | fields of the pod's spec |", "|---|---|"]
    for place in Goes:
        names = ", ".join(f"`{name}`" for name, goes in POD_FIELDS.items() if goes is place)
        rows.append(f"| {place.value} | {names} |")
    return "\n".join(rows)


def figures() -> str:
    """The figures of the last benchmark run."""
    return requests.table(json.loads(requests.RESULT.read_text()))


BLOCKS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "argo settings"): argo_settings,
    ("README.md", "figures"): figures,
    ("docs/operations.md", "reasons"): reasons,
    ("docs/design.md", "differences"): differences,
    ("docs/design.md", "pod fields"): pod_fields,
}


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
    for document in sorted({name for name, _ in BLOCKS}):
        path = ROOT / document
        path.write_text(with_blocks(document, path.read_text()))
