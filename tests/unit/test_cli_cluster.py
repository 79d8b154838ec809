"""The commands that look at a cluster, where there is none, or one that has something against them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flargo.cluster import client_config
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.status.diagnosis import Stage
from flargo.terms import Object
from flargo.tools.cli import cluster_options, jobs, sweep, terminate
from flargo.tools.jobs.reader import ClusterReader
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import site_jobs
from tests.harness.command_line import kubeconfig, run
from tests.harness.fake_api import Cluster
from tests.harness.objects import OVER, RUNNING, ended, job, pod

COMMANDS = [("jobs",), ("jobs", "--watch"), ("why", "x"), ("logs", "x"), ("terminate", "x"), ("sweep",)]
SECRET = "nvflare-cred-job-site-a1"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_without_a_kubeconfig_a_person_is_told_what_to_name(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: no cluster: there is no ~/.kube/config; name a kubeconfig with --kubeconfig or KUBECONFIG\n"
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_cluster_that_does_not_answer_is_told_in_a_line(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words, "--kubeconfig", kubeconfig(tmp_path / "config"))
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "the cluster can't be reached" in done.stderr
    assert "127.0.0.1" in done.stderr
    assert "t0psecret" not in done.stderr
    told = json.loads(run(*words, "--json", "--kubeconfig", kubeconfig(tmp_path / "config")).stdout)
    assert "can't be reached" in told["error"]["message"]


@pytest.mark.parametrize("text", ["", "- 1", "a: {", "apiVersion: v1\nkind: Config\n", "current-context: x"])
def test_a_kubeconfig_that_is_none_is_told_of(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    done = run("jobs", "--kubeconfig", str(tmp_path / "config"))
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert f"the kubeconfig {tmp_path / 'config'} can't be used" in done.stderr


def test_a_wrong_option_is_wrong_usage(tmp_path: Path) -> None:
    there = kubeconfig(tmp_path / "config")
    assert run("jobs", "--kubeconfig", str(tmp_path / "not-there")).exit_code == 2
    done = run("jobs", "--kubeconfig", there, "--context", "three")
    assert done.exit_code == 2
    assert "one, two" in done.stderr
    for age in ("30", "59m", "0h", "d", "-1d", "1.5h", "9" * 30 + "d"):
        assert run("sweep", "--kubeconfig", there, "--older-than", age).exit_code == 2, age


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--site", "", "non-empty string"),
        ("--site", "a\u202eb", "without control characters"),
        ("--namespace", "", "a Kubernetes name"),
        ("--namespace", "my namespace", "a Kubernetes name"),
        ("-n", "a/../b", "a Kubernetes name"),
    ],
)
def test_a_word_that_can_name_nothing_is_refused_before_anything_is_asked(
    words: tuple[str, ...], option: str, value: str, allowed: str, tmp_path: Path
) -> None:
    """An empty --site is a variable of a script that is not set, and no wish for all sites."""
    done = run(*words, "--kubeconfig", kubeconfig(tmp_path / "config"), option, value)
    assert (done.exit_code, done.stdout) == (2, "")
    assert option in done.stderr
    assert f"{value!r} is not" in done.stderr
    assert allowed in done.stderr


def test_an_empty_federation_is_not_all_of_them(tmp_path: Path) -> None:
    for command in ("jobs", "sweep"):
        done = run(command, "--kubeconfig", kubeconfig(tmp_path / "config"), "--federation", "")
        assert done.exit_code == 2
        assert "--federation" in done.stderr


def test_the_cluster_and_the_namespace_are_kubectls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def where(*said: str | None) -> tuple[str, str]:
        api = cluster_options.api_for(*said)
        return api._load().host, api.namespace

    first = kubeconfig(tmp_path / "first", "https://first:1", namespace="flare")
    assert where(first, None, None) == ("https://first:1", "flare")
    assert where(first, None, "other") == ("https://first:1", "other")
    assert where(first, "two", None) == ("https://first:1", "default")
    (tmp_path / ".kube").mkdir()
    kubeconfig(tmp_path / ".kube/config", "https://usual:1")
    assert where(None, None, None) == ("https://usual:1", "default")
    monkeypatch.setenv("KUBECONFIG", first)
    assert where(None, None, None) == ("https://first:1", "flare")


def test_in_a_pod_it_is_the_pods_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    (tmp_path / "namespace").write_text("flare\n")
    monkeypatch.setattr(client_config, "IN_CLUSTER_NAMESPACE", tmp_path / "namespace")
    assert cluster_options.api_for(None, None, None).namespace == "flare"
    assert run("jobs", "--context", "x").exit_code == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiError("list", "workflows a=b", 403, "Forbidden", "no"), "right to list workflows.argoproj.io"),
        (ApiError("log", "pods x", 403, "Forbidden", "no"), "right to get pods/log"),
        (ApiError("patch", "workflows x", 403, "Forbidden", "no"), "right to patch workflows.argoproj.io"),
        (ApiError("get", "secrets x", 403, "Forbidden", "no"), "right to get secrets"),
        (ApiError("list", "workflows", 404, "NotFound", "page not found"), "has no Argo Workflows"),
        (ApiError("list", "workflows", 401, "Unauthorized", ""), "rejected the credentials (401)"),
        (ApiError("list", "pods", 0, message="a\nb"), "can't be reached: a b"),
        (ApiError("list", "pods", 500, "InternalError", "etcd"), "500 InternalError etcd"),
    ],
)
def test_a_refusal_says_in_a_line_what_is_missing(error: ApiError, told: str) -> None:
    said = describe_refusal(error)
    assert told in said
    assert "\n" not in said


# With a cluster in memory


Connect = Callable[[Cluster], Cluster]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def connect_to(made: Cluster) -> Cluster:
        def connected(**_: str | None) -> Api:
            return made

        for module in (jobs, sweep, terminate):
            monkeypatch.setattr(module, "api_for", connected)
        return made

    return connect_to


def swept() -> Cluster:
    """With credentials of a job that has ended, a launch that was broken off, and a program that runs on."""
    broken = job("broken", "b", uid="w2", phase="", suspend=True)
    over = job("deaf", "d", uid="w3", **OVER)
    owner = {"kind": "Workflow", "name": "job-site", "uid": "w1"}
    meta = {"labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    secret: Object = {"metadata": {"name": SECRET, "uid": "s1", **meta}, "data": {"token": "t0psecret"}}
    return Cluster(
        (Kind.WORKFLOW, job(**OVER)),
        (Kind.WORKFLOW, broken),
        (Kind.WORKFLOW, over),
        (Kind.POD, pod("deaf", uid="p3", owner="w3", main=RUNNING, phase="Running")),
        (Kind.SECRET, secret),
    )


def test_sweep_deletes_those_very_objects_and_says_which(served: Connect) -> None:
    made = served(swept())
    done = run("sweep")
    assert done.exit_code == 0
    assert sorted(made.did, key=lambda row: row[2]) == [
        ("delete", Kind.WORKFLOW, "broken", ("w2", None)),
        ("delete", Kind.POD, "deaf", ("p3", 3)),
        ("delete", Kind.SECRET, SECRET, ("s1", None)),
    ]
    assert f"deleted Secret {SECRET} (job 11111111-aaaa at site-1): credentials of a Workflow that" in done.stdout
    assert "t0psecret" not in done.stdout
    assert run("sweep").stderr == "Nothing to sweep.\n"


def test_a_dry_run_of_a_sweep_deletes_nothing(served: Connect) -> None:
    made = served(swept())
    shown = run("sweep", "--dry-run")
    assert (shown.exit_code, made.did, len(shown.stdout.splitlines())) == (0, [], 3)
    assert all(line.startswith("would delete ") for line in shown.stdout.splitlines())


def test_what_a_sweep_may_not_delete_is_told_and_what_has_gone_is_not(served: Connect) -> None:
    made = served(swept())
    made.against["delete"] = ApiError("delete", "pods x", 403, "Forbidden", "no")
    done = run("sweep")
    assert done.exit_code == 1
    assert done.stdout.count("could not delete") == 3
    assert "needs the right to delete pods" in done.stdout
    for gone in (404, 409):
        made.against["delete"] = ApiError("delete", "pods x", gone)
        assert run("sweep").exit_code == 0


def test_a_secret_that_cannot_be_looked_at_holds_up_no_other_sweep(
    served: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = served(swept())

    def barred(kind: Kind, name: str) -> Object:
        raise ApiError("get", f"{kind.value[1]} {name}", 403, "Forbidden", "no")

    monkeypatch.setattr(made, "metadata", barred)
    done = run("sweep")
    assert done.exit_code == 1
    assert (done.stdout.count("could not delete"), len(made.did)) == (1, 2)
    assert "needs the right to get secrets" in done.stdout


def test_a_workflow_with_a_name_that_argo_takes_from_nobody_holds_up_no_other_sweep(served: Connect) -> None:
    made = served(swept())
    odd = job("x" * 242, "o", uid="w9", **OVER)
    made.store[Kind.WORKFLOW, "x" * 242] = odd
    done = run("sweep")
    assert done.exit_code == 0, done.output
    assert len(made.did) == 3


def test_terminate_tells_those_that_live_and_says_of_the_others_that_they_have_ended(served: Connect) -> None:
    made = served(Cluster((Kind.WORKFLOW, job("w1")), (Kind.WORKFLOW, job("w2", site="site-2", uid="u2", **OVER))))
    done = run("terminate", "11111111")
    assert (done.exit_code, [row[:3] for row in made.did]) == (0, [("patch", Kind.WORKFLOW, "w1")])
    assert done.stdout.splitlines() == [
        "site-1: Workflow w1 is being terminated",
        "site-2: Workflow w2 has already ended: ARGO_FAILED",
    ]
    again = run("terminate", "11111111", "--json")
    assert [row["did"] for row in json.loads(again.stdout)] == ["ENDING", "OVER"]


def test_terminate_fails_where_one_could_not_be_told(served: Connect) -> None:
    made = served(Cluster((Kind.WORKFLOW, job("w1"))))
    made.against["patch"] = ApiError("patch", "workflows w1", 403, "Forbidden", "no")
    done = run("terminate", "w1")
    assert done.exit_code == 1
    assert "could not be terminated: forbidden: this account needs the right to patch" in done.stdout


def test_a_key_or_a_token_in_the_clusters_words_is_not_shown(served: Connect) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
    of = pod(main={"terminated": {"exitCode": 1, "reason": "Error", "message": f"bad {token}"}}, phase="Failed")
    served(Cluster((Kind.WORKFLOW, job(phase="Failed")), (Kind.POD, of)))
    done = run("jobs", "--json")
    assert "bad [redacted]" in done.stdout
    assert token not in done.stdout


def test_jobs_are_rows_without_a_terminal(served: Connect) -> None:
    served(Cluster((Kind.WORKFLOW, job(phase="Failed")), (Kind.POD, pod(main=ended(3), phase="Failed"))))
    head, line = run("jobs").stdout.splitlines()
    assert head.split()[0] == "JOB"
    assert line.split()[:7] == ["11111111", "hearts", "site-1", "client", "-", "ENDED", "PROGRAM_FAILED"]


def test_what_can_not_be_asked_for_a_moment_ends_no_watch() -> None:
    (part,) = site_jobs([job(nodes={"job-site": {"type": "Pod", "phase": "Running"}})], [])

    class Away(Cluster):
        status = 0

        def get(self, kind: Kind, name: str) -> Object:
            raise ApiError("get", f"{kind} {name}", self.status)

    away = Away()
    confirmations = jobs._Confirmations(ClusterReader(away))
    assert confirmations.confirm_all([part]) == [part]
    away.status = 403
    with pytest.raises(ApiError):
        confirmations.confirm_all([part])


def test_what_has_not_changed_is_not_asked_for_again() -> None:
    unsure = job(nodes={"job-site": {"type": "Pod", "phase": "Running"}})
    here = Cluster((Kind.WORKFLOW, unsure), (Kind.POD, pod(main=RUNNING)))
    (part,) = site_jobs([unsure], [])
    confirmations = jobs._Confirmations(ClusterReader(here))
    assert part.stage is Stage.ENDED
    for _ in range(3):
        (seen,) = confirmations.confirm_all([part])
        assert seen.stage is Stage.RUNNING, "its pod had come meanwhile"
    assert here.requests == 1


def test_no_jobs_are_said_with_their_namespace_which_may_be_the_wrong_one(served: Connect) -> None:
    served(Cluster()).namespace = "flrae"
    done = run("jobs")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "No jobs in namespace flrae.\n")
