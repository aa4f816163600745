"""Turning a fetched file into a model directory of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mobilellm_mlx import __version__
from mobilellm_mlx.catalogue import CatalogueModel, PackageFile
from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.events import Event

from .job import Conversion, Origin
from .licence import Licence
from .plan import ConvertOptions, make_plan
from .source import open_source
from .target import generation_config
from .writers import directory as writer

Fetch = Callable[[PackageFile, Path], Iterator[Event]]


def pull(model: CatalogueModel, fetch: Fetch) -> Iterator[Event]:
    """Fetch and import a model of the catalogue, unless it is there.

    The model directory appears in one step at the very end: a killed pull leaves nothing that
    looks finished, and the next one sweeps up what it left.

    Args:
        model: what to get.
        fetch: puts the source's file into a directory; verified when it returns.

    Raises:
        MobileLLMError: one of its kinds, from fetching, importing or writing.
    """
    parent = model.path.parent
    with writer.exclusive(parent):
        if model.is_installed:  # another process was faster
            return
        if model.path.is_symlink():  # somebody keeps it elsewhere, on a disk that is away, say
            raise StorageError(
                f"`{model.path}` is a link to {model.path.readlink()}, and no model is there",
                f"bring it back, or remove the link with `mobilellm models rm {model.name}`",
            )
        with writer.working_directory(parent) as scratch:
            source, done = scratch / "source", scratch / "model"
            source.mkdir()
            done.mkdir()
            yield from fetch(model.source, source)
            yield from write_model(model, source, done)
            writer.publish(done, model.path, _manifest(model))


def write_model(model: CatalogueModel, source: Path, directory: Path) -> Iterator[Event]:
    """Import the fetched file into an empty directory."""
    options = ConvertOptions(verify=False)  # nothing is rounded: its packing is kept
    checkpoint = open_source(source / Path(model.source.member).name)
    origin = Origin(model.name, digests={checkpoint.path.name: model.source.member_sha256})
    job = Conversion(checkpoint, make_plan(checkpoint, options), options, origin)
    job.licence = Licence(model.licence, (source / "LICENSE",))
    yield from job.run(directory)
    generation = {**generation_config(checkpoint.raw, {}), **model.generation}
    writer.write_json(directory / "generation_config.json", generation)


def _manifest(model: CatalogueModel) -> dict[str, object]:
    """Where the directory came from, for people and for `doctor`."""
    source = model.source
    return {
        "format": 1,
        "name": model.name,
        "title": model.title,
        "authors": model.authors,
        "licence": model.licence,
        "made_by": f"mobilellm-mlx {__version__}",
        "source": {
            "package": source.package,
            "version": source.version,
            "member": source.member,
            "sha256": source.member_sha256,
        },
    }
