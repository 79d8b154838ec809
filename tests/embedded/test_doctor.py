"""The doctor on the embedded engine: one line says what the engine does not have, and the rest is checked."""

import json

import pytest

from flargo.tools.doctor.check_table import CHECKS
from flargo.tools.doctor.facts import Facts
from tests.harness.command_line import run
from tests.harness.embedded_cluster import EmbeddedCluster

NEEDS_CLUSTER = {check.name for check in CHECKS if check.needs_cluster}


def test_what_the_engine_lacks_is_one_line(cluster: EmbeddedCluster) -> None:
    result = run("doctor", "--kubeconfig", cluster.target.kubeconfig)
    assert result.exit_code == 0, result.stdout
    (line,) = (each for each in result.stdout.splitlines() if each.startswith("unknown"))
    assert line.split()[1:3] == [str(len(NEEDS_CLUSTER)), "checks"]
    assert "this is flargo's embedded engine" in line
    assert all(name in line for name in NEEDS_CLUSTER)
    assert "0 failure" in result.stdout


def test_the_rest_is_checked(cluster: EmbeddedCluster) -> None:
    document = json.loads(run("doctor", "--json", "--kubeconfig", cluster.target.kubeconfig).stdout)
    levels = {each["check"]: each["level"] for each in document["findings"]}
    expected = {check.name: "unknown" if check.name in NEEDS_CLUSTER else "ok" for check in CHECKS}
    assert levels == expected


def test_no_other_check_fails_on_the_engine(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the rule for the engine, exactly the checks that it excepts fail or find nothing out."""
    monkeypatch.setattr(Facts, "is_embedded", False)
    findings = json.loads(run("doctor", "--json", "--kubeconfig", cluster.target.kubeconfig).stdout)["findings"]
    found = {each["check"] for each in findings if each["level"] != "ok"}
    # The example job has no volume claim, and the check workflow is not run if the check argo fails.
    assert found == NEEDS_CLUSTER - {"volume claims"} | {"workflow"}
