"""A chat template for a model that has none, or in place of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import GOLDEN
from training.data.making import (
    CHATML,
    CHATML_SIGNS,
    LLAMA3,
    LLAMA3_SIGNS,
    MISTRAL_SIGNS,
    Signs,
    load,
    marked,
    said,
    write_lines,
)

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import SentencePieceTokenizer, Tokenizer
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import Manner, choose_template

ROW = said("hi", "Hello.", system="Be kind.")


def chosen(template: str, tokenizer: Tokenizer = CHATML_SIGNS, stop: int = 256) -> Manner:
    return choose_template(None, TrainConfig(template=template), tokenizer, frozenset({stop}))


def test_a_models_own_template_is_used_where_no_other_is_named() -> None:
    manner = choose_template(LLAMA3, TrainConfig(), LLAMA3_SIGNS, frozenset({257}))
    assert manner == Manner(LLAMA3, frozenset({257}), None, None)


def test_chatml_uses_its_tokens_and_its_end_where_the_tokenizer_has_them(tmp_path: Path) -> None:
    tokenizer = Signs("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    manner = chosen("chatml", tokenizer)
    assert manner.stop_tokens == {256, 258}
    assert manner.end == "<|im_end|>"
    path = write_lines(tmp_path / "d.jsonl", [ROW])
    [example] = load(path, tokenizer, "chatml", stop=256).train
    assert marked(example, tokenizer) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n[[Hello.<|im_end|>]]"
    )
    assert list(example.tokens).count(257) == 3


def test_chatml_without_its_tokens_is_text_with_the_models_own_end(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [ROW])
    [example] = load(path, MISTRAL_SIGNS, "chatml", stop=257).train
    assert marked(example, MISTRAL_SIGNS) == (
        "<|im_start|>system\nBe kind.</s>\n<|im_start|>user\nhi</s>\n"
        "<|im_start|>assistant\n[[Hello.</s>]]"
    )
    assert list(example.tokens).count(257) == 3


def test_chatml_begins_with_the_token_that_a_tokenizer_puts_before_every_text() -> None:
    tokenizer = SentencePieceTokenizer(GOLDEN / "botchan_en_bpe_1000.model")
    manner = chosen("chatml", tokenizer, stop=2)
    assert manner.template is not None
    assert manner.source is not None
    text = ChatTemplate(manner.source).render([{"role": "user", "content": "hi"}])
    assert text == "<s><|im_start|>user\nhi</s>\n<|im_start|>assistant\n"


def test_a_file_can_be_the_template(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(CHATML.source + "{{ eos_token }}")
    manner = chosen(str(path))
    assert manner.source == path.read_text()
    assert manner.template is not None
    assert manner.template.render([]).endswith("<|im_start|>")  # the stop token's name


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "there is no template"), (b"{% for %}", "is broken"), (b"\xff", "not UTF-8"),
     (b"a" * 2_000_000, "far too long")],
)  # fmt: skip
def test_a_file_that_is_no_template_is_refused(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "own.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        chosen(str(path))


def test_a_tokenizer_that_cannot_end_an_answer_is_refused() -> None:
    with pytest.raises(DataError, match="no token that could end an answer"):
        choose_template(None, TrainConfig(template="chatml"), MISTRAL_SIGNS, frozenset())
