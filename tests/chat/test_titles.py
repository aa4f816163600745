"""Titles of chats: short, plain, and about what the chat is about."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.chat.titles import LONGEST, make_title


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("what is the capital of France? I need it.", "What is the capital of France?"),
        ("Tell me a joke.", "Tell me a joke"),
        ("e.g. what is 3.14 times 2? thanks", "e.g. what is 3.14 times 2?"),
        ("Mr. Smith said so. Why?", "Mr. Smith said so"),
        ("iPhone or Mac?", "iPhone or Mac?"),
        ("日本の首都は？教えてください。", "日本の首都は？"),
        ("straße", "Straße"),
        ("ß", "ß"),  # its capital would be two letters
    ],
)
def test_a_title_is_the_first_sentence_of_the_question(question: str, title: str) -> None:
    assert make_title(question, "An answer.") == title


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("# A heading\n\nand text", "A heading"),
        ("- [ ] first\n- second", "First"),
        ("> **Why** is *that* `so`?", "Why is that so?"),
        ("See [the docs](https://x.y/z 'a title') <b>now</b>", "See the docs now"),
        ("![a cat](cat.png) in the picture", "A cat in the picture"),
        ("| a | b |\n|---|---|\nwhat is this table", "What is this table"),
        ("***\n\nafter a rule", "After a rule"),
        ("two\nlines", "Two lines"),
        ("run snake_case_name on 2*3*4", "Run snake_case_name on 2*3*4"),
    ],
)
def test_a_title_has_no_markdown(question: str, title: str) -> None:
    assert make_title(question) == title


def test_a_title_leaves_pasted_code_and_files_out() -> None:
    file = "````python\n```\nprint(1)\n```\n````"
    assert make_title(f"{file}\nWhat does this do?") == "What does this do?"
    assert make_title(f"What does this do?\n~~~\n{file}") == "What does this do?"
    assert make_title("```ls``` lists what?") == "Ls lists what?"


def test_a_question_that_is_all_code_asks_the_answer_for_a_title() -> None:
    assert make_title("```\nprint(1)\n```", "This prints one. It ends.") == "This prints one"
    assert (
        make_title("```\nprint(1)\n```") == "Print(1)" or make_title("```\nx = 1\n```") == "X = 1"
    )


@pytest.mark.parametrize(
    "hello", ["hi", "Hello!", "Good morning.", "hey there", "Hi, how are you?"]
)
def test_a_mere_greeting_takes_its_title_from_the_answer(hello: str) -> None:
    assert make_title(hello, "Hello! I can help with maths.") == "I can help with maths"
    assert make_title(hello, "") == make_title(hello, "Hi!") != ""


def test_a_greeting_before_the_question_is_passed_over() -> None:
    assert make_title("Hi there, can you explain LoRA?") == "Can you explain LoRA?"
    assert make_title("hello\n\nwhy is the sky blue") == "Why is the sky blue"
    assert make_title("hello world in C") == "Hello world in C"


def test_a_long_sentence_is_cut_between_words() -> None:
    title = make_title("please explain to me how the transformer architecture works in detail")
    assert title == "Please explain to me how the transformer…"


def test_words_without_gaps_are_cut_anywhere() -> None:
    assert make_title("A" * 100) == "A" * 47 + "…"
    assert make_title("你" * 100) == "你" * 47 + "…"


def test_nothing_said_is_no_title() -> None:
    assert make_title("", "") == make_title(" \n\t", "\n") == ""


def test_what_steers_a_terminal_is_not_in_a_title() -> None:
    assert make_title("\x1b[31mred\x1b[0m \u202eevil\u202c\x07 text\u200b") == "Red evil text"
    assert make_title("[bold]markup[/bold] stays text") == "[bold]markup[/bold] stays text"


@given(st.text(), st.text())
def test_any_title_is_one_short_safe_line(question: str, answer: str) -> None:
    title = make_title(question, answer)
    assert len(title) <= LONGEST and title == title.strip()
    kinds = {
        unicodedata.category(char) for char in title.replace("\u200d", "").replace("\u200c", "")
    }
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert title == make_title(question, answer)


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "*a" * 10**5, "- \n" * 10**5, "<a" * 10**5, "hi, " * 10**5, "`" * 10**6]
)
def test_a_huge_question_takes_no_time(text: str) -> None:
    import time

    started = time.process_time()
    make_title(text, text)
    assert time.process_time() - started < 1
