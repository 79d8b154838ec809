"""A federation whose kits are `nvflare provision`'s, made ready by `flargo prepare` and nothing else."""

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

BOUND = 2
"""How many jobs the server is told to run at once."""
COMPLETED = "FINISHED:COMPLETED"


class Prepared(Federation):
    """Its parents are configured by the command that a site runs."""

    target: Target

    def _configure(self, name: str) -> None:
        root = self.workspace(name)
        # Parents are processes on the sandbox's bridge here, with ports of their own, and not pods behind a Service.
        (root / "local" / "comm_config.json").write_text(json.dumps(kits.comm_config(self.host, self._ports.take())))
        options = {"--namespace": self.target.namespace, "--workspace": str(root)}
        options |= {"--config-file": str(self.target.launcher_kubeconfig)}
        command = [str(Path(sys.executable).with_name("flargo")), "prepare", str(root)]
        command += [word for option in options.items() for word in option]
        subprocess.run([*command, *(("--max-jobs", str(BOUND)) if name == SERVER else ())], check=True)
        if name == SERVER:
            # The server's process and its job's process run as different users here.
            kits.make_stores(root)


@pytest.fixture(scope="module")
def fed(target: Target) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    prepared = Prepared(root, sites=("site-1",), host=target.address)
    prepared.target = target
    with prepared as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


def test_six_jobs_run_two_at_a_time_and_none_is_given_up_for_waiting(fed: Federation, target: Target) -> None:
    cluster = Cluster(target)
    folder = fed.root / "jobs"
    folder.mkdir()
    # Rounds that last make jobs overlap if they may: FLARE starts the next one several seconds after the one before.
    job_of: dict[str, Any] = {"image": target.job_image, "sites": fed.sites, "rounds": 2, "pause": 4}
    submitted = [fed.submit(job_folders.fedavg(folder / f"job-{number}", **job_of)) for number in range(6)]
    succeeded = dict.fromkeys(fed.names, "Succeeded")
    times = []
    for job in submitted:
        assert fed.wait(job, TURN_SECONDS * len(submitted)) == COMPLETED, fed.log("server")[-10_000:]
        eventually(partial(has_phases, cluster, job, succeeded), SETTLE_SECONDS, "a Workflow Succeeded for each party")
        # By the server's part, which begins first and whose end FLARE waits for.
        (pod,) = cluster.items("pods", f"flargo.dev/job-id={job},flargo.dev/site={SERVER}")
        times.append(program_times(pod))
    assert any(at_once(pair) for pair in itertools.combinations(times, BOUND)), f"{BOUND} never ran at once"
    assert not any(at_once(more) for more in itertools.combinations(times, BOUND + 1)), f"more than {BOUND} did"


def at_once(times: Sequence[tuple[datetime, datetime]]) -> bool:
    """Whether there was a moment at which all of these ran; the node tells whole seconds."""
    return max(begun for begun, _ in times) < min(ended for _, ended in times)


def has_phases(cluster: Cluster, job_id: str, phases: dict[str, str]) -> bool:
    """Whether a job's Workflows are in these phases, by site."""
    return {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()} == phases
