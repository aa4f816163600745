"""llama.cpp's names for the ways in which byte-level tokenizers cut text before their merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Manner:
    """How text is cut before byte-level merges, as the original tokenizer does it."""

    pattern: str | None = None
    """Regular expression whose matches are the pieces; None is GPT-2's."""
    single_digits: bool = False
    compose: bool = False
    """Whether characters are composed first (Unicode's NFC)."""
    whole_words: bool = False
    """Whether a piece that is a token is taken as it is, even if no merges lead to it."""
    adds_bos: bool = False
    """Whether texts begin with a token of their own where the file does not say."""


_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_3_MANNER = Manner(_LLAMA_3, whole_words=True, adds_bos=True)
MANNERS = {
    "gpt-2": Manner(),
    "smollm": Manner(single_digits=True),
    "qwen2": Manner(_LLAMA_3.replace("{1,3}", ""), compose=True),
    "llama-bpe": _LLAMA_3_MANNER,
    "llama-v3": _LLAMA_3_MANNER,
    "llama3": _LLAMA_3_MANNER,
}
"""By the names that llama.cpp gives them (``tokenizer.ggml.pre``), the usual one of several
first."""


def find_manner(table: Mapping[str, Any]) -> str | None:
    """The name for what a ``tokenizer.json`` does; None when it has none.

    Args:
        table: its content, which the tokenizers library has accepted.
    """
    found = _describe(table)
    names = (name for name, manner in MANNERS.items() if replace(manner, adds_bos=False) == found)
    return next(names, None)


def _describe(table: Mapping[str, Any]) -> Manner | None:
    """The manner in a ``tokenizer.json``, known or not; None where it does something else."""
    normalizer, step = table.get("normalizer"), table.get("pre_tokenizer") or {}
    if normalizer not in (None, {"type": "NFC"}):
        return None
    manner = Manner(
        compose=normalizer is not None,
        whole_words=bool(table["model"].get("ignore_merges")),
    )
    *before, last = step.get("pretokenizers") or [step]
    for each in before:
        match each:
            case {"type": "Digits", "individual_digits": True}:
                manner = replace(manner, single_digits=True)
            case {"type": "Split", "pattern": {"Regex": str(words)}, "behavior": "Isolated"} if (
                not each.get("invert") and manner.pattern is None
            ):
                manner = replace(manner, pattern=words)
            case _:
                return None
    bytewise = last.get("type") == "ByteLevel" and last.get("add_prefix_space") is False
    by_itself = last.get("use_regex", True) is not False
    return manner if bytewise and by_itself == (manner.pattern is None) else None
