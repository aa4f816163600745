"""The tokenizer inside a GGUF file."""

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer

from convert.gguf import GGUFSource
from convert.job import ConvertOptions, convert
from convert.readers.gguf import Metadata, open_gguf
from convert.tokenizer import gguf as gguf_tokenizer
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.tokenizer import load_tokenizer
from tests.convert import gguf_writer as gguf


@dataclass(frozen=True)
class Words:
    """A tokenizer as it was written into a model directory."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "tokenizer_config.json").read_text(encoding="utf-8"))

    @property
    def template(self) -> str | None:
        path = self.path / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def load(self):
        """Read back as the program reads it."""
        return load_tokenizer(self.path, self.config)


def write_words(path: Path, directory: Path) -> Words:
    """The tokenizer of a file."""
    directory.mkdir(exist_ok=True)
    assert GGUFSource(path, open_gguf(path)).write_tokenizer(directory) == []
    return Words(directory)


@pytest.fixture(scope="module")
def words(gguf_file, tmp_path_factory) -> Words:
    return write_words(gguf_file, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(words):
    return words.load()


TOKENS = gguf.tiny_metadata()["tokenizer.ggml.tokens"]


def test_every_token_keeps_its_id(words) -> None:
    rust = Tokenizer.from_file(str(words.path / "tokenizer.json"))
    assert [rust.id_to_token(i) for i in range(len(TOKENS))] == TOKENS
    assert rust.get_vocab_size() == len(TOKENS)


def test_merges_apply_in_their_order(tokenizer) -> None:
    names = [TOKENS[i] for i in tokenizer.encode("he the t")]
    assert names == ["he", "\u0120the", "\u0120t"]


def test_every_digit_is_a_token_of_its_own(tokenizer) -> None:
    assert [TOKENS[i] for i in tokenizer.encode("2024")] == ["2", "0", "2", "4"]


@pytest.mark.parametrize("text", ["", " ", "a b", "Grüße, 世界 👩‍👧\n\t", "\x00\x7f", " the  the "])
def test_text_comes_back_byte_for_byte(tokenizer, text) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_control_tokens_are_signs_and_user_tokens_are_text(tokenizer) -> None:
    assert tokenizer.special == {name: TOKENS.index(name) for name in gguf.SIGNS}
    think = TOKENS.index("<think>")
    assert tokenizer.token_bytes(think) == b"<think>"
    assert tokenizer.encode("a<think>b") == [*tokenizer.encode("a"), think, *tokenizer.encode("b")]


def test_signs_in_plain_text_stay_text(tokenizer) -> None:
    ids = tokenizer.encode("<|im_end|>")
    assert len(ids) == len("<|im_end|>") and tokenizer.special["<|im_end|>"] not in ids


def test_the_settings_name_the_special_tokens(words) -> None:
    config = words.config
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["unk_token"], config["pad_token"]) == ("<|endoftext|>", "<|im_end|>")
    assert config["model_max_length"] == 512 and config["add_bos_token"] is False


def test_a_file_that_wants_a_first_token_gets_it(tmp_path) -> None:
    path = gguf.write_tiny_gguf(tmp_path / "bos.gguf", tokenizer__ggml__add_bos_token=True)
    tokenizer = write_words(path, tmp_path).load()
    assert tokenizer.prefix == (TOKENS.index("<|im_start|>"),)


def test_ids_that_the_file_does_not_name_are_left_out(tmp_path) -> None:
    path = gguf.write_tiny_gguf(tmp_path / "few.gguf", tokenizer__ggml__padding_token_id=None)
    assert "pad_token_id" not in GGUFSource(path, open_gguf(path)).raw
    assert "pad_token" not in write_words(path, tmp_path).config


def test_a_file_without_a_template_has_none(tmp_path, words) -> None:
    assert words.template == gguf.CHATML
    path = gguf.write_tiny_gguf(tmp_path / "base.gguf", tokenizer__chat_template=None)
    assert write_words(path, tmp_path).template is None


def test_an_end_of_turn_ends_texts_too() -> None:
    ids = gguf_tokenizer.special_ids
    end, turn = {"tokenizer.ggml.eos_token_id": 5}, {"tokenizer.ggml.eot_token_id": 7}
    assert ids(Metadata({**end, **turn})) == {"eos_token_id": [5, 7]}
    assert ids(Metadata(turn)) == {"eos_token_id": 7}
    assert ids(Metadata({**end, "tokenizer.ggml.eot_token_id": 5})) == {"eos_token_id": 5}


def byte_level(pre: str, words: list[str] | None = None) -> Tokenizer:
    """The tiny vocabulary cut as ``pre`` says, with some words that no merges lead to."""
    meta = {**gguf.tiny_metadata(), "tokenizer.ggml.pre": pre}
    tokens = [*TOKENS, *(words or [])]
    types = [*meta["tokenizer.ggml.token_type"], *[1] * len(words or [])]
    meta |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    return Tokenizer.from_str(gguf_tokenizer.tokenizer_json(Metadata(meta)))


def cuts(pre: str, text: str) -> list[str]:
    """The pieces of a text between which nothing is merged, spaces shown as spaces."""
    tokenizer = byte_level(pre)
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [tokenizer.decoder.decode([piece]) for piece, _ in pieces]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["I", "'", "LL", " see", " 12345", "(", "x", "):", "\n\n  ", " ok"]),
        ("smollm", ["I", "'", "LL", " see", " ", *"12345", "(", "x", "):", "\n\n  ", " ok"]),
        ("llama-bpe", ["I", "'LL", " see", " ", "123", "45", "(x", "):\n\n", "  ", " ok"]),
        ("llama3", ["I", "'LL", " see", " ", "123", "45", "(x", "):\n\n", "  ", " ok"]),
        ("qwen2", ["I", "'LL", " see", " ", *"12345", "(x", "):\n\n", "  ", " ok"]),
    ],
)
def test_text_is_cut_as_the_model_learned_it(pre, expected) -> None:
    assert cuts(pre, "I'LL see 12345(x):\n\n   ok") == expected


def test_only_qwen_composes_characters() -> None:
    apart, together = "e\u0301", "\u00e9"
    for pre in gguf_tokenizer._MANNERS:
        tokenizer = byte_level(pre)
        same = tokenizer.encode(apart).ids == tokenizer.encode(together).ids
        assert same == (pre == "qwen2"), pre


def test_only_llama_3_takes_whole_words_without_merges() -> None:
    for pre in gguf_tokenizer._MANNERS:
        tokens = byte_level(pre, ["xyz"]).encode("xyz").tokens
        whole = pre in ("llama-bpe", "llama-v3", "llama3")
        assert tokens == (["xyz"] if whole else ["x", "y", "z"]), pre


@pytest.mark.parametrize(
    ("changes", "adds"),
    [
        ({"tokenizer.ggml.pre": "llama-bpe"}, True),
        ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": False}, False),
        ({"tokenizer.ggml.pre": "qwen2"}, False),
        ({"tokenizer.ggml.model": "llama"}, True),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False}, False),
    ],
)
def test_a_file_that_does_not_say_begins_texts_as_llama_cpp_would(changes, adds) -> None:
    meta = gguf.tiny_metadata()
    del meta["tokenizer.ggml.add_bos_token"]
    config = gguf_tokenizer.tokenizer_config(Metadata({**meta, **changes}))
    assert config["add_bos_token"] is adds


LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "the theory that there are three of them",
    "def f(x):    return x + 1",
    "Gr\u00fc\u00dfe aus K\u00f6ln, 2024",
]


@pytest.fixture(scope="module")
def sentencepiece() -> SentencePieceProcessor:
    """A Llama-like model, trained on a few lines."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())


def as_metadata(model: SentencePieceProcessor, **changes: Any) -> Metadata:
    """What llama.cpp's converter writes of a sentencepiece model."""
    ids = range(model.vocab_size())
    kinds = [
        6 if model.is_byte(i) else 3 if model.is_control(i) else 2 if model.is_unknown(i) else 1
        for i in ids
    ]
    values = {
        "llama.context_length": 512,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
    }
    return Metadata(values | {f"tokenizer.ggml.{key}": value for key, value in changes.items()})


def test_a_sentencepiece_vocabulary_gives_the_same_ids(sentencepiece) -> None:
    tokenizer = Tokenizer.from_str(gguf_tokenizer.tokenizer_json(as_metadata(sentencepiece)))
    rng = random.Random(3)
    words = [word for line in LINES for word in line.split()]
    texts = [" ".join(rng.choices([*words, "", "\U0001f600", "\n"], k=9)) for _ in range(100)]
    for text in [*LINES, *texts, "", " ", "   ", "\x00"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == sentencepiece.encode(text), text
        assert tokenizer.decode(ids) == text


def test_sentencepiece_texts_begin_with_their_sign(sentencepiece) -> None:
    tokenizer = Tokenizer.from_str(gguf_tokenizer.tokenizer_json(as_metadata(sentencepiece)))
    assert tokenizer.encode("the").ids[0] == sentencepiece.bos_id()


def write_sentencepiece_gguf(path: Path, model: SentencePieceProcessor) -> Path:
    """The tiny network with another vocabulary."""
    meta = {k: v for k, v in gguf.tiny_metadata().items() if not k.startswith("tokenizer.")}
    tensors: dict[str, Any] = gguf.stored(gguf.tiny_tensors())
    rows = model.vocab_size()
    tensors["token_embd.weight"] = gguf.matrix(gguf.Q8_0, rows, gguf.HIDDEN, random.Random(8))
    return gguf.write_gguf(path, meta | as_metadata(model)._values, tensors)


def test_a_sentencepiece_file_becomes_a_model_that_reads_its_words(sentencepiece, tmp_path) -> None:
    path = write_sentencepiece_gguf(tmp_path / "sp.gguf", sentencepiece)
    list(convert(path, tmp_path / "model", ConvertOptions(verify=False)))
    loaded = load_model(tmp_path / "model")
    assert loaded.template is None
    assert loaded.stop_tokens == {sentencepiece.eos_id()}
    assert loaded.tokenizer.prefix == (sentencepiece.bos_id(),)
    for text in LINES:
        ids = loaded.tokenizer.encode(text)
        assert ids == sentencepiece.encode(text)
        assert loaded.tokenizer.decode(ids) == text
    logits = loaded.model(mx.array([[*loaded.tokenizer.prefix, *ids]]), loaded.model.make_cache())
    assert logits.shape[-1] == sentencepiece.vocab_size()


def test_without_the_space_prefix_texts_are_not_led_in(sentencepiece) -> None:
    meta = as_metadata(sentencepiece, add_space_prefix=False)
    tokenizer = Tokenizer.from_str(gguf_tokenizer.tokenizer_json(meta))
    assert tokenizer.encode("the", add_special_tokens=False).tokens[0][0] == "t"
    assert gguf_tokenizer.tokenizer_config(meta)["add_prefix_space"] is False


def test_tokens_on_top_of_a_sentencepiece_vocabulary_are_added(sentencepiece) -> None:
    plain = as_metadata(sentencepiece)._values
    more = {
        "tokens": [*plain["tokenizer.ggml.tokens"], "<|user|>", "<think>", "[PAD2]"],
        "scores": [*plain["tokenizer.ggml.scores"], -1000.0, -1000.0, -1000.0],
        "token_type": [*plain["tokenizer.ggml.token_type"], 3, 4, 5],
    }
    tokenizer = Tokenizer.from_str(
        gguf_tokenizer.tokenizer_json(as_metadata(sentencepiece, **more))
    )
    first = sentencepiece.vocab_size()
    added = tokenizer.get_added_tokens_decoder()
    assert [added[first + i].content for i in range(3)] == ["<|user|>", "<think>", "[PAD2]"]
    assert [added[first + i].special for i in range(3)] == [True, False, True]
    assert tokenizer.get_vocab_size() == first + 3
    ids = tokenizer.encode("the<think>", add_special_tokens=False).ids
    assert ids == [*sentencepiece.encode("the"), first + 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scores": [0.0]}, "the GGUF token list does not fit its scores"),
        ({"treat_whitespace_as_suffix": True}, "puts spaces behind words"),
        ({"remove_extra_whitespaces": True}, "does not keep the spaces"),
        ({"precompiled_charsmap": [1, 2]}, "changes characters"),
        ({"types": {5: 9}}, "a token of type 9, expected 1 to 6"),
        ({"types": {5: 4}}, "pieces for single bytes, expected 256"),
    ],
)
def test_a_sentencepiece_vocabulary_that_would_change_is_refused(
    sentencepiece, changes, said
) -> None:
    if "types" in changes:
        types = list(as_metadata(sentencepiece).numbers("tokenizer.ggml.token_type"))
        for i, kind in changes["types"].items():
            types[i] = kind
        changes = {"token_type": types, "add_space_prefix": False}
    with pytest.raises(ConvertError) as caught:
        gguf_tokenizer.tokenizer_json(as_metadata(sentencepiece, **changes))
    assert said in caught.value.message
