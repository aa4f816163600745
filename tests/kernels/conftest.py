"""The compiled kernels, built once into the user's own cache; other tests run without them."""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx import kernels as package
from mobilellm_mlx.backend import mx
from mobilellm_mlx.kernels import place
from mobilellm_mlx.kernels.build import build
from mobilellm_mlx.paths import cache_dir
from tests.conftest import ORIGINAL_ENVIRONMENT, _original_environment


@pytest.fixture(scope="session")
def built() -> Path:
    """The file of the kernels. Where CI is set and there is a compiler it must be built."""
    if sys.platform != "linux" or mx.default_device() != mx.Device(mx.cpu):
        pytest.skip("these kernels are for Linux CPUs")
    if not shutil.which("g++") and not ORIGINAL_ENVIRONMENT.get("CI"):
        pytest.skip("there is no C++ compiler")
    with _original_environment():
        root = cache_dir() / "kernels"
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("w") as lock:  # other tests, in other processes, need it too
            fcntl.flock(lock, fcntl.LOCK_EX)
            return place.find() or build()


@pytest.fixture
def module(built: Path, home: Path) -> Iterator[Any]:
    """The kernels, running for this test."""
    directory = place.directory()
    directory.mkdir(parents=True, mode=0o700)
    for name in (place.FILE, place.LENGTH):
        (directory / name).symlink_to(built.parent / name)
    package.kernels.cache_clear()
    found = package.kernels()
    assert found.module is not None, found.reason
    yield found.module
    found.module.choose(found.module.paths()[0])
    found.module.set_threads(1)
    package.kernels.cache_clear()
