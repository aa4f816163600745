"""The tokenizer inside a GGUF file's metadata, as a Hugging Face ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import ConvertError

from . import sentencepiece_json
from .manners import MANNERS as _MANNERS
from .manners import Manner
from .sentencepiece_json import Added
from .sentencepiece_model import Kind, Piece, Settings

if TYPE_CHECKING:
    from ..readers.gguf import Metadata

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
"""Some token types of the GGUF specification, whose numbers are sentencepiece's. The first two are
matched before anything is split."""
_ON_TOP = (_CONTROL, _USER_DEFINED, _UNUSED)
"""What fine-tunes and padding put after the last piece of a sentencepiece vocabulary."""

_NAMES = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
}
_END_OF_TURN = "tokenizer.ggml.eot_token_id"
_ANOTHER = "convert the original checkpoint instead, whose tokenizer is a file of its own"


def tokenizer_json(meta: Metadata) -> str:
    """The whole tokenizer as JSON text.

    Raises:
        ConvertError: for any kind but byte-level BPE, cut in one of a few ways, and sentencepiece
            BPE; or when the lists contradict each other.
    """
    kind = meta.text("tokenizer.ggml.model")
    tokens = meta.texts("tokenizer.ggml.tokens")
    types = meta.numbers("tokenizer.ggml.token_type")
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ConvertError("the GGUF token list does not fit its types, or names one twice")
    if kind == "gpt2":
        return _byte_level(meta, tokens, types)
    if kind == "llama":
        return _sentencepiece(meta, tokens, types)
    raise ConvertError(f"the GGUF tokenizer is {kind!r}, expected 'gpt2' or 'llama'", _ANOTHER)


def _manner(meta: Metadata) -> Manner:
    name = meta.text("tokenizer.ggml.pre")
    if name not in _MANNERS:
        raise ConvertError(
            f"the GGUF tokenizer is 'gpt2' with pre-tokenizer {name!r}, "
            f"expected one of {', '.join(sorted(_MANNERS))}",
            _ANOTHER,
        )
    return _MANNERS[name]


def _byte_level(meta: Metadata, tokens: Sequence[str], types: Sequence[int]) -> str:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as pre

    manner = _manner(meta)
    merges = [_pair(line) for line in meta.texts("tokenizer.ggml.merges")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        model = models.BPE(vocabulary, merges, ignore_merges=manner.whole_words)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ConvertError(f"the GGUF merges do not fit the tokens: {error}") from error
    tokenizer = Tokenizer(model)
    steps: list[Any] = [pre.Digits(individual_digits=True)] if manner.single_digits else []
    if manner.pattern is not None:
        steps.append(pre.Split(Regex(manner.pattern), "isolated"))
    steps.append(pre.ByteLevel(add_prefix_space=False, use_regex=manner.pattern is None))
    tokenizer.pre_tokenizer = pre.Sequence(steps)
    if manner.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        named = [token for token, kind in zip(tokens, types, strict=True) if kind == wanted]
        added = [AddedToken(token, special=special, normalized=False) for token in named]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return str(tokenizer.to_str())


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not left or not right or " " in right:
        raise ConvertError(f"the GGUF merge {line!r} is not a pair")
    return left, right


def _sentencepiece(meta: Metadata, tokens: Sequence[str], types: Sequence[int]) -> str:
    """What llama.cpp calls ``llama``: sentencepiece's BPE, which joins by scores."""
    scores = meta.numbers("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ConvertError("the GGUF token list does not fit its scores")
    if meta.number("tokenizer.ggml.treat_whitespace_as_suffix", False):
        raise ConvertError("the GGUF tokenizer puts spaces behind words", _ANOTHER)
    count = len(tokens)
    while count and types[count - 1] in _ON_TOP:
        count -= 1
    pieces = [
        Piece(token, float(score), _kind(number))
        for token, score, number in zip(tokens[:count], scores, types, strict=False)
    ]
    added = [
        Added(token, number != _USER_DEFINED)
        for token, number in zip(tokens[count:], types[count:], strict=True)
    ]
    roles = {name: meta.whole(key, -1) for name, key in _NAMES.items()}
    settings = Settings(
        algorithm="bpe",
        byte_fallback=any(piece.kind is Kind.BYTE for piece in pieces),
        add_dummy_prefix=_adds_space(meta),
        remove_extra_whitespaces=bool(
            meta.number("tokenizer.ggml.remove_extra_whitespaces", False)
        ),
        normaliser="precompiled" if meta.has("tokenizer.ggml.precompiled_charsmap") else "identity",
        names={role: tokens[i] for role, i in roles.items() if 0 <= i < len(tokens)},
    )
    return sentencepiece_json.tokenizer_json(pieces, settings, added=added, add_bos=_adds_bos(meta))


def _kind(number: int) -> Kind:
    if number not in list(Kind):
        raise ConvertError(f"the GGUF file has a token of type {number}, expected 1 to 6")
    return Kind(number)


def _adds_space(meta: Metadata) -> bool:
    """Whether a text gets a space before it, as sentencepiece does by default."""
    if meta.text("tokenizer.ggml.model") != "llama":
        return False
    return bool(meta.number("tokenizer.ggml.add_space_prefix", True))


def _adds_bos(meta: Metadata) -> bool:
    """Whether a text begins with a token of its own; where the file does not say, as llama.cpp."""
    usual = meta.text("tokenizer.ggml.model") == "llama" or _manner(meta).adds_bos
    return bool(meta.number("tokenizer.ggml.add_bos_token", usual))


def special_ids(meta: Metadata) -> dict[str, Any]:
    """``bos_token_id`` and its like, as far as the file names them.

    A chat model that ends its turns with another token than its texts has both as
    ``eos_token_id``, as Hugging Face checkpoints do.
    """
    ids: dict[str, Any] = {}
    for name, key in _NAMES.items():
        if name != "unk" and (value := meta.whole(key, -1)) >= 0:
            ids[f"{name}_token_id"] = value
    turn, end = meta.whole(_END_OF_TURN, -1), ids.get("eos_token_id")
    if turn >= 0 and turn != end:
        ids["eos_token_id"] = turn if end is None else [end, turn]
    return ids


def tokenizer_config(meta: Metadata) -> dict[str, Any]:
    """The ``tokenizer_config.json`` that Hugging Face loaders want beside it."""
    tokens = meta.texts("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": _adds_bos(meta),
        "add_prefix_space": _adds_space(meta),
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta.number("llama.context_length"),
    }
    for name, key in _NAMES.items():
        value = meta.whole(key, -1)
        if 0 <= value < len(tokens):
            config[f"{name}_token"] = tokens[value]
    return config
