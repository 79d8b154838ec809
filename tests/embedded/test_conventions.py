"""The conventions of kubectl that the commands follow, on the embedded engine's API server."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flargo.terms import MANAGER, Annotation, Label
from tests.harness import terminal
from tests.harness.cluster import eventually
from tests.harness.command_line import run
from tests.harness.embedded_cluster import ARGO, EmbeddedCluster
from tests.harness.paths import ROOT
from tests.harness.python_workflow import workflow

FLARGO = [sys.executable, "-c", "import sys; sys.argv[0] = 'flargo'; from flargo.tools.cli.main import main; main()"]
OTHER = "elsewhere"
"""A namespace besides the kubeconfig's."""


def job(name: str, site: str, *code: str, suspend: bool = True, **labels: str) -> dict[str, Any]:
    """Return the Workflow of a job at a site, as far as the commands read it."""
    item = workflow(name, *code, suspend=suspend)
    own = {Label.MANAGED_BY: MANAGER, Label.JOB_ID: f"id-{name}", Label.SITE: site, Label.ROLE: "client"}
    item["metadata"] |= {"labels": own | labels, "annotations": {Annotation.RELEASED: "true"}}
    item["spec"]["templates"][0]["metadata"] = {"labels": own}
    return item


@contextmanager
def jobs_in(cluster: EmbeddedCluster, namespace: str, *items: dict[str, Any]) -> Iterator[None]:
    """Create Workflows in a namespace, and delete them again."""
    folder = f"{ARGO}/namespaces/{namespace}/workflows"
    for item in items:
        cluster.request("POST", folder, item)
    try:
        yield
    finally:
        for item in items:
            cluster.request("DELETE", f"{folder}/{item['metadata']['name']}")


def flargo(cluster: EmbeddedCluster, *arguments: str) -> tuple[int, str, str]:
    result = run(*arguments, "--kubeconfig", str(cluster.target.kubeconfig))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def two_namespaces(cluster: EmbeddedCluster) -> Iterator[str]:
    """Jobs of three sites in the kubeconfig's namespace, which is returned, and another job elsewhere."""
    here = [job("a", "site-1", team="heart"), job("b", "site-2", team="lung"), job("c", "site-3")]
    namespace = cluster.target.namespace
    with jobs_in(cluster, namespace, *here), jobs_in(cluster, OTHER, job("d", "site-1")):
        yield namespace


def names(cluster: EmbeddedCluster, *options: str) -> list[str]:
    _, stdout, _ = flargo(cluster, "jobs", "-o", "name", *options)
    return sorted(line.rpartition("/")[2] for line in stdout.splitlines())


def test_all_namespaces(cluster: EmbeddedCluster, two_namespaces: str) -> None:
    assert names(cluster) == ["a", "b", "c"]
    assert names(cluster, "-A") == names(cluster, "--all-namespaces", "-n", "ignored") == ["a", "b", "c", "d"]
    assert names(cluster, "-A", "--site", "site-1") == ["a", "d"]
    code, stdout, _ = flargo(cluster, "jobs", "-A")
    head, *lines = stdout.splitlines()
    assert (code, head.split()[0]) == (0, "NAMESPACE")
    assert {(line.split()[0], line.split()[1]) for line in lines} == {
        *((two_namespaces, f"id-{name}") for name in "abc"),
        (OTHER, "id-d"),
    }
    rows = json.loads(flargo(cluster, "jobs", "-A", "--json")[1])
    assert {row["job"]: row["namespace"] for row in rows}["id-d"] == OTHER


def test_a_job_elsewhere_is_confirmed_in_its_namespace(cluster: EmbeddedCluster) -> None:
    """A job whose end is not certain is read again, and so are the events of a pod that starts."""
    with jobs_in(cluster, OTHER, job("failing", "site-1", "raise SystemExit(3)", suspend=False)):
        eventually(
            lambda: [row["exit_code"] for row in json.loads(flargo(cluster, "jobs", "-A", "--json")[1])] == [3],
            20,
            "the exit is shown",
        )
        assert names(cluster) == []


def states(cluster: EmbeddedCluster, *options: str) -> list[str]:
    return [row["state"] for row in json.loads(flargo(cluster, "jobs", "--json", *options)[1])]


@pytest.mark.usefixtures("two_namespaces")
def test_selector_narrows_down(cluster: EmbeddedCluster) -> None:
    """The labels are on the Workflows only, and the jobs' pods have no such labels."""
    assert names(cluster, "-l", "team=heart") == ["a"]
    assert names(cluster, "--selector=team in (heart, lung),team!=lung") == ["a"]
    assert names(cluster, "-l", "!team", "--site", "site-3") == ["c"]
    code, _, stderr = flargo(cluster, "jobs", "-l", "team=")
    assert (code, stderr) == (0, f"No jobs with labels team= in namespace {cluster.target.namespace} (3 others).\n")


def test_selector_finds_the_pods_too(cluster: EmbeddedCluster) -> None:
    code = ("import time", "time.sleep(60)")
    item = job("running", "site-1", *code, suspend=False, team="heart")
    with jobs_in(cluster, cluster.target.namespace, item):
        eventually(lambda: states(cluster) == ["RUNNING"], 20, "the program runs")
        assert states(cluster, "-l", "team=heart") == ["RUNNING"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--site", "nowhere"), "No jobs of site nowhere in namespace {} (3 others)."),
        (("--federation", "f"), "No jobs of federation f in namespace {} (3 others)."),
        (("-A", "--site", "nowhere"), "No jobs of site nowhere in any namespace (4 others)."),
        (("-n", "empty", "--site", "nowhere"), "No jobs of site nowhere in namespace empty."),
        (("-n", "empty"), "No jobs in namespace empty."),
        (("-n", OTHER, "-l", "a=b"), f"No jobs with labels a=b in namespace {OTHER} (1 other)."),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_no_jobs_says_where_and_how_many_others(
    cluster: EmbeddedCluster, two_namespaces: str, options: tuple[str, ...], message: str
) -> None:
    assert flargo(cluster, "jobs", *options) == (0, "", message.format(two_namespaces) + "\n")


@pytest.mark.parametrize(
    ("term", "begins"),
    [("xterm-256color", "JOB +NAME"), ("dumb", r"\d\d:\d\d:\d\d  id-a  site-1  HELD")],
    ids=["capable", "dumb"],
)
def test_watch_draws_only_where_it_can(cluster: EmbeddedCluster, term: str, begins: str) -> None:
    """A dumb terminal cannot go back to lines that were written: it gets a line for each change, as a file does."""
    with jobs_in(cluster, cluster.target.namespace, job("a", "site-1")):
        watch = ["jobs", "--watch", "--kubeconfig", str(cluster.target.kubeconfig)]
        argv = ["timeout", "--foreground", "--signal=INT", "6", *FLARGO, *watch]
        _, output = terminal.run_in_terminal(argv, 80, {"TERM": term, "PYTHONPATH": str(ROOT)})
        lines = [line.plain for line in terminal.render_screen(output)]
    assert re.match(begins, lines[0]), output
    assert ("\x1b" in output) is (term != "dumb")


# Logs


def log(cluster: EmbeddedCluster, *options: str) -> list[str]:
    return flargo(cluster, "logs", "id-writes", *options)[1].splitlines()


def test_tail_counts_the_programs_lines(cluster: EmbeddedCluster) -> None:
    """Those of Argo's executor, which are removed, do not count."""
    code = ("import time", "for n in range(40): print('line', n)", "time.sleep(3)", "print('end')")
    with jobs_in(cluster, cluster.target.namespace, job("writes", "site-1", *code, suspend=False)):
        eventually(lambda: len(log(cluster)) == 40, 20, "the program has written")
        assert log(cluster, "--tail", "2") == ["line 38", "line 39"]
        assert log(cluster, "--tail=0") == []
        assert log(cluster, "--tail", "1", "-f") == ["line 39", "end"]
        assert log(cluster, "--tail", "2") == ["line 39", "end"]
        assert log(cluster, "--tail", "2", "-f") == ["line 39", "end"]
        assert len(log(cluster, "--tail", "1000")) == len(log(cluster, "--tail", "-1")) == 41


def test_since_leaves_older_lines_out(cluster: EmbeddedCluster) -> None:
    code = ("import time", "print('old')", "time.sleep(4)", "print('new')", "time.sleep(30)")
    with jobs_in(cluster, cluster.target.namespace, job("writes", "site-1", *code, suspend=False)):
        eventually(lambda: log(cluster) == ["old"], 20, "the first line is read, and so has its time")
        eventually(lambda: log(cluster) == ["old", "new"], 20, "the second line is there")
        assert log(cluster, "--since", "1h") == ["old", "new"]
        assert log(cluster, "--since", "2s") == ["new"]
        time.sleep(2.5)
        assert log(cluster, "--since", "1s") == []
