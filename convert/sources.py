"""What a person names as a source: a path, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mobilellm_mlx import huggingface, paths
from mobilellm_mlx.errors import ConvertError, MobileLLMError, StorageError
from mobilellm_mlx.events import Event
from mobilellm_mlx.huggingface import RemoteFile, RemoteRepo

from .files import display_name
from .inspection import Inspection, inspect
from .job import Origin, convert
from .plan import ConvertOptions
from .remote import remote_source
from .source import open_source
from .writers.directory import require_absent


@dataclass(frozen=True, slots=True)
class HubName:
    """``org/name@revision:file``, taken apart."""

    repo_id: str
    revision: str | None
    file: str | None


def parse_hub_name(text: str) -> HubName | None:
    """The parts of a hub name; None when ``text`` is not one (what exists on disk is a path)."""
    for start in ("https://huggingface.co/", "huggingface.co/", "https://hf.co/"):
        text = text.removeprefix(start)  # people paste addresses
    if not huggingface.is_repo_id(text):
        return None
    name, file = huggingface.split_file(text)
    return HubName(*huggingface.split_revision(name), file)


def convert_any(
    source: str, target: Path, options: ConvertOptions, *, offline: bool = False, **places: Any
) -> Iterator[Event]:
    """Convert a path or a repository; see ``job.convert`` for ``places`` and errors."""
    name = parse_hub_name(source)
    if name is None:
        yield from convert(_path(source), target, options, **places)
        return
    require_absent(target, options.force)  # before much is downloaded
    repo = huggingface.inspect_repo(name.repo_id, name.revision, offline)
    path, origin = yield from fetch(repo, name.file)
    yield from convert(path, target, options, origin=origin, **places)


def fetch(repo: RemoteRepo, file: str | None) -> Generator[Event, None, tuple[Path, Origin]]:
    """Download what a conversion needs, verified; where it lies and where it came from."""
    wanted = huggingface.wanted_files(repo, file)
    snapshot = yield from huggingface.fetch_repo(repo, wanted)
    digests = {entry.path: entry.sha256 for entry in wanted if entry.sha256}
    name = repo.repo_id.rpartition("/")[2]
    weights = tuple(entry.path for entry in wanted if _is_weights(entry))
    details = {"hub": repo.repo_id, "revision": repo.commit}
    origin = Origin(name, details, digests, weights, repo.licence)
    return snapshot / file if file else snapshot, origin


def inspect_any(
    source: str, options: ConvertOptions, *, config: Path | None = None, offline: bool = False
) -> Inspection:
    """Describe a path or a repository; of the latter no weights are downloaded."""
    name = parse_hub_name(source)
    if name is None:
        path = _path(source)
        opened = open_source(path, config, (), options.weight_bits, options.fake_quant)
        return inspect(opened, options, display_name(path))
    repo = huggingface.inspect_repo(name.repo_id, name.revision, offline)
    weights = [f for f in huggingface.wanted_files(repo, name.file) if _is_weights(f)]
    remote = remote_source(repo, weights, config, options.weight_bits, options.fake_quant)
    return inspect(remote, options, f"{repo.repo_id}@{repo.commit[:8]}")


def _is_weights(file: RemoteFile) -> bool:
    return file.path.endswith((".safetensors", ".bin", ".gguf", ".pt", ".pth"))


def _path(source: str) -> Path:
    path = paths.existing(source)
    if path is None:
        raise ConvertError(
            f"there is no `{source}`",
            "name a directory, a weight file, or a repository such as facebook/MobileLLM-125M",
        )
    return path


def local_directory(source: str) -> Path | None:
    """Where the converted form of a hub model is kept; None when ``source`` is no hub name."""
    name = parse_hub_name(source)
    if name is None:
        return None
    flat = name.repo_id.replace("/", "--")
    if name.revision:
        flat += f"@{quote(name.revision, safe='')}"
    if name.file:
        flat += f"+{quote(name.file, safe='')}"
    return paths.models_dir() / "hub" / flat


def ensure_converted(source: str, options: ConvertOptions | None = None) -> Iterator[Event]:
    """Fetch and convert a hub model into ``local_directory``, by default with the default recipe.

    Raises:
        MobileLLMError: one of its kinds.
    """
    target = local_directory(source)
    if target is None:
        raise MobileLLMError(f"`{source}` is not the name of a model on the hub")
    try:
        yield from convert_any(source, target, options or ConvertOptions())
    except StorageError:
        if not (target / paths.MANIFEST).is_file():
            raise  # else another process was faster, which is as good
