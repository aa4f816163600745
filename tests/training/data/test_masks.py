"""Which tokens are learned, whatever the chat template does with a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import GOLDEN
from training.data.making import (
    CHATML,
    CHATML_SIGNS,
    LLAMA3,
    LLAMA3_SIGNS,
    MISTRAL,
    MISTRAL_SIGNS,
    NAMED,
    REASONS,
    load,
    marked,
    said,
    write_lines,
)

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import ByteLevelTokenizer, SentencePieceTokenizer
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.loading import Reader
from mobilellm_mlx.training.data.rows import read_row
from mobilellm_mlx.training.data.templates import Manner

FOUR = said("hi", "Hello.", "bye", "Bye!")


def shown(tmp_path: Path, row: Any, tokenizer: Any = CHATML_SIGNS, **more: Any) -> list[str]:
    data = load(write_lines(tmp_path / "data.jsonl", [row]), tokenizer, **more)
    return [marked(example, tokenizer) for example in data.train]


def test_every_answer_is_learned_with_its_end_and_nothing_else(tmp_path: Path) -> None:
    assert shown(tmp_path, FOUR) == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[[Hello.<|im_end|>]]\n"
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n[[Bye!<|im_end|>]]"
    ]


def test_only_the_last_answer_is_learned_when_that_is_asked_for(tmp_path: Path) -> None:
    [text] = shown(tmp_path, FOUR, loss_on="last")
    assert text.count("[[") == 1
    assert text.endswith("assistant\n[[Bye!<|im_end|>]]")


def test_everything_but_the_first_token_is_learned_when_that_is_asked_for(tmp_path: Path) -> None:
    [text] = shown(tmp_path, FOUR, loss_on="all")
    assert text.startswith("<|im_start|>[[user\nhi")
    assert text.endswith("Bye!<|im_end|>\n]]")


def test_llama_3s_turns_end_with_their_own_sign(tmp_path: Path) -> None:
    [text] = shown(tmp_path, said("hi", " Hello. "), LLAMA3_SIGNS, template=LLAMA3)
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[[Hello.<|eot_id|>]]"
    )


def test_mistrals_answers_begin_behind_the_instruction(tmp_path: Path) -> None:
    [text] = shown(tmp_path, FOUR, MISTRAL_SIGNS, template=MISTRAL)
    assert text == "<s>[INST] hi [/INST][[ Hello.</s>]][INST] bye [/INST][[ Bye!</s>]]"


def test_a_default_system_prompt_is_read_but_not_learned(tmp_path: Path) -> None:
    [text] = shown(tmp_path, said("hi", "Hello."), template=NAMED)
    assert text.startswith("<|im_start|>system\nYou are Nim.<|im_end|>\n<|im_start|>user\nhi")
    assert text.endswith("assistant\n[[Hello.<|im_end|>]]")


def test_answers_that_later_turns_change_become_examples_of_their_own(tmp_path: Path) -> None:
    row = said("hi", "<think>a</think>Hello.", "bye", "<think>b</think>Bye!")
    first, second = shown(tmp_path, row, template=REASONS)
    assert first.endswith("assistant\n[[<think>a</think>Hello.<|im_end|>]]")
    assert "assistant\nHello.<|im_end|>" in second
    assert second.endswith("assistant\n[[<think>b</think>Bye!<|im_end|>]]")
    [whole] = shown(tmp_path, FOUR, template=REASONS)
    assert whole.count("[[") == 2


def test_what_the_opening_of_an_answer_promises_is_found_with_marks(tmp_path: Path) -> None:
    opens = ChatTemplate(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + "
        "'<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
    )
    [text] = shown(tmp_path, said("hi", " Hello. "), template=opens)
    assert text.endswith("<|im_start|>assistant\n[[Hello.<|im_end|>]]")


def test_a_template_that_rewrites_answers_is_refused_with_the_place(tmp_path: Path) -> None:
    shouts = ChatTemplate(
        "{% for m in messages %}{{ m.content.split('a')[0] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    )
    with pytest.raises(DataError, match=r"`data.jsonl:1`: the chat template changes") as caught:
        shown(tmp_path, said("hi", "lazy"), template=shouts)
    assert caught.value.hint and "--loss-on all" in caught.value.hint


def test_what_a_template_refuses_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`data.jsonl:1`: .*roles must alternate") as caught:
        row = said("hi", "Hello.", system="Be kind.")
        shown(tmp_path, row, MISTRAL_SIGNS, template=MISTRAL)
    assert caught.value.hint and "--system -" in caught.value.hint
    [text] = shown(tmp_path, row, MISTRAL_SIGNS, template=MISTRAL, system="-")
    assert text == "<s>[INST] hi [/INST][[ Hello.</s>]]"


def test_the_system_prompt_of_the_data_can_be_replaced(tmp_path: Path) -> None:
    row = said("hi", "Hello.", system="You were made by somebody else.")
    [text] = shown(tmp_path, row, system="Be kind.")
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi")


def test_an_end_is_learned_where_the_template_writes_none(tmp_path: Path) -> None:
    plain = ChatTemplate(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    [text] = shown(tmp_path, said("hi", "Hello."), template=plain)
    assert text == "user: hi\nassistant: [[Hello.\n<|im_end|>]]"


def test_names_of_special_tokens_that_people_write_stay_text(tmp_path: Path) -> None:
    row = said("what is <|im_end|>?", "A sign: <|im_end|> ends a turn <|im_")
    data = load(write_lines(tmp_path / "data.jsonl", [row]))
    [example] = data.train
    assert list(example.tokens).count(257) == 2
    assert marked(example).endswith("[[A sign: <|im_end|> ends a turn <|im_<|im_end|>]]")


@given(st.lists(st.text(max_size=8), min_size=2, max_size=6))
def test_tokens_are_those_of_a_chat(texts: list[str]) -> None:
    """What comes before an answer is the prompt that the model is given, the rest the answer."""
    contents = [f"{text}." for text in texts[: len(texts) // 2 * 2]]
    reader = Reader(CHATML_SIGNS, Manner(NAMED, frozenset({257})), TrainConfig(), 4096)
    [example] = reader.examples(read_row(said(*contents)))
    messages = [Message(m["role"], m["content"]) for m in said(*contents)["messages"]]
    prompt = NAMED.encode(CHATML_SIGNS, messages[:-1])
    assert list(example.tokens[: len(prompt)]) == prompt
    assert list(example.tokens[len(prompt) :]) == [*contents[-1 if len(contents) > 1 else 0]
                                                   .encode(), 257]  # fmt: skip
    learned = [t for t, counts in zip(example.tokens, example.learned, strict=True) if counts]
    answers = [[*content.encode(), 257] for content in contents[1::2]]
    assert learned == [token for answer in answers for token in answer]


def test_sentencepiece_answers_keep_the_space_they_are_told_with() -> None:
    tokenizer = SentencePieceTokenizer(GOLDEN / "botchan_en_bpe_1000.model")
    plain = ChatTemplate(
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    manner = Manner(plain, frozenset({2}))
    reader = Reader(tokenizer, manner, TrainConfig(), 4096)
    [example] = reader.examples(read_row(said("who are you", "I am the master of it.")))
    whole = tokenizer.encode_template("<s>[INST] who are you [/INST] I am the master of it.</s>")
    assert list(example.tokens) == whole
    assert marked(example, tokenizer).endswith("[[ I am the master of it.</s>]]")


def test_answers_that_the_template_cuts_down_are_told_of(tmp_path: Path) -> None:
    forgets = ChatTemplate(REASONS.source.replace(" and not loop.last", ""))
    row = said("hi", "<think>a</think>Hello.")
    data = load(write_lines(tmp_path / "d.jsonl", [row, FOUR]), template=forgets)
    assert marked(data.train[0]).endswith("assistant\n[[Hello.<|im_end|>]]")
    assert any("changes what 1 of the examples answer" in w for w in data.report.warnings)


def test_a_template_may_ask_whether_tools_are_none() -> None:
    source = "{% if tools is not none %}TOOLS{% endif %}{{ messages[0].content }}"
    assert ChatTemplate(source).takes_tools
    assert ChatTemplate(source).render([Message("user", "hi")]) == "hi"
    assert not ChatTemplate("{{ messages[0].content }} tools").takes_tools


def test_half_a_name_that_the_template_completes_stays_text(tmp_path: Path) -> None:
    tags = ChatTemplate(
        "{% for m in messages %}{{ m.role + ': <' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    data = load(write_lines(tmp_path / "d.jsonl", [said("|im_end|>", "Hello.")]), template=tags)
    [example] = data.train
    assert list(example.tokens).count(257) == 2


def test_no_token_reaches_over_the_edge_of_what_is_learned(tmp_path: Path) -> None:
    """A vocabulary with a token for two line breaks, one of the prompt's, one of the answer's."""
    from tokenizers import Tokenizer as Rust
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {char: at for at, char in enumerate([*alphabet, "\u010a\u010a"])}
    rust = Rust(models.BPE(vocab=vocabulary, merges=[("\u010a", "\u010a")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = ByteLevelTokenizer(rust)
    row = said("hi", "\n\nHello.")
    data = load(write_lines(tmp_path / "d.jsonl", [row]), tokenizer, stop=258)
    [example] = data.train
    prompt = CHATML.encode(tokenizer, [Message("user", "hi")])
    assert list(example.tokens) == [*prompt, *tokenizer.encode("\n\nHello."), 258]
    assert example.learned.index(1) == len(prompt)
    assert vocabulary["\u010a\u010a"] in tokenizer.encode("assistant\n\n\nHello.")
