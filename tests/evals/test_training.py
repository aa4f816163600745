"""Conversations to train with: in the format that is read back, and not out of the test."""

import json

import pytest

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.evals.calls.home import Home, HomeTask
from mobilellm_mlx.evals.calls.training import conversations
from mobilellm_mlx.tools.formats import FORMATS, find_format


@pytest.mark.parametrize("name", FORMATS)
def test_the_calls_are_read_back_as_the_right_ones(sentences: Home, name: str) -> None:
    task = HomeTask(sentences, "train")
    rows = [json.loads(line)["messages"] for line in conversations(task, name, 30, 0)]
    wanted = {one.payload.said: list(one.gold.calls) for one in task.requests(30, 0)}
    for system, user, assistant in rows:
        assert [one["role"] for one in (system, user, assistant)] == ["system", "user", "assistant"]
        assert find_format(name).parse(assistant["content"])[1] == wanted[user["content"]]
    assert len(rows) == (30 if find_format(name).declines else 25)


def test_nothing_of_the_test_is_trained(sentences: Home) -> None:
    tested = {one.payload.said for one in HomeTask(sentences, "test").requests(None, 0)}
    talk = {
        one.payload.said
        for one in HomeTask(sentences, "train").requests(None, 0)
        if not one.gold.calls
    }
    assert talk and not talk & tested


def test_an_unknown_format_is_refused(sentences: Home) -> None:
    with pytest.raises(ToolError, match="format"):
        list(conversations(HomeTask(sentences, "train"), "nonsense", 1, 0))
