"""Chats as Markdown and as JSON lines for training."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.chat.exchange import to_jsonl, to_markdown
from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage
from mobilellm_mlx.chat.tree import branch

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHAT = ChatRecord("c", NOON, NOON.replace(hour=13), 'Why "so": a # test', instructions="Be brief.")
MADE = Generation(
    "smollm2-135m",
    bits=4,
    adapter="pirate",
    instructions="Be\nbrief: yes",
    options={"temperature": 0.6, "seed": 2**64 - 1, "min_p": 1e-05, "stop": ["\n", "#"]},
)


def said(role: str, content: str, **more) -> StoredMessage:
    return StoredMessage(content, "c", None, role, content, NOON, **more)


def front_matter(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


# ---------------------------------------------------------------- Markdown


def test_the_front_matter_says_what_the_chat_was_made_with() -> None:
    text = to_markdown(CHAT, [said("user", "why?"), said("assistant", "so", made=(MADE,))])
    assert front_matter(text) == {
        "title": 'Why "so": a # test',
        "created": NOON,
        "updated": NOON.replace(hour=13),
        "model": "smollm2-135m",
        "bits": 4,
        "adapter": "pirate",
        "instructions": "Be\nbrief: yes",
        "sampling": MADE.options,
    }


def test_what_is_not_known_is_not_in_the_front_matter() -> None:
    bare = ChatRecord("c", NOON, NOON)
    assert front_matter(to_markdown(bare, [])) == {"created": NOON, "updated": NOON}


@given(
    st.text(),
    st.text(),
    st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
        | st.lists(st.text() | st.integers()),
    ),
)  # fmt: skip
def test_any_value_is_read_back_from_the_front_matter(
    title: str, model: str, options: dict
) -> None:
    made = Generation(model, instructions=title, options=options)
    head = to_markdown(replace(CHAT, title=title), [said("assistant", "", made=(made,))])
    assert head.count("\n---\n") == 1
    read = yaml.safe_load(head.split("\n---\n")[0])
    assert read.get("title", "") == read.get("instructions", "") == title
    assert read.get("model", "") == model
    assert read.get("sampling", {}) == options


@pytest.mark.parametrize(
    "word",
    ["yes", "null", "~", "1e3", "- a", "a: b", "#", "'", "{", "---", "2026-03-01", "\\", "é👍"],
)
def test_a_word_that_yaml_would_take_for_something_else_stays_a_word(word: str) -> None:
    assert front_matter(to_markdown(replace(CHAT, title=word), []))["title"] == word


def test_each_message_has_a_heading_and_its_own_text() -> None:
    text = to_markdown(CHAT, [said("user", "*why*?"), said("assistant", "so", made=(MADE,))])
    assert text.split("---\n")[2] == "\n## You\n\n*why*?\n\n## smollm2-135m\n\nso\n"


def test_an_answer_that_did_not_end_by_itself_says_so() -> None:
    assert "cut\n\n*(stopped)*\n" in to_markdown(CHAT, [said("assistant", "cut", status="stopped")])
    assert "*(" not in to_markdown(CHAT, [said("assistant", "whole")])


@pytest.mark.parametrize("fence", ["```", "~~~~", "  ````"])
def test_a_code_block_that_is_left_open_is_closed(fence: str) -> None:
    text = to_markdown(
        CHAT, [said("assistant", f"{fence}python\nx = 1\n```lang\n"), said("user", "?")]
    )
    assert f"\n```lang\n{fence.strip()}\n\n## You" in text


def test_a_code_block_that_is_closed_stays_as_it_is() -> None:
    content = "```\nx\n```\n\n`` inline ```"
    assert f"\n{content}\n" in to_markdown(CHAT, [said("assistant", content)])


def test_reasoning_is_quoted_when_it_is_asked_for() -> None:
    messages = [said("assistant", "so", reasoning="first\n\nthen")]
    assert "first" not in to_markdown(CHAT, messages)
    assert "> first\n>\n> then\n\nso\n" in to_markdown(CHAT, messages, reasoning=True)


def test_what_steers_a_terminal_is_not_in_the_text() -> None:
    text = to_markdown(CHAT, [said("assistant", "a\x1b[2J\x9b31m\u202eb\ud800\r\nc\td")])
    assert "a[2J31mb?\nc\td" in text and text.encode()


def test_a_model_s_name_makes_no_second_heading() -> None:
    made = Generation("evil\n\n# heading")
    assert "\n## evil # heading\n" in to_markdown(CHAT, [said("assistant", "x", made=(made,))])


# ---------------------------------------------------------------- JSON lines

TURN = [said("user", "why?"), said("assistant", "so", made=(MADE,))]


def roles_and_words(line: str) -> list[tuple[str, str]]:
    assert line.count("\n") == 1 and line.endswith("\n")
    document = json.loads(line)
    assert list(document) == ["messages"]
    assert all(list(message) == ["role", "content"] for message in document["messages"])
    return [(message["role"], message["content"]) for message in document["messages"]]


def test_a_chat_is_a_line_with_the_instructions_in_force_first() -> None:
    assert roles_and_words(to_jsonl(CHAT, TURN)) == [
        ("system", "Be\nbrief: yes"),
        ("user", "why?"),
        ("assistant", "so"),
    ]


def test_without_instructions_there_is_no_system_message() -> None:
    answer = said("assistant", "so", made=(Generation("tiny"),))
    assert roles_and_words(to_jsonl(CHAT, [TURN[0], answer]))[0] == ("user", "why?")


def test_an_answer_that_does_not_know_leaves_it_to_the_chat() -> None:
    assert roles_and_words(to_jsonl(CHAT, [TURN[0], said("assistant", "so")]))[0][1] == "Be brief."


@pytest.mark.parametrize(
    "more",
    [
        [said("user", "unanswered")],
        [said("user", "q"), said("assistant", "cut", status="stopped")],
        [said("user", "q"), said("assistant", "cut", status="partial")],
        [said("user", "q"), said("assistant", "broken", status="failed")],
        [said("user", "q"), said("assistant", " ")],
        [said("user", "q"), said("tool", "result")],
    ],
)
def test_only_complete_turns_are_trained_on(more: list[StoredMessage]) -> None:
    whole = roles_and_words(to_jsonl(CHAT, TURN))
    assert roles_and_words(to_jsonl(CHAT, [*TURN, *more])) == whole
    assert roles_and_words(to_jsonl(CHAT, [*more, *TURN])) == whole
    assert to_jsonl(CHAT, more) == ""


def test_what_was_deleted_is_not_trained_on() -> None:
    chain = [
        StoredMessage("1", "c", None, "user", "secret", NOON, deleted=True),
        StoredMessage("2", "c", "1", "assistant", "kept secret", NOON, deleted=True),
        StoredMessage("3", "c", "2", "user", "open", NOON),
        StoredMessage("4", "c", "3", "assistant", "answer", NOON),
    ]
    line = to_jsonl(replace(CHAT, instructions=None), branch(chain, "4"))
    assert roles_and_words(line) == [("user", "open"), ("assistant", "answer")]
    assert to_jsonl(CHAT, chain[:2]) == ""


@given(st.text(), st.text())
def test_any_words_stay_on_one_line(question: str, answer: str) -> None:
    line = to_jsonl(CHAT, [said("user", f"q{question}"), said("assistant", f"a{answer}")])
    assert len(line.splitlines()) == 1
    assert [words for _, words in roles_and_words(line)][1:] == [f"q{question}", f"a{answer}"]


def test_the_words_stay_readable_in_any_script() -> None:
    assert "日本 é" in to_jsonl(CHAT, [said("user", "日本 é"), said("assistant", "so")])
