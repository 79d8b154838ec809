"""The startup kits that unit tests work on, and Hypothesis's profile."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harness.kits import make_kits

# A test must not fail because the machine is busy with something else.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def shared_kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kits of :func:`tests.harness.kits.make_kits`, to be read only."""
    root = tmp_path_factory.mktemp("kits")
    make_kits(root)
    return root


@pytest.fixture
def kit(shared_kits: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a kit, as ``kit("k8s/site-1")``, for a test that writes to it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(shared_kits / name, tmp_path / Path(name).name))

    return copy
