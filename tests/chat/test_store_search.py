"""Finding words in chats, whatever is typed into the search."""

import random
import statistics
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilellm_mlx.chat.records import SearchHit
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.chat.store.search import read_marks
from tests.chat.stored import at, chat, message


@pytest.fixture(scope="module")
def library() -> Iterator[Store]:
    """A store that tests only read."""
    store = Store()
    store.add_chat(chat(title="Talking about Zebras", leaf_id="a1"))
    texts = {
        "u1": "How do I sort a list in Python?",
        "a1": "Use sorted(), or list.sort() in place.\n\n```python\nsorted(x)\n```",
        "u2": "Où est le café crème à Zürich? 東京タワー is far. Ωmega",
        "a2": "C++ isn't foo-bar; 'tis a well-known fact: 100% of snake_case names",
        "u3": "a drink of coffee in the morning",
    }
    for number, (name, text) in enumerate(texts.items()):
        role = "user" if name.startswith("u") else "assistant"
        store.save(message(name, text, minutes=number, role=role))
    yield store
    store.close()


def found(store: Store, query: str) -> list[str]:
    return sorted(hit.message_id for hit in store.search(query))


def marked(hit: SearchHit) -> list[str]:
    return [hit.excerpt[start:end] for start, end in hit.marks]


@pytest.mark.parametrize(
    ("query", "messages"),
    [
        ("python", ["a1", "u1"]),
        ("PYTHON sort", ["a1", "u1"]),
        ("pyth", ["a1", "u1"]),
        ("pyth sort", []),  # only the last word may be unfinished
        ("cafe creme", ["u2"]),
        ("zurich", ["u2"]),
        ("東京", ["u2"]),
        ("ωMEGA", ["u2"]),
        ("foo-bar", ["a2"]),
        ("foo ba", ["a2"]),
        ("isn't", ["a2"]),
        ("c++", ["a2", "u3", "u2"]),
        ("100%", ["a2"]),
        ("snake_case", ["a2"]),
        ("sorted !!! place", ["a1"]),
        ('"in place"', ["a1"]),
        ('"place in"', []),
        ('"in pla"', []),  # a closed phrase is finished
        ("zebras", ["a1"]),
        ("giraffe", []),
    ],
)
def test_words_are_found_regardless_of_case_and_accents(
    library: Store, query: str, messages: list[str]
) -> None:
    assert found(library, query) == sorted(messages)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        '"',
        '""',
        '"""',
        "'",
        "*",
        "!!! ???",
        '"; DROP TABLE messages; --',
        "NEAR(a b)",
        "AND",
        "python AND",
        "NOT python",
        "a OR",
        "(",
        "content:python",
        "^python",
        "-python",
        "{a b}:c",
        "\x00",
        "py\x00thon",
        "\ud800",
        "a\udfffb",
        "\ufdd0\ufdd1",
        "\x1b[31m",
        "%s %d _ %",
        "x" * 100_000,
        "word " * 10_000,
        "é" * 5000,
        "😀",
    ],
)
def test_no_input_is_an_error(library: Store, query: str) -> None:
    assert isinstance(library.search(query), list)
    assert len(library.messages("c")) == 5


@given(st.text(st.characters(), max_size=40))
def test_no_text_at_all_is_an_error(query: str) -> None:
    store = Store()
    try:
        store.add_chat(chat())
        store.save(message("m", query))
        for hit in store.search(query):
            assert all(0 <= start < end <= len(hit.excerpt) for start, end in hit.marks)
    finally:
        store.close()


def test_operators_are_words_like_others(library: Store) -> None:
    assert found(library, "python OR giraffe") == []
    assert found(library, "sort NOT python") == []


def test_a_hit_says_where_it_was_found(library: Store) -> None:
    (hit,) = library.search("cafe")
    assert hit.chat == library.chat("c")
    assert (hit.message_id, hit.role, hit.created_at) == ("u2", "user", at(2))
    assert marked(hit) == ["café"]


def test_a_title_is_a_hit_that_opens_the_chat_where_it_was(library: Store) -> None:
    (hit,) = library.search("zebras talk")
    assert (hit.excerpt, marked(hit)) == ("Talking about Zebras", ["Talking", "Zebras"])
    assert hit.message_id == "a1"


def test_excerpts_are_one_line_with_every_find_marked() -> None:
    store = Store()
    store.add_chat(chat())
    text = "word " * 200 + "the\x1b[31m walrus\n\n\tand the\u202e Walrus\r\nagain" + " word" * 200
    store.save(message("m", text))
    (hit,) = store.search("walrus")
    assert hit.excerpt.startswith("…") and hit.excerpt.endswith("…")
    assert "the [31m walrus and the Walrus again" in hit.excerpt
    assert marked(hit) == ["walrus", "Walrus"]
    store.close()


def test_a_very_long_word_does_not_make_a_very_long_excerpt() -> None:
    text, marks = read_marks("x" * 1000 + " \ufdd0needle\ufdd1 " + "y" * 1000)
    assert len(text) == 240
    assert [text[start:end] for start, end in marks] == ["needle"]
    text, marks = read_marks("\ufdd0" + "z" * 1000 + "\ufdd1")
    assert (len(text), marks) == (240, ((0, 240),))


def test_newer_messages_come_before_equal_older_ones() -> None:
    store = Store()
    for name, days in (("old", 0), ("new", 200), ("middle", 100)):
        store.add_chat(chat(name, days * 1440))
        store.save(message(name, "walrus here", chat_id=name, minutes=days * 1440))
    assert [hit.message_id for hit in store.search("walrus")] == ["new", "middle", "old"]
    assert [hit.message_id for hit in store.search("walrus", limit=1)] == ["new"]
    assert store.search("walrus", limit=0) == []
    store.close()


def test_at_the_same_time_the_message_that_speaks_more_of_it_comes_first() -> None:
    store = Store()
    store.add_chat(chat())
    store.save(
        message("much", "walrus and walrus and walrus"),
        message("little", "a walrus " + "among many other things " * 30),
        *[message(f"other{number}", "nothing of it") for number in range(10)],
    )
    assert [hit.message_id for hit in store.search("walrus")] == ["much", "little"]
    store.close()


def test_deleted_messages_and_old_wordings_are_not_found() -> None:
    store = Store()
    store.add_chat(chat(title="before"))
    store.save(message("m", "walrus"), message("n", "walrus"))
    store.write_partial("m", "seal", "")
    store.rename("c", "after")
    store.set_deleted(["n"], True)
    assert store.search("walrus") == [] == store.search("before")
    assert found(store, "seal") == ["m"]
    store.set_deleted(["n"], False)
    assert found(store, "walrus") == ["n"]
    store.close()


def test_five_thousand_messages_are_searched_in_a_moment() -> None:
    """The median is some 20 ms; 100 is what may be called at once."""
    numbers = random.Random(0)
    words = ["".join(numbers.choices("aeioulnrst", k=numbers.randint(1, 8))) for _ in range(5000)]
    store = Store()
    for number in range(50):
        name = f"c{number}"
        store.add_chat(chat(name))
        store.save(
            *(
                message(f"{name}-{turn}", " ".join(numbers.choices(words, k=120)), chat_id=name)
                for turn in range(100)
            )
        )
    times = []
    for query in ("a", "t", "st", words[0], f"{words[1]} s", "nothing like it", "le la", "s"):
        begun = time.perf_counter()
        hits = store.search(query)
        times.append(time.perf_counter() - begun)
        assert len(hits) <= 50
    store.close()
    assert statistics.median(times) < 0.1
    print(f"median {1000 * statistics.median(times):.0f} ms, worst {1000 * max(times):.0f} ms")
