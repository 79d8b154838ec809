"""Compare what becomes of a job under faults with flargo and with FLARE's own Kubernetes launcher, in one run.

Every row of ``rows.py`` is run with both launchers, in the same namespace and at the same time, followed as FLARE's
client does and judged from outside. Run it inside the test cluster: ``make compare``.
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
from tests.bench.pod_watch import PodWatch
from tests.bench.rows import ROWS, STUDIES, Row, RowRun
from tests.bench.run import ClientJob
from tests.harness.cluster import Cluster
from tests.harness.real_cluster import versions
from tests.harness.real_cluster.target import find
from tests.harness.site import Site
from tests.harness.wire import Wire

RESULT = Path(__file__).parent / "faults.json"
MAX_PARALLEL_FAULTS = 4
"""Faults that may happen at the same time; the waiting time after each fault does not count."""
LEFTOVERS_AFTER = 30.0
"""Seconds after FLARE learned of the end at which leftovers are counted."""
MAX_LEFTOVER_SECONDS = 120.0
"""Seconds for which the benchmark waits for leftovers to disappear."""
START_JOB_TIMEOUT = 20.0
"""Seconds for which FLARE's server waits for a client's launch_job."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Launcher:
    """One of the two launchers, and how the benchmark runs it."""

    name: str
    cluster: Cluster
    """The test cluster, with the launcher's own account."""
    site: type[Site]
    account: str
    study: str
    """The study of jobs that need no study of their own."""
    resource: str
    """The resource that the launcher creates for a job."""


def main() -> None:
    """Run all rows, or those named as arguments; print the table, and write RESULT if all rows were run."""
    target = find()
    if target is None or target.is_external:
        sys.exit("needs the test cluster: python -m tests.harness.real_cluster up, then exec")
    logging.getLogger(K8sJobHandle.__name__).setLevel(logging.ERROR)  # it warns of each poll that fails
    names = sys.argv[1:]
    rows = [row for row in ROWS if not names or row.name in names]
    cluster = Cluster(target)
    with (
        stock.account(cluster) as token,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        PodWatch(cluster) as watch,
    ):
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(stock.kubeconfig_for(cluster, token)))
        other = Cluster(replace(target, launcher_kubeconfig=kubeconfig))
        launchers = (
            Launcher("flargo", cluster, Site, "flargo-launcher", "", "workflows"),
            Launcher("stock", other, stock.StockSite, stock.ACCOUNT, stock.PLAIN, "pods"),
        )
        results = _run_rows(rows, launchers, watch)
    about = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "kubernetes": versions.KUBERNETES,
        "argo": versions.ARGO,
        "nvflare": version("nvflare"),
        "flargo": version("flargo"),
    }
    figures = {"about": about, "rows": results}
    if not names:
        RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))


def _run_rows(rows: list[Row], launchers: tuple[Launcher, ...], watch: PodWatch) -> list[Result]:
    slots = threading.Semaphore(MAX_PARALLEL_FAULTS)
    with ThreadPoolExecutor(len(rows) * len(launchers), thread_name_prefix="row") as threads:
        slowest_first = sorted(rows, key=lambda row: -row.timeout)
        futures = {
            (row.name, launcher.name): threads.submit(_run_row, row, launcher, watch, slots)
            for row in slowest_first
            for launcher in launchers
        }
        return [
            {"name": row.name, **{launcher.name: futures[row.name, launcher.name].result() for launcher in launchers}}
            for row in rows
        ]


def _run_row(row: Row, launcher: Launcher, watch: PodWatch, slots: threading.Semaphore) -> Result:
    """Run a row with one launcher; an error of the measurement itself becomes part of the result."""
    with ExitStack() as stack:
        with slots:
            wire = stack.enter_context(Wire(launcher.cluster.target.launcher_kubeconfig)) if row.needs_wire else None
            site = stack.enter_context(launcher.site(launcher.cluster, wire=wire, studies=STUDIES))
            job = ClientJob(site, watch, study=row.study or launcher.study, spec=row.spec, code=row.code)
            stack.callback(_delete_leftovers, launcher.cluster, job, watch)
            run = RowRun(job, site, launcher.cluster, wire, launcher.account, launcher.resource)
            try:
                row.prepare(run)
                job.launch(wait=row.has_listener)
                fault_at = row.cause(run)
            except Exception:  # noqa: BLE001
                traceback.print_exc()
                report = f"FLARE heard {job.return_code}, {job.launch_error}"
                return {"broken": f"{traceback.format_exc(limit=-1)}; {report}", "left": job.leftovers()}
            job.wait_for_report(row.timeout if row.has_listener else 0)
            ran_on = _seconds_running_on(job, launcher.cluster)
        time.sleep(LEFTOVERS_AFTER)
        row.follow_up(run)
        return _result(row, run, watch, fault_at, ran_on)


def _seconds_running_on(job: ClientJob, cluster: Cluster) -> float:
    """Return for how many seconds the job's processes run on after FLARE learned of the end."""
    start = time.monotonic()
    while job.return_code is not None and cluster.processes(job.id) and time.monotonic() - start < LEFTOVERS_AFTER:
        time.sleep(0.2)
    return time.monotonic() - start


def _result(row: Row, run: RowRun, watch: PodWatch, fault_at: float | None, ran_on: float) -> Result:
    job, leftovers = run.job, run.job.leftovers()
    at = fault_at
    if at is None:
        at = watch.first_time(job.name, row.symptom) if row.symptom is not None else job.launch_start
    seconds = None if at is None or job.reported_at is None else max(0.0, round(job.reported_at - at, 1))
    status = job.status()
    exit_at = watch.first_time(job.name, pod_watch.has_exited)
    finish_at = watch.first_time(job.name, pod_watch.has_finished)
    cleared_after = _wait_until_clear(job) if leftovers else None
    launch_seconds = (job.launched_at or job.reported_at or time.monotonic()) - job.launch_start
    result: Result = {
        "code": job.return_code,
        "status": status,
        "seconds": seconds,
        "left": leftovers,
        "gone": cleared_after,
        "held": None if finish_at is None or exit_at is None else round(finish_at - exit_at, 1),
        "ran on": round(ran_on, 1) if ran_on >= 1 else 0,
        "launch": round(launch_seconds, 1),
    }
    if run.complaint:
        result["complaint"] = run.complaint
    if job.launch_error is not None:
        result["raised"] = str(job.launch_error)
    return result


def _wait_until_clear(job: ClientJob) -> float | None:
    """Return after how many seconds the leftovers are gone; None if not within MAX_LEFTOVER_SECONDS."""
    start = time.monotonic()
    while (seconds := LEFTOVERS_AFTER + time.monotonic() - start) < MAX_LEFTOVER_SECONDS:
        if not job.leftovers():
            return round(seconds, 1)
        time.sleep(1)
    return None


def _delete_leftovers(cluster: Cluster, job: ClientJob, watch: PodWatch) -> None:
    """Delete a job's pods and Secrets."""
    for pod in watch.pods(job.name):
        cluster.kubectl(
            "delete", "pod", pod["metadata"]["name"], "--ignore-not-found", "--wait=false", "--grace-period=1"
        )
    for name in cluster.secrets(f"nvflare-cred-{job.name}"):
        cluster.kubectl("delete", "secret", name, "--ignore-not-found")


def table(figures: dict[str, Any]) -> str:
    """Render the figures as a Markdown table, followed by the totals."""
    about = figures["about"]
    rows = [
        "Kubernetes {kubernetes}, Argo Workflows {argo}, nvflare {nvflare}, flargo {flargo}; {date}.".format(**about),
        "",
        "| what happens | right is | flargo: FLARE hears | right | s | left | stock: FLARE hears | right | s | left |",
        "|---|---|---|---|---:|---|---|---|---:|---|",
    ]
    for name, row, results in _rows(figures):
        cells = [*_cells(row, results["flargo"]), *_cells(row, results["stock"])]
        rows.append(f"| {name} | {row.right} | {' | '.join(cells)} |")
    wrong = _count(figures, _is_wrong)
    leftovers = _count(figures, lambda _, result: bool(result["left"]))
    rows += ["", _pod_delay_summary(figures)]
    rows += ["", f"Of {len(figures['rows'])} rows: wrong {wrong}; something left {leftovers}."]
    return "\n".join(rows)


def _rows(figures: dict[str, Any]) -> list[tuple[str, Row, Result]]:
    """Return each row's name, the row and its results: results are judged by today's rows, not when measured."""
    by_name = {row.name: row for row in ROWS}
    return [(results["name"], by_name[results["name"]], results) for results in figures["rows"]]


def _count(figures: dict[str, Any], condition: Callable[[Row, Result], bool]) -> str:
    rows = _rows(figures)
    return ", ".join(
        f"{launcher} {sum(condition(row, results[launcher]) for _, row, results in rows)}"
        for launcher in ("flargo", "stock")
    )


def _pod_delay_summary(figures: dict[str, Any]) -> str:
    """Say how long pods outlived their programs, in the rows in which the programs ended by themselves."""
    parts = []
    for launcher in ("flargo", "stock"):
        seconds = [row[launcher]["held"] for row in figures["rows"] if row[launcher].get("held") is not None]
        parts.append(f"{launcher} {median(seconds):.1f} (median), {max(seconds):.1f} at most")
    delays = "; ".join(parts)
    return f"Seconds from the end of a program until its pod is over, and its node's resources free: {delays}."


def _is_wrong(row: Row, result: Result) -> bool:
    if "broken" in result:
        return False
    status = result.get("status", "")
    is_status_right = not row.has_listener or status in row.statuses
    is_end_right = not (row.must_end and result["left"]) or status == RunStatus.FINISHED_COMPLETED.value
    return not (is_status_right and is_end_right) or "complaint" in result


def _cells(row: Row, result: Result) -> tuple[str, str, str, str]:
    if "broken" in result:
        return "not measured", "", "", ""
    status = result["status"].removeprefix("FINISHED:").lower().replace("_", " ")
    report = f"{'raised' if result['code'] is None else result['code']}: {status}" if status else "nothing"
    if result["launch"] > START_JOB_TIMEOUT:
        report += f"; launch_job took {result['launch']:.0f} s"
    right = f"**no** {result.get('complaint', '')}".strip() if _is_wrong(row, result) else "yes"
    leftovers = f"**{', '.join(result['left'])}**" if result["left"] else "nothing"
    if result["left"]:
        if result["gone"]:
            leftovers += f", gone after {result['gone']:.0f} s"
        else:
            leftovers += f", there after {MAX_LEFTOVER_SECONDS:.0f} s"
    if result["ran on"]:
        leftovers += f"; ran on for {result['ran on']:.0f} s"
    return report, right, "" if result["seconds"] is None else f"{result['seconds']:.1f}", leftovers


if __name__ == "__main__":
    main()
