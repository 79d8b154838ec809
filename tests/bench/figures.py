"""The figures of a run (scale.json) for people: tables, what was to be reached, a picture."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.paths import DOCS

Object = dict[str, Any]
RESULT = Path(__file__).parent / "scale.json"
PICTURE = DOCS / "scale.png"
KIB = 1024
_FOLLOWED = ("watch", "list")
"""Of a parent, however many its jobs are."""


@dataclass(frozen=True)
class Figure:
    """One thing that was measured of each launcher at each size; None where there is nothing to measure."""

    name: str
    unit: str
    of: Callable[[Object], float | None]
    digits: int = 1


def _per_job(run: Object, key: str) -> float | None:
    jobs = run["jobs"] - 1  # the first one connects, and is not counted
    if key not in run:
        return None
    counted = sum(times for name, times in run[key].items() if not name.startswith(_FOLLOWED))
    return counted / jobs if jobs else None


def _at(*path: str, times: float = 1.0) -> Callable[[Object], float | None]:
    def find(run: Object) -> float | None:
        found: Any = run
        for key in path:
            found = found.get(key) if found is not None else None
        return None if found is None else found * times

    return find


FIGURES = (
    Figure("requests of a job until it runs", "", lambda run: _per_job(run, "requests until running")),
    Figure("requests while idle", "1/s", _at("idle", "requests a second"), 2),
    Figure("watches renewed while idle", "1/s", _at("idle", "watches a second"), 2),
    Figure("idle CPU of the parent", "% of a core", _at("idle", "cpu", times=100), 2),
    Figure("idle CPU of the API server", "% of a core", _at("idle", "API server's cpu", times=100)),
    Figure("threads of the launcher's own, and main", "", _at("idle", "threads"), 0),
    Figure("memory of a job beyond the first", "KiB", _at("memory", "a job", times=1 / KIB)),
    Figure("memory of the parent, FLARE's waiting threads included", "MiB", _at(
        "idle", "memory with FLARE's waiting threads", times=1 / KIB / KIB), 0),
    Figure("launch_job, 8 in parallel: median", "ms", _at("start", "launch_job", "median", times=1e3)),
    Figure("launch_job, 8 in parallel: p99", "ms", _at("start", "launch_job", "p99", times=1e3)),
    Figure("CPU of the parent for a launch", "ms", _at("start", "cpu a job", times=1e3)),
    Figure("all launched and running after", "s", lambda run: (
        run["start"]["seconds until all run"] if run["jobs"] > 1 else None)),
    Figure("CPU of the API server for a launch and its pod", "ms", _at("start", "API server's cpu a job", times=1e3)),
    Figure("lag of wait, ends one by one: median", "ms", _at("one by one", "lag", "median", times=1e3)),
    Figure("lag of wait, ends one by one: p99", "ms", _at("one by one", "lag", "p99", times=1e3)),
    Figure("lag of wait, ends one by one: max", "ms", _at("one by one", "lag", "max", times=1e3)),
    Figure("the same of a bare watch: p99", "ms", _at("one by one", "lag of a bare watch", "p99", times=1e3)),
    Figure("lag beyond a bare watch: p99", "ms", _at("one by one", "lag beyond a bare watch", "p99", times=1e3)),
    Figure("ends at once (up to 1,000): lag, p99", "ms", _at("at once", "lag", "p99", times=1e3)),
    Figure("ends at once: from the last end to the last wait", "s", _at(
        "at once", "seconds from the last end to the last wait"), 2),
    Figure("the API server took for those ends", "s", _at("at once", "seconds in which they ended")),
    Figure("the same of a bare watch: p99", "ms", _at("at once", "lag of a bare watch", "p99", times=1e3)),
    Figure("a burst (up to 1,000): from the moment when all had ended to the last wait", "s", _at(
        "burst", "seconds from the last end to the last wait"), 2),
    Figure("failures at once (up to 100): lag, p99", "ms", _at("failures at once", "lag", "p99", times=1e3)),
    Figure("a relist", "s", _at("relist", "seconds"), 2),
    Figure("CPU of a relist", "s", _at("relist", "cpu"), 2),
    Figure("tracking all that an earlier run left", "s", _at("track existing", "seconds"), 2),
    Figure("CPU to load the launcher, nvflare being loaded", "s", _at("import cpu"), 2),
)  # fmt: skip


def load() -> Object:
    """The last run; each of its parts knows its size."""
    figures: Object = json.loads(RESULT.read_text())
    for runs in figures["runs"].values():
        for jobs in sorted(runs, key=int):
            runs[jobs] = {**runs.pop(jobs), "jobs": int(jobs)}
    return figures


def table(figures: Object) -> str:
    """Each figure of both launchers at each size."""
    columns = [(launcher, run) for launcher, runs in figures["runs"].items() for run in runs.values()]
    heads = [f"{launcher} {run['jobs']:,}" for launcher, run in columns]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for figure in FIGURES:
        said = [_said(figure, figure.of(run)) for _, run in columns]
        name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
        rows.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join(rows)


def _said(figure: Figure, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{figure.digits}f}"


def targets(figures: Object) -> str:
    """What was to be reached, and what was."""
    rows = ["| to be reached | measured | reached |", "|---|---:|---|"]
    for said, measured, unit, limit in _targets(figures["runs"]["flargo"]):
        rows.append(f"| {said} | {measured:,.2f} {unit} | {'yes' if measured <= limit else '**no**'} |")
    slower = list(_slower(figures))
    rows.append(f"| slower than the stock launcher nowhere | {'; '.join(slower)} | {'**no**' if slower else 'yes'} |")
    return "\n".join(rows)


def _targets(flargo: Object) -> Iterable[tuple[str, float, str, float]]:
    thousand, most = flargo["1000"], max(flargo.values(), key=lambda run: run["jobs"])
    dropped = thousand["requests in all"].get("delete secrets", 0) / thousand["one by one"]["jobs"]
    idle = max(run["idle"]["requests a second"] for run in flargo.values())
    threads = [run["idle"]["threads"] for run in flargo.values() if run["jobs"] > TIMED]
    in_all = (_per_job(thousand, "requests until running") or 0.0) + dropped
    yield "at most 8 requests a job in all", in_all, "", 8
    yield f"no request while idle but the watches, up to {most['jobs']:,} jobs", idle, "/s", 0
    yield "lag p99 under 50 ms at 1,000 jobs, ends one by one", thousand["one by one"]["lag"]["p99"] * 1e3, "ms", 50
    burst = thousand["burst"]["seconds from the last end to the last wait"]
    yield "all of 1,000 that end at once known within 2 s", burst, "s", 2
    yield "idle CPU under 1 % of a core at 1,000 jobs", thousand["idle"]["cpu"] * 100, "%", 1
    yield "under 50 KiB of memory a job beyond the first, at 1,000", thousand["memory"]["a job"] / KIB, "KiB", 50
    yield "threads constant: the most less the fewest, from 100 jobs on", max(threads) - min(threads), "", 0
    yield "launch_job under 150 ms median, 8 in parallel", thousand["start"]["launch_job"]["median"] * 1e3, "ms", 150
    yield "loading adds less than 0.3 s (of CPU) to a parent that runs nvflare", thousand["import cpu"], "s", 0.3


TIMED = 64
"""Jobs until the pools have all their threads."""
_COMPARED = (
    "requests of a job until it runs",
    "requests while idle",
    "idle CPU of the parent",
    "memory of the parent, FLARE's waiting threads included",
    "launch_job, 8 in parallel: median",
    "CPU of the parent for a launch",
    "all launched and running after",
    "lag of wait, ends one by one: median",
    "lag of wait, ends one by one: p99",
    "ends at once (up to 1,000): lag, p99",
    "a burst (up to 1,000): from the moment when all had ended to the last wait",
    "failures at once (up to 100): lag, p99",
    "CPU to load the launcher, nvflare being loaded",
)


def _slower(figures: Object) -> Iterable[str]:
    for figure in FIGURES:
        sizes = figures["runs"]["stock"].keys() & figures["runs"]["flargo"].keys() if figure.name in _COMPARED else ()
        for size in sorted(sizes, key=int):
            ours, theirs = (figure.of(figures["runs"][launcher][size]) for launcher in ("flargo", "stock"))
            if ours is not None and theirs is not None and ours > theirs:
                yield f"{figure.name} at {size}: {_said(figure, ours)} against {_said(figure, theirs)} {figure.unit}"


SHOWN = {
    "requests while idle": "symlog",
    "idle CPU of the parent": "symlog",
    "lag of wait, ends one by one: p99": "symlog",
    "launch_job, 8 in parallel: median": "symlog",
    "memory of the parent, FLARE's waiting threads included": "linear",
    "threads of the launcher's own, and main": "linear",
}
"""With the scale of each."""


def draw(figures: Object, to: Path) -> None:
    """How each figure grows with the jobs."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    picture, panels = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    named = {figure.name: figure for figure in FIGURES}
    for panel, (name, scale) in zip(panels.flat, SHOWN.items(), strict=True):
        highest = 0.0
        for launcher, style in (("flargo", "o-"), ("stock", "s--")):
            runs = figures["runs"].get(launcher, {}).values()
            points = [(run["jobs"], value) for run in runs if (value := named[name].of(run)) is not None]
            panel.plot(*zip(*points, strict=True), style, label=launcher, clip_on=False)
            highest = max(highest, *(value for _, value in points))
        panel.set_title(name, fontsize=10)
        panel.set(xscale="log", xlabel="jobs", ylabel=named[name].unit)
        panel.set_yscale(scale, **({"linthresh": 0.1} if scale == "symlog" else {}))
        panel.set_ylim(0, highest * (2 if scale == "symlog" else 1.15))
        panel.grid(alpha=0.3)
    panels.flat[0].legend(loc="upper left")
    picture.savefig(to, dpi=100)
