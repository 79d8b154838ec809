"""A federation whose kits are `nvflare provision`'s, made ready by `flargo prepare` and nothing else."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from flargo.demo import kits
from flargo.demo.kits import SERVER
from tests.cluster import jobs
from tests.cluster.federation import Federation
from tests.cluster.place import Place
from tests.cluster.test_federation import SETTLED
from tests.cluster.world import World, eventually


class Prepared(Federation):
    """Its parents are configured by the command that a site runs."""

    place: Place

    def _configure(self, name: str) -> None:
        root = self.workspace(name)
        # Parents are processes on the sandbox's bridge here, with ports of their own, and not pods behind a Service.
        (root / "local" / "comm_config.json").write_text(json.dumps(kits.listener(self.host, self._ports.take())))
        options = {"--namespace": self.place.namespace, "--workspace": str(root)}
        options |= {"--config-file": str(self.place.launcher_kubeconfig)}
        command = [str(Path(sys.executable).with_name("flargo")), "prepare", str(root)]
        command += [word for option in options.items() for word in option]
        subprocess.run([*command, *(("--max-jobs", "1") if name == SERVER else ())], check=True)
        if name == SERVER:
            # Its process and its job's run as different users here.
            for folder in ("snapshot-storage", "jobs-storage"):
                (root / folder).mkdir()
                (root / folder).chmod(0o777)


@pytest.fixture(scope="module")
def fed(place: Place) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    prepared = Prepared(root, sites=("site-1",), host=place.address)
    prepared.place = place
    with prepared as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


def test_two_jobs_run_as_workflows_one_after_the_other(fed: Federation, place: Place) -> None:
    world = World(place)
    folder = fed.root / "jobs"
    folder.mkdir()
    first, second = (
        fed.submit(jobs.fedavg(folder / name, image=place.job_image, sites=fed.sites, rounds=1))
        for name in ("first", "second")
    )
    fed.wait_status(first, "RUNNING")
    # The second is looked at first: if the first still runs after that, it ran then.
    while (waiting := fed.status(second)) and not fed.status(first).startswith("FINISHED:"):
        assert waiting == "SUBMITTED", "the server's bound is one"
        time.sleep(1)
    assert fed.status(first) == "FINISHED:COMPLETED", fed.log("server")[-3000:]
    assert fed.wait(second) == "FINISHED:COMPLETED", "it waited and was not given up"
    succeeded = dict.fromkeys(fed.names, "Succeeded")
    for job in (first, second):
        eventually(partial(has_phases, world, job, succeeded), SETTLED, "a Workflow Succeeded for each party")


def has_phases(world: World, job_id: str, phases: dict[str, str]) -> bool:
    """Whether a job's Workflows are in these phases, by site."""
    return {site: item["status"]["phase"] for site, item in world.workflows(job_id).items()} == phases
