"""The job that the demo submits: FLARE's own federated average, or a folder of the user's."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from flargo.job.documents import load_json
from flargo.job.validate import InvalidInput
from flargo.parsing import whole_number
from flargo.tools.demo.options import DemoError

INITIAL = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
"""The global model before the first round."""
MAX_META_BYTES = 4 * 1024 * 1024
MAX_SITES = 100
"""Sites of a job: the demo starts a process for each."""
MODEL = "models/server.npy"
"""Where FLARE's NumPy persistor leaves the model, in the job's workspace."""


def fedavg(folder: Path, sites: int, rounds: int, image: str) -> Path:
    """Export FLARE's NumPyFedAvgRecipe of the demo's training script below a folder; returns the job's folder."""
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe  # noqa: PLC0415  (a slow import)

    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "train.py"
    script.write_text(resources.files("flargo.tools.demo").joinpath("train.py").read_text())
    # A job must not name a path of this machine, so the script is named from where it is.
    with contextlib.chdir(folder):
        model = [list(row) for row in INITIAL]
        recipe = NumpyFedAvgRecipe(
            name="fedavg", model=model, min_clients=sites, num_rounds=rounds, train_script=script.name
        )
        recipe.export(str(folder))
    return with_image(folder / "fedavg", image)


def expected(sites: int, rounds: int) -> list[list[float]]:
    """The model that the demo's own job must end with: site-N adds N, and weighs N."""
    numbers = range(1, sites + 1)
    step = rounds * sum(number * number for number in numbers) / sum(numbers)
    return [[weight + step for weight in row] for row in INITIAL]


def own(job: Path, folder: Path, image: str | None) -> Path:
    """A copy, in a folder, of the user's job, with an image where it names none; returns the job's folder.

    Raises:
        DemoError: it is no job, holds a link, or has no image and there is none to give it.
    """
    check_files(job)
    meta(job)
    copy = folder / job.resolve().name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(job, copy, symlinks=True)
    check_files(copy)  # the job may have changed while it was copied
    return with_image(copy, image)


def check_files(job: Path) -> None:
    """Check that a job folder holds directories and regular files only: what it links to would travel to the sites.

    Raises:
        DemoError: it holds something else; names it.
    """
    for directory, directories, files in os.walk(job):
        for name in (*directories, *files):
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
                raise DemoError(f"{path} is {kind}: a job folder must hold its files itself.")


def meta(job: Path) -> dict[str, Any]:
    """A job folder's ``meta.json``.

    Raises:
        DemoError: it is not there, or is none.
    """
    file = job / "meta.json"
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise DemoError(
            f"{job} is no job folder: its meta.json can't be read ({os.strerror(error.errno or 0)})."
        ) from None
    if len(content) > MAX_META_BYTES:
        raise DemoError(f"{file} has more than {MAX_META_BYTES} bytes.")
    try:
        said = load_json(str(file), content)
    except InvalidInput as refused:
        raise DemoError(f"{file} {refused.problem}.") from None
    if not isinstance(said, dict):
        raise DemoError(f"{file} must hold a JSON object.")
    return said


def sites_of(said: dict[str, Any], wanted: int) -> tuple[str, ...]:
    """The sites that a job names, else so many that are called site-N.

    Raises:
        DemoError: the job's metadata names sites in a wrong form, or too many.
    """
    deploy_map, mandatory = said.get("deploy_map") or {}, said.get("mandatory_clients") or []
    if not isinstance(deploy_map, dict):
        raise DemoError("deploy_map in the job's meta.json must be a JSON object.")
    if not isinstance(mandatory, list) or not all(isinstance(site, str) for site in mandatory):
        raise DemoError("mandatory_clients in the job's meta.json must be a list of sites' names.")
    found = dict.fromkeys([*(site for group in deploy_map.values() for site in _names(group)), *mandatory])
    sites = tuple(site for site in found if site not in {"server", "@ALL"})
    if len(sites) > MAX_SITES:
        raise DemoError(f"The job's meta.json names {len(sites)} sites: the demo starts at most {MAX_SITES}.")
    return sites or tuple(f"site-{number}" for number in range(1, max(wanted, _min_clients(said)) + 1))


def _min_clients(said: dict[str, Any]) -> int:
    value = said.get("min_clients") or 1
    text = str(value) if isinstance(value, int) and abs(value) <= MAX_SITES else value  # "True" is no number
    number = whole_number(text, MAX_SITES) if isinstance(text, str) else None
    if number is None:
        raise DemoError(f"min_clients in the job's meta.json must be a whole number of at most {MAX_SITES}.")
    return number


def with_image(job: Path, image: str | None) -> Path:
    """Give a job folder's ``launcher_spec`` a default image, if it has none.

    Raises:
        DemoError: there is none to give.
    """
    said = meta(job)
    default = said
    for key in ("launcher_spec", "default", "k8s"):
        default = default.setdefault(key, {})
        if not isinstance(default, dict):
            raise DemoError(f"{key} in {job / 'meta.json'} must be a JSON object.")
    if "image" not in default:
        if image is None:
            raise DemoError(
                "Job pods on a real cluster need an image with Python and nvflare: name it with --image, "
                "or in the job's launcher_spec."
            )
        default["image"] = image
    (job / "meta.json").write_text(json.dumps(said, indent=2))
    return job


def _names(group: object) -> Sequence[str]:
    """The sites of an entry of a deploy_map: names, or objects that hold them (nvflare's app deployment forms)."""
    sites = group.get("sites", []) if isinstance(group, dict) else group
    return [site for site in sites if isinstance(site, str)] if isinstance(sites, list) else []
