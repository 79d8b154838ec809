"""From FLARE's launch call to a launch: what is read, what is kept, what is registered when."""

import hashlib
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager

from flargo.flare.nvflare_internals import WorkspaceTransfer
from flargo.flare.request import federation_id, read_launch
from flargo.job.settings import Settings, check_settings
from flargo.job.validate import InvalidInput
from flargo.terms import Launch, Role
from tests.harness.differential.cases import ATTEMPT, EPOCH, JOB_ID, Case
from tests.harness.differential.parent import CERTIFICATE, FEDERATION, KIT, Cell, Parent

PLAIN = Case("plain")


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return Parent(tmp_path, Role.CLIENT)


def ask(
    parent: Parent, context: FLContext | None = None, site: Settings | None = None
) -> tuple[Launch, WorkspaceTransfer]:
    return read_launch(
        PLAIN.job_meta,
        context or parent.context(JOB_ID),
        parent.role,
        site or check_settings(),
        attempt=ATTEMPT,
        epoch=EPOCH,
    )


def manager_of(context: FLContext) -> WorkspaceTransferManager:
    return WorkspaceTransferManager.get_or_create(context.get_engine().cell)


def test_a_launch_says_who_asks_for_what(parent: Parent) -> None:
    launch, _ = ask(parent)
    assert (launch.job_id, launch.job_name, launch.study) == (JOB_ID, "fedavg", "")
    assert (launch.parent.site, launch.parent.federation) == ("site-1", FEDERATION)
    assert (launch.parent.epoch, launch.parent.role, launch.attempt) == (EPOCH, Role.CLIENT, ATTEMPT)
    assert launch.container == f"container-j{JOB_ID}"
    assert launch.pod["spec"]["containers"][0]["name"] == launch.container


def test_the_federation_is_the_hash_of_the_root_certificate(parent: Parent) -> None:
    assert federation_id(parent.root / "startup") == hashlib.sha256(CERTIFICATE).hexdigest()[:32]


def test_the_federation_does_not_depend_on_how_the_certificate_is_written(parent: Parent) -> None:
    file = parent.root / "startup" / "rootCA.pem"
    before = federation_id(file.parent)
    file.write_bytes(b"a comment before\r\n" + KIT["rootCA.pem"].replace(b"\n", b"\r\n") + b"\nand after")
    assert federation_id(file.parent) == before


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"],
    ids=["missing", "empty", "another text", "broken"],
)
def test_without_a_root_certificate_nothing_is_launched(parent: Parent, content: bytes | None) -> None:
    file = parent.root / "startup" / "rootCA.pem"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"rootCA\.pem.*nvflare provision"):
        ask(parent)


def test_the_startup_kit_travels_as_a_secret_that_nobody_sees(parent: Parent) -> None:
    launch, _ = ask(parent)
    assert launch.startup.data == KIT
    assert launch.startup.name == f"nvflare-startup-site-1-f505dccd-{FEDERATION}"
    assert "a \\x00 key" not in repr(launch)
    assert "a token" not in repr(launch)


def test_a_startup_kit_that_is_too_large_for_a_secret_is_refused(parent: Parent) -> None:
    (parent.root / "startup" / "huge.json").write_bytes(b" " * 1024 * 1024)
    with pytest.raises(InvalidInput, match="1048576"):
        ask(parent)


def test_a_startup_file_that_no_secret_can_name_is_refused(parent: Parent) -> None:
    (parent.root / "startup" / "a b.json").write_bytes(b"{}")
    with pytest.raises(InvalidInput, match=r"a b\.json"):
        ask(parent)


def test_credentials_are_read_by_the_pod_from_its_own_secret(parent: Parent) -> None:
    launch, _ = ask(parent)
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for variable in launch.pod["spec"]["containers"][0]["env"]
        if "valueFrom" in variable
    ]
    assert {reference["name"] for reference in references} == {launch.credentials.name}
    assert {reference["key"] for reference in references} == set(launch.credentials.data)
    assert launch.credentials.name == f"nvflare-cred-{launch.pod['metadata']['name']}-{ATTEMPT}"


def test_the_transfer_is_registered_with_the_token_that_the_pod_gets(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    launch, _ = ask(parent, context)
    record = manager_of(context).jobs[JOB_ID]
    assert launch.credentials.data["NVFL_WORKSPACE_TRANSFER_TOKEN"] == record.transfer_token.encode()
    assert record.workspace_root == str(parent.root)


def test_the_process_is_connected_when_the_parents_cell_knows_its(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    context.get_engine().cell.connected = {"site-1", f"site-1.ws_transfer_{JOB_ID}"}
    assert not transfer.is_connected, "what fetches the workspace is not the job yet"
    context.get_engine().cell.connected.add(f"site-1.{JOB_ID}")
    assert transfer.is_connected


def test_a_refused_launch_registers_nothing(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    (parent.root / "local" / "study_runtime.yaml").write_text("format_version: 1")
    with pytest.raises(ValueError, match="format_version"):
        ask(parent, context)
    assert manager_of(context).jobs == {}


def test_a_registered_transfer_can_be_taken_back_more_than_once(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    transfer.remove()
    transfer.remove()
    assert manager_of(context).jobs == {}
    assert not transfer.has_results


def test_taking_back_leaves_a_later_launch_of_the_same_job_alone(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, first = ask(parent, context)
    later, _ = ask(parent, context)
    first.remove()
    token = later.credentials.data["NVFL_WORKSPACE_TRANSFER_TOKEN"]
    assert manager_of(context).jobs[JOB_ID].transfer_token.encode() == token


def test_results_that_came_home_are_known(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    assert not transfer.has_results
    manager_of(context).remove_job(JOB_ID)  # as it does itself when it has extracted them
    assert transfer.has_results


def test_a_transfer_is_not_published_before_it_is_registered() -> None:
    assert not WorkspaceTransfer(Cell("site-1"), JOB_ID, "/workspace").has_results


def test_nothing_of_the_context_is_kept(tmp_path: Path) -> None:
    parent = Parent(tmp_path, Role.SERVER, options=("a=b",))
    context, meta = parent.context(JOB_ID), PLAIN.job_meta
    site = check_settings(security_context={"runAsUser": 5})
    launch, _ = read_launch(meta, context, Role.SERVER, site, attempt=ATTEMPT, epoch=EPOCH)
    before = deepcopy(launch)
    meta["launcher_spec"]["site-1"]["k8s"]["image"] = "another"
    context.get_prop(FLContextKey.ARGS).set.append("c=d")
    context.get_prop(FLContextKey.JOB_PROCESS_ARGS).clear()
    assert launch == before


def test_neither_metadata_nor_context_is_changed(parent: Parent) -> None:
    context, meta = parent.context(JOB_ID), PLAIN.job_meta
    args = deepcopy(context.get_prop(FLContextKey.JOB_PROCESS_ARGS))
    read_launch(meta, context, Role.CLIENT, check_settings(), attempt=ATTEMPT, epoch=EPOCH)
    assert meta == PLAIN.job_meta
    assert context.get_prop(FLContextKey.JOB_PROCESS_ARGS) == args


def test_no_network_is_used(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    ask(parent)


@pytest.mark.parametrize(
    ("spec", "of_site", "pending"),
    [
        ({}, 120, 120),
        ({}, None, None),
        ({"pending_timeout": 7.5}, 120, 7.5),
        ({"pending_timeout": 0}, 120, 0),
        ({"pending_timeout": None}, 120, None),
    ],
)
def test_pending_timeout_is_the_jobs_then_the_sites(
    parent: Parent, spec: dict[str, Any], of_site: float | None, pending: float | None
) -> None:
    case = Case("pending", spec={"image": "x", **spec})
    site = check_settings(pending_timeout=of_site)
    launch, _ = read_launch(case.job_meta, parent.context(JOB_ID), Role.CLIENT, site, attempt=ATTEMPT, epoch=EPOCH)
    assert launch.pending == pending


@pytest.mark.parametrize("of_site", [3600, None])
@pytest.mark.parametrize("spec", [{}, {"pending_timeout": 60}, {"pending_timeout": 0}])
def test_a_ceiling_of_pending_timeout_holds_jobs_and_not_the_site(
    parent: Parent, spec: dict[str, Any], of_site: float | None
) -> None:
    case = Case("pending", spec={"image": "x", **spec})
    site = check_settings(pending_timeout=of_site, argo={"policy": {"pending_timeout": 60}})
    launch, _ = read_launch(case.job_meta, parent.context(JOB_ID), Role.CLIENT, site, attempt=ATTEMPT, epoch=EPOCH)
    assert launch.pending == spec.get("pending_timeout", of_site)


@pytest.mark.parametrize("attempt", ["", "A", "a-b", "a" * 21])
def test_a_launch_needs_an_id_that_fits_into_names(parent: Parent, attempt: str) -> None:
    with pytest.raises(InvalidInput, match="attempt"):
        read_launch(PLAIN.job_meta, parent.context(JOB_ID), Role.CLIENT, check_settings(), attempt=attempt, epoch=EPOCH)
