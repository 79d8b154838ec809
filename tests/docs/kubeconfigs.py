"""Render the table of kubeconfigs, with what kubectl and flargo do, as Markdown."""

import json

from tests.harness.kubeconfigs.rows import RECORDED, Object, Row, read_rows


def table() -> str:
    """Return a row for each kubeconfig."""
    recorded = json.loads(RECORDED.read_text())
    lines = [
        f"{len(read_rows())} cases, recorded with kubectl {recorded['kubectl']}.",
        "",
        "| kubeconfig | kubectl | flargo |",
        "|---|---|---|",
    ]
    lines += [_line(row, recorded["rows"][row.name]) for row in read_rows()]
    return "\n".join(lines)


def _line(row: Row, heard: Object) -> str:
    kubectl = _describe(heard)
    return f"| {_cell(row.name)} | {kubectl} | {_flargo(row)} |"


def _flargo(row: Row) -> str:
    if row.flargo is None:
        return "the same" + (f": {_code(row.problem)}" if row.problem else "")
    done = _describe(row.flargo) if row.flargo else f"an error: {_code(row.problem)}"
    return f"**{done}**; {_cell(row.why)}"


def _describe(heard: Object) -> str:
    """Return who asks which server for what."""
    if "message" in heard:
        return f"an error: {_code(heard['message'])}"
    parts = [f"`{heard['server']}{heard['path']}`"]
    if "proxy" in heard:
        user = f" as {_code(heard['proxy']['as'])}" if "as" in heard["proxy"] else ""
        parts.append(f"through the proxy `{heard['proxy']['proxy']}`{user}")
    if "sni" in heard:
        parts.append(f"for the name `{heard['sni']}`")
    credentials = [_code(heard[key]) for key in ("authorization",) if key in heard]
    credentials += [f"the certificate of {heard['certificate']}"] if "certificate" in heard else []
    parts.append(f"with {' and '.join(credentials)}" if credentials else "without credentials")
    parts += [_code(each) for each in heard.get("impersonation", ())]
    if "plugin" in heard:
        parts.append(f"the plugin gets {_code(json.dumps(heard['plugin']['spec']))}")
    return ", ".join(parts)


def _code(text: str) -> str:
    return f"`` {_cell(text)} ``" if "`" in text else f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
