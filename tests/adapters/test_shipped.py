"""The adapters that come with the program, on the model that they are for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mobilellm_mlx.adapters import Registry, model_sha256, read_info
from mobilellm_mlx.adapters.registry import SHIPPED
from mobilellm_mlx.chat.calling import call_tools
from mobilellm_mlx.cli.toolbox import caller_for
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.messages import Message
from mobilellm_mlx.settings import Settings
from mobilellm_mlx.tools.asking import Offered
from mobilellm_mlx.tools.tool import Call
from mobilellm_mlx.training.recipes import load_recipe
from tests.tools.formats.languages import object_of, offer

TOOLS = SHIPPED / "tools"
TIMER = offer("start_timer", object_of({"minutes": {"type": "integer", "maximum": 100}}))
LIGHT = offer(
    "light_set",
    object_of(
        {
            "area": {"type": "string", "enum": ["kitchen", "bedroom", "office"]},
            "brightness": {"type": "integer", "minimum": 0, "maximum": 100},
        }
    ),
)


def test_it_is_small_and_says_where_it_comes_from() -> None:
    info = Registry().find("tools")
    assert info.shipped and info.bytes < 8_000_000
    assert info.base_name == "smollm2-135m" and info.licence == "Apache-2.0"
    assert info.tools == {"style": "paper", "only_calls": True}
    assert info.scores["best_loss"] < 0.5 * info.scores["first_loss"]


def test_its_recipe_is_the_one_that_is_shipped_too() -> None:
    recipe = load_recipe("tools").values
    config = read_info(TOOLS).config
    assert {name: config[name] for name in recipe} == recipe


@pytest.mark.real
def test_it_is_for_the_default_model_as_it_is_converted_now(real_model: Path) -> None:
    assert read_info(TOOLS).base_sha256 == model_sha256(real_model)


@pytest.mark.real
def test_the_default_model_calls_with_it(real_model: Path) -> None:
    with Engine(real_model) as engine:
        list(engine.load())
        assert engine.info is not None
        caller = caller_for(Settings())(engine.info)
        assert caller is not None and caller.adapter == TOOLS

        def calls(said: str, *offered: Offered) -> list[Call]:
            job = call_tools(
                engine,
                caller.style,
                [Message("user", said)],
                offered,
                None,
                threading.Event(),
                caller.adapter,
            )
            while True:
                try:
                    next(job)
                except StopIteration as done:
                    return list(done.value.calls)

        assert calls("set a timer for 12 minutes", LIGHT, TIMER) == [
            Call("start_timer", {"minutes": 12})
        ]
        assert calls("dim the kitchen lights to 30 percent", LIGHT, TIMER) == [
            Call("light_set", {"area": "kitchen", "brightness": 30})
        ]
        assert calls("Why is the sky blue?", LIGHT, TIMER) == []
        assert engine.info.adapter is None  # the conversation is the bare model's
