"""Names of ways to cut text: what is read under one is written under it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convert.readers.gguf import Metadata
from convert.tokenizer import gguf as gguf_tokenizer
from convert.tokenizer.manners import MANNERS, find_manner
from tests.convert import gguf_writer


def table(name: str) -> dict[str, Any]:
    """The ``tokenizer.json`` of a vocabulary that is cut as ``name`` says."""
    meta = {**gguf_writer.tiny_metadata(), "tokenizer.ggml.pre": name}
    made: dict[str, Any] = json.loads(gguf_tokenizer.tokenizer_json(Metadata(meta)))
    return made


@pytest.mark.parametrize("name", MANNERS)
def test_what_is_read_under_a_name_is_found_under_it(name) -> None:
    usual = {"llama-v3": "llama-bpe", "llama3": "llama-bpe"}
    assert find_manner(table(name)) == usual.get(name, name)


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (0, {"invert": True}),
        (0, {"behavior": "Removed"}),
        (0, {"pattern": {"Regex": "a+"}}),
        (0, {"pattern": {"String": "a"}}),
        (1, {"use_regex": True}),
        (1, {"add_prefix_space": True}),
        (1, {"type": "Metaspace"}),
    ],
    ids=str,
)
def test_a_way_that_is_a_little_different_has_no_name(step, change) -> None:
    made = table("qwen2")
    made["pre_tokenizer"]["pretokenizers"][step] |= change
    assert find_manner(made) is None


def test_another_normaliser_or_none_at_all_is_another_way() -> None:
    assert find_manner({**table("qwen2"), "normalizer": None}) is None
    assert find_manner({**table("smollm"), "normalizer": {"type": "NFKC"}}) is None
    assert find_manner({**table("smollm"), "pre_tokenizer": None}) is None
