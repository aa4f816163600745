"""A model directory's tokenizer as llama.cpp wants it: lists in the metadata of a GGUF file.

Two kinds have a counterpart there: byte-level BPE (``gpt2``, with the name of a way of cutting text
into words) and sentencepiece BPE with byte fallback (``llama``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilellm_mlx.added_tokens import AddedToken, added_tokens
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.loading import load_template_source, read_json
from mobilellm_mlx.tokenizer import (
    ByteLevelTokenizer,
    SentencePieceTokenizer,
    SpacePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    token_name,
)

from ..readers.gguf import Metadata
from ..tokenizer import gguf as gguf_tokenizer
from ..tokenizer.manners import MANNERS, find_manner
from ..tokenizer.sentencepiece_json import battery
from ..tokenizer.sentencepiece_model import SPACE, Kind, Piece, read_pieces
from .source import ModelDirectory

_UNLIKE_LLAMA_CPP = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of a BPE model that llama.cpp has nothing for."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_AS_IT_IS = "export with `--format safetensors`, which keeps the tokenizer as it is"


def tokenizer_metadata(source: ModelDirectory) -> tuple[dict[str, Any], list[str]]:
    """The ``tokenizer.*`` keys of a model, and what the person should know about them.

    Raises:
        TokenizerError: when the directory has no usable tokenizer.
        ConvertError: when llama.cpp has nothing that takes text apart the same way.
    """
    tokenizer = load_tokenizer(source.path, source.tokenizer_config)
    notices: list[str] = []
    if isinstance(tokenizer, ByteLevelTokenizer):
        meta = _byte_level(source.path / "tokenizer.json", source.config.vocab_size)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        meta, notices = _sentencepiece(source.path / "tokenizer.model")
        _add_tokens(meta, added_tokens(source.path, source.tokenizer_config))
    elif isinstance(tokenizer, SpacePieceTokenizer):
        meta = _rewritten(source.path / "tokenizer.json", source.config.vocab_size, tokenizer)
    else:
        raise ConvertError(f"a {type(tokenizer).__name__} has no counterpart in GGUF", _AS_IT_IS)
    _pad_vocabulary(meta, source.config.vocab_size)
    meta |= _special_ids(source, tokenizer)
    meta["tokenizer.ggml.add_bos_token"] = bool(tokenizer.prefix)
    if template := load_template_source(source.path, source.tokenizer_config):
        meta["tokenizer.chat_template"] = template
    return meta, notices


def _byte_level(path: Path, rows: int) -> dict[str, Any]:
    """A ``tokenizer.json`` that has been loaded once, so its parts are what they should be."""
    table = read_json(path)
    manner = _recognise(table)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": manner,
        **_tokens(table, rows),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(table)],
        "tokenizer.ggml.add_space_prefix": False,
    }


def _tokens(table: dict[str, Any], rows: int) -> dict[str, Any]:
    """The names and types of all tokens in a ``tokenizer.json``."""
    tokens = {index: token for token, index in table["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, Kind.NORMAL)
    for added in table.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = Kind.CONTROL if added["special"] else Kind.USER_DEFINED
    count = max(tokens, default=-1) + 1
    _require_room(count, rows)
    return {
        "tokenizer.ggml.tokens": [tokens.get(i, _padding(i)) for i in range(count)],
        "tokenizer.ggml.token_type": [int(types.get(i, Kind.UNUSED)) for i in range(count)],
    }


def _merges(table: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges of a ``tokenizer.json``, whose older form is a text for each."""
    pairs = (
        merge.split(" ") if isinstance(merge, str) else merge for merge in table["model"]["merges"]
    )
    return [(left, right) for left, right in pairs]


def _recognise(table: dict[str, Any]) -> str:
    """llama.cpp's name for the way in which a ``tokenizer.json`` cuts text.

    Raises:
        ConvertError: when there is none.
    """
    model = table["model"]
    manner = find_manner(table)
    if manner and "merges" in model and not any(model.get(name) for name in _UNLIKE_LLAMA_CPP):
        return manner
    settings = json.dumps({name: table.get(name) for name in ("normalizer", "pre_tokenizer")})
    raise ConvertError(
        f"the tokenizer's way of cutting text has no known name in llama.cpp: {settings[:160]}",
        f"{', '.join(MANNERS)} have one; {_AS_IT_IS}",
    )


def _sentencepiece(path: Path) -> tuple[dict[str, Any], list[str]]:
    pieces, settings = read_pieces(path)
    if settings.algorithm != "bpe" or not settings.escape_whitespaces:
        raise ConvertError(
            f"the tokenizer is a sentencepiece {settings.algorithm} model, expected BPE", _AS_IT_IS
        )
    if settings.treat_whitespace_as_suffix:
        raise ConvertError("the tokenizer puts the space after a word", _AS_IT_IS)
    types = [int(piece.kind) for piece in pieces]
    _require_bytes(types)
    notices = []
    if settings.normaliser != "identity" or settings.remove_extra_whitespaces:
        notices.append(
            "the tokenizer changes characters or spaces before it takes a text apart, and "
            "llama.cpp does not: some texts become other tokens there"
        )
    meta = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in pieces],
        "tokenizer.ggml.scores": [piece.score for piece in pieces],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": settings.add_dummy_prefix,
    }
    return meta, notices


def _rewritten(path: Path, rows: int, tokenizer: SpacePieceTokenizer) -> dict[str, Any]:
    """A sentencepiece vocabulary of which only a ``tokenizer.json`` is left.

    Its ranks of merges become scores. What our own reader makes of them has to take texts apart as
    the original does; llama.cpp joins pieces in the same way.

    Raises:
        ConvertError: when it does not.
    """
    table = read_json(path)
    model = table["model"]
    if "merges" not in model:
        raise ConvertError(f"the tokenizer is a {model.get('type')} model, expected BPE", _AS_IT_IS)
    meta = _tokens(table, rows)
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    for i, token in enumerate(tokens):
        if model.get("byte_fallback") and _BYTE.fullmatch(token):
            types[i] = int(Kind.BYTE)
        elif token == model.get("unk_token"):
            types[i] = int(Kind.UNKNOWN)
    _require_bytes(types)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(_merges(table)):
        ranks.setdefault("".join(pair), rank)
    first = tokenizer.encode("a")[:1]
    meta |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [-float(ranks.get(token, len(ranks))) for token in tokens],
        "tokenizer.ggml.add_space_prefix": any(tokens[i].startswith(SPACE) for i in first),
    }
    _require_same(meta, tokenizer)
    return meta


def _require_bytes(types: list[int]) -> None:
    if (count := types.count(Kind.BYTE)) != 256:
        raise ConvertError(
            f"the tokenizer has {count} pieces for single bytes, expected 256",
            f"llama.cpp stops at characters that are no pieces; {_AS_IT_IS}",
        )


def _require_same(meta: dict[str, Any], tokenizer: SpacePieceTokenizer) -> None:
    from tokenizers import Tokenizer as Rust

    rust = Rust.from_str(gguf_tokenizer.tokenizer_json(Metadata(meta)))
    back = SpacePieceTokenizer(rust, byte_fallback=True, strips=False)
    lists = (meta[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    pieces = [Piece(text, score, Kind(kind)) for text, score, kind in zip(*lists, strict=True)]
    for text in battery(pieces):
        if back.encode(text) != tokenizer.encode(text):
            raise ConvertError(
                f"llama.cpp would take texts such as {text[:40]!r} apart differently than "
                "`tokenizer.json`",
                f"put the `tokenizer.model` of the original beside it, or {_AS_IT_IS}",
            )


def _add_tokens(meta: dict[str, Any], added: Mapping[int, AddedToken]) -> None:
    """Put what a fine-tune added behind the pieces of a ``tokenizer.model``."""
    tokens = meta["tokenizer.ggml.tokens"]
    pieces = len(tokens)
    for i in range(pieces, max(added, default=-1) + 1):
        token = added.get(i)
        kind = Kind.UNUSED
        if token is not None:
            kind = Kind.CONTROL if token.special else Kind.USER_DEFINED
        tokens.append(token.text if token else _padding(i))
        meta["tokenizer.ggml.token_type"].append(int(kind))
        meta["tokenizer.ggml.scores"].append(0.0)


def _padding(token: int) -> str:
    return f"[PAD{token}]"


def _pad_vocabulary(meta: dict[str, Any], rows: int) -> None:
    """As many tokens as the embedding has rows, or llama.cpp refuses the file.

    Raises:
        ConvertError: when there are more, or one appears twice.
    """
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    _require_room(len(tokens), rows)
    missing = range(len(tokens), rows)
    tokens += map(_padding, missing)
    types += [int(Kind.UNUSED)] * len(missing)
    if "tokenizer.ggml.scores" in meta:
        meta["tokenizer.ggml.scores"] += [0.0] * len(missing)
    if len(set(tokens)) != rows:
        twice = Counter(tokens).most_common(1)[0][0]
        raise ConvertError(f"the tokenizer has the token {twice!r} twice", _AS_IT_IS)


def _require_room(tokens: int, rows: int) -> None:
    if tokens > rows:
        raise ConvertError(
            f"the tokenizer has {tokens:,} tokens, the model only {rows:,}",
            "the directory mixes files of different models",
        )


def _special_ids(source: ModelDirectory, tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the begin and the end of a text, and their like.

    Raises:
        ConvertError: when nothing names the end of a text: llama.cpp would take token 11 for it.
    """
    ids: dict[str, int] = {}
    for name, key in _KEYS.items():
        named = token_name(source.tokenizer_config.get(f"{name}_token"))
        value: Any = source.raw.get(f"{name}_token_id")
        if isinstance(value, list):  # several ends: the first is the text's
            value = value[0] if value else None
        token = tokenizer.special.get(named or "", value)
        if type(token) is int and 0 <= token < source.config.vocab_size:
            ids[f"tokenizer.ggml.{key}_token_id"] = token
    if "tokenizer.ggml.eos_token_id" not in ids:
        raise ConvertError(
            "neither `tokenizer_config.json` nor `config.json` names the token that ends a text",
            "add `eos_token` to `tokenizer_config.json`",
        )
    return ids
