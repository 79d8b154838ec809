"""The matrix of jobs and sites, each with the differences between flargo's and the stock launcher's pod."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from flargo.flare.request import read_launch
from flargo.job.settings import Settings, check_settings
from flargo.terms import Launch, Role
from tests.harness.differential.parent import Parent

Object = dict[str, Any]

JOB_ID = "3f1b2c4d-0000-4000-8000-123456789abc"
ATTEMPT = "a77e3p7"
EPOCH = "e90c4"
IMAGE = "registry.example.com/flare/job:2.9.0"
STUDY = "cardio"
RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
EXECUTOR_RESOURCES: Object = {
    "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "256Mi"},
    "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "512Mi"},
}


@dataclass(frozen=True)
class Case:
    """One job at one site, and the differences from the stock launcher's pod that depend on it."""

    name: str
    spec: Mapping[str, Any] = field(default_factory=lambda: {"image": IMAGE})
    """The job's part of launcher_spec for this site."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the job's metadata that are added or replaced."""
    site: str = "site-1"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of both launchers."""
    argo: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] | None = None
    """The value of ``studies`` in study_runtime.yaml; None: there is no such file."""
    data: str | None = None
    """The text of study_data.yaml; None: there is no such file."""
    files: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    process: Mapping[str, Any] = field(default_factory=dict)

    main: Mapping[str, Any] = field(default_factory=lambda: RESTRICTED)
    """Expected: the security context of the container ``main``."""
    executor: Mapping[str, Any] | None = field(
        default_factory=lambda: {"securityContext": RESTRICTED, "resources": EXECUTOR_RESOURCES}
    )
    """Expected: the fields that are patched into Argo's own containers."""
    closed: tuple[str, ...] = ()
    """Expected: the claims that become read-only themselves."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Expected: labels of the pod that other cases do not have, or have with other values."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Expected: annotations that the stock pod does not have."""
    account: str = "flargo-job"
    token: bool = False
    deadline: int | None = None
    """Expected: the pod's deadline, if it differs from the stock pod's."""
    drain: tuple[int, int] | None = None
    """Expected: the seconds that a drain waits, and the pod's grace period."""

    @property
    def job_meta(self) -> Object:
        """Return the job's metadata."""
        common: Object = {"job_id": JOB_ID, "name": "fedavg", "launcher_spec": {self.site: {"k8s": dict(self.spec)}}}
        return deepcopy({**common, **self.meta})

    def all_arguments(self, root: Path) -> Object:
        """Return the arguments of both launchers, with the path of the study data file if there is one."""
        study_file = {"study_data_pvc_file_path": str(root / "local" / "study_data.yaml")} if self.data else {}
        return {**study_file, **self.arguments}

    def parent(self, root: Path, role: Role) -> Parent:
        """Return the case's parent, with its workspace in a directory."""
        data = {"local/study_data.yaml": self.data} if self.data else {}
        return Parent(root, role, self.site, self.options, self.process, {**self.files, **data}, self.runtime)

    def settings(self, root: Path) -> Settings:
        """Return the case's settings for flargo."""
        return check_settings(**self.all_arguments(root), argo=dict(self.argo))

    def launch(self, root: Path, role: Role) -> Launch:
        """Return the case's launch, as flargo reads it."""
        parent = self.parent(root, role)
        context = parent.context(self.job_meta["job_id"])
        launch, transfer = read_launch(self.job_meta, context, role, self.settings(root), attempt=ATTEMPT, epoch=EPOCH)
        transfer.remove()
        return launch


def study(**fields: Any) -> Mapping[str, Any]:
    """Return the studies of a study_runtime.yaml: one study, which has an image."""
    return {STUDY: {"container": {"image": IMAGE}, **fields}}


def template(spec: Object | None = None, **metadata: Any) -> Mapping[str, Any]:
    """Return a study whose pod template has a spec and metadata."""
    return study(pod_template={"metadata": metadata, "spec": spec or {}})


def study_case(name: str, runtime: Mapping[str, Any] | None = None, **more: Any) -> Case:
    """Return a case whose job belongs to the study and sets nothing of its own."""
    labels = {"flargo.dev/study": STUDY, **more.pop("labels", {})}
    meta = {"study": STUDY, **more.pop("meta", {})}
    return Case(name, spec={}, meta=meta, runtime=runtime, labels=labels, **more)


def dataset(source: str, mode: str) -> Object:
    """Return a dataset of study_runtime.yaml."""
    return {"type": "mount", "source": source, "mode": mode}


def executor(**security: Any) -> Object:
    """Return the usual patch of Argo's containers, with another security context."""
    return {"securityContext": security, "resources": EXECUTOR_RESOURCES}


def without(context: Mapping[str, Any], *keys: str) -> Object:
    """Return a security context without some of its keys."""
    return {key: value for key, value in context.items() if key not in keys}


def hashed_label(readable: str, text: str) -> str:
    """Return the label value of a text that is not a valid one itself."""
    return f"{readable}--{hashlib.sha256(text.encode()).hexdigest()[:20]}"


SIDECAR: Object = {"name": "proxy", "image": "envoy:1", "command": ["envoy"], "args": ["-c", "/etc/envoy.yaml"]}
NFS: Object = {"name": "scratch", "nfs": {"server": "nfs.example.com", "path": "/scratch"}}
V1_DATA = """
cardio:
  images: {source: pvc-images, mode: ro}
  results: {source: pvc-results, mode: rw}
other:
  more: {source: pvc-more, mode: rw}
"""

IMAGES = (
    Case("plain"),
    Case("image from the default block", meta={"launcher_spec": {"default": {"k8s": {"image": IMAGE}}}}),
    Case(
        "site over default block",
        meta={
            "launcher_spec": {
                "default": {"k8s": {"image": "other:1", "cpu": "2", "memory": "4Gi"}},
                "site-1": {"k8s": {"image": IMAGE, "cpu": "1"}},
            }
        },
    ),
    Case(
        "image from the legacy resource_spec",
        meta={"launcher_spec": {}, "resource_spec": {"site-1": {"k8s": {"image": IMAGE, "num_of_gpus": 1}}}},
    ),
    study_case("image from the study", study()),
    Case("image by digest", spec={"image": f"registry.example.com/x@sha256:{'a' * 64}"}),
    Case("job's image over the study's", meta={"study": STUDY}, runtime=study(), labels={"flargo.dev/study": STUDY}),
    Case(
        "no image in the job but an empty one",
        spec={"image": ""},
        meta={"study": STUDY},
        runtime=study(),
        labels={"flargo.dev/study": STUDY},
    ),
    Case("image pull secrets", arguments={"image_pull_secrets": ["registry-a", "registry-b"]}),
    Case("image pull policy of the site", argo={"image_pull_policy": "IfNotPresent"}),
)

RESOURCES = (
    Case("cpu and memory", spec={"image": IMAGE, "cpu": "2", "memory": "8Gi"}),
    Case("numbers for amounts", spec={"image": IMAGE, "cpu": 2, "memory": 1073741824}),
    Case("fraction of a cpu", spec={"image": IMAGE, "cpu": 0.5, "cpu_request": "250m"}),
    Case(
        "requests below limits",
        spec={"image": IMAGE, "cpu": "4", "cpu_request": "1", "memory": "8Gi", "memory_request": "2G"},
    ),
    Case("requests only", spec={"image": IMAGE, "cpu_request": "100m", "memory_request": "512Mi"}),
    Case("nothing said with null and zero", spec={"image": IMAGE, "cpu": None, "memory": 0, "num_of_gpus": 0}),
    Case("ephemeral storage of the job", spec={"image": IMAGE, "ephemeral_storage": "20Gi"}),
    Case("ephemeral storage of the site", arguments={"ephemeral_storage": "5Gi"}),
    Case("GPUs", spec={"image": IMAGE, "num_of_gpus": 2}),
    Case("GPUs as a string", spec={"image": IMAGE, "num_of_gpus": "4"}),
    Case("GPUs of another maker", spec={"image": IMAGE, "num_of_gpus": 1}, argo={"gpu_resource": "amd.com/gpu"}),
    Case("MIG slices", spec={"image": IMAGE, "num_of_gpus": 3}, argo={"gpu_resource": "nvidia.com/mig-1g.10gb"}),
    Case(
        "portable resources of the site",
        meta={"resource_spec": {"site-1": {"num_of_gpus": 1, "num_of_cpus": 8, "memory": "16Gi"}}},
    ),
    Case(
        "portable resources by default",
        meta={"resource_spec": {"@default": {"num_of_gpus": 2, "num_of_cpus": 4, "memory": "32Gi"}}},
    ),
    Case(
        "portable resources, site over default",
        meta={"resource_spec": {"@default": {"num_of_cpus": 4, "memory": "32Gi"}, "site-1": {"num_of_cpus": 2}}},
    ),
    Case(
        "portable resources beside native ones",
        spec={"image": IMAGE, "cpu": "1", "memory": "1Gi"},
        meta={"resource_spec": {"@default": {"num_of_gpus": 1, "memory": "2Gi"}}},
    ),
    Case(
        "native GPUs over portable ones",
        spec={"image": IMAGE, "num_of_gpus": 0},
        meta={"resource_spec": {"site-1": {"num_of_gpus": 4}}},
    ),
    Case("resources of another site", meta={"resource_spec": {"site-2": {"num_of_gpus": 4}}}),
    Case(
        "executor without resources of its own",
        argo={"executor_resources": {}},
        executor={"securityContext": RESTRICTED},
    ),
)

STUDIES = (
    study_case(
        "datasets of version 2",
        study(datasets={"a": dataset("pvc-a", "ro"), "b": dataset("pvc-b", "rw")}),
        closed=("pvc-a",),
    ),
    study_case(
        "one claim for two datasets, read and written",
        study(datasets={"in": dataset("pvc", "ro"), "out": dataset("pvc", "rw")}),
    ),
    study_case(
        "one claim for two datasets, both read",
        study(datasets={"x": dataset("pvc", "ro"), "y": dataset("pvc", "ro")}),
        closed=("pvc",),
    ),
    study_case(
        "long and odd names of datasets", study(datasets={"a_b-" + "c" * 50: dataset("pvc", "ro")}), closed=("pvc",)
    ),
    study_case("environment", study(env={"EPOCHS": 5, "RATE": 0.1, "FAST": True, "NAME": "two words"})),
    study_case("secret environment", study(secret_env={"DB_PASSWORD": {"source": "db", "key": "password"}})),
    study_case("secret mounts", study(secret_mounts={"keys": {"source": "keys", "mount_path": "/etc/keys"}})),
    study_case(
        "secret mounts of some keys",
        study(
            secret_mounts={"tls": {"source": "tls", "mount_path": "/tls", "mode": "ro", "items": {"crt": "a/tls.crt"}}}
        ),
    ),
    study_case(
        "all that a study can have",
        study(
            datasets={"a": dataset("pvc-a", "ro")},
            env={"A": "1"},
            secret_env={"B": {"source": "s", "key": "k"}},
            secret_mounts={"c": {"source": "s", "mount_path": "/c"}},
        ),
        closed=("pvc-a",),
    ),
    Case("job without a study beside a study file", runtime=study(env={"A": "1"})),
    Case("study without an entry", meta={"study": "unknown"}, runtime=study(), labels={"flargo.dev/study": "unknown"}),
    Case(
        "datasets of version 1",
        meta={"study": STUDY},
        data=V1_DATA,
        closed=("pvc-images",),
        labels={"flargo.dev/study": STUDY},
    ),
    Case(
        "study without an entry in version 1",
        meta={"study": "unknown"},
        data=V1_DATA,
        labels={"flargo.dev/study": "unknown"},
    ),
    Case("job without a study beside version 1", data=V1_DATA),
    Case(
        "version 1 file that is not there",
        meta={"study": STUDY},
        arguments={"study_data_pvc_file_path": "/nowhere/study_data.yaml"},
        labels={"flargo.dev/study": STUDY},
    ),
)

TEMPLATES = (
    study_case("empty pod template", template()),
    study_case(
        "pod template with labels and annotations",
        template(
            labels={"team": "cardio", "app.kubernetes.io/managed-by": "Helm"}, annotations={"contact": "a@example.com"}
        ),
    ),
    study_case(
        "pod template for nodes",
        template(
            {
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
                "schedulerName": "volcano",
                "priorityClassName": "batch",
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
                            ]
                        }
                    }
                },
            }
        ),
    ),
    study_case(
        "pod template for the network",
        template(
            {
                "hostNetwork": True,
                "dnsPolicy": "ClusterFirstWithHostNet",
                "dnsConfig": {"nameservers": ["10.0.0.1"], "options": [{"name": "ndots", "value": "2"}]},
                "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["server"]}],
            }
        ),
    ),
    study_case(
        "pod template with all that only a patch can say",
        template(
            {
                "terminationGracePeriodSeconds": 60,
                "runtimeClassName": "nvidia",
                "enableServiceLinks": False,
                "shareProcessNamespace": True,
                "hostname": "worker",
                "subdomain": "jobs",
                "preemptionPolicy": "Never",
                "setHostnameAsFQDN": False,
                "hostUsers": False,
                "hostIPC": False,
                "hostPID": False,
                "nodeName": "node-1",
                "priority": 5,
                "os": {"name": "linux"},
                "overhead": {"cpu": "1m"},
                "schedulingGates": [{"name": "a/b"}],
                "readinessGates": [{"conditionType": "a/b"}],
                "resources": {"limits": {"cpu": "4"}},
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpus"}],
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
            }
        ),
    ),
    study_case("pod template with a deadline", template({"activeDeadlineSeconds": 3600})),
    study_case(
        "pod template with a service account",
        template({"serviceAccountName": "cardio", "automountServiceAccountToken": True}),
        account="cardio",
        token=True,
    ),
    study_case("pod template with another namespace", template(namespace="elsewhere")),
    study_case("pod template with a sidecar", template({"containers": [{"name": "nvflare_job"}, SIDECAR]})),
    study_case("sidecar before the job", template({"containers": [SIDECAR, {"name": "nvflare_job"}]})),
    study_case(
        "sidecar with probes by a port's name",
        template(
            {
                "containers": [
                    {"name": "nvflare_job"},
                    {
                        **SIDECAR,
                        "ports": [{"name": "http", "containerPort": 80}],
                        "resources": {"limits": {"cpu": 1}},
                        "livenessProbe": {"httpGet": {"port": "http", "path": "/live"}},
                        "readinessProbe": {"tcpSocket": {"port": 80}},
                        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                    },
                ]
            }
        ),
    ),
    study_case(
        "native sidecar and init containers",
        template(
            {
                "containers": [{"name": "nvflare_job"}],
                "initContainers": [
                    {**SIDECAR, "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["true"]}}},
                    {"name": "fetch", "image": "busybox", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
                ],
                "volumes": [{"name": "x", "emptyDir": {}}],
            }
        ),
    ),
    study_case(
        "the job's container by its job's name",
        template({"containers": [SIDECAR, {"name": f"container-j{JOB_ID}", "workingDir": "/work"}]}),
        meta={"job_id": JOB_ID},
    ),
    study_case(
        "job container with much of its own",
        template(
            {
                "containers": [
                    {
                        "name": "nvflare_job",
                        "image": "is/replaced",
                        "command": ["is replaced"],
                        "imagePullPolicy": "Never",
                        "env": [
                            {"name": "A", "value": "1"},
                            {"name": "PYTHONPATH", "value": "is replaced"},
                            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                        ],
                        "envFrom": [{"configMapRef": {"name": "shared"}}],
                        "workingDir": "/work",
                        "tty": True,
                        "stdin": False,
                        "ports": [{"containerPort": 9000, "protocol": "TCP"}],
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch", "subPath": "a"}],
                        "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 10},
                    }
                ],
                "volumes": [NFS],
            }
        ),
    ),
    study_case(
        "pod template with volumes of many kinds",
        template(
            {
                "containers": [{"name": "nvflare_job", "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}],
                "volumes": [
                    NFS,
                    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                    {
                        "name": "config",
                        "configMap": {"name": "c", "items": [{"key": "a", "path": "b"}], "defaultMode": 292},
                    },
                    {
                        "name": "both",
                        "projected": {
                            "sources": [
                                {"secret": {"name": "s"}},
                                {
                                    "downwardAPI": {
                                        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
                                    }
                                },
                            ]
                        },
                    },
                    {
                        "name": "s3",
                        "csi": {"driver": "s3.csi.example.com", "readOnly": True, "volumeAttributes": {"b": "c"}},
                    },
                    {
                        "name": "own",
                        "ephemeral": {
                            "volumeClaimTemplate": {
                                "spec": {
                                    "accessModes": ["ReadWriteOnce"],
                                    "resources": {"requests": {"storage": "1Gi"}},
                                }
                            }
                        },
                    },
                    {"name": "workspace-job", "hostPath": {"path": "/is/replaced"}},
                ],
            }
        ),
    ),
    study_case(
        "claims in the pod template",
        template(
            {
                "containers": [
                    {
                        "name": "nvflare_job",
                        "volumeMounts": [
                            {"name": "read", "mountPath": "/read", "readOnly": True},
                            {"name": "both", "mountPath": "/both", "readOnly": True},
                        ],
                    },
                    {**SIDECAR, "volumeMounts": [{"name": "both", "mountPath": "/both"}]},
                ],
                "volumes": [
                    {"name": "read", "persistentVolumeClaim": {"claimName": "pvc-read"}},
                    {"name": "both", "persistentVolumeClaim": {"claimName": "pvc-both"}},
                    {"name": "unused", "persistentVolumeClaim": {"claimName": "pvc-unused"}},
                ],
            }
        ),
        closed=("pvc-read",),
    ),
    study_case(
        "pod template with nulls",
        template({"nodeSelector": None, "containers": [{"name": "nvflare_job", "env": None, "lifecycle": None}]}),
    ),
    study_case(
        "pull secrets of the template and of the site",
        template({"imagePullSecrets": [{"name": "mine"}]}),
        arguments={"image_pull_secrets": ["registry-a"]},
    ),
    study_case(
        "pod template from a file",
        study(pod_template="pod.yaml"),
        files={"local/pod.yaml": "kind: Pod\nspec: {nodeSelector: {pool: cpu}}\n"},
    ),
)

SECURITY = (
    Case(
        "security context of the site",
        arguments={"security_context": {"runAsUser": 5000, "fsGroup": 6000}},
        main=without(RESTRICTED, "runAsUser"),
        executor=executor(**without(RESTRICTED, "runAsUser")),
    ),
    Case(
        "all of it said by the site",
        arguments={
            "security_context": {"runAsUser": 5, "runAsNonRoot": True, "seccompProfile": {"type": "Unconfined"}}
        },
        main={"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        executor=executor(allowPrivilegeEscalation=False, capabilities={"drop": ["ALL"]}),
    ),
    Case(
        "root by the site's wish",
        arguments={"security_context": {"runAsUser": 0}},
        main=without(RESTRICTED, "runAsUser", "runAsNonRoot"),
        executor=executor(**without(RESTRICTED, "runAsUser", "runAsNonRoot")),
    ),
    Case(
        "whatever user the image has",
        arguments={"security_context": {"runAsNonRoot": False}},
        main=without(RESTRICTED, "runAsUser", "runAsNonRoot"),
        executor=executor(**without(RESTRICTED, "runAsUser", "runAsNonRoot")),
    ),
    Case(
        "another user by default",
        argo={"run_as_user": 1234},
        main={**RESTRICTED, "runAsUser": 1234},
        executor=executor(**{**RESTRICTED, "runAsUser": 1234}),
    ),
    Case("controller that looks after its own containers", argo={"patch_executor": False}, executor=None),
    study_case(
        "security context of the job's container",
        template(
            {
                "containers": [
                    {
                        "name": "nvflare_job",
                        "securityContext": {"runAsUser": 42, "runAsGroup": 43, "readOnlyRootFilesystem": True},
                    }
                ]
            }
        ),
        main={**RESTRICTED, "runAsUser": 42, "runAsGroup": 43, "readOnlyRootFilesystem": True},
        executor=executor(**{**RESTRICTED, "runAsUser": 42, "runAsGroup": 43}),
    ),
    study_case(
        "privileged job container",
        template({"containers": [{"name": "nvflare_job", "securityContext": {"privileged": True, "runAsUser": 0}}]}),
        main={"privileged": True, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        executor=executor(**{**without(RESTRICTED, "runAsNonRoot"), "runAsUser": 0}),
    ),
    study_case(
        "capabilities of the job's container",
        template(
            {"containers": [{"name": "nvflare_job", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}
        ),
        main={**without(RESTRICTED, "allowPrivilegeEscalation"), "capabilities": {"add": ["SYS_ADMIN"]}},
    ),
)

POLICY = (
    Case("running time", argo={"policy": {"running_time": 7200}}, deadline=7200),
    study_case(
        "running time longer than the template's",
        template({"activeDeadlineSeconds": 60}),
        argo={"policy": {"running_time": 7200}},
        deadline=60,
    ),
    study_case(
        "running time shorter than the template's",
        template({"activeDeadlineSeconds": 9000}),
        argo={"policy": {"running_time": 7200}},
        deadline=7200,
    ),
    Case("drain delay", argo={"drain_delay": 60}, drain=(60, 90)),
    study_case(
        "drain delay beside the template's grace period and hook",
        template(
            {
                "terminationGracePeriodSeconds": 10,
                "containers": [
                    {"name": "nvflare_job", "lifecycle": {"preStop": {"exec": {"command": ["/bin/upload"]}}}}
                ],
            }
        ),
        argo={"drain_delay": 60},
        drain=(60, 70),
    ),
    Case(
        "job that may be started again",
        spec={"image": IMAGE, "argo": {"rejoin": 5}},
        argo={"policy": {"rejoin": 2}},
        labels={"flargo.dev/attempt-number": "1"},
    ),
    Case("job that the site does not start again", spec={"image": IMAGE, "argo": {"rejoin": 5}}),
    Case(
        "within the site's policy",
        spec={"image": IMAGE, "cpu": 2, "memory": "8Gi", "python_path": "/usr/bin/python3", "num_of_gpus": "1"},
        argo={
            "policy": {
                "images": ["registry.example.com/flare/*"],
                "python_paths": ["/usr/bin/python3"],
                "cpu": "2000m",
                "memory": 2**33,
                "ephemeral_storage": "1Gi",
                "gpus": 1,
            }
        },
    ),
)

PLACES = (
    Case("set options", options=("secure_train=true", "org=nvidia", "config_folder=config")),
    Case("python of the job", spec={"image": IMAGE, "python_path": "/opt/conda/bin/python"}),
    Case("python of the site", arguments={"default_python_path": "/usr/bin/python3", "python_path": "/is/not/taken"}),
    Case("python of the site by its old name", arguments={"python_path": "/usr/bin/python3"}),
    Case("another workspace", arguments={"workspace_mount_path": "/workspace"}),
    Case("another namespace", arguments={"namespace": "hospital-a"}),
    Case("keys without meaning", spec={"image": IMAGE, "unknown": 1, "shm_size": "1g"}),
    Case("pending timeout", spec={"image": IMAGE, "pending_timeout": 0}, arguments={"timeout": 3600}),
    Case("no credentials to carry", process={"auth_token": ("-t", ""), "auth_signature": None, "ssid": ("-d", None)}),
    Case("option without a value", process={"parent_conn_sec": ("--parent_conn_sec", None)}),
    Case(
        "site with odd characters",
        site="Université de Montréal / Site #1",
        labels={"flargo.dev/site": hashed_label("Universite-de-Montreal-Site-1", "Université de Montréal / Site #1")},
    ),
    Case("site with a long name", site="a" * 70, labels={"flargo.dev/site": hashed_label("a" * 41, "a" * 70)}),
    Case("site with capitals and dots", site="Hospital.A_1", labels={"flargo.dev/site": "Hospital.A_1"}),
    Case("site with digits only", site="007", labels={"flargo.dev/site": "007"}),
    Case("job id with odd characters", meta={"job_id": "Job_1.a"}, labels={"flargo.dev/job-id": "Job_1.a"}),
    Case(
        "labels and annotations of the site",
        argo={"labels": {"cost-centre": "42"}, "annotations": {"example.com/note": "a b"}},
        labels={"cost-centre": "42"},
        annotations={"example.com/note": "a b"},
    ),
    Case(
        "accounts and instance of the site",
        argo={"service_account": "jobs", "executor_service_account": "argo-x", "instance_id": "prod"},
        account="jobs",
    ),
    Case("queued", argo={"semaphore": {"name": "flargo-queue", "key": "jobs"}, "queued": 86400}),
)

CASES = (*IMAGES, *RESOURCES, *STUDIES, *TEMPLATES, *SECURITY, *POLICY, *PLACES)


def samples() -> Iterator[tuple[str, Settings, Launch]]:
    """Yield a name, settings and a launch, for every case and both roles, each with a job id of its own.

    A case that sets the job's id keeps it, and has one role only, so that no two pods have the same name.
    """
    for case in CASES:
        for role in [Role.CLIENT] if "job_id" in case.meta else list(Role):
            name = f"{role}: {case.name}"
            own = {"job_id": str(uuid5(NAMESPACE_URL, name)), **case.meta}
            with tempfile.TemporaryDirectory() as directory:
                root = Path(directory)
                yield name, case.settings(root), replace(case, meta=own).launch(root, role)
