"""Writes GGUF files from the specification alone: nothing here uses MLX, NumPy or our own code.

The blocks and their values are computed in plain Python, so what an importer makes of them can be
compared with a second opinion. (ggml/docs/gguf.md and ggml/src/ggml-quants.c of llama.cpp.)
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

GROUP = 32
ALIGNMENT = 32


def half(value: float) -> float:
    """The nearest float16."""
    return float(struct.unpack("<e", struct.pack("<e", value))[0])


@dataclass(frozen=True)
class Block:
    """32 weights: ``code * scale + offset``, codes from 0."""

    codes: tuple[int, ...]
    scale: float
    offset: float

    def values(self) -> list[float]:
        return [code * self.scale + self.offset for code in self.codes]


class Q4_1:  # noqa: N801
    """4-bit codes, a scale and an offset of their own."""

    number, bits = 3, 4

    @staticmethod
    def draw(rng: random.Random) -> Block:
        codes = tuple(rng.randrange(16) for _ in range(GROUP))
        return Block(codes, half(rng.uniform(0.005, 0.05)), half(rng.uniform(-0.4, 0.0)))

    @staticmethod
    def pack(block: Block) -> bytes:
        return struct.pack("<ee", block.scale, block.offset) + _nibbles(block.codes)


class Q4_0:  # noqa: N801
    """4-bit codes around 8."""

    number, bits = 2, 4

    @staticmethod
    def draw(rng: random.Random) -> Block:
        scale = half(rng.uniform(-0.05, 0.05))
        return Block(tuple(rng.randrange(16) for _ in range(GROUP)), scale, -8 * scale)

    @staticmethod
    def pack(block: Block) -> bytes:
        return struct.pack("<e", block.scale) + _nibbles(block.codes)


class Q8_0:  # noqa: N801
    """Signed 8-bit codes; here counted from -128."""

    number, bits = 8, 8

    @staticmethod
    def draw(rng: random.Random) -> Block:
        scale = half(rng.uniform(0.0005, 0.003))
        return Block(tuple(rng.randrange(256) for _ in range(GROUP)), scale, -128 * scale)

    @staticmethod
    def pack(block: Block) -> bytes:
        return struct.pack("<e32b", block.scale, *(code - 128 for code in block.codes))


class Q5_0:  # noqa: N801
    """5-bit codes around 16; the fifth bits lie together, before the rest."""

    number, bits = 6, 5

    @staticmethod
    def draw(rng: random.Random) -> Block:
        scale = half(rng.uniform(-0.02, 0.02))
        return Block(tuple(rng.randrange(32) for _ in range(GROUP)), scale, -16 * scale)

    @staticmethod
    def pack(block: Block) -> bytes:
        return struct.pack("<e", block.scale) + _five_bits(block.codes)


class Q5_1:  # noqa: N801
    """5-bit codes, a scale and an offset of their own."""

    number, bits = 7, 5

    @staticmethod
    def draw(rng: random.Random) -> Block:
        codes = tuple(rng.randrange(32) for _ in range(GROUP))
        return Block(codes, half(rng.uniform(0.005, 0.02)), half(rng.uniform(-0.4, 0.0)))

    @staticmethod
    def pack(block: Block) -> bytes:
        return struct.pack("<ee", block.scale, block.offset) + _five_bits(block.codes)


class F32:
    """Plain numbers."""

    number, bits = 0, 32


def _nibbles(codes: Sequence[int]) -> bytes:
    """Weight i in the low half of byte i, weight i + 16 in its high half."""
    return bytes(low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True))


def _five_bits(codes: Sequence[int]) -> bytes:
    high = sum((code >> 4) << i for i, code in enumerate(codes))
    return struct.pack("<I", high) + _nibbles([code & 15 for code in codes])


def draw_k_block(rng: random.Random, bits: int) -> tuple[bytes, list[float]]:
    """A random block of Q4_K or Q5_K, and the 256 weights it stands for.

    Eight groups of 32 with scales and minima of 6 bits, which two float16 multiply.
    """
    step, least = half(rng.uniform(1e-4, 1e-3)), half(rng.uniform(1e-4, 1e-3))
    scales, minima = ([rng.randrange(64) for _ in range(8)] for _ in range(2))
    groups = [[rng.randrange(1 << bits) for _ in range(GROUP)] for _ in range(8)]
    data = struct.pack("<ee", step, least)
    for six in (scales, minima):  # of the last four, the upper two bits lie over the first four
        data += bytes(first | last >> 4 << 6 for first, last in zip(six[:4], six[4:], strict=True))
    lower = zip(scales[4:], minima[4:], strict=True)
    data += bytes(scale & 15 | (minimum & 15) << 4 for scale, minimum in lower)
    if bits == 5:  # the fifth bits of weight i of all groups are byte i
        columns = zip(*groups, strict=True)
        data += bytes(sum((code >> 4) << g for g, code in enumerate(c)) for c in columns)
    for low, high in zip(groups[::2], groups[1::2], strict=True):
        data += bytes(a & 15 | (b & 15) << 4 for a, b in zip(low, high, strict=True))
    rows = zip(scales, minima, groups, strict=True)
    return data, [step * s * code - least * m for s, m, codes in rows for code in codes]


@dataclass(frozen=True)
class Raw:
    """Any tensor, by its type's number and its bytes."""

    number: int
    shape: tuple[int, ...]
    payload: bytes

    @property
    def kind(self) -> Raw:
        return self

    def data(self) -> bytes:
        return self.payload


@dataclass(frozen=True, eq=False)
class Tensor:
    """A matrix of blocks, row by row, or (``kind`` F32) a vector of numbers."""

    kind: type
    rows: list[list[Block]]
    numbers: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        if self.kind is F32:
            return (len(self.numbers),)
        return (len(self.rows), len(self.rows[0]) * GROUP)

    def data(self) -> bytes:
        return self._data

    @cached_property
    def _data(self) -> bytes:
        if self.kind is F32:
            return struct.pack(f"<{len(self.numbers)}f", *self.numbers)
        return b"".join(self.kind.pack(block) for row in self.rows for block in row)

    def values(self) -> list[list[float]]:
        """What the blocks stand for."""
        return [[value for block in row for value in block.values()] for row in self.rows]


def matrix(kind: type, rows: int, columns: int, rng: random.Random) -> Tensor:
    """A random matrix."""
    return Tensor(kind, [[kind.draw(rng) for _ in range(columns // GROUP)] for _ in range(rows)])


def vector(numbers: Sequence[float]) -> Tensor:
    """A float32 vector."""
    return Tensor(F32, [], tuple(numbers))


@cache
def interleave(tensor: Tensor, heads: int) -> Tensor:
    """Rows as llama.cpp stores q and k: in each head, rows of both halves in turn."""
    size = len(tensor.rows) // heads
    rows = []
    for head in range(heads):
        for i in range(size // 2):
            for part in (0, 1):
                rows.append(tensor.rows[head * size + part * (size // 2) + i])
    return Tensor(tensor.kind, rows)


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor | Raw]
) -> Path:
    """A GGUF file of version 3.

    Args:
        path: where to.
        metadata: str, bool, int (unsigned 32-bit), float (32-bit), and lists of str, int or float.
        tensors: by their names in the file.
    """
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += _text(key) + _typed(value)
    body = b""
    for name, tensor in tensors.items():
        body += b"\0" * (-len(body) % ALIGNMENT)
        dims = tensor.shape[::-1]  # the fastest first
        head += _text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", tensor.kind.number, len(body))
        body += tensor.data()
    path.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + body)
    return path


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, list):
        first = value[0] if value else 0
        if isinstance(first, str):
            kind, items = 8, [_text(item) for item in value]
        else:
            kind, code = (6, "<f") if isinstance(first, float) else (5, "<i")
            items = [struct.pack(code, item) for item in value]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<If", 6, value)


HIDDEN, FFN, HEADS, KV_HEADS, HEAD, LAYERS = 64, 96, 4, 2, 16, 2
SIGNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}"
    "{% endif %}"
)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the bytes 0 to 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(byte if byte in printable else next(rest)) for byte in range(256)]


def tiny_metadata() -> dict[str, Any]:
    """The metadata of a tiny SmolLM-like chat model."""
    tokens = [*byte_alphabet(), "he", "\u0120the", "\u0120t", "20", *SIGNS, "<think>"]
    return {
        "general.architecture": "llama",
        "general.alignment": ALIGNMENT,
        "llama.block_count": LAYERS,
        "llama.context_length": 512,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": FFN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 100_000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            3 if t in SIGNS else 4 if t == "<think>" else 1 for t in tokens
        ],
        "tokenizer.ggml.merges": ["h e", "\u0120 t", "\u0120t he", "2 0"],
        "tokenizer.ggml.bos_token_id": tokens.index("<|im_start|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.unknown_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def tiny_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors for ``tiny_metadata``, by our names, q and k not yet interleaved."""
    return dict(_tiny_tensors(seed))


@cache
def _tiny_tensors(seed: int) -> dict[str, Tensor]:
    rng = random.Random(seed)
    vocab = len(tiny_metadata()["tokenizer.ggml.tokens"])

    def norm() -> Tensor:
        return vector([1 + rng.randrange(-256, 256) / 1024 for _ in range(HIDDEN)])

    tensors = {"token_embd": matrix(Q8_0, vocab, HIDDEN, rng), "output_norm": norm()}
    for layer in range(LAYERS):
        four = (Q4_1, Q4_0)[layer % 2]
        tensors |= {
            f"blk.{layer}.attn_norm": norm(),
            f"blk.{layer}.attn_q": matrix(four, HEADS * HEAD, HIDDEN, rng),
            f"blk.{layer}.attn_k": matrix(four, KV_HEADS * HEAD, HIDDEN, rng),
            f"blk.{layer}.attn_v": matrix(Q4_1, KV_HEADS * HEAD, HIDDEN, rng),
            f"blk.{layer}.attn_output": matrix(Q4_1, HIDDEN, HEADS * HEAD, rng),
            f"blk.{layer}.ffn_norm": norm(),
            f"blk.{layer}.ffn_gate": matrix(Q4_1, FFN, HIDDEN, rng),
            f"blk.{layer}.ffn_up": matrix(Q4_1, FFN, HIDDEN, rng),
            f"blk.{layer}.ffn_down": matrix(Q4_1, HIDDEN, FFN, rng),
        }
    return tensors


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as llama.cpp writes them: with ``.weight``, q and k interleaved."""
    done = {}
    for name, tensor in tensors.items():
        if name.endswith(("attn_q", "attn_k")):
            tensor = interleave(tensor, HEADS if name.endswith("q") else KV_HEADS)
        done[f"{name}.weight"] = tensor
    return done


def write_tiny_gguf(path: Path, **metadata: Any) -> Path:
    """A whole tiny model; metadata replaced where given, left out where None.

    Dots in the keys are written as two underscores.
    """
    merged = {**tiny_metadata(), **{k.replace("__", "."): v for k, v in metadata.items()}}
    kept = {key: value for key, value in merged.items() if value is not None}
    return write_gguf(path, kept, stored(tiny_tensors()))
