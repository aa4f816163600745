"""The data that calls are measured with; in CI it must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilellm_mlx.evals.calls.home import Home
from mobilellm_mlx.evals.calls.wheel import Wheel
from tests.conftest import _original_environment, _without_real_files


@pytest.fixture(scope="session")
def sentences() -> Home:
    """Home Assistant's templates; the packages are in the group ``test``."""
    return Home()


@pytest.fixture(scope="session")
def wheel_file() -> Path:
    """The wheel of Berkeley's cases in the user's own cache, fetched once (2 MB)."""
    from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
    from mobilellm_mlx.evals.calls.wheel import ensure_wheel, wheel_path

    with _original_environment():
        try:
            for _ in ensure_wheel():
                pass
            return wheel_path()
        except ChecksumError:
            raise
        except (DownloadError, StorageError) as error:
            _without_real_files(f"Berkeley's cases cannot be fetched: {error}")
            raise AssertionError from error  # not reached


@pytest.fixture(scope="session")
def wheel(wheel_file: Path) -> Wheel:
    return Wheel(wheel_file)
