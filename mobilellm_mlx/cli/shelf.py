"""The models as the interface sees them: inventory, memory and pulls behind one object."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx import catalogue, paths, published
from mobilellm_mlx.catalogue import CatalogueModel
from mobilellm_mlx.cli import faces
from mobilellm_mlx.cli.inventory import (
    Row,
    describe_any,
    describe_directory,
    find_damage,
    iter_rows,
    remove,
)
from mobilellm_mlx.cli.shared import announcement, find_model, pull_events
from mobilellm_mlx.errors import MobileLLMError, ModelNotFound, StorageError
from mobilellm_mlx.events import Event
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.paths import MANIFEST

if TYPE_CHECKING:
    from mobilellm_mlx.loading import MemoryPlan
    from mobilellm_mlx.models import ModelConfig
    from tui.shelf import Memory, ModelRow

HERE = "Here"
START = "To start with: chats, anyone may use it"
ELSEWHERE = "A directory of yours"
FROM_HUB = "On the Hugging Face Hub"


class Shelf:
    """What ``tui.shelf.ModelShelf`` asks for.

    Args:
        options: how a chosen model will be loaded, so that its memory is reckoned for that.
    """

    def __init__(self, options: LoadOptions | None = None) -> None:
        self._options = replace(options or LoadOptions(), clip_context=True)

    def rows(self) -> list[ModelRow]:
        """Every model with a name, grouped: those that are here first."""
        rows = [self._row(row, _heading(row)) for row in iter_rows()]
        return sorted(rows, key=lambda row: not row.installed)  # stable: the rest as it was

    def find(self, text: str) -> ModelRow:
        """The model of a directory or of a name on the Hugging Face Hub, without asking it.

        Raises:
            ModelNotFound: when it is neither.
            MobileLLMError: when the directory holds no model that can be run.
        """
        directory = paths.existing(text)
        if text not in catalogue.CATALOGUE and directory and directory.is_dir():
            if not (directory / "config.json").is_file():
                raise ModelNotFound(
                    f"`{text}` is not a model directory: it has no `config.json`",
                    "name a directory with a converted model; `mobilellm convert` makes one",
                )
            return self._row(describe_directory(directory), ELSEWHERE)
        model = find_model(text)
        known = model.is_installed or isinstance(model, CatalogueModel) or model.published
        if known:
            row = self._row(describe_any(text), "")
            return replace(row, heading=HERE if row.installed else FROM_HUB)
        page = f"https://huggingface.co/{text.partition(':')[0].partition('@')[0]}"
        unknown: Row = {"name": text, "path": str(model.path), "page": page, "gated": None}
        return self._row({**unknown, "installed": False}, FROM_HUB)

    def memory(self, row: ModelRow) -> Memory | None:
        """What a model needs, and what there is at this moment; None while that is unknown.

        Raises:
            MobileLLMError: when its files are damaged, or the options do not suit it.
        """
        from mobilellm_mlx.loading import plan_memory

        plan = (
            plan_memory(row.path, self._options)
            if row.installed
            else _estimate(row.name, row.converted_bytes, self._options)
        )
        if plan is None:
            return None
        memory: Memory = import_module(f"{faces.TUI}.shelf").Memory(
            weight_bytes=plan.weight_bytes,
            cache_bytes=plan.cache_bytes,
            kept_free_bytes=plan.kept_free_bytes,
            available_bytes=plan.available_bytes,
            is_estimate=not row.installed,
        )
        return memory

    def announcement(self, row: ModelRow) -> str:
        """What a pull would fetch, from where, and under which terms."""
        return announcement(find_model(row.name))

    def pull(self, row: ModelRow) -> Generator[Event, None, None]:
        """Fetch a model and make it ready; closing the generator stops that."""
        yield from pull_events(find_model(row.name))

    def find_damage(self, row: ModelRow) -> str | None:
        """What is wrong with its files by their SHA-256; None when nothing is.

        Raises:
            StorageError: when it has no manifest, and so nothing says what they should be.
        """
        if not (row.path / MANIFEST).is_file():
            raise StorageError(f"it has no `{MANIFEST}` that says what its files should be")
        return find_damage(row.path)

    def remove(self, row: ModelRow) -> int:
        """Take a model out of the cache; the bytes that this frees.

        Raises:
            StorageError: when it is not in the cache, or cannot be removed.
        """
        if not row.removable:
            raise StorageError(f"`{row.path}` is yours", "remove it by hand if you want to")
        try:
            return remove(find_model(row.name).path)
        except OSError as error:
            raise StorageError(f"`{row.path}` cannot be removed: {error.strerror}") from error

    def _row(self, row: Row, heading: str) -> ModelRow:
        known = published.find(row["name"])
        make = import_module(f"{faces.TUI}.shelf").ModelRow
        own = heading == ELSEWHERE
        path = Path(row["path"]) if own else find_model(row["name"]).path  # as it was asked for
        found: ModelRow = make(
            name=row["name"],
            path=path,
            heading=heading,
            title=row.get("title") or "",
            authors=row.get("authors") or "",
            about=row.get("about") or "",
            licence=row.get("licence") or (known.licence if known else None),
            non_commercial=bool(row.get("non_commercial") or (known and known.licence)),
            gated=row.get("gated", False),
            page=row.get("page") or "",
            source=_source(row["name"]),
            parameters=row.get("parameters"),
            size=row.get("size") or "",
            context=row.get("context"),
            packing=row.get("packing") or "",
            chats=_chats(path) if row["installed"] else _would_chat(row),
            installed=row["installed"],
            removable=row["installed"] and not own,
            resumes=row["name"] not in catalogue.CATALOGUE,
            bytes=row.get("bytes"),
            download_bytes=row.get("download_bytes"),
            converted_bytes=row.get("converted_bytes"),
        )
        try:
            if found.installed:  # says what is wrong with its files, too
                describe_directory(path)
            return replace(found, memory=self.memory(found))
        except MobileLLMError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return replace(found, trouble=f"{error.message}{hint}")


def _heading(row: Row) -> str:
    if row["installed"]:
        return HERE
    line = row.get("line")
    return f"{line}: {published.LINES[line]}" if line else START


def _source(name: str) -> str:
    return "your Python package index" if name in catalogue.CATALOGUE else "the Hugging Face Hub"


def _would_chat(row: Row) -> bool | None:
    """Whether a model that is not here was made to chat; None when nobody says."""
    purpose = row.get("purpose")
    return None if purpose is None else "does not chat" not in purpose


def _chats(directory: Path) -> bool | None:
    """Whether an installed model has a chat template; None when its files are damaged."""
    from mobilellm_mlx.loading import load_template_source, read_json

    try:
        words = read_json(directory / "tokenizer_config.json", missing={})
        return load_template_source(directory, words) is not None
    except MobileLLMError:
        return None


def _estimate(name: str, converted_bytes: int | None, options: LoadOptions) -> MemoryPlan | None:
    """What loading a model that is not here would take, from its published shape."""
    from mobilellm_mlx.backend import available_memory_bytes, backend
    from mobilellm_mlx.loading import MemoryPlan, best_compute
    from mobilellm_mlx.weights import Packing, QuantizationTable

    config = _published_config(name)
    if config is None:
        return None
    usual = QuantizationTable(Packing(32, 4), {})
    compute = best_compute(usual) if options.compute == "auto" else options.compute
    weights = config.parameter_count() * 4 if compute == "dense" else converted_bytes
    if weights is None:
        return None
    item = 2 if backend().half_precision and compute == "packed" else 4
    trained = config.max_position_embeddings
    context = min(options.context or trained, trained)
    cache = config.kv_bytes(context, item)
    return MemoryPlan(weights, cache, context, available_memory_bytes())


def _published_config(name: str) -> ModelConfig | None:
    """The shape of a model that is not here, where it is published; None where it is not."""
    from mobilellm_mlx.models import build_config
    from mobilellm_mlx.models.sizes import checkpoint_config, pro_config, r1_config

    if name == catalogue.DEFAULT:  # the block shape of MobileLLM-125M under another vocabulary
        changes = {"vocab_size": 49_152, "max_position_embeddings": 8192}
        return build_config({**checkpoint_config("125m"), **changes})
    known = published.find(name)
    if known is None:
        return None
    if "-Pro" in known.title:
        # What its configuration is not known to say changes nothing about its size.
        unknown = {"rope_theta": 500_000.0, "use_qk_norm": False, "tie_word_embeddings": True}
        return build_config({**pro_config(), **unknown, "no_rope_layers": [1] * 30})
    if "-R1" in known.title:
        context = known.context or 32_768
        raw = {**r1_config(known.size.lower()), "max_position_embeddings": context}
        return build_config({**raw, "attention_chunk_size": context})
    shared = known.title.endswith("-layer-share")
    return build_config(checkpoint_config(known.size.lower(), layer_sharing=shared))
