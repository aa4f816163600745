"""What every test gets: a home of its own, no network, and MLX as it found it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mobilellm_mlx.loading import LoadedModel

ORIGINAL_ENVIRONMENT = dict(os.environ)
SESSION_HOME = tempfile.mkdtemp(prefix="mobilellm-tests-")
os.environ["MOBILELLM_HOME"] = SESSION_HOME  # before anything is imported that looks there

# The same examples every time: a test that fails once fails again. No files in the checkout.
settings.register_profile("house", deadline=None, database=None, derandomize=True)
settings.load_profile("house")

_NOT_TESTED = "NOT TESTED WITH REAL WEIGHTS"


def pytest_unconfigure() -> None:
    shutil.rmtree(SESSION_HOME, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    # Tests may have run in other processes: what is known of them is in their reports.
    skipped = terminalreporter.stats.get("skipped", ())
    said = {str(report.longrepr[-1]) for report in skipped if isinstance(report.longrepr, tuple)}
    for reason in sorted(reason for reason in said if _NOT_TESTED in reason):
        terminalreporter.section(_NOT_TESTED, red=True, bold=True)
        terminalreporter.line(reason)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MOBILELLM_HOME of the test's own: nothing touches the user's files."""
    path = tmp_path / "home"
    monkeypatch.setenv("MOBILELLM_HOME", str(path))
    return path


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets reach this machine only, except in tests marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(sock: socket.socket, address: Any) -> None:
        local = sock.family not in (socket.AF_INET, socket.AF_INET6) or (
            address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            raise RuntimeError(f"a test tried to reach {address}: mark it `network` if it must")

    def connect(sock: socket.socket, address: Any) -> None:
        check(sock, address)
        real_connect(sock, address)

    def connect_ex(sock: socket.socket, address: Any) -> int:
        check(sock, address)
        return real_connect_ex(sock, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)


@pytest.fixture(autouse=True)
def _mlx_as_found() -> Iterator[None]:
    """The same random state before every test, the default device as it was after it."""
    if "mlx.core" not in sys.modules:
        yield
        return
    from mobilellm_mlx.backend import mx

    device = mx.default_device()
    mx.random.seed(0)
    yield
    mx.set_default_device(device)


@contextmanager
def _original_environment() -> Iterator[None]:
    changed = dict(os.environ)
    os.environ.clear()
    os.environ.update(ORIGINAL_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(changed)


def _without_real_files(reason: str) -> None:
    """Where CI is set the real model must be tested; elsewhere its absence is said loudly."""
    if ORIGINAL_ENVIRONMENT.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"{_NOT_TESTED}: {reason}")


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The directory of the default model in the user's own cache, fetched once (93 MB)."""
    from mobilellm_mlx.cli.shared import resolve_model
    from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError

    with _original_environment():
        try:
            return resolve_model(None)
        except ChecksumError:
            raise
        except (DownloadError, StorageError) as error:
            _without_real_files(f"the default model cannot be fetched: {error}")
            raise AssertionError from error  # not reached


@pytest.fixture(scope="session")
def mistral_tokenizer() -> Path:
    """``tokenizer.model.v1`` out of the wheel of mistral-common, fetched once, pinned twice."""
    from mobilellm_mlx import hub, paths
    from mobilellm_mlx.catalogue import PackageFile
    from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError

    source = PackageFile(
        package="mistral-common",
        version="1.13.1",
        wheel_bytes=6_589_302,
        wheel_sha256="98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        member="mistral_common/data/tokenizer.model.v1",
        member_bytes=493_443,
        member_sha256="dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
        licence_member="mistral_common-1.13.1.dist-info/licenses/LICENSE",
    )
    with _original_environment():
        place = paths.cache_dir() / "tests" / "mistral"
        path = place / "tokenizer.model.v1"
        try:
            if not path.is_file():
                place.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=place) as scratch:
                    for _ in hub.fetch_package_file(source, Path(scratch)):
                        pass
                    (Path(scratch) / path.name).replace(path)
            hub.verify_sha256(path, source.member_sha256)
        except ChecksumError:
            raise
        except (DownloadError, StorageError, OSError) as error:
            _without_real_files(f"the tokenizer of mistral-common cannot be fetched: {error}")
    return path


@pytest.fixture(scope="session")
def real_loaded(real_model: Path) -> LoadedModel:
    """The default model in memory, as float32."""
    from mobilellm_mlx.loading import load_model
    from mobilellm_mlx.options import LoadOptions

    return load_model(real_model, LoadOptions(compute="dense"))


@pytest.fixture(params=[False, True], ids=["step-by-step", "look-ahead"])
def look_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of decoding: as on a CPU, and one token ahead of the reader as on a GPU."""
    from dataclasses import replace

    import mobilellm_mlx.decoding.step as step
    from mobilellm_mlx.backend import BACKENDS

    ahead = bool(request.param)
    backend = replace(BACKENDS["cpu"], look_ahead=ahead)
    monkeypatch.setattr(step, "backend", lambda: backend)
    return ahead


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny chat model that never ends its turn by itself; not to be written to."""
    from tiny import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")
