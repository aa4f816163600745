"""``mobilellm history reproduce``: the same answers once more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilellm_mlx.chat import Session
from mobilellm_mlx.chat.store import Store, history_path
from mobilellm_mlx.engine import Engine


@pytest.fixture
def kept(tiny_dir):
    """A chat of two sampled answers in the history."""
    store = Store(history_path())
    with Engine(tiny_dir) as engine:
        session = Session(engine, store=store, overrides={"temperature": 0.9, "max_tokens": 8})
        for text in ("one", "two"):
            list(session.send(text))
    yield store, session
    store.close()


def test_equal_answers_are_said_to_be_the_same(run, kept, tiny_dir) -> None:
    result = run("history", "reproduce", "last", "--model", str(tiny_dir))
    assert result.code == 0
    assert [line.split("tokens")[1].split()[:2] for line in result.out.splitlines()] == [
        ["the", "same"],
        ["the", "same"],
    ]


def test_an_answer_that_differs_is_named_with_its_place(run, kept, tiny_dir) -> None:
    store, session = kept
    answer = session.branch[1]
    made = answer.made[0]
    other = (*made.tokens[:2], made.tokens[2] + 1, *made.tokens[3:])
    store.save(replace(answer, made=(replace(made, tokens=other),)))
    result = run("history", "reproduce", "last", "--model", str(tiny_dir))
    assert result.code == 1
    assert "differs from token 3 on" in result.out.splitlines()[0]


def test_a_model_elsewhere_is_not_followed(run, kept) -> None:
    result = run("history", "reproduce", "last")
    assert result.code == 1 and "not among the installed ones" in result.err


def test_nothing_is_changed(run, kept, tiny_dir) -> None:
    store, session = kept
    before = store.messages(session.chat.id)
    run("history", "reproduce", "last", "--model", str(tiny_dir))
    assert store.messages(session.chat.id) == before


def test_an_answer_below_a_deleted_turn_is_not_said_to_differ(run, kept, tiny_dir) -> None:
    _, session = kept
    session.delete_turn(session.branch[0].id)
    result = run("history", "reproduce", "last", "--model", str(tiny_dir))
    (line,) = result.out.splitlines()
    assert result.code == 0
    assert "not comparable: something above it was deleted" in line
