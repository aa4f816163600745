"""A checkpoint of a published size with random weights, as torch would have written it.

    python benchmarks/synthetic.py DIRECTORY [--size 1.5b]

One ``pytorch_model.bin`` (a ZIP of stored records and a pickle, put together here without torch),
``config.json`` and a sentencepiece ``tokenizer.model`` of 32,000 tokens. Weights are written a
piece at a time; the values repeat after ``_POOL`` elements, which no part of a conversion notices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import string
import struct
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

TOKENIZER_CONFIG = {"bos_token": "", "eos_token": "", "tokenizer_class": "LlamaTokenizer"}
_ALIGNMENT = 64  # torch starts every record at a multiple of it
_POOL = 1 << 24
_PIECE = 1 << 22


def published_config(size: str) -> dict[str, Any]:
    """The ``config.json`` of a published size; 1.5B is published as a Llama with its own head."""
    from mobilellm_mlx.models.sizes import checkpoint_config

    config = {**checkpoint_config(size), "torch_dtype": "bfloat16"}
    if size == "1.5b":
        config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        for name in ("share_embedding", "layer_sharing"):
            del config[name]
    return config


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, from our own network; nothing is computed."""
    from mobilellm_mlx.backend import tree_flatten
    from mobilellm_mlx.models import LanguageModel, build_config

    model = LanguageModel(build_config(config))
    return {name: array.shape for name, array in tree_flatten(model.parameters())}


def write_checkpoint(directory: Path, size: str) -> Path:
    """A whole checkpoint directory; gives its ``pytorch_model.bin``."""
    directory.mkdir(parents=True, exist_ok=True)
    config = published_config(size)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(config["vocab_size"]))
    path = directory / "pytorch_model.bin"
    write_bin(path, tensor_shapes(config))
    return path


def write_bin(path: Path, shapes: Shapes) -> None:
    """bfloat16 weights in the format of ``torch.save``."""
    values = _Values()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_record(archive, f"{path.stem}/data.pkl", [state_pickle(shapes)])
        _write_record(archive, f"{path.stem}/byteorder", [b"little"])
        for number, shape in enumerate(shapes.values()):
            pieces = _norm(shape) if len(shape) == 1 else values.take(prod(shape))
            _write_record(archive, f"{path.stem}/data/{number}", pieces)
        _write_record(archive, f"{path.stem}/version", [b"3\n"])


def _write_record(archive: zipfile.ZipFile, name: str, pieces: Any) -> None:
    """One stored record, its data at a multiple of ``_ALIGNMENT``."""
    info = zipfile.ZipInfo(name)
    assert archive.fp is not None
    start = archive.fp.tell() + 30 + len(name) + 4  # the local header, and one extra field's head
    fill = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
    with archive.open(info, "w") as record:
        for piece in pieces:
            record.write(piece)


def _norm(shape: tuple[int, ...]) -> Iterator[bytes]:
    yield struct.pack("<H", 0x3F80) * prod(shape)  # 1.0


class _Values:
    """bfloat16 bytes of a normal distribution, from a pool that is read round and round."""

    def __init__(self, seed: int = 0):
        from mobilellm_mlx.backend import mx

        weights = mx.random.normal((_POOL,), scale=0.02, key=mx.random.key(seed))
        self._pool = memoryview(weights.astype(mx.bfloat16).view(mx.uint16)).cast("B")
        self._at = 0

    def take(self, count: int) -> Iterator[memoryview]:
        """The next ``count`` values, a piece at a time."""
        while count:
            size = min(count, _PIECE, _POOL - self._at)
            yield self._pool[2 * self._at : 2 * (self._at + size)]
            self._at = (self._at + size) % _POOL
            count -= size


def state_pickle(shapes: Shapes) -> bytes:
    """The ``data.pkl`` of an ordered dict of contiguous bfloat16 tensors, one storage each.

    Pickle protocol 2, opcode by opcode; storages are named by persistent ids, as torch does.
    """
    out = [b"\x80\x02", _ORDERED_DICT, b"("]
    for number, (name, shape) in enumerate(shapes.items()):
        strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        storage = [_text("storage"), b"ctorch\nBFloat16Storage\n", _text(str(number)), _text("cpu")]
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", b"("]
        out += [b"(", *storage, _int(prod(shape)), b"tQ"]  # BINPERSID
        out += [_int(0), b"(", *map(_int, shape), b"t(", *map(_int, strides), b"t"]
        out += [b"\x89", _ORDERED_DICT, b"tR"]  # no gradient, no hooks
    return b"".join([*out, b"u."])


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def sentencepiece_model(vocab_size: int) -> bytes:
    """A sentencepiece BPE model with byte fallback, in the layout of Llama 2's.

    Made-up pieces: letters and everything that they spell, shortest first.
    """
    pieces = [_piece("<unk>", 0.0, 2), _piece("<s>", 0.0, 3), _piece("</s>", 0.0, 3)]
    pieces += [_piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    letters = "\u2581" + string.ascii_lowercase
    words = (
        "".join(word)
        for length in itertools.count(2)
        for word in itertools.product(letters, repeat=length)
        if "\u2581" not in word[1:]
    )
    merged = itertools.islice(words, vocab_size - len(pieces) - len(letters))
    pieces += [_piece(word, -float(rank)) for rank, word in enumerate(merged)]
    pieces += [_piece(letter, -float(vocab_size)) for letter in letters]
    trainer = _field(3, 2) + _field(35, 1)  # BPE, byte fallback
    normalizer = _field(1, b"identity") + _field(3, 1) + _field(4, 0) + _field(5, 1)
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _piece(text: str, score: float, kind: int = 1) -> bytes:
    return _field(
        1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind)
    )


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a number or a string."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", default="1.5b")
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.directory, arguments.size))
