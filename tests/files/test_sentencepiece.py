"""Sentencepiece vocabularies against the reference library."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import GOLDEN

from mobilellm_mlx.errors import TokenizerError
from mobilellm_mlx.tokenizer import Detokenizer, SentencePieceTokenizer, load_tokenizer

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


def streamed(tokenizer: SentencePieceTokenizer, ids: list[int]) -> str:
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
