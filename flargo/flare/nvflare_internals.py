"""The only module that uses nvflare's internals: its rules for names, loaders, renderer, transfer and executor.

nvflare 2.9 does not promise to keep them; a release that moves one of them breaks this file and no other. What only
adoption and the probe need is imported when they need it: ``find_changes`` and ``find_probe_changes`` say whether
nvflare still has it, and a parent whose nvflare lacks it still launches jobs, without further attempts.
"""

import ast
import importlib
import inspect
import logging
import stat
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey, RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobProcessArgs
from nvflare.app_opt.job_launcher.k8s_launcher import (
    K8sJobHandle,
    _job_args_dict,
    _keep_startup_file,
    job_pod_name,
    site_name_to_rfc1123,
    study_dataset_volume_name,
    study_secret_volume_name,
    uuid4_to_rfc1123,
)
from nvflare.app_opt.job_launcher.study_data import (
    load_study_data_file,
    resolve_study_dataset_mounts,
    should_mount_study_data,
)
from nvflare.app_opt.job_launcher.study_runtime import (
    _safe_relative_path,
    load_study_runtime_file,
    resolve_study_runtime,
    study_runtime_file_path,
)
from nvflare.app_opt.job_launcher.workspace_cell_transfer import (
    ENV_WORKSPACE_OWNER_FQCN,
    ENV_WORKSPACE_TRANSFER_TOKEN,
    WorkspaceTransferManager,
)
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode, ReturnReason
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.utils.job_launcher_utils import (
    get_client_job_args,
    get_credential_env,
    get_job_launcher_spec,
    get_portable_resource_spec,
    get_server_job_args,
    get_site_launcher_spec,
)

from flargo.job.documents import MAX_TEXT_BYTES, load_yaml
from flargo.parsing import is_uid
from flargo.terms import Object, Role, ServerJob

OWNER_VARIABLE: str = ENV_WORKSPACE_OWNER_FQCN
"""The environment variable with the name of the cell from which a job's process fetches its workspace."""
TOKEN_VARIABLE: str = ENV_WORKSPACE_TRANSFER_TOKEN
"""The environment variable with the token that authorises a job's process to fetch its workspace."""
MODE = "k8s"
"""The key of launcher_spec that holds a job's options for this launcher; nvflare's server accepts no other key."""
PROBE_SECONDS = 5.0
"""Seconds after which a probe of the server's job process has no answer."""
TOKEN_SECONDS = 60.0
"""Seconds for which a request of a job's process waits until its token is known. FLARE's process waits 300 s."""
_ECHO = ("_net_manager", "echo")
"""The channel and the topic at which every cell answers with the payload it gets (cellnet/net_agent.py)."""
HEART_BEAT_TIMEOUT = 600.0
"""Seconds without a heartbeat after which FLARE's server takes a client for dead.

It is FLARE's default, and what ``nvflare provision`` writes. Only the server's own ``resources.json`` can set another
(``servers[].heart_beat_timeout``), and FLARE tells no client."""
_EXECUTOR = "private.fed.client.client_executor"
_TRANSFER = "app_opt.job_launcher.workspace_cell_transfer"
_DEFS = "fuel.f3.cellnet.defs"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the pod, and its mount in the job's container."""

    volume: Object
    mount: Object


@dataclass(frozen=True, slots=True)
class Study:
    """A site's configuration of one study, from its study file."""

    image: str | None = None
    pod_template: Object | None = None
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] | None = None
    secret_env: tuple[Object, ...] = ()
    """Variables from Secrets, each with ``name``, ``source`` and ``key``, as the renderer expects them."""


def job_key(job_id: str) -> str:
    """Return a job id in the form that it has in Kubernetes names."""
    return str(uuid4_to_rfc1123(job_id))


def pod_name(key: str, site: str) -> str:
    """Return the name of a job's pod at a site; ``key`` is the job's ``job_key``."""
    return str(job_pod_name(key, site))


def site_key(site: str) -> str:
    """Return a site's name in the form that it has in Kubernetes names."""
    return str(site_name_to_rfc1123(site))


def is_startup_file(name: str) -> bool:
    """Return whether a job's process reads this file of the startup kit."""
    return bool(_keep_startup_file(name))


def launcher_spec(job_meta: dict[str, Any], site: str) -> dict[str, Any]:
    """Return a job's options for this launcher at a site: the job's defaults, overridden by the site's part."""
    return get_job_launcher_spec(job_meta, site, MODE)  # type: ignore[no-any-return]


def is_nested_resource_spec(site_spec: dict[str, Any]) -> bool:
    """Return whether a site's part of resource_spec has a block for each launcher, and is not one block for all."""
    return get_site_launcher_spec(site_spec, "process") is not site_spec


def portable_spec(job_meta: dict[str, Any], site: str) -> dict[str, Any]:
    """Return the resources of a job's resource_spec, which is common to all of nvflare's launchers.

    Raises:
        ValueError: nvflare does not allow one of them.
    """
    return get_portable_resource_spec(job_meta, site)  # type: ignore[no-any-return]


def exe_module(process_args: Mapping[str, Any]) -> str | None:
    """Return the Python module that a job's process runs; None if FLARE does not name one."""
    entry = process_args.get(JobProcessArgs.EXE_MODULE)
    return str(entry[1]) if entry else None


def module_args(process_args: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return the options of the module that a job's process runs, without credentials and without ``--set``."""
    option_names = (get_server_job_args if role is Role.SERVER else get_client_job_args)(False, False)
    return dict(_job_args_dict(process_args, option_names))


def credential_env(process_args: Mapping[str, Any]) -> dict[str, str]:
    """Return the job process's credentials, by the environment variables that it reads them from."""
    return dict(get_credential_env(process_args))


def study_runtime_file(workspace: str) -> str:
    """Return the path of a site's study_runtime.yaml (version 2); the file need not exist."""
    return str(study_runtime_file_path(workspace))


def pod_template_files(runtime: Any) -> list[str]:
    """Return the files that a study_runtime.yaml names as pod templates, relative to its own folder."""
    studies = runtime.get("studies") if isinstance(runtime, dict) else None
    entries = studies.values() if isinstance(studies, dict) else ()
    templates = [entry.get("pod_template") for entry in entries if isinstance(entry, dict)]
    files = set()
    for template in templates:
        if isinstance(template, str) and template:
            with suppress(ValueError):  # nvflare refuses the path later, with a message of its own
                files.add(str(_safe_relative_path(template, "pod_template", "")))
    return sorted(files)


def load_study_runtime(file: str | None, study: str | None) -> Study:
    """Load a study from study_runtime.yaml.

    Raises:
        DocumentError: the file, or a pod template that it names, is not YAML or exceeds the limits of YAML.
        ValueError: nvflare does not accept the file; the message may quote it.
    """
    if file is not None:
        for template in pod_template_files(_load_if_exists(file)):
            _load_if_exists(str(Path(file).parent / template))
    runtime = resolve_study_runtime(load_study_runtime_file(file, MODE, logger=_log), study, file, logger=_log)
    secret_mounts = tuple(_secret_mount(mount) for mount in runtime.secret_mounts)
    return Study(
        image=runtime.container_image,
        pod_template=runtime.pod_template,
        mounts=tuple(_dataset_mount(mount) for mount in runtime.datasets) + secret_mounts,
        env=dict(runtime.env),
        secret_env=tuple({"name": ref.name, "source": ref.source, "key": ref.key} for ref in runtime.secret_env),
    )


def load_study_data(file: str | None, study: str | None) -> Study:
    """Load a study from study_data.yaml (version 1).

    Raises:
        DocumentError: the file is not YAML or exceeds the limits of YAML.
        ValueError: nvflare does not accept the file; the message may quote it.
    """
    if file is None or not should_mount_study_data(study):
        return Study()
    _load_if_exists(file)
    datasets = resolve_study_dataset_mounts(load_study_data_file(file, logger=_log), study, file, logger=_log)
    return Study(mounts=tuple(_dataset_mount(dataset) for dataset in datasets))


def render_pod(job_config: Object, *, name: str, key: str, python: str, pod_template: Object | None) -> Object:
    """Render the stock launcher's pod with its own renderer. The pod shares no object with the arguments.

    Raises:
        ValueError: the pod template cannot be merged with the job.
    """
    handle = K8sJobHandle(
        key,
        None,
        job_config,
        python_path=python,
        pod_name=name,
        pod_manifest_template=pod_template,
    )
    pod: Object = handle.get_manifest()
    return pod


def config_endings() -> dict[str, str]:
    """Return the endings of the files that FLARE reads a configuration from, with the format of each.

    FLARE looks for them in this order, and reads the first one that is there.
    """
    from nvflare.fuel.utils.config import ConfigFormat  # noqa: PLC0415  (the tools' alone)

    return {ending: config_format.value for ending, config_format in ConfigFormat.config_ext_formats().items()}


def parse_config(config_format: str, text: str) -> Any:
    """Parse a configuration as FLARE's server does (job_meta_validator.py). ``config_format`` is FLARE's name for it.

    Raises:
        ModuleNotFoundError: the package that FLARE parses this format with is not installed.
        Exception: anything else that the parser raises. Its text may quote the configuration.
    """
    from nvflare.fuel.utils.config import ConfigFormat  # noqa: PLC0415  (as above)
    from nvflare.fuel.utils.config_factory import ConfigFactory  # noqa: PLC0415

    loader = ConfigFactory.get_config_loader(ConfigFormat(config_format))
    return loader.load_config_from_str(text).to_dict()


def participants(entry: Any) -> list[str]:
    """Return the sites of an entry of a job's deploy_map, in any form that FLARE's server accepts.

    Raises:
        ValueError: the entry has another form; the message may quote it.
    """
    from nvflare.private.fed.utils.fed_utils import extract_participants  # noqa: PLC0415  (as above)

    return [*extract_participants(entry)]


def add_deploy_detail(fl_ctx: FLContext, text: str) -> None:
    """Add a line to job_deploy_detail, which FLARE's server keeps if a job's start fails (job_runner.py, ``run``)."""
    details = fl_ctx.get_prop(FLContextKey.JOB_DEPLOY_DETAIL)
    if isinstance(details, list):
        details.append(text)


class WorkspaceTransfer:
    """One job's registration with the parent's workspace transfer, from which its process fetches its workspace."""

    def __init__(self, cell: Any, job_id: str, workspace: str) -> None:
        """Prepare the registration; call ``register`` to make it.

        Args:
            cell: the parent's cell.
            job_id: FLARE's id of the job.
            workspace: the parent's workspace folder.
        """
        self._cell = cell
        self._manager = WorkspaceTransferManager.get_or_create(cell)
        self._job_id = job_id
        self._workspace = workspace
        self._record: Any = None
        """nvflare's record of the registration."""
        self._token: str | None = None

    @property
    def owner(self) -> str:
        """The name of the parent's cell."""
        return str(self._manager.owner_fqcn)

    def register(self) -> str:
        """Register the job; return the token with which its process fetches its workspace and delivers its results."""
        self._token = str(self._manager.add_job(self._job_id, self._workspace))
        self._record = self._manager.jobs.get(self._job_id)
        return self._token

    def remove(self) -> None:
        """Remove the registration. Repeated calls are allowed. The registration of a later launch of the job stays."""
        if self._record is not None and self._manager.jobs.get(self._job_id) is self._record:
            self._manager.remove_job(self._job_id)
        if isinstance(self._record, _AwaitedToken):
            self._record.answer("")
        self._record = self._token = None

    def expect(self) -> None:
        """Register the job again although the token is not known yet: its process waits for ``restore``.

        FLARE's process asks its parent once when it begins and once when it has ended, and fails if it is refused. A
        parent that has restarted has to read the token first.

        Raises:
            AdoptionError: the job is registered already, or has no run directory to which results could be delivered.
        """
        _require_run_directory(self._workspace, self._job_id)
        record = _awaiting_record(self._job_id, self._workspace)
        with self._manager._lock:  # noqa: SLF001  (the manager has no method that takes a token)
            if self._job_id in self._manager.jobs:
                raise AdoptionError(f"the workspace transfer of job {self._job_id} is registered already")
            self._manager.jobs[self._job_id] = record
        self._record = record

    def restore(self, token: str) -> None:
        """Register the job again with the token that an earlier run of this parent registered it with.

        A process that got the token then fetches its workspace and delivers its results with it.

        Raises:
            AdoptionError: as for ``expect``, which need not have been called; or the token is empty.
        """
        if not token:
            raise AdoptionError(f"job {self._job_id} has no workspace transfer token")
        if self._record is None:
            self.expect()
        self._record.answer(token)
        self._token = token

    @property
    def is_connected(self) -> bool:
        """True while the job's own process is connected with the parent."""
        return bool(self._cell.is_cell_connected(FQCN.join([self.owner, self._job_id])))

    @property
    def has_results(self) -> bool:
        """True once the parent has the job's results, which is when the transfer manager removes its record."""
        return self._token is not None and self._job_id not in self._manager.jobs


class _AwaitedToken:
    """The part of a job's record with the transfer token: whoever reads the token waits until it is known."""

    def __init__(self) -> None:
        self._token = ""
        self._is_known = threading.Event()

    @property
    def transfer_token(self) -> str:
        self._is_known.wait(TOKEN_SECONDS)
        return self._token

    def answer(self, token: str) -> None:
        """Let those who wait have the token; empty: there is none, so their requests are refused."""
        self._token = token
        self._is_known.set()


def _awaiting_record(job_id: str, workspace: str) -> Any:
    """Return nvflare's record of a job whose token is not known yet."""
    base: Any = _internal(_TRANSFER, "_JobTransferRecord")

    class Record(_AwaitedToken, base):  # type: ignore[misc]  # nvflare is untyped
        def __init__(self) -> None:
            _AwaitedToken.__init__(self)
            self.job_id, self.workspace_root = job_id, workspace
            self.download_tx_id = self.download_bundle_path = ""

    return Record()


class AdoptionError(Exception):
    """A job that an earlier run of this parent launched cannot be registered again; the message says why."""


def adopt_job(fl_ctx: FLContext, job_id: str, handle: JobHandleSpec, workspace: str, *, has_started: bool) -> None:
    """Register a running job with the executor of a client's parent, as if this parent had launched it.

    From then on the parent's heartbeats name the job, FLARE's aborts reach the handle, and FLARE reports the handle's
    return code to the server and fires JOB_COMPLETED. FLARE starts one thread, which waits for the handle.

    EventType.AFTER_CLIENT_REGISTER is the event at which to call this: the parent is registered with the server, and
    its first heartbeat comes later. A heartbeat that lacks a job makes the server report the job as
    FINISHED:ABNORMAL if the server's process of the job has ended already.

    A reservation that an earlier run made with the site's resource manager is not freed.

    Args:
        fl_ctx: a context of the client's parent.
        job_id: FLARE's id of the job.
        handle: the job's handle.
        workspace: the parent's workspace folder.
        has_started: the job's process may have connected to an earlier run of this parent. FLARE first asks such a
            process to end, and terminates the handle 10 s later; it reports exit code 1 of such a process as a failure
            of the program, and otherwise as one of the infrastructure.

    Raises:
        AdoptionError: the executor knows the job already, or the job has no run directory.
        OSError: the run directory cannot be read.
        RuntimeError: the operating system allows no more threads.
    """
    _require_run_directory(workspace, job_id)
    engine = fl_ctx.get_engine()
    executor = engine.client_executor
    status = "ClientStatus.STARTED" if has_started else "ClientStatus.STARTING"
    # The executor tells a heartbeat's cleanup from an abort by an argument of terminate, which only this class takes.
    wrapped = _internal(_EXECUTOR, "_PendingJobHandle")()
    wrapped.attach(handle)
    entry = {
        RunProcessKey.JOB_HANDLE: wrapped,
        RunProcessKey.STATUS: _internal(_EXECUTOR, status),
        _internal(_EXECUTOR, "_ABORT_REQUESTED_KEY"): False,
    }
    with executor.lock:
        if job_id in executor.run_processes:
            raise AdoptionError(f"FLARE's executor knows job {job_id} already")
        executor.run_processes[job_id] = entry
    arguments = (engine.client, job_id, None, None, None, workspace, engine.new_context())
    try:
        threading.Thread(target=executor._wait_child_process_finish, args=arguments).start()  # noqa: SLF001
    except BaseException:
        with executor.lock:
            executor.run_processes.pop(job_id, None)
        raise


def find_changes() -> tuple[str, ...]:
    """Return how the installed nvflare differs from what adoption and the probe rely on; empty if it does not.

    It compares the names, parameters and attributes that they use, the keys of an entry in the executor's table of
    jobs, and all state of the executor and of the transfer manager: an adopted job would lack state that is new.
    Each difference is one line of text. The check parses a source file of nvflare, which takes some milliseconds.
    """
    return (*_find_changes(_ADOPTION), *find_probe_changes())


def find_probe_changes() -> tuple[str, ...]:
    """Return how the installed nvflare differs from what the probe of a server's process relies on.

    The probe itself never fails: with another nvflare it would only never have an answer.
    """
    return _find_changes(_PROBE)


def _find_changes(known: "_Known") -> tuple[str, ...]:
    return tuple(change for member in known for change in _compare(*member))


def _compare(module: str, name: str, read: Callable[[Any], object], expected: object) -> Iterator[str]:
    """Yield a text if what is read from a member of nvflare is not what is expected."""
    where = f"nvflare.{module}.{name}"
    try:
        actual = read(_internal(module, name))
    except Exception as error:  # noqa: BLE001  (an import runs nvflare's code, which may raise anything)
        yield f"{where} cannot be read ({type(error).__name__})"
        return
    if actual != expected:
        yield f"{where} has {actual!r}, not {expected!r}"


def _value(member: object) -> object:
    return member


def _parameters(function: Callable[..., object]) -> str:
    """Return the names of the parameters of a function, or of a class's constructor."""
    return " ".join(inspect.signature(function).parameters)


def _state(kind: Any) -> str:
    """Return the names of the attributes that a class's constructor sets."""
    constructor = ast.parse(textwrap.dedent(inspect.getsource(kind.__init__)))
    attributes = [node for node in ast.walk(constructor) if isinstance(node, ast.Attribute)]
    return " ".join(sorted({node.attr for node in attributes if isinstance(node.ctx, ast.Store)}))


def _engine_state(engine: Any) -> str:
    """Return which of the attributes that adoption reads a client's engine has."""
    return " ".join(name for name in _state(engine).split() if name in {"cell", "client", "client_executor"})


def _core_cell(cell: Any) -> str:
    """Return the name of a cell's attribute through which the probe sends, if the cell has it."""
    return " ".join(name for name in _state(cell).split() if name == "core_cell")


def _entry_keys(executor: type) -> str:
    """Return the names of the keys of an entry in the executor's table of jobs that its methods use."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(executor))))
    constants = {node.id for node in nodes if isinstance(node, ast.Name) and node.id.endswith("_KEY")}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    keys = {node.attr for node in attributes if ast.unparse(node.value) == RunProcessKey.__name__}
    return " ".join(sorted(keys | constants))


_Known = tuple[tuple[str, str, Callable[[Any], object], object], ...]
"""Members of nvflare: where each is, how to read what matters of it, and what is known to work. All of it is the same
in 2.9.0 and 2.9.1rc5."""
_ADOPTION: _Known = (
    (
        _EXECUTOR,
        "JobExecutor._wait_child_process_finish",
        _parameters,
        "self client job_id allocated_resource token resource_manager workspace fl_ctx",
    ),
    (_EXECUTOR, "JobExecutor.abort_app", _parameters, "self job_id heartbeat_cleanup"),
    (_EXECUTOR, "JobExecutor", _state, "client job_query_timeout lock logger run_processes startup"),
    (_EXECUTOR, "JobExecutor", _entry_keys, "JOB_HANDLE STATUS _ABORT_REQUESTED_KEY"),
    (_EXECUTOR, "_ABORT_REQUESTED_KEY", _value, "_abort_requested"),
    (_EXECUTOR, "ClientStatus.STARTING", _value, 1),
    (_EXECUTOR, "ClientStatus.STARTED", _value, 2),
    (_EXECUTOR, "_PendingJobHandle", _parameters, ""),
    (_EXECUTOR, "_PendingJobHandle.attach", _parameters, "self job_handle"),
    (_EXECUTOR, "_PendingJobHandle.terminate", _parameters, "self heartbeat_cleanup"),
    (_EXECUTOR, "_PendingJobHandle.poll", _parameters, "self"),
    (_EXECUTOR, "_PendingJobHandle.wait", _parameters, "self"),
    ("private.fed.client.client_engine", "ClientEngine", _engine_state, "cell client client_executor"),
    ("private.fed.client.client_engine", "ClientEngine.new_context", _parameters, "self"),
    (
        _TRANSFER,
        "WorkspaceTransferManager",
        _state,
        "_lock cell download_timeout jobs owner_fqcn per_request_timeout",
    ),
    (_TRANSFER, "WorkspaceTransferManager.get_or_create", _parameters, "cell"),
    (_TRANSFER, "WorkspaceTransferManager.remove_job", _parameters, "self job_id"),
    (
        _TRANSFER,
        "_JobTransferRecord",
        _parameters,
        "job_id workspace_root transfer_token download_tx_id download_bundle_path",
    ),
)
_PROBE: _Known = (
    ("fuel.f3.cellnet.cell", "Cell", _core_cell, "core_cell"),
    (
        "fuel.f3.cellnet.core_cell",
        "CoreCell.send_request",
        _parameters,
        "self channel topic target request timeout secure optional",
    ),
    ("fuel.f3.cellnet.net_agent", "_CHANNEL", _value, _ECHO[0]),
    ("fuel.f3.cellnet.net_agent", "_TOPIC_ECHO", _value, _ECHO[1]),
    (_DEFS, "MessageHeaderKey.RETURN_CODE", _value, "cn__return_code"),
    (_DEFS, "MessageHeaderKey.RETURN_REASON", _value, "cn__return_reason"),
    (_DEFS, "MessageHeaderKey.ORIGIN", _value, "cn__origin"),
    (_DEFS, "ReturnCode.OK", _value, "ok"),
    (_DEFS, "ReturnReason.CANT_FORWARD", _value, "cant_forward"),
    ("fuel.f3.cellnet.fqcn", "FQCN.ROOT_SERVER", _value, "server"),
)


def _internal(module: str, name: str) -> Any:
    """Return a member of one of nvflare's modules, by its path in the module."""
    value: Any = importlib.import_module(f"nvflare.{module}")
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _require_run_directory(workspace: str, job_id: str) -> None:
    """Require that a job has a run directory. The id may come from an object that anybody can write.

    Raises:
        AdoptionError: it has none.
        OSError: that cannot be found out.
    """
    if not is_uid(job_id):
        raise AdoptionError("the id of a job has 1 to 128 letters, digits and '-'")
    directory = Path(workspace, job_id)
    try:
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_directory = False
    if not is_directory:
        raise AdoptionError(f"job {job_id} has no run directory {directory}")


class ServerJobProbe:
    """Asks whether the server's process of a job runs.

    The process is a cell of its own below the server's cell. It leaves the server's cell a few seconds before it ends,
    and joins it only some seconds after its program has started, so GONE also describes a process that is starting.
    """

    def __init__(self, cell: Any, job_id: str) -> None:
        """Prepare the probe; nothing is sent yet.

        Args:
            cell: the cell of the client's parent, registered with the server.
            job_id: FLARE's id of the job.
        """
        self._cell = cell
        self._target = FQCN.join([FQCN.ROOT_SERVER, job_id])

    def probe(self) -> ServerJob:
        """Send one request, and wait for its answer for at most ``PROBE_SECONDS``. Never raises.

        A living process answers within milliseconds, and so does the server about a process that is gone.
        """
        channel, topic = _ECHO
        try:
            # Cell.send_request would stream the request, which the other side does not expect on this channel.
            reply = self._cell.core_cell.send_request(
                channel=channel,
                topic=topic,
                target=self._target,
                request=Message(payload=bytes(8)),
                timeout=PROBE_SECONDS,
                optional=True,
            )
            return self._read(reply)
        except Exception as error:  # noqa: BLE001  (a cell that is stopping raises various types)
            _log.debug("probe of %s failed with %s", self._target, type(error).__name__)
            return ServerJob.UNKNOWN

    def _read(self, reply: Message) -> ServerJob:
        code, origin = reply.get_header(MessageHeaderKey.RETURN_CODE), reply.get_header(MessageHeaderKey.ORIGIN)
        if code == ReturnCode.OK and origin == self._target:
            return ServerJob.RUNS
        # The server returns what it cannot forward. A relay on the way does the same if it has lost the server, and
        # this parent's own cell reports errors without an origin.
        reason = reply.get_header(MessageHeaderKey.RETURN_REASON)
        if reason == ReturnReason.CANT_FORWARD and origin == FQCN.ROOT_SERVER:
            return ServerJob.GONE
        return ServerJob.UNKNOWN


def _load_if_exists(file: str) -> Any:
    """Parse a YAML file within limits, before nvflare's loaders, which have none, read it; None if it can't be read."""
    try:
        with Path(file).open("rb") as stream:
            text = stream.read(MAX_TEXT_BYTES + 1)
    except OSError:
        return None  # nvflare raises an error for it later
    return load_yaml(file, text)


def _dataset_mount(dataset: Any) -> Mount:
    name = study_dataset_volume_name(dataset.study, dataset.dataset)
    return Mount(
        volume={"name": name, "persistentVolumeClaim": {"claimName": dataset.source}},
        mount={"name": name, "mountPath": dataset.mount_path, "readOnly": dataset.read_only},
    )


def _secret_mount(secret: Any) -> Mount:
    name = study_secret_volume_name(secret.study, secret.name)
    source: Object = {"secretName": secret.source}
    if secret.items:
        source["items"] = [{"key": key, "path": path} for key, path in secret.items]
    return Mount(
        volume={"name": name, "secret": source},
        mount={"name": name, "mountPath": secret.mount_path, "readOnly": True},
    )
