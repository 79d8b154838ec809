"""``python -m tests.docs.pictures``: run each command on a real federation, and save what the terminal shows in docs/.

The commands run on the test cluster if started inside it (``make pictures``), else on the embedded engine, which
implements too little of Kubernetes for the doctor. Each picture shows a real run. Two things are arranged: jobs are
made to fail and to wait, and `flargo sweep`, which deletes what is an hour overdue, sees a clock two hours ahead.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.text import Text

from flargo.embedded import Embedded
from flargo.flare.request import federation_id
from flargo.status.diagnosis import Stage
from flargo.terms import Label
from flargo.tools.demo import kits
from tests.harness import job_folders, terminal
from tests.harness.cluster import Cluster, eventually
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.federation import ADMIN, Federation, argo_launcher
from tests.harness.paths import DOCS
from tests.harness.real_cluster import sandbox
from tests.harness.real_cluster.target import find
from tests.harness.site import Site, read_token
from tests.harness.variants import altering_proxy

COLUMNS = 80
WIDE_COLUMNS = 120
ALL_LINES = slice(None)
FLARGO, NVFLARE = (str(Path(sys.executable).with_name(name)) for name in ("flargo", "nvflare"))
STATE_SECONDS = 120.0
"""Seconds within which a job must reach the state that a picture shows."""
DEPLOYMENT = {
    "runtime": "k8s",
    "parent": {"docker_image": "registry.example/flare-parent:2.9", "workspace_pvc": "site-1-workspace"},
}
META = {
    "name": "brain-tumour",
    "launcher_spec": {
        "default": {"k8s": {"image": "registry.example/flare-job:2.9", "memory": "8Gi", "num_of_gpus": 1}}
    },
}


class Photographer:
    """Runs commands in a folder, as a person would, and saves pictures of the terminal."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        """Work in a folder, on the cluster of a kubeconfig."""
        self.folder, self.kubeconfig = folder, kubeconfig

    def take(
        self,
        name: str,
        arguments: str,
        visible: slice = ALL_LINES,
        kubeconfig: Path | None = None,
        columns: int = COLUMNS,
    ) -> None:
        """Run ``flargo`` with these arguments, and save the visible lines as ``docs/commands/NAME.svg``."""
        argv = [FLARGO, *arguments.split()]
        environment = {"KUBECONFIG": str(kubeconfig or self.kubeconfig)}
        _, output = terminal.run_in_terminal(argv, columns, environment, self.folder)
        lines = terminal.render_screen(output.rstrip())
        first, last, _ = visible.indices(len(lines))
        gap = Text("…", "dim")
        lines = [*([gap] if first else []), *lines[visible], *([gap] if last < len(lines) else [])]
        prompt = Text(f"$ flargo {arguments}", "bold")
        title = f"flargo {arguments.split(maxsplit=1)[0]}"
        terminal.save_picture(f"commands/{name}", title, columns, [prompt, *lines])
        print(f"{name}:\n{output}")


@contextlib.contextmanager
def find_cluster(folder: Path) -> Iterator[Cluster]:
    """Yield the cluster that this runs in or that the environment names; else a new embedded engine."""
    target = find()
    # As in the tests: use the harness's cluster only from inside it, where its addresses are valid.
    if target is not None and (target.is_external or os.environ.get(sandbox.INSIDE)):
        yield Cluster(target)
        return
    with Embedded(namespace="flare") as embedded:
        yield EmbeddedCluster(embedded, folder)


def take_kit_pictures(photographer: Photographer, cluster: Cluster) -> None:
    """Take the pictures of the commands that need only a kit, and of the doctor, which needs a cluster too."""
    folder = photographer.folder
    kit = kits.make(kits.Project("lab", ["site-1"], ADMIN, cluster.target.address, 8002), folder / "kits") / "site-1"
    (folder / "k8s.yaml").write_text(yaml.safe_dump({**DEPLOYMENT, "namespace": cluster.target.namespace}))
    argv = [NVFLARE, "deploy", "prepare", str(kit), "--output", "site-1", "--config", "k8s.yaml"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    (folder / "brain-tumour").mkdir()
    (folder / "brain-tumour/meta.json").write_text(json.dumps(META))
    photographer.take("prepare", "prepare site-1 --dry-run", slice(36))
    # The accounts of deploy/ exist in the cluster; those of the kit's chart would come with the chart.
    settings = {"service_account": "flargo-job", "executor_service_account": "flargo-executor", "queued": "86400"}
    settings |= {"semaphore": "{name: flargo-queue, key: jobs}"}
    argv = [FLARGO, "prepare", "site-1", *(f"--argo={key}={value}" for key, value in settings.items())]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    photographer.take("render", "render brain-tumour --kit site-1", slice(28))
    if not isinstance(cluster, EmbeddedCluster):
        photographer.take(
            "doctor", "doctor --kit site-1 --account flargo-launcher", kubeconfig=cluster.target.kubeconfig
        )


def take_job_pictures(photographer: Photographer, cluster: Cluster, fed: Federation) -> None:
    """Take pictures of jobs: one completes, one fails, one waits, and one runs and is terminated."""
    image, folder = cluster.target.job_image, fed.root / "jobs"
    folder.mkdir()
    fed.wait(fed.submit(job_folders.fedavg(folder / "fedavg", image=image, rounds=2)))
    memory = {"site-2": {"memory": "400Mi"}}
    code = {"site-2": job_folders.allocate(800)}
    failure = fed.submit(job_folders.script(folder / "too-large", image=image, code=code, launcher_spec_extra=memory))
    fed.wait(failure)
    photographer.take("why", f"why {failure[:8]} --site site-2")
    gpus = {"site-1": {"num_of_gpus": 8, "pending_timeout": 3600}}
    pending_job = fed.submit(job_folders.fedavg(folder / "eight-gpus", image=image, launcher_spec_extra=gpus))
    running_job = fed.submit(job_folders.fedavg(folder / "long", image=image, rounds=1000, pause=1.0))
    eventually(
        lambda: "flargo: trained round 1" in site_log(cluster, running_job, "site-1"), STATE_SECONDS, "a job trains"
    )
    eventually(
        lambda: has_stage(photographer, pending_job, "site-1", Stage.SHORTAGE), STATE_SECONDS, "a job waits for GPUs"
    )
    photographer.take("jobs", "jobs")
    photographer.take("jobs-wide", "jobs -o wide", columns=WIDE_COLUMNS)
    photographer.take("logs", f"logs {running_job[:8]} --site site-1", slice(-9, None))
    photographer.take("terminate", f"terminate {running_job[:8]}")
    fed.wait(running_job)
    fed.abort(pending_job)
    fed.wait(pending_job)


def site_log(cluster: Cluster, job: str, site: str) -> str:
    """Return the log of a job's program at a site."""
    pods = cluster.items("pods", f"flargo.dev/job-id={job},flargo.dev/site={site}")
    return "".join(map(cluster.log, pods))


def has_stage(photographer: Photographer, job: str, site: str, stage: Stage) -> bool:
    """Return whether `flargo jobs` shows a job at a stage."""
    argv = [FLARGO, "jobs", "--json", "--site", site, "--kubeconfig", str(photographer.kubeconfig)]
    rows = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return any((row["job"], row["state"]) == (job, stage.label) for row in rows)


def take_sweep_picture(photographer: Photographer, cluster: Cluster) -> None:
    """Take the picture of `flargo sweep`, two hours after a parent was killed in the middle of a launch."""
    with Site(cluster) as site:
        site.leave_unreleased_workflow()
        token, later = read_token(photographer.kubeconfig), photographer.folder / "later"
        with altering_proxy(photographer.kubeconfig, later, token, seconds=7200) as kubeconfig:
            photographer.take("sweep", f"sweep --dry-run -n {cluster.target.namespace}", kubeconfig=kubeconfig)


def main() -> None:
    """Take the pictures of all commands on one cluster."""
    folder = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    folder.chmod(0o755)  # jobs are run by another user
    (DOCS / "commands").mkdir(exist_ok=True)
    try:
        with find_cluster(folder) as cluster:
            target = cluster.target
            photographer = Photographer(folder, target.launcher_kubeconfig)
            take_kit_pictures(photographer, cluster)
            take_sweep_picture(photographer, cluster)
            arguments = {"config_file_path": str(target.launcher_kubeconfig), "namespace": target.namespace}
            launcher = argo_launcher(folder / "fed", **arguments)
            with Federation(folder / "fed", launcher=launcher, host=target.address) as fed:
                try:
                    take_job_pictures(photographer, cluster, fed)
                finally:
                    # The next run's pictures must not show these jobs.
                    cluster.delete_by_label(f"{Label.FEDERATION}={federation_id(fed.workspace() / 'startup')}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
