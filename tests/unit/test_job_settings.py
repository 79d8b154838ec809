"""A launcher's arguments: the stock launcher's defaults, its refusals and some more, and those for Argo."""

import inspect
from dataclasses import asdict
from typing import Any

import pytest
import urllib3
from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher

from flargo.job.settings import check_settings
from flargo.job.validate import InvalidInput

STOCK_REFUSES = [
    {"study_data_pvc_file_path": ""},
    {"study_data_pvc_file_path": 5},
    {"pending_timeout": -3},
    {"pending_timeout": True},
    {"pending_timeout": "120"},
    {"default_python_path": ""},
    {"default_python_path": 5},
    {"python_path": ""},
    {"ephemeral_storage": ""},
    {"ephemeral_storage": None},
    {"ephemeral_storage": 5},
    {"workspace_mount_path": ""},
    {"workspace_mount_path": None},
    {"image_pull_secrets": "registry"},
    {"image_pull_secrets": ("registry",)},
    {"image_pull_secrets": [""]},
    {"image_pull_secrets": [" "]},
    {"image_pull_secrets": ["a", 1]},
]
FLARGO_REFUSES = [
    {"config_file_path": 5},
    {"timeout": -1},
    {"timeout": "1h"},
    {"namespace": "Not A Name"},
    {"namespace": ""},
    {"pending_timeout": float("nan")},
    {"security_context": ["runAsUser"]},
    {"ephemeral_storage": "1 GB"},
    {"workspace_mount_path": "not/absolute"},
    {"image_pull_secrets": ["Not A Name"]},
]
BAD_URLS = [
    "",
    5,
    "alerts.example",
    "ftp://alerts.example",
    "http://alerts.example",
    "http://0.0.0.0:8080",
    "http://127.0.0.1.example",
    "http://localhost.example",
    "http://127.0.0.1@alerts.example",
    "https://me:s3cret@alerts.example",
    "https://alerts.example#part",
    "https://alerts.example:0",
    "https://alerts.example:65536",
    "https://-alerts.example",
    "https://[::1",
    "https://[1.2.3.4.5]",
    "https://alerts.example\\@other.example",
    "https://alerts.example/a b",
    "https://alerts.example/\r\nHost: other",
    "https://alerts.example/ü",
    "https://alerts.example/%2",
    "https:///path",
    f"https://alerts.example/{'a' * 5000}",
]
ARGO_REFUSES = [
    {"service_account": "Not A Name"},
    {"executor_service_account": None},
    {"image_pull_policy": "Sometimes"},
    {"gpu_resource": "two words"},
    {"gpu_resource": "gpu"},
    {"labels": {"a b": "c"}},
    {"labels": {"a": "b c"}},
    {"labels": ["a"]},
    {"labels": {"flargo.dev/job-id": "mine"}},
    {"labels": {"workflows.argoproj.io/completed": "true"}},
    {"labels": {"app.kubernetes.io/managed-by": "me"}},
    {"annotations": {"a": 1}},
    {"annotations": {"workflows.argoproj.io/title": "mine"}},
    {"instance_id": ""},
    {"keep_success": 3},
    {"keep_success": -1},
    {"keep_failure": "1d"},
    {"kill_grace": 0},
    {"kill_grace": 1.5},
    {"patch_executor": "yes"},
    {"executor_resources": {"limits": {"cpu": "many"}}},
    {"executor_resources": {"cpu": "1"}},
    {"run_as_user": 0},
    {"policy": {"memory": "much"}},
    {"policy": {"gpus": -1}},
    {"policy": {"images": "registry.example/*"}},
    {"policy": {"images": ["registry.example*"]}},
    {"policy": {"images": ["*/flare"]}},
    {"policy": {"digests": "yes"}},
    {"policy": {"python_paths": ["$(HOME)/python"]}},
    {"policy": {"running_time": 0}},
    {"policy": {"pending_timeout": -1}},
    {"policy": {"pending_timeout": "600"}},
    {"policy": {"priority": 1}},
    {"policy": []},
    {"semaphore": "flargo-queue"},
    {"semaphore": {"name": "flargo-queue"}},
    {"semaphore": {"key": "jobs"}},
    {"semaphore": {"name": "Not A Name", "key": "jobs"}},
    {"semaphore": {"name": "flargo-queue", "key": "{{workflow.name}}"}},
    {"semaphore": {"name": "flargo-queue", "key": ".."}},
    {"semaphore": {"name": "flargo-queue", "key": "jobs", "namespace": "others"}},
    {"unclaimed": -1},
    {"starting": "soon"},
    {"unschedulable": -1},
    {"server_pending": 0},
    {"server_pending": None},
    {"server_pending": float("inf")},
    {"metrics_address": 9464},
    {"metrics_address": "9464"},
    {"metrics_address": "127.0.0.1"},
    {"metrics_address": "0.0.0.0:0"},
    {"metrics_address": "0.0.0.0:65536"},
    {"metrics_address": "localhost:9464"},
    {"metrics_address": "::1:9464"},
    {"metrics_address": "me@0.0.0.0:9464"},
    {"metrics_address": "0.0.0.0:9464/metrics"},
    {"notify": "https://alerts.example/flargo"},
    {"notify": {}},
    {"notify": {"token_file": "/etc/token"}},
    {"notify": {"url": "https://alerts.example", "token_file": "token"}},
    {"notify": {"url": "https://alerts.example", "token": "s3cret"}},
    *({"notify": {"url": url}} for url in BAD_URLS),
]


def field_name(arguments: dict[str, Any]) -> str:
    ((name, value),) = arguments.items()
    return f"{name}={value!r}"


def test_arguments_and_defaults_match_the_stock_launcher() -> None:
    stock = inspect.signature(ClientK8sJobLauncher.__init__).parameters
    ours = inspect.signature(check_settings).parameters
    assert set(ours) == set(stock) - {"self"} | {"argo"}
    defaults = {name: stock[name].default for name in set(stock) - {"self", "config_file_path"}}
    assert {name: ours[name].default for name in defaults} == defaults


def test_arguments_are_normalized_like_the_stock_launcher() -> None:
    stock = ClientK8sJobLauncher(None)
    ours = check_settings()
    assert ours.python_path == stock.default_python_path
    assert ours.pending_timeout == stock.pending_timeout
    assert ours.namespace == stock.namespace
    assert list(ours.image_pull_secrets) == stock.image_pull_secrets


@pytest.mark.parametrize("arguments", STOCK_REFUSES, ids=field_name)
def test_arguments_that_the_stock_launcher_refuses(
    arguments: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="must be"):
        ClientK8sJobLauncher(**{"config_file_path": None, **arguments})
    with pytest.raises(InvalidInput) as caught:
        check_settings(**arguments)
    ((name, value),) = arguments.items()
    assert caught.value.field.startswith("default_python_path" if name == "python_path" else name)
    culprit = (
        next((each for each in value if not isinstance(each, str) or not each.strip()), value)
        if isinstance(value, list)
        else value
    )
    assert caught.value.value == repr(culprit)
    assert caught.value.allowed


@pytest.mark.parametrize("arguments", FLARGO_REFUSES, ids=field_name)
def test_arguments_that_break_the_stock_launcher_later(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        check_settings(**arguments)


@pytest.mark.parametrize("argo", ARGO_REFUSES, ids=field_name)
def test_wrong_argo_settings_are_refused_by_name(argo: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=rf"`argo\['{next(iter(argo))}'\]"):
        check_settings(argo=argo)


def test_an_unknown_argo_setting_lists_the_known() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_settings(argo={"servce_account": "x"})
    assert "servce_account" in str(caught.value)
    assert "service_account" in caught.value.allowed


@pytest.mark.parametrize("argo", [None, {}])
def test_argo_settings_are_optional(argo: dict[str, Any] | None) -> None:
    settings = check_settings(argo=argo).argo
    assert (settings.service_account, settings.executor_service_account) == ("flargo-job", "flargo-executor")
    assert settings.image_pull_policy is None
    assert (settings.keep_success, settings.keep_failure, settings.kill_grace) == (86400, 604800, 3)
    assert settings.patch_executor
    assert (settings.unclaimed, settings.starting) == (120.0, 1800.0)


QUEUE = {"name": "flargo-queue", "key": "jobs"}


def test_a_semaphore_names_a_config_map_key() -> None:
    settings = check_settings(argo={"semaphore": QUEUE, "queued": 60}).argo
    assert settings.semaphore is not None
    assert (settings.semaphore.name, settings.semaphore.key, settings.queued) == ("flargo-queue", "jobs", 60)
    assert check_settings(argo={"semaphore": None}).argo.semaphore is None


@pytest.mark.parametrize("argo", [{"semaphore": QUEUE}, {"semaphore": QUEUE, "queued": None}], ids=str)
def test_a_semaphore_requires_queued(argo: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"`argo\['queued'\]` is None; expected a number of seconds"):
        check_settings(argo=argo)


def test_none_means_no_limit() -> None:
    settings = check_settings(
        timeout=None, pending_timeout=None, argo={"keep_success": None, "unclaimed": None, "starting": None}
    )
    assert (settings.timeout, settings.pending_timeout) == (None, None)
    assert (settings.argo.keep_success, settings.argo.unclaimed, settings.argo.starting) == (None, None, None)


def test_an_empty_kubeconfig_path_means_in_cluster() -> None:
    assert check_settings(config_file_path="").config_file_path is None


def test_settings_are_independent_of_their_arguments() -> None:
    security: dict[str, Any] = {"capabilities": {"drop": ["ALL"]}}
    argo: dict[str, Any] = {"labels": {"a": "b"}, "executor_resources": {"limits": {"cpu": "1"}}}
    settings = check_settings(security_context=security, argo=argo)
    before = asdict(settings)
    security["capabilities"]["drop"].append("NONE")
    argo["labels"]["c"] = "d"
    argo["executor_resources"]["limits"]["cpu"] = "2"
    assert asdict(settings) == before


def test_default_settings_share_nothing() -> None:
    assert check_settings().argo.executor_resources is not check_settings().argo.executor_resources


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "127.0.0.1:1", "[::]:65535", "[::1]:9464"])
def test_the_metrics_address_is_unchanged(address: str) -> None:
    assert str(check_settings(argo={"metrics_address": address}).argo.metrics_address) == address


@pytest.mark.parametrize(
    "url",
    [
        "https://alerts.example",
        "https://alerts.example:8443/a/b?c=d&e=%20",
        "https://10.0.0.1/",
        "https://[2001:db8::1]:8443/x",
        "http://localhost:8085/",
        "http://127.0.0.1:8085",
        "http://[::1]:8085/",
    ],
)
def test_a_receiver_is_reached_by_tls_or_on_this_machine(url: str) -> None:
    settings = check_settings(argo={"notify": {"url": url}}).argo
    assert settings.notify is not None
    assert (settings.notify.url, settings.notify.token_file) == (url, None)
    parts = urllib3.util.parse_url(url)
    assert parts.host is not None
    assert url.startswith(f"{parts.scheme}://{parts.host}"), "the HTTP library finds the same host"


@pytest.mark.parametrize(
    "notify",
    [
        "https://hooks.example/s3cret",
        ["s3cret"],
        {"url": "http://hooks.example/s3cret"},
        {"url": "https://me:s3cret@hooks.example"},
        {"url": "https://hooks.example", "token": "s3cret"},
        {"url": "https://hooks.example", "token_file": "s3cret"},
        {"url": "https://hooks.example", "token_file": {"s3cret": 1}},
    ],
    ids=str,
)
def test_refusal_of_a_receiver_shows_no_value(notify: Any) -> None:
    """A URL or a token in the wrong place may be a secret, and the parent's log shows the message."""
    with pytest.raises(InvalidInput) as caught:
        check_settings(argo={"notify": notify})
    error = caught.value
    assert error.field.startswith("argo['notify']")
    assert "s3cret" not in f"{error} {error.value} {error.allowed}"
    assert error.__cause__ is None


def test_a_receiver_without_a_url_is_incomplete() -> None:
    with pytest.raises(InvalidInput, match=r"`argo\['notify'\]\['url'\]` is missing; expected an https URL"):
        check_settings(argo={"notify": {}})
