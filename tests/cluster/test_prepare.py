"""Tests of a federation whose provisioned kits are configured by `flargo prepare` alone."""

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flargo.tools.demo import kits
from flargo.tools.demo.kits import SERVER
from tests.harness import job_folders
from tests.harness.cluster import Cluster, eventually, program_times
from tests.harness.federation import Federation
from tests.harness.federation_checks import SETTLE_SECONDS
from tests.harness.real_cluster.target import Target
from tests.harness.site import TURN_SECONDS

MAX_JOBS = 2
"""The number of jobs that the server may run at once."""
COMPLETED = "FINISHED:COMPLETED"


class PreparedFederation(Federation):
    """A federation whose parents are configured by the command that a site runs."""

    target: Target

    def _configure(self, name: str) -> None:
        root = self.workspace(name)
        # Here, parents are processes on the sandbox's bridge with ports of their own, not pods behind a Service.
        (root / "local" / "comm_config.json").write_text(json.dumps(kits.comm_config(self.host, self._ports.take())))
        options = {"--namespace": self.target.namespace, "--workspace": str(root)}
        options |= {"--config-file": str(self.target.launcher_kubeconfig)}
        command = [str(Path(sys.executable).with_name("flargo")), "prepare", str(root)]
        command += [argument for option in options.items() for argument in option]
        subprocess.run([*command, *(("--max-jobs", str(MAX_JOBS)) if name == SERVER else ())], check=True)
        if name == SERVER:
            # Here, the server's process and its job's process run as different users.
            kits.make_stores(root)


@pytest.fixture(scope="module")
def fed(target: Target) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    federation = PreparedFederation(root, sites=("site-1",), host=target.address)
    federation.target = target
    with federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)


def test_six_jobs_run_two_at_a_time(fed: Federation, target: Target) -> None:
    """All six jobs complete: none fails because it has to wait."""
    cluster = Cluster(target)
    folder = fed.root / "jobs"
    folder.mkdir()
    # Long rounds make jobs overlap if they may: FLARE starts the next job several seconds after the previous one.
    options: dict[str, Any] = {"image": target.job_image, "sites": fed.sites, "rounds": 2, "pause": 4}
    jobs = [fed.submit(job_folders.fedavg(folder / f"job-{number}", **options)) for number in range(6)]
    phases = dict.fromkeys(fed.names, "Succeeded")
    times = []
    for job in jobs:
        assert fed.wait(job, TURN_SECONDS * len(jobs)) == COMPLETED, fed.log("server")[-10_000:]
        eventually(partial(has_phases, cluster, job, phases), SETTLE_SECONDS, "a Workflow Succeeded for each party")
        # A job's time is that of the server's program, which starts first and whose end FLARE waits for.
        (pod,) = cluster.items("pods", f"flargo.dev/job-id={job},flargo.dev/site={SERVER}")
        times.append(program_times(pod))
    assert any(overlap(pair) for pair in itertools.combinations(times, MAX_JOBS)), f"{MAX_JOBS} never ran at once"
    assert not any(overlap(more) for more in itertools.combinations(times, MAX_JOBS + 1)), f"more than {MAX_JOBS} did"


def overlap(times: Sequence[tuple[datetime, datetime]]) -> bool:
    """Return whether all of these ran at the same moment; the node reports whole seconds."""
    return max(start for start, _ in times) < min(end for _, end in times)


def has_phases(cluster: Cluster, job_id: str, phases: dict[str, str]) -> bool:
    """Return whether a job's Workflows are in these phases, by site."""
    return {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()} == phases
