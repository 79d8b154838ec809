"""Tests of a real FLARE federation without a cluster: parents and jobs are processes of this machine."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flargo.terms import Annotation
from tests.harness import job_folders
from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import IMAGE, EmbeddedCluster
from tests.harness.federation import Federation, argo_launcher
from tests.harness.federation_checks import (
    assert_flare_status_is_noted,
    assert_not_started,
    assert_progress_is_noted,
    eventually_noted,
    submit_raising_job,
)

JOB_SECONDS, CLEANUP_SECONDS = 90.0, 15.0


@pytest.fixture(scope="module")
def fed(cluster: EmbeddedCluster) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    target = cluster.target
    launcher = argo_launcher(root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace)
    with Federation(root, launcher=launcher, host=target.address) as federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)


def test_fedavg_has_the_expected_weights(fed: Federation, cluster: EmbeddedCluster) -> None:
    """The job leaves no credentials in the cluster."""
    path = fed.root / "jobs" / "fedavg"
    path.parent.mkdir()
    job_id = fed.submit(job_folders.fedavg(path, image=IMAGE))
    assert fed.wait(job_id, JOB_SECONDS) == "FINISHED:COMPLETED"
    np.testing.assert_allclose(fed.weights(job_id), job_folders.fedavg_expected(), rtol=1e-6)
    assert set(cluster.workflows(job_id)) == set(fed.names)
    # The job ends with the server's process; the clients' may end a moment later.
    eventually(lambda: cluster.secrets("nvflare-cred-") == [], CLEANUP_SECONDS, "no credentials are left")
    assert_progress_is_noted(cluster, job_id, "3/3")
    notes = eventually_noted(cluster, job_id)
    assert (notes[Annotation.FLARE_STATUS], Annotation.FLARE_ERROR in notes) == ("FINISHED:COMPLETED", False)


def test_flare_status_of_a_script_that_raises(fed: Federation, cluster: EmbeddedCluster) -> None:
    """FLARE's processes exit with 0, so the Workflows succeed."""
    job_id = submit_raising_job(fed, fed.root / "jobs" / "raises", IMAGE)
    assert_flare_status_is_noted(fed, cluster, job_id)


def test_unschedulable_server_job_starts_no_client(fed: Federation, cluster: EmbeddedCluster) -> None:
    extra = {"server": {"cpu": "1000", "pending_timeout": 3}}
    job_id = fed.submit(job_folders.fedavg(fed.root / "jobs" / "unplaced", image=IMAGE, launcher_spec_extra=extra))
    assert_not_started(fed, cluster, job_id)


def test_flare_status_of_an_aborted_job(fed: Federation, cluster: EmbeddedCluster) -> None:
    """FLARE fires two events at the end of such a job."""
    job_id = fed.submit(job_folders.fedavg(fed.root / "jobs" / "aborted", image=IMAGE, pause=60))
    eventually(lambda: set(cluster.workflows(job_id)) == set(fed.names), JOB_SECONDS, "all parties run")
    fed.wait_status(job_id, "RUNNING")
    fed.abort(job_id)
    assert fed.wait(job_id, JOB_SECONDS) == "FINISHED:ABORTED"
    assert eventually_noted(cluster, job_id)[Annotation.FLARE_STATUS] == "FINISHED:ABORTED"
