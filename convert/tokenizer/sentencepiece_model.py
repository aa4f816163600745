"""Reading a ``tokenizer.model``: sentencepiece's vocabulary, a protocol buffer.

The sentencepiece package keeps to itself how a model prepares its texts, and the package that would
read the file's fields is no dependency of ours. The few fields that matter are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from math import isfinite
from pathlib import Path
from typing import Any

from mobilellm_mlx.errors import ConvertError

from ..readers.tensors import read_bytes

SPACE = "\u2581"
"""How sentencepiece writes a space inside a piece."""

MAX_MODEL_BYTES = 32_000_000
_NEW_FILE = "fetch `tokenizer.model` of the original checkpoint again"


class Kind(IntEnum):
    """What a piece is, by the numbers of sentencepiece's own format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Settings:
    """How a text is prepared and taken apart; the defaults are sentencepiece's."""

    algorithm: str = "unigram"
    """``unigram``, ``bpe``, ``word`` or ``char``."""
    byte_fallback: bool = False
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    treat_whitespace_as_suffix: bool = False
    normaliser: str = "identity"
    """Name of the rules for characters; ``identity`` where there are none."""
    names: Mapping[str, str] = field(
        default_factory=lambda: {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    )
    """The pieces that begin a text, end it, and so on; not all of them need to exist."""


_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Value = int | bytes


def read_pieces(path: Path) -> tuple[list[Piece], Settings]:
    """The vocabulary of a ``tokenizer.model``, and how texts are prepared for it.

    Raises:
        ConvertError: when it is not a sentencepiece model, or sentencepiece cannot load it.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConvertError(f"`{path}` cannot be read: {error.strerror}") from error
    if size > MAX_MODEL_BYTES:
        raise ConvertError(
            f"`{path.name}` has {size:,} bytes, expected at most {MAX_MODEL_BYTES:,}", _NEW_FILE
        )
    data = bytes(read_bytes(path, 0, size))
    try:
        parsed = _read_model(data)
    except ValueError as error:
        raise ConvertError(
            f"`{path.name}` is not a sentencepiece model: {error}", _NEW_FILE
        ) from error
    if (count := len(load_processor(path))) != len(parsed[0]):
        raise ConvertError(
            f"`{path.name}` has {len(parsed[0]):,} pieces, of which sentencepiece reads {count:,}",
            _NEW_FILE,
        )
    return parsed


def _read_model(data: bytes) -> tuple[list[Piece], Settings]:
    pieces: list[Piece] = []
    trainer: dict[int, _Value] = {}
    normaliser: dict[int, _Value] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_read_piece(dict(_fields(_raw(value))), len(pieces)))
        elif number == 2:
            trainer.update(_fields(_raw(value)))
        elif number == 3:
            normaliser.update(_fields(_raw(value)))
    if not pieces:
        raise ValueError("it holds no pieces")
    names = Settings().names
    settings = Settings(
        algorithm=_ALGORITHMS.get(_number(trainer, 3, 1), "unknown"),
        byte_fallback=bool(_number(trainer, 35, 0)),
        add_dummy_prefix=bool(_number(normaliser, 3, 1)),
        remove_extra_whitespaces=bool(_number(normaliser, 4, 1)),
        escape_whitespaces=bool(_number(normaliser, 5, 1)),
        treat_whitespace_as_suffix=bool(_number(trainer, 24, 0)),
        normaliser=(_text(normaliser, 1, "") or "unnamed") if normaliser.get(2) else "identity",
        names={
            role: _text(trainer, number, names[role])
            for role, number in (("unk", 45), ("bos", 46), ("eos", 47), ("pad", 48))
        },
    )
    return pieces, settings


def _read_piece(fields: Mapping[int, _Value], index: int) -> Piece:
    score, kind = fields.get(2, bytes(4)), _number(fields, 3, Kind.NORMAL)
    if not isinstance(score, bytes) or len(score) != 4 or kind not in list(Kind):
        raise ValueError(f"piece {index:,} has an impossible score or kind")
    value: float = struct.unpack("<f", score)[0]
    if not isfinite(value):
        raise ValueError(f"piece {index:,} has the score {value}")
    return Piece(_text(fields, 1, ""), value, Kind(kind))


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Number and value of every field of a message; 4 and 8 byte values stay bytes."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} before byte {place:,}")
        if length > len(data) - place:
            raise ValueError(f"{length:,} bytes are announced at byte {place:,} of {len(data):,}")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError(f"it ends inside a number at byte {place:,}")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number before byte {place:,} is longer than 64 bits")


def _raw(value: _Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes are expected")
    return value


def _number(fields: Mapping[int, _Value], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def _text(fields: Mapping[int, _Value], number: int, default: str) -> str:
    value = fields.get(number)
    return default if value is None else _raw(value).decode()


def load_processor(path: Path) -> Any:
    """The model in sentencepiece itself.

    Raises:
        ConvertError: when sentencepiece cannot load it.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ConvertError(f"`{path.name}` cannot be loaded by sentencepiece", _NEW_FILE) from error
