"""A checkpoint that lies on the hub, described without downloading its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilellm_mlx import huggingface
from mobilellm_mlx.backend import tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.huggingface import RemoteFile, RemoteRepo
from mobilellm_mlx.loading import read_json
from mobilellm_mlx.models import LanguageModel, build_config
from mobilellm_mlx.weights import ITEM_BYTES, parse_safetensors_header

from .licence import Licence
from .readers.tensors import Entry, Reader, Tensor
from .source import Source, few_bits_reader, map_names
from .writers.safetensors_file import STORED


class TableReader(Reader):
    """Entries without their values."""

    files = ()
    is_readable = False

    def __init__(self, format: str, entries: Mapping[str, Entry]):
        self.format, self.entries = format, entries

    def read(self, name: str) -> Tensor:
        raise ConvertError(f"`{name}` was not downloaded")


class RemoteSource(Source):
    """A repository's checkpoint, by its tables."""

    def __init__(
        self,
        repo: RemoteRepo,
        weights: Sequence[RemoteFile],
        reader: Reader,
        raw: Mapping[str, Any],
    ):
        names, unused = map_names(reader.entries)
        self.repo, self.weights = repo, weights
        super().__init__(Path(repo.repo_id), reader, raw, names, unused)

    @property
    def nbytes(self) -> int:
        return sum(file.bytes for file in self.weights)

    def licence(self) -> Licence:
        return Licence(self.repo.licence)


def remote_source(
    repo: RemoteRepo,
    weights: Sequence[RemoteFile],
    config: Path | None = None,
    weight_bits: str | None = None,
    fake_quant: str | None = None,
) -> RemoteSource:
    """Describe a repository from its configuration, and the headers of safetensors files.

    Pickled weights cannot be looked into from afar: their tensors are those that the configuration
    asks for, and only the size of the file is real.

    Raises:
        ConvertError: for GGUF files, whose tables are too large to fetch for a look.
        MobileLLMError: one of its kinds, as fetching and configurations raise them.
    """
    if any(file.path.endswith(".gguf") for file in weights):
        raise ConvertError(
            "a GGUF file on the hub cannot be inspected without downloading it",
            f"`mobilellm convert {repo.repo_id} -o DIR` downloads and converts it",
        )
    raw = read_json(config) if config else _read_config(repo)
    tables = [file for file in weights if file.path.endswith(".safetensors")]
    if not tables:
        return RemoteSource(repo, weights, TableReader("pytorch", _expected(raw)), raw)
    entries: dict[str, Entry] = {}
    for file in tables:
        header = huggingface.read_header(repo, file)
        for name, info in parse_safetensors_header(file.path, header, file.bytes).items():
            location = (file.path, info.start)
            entries[name] = Entry(name, info.shape, info.dtype, info.stop - info.start, location)
    table = TableReader("safetensors", entries)
    reader = few_bits_reader(table, raw, weight_bits, fake_quant)
    return RemoteSource(repo, weights, reader, raw)


def _read_config(repo: RemoteRepo) -> dict[str, Any]:
    text = huggingface.fetch_small(repo, ["config.json"])["config.json"]
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"`config.json` of `{repo.repo_id}` is not valid JSON") from error
    if not isinstance(raw, dict):
        raise ConvertError(f"`config.json` of `{repo.repo_id}` is not a JSON object")
    return raw


def _expected(raw: Mapping[str, Any]) -> dict[str, Entry]:
    dtype = STORED.get(str(raw.get("torch_dtype") or raw.get("dtype")), "F32")
    network = tree_flatten(LanguageModel(build_config(raw)).parameters())
    return {
        name: Entry(name, tuple(array.shape), dtype, array.size * ITEM_BYTES[dtype])
        for name, array in network
    }
