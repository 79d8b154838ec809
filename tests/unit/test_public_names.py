"""The names and values that people, scripts and dashboards rely on match public_names.yaml.

Each surface is reached as its users reach it: by the `flargo` command, over HTTP, in a file or on the cluster. So
these tests need no change when something inside flargo is renamed, moved or reworded.
"""

import difflib
import inspect
import json
import re
import socket
import sys
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from prometheus_client.parser import text_string_to_metric_families

import flargo
from tests.harness.kubernetes_api import (
    ARCHIVE,
    EVENTS,
    NAMESPACE,
    PODS,
    SECRETS,
    WORKFLOWS,
    KubernetesApi,
    Object,
    kubernetes_api,
)

ROOT = Path(__file__).parents[2]
PINNED = Path(__file__).with_name("public_names.yaml")
LAUNCHERS = ("ServerArgoJobLauncher", "ClientArgoJobLauncher")

# --- names inside flargo and its tests: a rename of one of these is followed here, and nowhere else


def settings_of(launcher: Any) -> Any:
    """Return a launcher's ``argo`` settings, as a dataclass with a field for each key."""
    return launcher._settings.argo


def job_keys() -> set[str]:
    """Return the keys that a job may use in its part of ``launcher_spec``."""
    from flargo.job.trust import JOB_SPEC

    return set(JOB_SPEC)


def annotations() -> set[str]:
    """Return the annotations that flargo writes on Workflows, also those that few Workflows ever have."""
    from flargo.terms import Annotation

    return {each.value for each in Annotation}


def event_types() -> dict[str, str]:
    """Return the types of the Events that flargo creates, by their reasons."""
    from flargo.control.attempt_notes import EventReason

    return {each.value: each.type for each in EventReason}


def flare_parent(folder: Path, launcher: Any) -> Any:
    """Create a FLARE server's workspace, with a method ``context`` that makes the context of a launch."""
    from tests.harness.differential.parent import Parent

    studies = {"heart": {"container": {"image": "registry.example/job:1"}}}
    return Parent(folder, launcher.role, "server", runtime=studies)


# --- the pinned values


@cache
def pinned() -> dict[str, Any]:
    """Return all pinned values, by surface."""
    content: dict[str, Any] = yaml.safe_load(PINNED.read_text())
    return content


def assert_unchanged(surface: str, current: Any) -> None:
    """Fail if a surface differs from its pinned value; the message shows the difference and says what to do."""
    expected = pinned().get(surface)
    if current == expected:
        return
    before, after = (yaml.safe_dump(value, sort_keys=False).splitlines() for value in (expected, current))
    difference = "\n".join(difflib.unified_diff(before, after, "pinned", "now", lineterm="", n=2))
    pytest.fail(
        f"A public name or value changed: {surface}. Others rely on it, so change it back; or, if the change is"
        f" intended, list it in CHANGELOG.md and then update tests/unit/{PINNED.name}.\n{difference}"
    )


PROSE = {"allowed", "detail", "diff", "line", "message", "problem", "says", "todo", "what", "what_happened"}
PROSE |= {"what_to_do", "why", "seen_at", "advice", "server"}
"""Keys whose values are texts for people, or times of the test itself. Only the presence of a text is pinned."""


def without_prose(value: Any) -> Any:
    """Return a document with ``(text)`` in the place of each text that is written for people."""
    if isinstance(value, dict):
        return {key: _text(each) if key in PROSE else without_prose(each) for key, each in value.items()}
    return [without_prose(each) for each in value] if isinstance(value, list) else value


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return ["(text)"]
    return "(text)" if isinstance(value, str) and value else value


# --- the flargo command


@cache
def project() -> dict[str, Any]:
    """Return the ``project`` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@cache
def command_group() -> click.Group:
    """Return the group of commands that the console script ``flargo`` runs."""
    module, _, function = project()["scripts"]["flargo"].partition(":")
    groups: list[click.Group] = []
    with mock.patch.object(click.Group, "main", lambda group, *_, **__: groups.append(group)):
        getattr(import_module(module), function)()
    (group,) = groups
    return group


def run(*arguments: str | Path, **environment: str) -> Result:
    """Run ``flargo`` in this process."""
    argv = [str(each) for each in arguments]
    return CliRunner().invoke(command_group(), argv, prog_name="flargo", env=environment, catch_exceptions=False)


def answer(*arguments: str | Path) -> Any:
    """Return the JSON that ``flargo`` prints for these arguments and ``--json``."""
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every kubeconfig and pod environment that would lead to a cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


# --- a cluster with jobs


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    with kubernetes_api(tmp_path) as server:
        yield server


LABELS = {
    "app.kubernetes.io/managed-by": "flargo",
    "flargo.dev/federation": "0123456789abcdef0123456789abcdef",
    "flargo.dev/site": "site-1",
    "flargo.dev/role": "client",
    "flargo.dev/study": "heart",
    "flargo.dev/parent": "run1",
}


def add_job(
    api: KubernetesApi,
    name: str,
    *,
    spec: Object | None = None,
    notes: Object | None = None,
    labels: Object | None = None,
    **status: Any,
) -> Object:
    """Add the Workflow of a job whose id is ``id-NAME``, with further annotations (``notes``) and labels."""
    annotations = {"flargo.dev/attempt": "a1", "flargo.dev/job-name": "hearts", "flargo.dev/site-name": "site-1"}
    meta = {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"w-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {**LABELS, "flargo.dev/job-id": f"id-{name}", **(labels or {})},
        "annotations": {**annotations, **(notes or {})},
    }
    return api.put(WORKFLOWS, {"metadata": meta, "spec": spec or {}, "status": status})


def add_pod(api: KubernetesApi, name: str, main: Object | None = None, phase: str = "Pending", **status: Any) -> Object:
    """Add the pod of a Workflow; ``main`` is the state of its program's container."""
    limits = {"cpu": "1", "nvidia.com/gpu": "1"}
    if main is not None:
        status["containerStatuses"] = [{"name": "main", "state": main}]
    meta = {
        "name": name,
        "uid": f"p-{name}",
        "labels": {"workflows.argoproj.io/workflow": name, "app.kubernetes.io/managed-by": "flargo"},
        "ownerReferences": [{"kind": "Workflow", "name": name, "uid": f"w-{name}"}],
    }
    spec: Object = {"containers": [{"name": "main", "resources": {"limits": limits}}]}
    if main is not None:
        spec["nodeName"] = "node-1"
    return api.put(PODS, {"metadata": meta, "spec": spec, "status": {"phase": phase, **status}})


def add_attempt(api: KubernetesApi, name: str, number: int, **status: Any) -> Object:
    """Add the Workflow of one of three attempts of the job ``id-lost``; the first one was lost."""
    notes = {"flargo.dev/max-attempts": "3", **({"flargo.dev/ending": "DISRUPTED"} if number == 1 else {})}
    notes["flargo.dev/job-name"] = name
    labels = {"flargo.dev/job-id": "id-lost", "flargo.dev/attempt-number": str(number)}
    return add_job(api, name, notes=notes, labels=labels, **status)


TIMES = {"startedAt": "2026-01-01T00:01:00Z", "finishedAt": "2026-01-01T00:02:00Z"}
FAILED: Object = {"terminated": {"exitCode": 3, "reason": "Error", **TIMES}}
RUNNING: Object = {"running": {"startedAt": TIMES["startedAt"]}}
OVER: Object = {"phase": "Failed", "finishedAt": TIMES["finishedAt"]}


def unscheduled(message: str) -> Object:
    """Return the condition of a pod that no node can take."""
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


# --- the launchers


def create_launcher(name: str, **arguments: Any) -> Any:
    """Create a launcher by the name that a site gives FLARE."""
    return getattr(flargo, name)(**arguments)


def plain(value: Any) -> Any:
    """Return a setting as JSON represents it."""
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def test_launchers() -> None:
    """A site names a launcher by its class path, and gives it these arguments."""
    current = {}
    for name in flargo.__all__:
        parameters = inspect.signature(getattr(flargo, name)).parameters.values()
        current[f"flargo.{name}"] = [{each.name: each.default} for each in parameters]
    assert_unchanged("launchers", current)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_argo_settings(launcher: str) -> None:
    """Each key of ``argo`` is there with its default, and a launcher takes it."""
    current = plain(settings_of(create_launcher(launcher)))
    current["policy"] = sorted(current["policy"])
    assert_unchanged("argo_settings", current)
    values = {key: value for key, value in pinned()["argo_settings"].items() if key != "policy"}
    create_launcher(launcher, argo=values)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_argo_semaphore(launcher: str) -> None:
    """``argo.semaphore`` names a ConfigMap, and a key in it."""
    try:
        semaphore_launcher = create_launcher(launcher, argo={"semaphore": pinned()["argo_semaphore"], "queued": 60})
    except ValueError as error:
        assert_unchanged("argo_semaphore", {"refused": str(error)})
    else:
        assert_unchanged("argo_semaphore", plain(settings_of(semaphore_launcher).semaphore))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_argo_notify(launcher: str) -> None:
    """``argo.notify`` names a URL, and a file with a token."""
    notified = create_launcher(launcher, argo={"notify": pinned()["argo_notify"]})
    assert_unchanged("argo_notify", plain(settings_of(notified).notify))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_argo_policy(launcher: str) -> None:
    """Each key of ``argo.policy`` is there with its default, and a launcher takes it."""
    assert_unchanged("argo_policy", plain(settings_of(create_launcher(launcher)).policy))
    create_launcher(launcher, argo={"policy": pinned()["argo_policy"]})


def test_job_keys(tmp_path: Path) -> None:
    """Each key of a job's part of ``launcher_spec`` has its effect, and none is ignored."""
    meta = tmp_path / "meta.json"

    def rendered(spec: Object) -> Any:
        meta.write_text(json.dumps({"name": "hello", "launcher_spec": {"default": {"k8s": spec}}}))
        return answer("render", meta)

    example = pinned()["job_keys"]["example"]
    (template,) = rendered(example)["workflow"]["spec"]["templates"]
    effect = {key: template["container"][key] for key in ("image", "command", "resources")}
    # A key that is not known is ignored whatever its value is; of these no value is a dictionary with this key.
    refusals = {key: rendered({**example, key: {"no": "such"}}).get("error", {}) for key in example}
    ignored = sorted(key for key, error in refusals.items() if f"['{key}']" not in error.get("field", ""))
    current = {"example": example, "effect": effect, "ignored": ignored, "all": sorted(job_keys())}
    assert_unchanged("job_keys", current)


# --- a server's jobs, from their launch to their end


@dataclass
class Story:
    """The visible effects of a server's two jobs: one whose program failed, and one that no node could take."""

    api: KubernetesApi
    files: dict[str, str]
    """The files in the first job's run directory at the parent, by name."""
    code: int
    """The return code that FLARE got for the first job."""
    metrics: str


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _play(api: KubernetesApi) -> Callable[[str, Object], None]:
    """Return a callback that acts as Argo and a node: one job fails, and the other job's pod gets no node."""
    released: list[str] = []

    def on_write(method: str, item: Object) -> None:
        if method != "PATCH":
            return
        name = item["metadata"]["name"]
        if item["spec"].get("shutdown"):
            api.remove(f"{PODS}/{name}")
            api.put(WORKFLOWS, {**item, "status": {"phase": "Failed"}})
            return
        api.put(WORKFLOWS, {**item, "status": {"phase": "Running"}})
        released.append(name)
        is_first = name == released[0]
        conditions = [unscheduled("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")]
        status: Object = {"phase": "Pending", "conditions": conditions}
        if is_first:
            status = {"phase": "Failed", "containerStatuses": [{"name": "main", "state": FAILED}]}
        owner = {"kind": "Workflow", "name": name, "uid": item["metadata"]["uid"]}
        labels = {"workflows.argoproj.io/workflow": name, "app.kubernetes.io/managed-by": "flargo"}
        meta = {"name": name, "labels": labels, "ownerReferences": [owner]}
        api.put(PODS, {"metadata": meta, "spec": {"containers": [{"name": "main"}]}, "status": status})
        if is_first:
            api.put(WORKFLOWS, {**item, "status": {"phase": "Failed"}})

    return on_write


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return a call's result, or the exception that it raises. A call that takes too long fails the test."""
    results: list[Any] = []

    def run_call() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001  (the caller gets it)
            results.append(error)

    thread = threading.Thread(target=run_call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, "the launcher has not launched or ended a job in time: it may not know its own Workflow"
    return results[0]


def _scrape(port: int, last: str) -> str:
    """Return the metrics as soon as they contain the sample ``last``."""
    limit = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            text: str = response.read().decode()
        if last in text:
            return text
        assert time.monotonic() < limit, f"no {last} in\n{text}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Launch two jobs of a FLARE server, with the launcher that a site names."""
    folder = tmp_path_factory.mktemp("story")
    with kubernetes_api(folder) as api:
        api.log, api.on_write = b"the last line\n", _play(api)
        port = _free_port()
        argo = {"metrics_address": f"127.0.0.1:{port}", "labels": {"team": "heart"}}
        arguments = {"config_file_path": str(api.kubeconfig), "namespace": NAMESPACE, "argo": argo}
        launcher = create_launcher("ServerArgoJobLauncher", **arguments)
        parent = flare_parent(folder / "workspace", launcher)
        run_dir = folder / "workspace" / "job-1"
        run_dir.mkdir()

        def launch(job: str) -> Any:
            meta = {"job_id": job, "name": "hello", "study": "heart", "launcher_spec": {}}
            return _within(30, lambda: launcher.launch_job(meta, parent.context(job)))

        handle = launch("job-1")
        _within(30, lambda: handle.wait() or True)
        (startup,) = (item for item in api.items(SECRETS) if "startup" in item["metadata"]["name"])
        api.put(SECRETS, {**startup, "metadata": {**startup["metadata"], "annotations": {}}})
        assert isinstance(launch("job-2"), RuntimeError), "FLARE starts no client of a server's job that has no node"
        metrics = _scrape(port, 'verb="delete"')
        launcher.handle_event(EventType.SYSTEM_END, FLContext())
        files = {path.name: path.read_text() for path in run_dir.iterdir()}
        yield Story(api, files, handle.poll(), metrics)


def test_labels_and_annotations(story: Story) -> None:
    """People and watches select on the labels, and read the annotations."""
    current: dict[str, Any] = {}
    for method, path, body in story.api.writes:
        if method == "DELETE":
            continue
        parts = {path.split("/namespaces/lab/")[1].split("/")[0]: body["metadata"]}
        if method == "POST" and path == WORKFLOWS:
            (template,) = body["spec"]["templates"]
            parts["pods"] = template["metadata"]
        for kind, meta in parts.items():
            of_kind = current.setdefault(kind, {"labels": set(), "annotations": set()})
            of_kind["labels"] |= set(meta.get("labels") or {})
            of_kind["annotations"] |= set(meta.get("annotations") or {})
    keys = {kind: {name: sorted(each) for name, each in groups.items()} for kind, groups in sorted(current.items())}
    workflow = next(body for method, path, body in story.api.writes if (method, path) == ("POST", WORKFLOWS))
    labels = workflow["metadata"]["labels"]
    values = {key: labels.get(key) for key in pinned()["labels_and_annotations"]["values"]}
    current = {**keys, "values": values, "all_annotations_of_workflows": sorted(annotations())}
    assert_unchanged("labels_and_annotations", current)


def test_admission_policy_names() -> None:
    """Administrators adapt the example policy, which names the labels and annotations that flargo writes."""
    text = (ROOT / "deploy/admission-policy.yaml").read_text()
    assert_unchanged("admission_policy_names", sorted(set(re.findall(r"flargo\.dev/[a-z-]+", text))))


def test_outcome_files(story: Story) -> None:
    """A researcher finds these files in a job's workspace."""
    outcome = without_prose(json.loads(story.files["argo_outcome.json"])) if "argo_outcome.json" in story.files else {}
    workflow = outcome.get("workflow", "")
    current = {"names": sorted(story.files), "outcome": {**outcome, "workflow": "(name)" if workflow else workflow}}
    assert_unchanged("outcome_files", {**current, "code_for_flare": story.code})


# --- metrics


def test_metrics(story: Story) -> None:
    """Dashboards and alerts name the metrics, their types and their labels."""
    current: dict[str, Any] = {}
    for family in text_string_to_metric_families(story.metrics):
        if family.name.endswith("_created"):
            continue
        labels = {label for sample in family.samples for label in sample.labels}
        names = {sample.name for sample in family.samples}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.type != "counter" or name in names
        row = {"type": family.type, "labels": sorted(labels - {"le"})}
        buckets = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
        current[name] = {**row, "buckets": " ".join(buckets)} if buckets else row
    assert_unchanged("metrics", dict(sorted(current.items())))


def samples(story: Story, metric: str, *labels: str) -> set[tuple[str, ...]]:
    """Return the values of some labels of a metric, for each of its samples."""
    families = text_string_to_metric_families(story.metrics)
    matches = [sample for family in families for sample in family.samples if sample.name == metric]
    return {tuple(sample.labels.get(label, "") for label in labels) for sample in matches}


def test_metric_label_values(story: Story) -> None:
    """Queries select on the values of labels."""
    current = {
        "stage": sorted(stage for (stage,) in samples(story, "flargo_jobs", "stage")),
        "verb": sorted(verb for (verb,) in samples(story, "flargo_api_requests_total", "verb")),
        "resource": sorted(resource for (resource,) in samples(story, "flargo_api_requests_total", "resource")),
        "watched": sorted(resource for (resource,) in samples(story, "flargo_watch_restarts_total", "resource")),
        "result": sorted(result for (result,) in samples(story, "flargo_notifications_total", "result")),
    }
    assert_unchanged("metric_label_values", current)


def test_reasons_in_metrics(story: Story) -> None:
    """Each reason for an end is counted with the return code that FLARE gets."""
    current: dict[str, list[int]] = {}
    for reason, code in sorted(samples(story, "flargo_ends_total", "reason", "code")):
        current.setdefault(reason, []).append(int(code))
    assert_unchanged("reasons", {reason: sorted(codes) for reason, codes in current.items()})


# --- the commands' output about jobs


def test_reasons_in_json(api: KubernetesApi) -> None:
    """Commands read the reason that a launcher wrote to a Workflow, with the return code that FLARE got."""
    for reason, codes in pinned()["reasons"].items():
        for code in codes:
            name = f"{reason.lower().replace('_', '-')}-{code}"
            add_job(api, name, notes={"flargo.dev/ending": reason}, spec={"shutdown": "Terminate"}, **OVER)
            if reason == "PROGRAM_REPORTED":  # the reason stands for the program's own exit code
                add_pod(api, name, {"terminated": {"exitCode": code}}, "Failed")
    current: dict[str, list[int]] = {}
    for row in answer("jobs", "--kubeconfig", api.kubeconfig):
        current.setdefault(row.get("reason"), []).append(row.get("code"))
    assert_unchanged("reasons", {reason: sorted(codes) for reason, codes in current.items()})


def _add_states(api: KubernetesApi) -> None:
    """Add a job in each state; its Workflow and its name are called after the state."""
    scheduled = [{"type": "PodScheduled", "status": "True"}]
    step = {"type": "Pod", "templateName": "job"}
    workflows: dict[str, Object] = {
        "held": {"spec": {"suspend": True}},
        "unclaimed": {},
        "queued": {"phase": "Pending"},
        "quota": {"phase": "Running", "nodes": {"q": {**step, "message": "exceeded quota: gpus"}}},
        **{name: {"phase": "Running"} for name in ("waiting", "shortage", "tainted", "starting", "pulling")},
        **{name: {"phase": "Running"} for name in ("running", "ended")},
    }
    for name, status in workflows.items():
        add_job(api, name, notes={"flargo.dev/job-name": name}, **status)
    add_pod(api, "shortage", conditions=[unscheduled("0/1 nodes are available: 1 Insufficient cpu.")])
    add_pod(api, "tainted", conditions=[unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a}.")])
    add_pod(api, "starting", conditions=scheduled)
    add_pod(api, "pulling", conditions=scheduled)
    of_pod = {"kind": "Pod", "name": "pulling", "uid": "p-pulling"}
    pull = {"reason": "Pulling", "message": 'Pulling image "registry.example/job:1"', "involvedObject": of_pod}
    api.put(EVENTS, {"metadata": {"name": "pulling.1"}, **pull})
    add_pod(api, "running", RUNNING, "Running")
    add_pod(api, "ended", FAILED, "Failed")
    add_attempt(api, "lost", 1, **OVER)


def test_states(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state has the same spelling in JSON, in the table, and while Workflows that are watched disappear."""
    _add_states(api)
    where = ("--kubeconfig", api.kubeconfig)
    in_json = {row.get("workflow"): row.get("state") for row in answer("jobs", *where)}
    table = [set(line.split()) for line in run("jobs", *where).stdout.splitlines()]
    other_in_table = sorted(name for name, state in in_json.items() if not any({name, state} <= row for row in table))
    for name in in_json:
        if name != "running":
            api.remove(f"{WORKFLOWS}/{name}")

    def reports_deletion(lines: list[bytes]) -> bool:
        if len(lines) == 1 and f"{WORKFLOWS}/running" in api.objects:
            api.remove(f"{WORKFLOWS}/running")
        return len(lines) > 1

    _interrupt(monkeypatch, reports_deletion)
    watched = run("jobs", "--watch", "--json", *where)
    in_watch = [json.loads(line).get("state") for line in watched.stdout.splitlines()]
    assert_unchanged("states", {"json": in_json, "other_in_table": other_in_table, "watch": in_watch})


def _interrupt(monkeypatch: pytest.MonkeyPatch, is_enough: Callable[[list[bytes]], bool]) -> None:
    """Interrupt a watching command, as a person would, as soon as ``is_enough`` accepts its output lines."""
    sleep, pauses = time.sleep, iter(range(200))

    def pause(_: float) -> None:
        stream: Any = sys.stdout.buffer  # CliRunner's own
        if is_enough(stream.getvalue().splitlines()) or next(pauses, None) is None:
            raise KeyboardInterrupt
        sleep(0.05)

    monkeypatch.setattr(time, "sleep", pause)


def test_jobs_document(api: KubernetesApi) -> None:
    """``flargo jobs --json`` shows a job that failed, one that runs, and one that only Argo's archive keeps."""
    add_job(api, "failed", **OVER)
    add_pod(api, "failed", FAILED, "Failed")
    add_job(api, "running", phase="Running")
    add_pod(api, "running", RUNNING, "Running")
    deleted_job = add_job(api, "gone", spec={"shutdown": "Terminate"}, **OVER)
    api.remove(f"{WORKFLOWS}/gone")
    api.objects[f"{ARCHIVE}/w-gone"] = deleted_job
    server = f"http://127.0.0.1:{api.server_port}"
    rows = answer("jobs", "--kubeconfig", api.kubeconfig, "--argo-server", server)
    assert_unchanged("jobs_document", without_prose(rows))


def test_attempts_document(api: KubernetesApi) -> None:
    """``flargo jobs --json`` shows a job that was started again as its latest attempt, with the earlier ones."""
    add_attempt(api, "lost", 1, **OVER)
    between = answer("jobs", "--kubeconfig", api.kubeconfig)
    add_attempt(api, "lost-r1", 2, phase="Running")
    add_pod(api, "lost-r1", RUNNING, "Running")
    after = answer("jobs", "--kubeconfig", api.kubeconfig)
    keys = ("workflow", "state", "reason", "code", "attempts")
    rows = {
        name: [{key: row.get(key) for key in keys} for row in rows]
        for name, rows in (("between_two_attempts", between), ("second_attempt", after))
    }
    assert_unchanged("attempts_document", rows)


def test_events() -> None:
    """People filter Events by their reasons."""
    assert_unchanged("events", event_types())


def test_why_document(api: KubernetesApi) -> None:
    """``flargo why --json`` has the keys of ``flargo jobs --json``, and adds the evidence."""
    add_job(api, "failed", **OVER)
    add_pod(api, "failed", FAILED, "Failed")
    of_pod = {"kind": "Pod", "name": "failed", "uid": "p-failed"}
    warning = {"type": "Warning", "reason": "BackOff", "message": "restarting", "involvedObject": of_pod}
    api.put(EVENTS, {"metadata": {"name": "failed.1"}, **warning})
    deleted_job = add_job(api, "gone", **OVER)
    api.remove(f"{WORKFLOWS}/gone")
    api.objects[f"{ARCHIVE}/w-gone"] = deleted_job
    where = ("--kubeconfig", api.kubeconfig, "--argo-server", f"http://127.0.0.1:{api.server_port}")
    (row,), (archived,) = (answer("why", name, *where) for name in ("failed", "gone"))
    common = set(answer("jobs", *where)[0])
    own = {key: value for key, value in without_prose(row).items() if key not in common}
    current = {"keys_of_jobs": common <= set(row), "own_keys": own}
    current["evidence_of_archive"] = [each.get("of") for each in archived.get("evidence", [])]
    assert_unchanged("why_document", current)


def test_logs_document(api: KubernetesApi) -> None:
    """``flargo logs --json`` prints an object for each line, or piece of a long line."""
    add_job(api, "failed", **OVER)
    add_pod(api, "failed", FAILED, "Failed")
    api.log = b"2026-01-01T00:01:00.000000000Z " + b"y" * 70_000 + b"\n2026-01-01T00:01:01.000000000Z end\n"
    lines = run("logs", "failed", "--json", "--kubeconfig", api.kubeconfig).stdout.splitlines()
    assert_unchanged("logs_document", [without_prose(json.loads(line)) for line in lines])


def test_terminate_document(api: KubernetesApi) -> None:
    """``flargo terminate --json`` has a result for each Workflow."""
    where = ("--kubeconfig", api.kubeconfig)
    add_job(api, "fresh", phase="Running")
    add_job(api, "over", **OVER)
    did = {}
    for name, status in (("refused", 403), ("gone", 404), ("fresh", None), ("again", None), ("over", None)):
        api.refusals = {"PATCH": status} if status else {}
        (row,) = answer("terminate", "over" if name == "over" else "fresh", *where)
        did[name] = {key: _text(row.get(key)) if key in PROSE else row.get(key) for key in ("did", "problem")}
    others = sorted(set(row) - set(answer("jobs", *where)[0]))
    assert_unchanged("terminate_document", {"own_keys": others, "values": did})


def test_sweep_document(api: KubernetesApi) -> None:
    """``flargo sweep --json`` has a result for each object."""
    add_job(api, "over", **OVER)
    owner = {"kind": "Workflow", "name": "over", "uid": "w-over"}
    meta = {"name": "nvflare-cred-over-a1", "labels": LABELS, "ownerReferences": [owner]}
    api.put(SECRETS, {"metadata": meta})
    add_job(api, "deaf", **OVER)
    add_pod(api, "deaf", RUNNING, "Running")
    add_job(api, "broken", spec={"suspend": True})
    where = ("--kubeconfig", api.kubeconfig)
    dry = answer("sweep", "--dry-run", *where)
    success = answer("sweep", *where)
    api.refusals = {"DELETE": 403}
    add_job(api, "broken", spec={"suspend": True})
    refusal = answer("sweep", *where)
    current = {name: without_prose(rows) for name, rows in (("dry_run", dry), ("done", success), ("refused", refusal))}
    for rows in current.values():
        rows.sort(key=lambda row: str(row.get("name")))
    assert_unchanged("sweep_document", current)


def test_doctor_document(api: KubernetesApi) -> None:
    """``flargo doctor --json`` has a finding of each check, at one of four levels."""
    api.clock_skew = 30.0
    document = answer("doctor", "--kubeconfig", api.kubeconfig, "--wait", "0.5")
    findings = document.get("findings") or [{}]
    current: dict[str, Any] = {"keys": list(document), "keys_of_summary": list(document.get("summary", {}))}
    current["keys_of_finding"] = list(findings[0])
    current["checks"] = list(dict.fromkeys(each.get("check") for each in findings))
    current["levels"] = sorted({str(each.get("level")) for each in findings})
    probe = next(body["metadata"] for method, path, body in api.writes if (method, path) == ("POST", WORKFLOWS))
    current["labels_of_probe"] = probe["labels"]
    assert_unchanged("doctor_document", current)


def test_render_document(tmp_path: Path) -> None:
    """``flargo render --json`` has the Workflow, and the names and keys of its Secrets."""
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"launcher_spec": {"default": {"k8s": {"image": "registry.example/job:1"}}}}))
    document = answer("render", meta)
    secret, *_ = document.get("secrets") or [{}]
    kind = document.get("workflow", {}).get("kind")
    assert_unchanged("render_document", {"keys": list(document), "kind": kind, "keys_of_secret": list(secret)})


def test_error_documents(api: KubernetesApi) -> None:
    """With ``--json`` a command writes its errors as JSON, too."""
    where = ("--kubeconfig", api.kubeconfig)
    add_job(api, "fresh")
    current = {"usage": answer("jobs", "--sites"), "refused": answer("sweep", "--older-than", "1", *where)}
    current["no_such_job"] = answer("why", "nothing", *where)
    api.shutdown()
    api.server_close()
    current["api"] = answer("jobs", *where)
    assert_unchanged("error_documents", without_prose(current))


# --- startup kits


def test_prepare_document(kit: Callable[[str], Path]) -> None:
    """``flargo prepare --json`` lists the files that it changes in a kit, and the remaining steps."""
    root = kit("k8s/server.lab")
    document = without_prose(answer("prepare", root, "--max-jobs", "2"))
    undone = without_prose(answer("prepare", root, "--undo"))
    current = {"prepare": {**document, "kit": "(path)"}, "undo": {**undone, "kit": "(path)"}}
    assert_unchanged("prepare_document", current)


def test_kit_files(kit: Callable[[str], Path]) -> None:
    """FLARE, Helm and a later ``--undo`` read the files that ``flargo prepare`` writes."""
    current = {}
    for name in ("k8s/server.lab", "plain/site-1"):
        root = kit(name)
        before = _contents(root)
        assert run("prepare", root, "--namespace", NAMESPACE, "--workspace", "/data").exit_code == 0
        after = _contents(root)
        changed_files = sorted(path for path in after if after[path] != before.get(path))
        components = json.loads(after.get("local/flargo__p_resources.json", b"{}"))
        record = json.loads(after.get(".flargo/undo.json", b"{}"))
        record["files"] = sorted({key for entry in record.get("files", {}).values() for key in entry})
        current[name] = {"changed": changed_files, **components, "record": record}
    assert_unchanged("kit_files", current)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- the command line


def test_commands() -> None:
    """Scripts call commands with these arguments and options."""
    group = command_group()
    context = click.Context(group, **group.context_settings)
    current = {"flargo": _parameters(group, None)}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        current[name] = _parameters(command, context)
    assert_unchanged("commands", current)


def _parameters(command: click.Command, parent: click.Context | None) -> dict[str, str]:
    context = click.Context(command, parent=parent, **command.context_settings)
    return {_spelling(each): _kind(each) for each in command.get_params(context)}


def _spelling(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name.upper()
    return " ".join([*parameter.opts, *parameter.secondary_opts])


def _kind(parameter: click.Parameter) -> str:
    """Describe in a few words which values a parameter takes."""
    if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.is_eager):
        return "flag"
    values = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
    parts = ["values" if parameter.multiple else "value"]
    parts += [f"one of {', '.join(str(value) for value in values)}"] if values else []
    parts += [f"default {parameter.default}"] if isinstance(parameter.default, str | int | float) else []
    parts += [f"from {parameter.envvar}"] if parameter.envvar else []
    return ", ".join([*parts, *(["required"] if parameter.required else [])])


def test_exit_codes(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts learn from the exit code how a command ended."""
    where = ("--kubeconfig", api.kubeconfig)
    current = {
        "fine": run("jobs", *where).exit_code,
        "no such job": run("why", "nothing", *where).exit_code,
        "wrong usage": run("jobs", "--sites", *where).exit_code,
        "wrong value": run("sweep", "--older-than", "1", *where).exit_code,
        "doctor found a failure": run("doctor", "--wait", "0.5", *where).exit_code,
        "doctor could look at nothing": run("doctor", "--kubeconfig", "/nowhere").exit_code,
    }
    add_job(api, "fresh", phase="Running")
    api.refusals = {"PATCH": 403}
    current["terminate was refused"] = run("terminate", "fresh", *where).exit_code
    _interrupt(monkeypatch, lambda _: True)
    current["interrupted"] = run("jobs", "--watch", *where).exit_code
    assert_unchanged("exit_codes", current)


def test_environment(api: KubernetesApi) -> None:
    """Environment variables select a cluster, and enable completion in shells."""
    current = {}
    for name, row in pinned()["environment"].items():
        argv = () if name.startswith("_") else ("jobs", "--context", "one")
        value = row["value"].replace("KUBECONFIG_FILE", str(api.kubeconfig))
        current[name] = {"value": row["value"], "exit_code": run(*argv, **{name: value}).exit_code}
    assert run("jobs", "--context", "one").exit_code == 1, "without any of them no cluster is known"
    assert_unchanged("environment", current)


def test_packaging() -> None:
    """People install extras by name, and start the console script, or the embedded engine by ``python -m``."""
    current = {"name": project()["name"], "scripts": sorted(project()["scripts"])}
    current["extras"] = sorted(project()["optional-dependencies"])
    current["programs"] = [name for name in pinned()["packaging"]["programs"] if find_spec(f"{name}.__main__")]
    assert_unchanged("packaging", current)
