"""Sentencepiece vocabularies against the reference library."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import GOLDEN, write_json

from mobilellm_mlx.added_tokens import AddedToken, added_tokens
from mobilellm_mlx.errors import TokenizerError
from mobilellm_mlx.tokenizer import (
    Detokenizer,
    SentencePieceTokenizer,
    SpacePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)
from tests.convert import sentencepiece_writer as sp

BOTCHAN = GOLDEN / "botchan_en_bpe_1000.model"
UNKNOWN = " \u2047 "
"""How the reference library shows an unknown piece; we leave it out, as all control tokens."""


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name).read_text())
    return content


def expected(row: dict[str, Any]) -> str:
    """The reference's text as we show it: unknown pieces left out, and one sign for a broken
    character (as Unicode recommends, and as byte-level vocabularies do), not one for each byte."""
    text: str = row["decoded"]
    if 0 in row["ids"]:
        text = text.replace(UNKNOWN, "")
    if row["ids"][:1] == [0]:
        text = text.removeprefix(" ")  # then the first space of a text comes later
    return re.sub("\ufffd+", "\ufffd", text)


def check(tokenizer: SentencePieceTokenizer, golden: dict[str, Any]) -> None:
    for row in golden["cases"]:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
    for row in golden["cases"] + golden["decode"]:
        assert tokenizer.decode(row["ids"]) == expected(row), row["ids"]


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.add, ids), detokenizer.finish()])


@pytest.fixture(scope="module")
def botchan() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(BOTCHAN)


def test_botchan_has_the_reference_librarys_ids_and_texts(botchan: SentencePieceTokenizer) -> None:
    check(botchan, read("botchan_sp.json"))


def test_most_of_the_botchan_cases_have_no_unknown_pieces() -> None:
    cases = read("botchan_sp.json")["cases"]
    assert sum(0 not in row["ids"] for row in cases) > 20


@pytest.mark.real
def test_mistral_has_the_reference_librarys_ids_and_texts(mistral_tokenizer: Path) -> None:
    """The vocabulary of Llama 2's kind, with byte fallback: MobileLLM v1 has one like it."""
    golden = read("mistral_sp.json")
    check(SentencePieceTokenizer(mistral_tokenizer), golden)
    assert not any(0 in row["ids"] for row in golden["cases"])


@pytest.mark.real
@given(st.lists(st.integers(0, 31_999), max_size=30))
def test_a_stream_of_any_mistral_ids_is_their_whole_text(
    mistral_tokenizer: Path, ids: list[int]
) -> None:
    tokenizer = SentencePieceTokenizer(mistral_tokenizer)
    assert streamed(tokenizer, ids).removeprefix(" ") == tokenizer.decode(ids)


@given(st.lists(st.integers(0, 999), max_size=30))
def test_a_stream_of_any_ids_is_their_whole_text_after_its_first_space(ids: list[int]) -> None:
    """A stream goes on after a prompt, where the first space is a real one."""
    tokenizer = SentencePieceTokenizer(BOTCHAN)
    assert streamed(tokenizer, ids).removeprefix(" ") == tokenizer.decode(ids)


def test_control_tokens_are_special_and_have_no_text(botchan: SentencePieceTokenizer) -> None:
    assert botchan.special == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert [botchan.token_bytes(token) for token in range(3)] == [b"", b"", b""]


def test_names_of_control_tokens_in_a_text_are_text(botchan: SentencePieceTokenizer) -> None:
    assert not {1, 2} & set(botchan.encode("<s>hi</s>"))


def test_names_of_control_tokens_in_a_template_are_signs(botchan: SentencePieceTokenizer) -> None:
    assert botchan.encode_template("<s>Hello</s>") == [1, *botchan.encode("Hello"), 2]


def test_guarded_names_of_control_tokens_stay_text(botchan: SentencePieceTokenizer) -> None:
    (text,), marker = botchan.guard(["<s>Hello</s>"])
    assert not {1, 2} & set(botchan.encode_template(text, marker))


@pytest.mark.parametrize(("add", "prefix"), [(None, (1,)), (True, (1,)), (False, ())])
def test_plain_text_starts_with_bos_unless_the_model_says_no(
    tmp_path: Path, add: bool | None, prefix: tuple[int, ...]
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(BOTCHAN.read_bytes())
    assert load_tokenizer(tmp_path, {"add_bos_token": add}).prefix == prefix


@pytest.mark.parametrize("token", [-1, 1000, 2**40])
def test_an_id_outside_the_vocabulary_is_refused(
    botchan: SentencePieceTokenizer, token: int
) -> None:
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        botchan.token_bytes(token)


def test_text_that_is_not_unicode_is_refused(botchan: SentencePieceTokenizer) -> None:
    with pytest.raises(TokenizerError, match="not valid Unicode"):
        botchan.encode("a\udcffb")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(100)])
def test_a_damaged_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path, {})


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as MobileLLM v1 has one, and the ``tokenizer.json`` made from it."""
    from convert.tokenizer.sentencepiece_json import Added, tokenizer_json
    from convert.tokenizer.sentencepiece_model import read_pieces

    directory = tmp_path_factory.mktemp("llama")
    (directory / "tokenizer.model").write_bytes(sp.train(**sp.LLAMA_LIKE))
    pieces, settings = read_pieces(directory / "tokenizer.model")
    added = [Added("[PAD]", True), Added("<think>", False)]
    text = tokenizer_json(pieces, settings, added=added)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    return directory


ADDED = {340: AddedToken("[PAD]", True), 341: AddedToken("<think>", False)}


@pytest.fixture(scope="module")
def exact(llama_like: Path) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(llama_like / "tokenizer.model", added=ADDED)


@pytest.fixture(scope="module")
def described(llama_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """From ``tokenizer.json`` alone."""
    directory = tmp_path_factory.mktemp("described")
    (directory / "tokenizer.json").write_bytes((llama_like / "tokenizer.json").read_bytes())
    return load_tokenizer(directory, {"bos_token": "<s>", "add_bos_token": True})


TEXTS = st.lists(
    st.one_of(st.text(max_size=5), st.sampled_from(["<think>", "[PAD]", "</s>", "the  haha", "\n"]))
).map("".join)


def test_a_tokenizer_json_of_sentencepieces_kind_is_read(
    described: Tokenizer, exact: SentencePieceTokenizer
) -> None:
    assert type(described) is SpacePieceTokenizer
    assert described.special == exact.special == {"<unk>": 0, "<s>": 1, "</s>": 2, "[PAD]": 340}
    assert described.vocab_size == exact.vocab_size == 342
    assert described.prefix == exact.prefix == (1,)


@given(TEXTS)
def test_both_files_give_the_same_ids_and_texts(
    described: Tokenizer, exact: SentencePieceTokenizer, text: str
) -> None:
    ids = exact.encode(text)
    assert described.encode(text) == ids
    assert described.encode_template(text) == exact.encode_template(text)
    assert described.decode(ids) == exact.decode(ids)
    if "<think>" not in text:
        assert exact.decode(ids) == text.replace("\u2581", " ")


@given(st.lists(st.integers(0, 341), max_size=30))
def test_both_files_give_every_token_the_same_bytes(
    described: Tokenizer, exact: SentencePieceTokenizer, ids: list[int]
) -> None:
    assert list(map(described.token_bytes, ids)) == list(map(exact.token_bytes, ids))
    assert streamed(described, ids).removeprefix(" ") == described.decode(ids)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_metaspace_is_sentencepieces_space_under_another_name(
    tmp_path: Path, llama_like: Path, scheme: str
) -> None:
    content = json.loads((llama_like / "tokenizer.json").read_text(encoding="utf-8"))
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
    write_json(tmp_path / "tokenizer.json", {**content, "normalizer": None, "decoder": space})
    tokenizer = load_tokenizer(tmp_path, {})
    the = content["model"]["vocab"]["\u2581the"]
    assert tokenizer.token_bytes(the) == b" the"
    assert tokenizer.decode([the]) == (" the" if scheme == "never" else "the")


def test_the_exact_file_comes_first(tmp_path: Path, llama_like: Path) -> None:
    for name in ("tokenizer.model", "tokenizer.json"):
        (tmp_path / name).write_bytes((llama_like / name).read_bytes())
    config = {"added_tokens_decoder": {str(i): {"content": t.text} for i, t in ADDED.items()}}
    assert type(load_tokenizer(tmp_path, config)) is SentencePieceTokenizer


def test_tokens_that_only_tokenizer_json_knows_make_it_the_one_to_read(llama_like: Path) -> None:
    tokenizer = load_tokenizer(llama_like, {})
    assert type(tokenizer) is SpacePieceTokenizer
    assert tokenizer.special["[PAD]"] == 340


def test_added_tokens_are_words_or_signs(exact: SentencePieceTokenizer) -> None:
    assert exact.encode("a<think>a") == [*exact.encode("a"), 341, *exact.encode("a")]
    assert exact.token_bytes(341) == b"<think>"
    assert exact.token_bytes(340) == b""
    assert 340 not in exact.encode("[PAD]")
    assert exact.encode_template("[PAD]a") == [340, *exact.encode("a")]


def test_the_longest_added_word_wins(llama_like: Path) -> None:
    added = {400: AddedToken("<t>", False), 401: AddedToken("<t>>", False)}
    tokenizer = SentencePieceTokenizer(llama_like / "tokenizer.model", added=added)
    assert tokenizer.encode("<t>><t>") == [401, 400]
    assert tokenizer.vocab_size == 402
    with pytest.raises(TokenizerError, match="token 399 is outside"):
        tokenizer.token_bytes(399)


def test_added_tokens_are_found_in_both_files(tmp_path: Path) -> None:
    write_json(tmp_path / "added_tokens.json", {"[PAD]": 32000, "<think>": 32001})
    config = {
        "pad_token": {"content": "[PAD]"},
        "additional_special_tokens": ["<sep>"],
        "added_tokens_decoder": {
            "32002": {"content": "<sep>", "special": True},
            "32003": {"content": "word", "special": False},
        },
    }
    assert added_tokens(tmp_path, config) == {
        32000: AddedToken("[PAD]", True),
        32001: AddedToken("<think>", False),
        32002: AddedToken("<sep>", True),
        32003: AddedToken("word", False),
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", []),
        ("added_tokens.json", {"a": "b"}),
        ("added_tokens.json", {"a": True}),
        ("added_tokens.json", {"a": -1}),
        ("added_tokens.json", {"": 5}),
        ("added_tokens.json", {"\ud800": 5}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": 7}}}),
    ],
)
def test_impossible_added_tokens_are_refused(tmp_path: Path, name: str, content: Any) -> None:
    write_json(tmp_path / name, content)
    config = content if name == "tokenizer_config.json" else {}
    with pytest.raises(TokenizerError, match="added"):
        added_tokens(tmp_path, config)
