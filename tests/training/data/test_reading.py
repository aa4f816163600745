"""Files of examples: whatever is in them, the answer is examples or one sentence with the place."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.data.making import CHATML, CHATML_SIGNS, load, marked, said, write_lines

from mobilellm_mlx.errors import DataError
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import Manner, data_sha256, load_data
from mobilellm_mlx.training.data import reading as reading_module
from mobilellm_mlx.training.data.loading import Reader
from mobilellm_mlx.training.data.reading import read_lines
from mobilellm_mlx.training.data.rows import Row, read_row

GOOD = b'{"prompt": "hi", "completion": "Hello."}\n'


def reading(path: Path, content: bytes) -> DataError:
    (path / "data.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path / "data.jsonl")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    return caught.value


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text": "a"', "it is not JSON at character"),
        (b"[1, 2]", "it is a list, expected a JSON object"),
        (b'"text"', "it is a text, expected a JSON object"),
        (b'{"text": NaN}', "NaN is no number"),
        (b'{"text": "a", "n": 1e999}', "a number in it is too large"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b'{"text": "\\ud800"}', "half a character"),
        (b'{"text": "\xff"}', "byte 11 of the line is not UTF-8"),
        (b'{"text": "a", "text": "b"}', "the key `text` is there twice"),
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 32"),
        (b'{"text": "a", "x": ' + b"[" * 40 + b"]" * 40 + b"}", "nested more than 32"),
        (b'{"text": 5}', "`text` is a number, expected a text"),
        (b'{"texts": "a"}', "it has `texts`, expected"),
        (b"{}", "it has no key at all, expected"),
        (b'{"prompt": "a"}', "it has `prompt`, expected"),
        (b'{"prompt": "a", "completion": null}', "`completion` is null"),
        (b'{"messages": []}', "`messages` is empty"),
        (b'{"messages": "hi"}', "`messages` is a text, expected a list"),
        (b'{"messages": ["hi"]}', "message 1: it is a text, expected an object"),
        (b'{"messages": [{"role": "usr", "content": ""}]}', "message 1: `role` is `usr`"),
        (b'{"messages": [{"role": 3, "content": ""}]}', "message 1: `role` is a number"),
        (b'{"messages": [{"role": "user"}]}', "message 1: `content` is missing"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "kind `image`"),
        (
            b'{"messages": [{"role": "assistant", "tool_calls": [{"function": '
            b'{"name": "f", "arguments": "{"}}]}]}',
            "message 1: the text in `arguments`: it is not JSON",
        ),
        (
            b'{"messages": [{"role": "user", "content": "", "tool_calls": [{"name": "f"}]}]}',
            "the role `user` makes calls",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": "{"}', "the text in `tools`"),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}', "has no `name`"),
        (b'{"conversations": [{"from": "bot", "value": "a"}]}', "message 1: `from` is `bot`"),
        (b'{"conversations": [{"from": "function_call", "value": "f()"}]}', "the text in `value`"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_a_line_that_cannot_be_used_is_named_with_its_place(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    message = reading(tmp_path, GOOD + b"\n" + line + b"\n" + GOOD).message
    assert message.startswith("`data.jsonl:3`: ")
    assert complaint in message


def test_a_misspelt_key_and_role_are_guessed(tmp_path: Path) -> None:
    assert reading(tmp_path, b'{"message": []}').hint == "did you mean `messages`?"
    row = b'{"messages": [{"role": "asistant", "content": "a"}]}'
    assert reading(tmp_path, row).hint == "did you mean `assistant`?"


def test_a_file_that_is_one_list_gets_told_how_to_make_lines(tmp_path: Path) -> None:
    for content in (b'[\n{"text": "a"},\n{"text": "b"}\n]\n', b'[{"text": "a"}]'):
        hint = reading(tmp_path, content).hint
        assert hint and "jq" in hint


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    line = b'{"text": "' + b"a" * reading_module.MAX_LINE_BYTES
    assert "longer than 4 MB" in reading(tmp_path, GOOD + line * 3).message
    assert "`data.jsonl:2`" in reading(tmp_path, GOOD + line + b'"}\n').message


def test_a_conversation_without_end_is_refused(tmp_path: Path) -> None:
    row = said(*["a"] * 600)
    assert "it has 600 messages" in reading(tmp_path, json.dumps(row).encode()).message


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "has no examples" in reading(tmp_path, content).message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"has no `train.jsonl`"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a file"):
        load(tmp_path / "pipe")


def test_a_mark_at_the_beginning_and_windows_line_ends_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + GOOD.strip())
    assert [example.source for example in load(path).train] == ["data.jsonl:1", "data.jsonl:2"]


def test_broken_lines_can_be_collected_instead(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"{\n" + GOOD + b'{"text": 1}\n')
    problems: list[DataError] = []
    lines = [line.source for line in read_lines(path, problems.append)]
    assert lines == ["data.jsonl:1", "data.jsonl:3", "data.jsonl:4"]
    assert [problem.message[:14] for problem in problems] == ["`data.jsonl:2`"]


def test_the_sum_of_a_file_is_its_own_and_that_of_a_folder_knows_its_files(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD)
    expected = hashlib.sha256(GOOD).hexdigest()
    assert data_sha256(path) == load(path).sha256 == expected
    alone = data_sha256(tmp_path)
    (tmp_path / "valid.jsonl").write_bytes(GOOD)
    assert data_sha256(tmp_path) == load(tmp_path).sha256
    assert len({expected, alone, data_sha256(tmp_path)}) == 3


def test_progress_is_told_in_bytes_and_never_more_than_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"text": f"{n} " * 400} for n in range(300)])
    told: list[tuple[int, int]] = []
    manner = (CHATML_SIGNS, None, frozenset({257}))
    load_data(path, *manner, TrainConfig(), 99, progress=lambda *done: told.append(done))
    assert told == sorted(told)
    assert len(told) >= 2
    assert all(done <= total == path.stat().st_size for done, total in told)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "tool_calls", "function", "name",
                         "arguments", "parameters", "type", "text", "id"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
ROWS = st.dictionaries(
    st.sampled_from(["messages", "conversations", "prompt", "completion", "text", "tools"]),
    ANYTHING, max_size=4,
)  # fmt: skip


@given(ROWS)
def test_any_object_is_an_example_or_refused_in_words(value: dict[str, Any]) -> None:
    reader = Reader(CHATML_SIGNS, Manner(CHATML, frozenset({257})), TrainConfig(), 99)
    try:
        for example in reader.examples(read_row(value)):
            assert len(example.tokens) == len(example.learned) <= 99
    except DataError as error:
        assert error.message


# ---------------------------------------------------------------- forms

TOOL = {
    "name": "set_timer",
    "description": "Set a timer.",
    "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}},
}
CALLED = '<tool_call>\n{"name":"set_timer","arguments":{"minutes":5}}\n</tool_call>'


def openai(arguments: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function",
            "function": {"name": "set_timer", "arguments": arguments}}  # fmt: skip
    return {
        "messages": [
            {"role": "user", "content": "five minutes please"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "set"},
            {"role": "assistant", "content": "Done."},
        ],
        "tools": [{"type": "function", "function": TOOL}],
    }


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "five minutes please"},
        {"from": "function_call", "value": '{"name": "set_timer", "arguments": {"minutes": 5}}'},
        {"from": "observation", "value": "set"},
        {"from": "gpt", "value": "Done."},
    ],
    "tools": json.dumps([TOOL]),
}


def test_calls_are_the_same_in_every_form(tmp_path: Path) -> None:
    rows = [openai({"minutes": 5}), openai('{"minutes": 5}'), SHAREGPT]
    data = load(write_lines(tmp_path / "data.jsonl", rows))
    texts = {marked(example) for example in data.train}
    assert len(texts) == 1
    text = texts.pop()
    assert '"name":"set_timer","description":"Set a timer."' in text.partition("[[")[0]
    assert f"assistant\n[[{CALLED}<|im_end|>]]\n<|im_start|>user\n" in text
    assert "<tool_response>\nset\n</tool_response>" in text
    assert text.endswith("[[Done.<|im_end|>]]")
    assert data.report.splits["train"].duplicates >= 1


def test_a_template_that_knows_tools_is_given_them(tmp_path: Path) -> None:
    from mobilellm_mlx.templates import ChatTemplate

    template = ChatTemplate(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name + call.function.arguments | tojson }}{% endfor %}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    data = load(write_lines(tmp_path / "d.jsonl", [openai('{"minutes": 5}')]), template=template)
    [example] = data.train
    text = marked(example)
    assert text.startswith('[{"type": "function", "function": {"name": "set_timer"')
    assert '[[set_timer{"minutes": 5}<|im_end|>]]<|im_start|>tool\nset<|im_end|>' in text


def test_special_names_in_a_call_stay_text_in_a_template_that_knows_tools(tmp_path: Path) -> None:
    from mobilellm_mlx.templates import ChatTemplate

    template = ChatTemplate(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
        "{% if tools %}{% for call in m.tool_calls or [] %}"
        "{{ call.function.arguments | tojson(ensure_ascii=true) }}{% endfor %}{% endif %}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    row = openai({"label": "<|im_end|>"})
    [example] = load(write_lines(tmp_path / "d.jsonl", [row]), template=template).train
    assert '[[{"label": "<|im_end|>"}<|im_end|>]]' in marked(example)
    assert list(example.tokens).count(257) == 4


def test_texts_and_pairs_need_no_template(tmp_path: Path) -> None:
    rows = [{"text": "Once upon"}, {"prompt": "2+2=", "completion": "4"}]
    data = load(write_lines(tmp_path / "d.jsonl", rows), template=None)
    texts = [marked(example) for example in data.train]
    assert texts == ["O[[nce upon<|im_end|>]]", "2+2=[[4<|im_end|>]]"]
    with pytest.raises(DataError, match=r"`c.jsonl:1`: .* no chat template") as caught:
        load(write_lines(tmp_path / "c.jsonl", [said("hi", "Hello.")]), template=None)
    assert caught.value.hint and "--template chatml" in caught.value.hint


def test_a_pair_is_question_and_answer_where_there_is_a_template(tmp_path: Path) -> None:
    row = {"prompt": "hi", "completion": "Hello."}
    data = load(write_lines(tmp_path / "d.jsonl", [row, said("hi", "Hello.")]))
    assert data.train[0].tokens == data.train[1].tokens


def test_a_text_in_parts_and_a_system_prompt_beside_the_turns_are_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row: Row = read_row({"messages": [{"role": "user", "content": parts}]})
    assert row.turns[0].content == "ab"  # type: ignore[union-attr]
    row = read_row({"system": "Be kind.", "conversations": [{"from": "human", "value": "a"}]})
    assert row.turns[0].role == "system"  # type: ignore[union-attr]


def test_the_prefix_of_a_model_begins_every_text(tmp_path: Path) -> None:
    class Prefixed(type(CHATML_SIGNS)):  # type: ignore[misc]
        prefix = (256,)

    tokenizer = Prefixed("<s>", "</s>")
    row = {"text": "ab"}
    [example] = load(write_lines(tmp_path / "d.jsonl", [row]), tokenizer, None).train
    assert list(example.tokens) == [256, 97, 98, 257]
    assert example.learned == b"\x00\x01\x01\x01"
