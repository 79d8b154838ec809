"""Prepares the job folder that the demo submits: FLARE's own federated average, or a copy of the user's folder."""

import contextlib
import json
import os
import shutil
import stat
from importlib import resources
from pathlib import Path
from typing import Any

from flargo.flare import job_meta
from flargo.flare.nvflare_internals import participants
from flargo.job.validate import InvalidInput
from flargo.parsing import whole_number
from flargo.tools.demo.options import DemoError

INITIAL_WEIGHTS = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
"""The global model's weights before the first round."""
ROUND_SECONDS = 6
"""The seconds that a round of a job that can be drained takes at each site: time to evict a pod in the middle of it."""
MAX_REJOINS = 1
"""How often a site starts the program of such a job again."""
MAX_SITES = 100
"""The limit for the sites of a job, because the demo starts a process for each."""
MODEL_PATH = "models/server.npy"
"""The file in the job's workspace to which FLARE's NumPy persistor saves the model."""


def export_fedavg(folder: Path, sites: int, rounds: int, image: str, *, can_be_drained: bool = False) -> Path:
    """Export FLARE's NumpyFedAvgRecipe with the demo's training script below a folder, and return the job folder.

    Args:
        folder: the folder that will hold the job folder.
        sites: the number of sites, all of which take part.
        rounds: the number of rounds.
        image: the image of the job's pods.
        can_be_drained: rounds take some seconds, and a site may start the job's program again if it is lost.
    """
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe  # noqa: PLC0415  (a slow import)

    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "train.py"
    script.write_text(resources.files("flargo.tools.demo").joinpath("train.py").read_text())
    # A job must not contain a path of this machine, so the script's path is relative.
    with contextlib.chdir(folder):
        model = [list(row) for row in INITIAL_WEIGHTS]
        recipe = NumpyFedAvgRecipe(
            name="fedavg",
            model=model,
            min_clients=sites,
            num_rounds=rounds,
            train_script=script.name,
            train_args=f"--seconds {ROUND_SECONDS}" if can_be_drained else "",
        )
        recipe.export(str(folder))
    job = add_default_image(folder / "fedavg", image)
    if can_be_drained:
        meta = read_meta(job)
        meta["launcher_spec"]["default"]["k8s"]["argo"] = {"rejoin": MAX_REJOINS}
        (job / "meta.json").write_text(json.dumps(meta, indent=2))
    return job


def expected_weights(sites: int, rounds: int) -> list[list[float]]:
    """Return the weights with which the demo's own job must end: site-N adds N to each weight, and has weight N."""
    numbers = range(1, sites + 1)
    step = rounds * sum(number * number for number in numbers) / sum(numbers)
    return [[weight + step for weight in row] for row in INITIAL_WEIGHTS]


def copy_job(job: Path, folder: Path, image: str | None) -> Path:
    """Copy the user's job into a folder, add a default image if it has none, and return the copy.

    Raises:
        DemoError: the folder is not a job, contains a link, or neither the job nor the user names an image.
    """
    check_files(job)
    read_meta(job)
    copy = folder / job.resolve().name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(job, copy, symlinks=True)
    check_files(copy)  # the job may have changed during the copy
    return add_default_image(copy, image)


def check_files(job: Path) -> None:
    """Check that a job folder contains only directories and regular files: FLARE would send a link's target to sites.

    Raises:
        DemoError: the folder contains something else; names it.
    """
    for directory, directories, files in os.walk(job):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                problem = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                raise DemoError(f"{path} is {problem}: replace it by a copy, since a job folder may hold only files.")


def read_meta(job: Path) -> dict[str, Any]:
    """Return a job folder's metadata.

    Raises:
        DemoError: there is none, or it cannot be read.
    """
    try:
        return job_meta.read_meta(job)
    except InvalidInput as error:
        raise DemoError(f"{error.field} {error.problem}.") from None


def meta_name(job: Path) -> str:
    """Return the name of the file in a job folder that FLARE reads the job's metadata from."""
    return job_meta.find_meta(job).name


def site_names(meta: dict[str, Any], count: int, file: str = "meta.json") -> tuple[str, ...]:
    """Return the sites that a job's metadata names; if it names none, ``count`` sites (or more, if it needs more).

    Args:
        meta: the metadata.
        count: the number of sites that a person has chosen.
        file: the name of the metadata's file, for messages.

    Raises:
        DemoError: the metadata names sites in a wrong form, or too many.
    """
    deploy_map, mandatory = meta.get("deploy_map") or {}, meta.get("mandatory_clients") or []
    if not isinstance(deploy_map, dict):
        raise DemoError(f"deploy_map in the job's {file} must be an object.")
    if not isinstance(mandatory, list) or not all(isinstance(site, str) for site in mandatory):
        raise DemoError(f"mandatory_clients in the job's {file} must be a list of site names.")
    deployed = [site for app, entry in deploy_map.items() for site in _deployment(app, entry, file)]
    sites = tuple(name for name in dict.fromkeys([*deployed, *mandatory]) if not _is_server_or_all(name))
    if len(sites) > MAX_SITES:
        raise DemoError(f"The job's {file} names {len(sites)} sites, but the demo starts at most {MAX_SITES}.")
    return sites or tuple(f"site-{number}" for number in range(1, max(count, _min_clients(meta, file)) + 1))


def _deployment(app: str, entry: object, file: str) -> list[str]:
    with contextlib.suppress(ValueError):
        sites = participants(entry)
        if all(isinstance(site, str) for site in sites):
            return sites
    raise DemoError(f"deploy_map[{app!r}] in the job's {file} must be a list of site names.")


def _is_server_or_all(site: str) -> bool:
    return site.casefold() == "@all" or site == "server"


def _min_clients(meta: dict[str, Any], file: str) -> int:
    """Return the least number of sites; FLARE also takes 2.0, "2" and true for a number."""
    value = meta.get("min_clients") or 1
    is_number = isinstance(value, int | float) and abs(value) < MAX_SITES + 1
    text = str(int(value)) if is_number else value
    number = whole_number(text, MAX_SITES) if isinstance(text, str) else None
    if number is None:
        raise DemoError(f"min_clients in the job's {file} must be a whole number from 0 to {MAX_SITES}.")
    return number


def names_default_image(meta: dict[str, Any]) -> bool:
    """Return whether a job's metadata names an image for all sites."""
    value: Any = meta
    for key in ("launcher_spec", "default", "k8s"):
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, dict) and "image" in value


def add_default_image(job: Path, image: str | None) -> Path:
    """Add a default image to a job folder's ``launcher_spec`` if it has none, and return the folder.

    The metadata is written to meta.json, which FLARE reads before any other.

    Raises:
        DemoError: the job has no default image, and ``image`` is None.
    """
    meta = read_meta(job)
    default = meta
    for key in ("launcher_spec", "default", "k8s"):
        default = default.setdefault(key, {})
        if not isinstance(default, dict):
            raise DemoError(f"{key} in {job_meta.find_meta(job)} must be an object.")
    if "image" not in default:
        if image is None:
            raise DemoError(
                "Job pods on a real cluster need an image with Python and nvflare: name it with --image, "
                "or in the job's launcher_spec."
            )
        default["image"] = image
    (job / "meta.json").write_text(json.dumps(meta, indent=2))
    return job
