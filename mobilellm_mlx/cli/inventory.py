"""The models that are known and those that are here, as plain values. Nothing asks the network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mobilellm_mlx import catalogue, paths, published
from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli.shared import HubModel, find_model
from mobilellm_mlx.errors import MobileLLMError, ModelNotFound
from mobilellm_mlx.paths import MANIFEST
from mobilellm_mlx.published import PublishedModel

if TYPE_CHECKING:
    from mobilellm_mlx.weights import QuantizationTable

Row = dict[str, Any]


def iter_rows() -> Iterator[Row]:
    """Every model with a name, and what was made of others from the hub."""
    for model in catalogue.CATALOGUE.values():
        yield describe(model)
    for known in published.PUBLISHED.values():
        yield describe_published(known)
    for kept in iter_kept():
        if not kept.published:
            yield describe_kept(kept)


def iter_kept() -> Iterator[HubModel]:
    """The models of the hub whose converted form is here, by name."""
    hub = paths.models_dir() / "hub"
    for path in sorted(hub.iterdir()) if hub.is_dir() else ():
        if (path / MANIFEST).is_file() and (parts := _KEPT.fullmatch(path.name)):
            owner, title, revision, file = parts.groups()
            known = published.find(f"{owner}/{title}") if not (revision or file) else None
            revision = f"@{unquote(revision)}" if revision else ""
            file = f":{unquote(file)}" if file else ""
            yield HubModel(f"{owner}/{title}{revision}{file}", path, known)


_KEPT = re.compile(r"(\w[\w.-]*?)--([\w.-]+)(?:@([^+]+))?(?:\+(.+))?", re.ASCII)
"""What `convert.sources.local_directory` makes of a name."""


def describe(model: CatalogueModel) -> Row:
    """A model of the catalogue."""
    installed = model.is_installed
    return {
        "name": model.name,
        "line": None,
        "title": model.title,
        "authors": model.authors,
        "purpose": "chats",
        "licence": model.licence,
        "non_commercial": False,
        "gated": False,
        "parameters": model.parameters,
        "context": model.context,
        "packing": model.packing,
        "about": model.about,
        "default": model.name == catalogue.DEFAULT,
        "installed": installed,
        "bytes": directory_bytes(model.path) if installed else None,
        "download_bytes": model.source.wheel_bytes,
        "converted_bytes": model.source.member_bytes,  # imported as it is packed
        "path": str(model.path),
    }


def describe_published(model: PublishedModel) -> Row:
    """A published repository of the family; None is what its makers do not say."""
    installed = model.is_installed
    return {
        "name": model.name,
        "line": model.line,
        "title": model.title,
        "authors": published.AUTHORS,
        "purpose": model.purpose,
        "licence": model.licence,
        "non_commercial": True if model.licence else None,
        "gated": model.gated,
        "parameters": model.parameters,
        "context": model.context,
        "packing": None,
        "about": model.about,
        "default": False,
        "installed": installed,
        "bytes": directory_bytes(model.path) if installed else None,
        "download_bytes": model.download_bytes,
        "converted_bytes": model.packed_bytes,
        "path": str(model.path),
        "repository": model.repo_id,
        "page": model.page,
        "size": model.size,
        "variant": model.variant,
        "weight_bits": model.weight_bits or (model.fake_quant and "4"),
    }


def describe_kept(model: HubModel) -> Row:
    """A converted model of the hub, by its own files; a damaged one by what is left."""
    try:
        row = describe_directory(model.path)
    except MobileLLMError:
        row = {
            **dict.fromkeys(("licence", "parameters", "context", "packing")),
            "installed": True,
            "bytes": directory_bytes(model.path),
            "path": str(model.path),
        }
    return {**row, "name": model.name}


def describe_any(name: str) -> Row:
    """A known model, a kept one or a model directory.

    Raises:
        MobileLLMError: when it is neither, or the directory's configuration is wrong.
    """
    directory = paths.existing(name)
    if name not in catalogue.CATALOGUE and directory and directory.is_dir():
        return describe_directory(directory)
    model = find_model(name)
    if isinstance(model, CatalogueModel):
        return describe(model)
    row = describe_published(model.published) if model.published else {}
    if model.is_installed:  # what its files say wins, but for terms, where they say less
        found = {key: value for key, value in describe_kept(model).items() if value is not None}
        row |= found | ({"licence": row["licence"]} if row.get("licence") else {})
    elif not row:
        raise ModelNotFound(
            f"`{name}` is not here, and not a model that is known by name",
            f"`mobilellm convert {name} --inspect` asks the Hugging Face Hub about it",
        )
    known = model.published
    short = known is not None and model.path == known.path
    return {**row, "name": known.name if known and short else model.name}


def describe_directory(directory: Path) -> Row:
    """A model directory, by its own files.

    Raises:
        MobileLLMError: when it holds no model that can be run.
    """
    from mobilellm_mlx.loading import read_json
    from mobilellm_mlx.models import build_config
    from mobilellm_mlx.weights import read_quantization

    raw = read_json(directory / "config.json")
    config = build_config(raw)
    table = read_quantization(raw)
    manifest = read_json(directory / MANIFEST, missing={})
    return {
        "name": manifest.get("name", directory.resolve().name),
        "licence": manifest.get("licence"),
        "parameters": config.parameter_count(),
        "context": config.max_position_embeddings,
        "packing": _packing(table, directory, config.parameter_count()),
        "installed": True,
        "bytes": directory_bytes(directory),
        "path": str(directory.resolve()),
    }


def _packing(table: QuantizationTable | None, directory: Path, parameters: int) -> str:
    """The widths in use and what a weight takes on average."""
    from mobilellm_mlx.weights import weight_files

    if table is None:
        return "none"
    others = {packing.bits for packing in table.modules.values() if packing} - {table.default.bits}
    also = f", some {' and '.join(map(str, sorted(others)))}" if others else ""
    mean = sum(path.stat().st_size for path in weight_files(directory)) * 8 / parameters
    return f"{table.default.bits}-bit{also}; {mean:.1f} bits a weight on average"


def directory_bytes(directory: Path) -> int:
    """Bytes of all files in a directory."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # a pull may be tidying up at this moment
            total += path.stat().st_size if path.is_file() else 0
    return total


def remove(directory: Path) -> int:
    """Take a model out of the cache; of a link only the link, for what it leads to is somebody's.

    Returns:
        The bytes that this frees.
    """
    if directory.is_symlink():
        directory.unlink()
        return 0
    freed = directory_bytes(directory)
    # The manifest first: a removal that is cut off leaves nothing that looks finished.
    (directory / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory)
    return freed


def find_damage(directory: Path) -> str | None:
    """What is wrong with an installed model, by the sizes and digests of its manifest."""
    from mobilellm_mlx.hub import sha256

    try:
        files = json.loads((directory / MANIFEST).read_bytes())["files"]
        for name, expected in files.items():
            path = directory / name
            if not path.is_file():
                return f"`{name}` is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"`{name}` has {path.stat().st_size:,} bytes, not {expected['bytes']:,}"
            if sha256(path) != expected["sha256"]:
                return f"`{name}` has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return None
