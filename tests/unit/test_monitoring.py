"""The dashboard and the alert rules in deploy/: PromQL that parses, and names only what a launcher exports."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatchOp, MatrixSelector, NumberLiteral, VectorSelector

from flargo.control.meter import Delivery
from flargo.metrics import Metric, Row, Type
from flargo.status.diagnosis import Stage
from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from tests.harness.paths import ROOT

BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus-rules.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]
DOCS = (ROOT / "docs/operations.md").read_text()
TILES = [panel for panel in BOARD["panels"] if panel["type"] == "stat"]
TARGET_LABELS = {"instance"}
"""Labels that Prometheus adds to what it scrapes, and that expressions may use."""
GRAFANA_VALUES = {"$__rate_interval": "5m"}
"""Grafana's variables outside strings, with a value that each may have."""
HISTOGRAM_SAMPLES = ("_bucket", "_count", "_sum")
LABEL_VALUES = {
    "result": {result.value for result in Delivery},
    "stage": {stage.label for stage in Stage},
    "reason": {reason.name for reason in Reason},
    "code": {
        str(int(code)) for reason in Reason for code in (FLARE_EXIT_CODES if reason.code is None else {reason.code})
    },
}
RATES = {"increase", "rate"}


def dashboard_queries() -> Iterator[str]:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in GRAFANA_VALUES.items():
                query = query.replace(name, value)
            yield query


QUERIES = [*dashboard_queries(), *(rule["expr"] for rule in RULES)]


def samples() -> dict[str, Row]:
    """Return the metric of each sample name that a launcher exports."""
    rows = [metric.value for metric in Metric]
    plain = {row.name: row for row in rows if row.type is not Type.HISTOGRAM}
    parts = {row.name + end: row for row in rows if row.type is Type.HISTOGRAM for end in HISTOGRAM_SAMPLES}
    return {**plain, **parts}


def labels_of(selector: VectorSelector) -> set[str]:
    """Return the labels of a selector's samples."""
    assert selector.name is not None
    return {*samples()[selector.name].labels, *TARGET_LABELS, *({"le"} if selector.name.endswith("_bucket") else ())}


def find(expression: Expr, kind: type) -> list[Any]:
    """Return all parts of an expression that are of a kind."""
    parts: list[Any] = []
    promql_parser.walk(expression, lambda part: parts.append(part) if isinstance(part, kind) else None)
    return parts


def grouping(expression: Expr) -> set[str]:
    """Return the labels that an expression's aggregations and operators name."""
    labels = {label for part in find(expression, AggregateExpr) if part.modifier for label in part.modifier.labels}
    modifiers = [part.modifier for part in find(expression, BinaryExpr) if part.modifier]
    return labels | {label for each in modifiers if each.matching for label in each.matching.labels}


def problems(query: str) -> list[str]:
    """Return what is wrong with an expression: it does not parse, or names something that no launcher exports."""
    try:
        expression = promql_parser.parse(query)
    except ValueError as error:
        return [str(error)]
    selectors = [*find(expression, VectorSelector)]
    unknown = [f"no metric {each.name}" for each in selectors if each.name not in samples()]
    if unknown:
        return unknown
    known = {label for selector in selectors for label in labels_of(selector)}
    return [
        *(f"no label {label} to group by" for label in grouping(expression) - known),
        *(problem for selector in selectors for problem in _matcher_problems(selector)),
        *_type_problems(expression),
    ]


def _matcher_problems(selector: VectorSelector) -> Iterator[str]:
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels_of(selector):
            yield f"{selector.name} has no label {matcher.name}"
        elif matcher.name in LABEL_VALUES:
            is_pattern = matcher.op in (MatchOp.Re, MatchOp.NotRe)
            values = set(matcher.value.split("|")) if is_pattern else {matcher.value}
            yield from (f"{matcher.name} is never {value}" for value in values - LABEL_VALUES[matcher.name])


def _type_problems(expression: Expr) -> Iterator[str]:
    """Yield counters that are used as they are, and gauges of which a rate is taken."""
    rated = {
        str(part.vector_selector)
        for call in find(expression, Call)
        if call.func.name in RATES
        for part in find(call, MatrixSelector)
    }
    for selector in find(expression, VectorSelector):
        assert selector.name is not None
        is_counter = samples()[selector.name].type is not Type.GAUGE
        if is_counter != (str(selector) in rated):
            yield f"{selector.name} needs {'a rate' if is_counter else 'no rate'}"


@pytest.mark.parametrize("query", QUERIES)
def test_expression_names_what_is_exported(query: str) -> None:
    assert problems(query) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(flargo_jobs", "unclosed left parenthesis"),
        ("rate(flargo_ends_total)", "expected type matrix in call to function 'rate', got vector"),
        ("flargo_job", "no metric flargo_job"),
        ("rate(flargo_start_seconds[5m])", "no metric flargo_start_seconds"),
        ('flargo_jobs{state="RUNNING"}', "flargo_jobs has no label state"),
        ('flargo_jobs{stage="RUNS"}', "stage is never RUNS"),
        ('rate(flargo_ends_total{code=~"104|105"}[5m])', "code is never 105"),
        ("sum by (reason) (flargo_jobs)", "no label reason to group by"),
        ("flargo_jobs / on (reason) flargo_orphans", "no label reason to group by"),
        ("flargo_ends_total > 0", "flargo_ends_total needs a rate"),
        ("rate(flargo_jobs[5m])", "flargo_jobs needs no rate"),
    ],
)
def test_wrong_expressions_are_found(query: str, problem: str) -> None:
    assert problems(query) == [problem]


def test_dashboard_shows_every_metric() -> None:
    queried = {
        samples()[selector.name].name
        for query in dashboard_queries()
        for selector in find(promql_parser.parse(query), VectorSelector)
    }
    assert queried == {metric.value.name for metric in Metric}


def test_dashboard_variables_are_filled_from_metrics() -> None:
    (variable,) = (each for each in BOARD["templating"]["list"] if each["type"] == "query")
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert match is not None
    assert match[1] in samples()
    assert match[2] in TARGET_LABELS


def test_panels_are_distinct_and_do_not_overlap() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_tiles_are_on_top_with_thresholds() -> None:
    """An operator sees at a glance what runs, what has failed, who is blind, and how long jobs wait."""
    assert [tile["title"] for tile in TILES] == ["Running", "Failed in 24 h", "Blind parents", "Longest wait"]
    assert {tile["gridPos"]["y"] for tile in TILES} == {0}
    for tile in TILES:
        steps = tile["fieldConfig"]["defaults"]["thresholds"]["steps"]
        limits = [step["value"] for step in steps]
        assert limits[0] is None
        assert limits[1:] == sorted(limits[1:])
        assert tile["title"] == "Running" or steps[-1]["color"] == "red"


def test_docs_and_rules_name_the_same_alerts() -> None:
    alerts = [rule["alert"] for rule in RULES]
    assert len(set(alerts)) == len(alerts)
    assert set(re.findall(r"\bFlargo[A-Z]\w+", DOCS)) == set(alerts)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_alert_can_be_routed_and_understood(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, "Prometheus refuses other fields"
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    if "for" in rule:
        assert promql_parser.parse_duration(rule["for"]).total_seconds() > 0
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    (selector,) = find(promql_parser.parse(rule["expr"]), VectorSelector)
    assert used <= labels_of(selector) - {"code", "resource", "result"}, "the aggregation removes these"


def test_tile_and_alert_agree_on_who_is_blind() -> None:
    staleness = Metric.WATCH_STALENESS.value.name
    parsed = [promql_parser.parse(query) for query in QUERIES if staleness in query]
    limits = [limit.val for expression in parsed for limit in find(expression, NumberLiteral)]
    assert limits == [90, 90]
