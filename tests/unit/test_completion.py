"""A shell's completion: what it offers, that it is fast, and that it takes no text of others into a shell."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from flargo.tools.cli import completion_values, kubectl_completion
from flargo.tools.cli.completion_values import find_values
from flargo.tools.cli.main import COMMANDS, group
from tests.harness.command_line import run, write_kubeconfig
from tests.harness.foreign_answers import FOREIGN_ANSWERS
from tests.harness.kubernetes_api import NAMESPACE, WORKFLOWS, KubernetesApi, kubernetes_api

FLARGO = [sys.executable, "-c", "import sys; sys.argv[0] = 'flargo'; from flargo.tools.cli.main import main; main()"]


def complete(line: str, shell: str = "bash", **variables: str) -> list[str]:
    """Return what flargo answers a shell that completes a line's last word."""
    words = line.split(" ")
    environment = {"_FLARGO_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = subprocess.run(
        FLARGO, env={**os.environ, **environment, **variables}, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return [each for each in result.stdout.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flargo pre", ["plain,prepare"]),
        ("flargo jobs --all", ["plain,--all-namespaces"]),
        ("flargo jobs -o ", ["plain,json", "plain,yaml", "plain,name", "plain,wide"]),
        ("flargo logs --output=", ["plain,json", "plain,yaml"]),
        ("flargo completion ", ["plain,bash", "plain,zsh", "plain,fish"]),
        ("flargo prepare kit --argo kill", ["plain,kill_grace="]),
        ("flargo render x --kit ", ["dir,"]),
        ("flargo render x --role ", ["plain,server", "plain,client"]),
    ],
)
def test_completions_of_words(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_other_shells_get_a_text_about_each() -> None:
    assert "Explain the state of a job, or why it ended." in complete("flargo why", "zsh")
    script = run("completion", "zsh").stdout
    assert "#compdef flargo" in script
    assert "_FLARGO_COMPLETE=zsh_complete" in script
    assert "complete --no-files --command flargo" in run("completion", "fish").stdout
    assert run("completion", "tcsh").exit_code == 2


@pytest.mark.parametrize("line", ["flargo ", "flargo jobs --", "flargo prepare x --argo "])
def test_completion_imports_no_command(line: str) -> None:
    """Commands take a third of a second to import, and a shell asks after every key."""
    code = FLARGO[2].replace("main()", "").rstrip("; ") + "\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    environment = {**os.environ, "_FLARGO_COMPLETE": "bash_complete", **words}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout
    loaded = {each.split(".")[0] for each in result.stderr.split()}
    assert not loaded & {"nvflare", "kubernetes", "yaml", "rich", "urllib3"}
    own = {each for each in result.stderr.split() if each.startswith("flargo.")} - {"flargo.tools"}
    assert not [each for each in own if not each.startswith("flargo.tools.cli")]
    assert not own & {f"flargo.tools.cli.{name}" for name in COMMANDS}


def test_contexts_are_completed_without_a_client(tmp_path: Path) -> None:
    """To import what sends requests takes longer than to read the kubeconfig."""
    code = FLARGO[2].replace("main()", "").rstrip("; ") + "\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    words = {"COMP_WORDS": "flargo jobs --context ", "COMP_CWORD": "3"}
    config = write_kubeconfig(tmp_path / "config")
    environment = {**os.environ, "_FLARGO_COMPLETE": "bash_complete", "KUBECONFIG": config, **words}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["plain,one", "plain,two"]
    assert not {each.split(".")[0] for each in result.stderr.split()} & {"nvflare", "kubernetes", "rich", "urllib3"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(completion_values, "TIME_LIMIT", 60.0)  # this machine may be busy
    with kubernetes_api(tmp_path) as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
        yield server


def add(api: KubernetesApi, name: str, job: str, site: str, job_name: str = "hearts") -> None:
    labels = {"app.kubernetes.io/managed-by": "flargo", "flargo.dev/job-id": job, "flargo.dev/site": site}
    notes = {"flargo.dev/job-name": job_name, "flargo.dev/site-name": site}
    created = "2026-01-01T00:00:00Z"
    meta = {"name": name, "uid": name, "labels": labels, "annotations": notes, "creationTimestamp": created}
    api.put(WORKFLOWS, {"metadata": {**meta, "namespace": NAMESPACE}, "spec": {}, "status": {}})


def values(*words: str) -> list[str]:
    """Return what completes the last word, without a shell around it."""
    found = ShellComplete(group(), {}, "flargo", "_FLARGO_COMPLETE").get_completions([*words[:-1]], words[-1])
    return [str(each.value) for each in found]


def test_jobs_sites_and_contexts_come_from_the_cluster(api: KubernetesApi, tmp_path: Path) -> None:
    add(api, "w1", "aaaa-1", "site-1")
    add(api, "w2", "aaaa-1", "site-2")
    add(api, "w3", "bbbb-2", "site-1")
    assert sorted(values("why", "")) == ["aaaa-1", "bbbb-2"]
    assert values("logs", "bb") == ["bbbb-2"]
    assert values("jobs", "--site", "") == ["site-1", "site-2"]
    assert values("why", "-n", "empty", "") == []
    config = write_kubeconfig(tmp_path / "other")
    assert values("jobs", "--kubeconfig", config, "--context", "") == ["one", "two"]


def test_nothing_is_written_while_a_person_types(api: KubernetesApi) -> None:
    """Something else than Kubernetes answers, which a parent logs."""
    assert complete("flargo logs ", KUBECONFIG=str(api.kubeconfig)) == []
    add(api, "one", "id-1", "site-1")
    assert complete("flargo logs ", KUBECONFIG=str(api.kubeconfig)) == ["plain,id-1"]
    api.answer_instead = lambda *_: FOREIGN_ANSWERS["login page"].raw
    assert complete("flargo logs ", KUBECONFIG=str(api.kubeconfig)) == []


def test_text_that_a_shell_would_run_is_left_out(api: KubernetesApi) -> None:
    add(api, "w1", "aaaa-1", "$(touch /tmp/x)", "`id`")
    add(api, "w2", "bbbb-2", "site-2; id", "a b")
    add(api, "w3", "cccc-3", "site-3", "hearts")
    assert find_values("sites", {}) == [("site-3", "")]
    assert sorted(find_values("jobs", {})) == [("aaaa-1", ""), ("bbbb-2", ""), ("cccc-3", "hearts")]


def test_a_slow_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_values, "_workflows", lambda _: time.sleep(30))
    monkeypatch.setattr(completion_values, "TIME_LIMIT", 0.2)
    started = time.monotonic()
    assert find_values("jobs", {}) == []
    assert time.monotonic() - started < 5


def test_no_cluster_is_no_error(tmp_path: Path) -> None:
    assert complete("flargo why ", HOME=str(tmp_path), KUBECONFIG=str(tmp_path / "none")) == []


def test_kubectl_gets_its_own_format(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["pre"], ["prepare\tConfigure a startup kit to use flargo.", ":4"]),
        (["jobs", "-o", "w"], ["wide", ":4"]),
        (["render", "x", "--kit", ""], [":0"]),
    ):
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-flargo", *words])
        kubectl_completion.main()
        assert capfd.readouterr().out.splitlines() == expected


def test_plugin_of_kubectl_names_itself() -> None:
    code = FLARGO[2].replace("'flargo'", "'/bin/kubectl-flargo'")
    result = subprocess.run([sys.executable, "-c", code, "jobs", "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Usage: kubectl flargo jobs ")
