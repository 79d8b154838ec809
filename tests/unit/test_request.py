"""Reading a launch from FLARE's call: which values it has, that it copies them, and when the transfer is registered."""

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


def test_launch_identifies_job_and_parent(parent: Parent) -> None:
    launch, _ = ask(parent)
    assert (launch.job_id, launch.job_name, launch.study) == (JOB_ID, "fedavg", "")
    assert (launch.parent.site, launch.parent.federation) == ("site-1", FEDERATION)
    assert (launch.parent.epoch, launch.parent.role, launch.attempt) == (EPOCH, Role.CLIENT, ATTEMPT)
    assert launch.container == f"container-j{JOB_ID}"
    assert launch.pod["spec"]["containers"][0]["name"] == launch.container


def test_federation_is_the_certificates_hash(parent: Parent) -> None:
    assert federation_id(parent.root / "startup") == hashlib.sha256(CERTIFICATE).hexdigest()[:32]


def test_federation_ignores_certificate_formatting(parent: Parent) -> None:
    file = parent.root / "startup" / "rootCA.pem"
    before = federation_id(file.parent)
    file.write_bytes(b"a comment before\r\n" + KIT["rootCA.pem"].replace(b"\n", b"\r\n") + b"\nand after")
    assert federation_id(file.parent) == before


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"],
    ids=["missing", "empty", "another text", "broken"],
)
def test_a_missing_root_certificate_is_refused(parent: Parent, content: bytes | None) -> None:
    file = parent.root / "startup" / "rootCA.pem"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"rootCA\.pem.*nvflare provision"):
        ask(parent)


def test_startup_kit_becomes_a_hidden_secret(parent: Parent) -> None:
    """The launch's repr shows no byte of the startup kit and no token."""
    launch, _ = ask(parent)
    assert launch.startup.data == KIT
    assert launch.startup.name == f"nvflare-startup-site-1-f505dccd-{FEDERATION}"
    assert "a \\x00 key" not in repr(launch)
    assert "a token" not in repr(launch)


def test_an_oversized_startup_kit_is_refused(parent: Parent) -> None:
    """A Secret could not hold it."""
    (parent.root / "startup" / "huge.json").write_bytes(b" " * 1024 * 1024)
    with pytest.raises(InvalidInput, match="1048576"):
        ask(parent)


def test_an_invalid_startup_file_name_is_refused(parent: Parent) -> None:
    """No key of a Secret may have such a name."""
    (parent.root / "startup" / "a b.json").write_bytes(b"{}")
    with pytest.raises(InvalidInput, match=r"a b\.json"):
        ask(parent)


def test_pod_reads_credentials_from_its_secret(parent: Parent) -> None:
    launch, _ = ask(parent)
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for variable in launch.pod["spec"]["containers"][0]["env"]
        if "valueFrom" in variable
    ]
    assert {reference["name"] for reference in references} == {launch.credentials.name}
    assert {reference["key"] for reference in references} == set(launch.credentials.data)
    assert launch.credentials.name == f"nvflare-cred-{launch.pod['metadata']['name']}-{ATTEMPT}"


def test_transfer_has_the_pods_token(parent: Parent) -> None:
    """The workspace transfer is registered with the token that the pod gets."""
    context = parent.context(JOB_ID)
    launch, _ = ask(parent, context)
    record = manager_of(context).jobs[JOB_ID]
    assert launch.credentials.data["NVFL_WORKSPACE_TRANSFER_TOKEN"] == record.transfer_token.encode()
    assert record.workspace_root == str(parent.root)


def test_is_connected_needs_the_jobs_own_cell(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    context.get_engine().cell.connected = {"site-1", f"site-1.ws_transfer_{JOB_ID}"}
    assert not transfer.is_connected, "what fetches the workspace is not the job yet"
    context.get_engine().cell.connected.add(f"site-1.{JOB_ID}")
    assert transfer.is_connected


def test_a_refused_launch_registers_no_transfer(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    (parent.root / "local" / "study_runtime.yaml").write_text("format_version: 1")
    with pytest.raises(ValueError, match="format_version"):
        ask(parent, context)
    assert manager_of(context).jobs == {}


def test_transfer_can_be_removed_repeatedly(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    transfer.remove()
    transfer.remove()
    assert manager_of(context).jobs == {}
    assert not transfer.has_results


def test_remove_keeps_a_later_launchs_transfer(parent: Parent) -> None:
    """A later launch of the same job has registered the transfer again."""
    context = parent.context(JOB_ID)
    _, first = ask(parent, context)
    later, _ = ask(parent, context)
    first.remove()
    token = later.credentials.data["NVFL_WORKSPACE_TRANSFER_TOKEN"]
    assert manager_of(context).jobs[JOB_ID].transfer_token.encode() == token


def test_transfer_has_results_after_delivery(parent: Parent) -> None:
    context = parent.context(JOB_ID)
    _, transfer = ask(parent, context)
    assert not transfer.has_results
    manager_of(context).remove_job(JOB_ID)  # as it does itself when it has extracted them
    assert transfer.has_results


def test_an_unregistered_transfer_has_no_results() -> None:
    assert not WorkspaceTransfer(Cell("site-1"), JOB_ID, "/workspace").has_results


def test_launch_shares_nothing_with_the_context(tmp_path: Path) -> None:
    """Changes of the metadata and of FLARE's context after the call do not change the launch."""
    parent = Parent(tmp_path, Role.SERVER, options=("a=b",))
    context, meta = parent.context(JOB_ID), PLAIN.job_meta
    site = check_settings(security_context={"runAsUser": 5})
    launch, _ = read_launch(meta, context, Role.SERVER, site, attempt=ATTEMPT, epoch=EPOCH)
    before = deepcopy(launch)
    meta["launcher_spec"]["site-1"]["k8s"]["image"] = "another"
    context.get_prop(FLContextKey.ARGS).set.append("c=d")
    context.get_prop(FLContextKey.JOB_PROCESS_ARGS).clear()
    assert launch == before


def test_metadata_and_context_are_not_changed(parent: Parent) -> None:
    context, meta = parent.context(JOB_ID), PLAIN.job_meta
    args = deepcopy(context.get_prop(FLContextKey.JOB_PROCESS_ARGS))
    read_launch(meta, context, Role.CLIENT, check_settings(), attempt=ATTEMPT, epoch=EPOCH)
    assert meta == PLAIN.job_meta
    assert context.get_prop(FLContextKey.JOB_PROCESS_ARGS) == args


def test_reading_a_launch_opens_no_socket(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_pending_timeout_defaults_to_the_sites(
    parent: Parent, spec: dict[str, Any], of_site: float | None, pending: float | None
) -> None:
    case = Case("pending", spec={"image": "x", **spec})
    site = check_settings(pending_timeout=of_site)
    launch, _ = read_launch(case.job_meta, parent.context(JOB_ID), Role.CLIENT, site, attempt=ATTEMPT, epoch=EPOCH)
    assert launch.pending == pending


@pytest.mark.parametrize("of_site", [3600, None])
@pytest.mark.parametrize("spec", [{}, {"pending_timeout": 60}, {"pending_timeout": 0}])
def test_pending_timeout_limit_applies_to_jobs_only(
    parent: Parent, spec: dict[str, Any], of_site: float | None
) -> None:
    """The policy's limit does not apply to the site's own pending_timeout."""
    case = Case("pending", spec={"image": "x", **spec})
    site = check_settings(pending_timeout=of_site, argo={"policy": {"pending_timeout": 60}})
    launch, _ = read_launch(case.job_meta, parent.context(JOB_ID), Role.CLIENT, site, attempt=ATTEMPT, epoch=EPOCH)
    assert launch.pending == spec.get("pending_timeout", of_site)


@pytest.mark.parametrize("attempt", ["", "A", "a-b", "a" * 21])
def test_an_invalid_attempt_id_is_refused(parent: Parent, attempt: str) -> None:
    """The id of the attempt is part of object names."""
    with pytest.raises(InvalidInput, match="attempt"):
        read_launch(PLAIN.job_meta, parent.context(JOB_ID), Role.CLIENT, check_settings(), attempt=attempt, epoch=EPOCH)
