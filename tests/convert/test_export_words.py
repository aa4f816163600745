"""Tokenizers out: llama.cpp takes text apart as we do, or the export is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, write_json, write_model

from convert.readers.gguf import open_gguf
from convert.tokenizer.gguf import tokenizer_json
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from tests.convert.exports import notices, run
from tests.convert.gguf_parser import parse


@pytest.fixture
def half_dir(tmp_path: Path) -> Path:
    """A model with a byte-level tokenizer."""
    return write_model(tmp_path / "half", dtype=mx.float16)


def test_a_byte_level_tokenizer_comes_back_with_the_same_ids(tmp_path, half_dir) -> None:
    from tokenizers import Tokenizer

    run(half_dir, tmp_path / "x.gguf")
    reader = open_gguf(tmp_path / "x.gguf")
    back = Tokenizer.from_str(tokenizer_json(reader.metadata))
    text = "Grüße <|im_start|> 2024\n\tend  "
    original = Tokenizer.from_file(str(half_dir / "tokenizer.json"))
    assert back.encode(text).ids == original.encode(text).ids
    meta = parse(tmp_path / "x.gguf").metadata
    assert (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert meta["tokenizer.ggml.eos_token_id"] == 257
    assert meta["tokenizer.ggml.add_bos_token"] is False
    assert meta["tokenizer.ggml.token_type"] == [1] * 256 + [3, 3]
    assert meta["tokenizer.chat_template"] == (half_dir / "chat_template.jinja").read_text()


def test_the_ways_of_cutting_text_are_told_apart(tmp_path, half_dir) -> None:
    path = half_dir / "tokenizer.json"
    table = json.loads(path.read_text())
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    split = {
        "type": "Split",
        "pattern": {
            "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        },
        "behavior": "Isolated",
        "invert": False,
    }
    plain = {**words, "use_regex": False}
    for steps, whole, name in (
        ([digits, {**words, "use_regex": True}], False, "smollm"),
        ([split, plain], True, "llama-bpe"),
    ):
        table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        table["model"]["ignore_merges"] = whole
        write_json(path, table)
        run(half_dir, tmp_path / "x.gguf", force=True)
        assert parse(tmp_path / "x.gguf").metadata["tokenizer.ggml.pre"] == name
    table["model"]["ignore_merges"] = False
    write_json(path, table)
    with pytest.raises(ConvertError, match=r"no known name in llama\.cpp"):
        run(half_dir, tmp_path / "y.gguf")


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
    ],
    ids=["normalizer", "prefix space"],
)
def test_text_that_llama_cpp_would_cut_differently_is_refused(tmp_path, half_dir, change) -> None:
    table = json.loads((half_dir / "tokenizer.json").read_text())
    write_json(half_dir / "tokenizer.json", {**table, **change})
    with pytest.raises(ConvertError, match=r"no known name in llama\.cpp") as caught:
        run(half_dir, tmp_path / "x.gguf")
    assert "safetensors" in str(caught.value.hint)


def train_sentencepiece(**options: Any) -> bytes:
    from sentencepiece import SentencePieceTrainer

    text = ["the quick brown fox jumps over the lazy dog", "a small model on your machine 123"] * 9
    out = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, vocab_size=320, minloglevel=2,
        **{"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
           "remove_extra_whitespaces": False, "hard_vocab_limit": False, **options},
    )  # fmt: skip
    return out.getvalue()


def sentencepiece_dir(path: Path, model: bytes) -> Path:
    write_model(path, {**LLAMA, "vocab_size": 330, "bos_token_id": 1, "eos_token_id": 2})
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()
    (path / "tokenizer.model").write_bytes(model)
    return path


def test_a_sentencepiece_vocabulary_is_written_with_scores_and_types(tmp_path) -> None:
    from sentencepiece import SentencePieceProcessor

    model = train_sentencepiece(user_defined_symbols=["<|x|>"])
    source = sentencepiece_dir(tmp_path / "sp", model)
    events = run(source, tmp_path / "x.gguf", type_="f32")
    meta = parse(tmp_path / "x.gguf").metadata
    processor = SentencePieceProcessor(model_proto=model)
    size = processor.vocab_size()
    tokens = meta["tokenizer.ggml.tokens"]
    assert tokens[:size] == [processor.id_to_piece(i) for i in range(size)]
    assert meta["tokenizer.ggml.scores"][:size] == [processor.get_score(i) for i in range(size)]
    types = meta["tokenizer.ggml.token_type"]
    assert types[:5] == [2, 3, 3, 4, 6] and types.count(6) == 256
    # The embedding has more rows than the vocabulary has pieces: llama.cpp wants a token for each.
    assert len(tokens) == len(types) == len(meta["tokenizer.ggml.scores"]) == 330
    assert tokens[-1] == "[PAD329]" and types[-1] == 5
    assert (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.add_bos_token"]) == ("llama", True)
    assert meta["tokenizer.ggml.add_space_prefix"] is True
    ids = {name: meta[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    assert ids == {"bos": 1, "eos": 2} and notices(events) == []


def test_a_vocabulary_that_changes_characters_is_exported_with_a_warning(tmp_path) -> None:
    model = train_sentencepiece(normalization_rule_name="nmt_nfkc")
    events = run(sentencepiece_dir(tmp_path / "sp", model), tmp_path / "x.gguf", type_="f32")
    assert any("changes characters" in said for said in notices(events))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"model_type": "unigram"}, "unigram model"), ({"byte_fallback": False}, "0 pieces for")],
    ids=["unigram", "no bytes"],
)
def test_vocabularies_that_llama_cpp_cannot_use_are_refused(tmp_path, options, said) -> None:
    source = sentencepiece_dir(tmp_path / "sp", train_sentencepiece(**options))
    with pytest.raises(ConvertError, match=said):
        run(source, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def rewritten_dir(path: Path, model: bytes) -> Path:
    """A model with the same vocabulary as a ``tokenizer.json`` alone, as an import leaves it."""
    run(sentencepiece_dir(path, model), path / "x.gguf", type_="f32")
    text = tokenizer_json(open_gguf(path / "x.gguf").metadata)
    (path / "tokenizer.model").unlink()
    (path / "tokenizer.json").write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("prefix", [True, False])
def test_a_rewritten_sentencepiece_vocabulary_comes_back_with_the_same_ids(
    tmp_path, prefix
) -> None:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    model = train_sentencepiece(add_dummy_prefix=prefix)
    source = rewritten_dir(tmp_path / "sp", model)
    run(source, tmp_path / "y.gguf", type_="f32")
    back = Tokenizer.from_str(tokenizer_json(open_gguf(tmp_path / "y.gguf").metadata))
    processor = SentencePieceProcessor(model_proto=model)
    for text in ("the lazy dog  jumps", " über 123\n\n", "   a small model", "foxfox brown"):
        assert back.encode(text, add_special_tokens=False).ids == processor.encode(text)
    first, second = (parse(path).metadata for path in (source / "x.gguf", tmp_path / "y.gguf"))
    for name in ("tokens", "add_space_prefix", "model", "pre", "eos_token_id"):
        assert second[f"tokenizer.ggml.{name}"] == first[f"tokenizer.ggml.{name}"], name
    # An import makes signs of the padding behind the vocabulary.
    types = [meta["tokenizer.ggml.token_type"][:320] for meta in (first, second)]
    assert types[0] == types[1] and types[0][:4] == [2, 3, 3, 6]


def test_a_rewritten_vocabulary_that_changes_texts_first_is_refused(tmp_path) -> None:
    source = rewritten_dir(tmp_path / "sp", train_sentencepiece())
    table = json.loads((source / "tokenizer.json").read_text())
    table["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    write_json(source / "tokenizer.json", table)
    with pytest.raises(ConvertError, match="apart differently") as caught:
        run(source, tmp_path / "y.gguf", type_="f32")
    assert "safetensors" in str(caught.value.hint) and not (tmp_path / "y.gguf").exists()


def test_tokens_on_top_of_a_sentencepiece_model_are_named(tmp_path) -> None:
    source = sentencepiece_dir(tmp_path / "sp", train_sentencepiece())
    table = {
        "324": {"content": "<|user|>", "special": True},
        "326": {"content": "<think>", "special": False},
    }
    write_json(source / "tokenizer_config.json", {"added_tokens_decoder": table})
    run(source, tmp_path / "x.gguf", type_="f32")
    meta = parse(tmp_path / "x.gguf").metadata
    assert meta["tokenizer.ggml.tokens"][323:328] == [
        "[PAD323]", "<|user|>", "[PAD325]", "<think>", "[PAD327]",
    ]  # fmt: skip
    assert meta["tokenizer.ggml.token_type"][323:328] == [5, 3, 5, 4, 5]


def test_the_template_named_default_is_written(tmp_path, half_dir) -> None:
    (half_dir / "chat_template.jinja").unlink()
    named = [{"name": "tools", "template": "{{ no }}"}, {"name": "default", "template": "{{ a }}"}]
    config = {"eos_token": "<|im_end|>", "chat_template": named}
    write_json(half_dir / "tokenizer_config.json", config)
    run(half_dir, tmp_path / "x.gguf")
    assert parse(tmp_path / "x.gguf").metadata["tokenizer.chat_template"] == "{{ a }}"


def test_a_model_without_an_end_of_text_is_refused(tmp_path, half_dir) -> None:
    write_json(half_dir / "tokenizer_config.json", {})
    with pytest.raises(ConvertError, match="names the token that ends a text"):
        run(half_dir, tmp_path / "x.gguf")
