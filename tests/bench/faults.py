"""What becomes of a job when something goes wrong: flargo beside FLARE's own Kubernetes launcher, in one run.

Every row of ``rows.py`` is run with both, in the same namespace at the same time, followed as FLARE's client does and
judged from outside. Run inside the test cluster: ``make compare``.
"""

import datetime as dt
import json
import logging
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from nvflare.apis.job_def import RunStatus
from nvflare.app_opt.job_launcher.k8s_launcher import K8sJobHandle

from tests.bench import pod_watch, stock
from tests.bench.pod_watch import Seen
from tests.bench.rows import ROWS, STUDIES, Play, Row
from tests.bench.run import Run
from tests.harness.cluster import Cluster
from tests.harness.real_cluster import versions
from tests.harness.real_cluster.target import find
from tests.harness.site import Site
from tests.harness.wire import Wire

RESULT = Path(__file__).parent / "faults.json"
AT_ONCE = 4
"""Faults that happen at a time; the seconds after them, in which nothing is done, do not count."""
LATER = 30.0
"""Seconds after which what is left is counted."""
MUCH_LATER = 120.0
"""Seconds after which no more is waited for it to go."""
START_JOB = 20.0
"""Seconds for which FLARE's server waits for a client's launch_job."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Launcher:
    """One of the two."""

    name: str
    cluster: Cluster
    """With the launcher's own account."""
    site: type[Site]
    account: str
    study: str
    """Of jobs that ask for none."""
    job: str


def main() -> None:
    """Run all rows, or those named, with both; keep the figures in RESULT if it was all; print the table."""
    target = find()
    if target is None or target.own:
        sys.exit("needs the test cluster: python -m tests.harness.real_cluster up, then exec")
    logging.getLogger(K8sJobHandle.__name__).setLevel(logging.ERROR)  # it warns of each look that fails
    wanted = sys.argv[1:]
    rows = [row for row in ROWS if not wanted or row.name in wanted]
    cluster = Cluster(target)
    with (
        stock.account(cluster) as token,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Seen(cluster) as sights,
    ):
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(stock.kubeconfig_for(cluster, token)))
        other = Cluster(replace(target, launcher_kubeconfig=kubeconfig))
        launchers = (
            Launcher("flargo", cluster, Site, "flargo-launcher", "", "workflows"),
            Launcher("stock", other, stock.StockSite, stock.ACCOUNT, stock.PLAIN, "pods"),
        )
        measured = _measure(rows, launchers, sights)
    about = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "kubernetes": versions.KUBERNETES,
        "argo": versions.ARGO,
        "nvflare": version("nvflare"),
        "flargo": version("flargo"),
    }
    figures = {"about": about, "rows": measured}
    if not wanted:
        RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))


def _measure(rows: list[Row], launchers: tuple[Launcher, ...], sights: Seen) -> list[Result]:
    slots = threading.Semaphore(AT_ONCE)
    with ThreadPoolExecutor(len(rows) * len(launchers), thread_name_prefix="row") as threads:
        # The slow ones first.
        order = sorted(rows, key=lambda row: -row.within)
        running = {
            (row.name, launcher.name): threads.submit(_one, row, launcher, sights, slots)
            for row in order
            for launcher in launchers
        }
        return [
            {"name": row.name, **{launcher.name: running[row.name, launcher.name].result() for launcher in launchers}}
            for row in rows
        ]


def _one(row: Row, launcher: Launcher, sights: Seen, slots: threading.Semaphore) -> Result:
    """A row with one launcher; what went wrong with the measurement is part of the result."""
    with ExitStack() as stack:
        with slots:
            wire = stack.enter_context(Wire(launcher.cluster.target.launcher_kubeconfig)) if row.wire else None
            site = stack.enter_context(launcher.site(launcher.cluster, wire=wire, studies=STUDIES))
            run = Run(site, sights, study=row.study or launcher.study, spec=row.spec, code=row.runs)
            stack.callback(_sweep, launcher.cluster, run, sights)
            play = Play(run, site, launcher.cluster, wire, launcher.account, launcher.job)
            try:
                acted = _happens(row, play)
            except Exception:  # noqa: BLE001
                traceback.print_exc()
                broken = f"{traceback.format_exc(limit=-1)}; FLARE heard {run.code}, {run.problem}"
                return {"broken": broken, "left": run.left()}
            run.hears(row.within if row.heard else 0)
            ran_on = _runs_on(run, launcher.cluster)
        time.sleep(LATER)
        row.after(play)
        return _result(row, play, sights, acted, ran_on)


def _happens(row: Row, play: Play) -> float | None:
    row.before(play)
    play.run.launch(wait=row.heard)
    return row.scene(play)


def _runs_on(run: Run, cluster: Cluster) -> float:
    """For how many seconds its processes go on after FLARE has heard of the end."""
    begun = time.monotonic()
    while run.code is not None and cluster.processes(run.id) and time.monotonic() - begun < LATER:
        time.sleep(0.2)
    return time.monotonic() - begun


def _result(row: Row, play: Play, sights: Seen, acted: float | None, ran_on: float) -> Result:
    run, left = play.run, play.run.left()
    at = acted
    if at is None:
        at = sights.first(run.name, row.shown) if row.shown is not None else run.begun_at
    seconds = None if at is None or run.heard_at is None else max(0.0, round(run.heard_at - at, 1))
    status = run.status()
    done, over = sights.first(run.name, pod_watch.ended), sights.first(run.name, pod_watch.over)
    gone = _gone(run) if left else None
    launching = (run.launched_at or run.heard_at or time.monotonic()) - run.begun_at
    result: Result = {
        "code": run.code,
        "status": status,
        "seconds": seconds,
        "left": left,
        "gone": gone,
        "held": None if over is None or done is None else round(over - done, 1),
        "ran on": round(ran_on, 1) if ran_on >= 1 else 0,
        "launch": round(launching, 1),
    }
    if play.complaint:
        result["complaint"] = play.complaint
    if run.problem is not None:
        result["raised"] = str(run.problem)
    return result


def _gone(run: Run) -> float | None:
    """After how many seconds what was left is gone after all; None: not in MUCH_LATER."""
    begun = time.monotonic()
    while (waited := LATER + time.monotonic() - begun) < MUCH_LATER:
        if not run.left():
            return round(waited, 1)
        time.sleep(1)
    return None


def _sweep(cluster: Cluster, run: Run, sights: Seen) -> None:
    """Remove what is left of a pod; its Secrets are its own."""
    for pod in sights.pods(run.name):
        cluster.kubectl(
            "delete", "pod", pod["metadata"]["name"], "--ignore-not-found", "--wait=false", "--grace-period=1"
        )
    for name in cluster.secrets(f"nvflare-cred-{run.name}"):
        cluster.kubectl("delete", "secret", name, "--ignore-not-found")


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    about = figures["about"]
    rows = [
        "Kubernetes {kubernetes}, Argo Workflows {argo}, nvflare {nvflare}, flargo {flargo}; {date}.".format(**about),
        "",
        "| what happens | right is | flargo: FLARE hears | right | s | left | stock: FLARE hears | right | s | left |",
        "|---|---|---|---|---:|---|---|---|---:|---|",
    ]
    for name, row, both in _rows(figures):
        cells = [*_cells(row, both["flargo"]), *_cells(row, both["stock"])]
        rows.append(f"| {name} | {row.right} | {' | '.join(cells)} |")
    wrong, leaving = (_count(figures, what) for what in (_is_wrong, _leaves))
    rows += ["", _held(figures)]
    rows += ["", f"Of {len(figures['rows'])} rows: wrong {wrong}; something left {leaving}."]
    return "\n".join(rows)


def _rows(figures: dict[str, Any]) -> list[tuple[str, Row, Result]]:
    """What was measured, each with the row that says what is right: that is judged here, not when it was measured."""
    known = {row.name: row for row in ROWS}
    return [(measured["name"], known[measured["name"]], measured) for measured in figures["rows"]]


def _count(figures: dict[str, Any], what: Callable[[Row, Result], bool]) -> str:
    rows = _rows(figures)
    return ", ".join(f"{who} {sum(what(row, both[who]) for _, row, both in rows)}" for who in ("flargo", "stock"))


def _held(figures: dict[str, Any]) -> str:
    """For how long pods went on without their programs, in the rows in which these ended by themselves."""
    said = []
    for who in ("flargo", "stock"):
        seconds = [row[who]["held"] for row in figures["rows"] if row[who].get("held") is not None]
        said.append(f"{who} {median(seconds):.1f} (median), {max(seconds):.1f} at most")
    return f"Seconds from the end of a program until its pod is over, and its node's resources free: {'; '.join(said)}."


def _is_wrong(row: Row, result: Result) -> bool:
    if "broken" in result:
        return False
    status = result.get("status", "")
    told = not row.heard or status in row.allowed
    ended = not (row.ended and result["left"]) or status == RunStatus.FINISHED_COMPLETED.value
    return not (told and ended) or "complaint" in result


def _leaves(_: Row, result: Result) -> bool:
    return bool(result["left"])


def _cells(row: Row, result: Result) -> tuple[str, str, str, str]:
    if "broken" in result:
        return "not measured", "", "", ""
    status = result["status"].removeprefix("FINISHED:").lower().replace("_", " ")
    heard = f"{'raised' if result['code'] is None else result['code']}: {status}" if status else "nothing"
    if result["launch"] > START_JOB:
        heard += f"; launch_job took {result['launch']:.0f} s"
    right = f"**no** {result.get('complaint', '')}".strip() if _is_wrong(row, result) else "yes"
    left = f"**{', '.join(result['left'])}**" if result["left"] else "nothing"
    if result["left"]:
        left += f", gone after {result['gone']:.0f} s" if result["gone"] else f", there after {MUCH_LATER:.0f} s"
    if result["ran on"]:
        left += f"; ran on for {result['ran on']:.0f} s"
    return heard, right, "" if result["seconds"] is None else f"{result['seconds']:.1f}", left


if __name__ == "__main__":
    main()
