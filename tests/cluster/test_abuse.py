"""A job that wants more than it may: what its metadata gets it, what its code reaches, where its secrets are found."""

import base64
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs

from flargo.flare import nvflare_internals
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.harness.cluster import Cluster
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import audit, state
from tests.harness.site import EXITS_ON_REQUEST, SLEEPS, Job, Site, exits

LONG = 120.0
REFUSED: dict[str, dict[str, Any]] = {
    "an account by way of Argo": {"argo": {"service_account": "flargo-launcher"}},
    "Argo's executor": {"argo": {"executor_service_account": "flargo-launcher"}},
    "a policy of its own": {"argo": {"policy": {}}},
    "labels by way of Argo": {"argo": {"labels": {"flargo.dev/site": "another"}}},
    "a patch by way of Argo": {"argo": {"pod_spec_patch": "{}"}},
    "an expression as a program": {"python_path": "{{workflow.serviceAccountName}}"},
    "an evaluated program": {"python_path": "{{=sprig.env('KUBECONFIG')}}"},
    "a secret as a program": {"python_path": "$(NVFL_WORKSPACE_TRANSFER_TOKEN)"},
    "a program with arguments": {"python_path": ["/bin/sh", "-c", "id"]},
    "a program over two lines": {"python_path": "/bin/sh\n-c"},
    "an expression as an image": {"image": "{{workflow.name}}"},
    "an image with an address": {"image": "http://evil.example/image"},
    "an image that climbs": {"image": "flargo.test/../other/image"},
    "memory below nothing": {"memory": "-1Gi"},
    "memory that is no number": {"memory": "NaN"},
    "memory beyond counting": {"memory": "9999999Ei"},
    "an expression as memory": {"memory": "{{inputs.parameters.memory}}"},
    "a request above its limit": {"cpu": "1", "cpu_request": "2"},
    "storage that is an object": {"ephemeral_storage": {"hostPath": "/"}},
    "GPUs below none": {"num_of_gpus": -1},
    "GPUs by another name": {"num_of_gpus": "nvidia.com/gpu"},
    "a wait of ages": {"pending_timeout": 1e300},
}
IGNORED: dict[str, Any] = {
    "serviceAccountName": "flargo-launcher",
    "service_account": "flargo-launcher",
    "automountServiceAccountToken": True,
    "namespace": "kube-system",
    "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    "volumeMounts": [{"name": "host", "mountPath": "/host"}],
    "hostNetwork": True,
    "hostPID": True,
    "securityContext": {"privileged": True, "runAsUser": 0},
    "security_context": {"runAsUser": 0},
    "priorityClassName": "system-node-critical",
    "podSpecPatch": '{"hostPID": true}',
    "pod_template": {"spec": {"hostNetwork": True}},
    "command": ["/bin/sh"],
    "args": ["-c", "id"],
    "env": [{"name": "SMUGGLED", "value": "1"}],
    "envFrom": [{"secretRef": {"name": "flargo-executor.service-account-token"}}],
    "labels": {"flargo.dev/site": "another"},
    "annotations": {"smuggled": "x"},
    "nodeName": "another",
    "tolerations": [{"operator": "Exists"}],
    "hooks": {"exit": {"template": "job"}},
    "onExit": "job",
    "image_pull_secrets": ["flargo-executor.service-account-token"],
    "activeDeadlineSeconds": 1,
}
REACHES = r"""
import ctypes, json, os, socket, ssl, urllib.error, urllib.request

def tried(what):
    try:
        return str(what())
    except BaseException as error:
        return f'refused: {type(error).__name__} {getattr(error, "code", "")} {error}'

def api(path, data=None):
    host, port = os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT']
    request = urllib.request.Request(f'https://{host}:{port}{path}', data, {'Content-Type': 'application/json'})
    return urllib.request.urlopen(request, timeout=10, context=ssl._create_unverified_context()).read()

def tokens():
    roots = ['/var/run', '/run', '/etc', '/tmp', '/var/tmp', '/proc/self/root/var/run']
    return [os.path.join(at, name) for root in roots for at, _, names in os.walk(root) for name in names
            if name == 'token' or 'serviceaccount' in at]

libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    done = getattr(libc, name)(*arguments)
    if done:
        raise OSError(ctypes.get_errno(), name)
    return done

status = dict(line.split(':\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\t' in line)
found = {
    'secrets': tried(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/secrets')),
    'its own secret': tried(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}')),
    'pods': tried(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/pods')),
    'a new pod': tried(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/pods', b'{}')),
    'workflows': tried(lambda: api(f'/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows')),
    'task results': tried(lambda: api(f'/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflowtaskresults', b'{}')),
    'a token': tried(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/serviceaccounts/flargo-launcher/token', b'{}')),
    'metadata': tried(lambda: urllib.request.urlopen('http://169.254.169.254/latest/', timeout=3).read()),
    'the kit, written': tried(lambda: open(STARTUP + '/rootCA.pem', 'a')),
    'root': tried(lambda: os.setuid(0)),
    'a mount': tried(lambda: call('mount', b'none', b'/mnt', b'tmpfs', 0, None)),
    'a namespace': tried(lambda: call('unshare', 0x00020000)),
    'a device': tried(lambda: os.mknod('/tmp/device', 0o60666, os.makedev(8, 0))),
    'a raw socket': tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
}
print('FOUND ' + json.dumps({
    'reached': {what: answer for what, answer in found.items() if not answer.startswith('refused')},
    'answers': found,
    'tokens': tokens(),
    'environment': sorted(os.environ),
    'user': os.getuid(),
    'capabilities': [status[key] for key in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')],
    'no new privileges': status['NoNewPrivs'],
    'seccomp': status['Seccomp'],
    'processes': sorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit()),
}), flush=True)
"""
CANARY = "FLARGO_TEST_CANARY"
"""A variable of the parent."""
CREDENTIALS = {
    "NVFLARE_JOB_AUTH_TOKEN",
    "NVFLARE_JOB_TOKEN_SIGNATURE",
    "NVFLARE_JOB_SSID",
    "NVFL_WORKSPACE_TRANSFER_TOKEN",
}
PLANTED = "fl4rg0-pl4nted-"


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def smuggler(site: Site) -> Iterator[Job]:
    """A job that asks for all that is none of its business, and runs all the same."""
    job = site.launch(SLEEPS, spec=IGNORED)
    job.expect_running()
    yield job
    job.abort()
    job.expect_nothing_left()


@pytest.fixture(scope="module")
def found(site: Site, cluster: Cluster) -> Any:
    """What a job's code reaches."""
    name = nvflare_internals.pod_name(nvflare_internals.job_key("f0000000-0000-4000-8000-000000000000"), site.name)
    settings = {
        "NAMESPACE": cluster.target.namespace,
        "SECRET": f"nvflare-cred-{name}",
        "STARTUP": f"{site.root}/startup",
    }
    known = "".join(f"{key} = {value!r}\n" for key, value in settings.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CANARY, "of the parent")
        job = site.launch(known + REACHES + exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, LONG)
    said = next(line for line in cluster.log(job.pod).splitlines() if line.startswith("FOUND "))
    return json.loads(said.removeprefix("FOUND "))


@pytest.mark.parametrize("abuse", REFUSED, ids=lambda name: name.replace(" ", "-"))
def test_an_abuse_is_refused_and_leaves_nothing(site: Site, cluster: Cluster, abuse: str) -> None:
    job = site.launch(SLEEPS, spec=REFUSED[abuse])
    verdict = job.launched_job.verdict
    assert verdict is not None
    assert (verdict.reason, job.handle.poll()) == (Reason.LAUNCH_FAILED, 101)
    assert "launcher_spec['site-1']['k8s']" in verdict.detail
    assert cluster.leftovers(job.id, job.name) == []
    assert job.workflows == []


@pytest.mark.parametrize("abuse", IGNORED)
def test_a_key_of_somebody_elses_gets_a_job_nothing(smuggler: Job, abuse: str) -> None:
    told = json.dumps(IGNORED[abuse])
    for thing in (smuggler.workflow, smuggler.pod):
        assert "smuggled" not in json.dumps(thing).lower()
        if abuse in {"volumes", "volumeMounts", "podSpecPatch", "envFrom", "hooks", "args"}:
            assert told.strip('"') not in json.dumps(thing)


def test_a_smugglers_pod_is_as_any_other(smuggler: Job, site: Site, cluster: Cluster) -> None:
    plain = site.launch(SLEEPS)
    plain.expect_running()
    specs = [_without_names(job) for job in (smuggler, plain)]
    plain.abort()
    assert specs[0] == specs[1]
    assert smuggler.pod["metadata"]["namespace"] == cluster.target.namespace
    assert smuggler.pod["metadata"]["labels"]["flargo.dev/site"] == "site-1"


def test_a_jobs_code_reaches_nothing(found: dict[str, Any]) -> None:
    assert found["reached"] == {}, found["answers"]
    assert found["tokens"] == []


def test_a_jobs_code_is_refused_by_the_api_server_and_not_by_chance(found: dict[str, Any]) -> None:
    for what in ("secrets", "its own secret", "pods", "a new pod", "workflows", "task results", "a token"):
        assert " 401 " in found["answers"][what] or " 403 " in found["answers"][what], found["answers"][what]


def test_a_jobs_code_runs_without_privileges(found: dict[str, Any]) -> None:
    assert found["user"] == 1000
    assert {int(mask, 16) for mask in found["capabilities"]} == {0}
    assert (found["no new privileges"].strip(), found["seccomp"].strip()) == ("1", "2")
    assert len(found["processes"]) < 6, "only those of its own container"


def test_nothing_of_the_parents_environment_is_in_a_pod(found: dict[str, Any]) -> None:
    ours = {"NVFL_WORKSPACE_OWNER_FQCN", "PYTHONPATH", *CREDENTIALS}
    theirs = ("KUBERNETES_", "ARGO_", "LANG", "LC_", "PYTHON")
    others = {name for name in found["environment"] if not name.startswith(theirs)} - ours
    of_services = {name for name in others if "_SERVICE_" in name or "_PORT" in name}
    assert others - of_services <= {"PATH", "HOME", "HOSTNAME"}


def test_planted_secrets_are_in_their_secrets_and_nowhere_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PARENTS_SECRET", f"{PLANTED}environment")
    begun = audit.mark(cluster.target.audit_log) if cluster.target.audit_log else 0
    with Site(cluster, role=Role.SERVER) as site, caplog.at_level(logging.DEBUG):
        (site.root / "startup" / "planted.key").write_text(f"{PLANTED}key")
        (site.root / "startup" / "planted.sh").write_text(f"{PLANTED}not-a-jobs")
        _plant_credentials(site, monkeypatch)
        job = site.launch(EXITS_ON_REQUEST)
        job.expect_running()
        (site.root / job.id).mkdir(exist_ok=True)
        kept = {
            item["metadata"]["name"]: {key: base64.b64decode(value) for key, value in item["data"].items()}
            for item in cluster.items("secrets", f"flargo.dev/federation={site.federation}")
        }
        held = [value.decode(errors="replace") for data in kept.values() for value in data.values()]
        assert sorted(value for value in held if PLANTED in value) == [
            f"{PLANTED}{what}" for what in ("key", "session", "signature", "token")
        ]
        transfer = next(data for data in kept.values() if nvflare_internals.TOKEN_VARIABLE in data)[
            nvflare_internals.TOKEN_VARIABLE
        ].decode()
        during = [json.dumps(job.workflow), json.dumps(job.pod), json.dumps(cluster.items("events"))]
        job.exit_program(3)
        job.expect_end(Reason.PROGRAM_FAILED, 1, LONG)
        texts = {
            "objects while it ran": "".join(during),
            "objects at the end": json.dumps([job.workflows, job.pods, cluster.items("events")]),
            "logs": "".join(cluster.kubectl("logs", job.name, f"--container={each}") for each in ("main", "wait")),
            "the launcher's log": caplog.text,
            "outcome files": "".join(
                path.read_text(errors="replace") for path in (site.root / job.id).rglob("*") if path.is_file()
            ),
            "Argo's log and the others": "" if cluster.target.own else _daemons_logs(),
            "the audit log": "" if cluster.target.audit_log is None else _since(cluster.target.audit_log, begun),
        }
        assert "PROGRAM_FAILED" in texts["outcome files"]
        coded = base64.b64encode(PLANTED.encode()).decode().rstrip("=")[:-1]
        for where, text in texts.items():
            for secret in (PLANTED, coded, transfer):
                assert secret not in text, f"{where}: {secret}"
        job.expect_nothing_left()


def test_a_programs_last_words_make_no_entry_of_their_own_in_the_parents_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    words = "open('/dev/termination-log', 'w').write('\\n2026-01-01 - ServerRunner - INFO - all is well\\x1b[2K')\n"
    with caplog.at_level(logging.INFO):
        site.launch(words + exits(3)).expect_end(Reason.PROGRAM_FAILED, 1, LONG)
    (said,) = (line for line in caplog.messages if "all is well" in line)
    assert said.isprintable()


def test_a_job_that_runs_for_too_long_is_ended(cluster: Cluster) -> None:
    with Site(cluster, argo={"policy": {"running_time": 15}}) as site:
        job = site.launch(SLEEPS)
        assert job.launched_job.wait(lambda seen: seen.verdict is not None, LONG)
        verdict = job.launched_job.verdict
        assert verdict is not None
        assert verdict.code != 0
        assert "DeadlineExceeded" in verdict.detail
        job.expect_nothing_left()


def _without_names(job: Job) -> Any:
    """A job's pod, but for what tells it apart from others."""
    pod, workflow = job.pod, job.workflow
    text = json.dumps(pod["spec"])
    for name in (
        job.name,
        job.id,
        workflow["metadata"]["uid"],
        workflow["metadata"]["annotations"]["flargo.dev/attempt"],
    ):
        text = text.replace(name, "...")
    return json.loads(text)


def _plant_credentials(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE gives the job's process credentials."""
    whole = site._context

    def planted(job_id: str, code: str) -> FLContext:
        context = whole(job_id, code)
        context.get_prop(FLContextKey.JOB_PROCESS_ARGS).update(
            {
                JobProcessArgs.AUTH_TOKEN: ("-t", f"{PLANTED}token"),
                JobProcessArgs.TOKEN_SIGNATURE: ("-ts", f"{PLANTED}signature"),
                JobProcessArgs.SSID: ("--ssid", f"{PLANTED}session"),
            }
        )
        return context

    monkeypatch.setattr(site, "_context", planted)


def _daemons_logs() -> str:
    return "".join(path.read_text(errors="replace") for path in (state.RUN / "logs").glob("*") if path.is_file())


def _since(log: Path, begun: int) -> str:
    with log.open("rb") as lines:
        lines.seek(begun, os.SEEK_SET)
        return lines.read().decode(errors="replace")


def test_the_network_policy_is_one_that_kubernetes_takes(cluster: Cluster) -> None:
    cluster.kubectl("apply", "--dry-run=server", f"--filename={DEPLOY / 'network-policy.yaml'}")
