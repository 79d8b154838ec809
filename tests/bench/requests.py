"""Count the API requests of one job, with flargo and with FLARE's own Kubernetes launcher, from the audit log.

Both launchers run the same job (a server, two sites, about 30 s of training) on the same cluster, one after the
other, each with an account of its own. Run it inside the test cluster: ``make bench``.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import stock
from tests.harness import job_folders
from tests.harness.cluster import Cluster
from tests.harness.federation import Federation, Launcher, argo_launcher, kubernetes_launcher
from tests.harness.real_cluster import audit
from tests.harness.real_cluster.target import Target, find

PARTIES = 3
RESULT = Path(__file__).parent / "requests.json"
STOCK_NAMESPACE = "stock"
"""Namespace of the stock launcher, which cannot run under Pod Security "restricted"."""


def main() -> None:
    """Run the job with both launchers, write the figures to RESULT and print the table."""
    target = find()
    if target is None or target.audit_log is None:
        sys.exit("needs the test cluster's audit log: python -m tests.harness.real_cluster up, then exec")
    cluster = Cluster(replace(target, namespace=STOCK_NAMESPACE))
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STOCK_NAMESPACE}}
    cluster.kubectl("apply", "--filename=-", document=namespace)
    with stock.account(cluster) as token:
        kubeconfig = _kubeconfig(cluster, token)
        figures = {
            "flargo": _count(
                target, "flargo", argo_launcher, "flargo-launcher", str(target.launcher_kubeconfig), target.namespace
            ),
            "stock": _count(target, "stock", kubernetes_launcher, stock.ACCOUNT, kubeconfig, STOCK_NAMESPACE),
        }
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Render the figures as a Markdown table, for the terminal and the README."""
    requests = sorted({name for counts in figures.values() for name in counts["requests"]})
    rows = ["| API requests of one job, three processes | flargo | stock launcher |", "|---|---:|---:|"]
    for name in requests:
        ours, theirs = (figures[launcher]["requests"].get(name, 0) for launcher in ("flargo", "stock"))
        rows.append(f"| {name} | {ours} | {theirs} |")
    for label, key in (
        ("all but watches", "total"),
        ("the same for each process", "per process"),
        ("seconds from submit to the end", "seconds"),
    ):
        rows.append(f"| **{label}** | **{figures['flargo'][key]:g}** | **{figures['stock'][key]:g}** |")
    return "\n".join(rows)


def _count(
    target: Target, name: str, create_launcher: Any, account: str, kubeconfig: str, namespace: str
) -> dict[str, Any]:
    """Run the job with one launcher, and count the requests of its account."""
    assert target.audit_log is not None
    root = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir="/tmp"))
    root.chmod(0o755)
    arguments: dict[str, Any] = {"config_file_path": kubeconfig, "namespace": namespace}
    if name == "stock":
        arguments["security_context"] = {"runAsUser": 1000}
    launcher: Launcher = create_launcher(root, **arguments)
    with Federation(root, launcher=launcher) as federation:
        mark, start = audit.mark(target.audit_log), time.monotonic()
        (root / "jobs").mkdir()
        folder = job_folders.fedavg(root / "jobs" / name, image=target.job_image, rounds=3, pause=10)
        job_id = federation.submit(folder)
        status = federation.wait(job_id, 240)
        if status != "FINISHED:COMPLETED":
            sys.exit(f"{name}: the job ended {status}\n{federation.log()[-3000:]}")
        seconds = time.monotonic() - start
        time.sleep(5)  # the requests that follow the end belong to the job, too
        counts = audit.count_by_user(f":{account}", target.audit_log, mark)
    shutil.rmtree(root, ignore_errors=True)
    requests = Counter({f"{verb} {resource}": times for (verb, resource), times in counts.items()})
    total = sum(times for name, times in requests.items() if not name.startswith("watch"))
    return {"requests": dict(requests), "total": total, "per process": total / PARTIES, "seconds": round(seconds)}


def _kubeconfig(cluster: Cluster, token: str) -> str:
    """Write the stock launcher's kubeconfig to a file, and return its path."""
    path = Path(tempfile.mkdtemp(prefix="bench-")) / "kubeconfig"
    path.write_text(json.dumps(stock.kubeconfig_for(cluster, token)))
    return str(path)


if __name__ == "__main__":
    main()
