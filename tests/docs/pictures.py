"""``python -m tests.docs.pictures``: use each command on a real federation, and write to docs/ what a terminal shows.

Inside the tests' cluster (``make pictures``), else on the embedded engine, which has too little of Kubernetes for the
doctor. Each picture is of a real run. Two things are not as a site has them: jobs are made to fail and to wait, and
`flargo sweep`, which takes what is an hour overdue, is told a time two hours later.
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

COLUMNS = 100
ALL = slice(None)
FLARGO, NVFLARE = (str(Path(sys.executable).with_name(name)) for name in ("flargo", "nvflare"))
LONG = 120.0
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
    """Who runs commands where a person would, and keeps what the terminal shows."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        """Work in a folder, on the cluster of a kubeconfig."""
        self.folder, self.kubeconfig = folder, kubeconfig

    def take(self, name: str, words: str, shown: slice = ALL, kubeconfig: Path | None = None) -> None:
        """Run ``flargo`` with these words, and write ``docs/commands/NAME.svg`` of the lines that are to be shown."""
        command = [FLARGO, *words.split()]
        environment = {"KUBECONFIG": str(kubeconfig or self.kubeconfig)}
        _, said = terminal.run_in_terminal(command, COLUMNS, environment, self.folder)
        lines = terminal.render_screen(said.rstrip())
        first, last, _ = shown.indices(len(lines))
        gap = Text("…", "dim")
        lines = [*([gap] if first else []), *lines[shown], *([gap] if last < len(lines) else [])]
        prompt = Text(f"$ flargo {words}", "bold")
        terminal.save_picture(f"commands/{name}", f"flargo {words.split(maxsplit=1)[0]}", COLUMNS, [prompt, *lines])
        print(f"{name}:\n{said}")


@contextlib.contextmanager
def somewhere(folder: Path) -> Iterator[Cluster]:
    """The cluster that this runs in, or that the environment names; else an engine of one's own."""
    target = find()
    # As the tests do: a cluster of this harness only from inside of it, where its addresses are its own.
    if target is not None and (target.own or os.environ.get(sandbox.INSIDE)):
        yield Cluster(target)
        return
    with Embedded(namespace="flare") as embedded:
        yield EmbeddedCluster(embedded, folder)


def of_kits(photographer: Photographer, cluster: Cluster) -> None:
    """What needs no cluster, and then the doctor, who does."""
    folder = photographer.folder
    made = kits.make(kits.Project("lab", ["site-1"], ADMIN, cluster.target.address, 8002), folder / "made") / "site-1"
    (folder / "k8s.yaml").write_text(yaml.safe_dump({**DEPLOYMENT, "namespace": cluster.target.namespace}))
    words = [NVFLARE, "deploy", "prepare", str(made), "--output", "site-1", "--config", "k8s.yaml"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    (folder / "brain-tumour").mkdir()
    (folder / "brain-tumour/meta.json").write_text(json.dumps(META))
    photographer.take("prepare", "prepare site-1 --dry-run", slice(36))
    # With deploy/'s accounts, which are there; those of the kit's chart come with the chart.
    settings = {"service_account": "flargo-job", "executor_service_account": "flargo-executor", "queued": "86400"}
    settings |= {"semaphore": "{name: flargo-queue, key: jobs}"}
    words = [FLARGO, "prepare", "site-1", *(f"--argo={key}={value}" for key, value in settings.items())]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    photographer.take("render", "render brain-tumour --kit site-1", slice(28))
    if not isinstance(cluster, EmbeddedCluster):
        photographer.take(
            "doctor", "doctor --kit site-1 --account flargo-launcher", kubeconfig=cluster.target.kubeconfig
        )


def of_jobs(photographer: Photographer, cluster: Cluster, fed: Federation) -> None:
    """What is seen of jobs: one that completes, one that fails, one that waits, one that runs and is ended."""
    image, folder = cluster.target.job_image, fed.root / "jobs"
    folder.mkdir()
    done = fed.submit(job_folders.fedavg(folder / "fedavg", image=image, rounds=2))
    fed.wait(done)
    memory = {"site-2": {"memory": "400Mi"}}
    code = {"site-2": job_folders.allocate(800)}
    failed = fed.submit(job_folders.script(folder / "too-large", image=image, code=code, launcher_spec_extra=memory))
    fed.wait(failed)
    photographer.take("why", f"why {failed[:8]} --site site-2")
    gpus = {"site-1": {"num_of_gpus": 8, "pending_timeout": 3600}}
    waits = fed.submit(job_folders.fedavg(folder / "eight-gpus", image=image, launcher_spec_extra=gpus))
    runs = fed.submit(job_folders.fedavg(folder / "long", image=image, rounds=1000, pause=1.0))
    eventually(lambda: "flargo: trained round 1" in said_at(cluster, runs, "site-1"), LONG, "it trains")
    eventually(lambda: shows(photographer, waits, "site-1", Stage.SHORTAGE), LONG, "it waits")
    photographer.take("jobs", "jobs")
    photographer.take("logs", f"logs {runs[:8]} --site site-1", slice(-9, None))
    photographer.take("terminate", f"terminate {runs[:8]}")
    fed.wait(runs)
    fed.abort(waits)
    fed.wait(waits)


def said_at(cluster: Cluster, job: str, site: str) -> str:
    """What a job's program has said at a site."""
    pods = cluster.items("pods", f"flargo.dev/job-id={job},flargo.dev/site={site}")
    return "".join(map(cluster.log, pods))


def shows(photographer: Photographer, job: str, site: str, stage: Stage) -> bool:
    """Whether `flargo jobs` says that it is so far."""
    words = [FLARGO, "jobs", "--json", "--site", site, "--kubeconfig", str(photographer.kubeconfig)]
    rows = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return any((row["job"], row["state"]) == (job, stage.label) for row in rows)


def of_what_is_left(photographer: Photographer, cluster: Cluster) -> None:
    """A launch that its parent never finished, found two hours later."""
    with Site(cluster) as gone:
        gone.leave_unreleased_workflow()
        token, later = read_token(photographer.kubeconfig), photographer.folder / "later"
        with altering_proxy(photographer.kubeconfig, later, token, seconds=7200) as kubeconfig:
            photographer.take("sweep", f"sweep --dry-run -n {cluster.target.namespace}", kubeconfig=kubeconfig)


def main() -> None:
    """Take all pictures."""
    folder = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    folder.chmod(0o755)  # jobs are run by another user
    (DOCS / "commands").mkdir(exist_ok=True)
    try:
        with somewhere(folder) as cluster:
            target = cluster.target
            photographer = Photographer(folder, target.launcher_kubeconfig)
            of_kits(photographer, cluster)
            of_what_is_left(photographer, cluster)
            arguments = {"config_file_path": str(target.launcher_kubeconfig), "namespace": target.namespace}
            launcher = argo_launcher(folder / "fed", **arguments)
            with Federation(folder / "fed", launcher=launcher, host=target.address) as fed:
                try:
                    of_jobs(photographer, cluster, fed)
                finally:
                    # The next pictures are not to show them.
                    cluster.delete_by_label(f"{Label.FEDERATION}={federation_id(fed.workspace() / 'startup')}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
