"""The tokenizer inside a GGUF file's metadata, as a Hugging Face ``tokenizer.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import ConvertError

if TYPE_CHECKING:
    from .gguf import Metadata

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of the GGUF specification that are matched before anything is split."""

_NAMES = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}


def tokenizer_json(meta: Metadata) -> str:
    """The whole tokenizer as JSON text.

    Raises:
        ConvertError: for any kind but byte-level BPE with SmolLM's way of splitting.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, split = meta.text("tokenizer.ggml.model"), meta.text("tokenizer.ggml.pre")
    if (kind, split) != ("gpt2", "smollm"):
        raise ConvertError(
            f"the GGUF tokenizer is {kind!r} with pre-tokenizer {split!r}, "
            "expected 'gpt2' with 'smollm'"
        )
    tokens = meta.texts("tokenizer.ggml.tokens")
    types = meta.numbers("tokenizer.ggml.token_type")
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ConvertError("the GGUF token list does not fit its types, or names one twice")
    merges = [_pair(line) for line in meta.texts("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # SmolLM: every digit by itself, then GPT-2's regular expression over bytes.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token, type_ in zip(tokens, types, strict=True):
        if type_ == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif type_ == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return str(tokenizer.to_str())


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise ConvertError(f"the GGUF merge {line!r} is not a pair")
    return left, right


def special_ids(meta: Metadata) -> dict[str, int]:
    """``bos_token_id`` and its like, as far as the file names them."""
    ids = {}
    for name, key in _NAMES.items():
        if name != "unk" and (value := meta.number(key, -1)) >= 0:
            ids[f"{name}_token_id"] = int(value)
    return ids


def tokenizer_config(meta: Metadata) -> dict[str, Any]:
    """The ``tokenizer_config.json`` that Hugging Face loaders want beside it."""
    tokens = meta.texts("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(meta.number("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta.number("llama.context_length"),
    }
    for name, key in _NAMES.items():
        value = meta.number(key, -1)
        if 0 <= value < len(tokens):
            config[f"{name}_token"] = tokens[value]
    return config
