"""A model directory with an adapter on it, read like any checkpoint: tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobilellm_mlx.adapters.record import TEMPLATE, AdapterInfo
from mobilellm_mlx.errors import AdapterError
from mobilellm_mlx.loading import read_json
from mobilellm_mlx.tokenizer import load_tokenizer, token_name

from ..export.source import ModelDirectory
from ..files import is_own
from ..readers.tensors import Tensor
from ..target import token_ids
from .adapter import AdapterWeights

_MAX_TEMPLATE_BYTES = 1_000_000


class FusedSource(ModelDirectory):
    """A model directory whose tensors are read with an adapter's change in them.

    Args:
        path: the base's directory.
        info: of the adapter.

    Attributes:
        adapter: its tensors.

    Raises:
        MobileLLMError: one of its kinds, when one of the two is damaged or they do not fit.
    """

    def __init__(self, path: Path, info: AdapterInfo):
        super().__init__(path)
        self.adapter = AdapterWeights(info, self.shapes)

    def read(self, name: str) -> Tensor:
        """The values of one tensor, float32 where the adapter changes it."""
        base = self.read_base(name)
        return self.adapter.apply(name, base) if name in self.adapter.changed else base

    def read_base(self, name: str) -> Tensor:
        """The same without the adapter, as it is stored."""
        return super().read(name)

    def is_packed(self) -> bool:
        """Whether any of the base is."""
        return any(self.entry(name).packing for name in self.shapes)

    def generation(self) -> dict[str, Any]:
        """The base's settings, with the token that ends a turn for the adapter."""
        settings, token = super().generation(), self.adapter.info.stop_token
        if not token:
            return settings
        words = load_tokenizer(self.path, self.tokenizer_config)
        if token not in words.special:
            raise AdapterError(
                f"the adapter `{self.adapter.info.name}` ends a turn with {token[:40]!r}, which "
                "the model's tokenizer does not have",
                "use it with the model that it was made for",
            )
        told = [token_ids(table).get("eos_token_id", []) for table in (self.raw, settings)]
        stops = {each for ids in told for each in (ids if isinstance(ids, list) else [ids])}
        end = token_name(self.tokenizer_config.get("eos_token")) or ""
        if not stops and end in words.special:  # it counts only while nothing else is named
            stops.add(words.special[end])
        return {**settings, "eos_token_id": sorted({*stops, words.special[token]})}

    def write_tokenizer(self, directory: Path, elsewhere: Path | None = None) -> list[str]:
        """The base's tokenizer, with the adapter's chat template where it brings one."""
        notices = super().write_tokenizer(directory, elsewhere)
        info = self.adapter.info
        if not info.has_template:
            return notices
        (directory / TEMPLATE).write_bytes(_template(info))
        words = read_json(directory / "tokenizer_config.json", missing={})
        said = "the chat template is the adapter's"
        replaces = "chat_template" in words or (self.path / TEMPLATE).is_file()
        return [*notices, f"{said}, in place of the model's own" if replaces else said]


def _template(info: AdapterInfo) -> bytes:
    path = info.path / TEMPLATE
    try:
        if not is_own(info.path, path) or path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise AdapterError(
                f"`{path}` is a link or too large to be a chat template",
                "put the template itself there",
            )
        content = path.read_bytes()
        content.decode()
    except OSError as error:
        raise AdapterError(f"`{path}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AdapterError(f"`{path}` is not UTF-8 at byte {error.start:,}") from error
    return content
