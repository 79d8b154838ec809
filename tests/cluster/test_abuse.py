"""Tests of a hostile job: what its metadata can change, what its code can reach, and where its secrets appear."""

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

END_SECONDS = 120.0
FORBIDDEN_SETTINGS: dict[str, dict[str, Any]] = {
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
IGNORED_KEYS: dict[str, Any] = {
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
PROBE_CODE = r"""
import ctypes, json, os, socket, ssl, urllib.error, urllib.request

def run(action):
    try:
        return str(action())
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
    result = getattr(libc, name)(*arguments)
    if result:
        raise OSError(ctypes.get_errno(), name)
    return result

status = dict(line.split(':\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\t' in line)
answers = {
    'secrets': run(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/secrets')),
    'its own secret': run(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}')),
    'pods': run(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/pods')),
    'a new pod': run(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/pods', b'{}')),
    'workflows': run(lambda: api(f'/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows')),
    'task results': run(lambda: api(f'/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflowtaskresults', b'{}')),
    'a token': run(lambda: api(f'/api/v1/namespaces/{NAMESPACE}/serviceaccounts/flargo-launcher/token', b'{}')),
    'metadata': run(lambda: urllib.request.urlopen('http://169.254.169.254/latest/', timeout=3).read()),
    'the kit, written': run(lambda: open(STARTUP + '/rootCA.pem', 'a')),
    'root': run(lambda: os.setuid(0)),
    'a mount': run(lambda: call('mount', b'none', b'/mnt', b'tmpfs', 0, None)),
    'a namespace': run(lambda: call('unshare', 0x00020000)),
    'a device': run(lambda: os.mknod('/tmp/device', 0o60666, os.makedev(8, 0))),
    'a raw socket': run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
}
print('FOUND ' + json.dumps({
    'reached': {what: answer for what, answer in answers.items() if not answer.startswith('refused')},
    'answers': answers,
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
"""Name of an environment variable of the parent."""
CREDENTIALS = {
    "NVFLARE_JOB_AUTH_TOKEN",
    "NVFLARE_JOB_TOKEN_SIGNATURE",
    "NVFLARE_JOB_SSID",
    "NVFL_WORKSPACE_TRANSFER_TOKEN",
}
SECRET_PREFIX = "fl4rg0-pl4nted-"


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def job_with_extra_keys(site: Site) -> Iterator[Job]:
    """A running job whose launcher_spec has every key of IGNORED_KEYS."""
    job = site.launch(SLEEPS, spec=IGNORED_KEYS)
    job.expect_running()
    yield job
    job.abort()
    job.expect_nothing_left()


@pytest.fixture(scope="module")
def probe_report(site: Site, cluster: Cluster) -> Any:
    """The report of a job whose code tries to reach everything it should not."""
    name = nvflare_internals.pod_name(nvflare_internals.job_key("f0000000-0000-4000-8000-000000000000"), site.name)
    settings = {
        "NAMESPACE": cluster.target.namespace,
        "SECRET": f"nvflare-cred-{name}",
        "STARTUP": f"{site.root}/startup",
    }
    assignments = "".join(f"{key} = {value!r}\n" for key, value in settings.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CANARY, "of the parent")
        job = site.launch(assignments + PROBE_CODE + exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, END_SECONDS)
    report = next(line for line in cluster.log(job.pod).splitlines() if line.startswith("FOUND "))
    return json.loads(report.removeprefix("FOUND "))


@pytest.mark.parametrize("abuse", FORBIDDEN_SETTINGS, ids=lambda name: name.replace(" ", "-"))
def test_forbidden_setting_fails_the_launch(site: Site, cluster: Cluster, abuse: str) -> None:
    job = site.launch(SLEEPS, spec=FORBIDDEN_SETTINGS[abuse])
    verdict = job.launched_job.verdict
    assert verdict is not None
    assert (verdict.reason, job.handle.poll()) == (Reason.LAUNCH_FAILED, 101)
    assert "launcher_spec['site-1']['k8s']" in verdict.detail
    assert cluster.leftovers(job.id, job.name) == []
    assert job.workflows == []


@pytest.mark.parametrize("abuse", IGNORED_KEYS)
def test_extra_launcher_spec_key_has_no_effect(job_with_extra_keys: Job, abuse: str) -> None:
    value = json.dumps(IGNORED_KEYS[abuse])
    for item in (job_with_extra_keys.workflow, job_with_extra_keys.pod):
        assert "smuggled" not in json.dumps(item).lower()
        if abuse in {"volumes", "volumeMounts", "podSpecPatch", "envFrom", "hooks", "args"}:
            assert value.strip('"') not in json.dumps(item)


def test_pod_with_extra_keys_equals_plain_pod(job_with_extra_keys: Job, site: Site, cluster: Cluster) -> None:
    plain = site.launch(SLEEPS)
    plain.expect_running()
    specs = [_without_names(job) for job in (job_with_extra_keys, plain)]
    plain.abort()
    assert specs[0] == specs[1]
    assert job_with_extra_keys.pod["metadata"]["namespace"] == cluster.target.namespace
    assert job_with_extra_keys.pod["metadata"]["labels"]["flargo.dev/site"] == "site-1"


def test_job_code_reaches_nothing(probe_report: dict[str, Any]) -> None:
    assert probe_report["reached"] == {}, probe_report["answers"]
    assert probe_report["tokens"] == []


def test_api_server_denies_the_jobs_requests(probe_report: dict[str, Any]) -> None:
    """The requests reach the API server and fail for want of rights, not because of a network error."""
    for what in ("secrets", "its own secret", "pods", "a new pod", "workflows", "task results", "a token"):
        answer = probe_report["answers"][what]
        assert " 401 " in answer or " 403 " in answer, answer


def test_job_code_runs_without_privileges(probe_report: dict[str, Any]) -> None:
    assert probe_report["user"] == 1000
    assert {int(mask, 16) for mask in probe_report["capabilities"]} == {0}
    assert (probe_report["no new privileges"].strip(), probe_report["seccomp"].strip()) == ("1", "2")
    assert len(probe_report["processes"]) < 6, "only those of its own container"


def test_parent_environment_is_not_in_the_pod(probe_report: dict[str, Any]) -> None:
    flargo_names = {"NVFL_WORKSPACE_OWNER_FQCN", "PYTHONPATH", *CREDENTIALS}
    platform_prefixes = ("KUBERNETES_", "ARGO_", "LANG", "LC_", "PYTHON")
    others = {name for name in probe_report["environment"] if not name.startswith(platform_prefixes)} - flargo_names
    service_names = {name for name in others if "_SERVICE_" in name or "_PORT" in name}
    assert others - service_names <= {"PATH", "HOME", "HOSTNAME"}


def test_secrets_appear_only_in_their_secret_objects(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets of the environment, the kit and the job appear in no object, log, file or audit event but the Secrets."""
    monkeypatch.setenv("PARENTS_SECRET", f"{SECRET_PREFIX}environment")
    mark = audit.mark(cluster.target.audit_log) if cluster.target.audit_log else 0
    with Site(cluster, role=Role.SERVER) as site, caplog.at_level(logging.DEBUG):
        (site.root / "startup" / "planted.key").write_text(f"{SECRET_PREFIX}key")
        (site.root / "startup" / "planted.sh").write_text(f"{SECRET_PREFIX}not-a-jobs")
        _plant_credentials(site, monkeypatch)
        job = site.launch(EXITS_ON_REQUEST)
        job.expect_running()
        (site.root / job.id).mkdir(exist_ok=True)
        secret_data = {
            item["metadata"]["name"]: {key: base64.b64decode(value) for key, value in item["data"].items()}
            for item in cluster.items("secrets", f"flargo.dev/federation={site.federation}")
        }
        values = [value.decode(errors="replace") for data in secret_data.values() for value in data.values()]
        assert sorted(value for value in values if SECRET_PREFIX in value) == [
            f"{SECRET_PREFIX}{what}" for what in ("key", "session", "signature", "token")
        ]
        transfer_token = next(data for data in secret_data.values() if nvflare_internals.TOKEN_VARIABLE in data)[
            nvflare_internals.TOKEN_VARIABLE
        ].decode()
        during = [json.dumps(job.workflow), json.dumps(job.pod), json.dumps(cluster.items("events"))]
        job.exit_program(3)
        job.expect_end(Reason.PROGRAM_FAILED, 1, END_SECONDS)
        texts = {
            "objects while it ran": "".join(during),
            "objects at the end": json.dumps([job.workflows, job.pods, cluster.items("events")]),
            "logs": "".join(cluster.kubectl("logs", job.name, f"--container={each}") for each in ("main", "wait")),
            "the launcher's log": caplog.text,
            "outcome files": "".join(
                path.read_text(errors="replace") for path in (site.root / job.id).rglob("*") if path.is_file()
            ),
            "Argo's log and the others": "" if cluster.target.is_external else _daemons_logs(),
            "the audit log": "" if cluster.target.audit_log is None else _since(cluster.target.audit_log, mark),
        }
        assert "PROGRAM_FAILED" in texts["outcome files"]
        encoded_prefix = base64.b64encode(SECRET_PREFIX.encode()).decode().rstrip("=")[:-1]
        for where, text in texts.items():
            for secret in (SECRET_PREFIX, encoded_prefix, transfer_token):
                assert secret not in text, f"{where}: {secret}"
        job.expect_nothing_left()


def test_termination_message_cannot_forge_a_log_entry(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    code = "open('/dev/termination-log', 'w').write('\\n2026-01-01 - ServerRunner - INFO - all is well\\x1b[2K')\n"
    with caplog.at_level(logging.INFO):
        site.launch(code + exits(3)).expect_end(Reason.PROGRAM_FAILED, 1, END_SECONDS)
    (message,) = (line for line in caplog.messages if "all is well" in line)
    assert message.isprintable()


def test_job_beyond_its_running_time_ends(cluster: Cluster) -> None:
    with Site(cluster, argo={"policy": {"running_time": 15}}) as site:
        job = site.launch(SLEEPS)
        assert job.launched_job.wait(lambda launched: launched.verdict is not None, END_SECONDS)
        verdict = job.launched_job.verdict
        assert verdict is not None
        assert verdict.code != 0
        assert "DeadlineExceeded" in verdict.detail
        job.expect_nothing_left()


def _without_names(job: Job) -> Any:
    """Return a job's pod spec without the names and ids that differ between jobs."""
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
    """Add credentials to the arguments of the job's process, as FLARE does."""
    create_context = site._context

    def context_with_credentials(job_id: str, code: str) -> FLContext:
        context = create_context(job_id, code)
        context.get_prop(FLContextKey.JOB_PROCESS_ARGS).update(
            {
                JobProcessArgs.AUTH_TOKEN: ("-t", f"{SECRET_PREFIX}token"),
                JobProcessArgs.TOKEN_SIGNATURE: ("-ts", f"{SECRET_PREFIX}signature"),
                JobProcessArgs.SSID: ("--ssid", f"{SECRET_PREFIX}session"),
            }
        )
        return context

    monkeypatch.setattr(site, "_context", context_with_credentials)


def _daemons_logs() -> str:
    return "".join(path.read_text(errors="replace") for path in (state.RUN / "logs").glob("*") if path.is_file())


def _since(log: Path, mark: int) -> str:
    with log.open("rb") as lines:
        lines.seek(mark, os.SEEK_SET)
        return lines.read().decode(errors="replace")


def test_kubernetes_accepts_the_network_policy(cluster: Cluster) -> None:
    cluster.kubectl("apply", "--dry-run=server", f"--filename={DEPLOY / 'network-policy.yaml'}")
