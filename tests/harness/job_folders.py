"""Writes job folders for tests: a federated average whose result is known, and the same job with faults.

They equal what NumpyFedAvgRecipe exports (one server workflow, and one training script that runs in the client job's
own process), but are written here so that no recipe has to be imported and each part can be replaced.
"""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SITES = ("site-1", "site-2")
INITIAL = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
"""The global model before the first round."""

_SHAREABLES = {
    "id": "shareable_generator",
    "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
    "args": {},
}
_AGGREGATOR = {
    "id": "aggregator",
    "path": "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
    "args": {"expected_data_kind": "WEIGHTS"},
}
WORKFLOWS: Mapping[str, Callable[[int], tuple[str, dict[str, Any], list[dict[str, Any]]]]] = {
    "fedavg": lambda clients: ("nvflare.app_common.workflows.fedavg.FedAvg", {"num_clients": clients}, []),
    "scatter and gather": lambda clients: (
        "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        {
            "min_clients": clients,
            "wait_time_after_min_received": 0,
            "persistor_id": "persistor",
            "shareable_generator_id": "shareable_generator",
            "aggregator_id": "aggregator",
        },
        [_SHAREABLES, _AGGREGATOR],
    ),
    "cyclic": lambda _: ("nvflare.app_common.workflows.cyclic_ctl.CyclicController", {}, [_SHAREABLES]),
}
"""The controllers of a job's server by name: a function of the number of clients, which returns the controller's class,
its arguments but the number of rounds, and the components that it needs beside the model's storage."""
COUNT_CONTRIBUTIONS = """
import os
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.app_constant import AppConstants

def on_event(event_type, fl_ctx):
    if event_type != EventType.BEFORE_PROCESS_SUBMISSION:
        return
    site = fl_ctx.get_peer_context().get_identity_name()
    number = fl_ctx.get_prop(FLContextKey.TASK_RESULT).get_header(AppConstants.CURRENT_ROUND)
    folder = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())
    with open(os.path.join(folder, "contributions.txt"), "a") as file:
        file.write(f"{site} {number}\\n")

component.on_event = on_event
"""
"""Server code that writes a line with the site and the round of every result that arrives to ``contributions.txt``."""

IGNORE_SIGTERM = "import ctypes\nctypes.CDLL(None).signal(15, ctypes.c_void_p(1))\n"
"""Code that makes its process ignore SIGTERM. The training script runs in a thread, where Python's own
``signal.signal`` refuses to work."""


def allocate(mebibytes: int, seconds: float = 3600) -> str:
    """Return code that really uses so much memory, and keeps it."""
    return f"import time\nheld = [b'x' * 2**20 for _ in range({mebibytes})]\ntime.sleep({seconds})\n"


def training(sites: Sequence[str] = SITES, pause: float | Mapping[str, float] = 0, arrays: int = 0) -> str:
    """Return the regular training script: the n-th site adds n to each weight, and reports n steps.

    Sites thus differ in both their results and their weight in the average; ``pause`` is the seconds of a round, for
    all sites or by site. With ``arrays``, a result has so many arrays of zeros in addition, which make its upload long.
    """
    pauses = pause if isinstance(pause, Mapping) else dict.fromkeys(sites, pause)
    return textwrap.dedent(f"""\
        import time

        import numpy as np
        import nvflare.client as flare

        SITES = {list(sites)!r}
        PAUSES = {dict(pauses)!r}

        flare.init()
        site = flare.get_site_name()
        number = SITES.index(site) + 1
        while flare.is_running():
            model = flare.receive()
            if model is None:
                break
            print(f"flargo: training round {{model.current_round}}", flush=True)
            time.sleep(PAUSES[site])
            params = {{key: value + number for key, value in model.params.items()}}
            params |= {{f"zeros {{index}}": np.zeros(512) for index in range({arrays})}}
            print(f"flargo: trained round {{model.current_round}}", flush=True)
            flare.send(flare.FLModel(params=params, meta={{"NUM_STEPS_CURRENT_ROUND": number}}))
            print(f"flargo: sent round {{model.current_round}}", flush=True)
        """)


def fedavg(
    path: Path,
    *,
    image: str | None,
    rounds: int = 3,
    launcher_spec_extra: Mapping[str, Mapping[str, Any]] | None = None,
    sites: Sequence[str] = SITES,
    pause: float | Mapping[str, float] = 0,
    **more: Any,
) -> Path:
    """Write the job that averages :func:`training` over all sites, and return its folder.

    :param path: the job's folder, whose name is the job's; its parent must exist
    :param image: the job's container image; None leaves ``launcher_spec`` out
    :param rounds: number of rounds
    :param launcher_spec_extra: keys to add to the ``k8s`` dictionary of a site or of ``default``
    :param sites: the federation's sites, all of which take part
    :param pause: seconds that each round lasts at the sites, or at each site by name
    :param more: further arguments of :func:`script`
    """
    spec = launcher_spec_extra
    code = training(sites, pause)
    return script(path, image=image, code=code, rounds=rounds, launcher_spec_extra=spec, sites=sites, **more)


def cyclic_expected(rounds: int = 3, sites: Sequence[str] = SITES) -> npt.NDArray[np.float64]:
    """Return the final model if :func:`training` runs in the workflow ``cyclic``: each site adds its number in turn."""
    return np.array(INITIAL, dtype=np.float64) + rounds * sum(range(1, len(sites) + 1))


def fedavg_expected(rounds: int = 3, sites: Sequence[str] = SITES) -> npt.NDArray[np.float64]:
    """Return the final model of :func:`fedavg`, to be compared within float32's precision."""
    numbers = range(1, len(sites) + 1)
    step = sum(number * number for number in numbers) / sum(numbers)
    return np.array(INITIAL, dtype=np.float64) + rounds * step


def script(
    path: Path,
    *,
    image: str | None,
    code: str | Mapping[str, str],
    rounds: int = 3,
    launcher_spec_extra: Mapping[str, Mapping[str, Any]] | None = None,
    sites: Sequence[str] = SITES,
    server_code: str | None = None,
    meta: Mapping[str, Any] | None = None,
    workflow: str = "fedavg",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the same job with another training script, and return its folder.

    :param code: the script of all sites, or that of each site by name (others run :func:`training`). It runs
        in a thread of the client's job process
    :param server_code: code to run in the server's job process when the run starts, on its main thread, with
        ``fl_ctx`` and ``component`` at hand
    :param meta: further entries of ``meta.json``, such as ``study`` or ``resource_spec``
    :param workflow: a key of :data:`WORKFLOWS`
    :param settings: further entries of all configurations, such as ``np_download_chunk_size``
    """
    scripts = {} if isinstance(code, str) else dict(code)
    common = code if isinstance(code, str) else training(sites)
    server = _server(workflow, len(sites), rounds, hook=server_code is not None)
    _app(path / "app_server", "server", {**server, **(settings or {})})
    if server_code is not None:
        _text(path / "app_server" / "custom" / "flargo_test_hook.py", _hook(server_code))
    for site in sites:
        _app(path / f"app_{site}", "client", {**_client(), **(settings or {})})
        _text(path / f"app_{site}" / "custom" / "train.py", scripts.get(site, common))
    values = {
        "name": path.name,
        "resource_spec": {},
        "min_clients": len(sites),
        "mandatory_clients": list(sites),
        "deploy_map": {f"app_{name}": [name] for name in ("server", *sites)},
        **({"launcher_spec": _launcher_spec(image, launcher_spec_extra)} if image else {}),
        **(meta or {}),
    }
    _text(path / "meta.json", json.dumps(values, indent=2))
    return path


def _launcher_spec(image: str, extra: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return a ``launcher_spec`` with the image for all sites, and the extra keys of each site (or ``default``)."""
    spec: dict[str, dict[str, Any]] = {"default": {"image": image}}
    for name, keys in (extra or {}).items():
        spec.setdefault(name, {}).update(keys)
    return {name: {"k8s": keys} for name, keys in spec.items()}


def _server(workflow: str, clients: int, rounds: int, *, hook: bool) -> dict[str, Any]:
    """Return the server's configuration: a workflow, with the model stored as a numpy file."""
    path, args, components = WORKFLOWS[workflow](clients)
    persistor = {
        "id": "persistor",
        "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
        "args": {"model": INITIAL},
    }
    controller = {"id": "controller", "path": path, "args": {"num_rounds": rounds, **args}}
    hooks = [{"id": "flargo_test_hook", "path": "flargo_test_hook.Hook", "args": {}}] if hook else []
    return {"workflows": [controller], "components": [persistor, *components, *hooks]}


def _client() -> dict[str, Any]:
    """Return a client's configuration: each task goes to the training script through FLARE's client API."""
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {"execution_mode": "in_process", "task_script_path": "train.py", "params_exchange_format": "numpy"},
    }
    return {"executors": [{"tasks": ["*"], "executor": executor}], "components": []}


def _hook(code: str) -> str:
    """Return the source of a server component that runs ``code`` when the run starts."""
    return textwrap.dedent(f"""\
        from nvflare.apis.event_type import EventType
        from nvflare.apis.fl_component import FLComponent

        CODE = {code!r}


        class Hook(FLComponent):
            def handle_event(self, event_type, fl_ctx):
                if event_type == EventType.START_RUN:
                    exec(compile(CODE, "server_code", "exec"), {{"fl_ctx": fl_ctx, "component": self}})
                self.on_event(event_type, fl_ctx)

            def on_event(self, event_type, fl_ctx):
                pass  # the code may replace this method
        """)


def _app(folder: Path, role: str, config: Mapping[str, Any]) -> None:
    """Write an application's configuration."""
    values = {"format_version": 2, **config, "task_data_filters": [], "task_result_filters": []}
    _text(folder / "config" / f"config_fed_{role}.json", json.dumps(values, indent=2))


def _text(path: Path, text: str) -> None:
    """Write a file, and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
