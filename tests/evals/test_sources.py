"""Archives are fetched as they are: nothing in them is run, nor what lies where one stands."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from mobilellm_mlx import hub
from mobilellm_mlx.catalogue import PackageFile
from mobilellm_mlx.errors import DownloadError
from mobilellm_mlx.evals.sources import Sdist, ensure_sdist

TATTLE = "from pathlib import Path\nPath({mark!r}).write_text('it was run')\n"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once foreign code was run."""
    return tmp_path / "mark"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """We stand in a folder that has modules called as Python's own and as pip."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("pip", "json", "runpy"):
        (folder / f"{name}.py").write_text(TATTLE.format(mark=str(mark)))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))


def archive(shelf: Path, mark: Path, builder: str) -> Sdist:
    """An archive whose building would leave a mark, and its pin."""
    shelf.mkdir()
    files = {
        "pyproject.toml": f'[build-system]\nrequires = []\nbuild-backend = "{builder}"\n',
        "setup.py": TATTLE.format(mark=str(mark)),
        "PKG-INFO": "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\n",
        "data/a.txt": "hello",
    }
    path = shelf / "some_data-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(f"some_data-1.0/{name}")
            info.size = len(text.encode())
            made.addfile(info, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    return Sdist("some-data", "1.0", size, digest, "data/a.txt", "MIT", builder)


def test_an_archive_is_read_without_building_it(tmp_path: Path, mark: Path) -> None:
    source = archive(tmp_path / "shelf", mark, "setuptools.build_meta")
    list(ensure_sdist(source))
    assert source.text() == "hello"
    assert not mark.exists()
    assert [path.name for path in source.path.parent.iterdir()] == [source.path.name]


def test_a_wheel_is_fetched_by_pip_and_not_by_what_is_called_so(tmp_path: Path, mark: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    wanted = PackageFile("no-such-wheel", "1.0", 10, "0" * 64, "a", 1, "0" * 64, "b")
    with pytest.raises(DownloadError):
        list(hub.fetch_package_file(wanted, place))
    assert not mark.exists()


def test_without_a_network_an_archive_and_a_wheel_say_the_same(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_TIMEOUT", "1")
    source = archive(tmp_path / "shelf", mark, "setuptools.build_meta")
    source.path.parent.mkdir(parents=True)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    wanted = PackageFile("some-data", "1.0", 10, "0" * 64, "a", 1, "0" * 64, "b")
    said = []
    for events in (ensure_sdist(source), hub.fetch_package_file(wanted, tmp_path)):
        with pytest.raises(DownloadError) as caught:
            list(events)
        said.append((caught.value.message, caught.value.hint))
    assert said[0] == said[1]
    assert "the package index cannot be reached" in said[0][0]
