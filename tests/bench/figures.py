"""Present the figures of a scale run (scale.json): tables, targets and a plot."""

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
_SITE_VERBS = ("watch", "list")
"""Requests that a parent makes once, independent of the number of its jobs; those for its site's Lease are others."""


@dataclass(frozen=True)
class Figure:
    """One figure, measured for each launcher at each size."""

    name: str
    unit: str
    read: Callable[[Object], float | None]
    """Return the figure of a run; None if it does not apply to the run."""
    digits: int = 1


def _per_job(run: Object, key: str) -> float | None:
    jobs = run["jobs"] - 1  # the first job opens the connections, and is not counted
    if key not in run:
        return None
    total = sum(
        times for name, times in run[key].items() if not name.startswith(_SITE_VERBS) and not name.endswith(" leases")
    )
    return total / jobs if jobs else None


def _at(*path: str, times: float = 1.0) -> Callable[[Object], float | None]:
    """Return a function that reads the number at a path of a run's JSON, multiplied by ``times``."""

    def read(run: Object) -> float | None:
        value: Any = run
        for key in path:
            value = value.get(key) if value is not None else None
        return None if value is None else value * times

    return read


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
    """Return the figures of the last run, with the number of jobs added to each part as ``jobs``."""
    figures: Object = json.loads(RESULT.read_text())
    for runs in figures["runs"].values():
        for jobs in sorted(runs, key=int):
            runs[jobs] = {**runs.pop(jobs), "jobs": int(jobs)}
    return figures


def table(figures: Object) -> str:
    """Render each figure of both launchers at each size as a Markdown table."""
    columns = [(launcher, run) for launcher, runs in figures["runs"].items() for run in runs.values()]
    heads = [f"{launcher} {run['jobs']:,}" for launcher, run in columns]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for figure in FIGURES:
        cells = [_format(figure, figure.read(run)) for _, run in columns]
        name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _format(figure: Figure, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{figure.digits}f}"


def targets(figures: Object) -> str:
    """Render each target, the value that was measured, and whether the target was met, as a Markdown table."""
    rows = ["| to be reached | measured | reached |", "|---|---:|---|"]
    for target, value, unit, limit in _targets(figures["runs"]["flargo"]):
        rows.append(f"| {target} | {value:,.2f} {unit} | {'yes' if value <= limit else '**no**'} |")
    slower = list(_slower(figures))
    rows.append(f"| slower than the stock launcher nowhere | {'; '.join(slower)} | {'**no**' if slower else 'yes'} |")
    return "\n".join(rows)


def _targets(flargo: Object) -> Iterable[tuple[str, float, str, float]]:
    """Yield each target: its text, the value measured, its unit and the limit."""
    thousand, largest = flargo["1000"], max(flargo.values(), key=lambda run: run["jobs"])
    secret_deletions = thousand["requests in all"].get("delete secrets", 0) / thousand["one by one"]["jobs"]
    idle = max(run["idle"]["requests a second"] for run in flargo.values())
    threads = [run["idle"]["threads"] for run in flargo.values() if run["jobs"] > FULL_POOL_JOBS]
    requests = (_per_job(thousand, "requests until running") or 0.0) + secret_deletions
    yield "at most 8 requests a job in all", requests, "", 8
    yield f"no request while idle but the watches and the site's Lease, up to {largest['jobs']:,} jobs", idle, "/s", 0
    yield "lag p99 under 50 ms at 1,000 jobs, ends one by one", thousand["one by one"]["lag"]["p99"] * 1e3, "ms", 50
    burst = thousand["burst"]["seconds from the last end to the last wait"]
    yield "all of 1,000 that end at once known within 2 s", burst, "s", 2
    yield "idle CPU under 1 % of a core at 1,000 jobs", thousand["idle"]["cpu"] * 100, "%", 1
    yield "under 50 KiB of memory a job beyond the first, at 1,000", thousand["memory"]["a job"] / KIB, "KiB", 50
    yield "threads constant: the most less the fewest, from 100 jobs on", max(threads) - min(threads), "", 0
    yield "launch_job under 150 ms median, 8 in parallel", thousand["start"]["launch_job"]["median"] * 1e3, "ms", 150
    yield "loading adds less than 0.3 s (of CPU) to a parent that runs nvflare", thousand["import cpu"], "s", 0.3


FULL_POOL_JOBS = 64
"""Number of jobs from which the thread pools have all their threads."""
_COMPARABLE = (
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
    """Yield a line for each figure and size at which flargo costs more than the stock launcher."""
    for figure in FIGURES:
        sizes = figures["runs"]["stock"].keys() & figures["runs"]["flargo"].keys() if figure.name in _COMPARABLE else ()
        for size in sorted(sizes, key=int):
            ours, theirs = (figure.read(figures["runs"][launcher][size]) for launcher in ("flargo", "stock"))
            if ours is not None and theirs is not None and ours > theirs:
                pair = f"{_format(figure, ours)} against {_format(figure, theirs)}"
                yield f"{figure.name} at {size}: {pair} {figure.unit}"


PLOT_SCALES = {
    "requests while idle": "symlog",
    "idle CPU of the parent": "symlog",
    "lag of wait, ends one by one: p99": "symlog",
    "launch_job, 8 in parallel: median": "symlog",
    "memory of the parent, FLARE's waiting threads included": "linear",
    "threads of the launcher's own, and main": "linear",
}
"""The figures that are plotted, and the scale of each y axis."""


def draw(figures: Object, to: Path) -> None:
    """Plot how these figures grow with the number of jobs."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plot, panels = plt.subplots(2, 3, figsize=(12, 6.5), layout="constrained")
    by_name = {figure.name: figure for figure in FIGURES}
    for panel, (name, scale) in zip(panels.flat, PLOT_SCALES.items(), strict=True):
        highest = 0.0
        for launcher, style in (("flargo", "o-"), ("stock", "s--")):
            runs = figures["runs"].get(launcher, {}).values()
            points = [(run["jobs"], value) for run in runs if (value := by_name[name].read(run)) is not None]
            panel.plot(*zip(*points, strict=True), style, label=launcher, clip_on=False)
            highest = max(highest, *(value for _, value in points))
        panel.set_title(name, fontsize=10)
        panel.set(xscale="log", xlabel="jobs", ylabel=by_name[name].unit)
        panel.set_yscale(scale, **({"linthresh": 0.1} if scale == "symlog" else {}))
        panel.set_ylim(0, highest * (2 if scale == "symlog" else 1.15))
        panel.grid(alpha=0.3)
    panels.flat[0].legend(loc="upper left")
    plot.savefig(to, dpi=100)
