"""A foreign checkpoint, opened: its configuration and where each of our tensors comes from.

Nothing of the weights is read here but for one comparison: whether an output head that should be
the embedding is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.loading import read_json
from mobilellm_mlx.models import LanguageModel, ModelConfig, build_config
from mobilellm_mlx.paths import MANIFEST

from .licence import Licence, find_licence
from .readers.fake_quant import fake_quant_reader
from .readers.open import open_directory, open_weights
from .readers.packed import packed_reader
from .readers.paretoq import paretoq_reader
from .readers.tensors import Entry, PackedTensor, Reader, Tensor
from .tokenizer.files import write_tokenizer

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

_DERIVED = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Tables of old checkpoints that follow from the configuration."""
_PREFIXES = ("_orig_mod.", "module.")
"""What ``torch.compile`` and data-parallel training put before every name."""


class Source:
    """A checkpoint of the family, whatever its format.

    Attributes:
        path: the directory or file that was named.
        reader: its weight files.
        raw: its configuration in Hugging Face form.
        config: the same, normalised.
        unused: tensors of the files that follow from others, with the reason to leave them out.
        notices: what the person should know.
    """

    def __init__(
        self,
        path: Path,
        reader: Reader,
        raw: Mapping[str, Any],
        names: Mapping[str, str],
        unused: Mapping[str, str] | None = None,
    ):
        self.path = path
        self.reader = reader
        self.raw = dict(raw)
        self.unused = dict(unused or {})
        self.notices = list(reader.notices)
        self._names = dict(names)
        self._settle_head()
        self.config: ModelConfig = build_config(self.raw)
        self.shapes = self._check_fit()

    @property
    def names(self) -> Mapping[str, str]:
        """Our name of every tensor to its name in the files."""
        return self._names

    def entry(self, name: str) -> Entry:
        """The file's entry for one of our tensors."""
        return self.reader.entries[self._names[name]]

    def read(self, name: str) -> Tensor:
        """The values of one of our tensors, (rows, columns) or (columns,)."""
        return self.reader.read(self._names[name])

    @property
    def nbytes(self) -> int:
        """Bytes of the weight files."""
        return sum(path.stat().st_size for path in self.reader.files)

    @property
    def home(self) -> Path:
        """The directory with everything that is not weights."""
        return self.path if self.path.is_dir() else self.path.parent

    def licence(self) -> Licence:
        """What is said about the checkpoint's use."""
        found = find_licence(self.home)
        ours = read_json(self.home / MANIFEST, missing={}).get("licence")
        if found.name is None and isinstance(ours, str) and ours.isprintable():
            return replace(found, name=ours[:100])
        return found

    def generation(self) -> dict[str, Any]:
        """Its ``generation_config.json``, as it is; empty when there is none."""
        return read_json(self.home / "generation_config.json", missing={})

    def write_tokenizer(self, directory: Path, elsewhere: Path | None = None) -> list[str]:
        """Put the tokenizer into a model directory; what the person should know about it.

        Args:
            directory: the model directory being made.
            elsewhere: a directory to take the tokenizer from instead.

        Raises:
            TokenizerError, ConvertError: when there is none, or none that can be read.
        """
        return write_tokenizer(elsewhere or self.home, directory, self.raw)

    def _settle_head(self) -> None:
        """Decide whether the output head is the embedding: files and configurations disagree.

        MobileLLM-600M and 1B carry a head though they share the embedding; Meta's training code
        writes configurations that say nothing of sharing.
        """
        tied = build_config(self.raw).tie_word_embeddings
        if tied and HEAD in self._names and EMBEDDING in self._names:
            theirs = self._names[HEAD]
            if not self.reader.is_readable:
                self._names.pop(HEAD)
                self.unused[theirs] = "compared with the embedding when it is converted"
            elif self._head_is_embedding():
                self._names.pop(HEAD)
                self.unused[theirs] = "equals the embedding, with which the head is shared"
            else:
                self._tie(False)
                self.notices.append(
                    f"the configuration says that the output head is the embedding, but `{theirs}` "
                    "differs from it: the head is kept"
                )
        elif not tied and HEAD not in self._names:
            self._tie(True)
            self.notices.append(
                "the files have no output head: the embedding is used as one, as in all "
                "MobileLLM models below 1.5B"
            )

    def _tie(self, tied: bool) -> None:
        self.raw["tie_word_embeddings"] = tied
        if "share_embedding" in self.raw or self.raw.get("model_type") == "mobilellm":
            self.raw["share_embedding"] = tied

    def _head_is_embedding(self) -> bool:
        head, embedding = self.entry(HEAD), self.entry(EMBEDDING)
        if head.shape != embedding.shape:
            return False
        if head.location is not None and head.location == embedding.location:
            return True
        return _equal(self.read(HEAD), self.read(EMBEDDING))

    def _check_fit(self) -> dict[str, tuple[int, ...]]:
        """The network's tensors and their shapes, each filled by one of the files.

        Raises:
            ConvertError: naming what is missing, has no place, or has another shape.
        """
        try:
            model = LanguageModel(self.config)  # lazy: no weights are made
        except (OverflowError, ValueError, RuntimeError) as error:
            raise ConvertError(
                f"the configuration describes a network that cannot be made: {error}"
            ) from error
        wanted = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
        entries = self.reader.entries
        misshapen = [
            f"`{self._names[name]}` is {_shape(self.entry(name).shape)}, "
            f"the configuration says {_shape(shape)}"
            for name, shape in wanted.items()
            if name in self._names and self.entry(name).shape != shape
        ]
        known = {*self._names.values(), *self.unused}
        complaints = [
            *_some("missing", sorted(wanted.keys() - self._names.keys())),
            *_some("without a place in the network", sorted(self._extra(wanted))),
            *_some("without a place in the network", sorted(entries.keys() - known)),
            *misshapen[:3],
        ]
        if complaints:
            raise ConvertError(
                f"the tensors do not fit `config.json`: {'; '.join(complaints)}",
                "check that configuration and weights belong to the same model",
            )
        return wanted

    def _extra(self, wanted: Mapping[str, Any]) -> list[str]:
        return [theirs for ours, theirs in self._names.items() if ours not in wanted]


def open_source(
    path: Path,
    config: Path | None = None,
    weights: Sequence[str] = (),
    weight_bits: str | None = None,
    fake_quant: str | None = None,
) -> Source:
    """The checkpoint in a directory or a single file.

    Args:
        path: a Hugging Face style directory, or a ``.bin``, ``.pth``, ``.safetensors`` or ``.gguf``
            file. A file's configuration is the ``config.json`` beside it; a GGUF carries its own.
        config: a ``config.json`` elsewhere.
        weights: names of the directory's weight files, when it is known which ones are meant.
        weight_bits: of a ParetoQ checkpoint whose configuration does not name them.
        fake_quant: the scheme that 16-bit weights were rounded to in training.

    Raises:
        MobileLLMError: one of its kinds, when it is no checkpoint of the family or is damaged.
    """
    if not path.exists():
        raise ConvertError(f"there is no `{path}`", "name a checkpoint's directory or weight file")
    reader = open_directory(path, weights) if path.is_dir() else open_weights(path)
    if reader.format == "gguf":
        from .gguf import GGUFSource

        if weight_bits is not None or fake_quant is not None:
            raise ConvertError(
                f"`{path.name}` is packed already", "leave out `--weight-bits` and `--fake-quant`"
            )
        if config is not None:
            raise ConvertError(
                f"`{path.name}` carries its own configuration", "leave out `--config`"
            )
        return GGUFSource(path, reader)
    home = path if path.is_dir() else path.parent
    if config is not None and not config.is_file():
        raise ConvertError(f"there is no `{config}`", "name the source's `config.json`")
    config = config or home / "config.json"
    if (home / "adapter_config.json").is_file() and not config.is_file():
        raise ConvertError(
            f"`{path}` is an adapter, not a model", "merge it into its base model first"
        )
    if not config.is_file():
        raise ConvertError(
            f"`{path}` has no `config.json` beside it, so the network's shape is unknown",
            "name the configuration with `--config FILE`",
        )
    raw = _read_config(config)
    reader = few_bits_reader(reader, raw, weight_bits, fake_quant)
    names, unused = map_names(reader.entries)
    return Source(path, reader, raw, names, unused)


def few_bits_reader(
    reader: Reader, raw: Mapping[str, Any], weight_bits: str | None, fake_quant: str | None
) -> Reader:
    """``reader`` with weights that are packed, or were trained for few bits, as packed entries.

    Raises:
        ConvertError: when the tensors are not what the configuration or the options say.
    """
    reader = paretoq_reader(packed_reader(reader, raw), raw, weight_bits)
    if fake_quant is not None and not reader.is_readable:
        raise ConvertError(
            "what `--fake-quant` finds is in the weights themselves", "convert to see it"
        )
    return fake_quant_reader(reader, fake_quant)


def _read_config(path: Path) -> dict[str, Any]:
    """A configuration, its packing under the one name that MLX's programs agree on."""
    raw = read_json(path)
    theirs = raw.get("quantization_config")
    if theirs is None or "quantization" in raw:
        return raw
    method = theirs.get("quant_method") if isinstance(theirs, dict) else str(theirs)
    if isinstance(theirs, dict) and method is None and "bits" in theirs:
        return {**raw, "quantization": theirs}
    raise ConvertError(
        f"the weights are quantised by another program ({str(method)[:40]})",
        "use the checkpoint from before that",
    )


def map_names(entries: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Our names for a PyTorch checkpoint's, and the tensors that are left out with the reason.

    Raises:
        ConvertError: when two tensors come to the same name.
    """
    names: dict[str, str] = {}
    unused: dict[str, str] = {}
    plain = {theirs: _without_prefixes(theirs) for theirs in entries}
    bare = not any(".embed_tokens." in name or ".layers." in name for name in plain.values())
    for theirs, ours in plain.items():
        if bare and not ours.startswith("lm_head."):  # saved from the transformer without its head
            ours = f"model.{ours}"
        if _DERIVED.fullmatch(ours):
            unused[theirs] = "follows from the configuration"
        elif ours in names:
            raise ConvertError(f"`{theirs}` and `{names[ours]}` are the same tensor of the network")
        else:
            names[ours] = theirs
    return names, unused


def _without_prefixes(name: str) -> str:
    while (shorter := name.removeprefix(_PREFIXES[0]).removeprefix(_PREFIXES[1])) != name:
        name = shorter
    return name


def _equal(left: Tensor, right: Tensor) -> bool:
    if isinstance(left, PackedTensor) and isinstance(right, PackedTensor):
        parts = zip(left.parts().values(), right.parts().values(), strict=True)
        return left.packing == right.packing and all(_equal(a, b) for a, b in parts)
    if isinstance(left, PackedTensor) or isinstance(right, PackedTensor):
        return False
    # In a common type, so that a float32 copy of 16-bit values is the same; NaN equals NaN.
    same = mx.array_equal(left.astype(mx.float32), right.astype(mx.float32), equal_nan=True)
    return bool(same.item())


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _some(what: str, names: list[str], most: int = 3) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{len(names)} {what} ({', '.join(names[:most])}{more})"]
