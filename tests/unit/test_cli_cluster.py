"""Tests of the commands that read a cluster: without a cluster, with a refusing one, and with one in memory."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flargo.cluster import service_account
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.status.diagnosis import Stage
from flargo.terms import Object
from flargo.tools.cli import cluster_options, jobs, output, sweep, terminate, why
from flargo.tools.jobs.live_jobs import LiveJobs
from flargo.tools.jobs.reader import ClusterReader
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import site_jobs
from tests.harness.command_line import run, write_kubeconfig
from tests.harness.fake_api import RecordingApi
from tests.harness.kubernetes_api import WORKFLOWS, kubernetes_api, status
from tests.harness.objects import FAILED_STATUS, RUNNING, job_workflow, pod, terminated_state

MISSING_RIGHT = 'forbidden: User "u" cannot do resource "x" in API group "" in the namespace "flare"'
"""The API server's message for a missing right; the verb does not matter."""
MISSING_CLUSTER_RIGHT = MISSING_RIGHT.replace('in the namespace "flare"', "at the cluster scope")
COMMANDS = [("jobs",), ("jobs", "--watch"), ("why", "x"), ("logs", "x"), ("terminate", "x"), ("sweep",)]
SECRET = "nvflare-cred-job-site-a1"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this a machine that knows no cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments", [*COMMANDS, ("doctor",)], ids=" ".join)
def test_missing_kubeconfig_error_names_the_options(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: no cluster: there is no ~/.kube/config; name a kubeconfig with --kubeconfig or KUBECONFIG\n"
    )


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_unreachable_cluster_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*arguments, "--kubeconfig", write_kubeconfig(tmp_path / "config"))
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "the cluster can't be reached" in result.stderr
    assert "127.0.0.1" in result.stderr
    assert "t0psecret" not in result.stderr
    answer = json.loads(run(*arguments, "--json", "--kubeconfig", write_kubeconfig(tmp_path / "config")).stdout)
    assert "can't be reached" in answer["error"]["message"]


@pytest.mark.parametrize("text", ["", "- 1", "a: {", "apiVersion: v1\nkind: Config\n", "current-context: x"])
def test_invalid_kubeconfig_is_reported(text: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(text)
    result = run("jobs", "--kubeconfig", str(tmp_path / "config"))
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert f"the kubeconfig {tmp_path / 'config'} can't be used" in result.stderr


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config")
    assert run("jobs", "--kubeconfig", str(tmp_path / "not-there")).exit_code == 2
    result = run("jobs", "--kubeconfig", config, "--context", "three")
    assert result.exit_code == 2
    assert "one, two" in result.stderr
    for age in ("30", "59m", "0h", "d", "-1d", "1.5h", "9" * 30 + "d"):
        assert run("sweep", "--kubeconfig", config, "--older-than", age).exit_code == 2, age


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
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
def test_invalid_names_are_rejected_before_any_request(
    arguments: tuple[str, ...], option: str, value: str, allowed: str, tmp_path: Path
) -> None:
    """An empty --site is an unset variable of a script, and does not mean all sites."""
    result = run(*arguments, "--kubeconfig", write_kubeconfig(tmp_path / "config"), option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert option in result.stderr
    assert f"{value!r} is not" in result.stderr
    assert allowed in result.stderr


def test_empty_federation_is_rejected(tmp_path: Path) -> None:
    for command in ("jobs", "sweep"):
        result = run(command, "--kubeconfig", write_kubeconfig(tmp_path / "config"), "--federation", "")
        assert result.exit_code == 2
        assert "--federation" in result.stderr


def test_defaults_are_those_of_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def target(*options: str | None) -> tuple[str, str]:
        api = cluster_options.api_for(*options)
        return api._transport._connections._load_config().server, api.namespace

    first = write_kubeconfig(tmp_path / "first", "https://first:1", namespace="flare")
    assert target(first, None, None) == ("https://first:1", "flare")
    assert target(first, None, "other") == ("https://first:1", "other")
    assert target(first, "two", None) == ("https://first:1", "default")
    (tmp_path / ".kube").mkdir()
    write_kubeconfig(tmp_path / ".kube/config", "https://usual:1")
    assert target(None, None, None) == ("https://usual:1", "default")
    monkeypatch.setenv("KUBECONFIG", first)
    assert target(None, None, None) == ("https://first:1", "flare")


def test_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "namespace").write_text("flare\n")
    (tmp_path / "token").write_text("t")
    monkeypatch.setattr(service_account, "FOLDER", tmp_path)
    assert cluster_options.api_for(None, None, None).namespace == "flare"
    assert run("jobs", "--context", "x").exit_code == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ApiError("list", "workflows a=b", 403, "Forbidden", MISSING_RIGHT), "right to list workflows.argoproj.io"),
        (ApiError("log", "pods x", 403, "Forbidden", MISSING_RIGHT), "right to get pods/log"),
        (ApiError("patch", "workflows x", 403, "Forbidden", MISSING_RIGHT), "right to patch workflows.argoproj.io"),
        (
            ApiError(
                "list",
                "workflows",
                403,
                "Forbidden",
                MISSING_CLUSTER_RIGHT,
            ),
            "right to list workflows.argoproj.io in all namespaces",
        ),
        (ApiError("get", "secrets x", 403, "Forbidden", MISSING_RIGHT), "right to get secrets"),
        (ApiError("list", "workflows", 404, "NotFound", "page not found"), "has no Argo Workflows"),
        (ApiError("list", "workflows", 401, "Unauthorized", ""), "rejected the credentials (401)"),
        (ApiError("list", "pods", 0, message="a\nb"), "can't be reached: a b"),
        (ApiError("list", "pods", 500, "InternalError", "etcd"), "500 InternalError etcd"),
        (ApiError("list", "workflows", 404, own_meaning=Meaning.NOT_SERVED), "has no Argo Workflows"),
        (ApiError("list", "workflows", 404, message="no route"), "can't be reached: 404 Not Found: no route"),
        (ApiError("list", "pods", 404, message="no route"), "can't be reached: 404 Not Found: no route"),
        (ApiError("list", "pods", 503), "can't be reached: 503 Service Unavailable"),
        (ApiError("patch", "workflows x", 409, "Conflict", "modified"), "refused to patch workflows.argoproj.io: 409"),
        (
            ApiError("patch", "workflows x", 403, "Forbidden", 'admission webhook "w" denied the request'),
            "the cluster refused to patch workflows.argoproj.io: 403 Forbidden admission webhook",
        ),
    ],
)
def test_refusals_name_the_missing_right(error: ApiError, expected: str) -> None:
    text = describe_refusal(error)
    assert expected in text
    assert "\n" not in text


# With a cluster in memory


UseCluster = Callable[[RecordingApi], RecordingApi]


@pytest.fixture
def use_cluster(monkeypatch: pytest.MonkeyPatch) -> UseCluster:
    def use(cluster: RecordingApi) -> RecordingApi:
        def api_for(**_: str | None) -> Api:
            return cluster

        for module in (jobs, sweep, terminate, why):
            monkeypatch.setattr(module, "api_for", api_for)
        return cluster

    return use


def cluster_with_leftovers() -> RecordingApi:
    """Return a cluster with an ended job's credentials, an incomplete launch and a pod that outlives its Workflow."""
    incomplete_launch = job_workflow("broken", "b", uid="w2", phase="", suspend=True)
    ended_job = job_workflow("deaf", "d", uid="w3", **FAILED_STATUS)
    owner = {"kind": "Workflow", "name": "job-site", "uid": "w1"}
    meta = {"labels": {"app.kubernetes.io/managed-by": "flargo"}, "ownerReferences": [owner]}
    secret: Object = {"metadata": {"name": SECRET, "uid": "s1", **meta}, "data": {"token": "t0psecret"}}
    return RecordingApi(
        (Kind.WORKFLOW, job_workflow(**FAILED_STATUS)),
        (Kind.WORKFLOW, incomplete_launch),
        (Kind.WORKFLOW, ended_job),
        (Kind.POD, pod("deaf", uid="p3", owner="w3", main=RUNNING, phase="Running")),
        (Kind.SECRET, secret),
    )


def test_sweep_deletes_and_lists_leftovers(use_cluster: UseCluster) -> None:
    cluster = use_cluster(cluster_with_leftovers())
    result = run("sweep")
    assert result.exit_code == 0
    assert sorted(cluster.changes, key=lambda row: row[2]) == [
        ("delete", Kind.WORKFLOW, "broken", ("w2", None)),
        ("delete", Kind.POD, "deaf", ("p3", 3)),
        ("delete", Kind.SECRET, SECRET, ("s1", None)),
    ]
    assert f"deleted Secret {SECRET} (job 11111111-aaaa at site-1): credentials of a Workflow that" in result.stdout
    assert "t0psecret" not in result.stdout
    assert run("sweep").stderr == "Nothing to sweep: API server https://cluster.example, namespace flare.\n"


PLACE = "API server https://cluster.example, namespace flare:\n"


@pytest.mark.parametrize("options", [(), ("-o", "name"), ("--json",)])
@pytest.mark.parametrize(
    "arguments", [("terminate", "11111111"), ("sweep",), ("sweep", "--dry-run"), ("sweep", "--older-than", "30d")]
)
def test_changes_name_server_and_namespace_first(
    use_cluster: UseCluster, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Before anything changes, so that a person can still interrupt it. Documents have both in each row."""
    cluster = use_cluster(cluster_with_leftovers())
    if arguments[0] == "terminate":
        cluster = use_cluster(RecordingApi((Kind.WORKFLOW, job_workflow("w1"))))
    changes_before: list[int] = []

    def note(text: str) -> None:
        changes_before.append(len(cluster.changes))
        output.write_message(text)

    monkeypatch.setattr("flargo.tools.cli.cluster_options.write_message", note)
    result = run(*arguments, *options)
    assert result.exit_code == 0
    if options == ("--json",):
        rows = json.loads(result.stdout)
        assert {(row["server"], row["namespace"]) for row in rows} == {("https://cluster.example", "flare")}
        assert result.stderr == ""
    else:
        assert (result.stderr, changes_before) == (PLACE, [0])
    assert cluster.changes or "--dry-run" in arguments


@pytest.mark.parametrize("arguments", [("terminate", "11111111"), ("sweep",)], ids=" ".join)
def test_place_is_the_servers_that_gets_the_changes(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """As the kubeconfig and the options say, which need not be what a person thinks."""
    with kubernetes_api(tmp_path) as api:
        api.put(WORKFLOWS, job_workflow("w1", suspend=True, phase=""))
        result = run(*arguments, "--kubeconfig", api.kubeconfig)
        assert result.stderr == f"API server http://127.0.0.1:{api.server_port}, namespace lab:\n"
        assert len(api.writes) == 1


def test_sweep_dry_run_deletes_nothing(use_cluster: UseCluster) -> None:
    cluster = use_cluster(cluster_with_leftovers())
    result = run("sweep", "--dry-run")
    assert (result.exit_code, cluster.changes, len(result.stdout.splitlines())) == (0, [], 3)
    assert all(line.startswith("would delete ") for line in result.stdout.splitlines())


def test_sweep_reports_only_failed_deletions(use_cluster: UseCluster) -> None:
    cluster = use_cluster(cluster_with_leftovers())
    cluster.refusals["delete"] = ApiError("delete", "pods x", 403, "Forbidden", MISSING_RIGHT)
    result = run("sweep")
    assert result.exit_code == 1
    assert result.stdout.count("could not delete") == 3
    assert "needs the right to delete pods" in result.stdout
    for refusal in (
        ApiError("delete", "pods x", 404, "NotFound"),
        ApiError("delete", "pods x", 409, "Conflict", "the UID in the precondition (a) does not match the UID"),
    ):
        cluster.refusals["delete"] = refusal
        assert run("sweep").exit_code == 0


def test_unreadable_secret_stops_no_other_deletion(use_cluster: UseCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = use_cluster(cluster_with_leftovers())

    def forbid(kind: Kind, name: str) -> Object:
        raise ApiError("get", f"{kind.value[1]} {name}", 403, "Forbidden", MISSING_RIGHT)

    monkeypatch.setattr(cluster, "metadata", forbid)
    result = run("sweep")
    assert result.exit_code == 1
    assert (result.stdout.count("could not delete"), len(cluster.changes)) == (1, 2)
    assert "needs the right to get secrets" in result.stdout


def test_invalid_workflow_name_stops_no_deletion(use_cluster: UseCluster) -> None:
    cluster = use_cluster(cluster_with_leftovers())
    invalid_workflow = job_workflow("x" * 242, "o", uid="w9", **FAILED_STATUS)
    cluster.store[Kind.WORKFLOW, "x" * 242] = invalid_workflow
    result = run("sweep")
    assert result.exit_code == 0, result.output
    assert len(cluster.changes) == 3


def test_terminate_patches_only_running_workflows(use_cluster: UseCluster) -> None:
    ended_job = job_workflow("w2", site="site-2", uid="u2", **FAILED_STATUS)
    cluster = use_cluster(RecordingApi((Kind.WORKFLOW, job_workflow("w1")), (Kind.WORKFLOW, ended_job)))
    result = run("terminate", "11111111")
    assert (result.exit_code, [row[:3] for row in cluster.changes]) == (0, [("patch", Kind.WORKFLOW, "w1")])
    assert result.stdout.splitlines() == [
        "site-1: Workflow w1 is being terminated",
        "site-2: Workflow w2 has already ended: ARGO_FAILED",
    ]
    second_result = run("terminate", "11111111", "--json")
    assert [row["did"] for row in json.loads(second_result.stdout)] == ["ENDING", "OVER"]


def test_terminate_fails_if_a_patch_is_refused(use_cluster: UseCluster) -> None:
    cluster = use_cluster(RecordingApi((Kind.WORKFLOW, job_workflow("w1"))))
    cluster.refusals["patch"] = ApiError("patch", "workflows w1", 403, "Forbidden", MISSING_RIGHT)
    result = run("terminate", "w1")
    assert result.exit_code == 1
    assert "could not be terminated: forbidden: this account needs the right to patch" in result.stdout


def test_why_prints_the_public_name_of_a_stage(use_cluster: UseCluster) -> None:
    use_cluster(RecordingApi((Kind.WORKFLOW, job_workflow(suspend=True))))
    assert "site-1 (client): HELD" in run("why", "11111111").stdout.splitlines()


def test_tokens_in_cluster_messages_are_redacted(use_cluster: UseCluster) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
    failed_pod = pod(main={"terminated": {"exitCode": 1, "reason": "Error", "message": f"bad {token}"}}, phase="Failed")
    use_cluster(RecordingApi((Kind.WORKFLOW, job_workflow(phase="Failed")), (Kind.POD, failed_pod)))
    result = run("jobs", "--json")
    assert "bad [redacted]" in result.stdout
    assert token not in result.stdout


def test_jobs_prints_rows_without_a_terminal(use_cluster: UseCluster) -> None:
    use_cluster(
        RecordingApi(
            (Kind.WORKFLOW, job_workflow(phase="Failed")), (Kind.POD, pod(main=terminated_state(3), phase="Failed"))
        )
    )
    head, line = run("jobs").stdout.splitlines()
    assert head.split()[0] == "JOB"
    assert line.split()[:5] == ["11111111", "hearts", "site-1", "ENDED", "PROGRAM_FAILED"]


def test_transient_errors_do_not_end_a_watch() -> None:
    (site_job,) = site_jobs([job_workflow(nodes={"job-site": {"type": "Pod", "phase": "Running"}})], [])

    class FailingCluster(RecordingApi):
        status = 0

        def get(self, kind: Kind, name: str) -> Object:
            raise ApiError("get", f"{kind} {name}", self.status)

    cluster = FailingCluster()
    confirmations = jobs._Confirmations(ClusterReader(cluster))
    assert confirmations.confirm_all([site_job]) == [site_job]
    cluster.status = 403
    with pytest.raises(ApiError):
        confirmations.confirm_all([site_job])


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (ApiError("list", "workflows", 404, own_meaning=Meaning.NOT_SERVED), True),
        (ApiError("list", "workflows", 200, own_meaning=Meaning.AWAY), True),
        (ApiError("list", "workflows", 0), True),
        (ApiError("list", "workflows", 403, "Forbidden", MISSING_RIGHT), False),
    ],
)
def test_error_that_may_pass_ends_no_watch(error: ApiError, *, may_pass: bool) -> None:
    """A gateway may answer with a 404 while the API server is away: the watch ended with "has no Argo Workflows"."""
    change_event = threading.Event()
    live_jobs = LiveJobs(change_event.set)
    live_jobs.on_lost(Kind.WORKFLOW, error)
    live_jobs.on_listed(Kind.POD, [], "1")

    def recover() -> None:
        time.sleep(0.7)
        live_jobs.on_listed(Kind.WORKFLOW, [], "2")

    threading.Thread(target=recover, daemon=True).start()
    snapshots = jobs._snapshots(live_jobs, ClusterReader(RecordingApi()), change_event)
    if may_pass:
        assert next(snapshots) == []
    else:
        with pytest.raises(ApiError):
            next(snapshots)


def test_watch_of_a_cluster_without_argo_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_MAX_MISSING_SECONDS", 0.1)
    live_jobs = LiveJobs(lambda: None)
    live_jobs.on_lost(
        Kind.WORKFLOW, ApiError("list", "workflows", 404, message="no route", own_meaning=Meaning.NOT_SERVED)
    )
    with pytest.raises(ApiError, match="no route"):
        next(jobs._snapshots(live_jobs, ClusterReader(RecordingApi()), threading.Event()))


def test_unchanged_jobs_are_confirmed_once() -> None:
    unconfirmed = job_workflow(nodes={"job-site": {"type": "Pod", "phase": "Running"}})
    cluster = RecordingApi((Kind.WORKFLOW, unconfirmed), (Kind.POD, pod(main=RUNNING)))
    (site_job,) = site_jobs([unconfirmed], [])
    confirmations = jobs._Confirmations(ClusterReader(cluster))
    assert site_job.stage is Stage.ENDED
    for _ in range(3):
        (confirmed,) = confirmations.confirm_all([site_job])
        assert confirmed.stage is Stage.RUNNING, "the pod was created after the list"
    assert cluster.requests == 1


def test_no_jobs_message_names_the_namespace(use_cluster: UseCluster) -> None:
    """The namespace may be the wrong one."""
    use_cluster(RecordingApi()).namespace = "flrae"
    result = run("jobs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No jobs in namespace flrae.\n")


def test_list_and_watch_have_the_newest_job_last(use_cluster: UseCluster) -> None:
    items = [job_workflow(name, name, uid=name) for name in ("new", "old", "middle")]
    for item, minute in zip(items, (2, 0, 1), strict=True):
        item["metadata"]["creationTimestamp"] = f"2026-01-01T00:0{minute}:00Z"
    use_cluster(RecordingApi(*((Kind.WORKFLOW, item) for item in items)))
    live_jobs = LiveJobs(lambda: None)
    live_jobs.on_listed(Kind.WORKFLOW, items, "1")
    live_jobs.on_listed(Kind.POD, [], "1")
    listed = [line.rpartition("/")[2] for line in run("jobs", "-o", "name").stdout.splitlines()]
    assert listed == ["old", "middle", "new"]
    assert [job.workflow.name for job in live_jobs.site_jobs()] == listed


# Formats


def cluster_with_jobs() -> RecordingApi:
    """Return a cluster with leftovers, and with a job that runs at two sites."""
    cluster = cluster_with_leftovers()
    for number in (1, 2):
        running_job = job_workflow(f"run-{number}", "run", f"site-{number}", uid=f"r{number}")
        cluster.store[Kind.WORKFLOW, f"run-{number}"] = running_job
    return cluster


ROWS = [("jobs",), ("why", "run"), ("terminate", "run"), ("sweep", "--dry-run")]


@pytest.mark.parametrize("arguments", ROWS, ids=" ".join)
def test_yaml_and_json_are_the_same_document(use_cluster: UseCluster, arguments: tuple[str, ...]) -> None:
    use_cluster(cluster_with_jobs())
    document = json.loads(run(*arguments, "--json").stdout)
    use_cluster(cluster_with_jobs())
    assert yaml.safe_load(run(*arguments, "-o", "yaml").stdout) == document
    use_cluster(cluster_with_jobs())
    assert json.loads(run(*arguments, "--output=json").stdout) == document
    assert len(document) > 1


NAMES = {
    "jobs": ["workflow.argoproj.io/job-site", "workflow.argoproj.io/broken", "workflow.argoproj.io/deaf"],
    "why": [],
    "terminate": [],
    "sweep": ["workflow.argoproj.io/broken", "pod/deaf", f"secret/{SECRET}"],
}


@pytest.mark.parametrize("arguments", ROWS, ids=" ".join)
def test_names_are_kubectls(use_cluster: UseCluster, arguments: tuple[str, ...]) -> None:
    use_cluster(cluster_with_jobs())
    expected = NAMES[arguments[0]]
    if arguments[0] != "sweep":
        expected = [*expected, "workflow.argoproj.io/run-1", "workflow.argoproj.io/run-2"]
    assert sorted(run(*arguments, "-o", "name").stdout.splitlines()) == sorted(expected)


def test_a_printed_name_names_a_job(use_cluster: UseCluster) -> None:
    use_cluster(cluster_with_jobs())
    (row,) = json.loads(run("why", "workflow.argoproj.io/run-2", "--site", "site-2", "--json").stdout)
    assert row["workflow"] == "run-2"


def test_names_of_refused_workflows_are_not_printed(use_cluster: UseCluster) -> None:
    cluster = use_cluster(cluster_with_jobs())
    cluster.refusals["patch"] = ApiError("patch", "workflows run-1", 403, "Forbidden", MISSING_RIGHT)
    cluster.refusals["delete"] = ApiError("delete", "pods x", 403, "Forbidden", MISSING_RIGHT)
    for arguments in (("terminate", "run"), ("sweep",)):
        result = run(*arguments, "-o", "name")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "needs the right to" in result.stderr


def test_wide_table_has_more_columns(use_cluster: UseCluster) -> None:
    use_cluster(cluster_with_jobs())
    plain, wide = (run("jobs", *options).stdout.splitlines()[0].split() for options in ((), ("-o", "wide")))
    assert set(wide) - set(plain) == {"ROLE", "STUDY", "SINCE", "NODE", "GPUS"}


@pytest.mark.parametrize("options", ["--json", "-o json", "-ojson", "--output=json", "--output yaml", "-oyaml"])
@pytest.mark.parametrize("arguments", [("jobs", "--sites"), ("why", "x")], ids=["usage", "cluster"])
def test_errors_have_the_format_of_results(arguments: tuple[str, ...], options: str) -> None:
    result = run(*arguments, *options.split())
    assert (result.exit_code, result.stderr) == (2 if arguments[0] == "jobs" else 1, "")
    loads = json.loads if "json" in options else yaml.safe_load
    assert loads(result.stdout)["error"]["message"]


def test_json_option_excludes_other_formats() -> None:
    result = run("jobs", "--json", "-o", "wide")
    assert result.exit_code == 2
    assert "--json and -o wide cannot be combined." in result.stdout
    assert run("jobs", "-o", "table").exit_code == 2


# One cause, one exit code


REASONS = {401: "Unauthorized", 403: "Forbidden"}
ALL_COMMANDS = [*COMMANDS, ("doctor", "--wait", "0.5"), ("demo", "--image", "x")]
KUBECONFIGS: dict[str, tuple[str, int, str]] = {
    "broken": ("a: {", 1, "Error: the kubeconfig {} can't be used: not YAML, line 1"),
    "without a context": ("kind: Config\n", 1, "Error: the kubeconfig {} can't be used: "),
    "unreachable": ("", 1, "he cluster can't be reached: https://127.0.0.1:1: Connection refused"),
}
"""Kubeconfigs (empty: one whose cluster does not answer), with the exit code and a part of the message."""


@pytest.mark.parametrize("cause", KUBECONFIGS)
@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
def test_one_cause_has_one_exit_code(arguments: tuple[str, ...], cause: str, tmp_path: Path) -> None:
    text, exit_code, message = KUBECONFIGS[cause]
    file = tmp_path / "config"
    write_kubeconfig(file)
    if text:
        file.write_text(text)
    result = run(*arguments, "--kubeconfig", file)
    assert message.format(file) in result.stderr + " ".join(result.stdout.split())
    assert result.exit_code == exit_code


@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--context", "three"), "Error: `--context` is 'three'; expected a context of {}: one, two\n"),
        (("--kubeconfig", "/nowhere"), "Error: Invalid value for '--kubeconfig': File '/nowhere' does not exist.\n"),
    ],
    ids=["context", "file"],
)
def test_wrong_clusters_are_usage_errors(
    arguments: tuple[str, ...], options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    file = write_kubeconfig(tmp_path / "config")
    result = run(*arguments, "--kubeconfig", file, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(message.format(file))


@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
def test_missing_credential_files_are_errors_of_the_kubeconfig(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Only the first request reads them. It was told as a cluster that can't be reached."""
    file = tmp_path / "config"
    document = yaml.safe_load(Path(write_kubeconfig(file)).read_text())
    document["users"][0]["user"] = {"client-certificate": "/nowhere", "client-key": "/nowhere"}
    file.write_text(yaml.safe_dump(document))
    result = run(*arguments, "--kubeconfig", file)
    assert result.exit_code == 1
    if arguments[0] == "demo":
        return  # it has written its first line then
    assert result.stdout == ""
    assert (
        result.stderr == f"Error: the kubeconfig {file} can't be used: its client-certificate /nowhere is not there\n"
    )


@pytest.mark.parametrize("arguments", ALL_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("code", "message"),
    [(401, "he cluster rejected the credentials"), (403, "orbidden: this account needs the right to ")],
)
def test_refusals_have_the_same_words(arguments: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: status(code, REASONS[code], MISSING_RIGHT)
        result = run(*arguments, "--kubeconfig", api.kubeconfig)
    assert result.exit_code == 1
    output = result.stderr + " ".join(result.stdout.split())
    # The doctor tells a missing right check by check, and asks the API server about rights.
    assert message in output or (arguments[0], code) == ("doctor", 403)
