"""The scripted engine behaves as the real one, so that what is tested with it is true."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.engine import ChatEngine, Engine
from mobilellm_mlx.events import GenerationSummary, ModelLoaded, PrefillProgress, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ScriptedEngine

HI = [Message("user", "hi there")]
OPTIONS = GenerationOptions(max_tokens=30)


@pytest.fixture(params=["real", "scripted"])
def engine(request: pytest.FixtureRequest, tiny_dir: Path) -> Iterator[ChatEngine]:
    engine: ChatEngine = (
        Engine(tiny_dir) if request.param == "real" else ScriptedEngine(["A longer answer."])
    )
    yield engine
    engine.close()


Ask = Callable[[ChatEngine, threading.Event | None], Iterator[Any]]
ASKS: list[Ask] = [
    lambda engine, cancel: engine.chat(HI, OPTIONS, cancel),
    lambda engine, cancel: engine.complete("hi there", OPTIONS, cancel),
]


def test_nothing_is_known_before_loading_and_everything_after(engine: ChatEngine) -> None:
    assert engine.info is None
    *_, last = engine.load()
    assert isinstance(last, ModelLoaded)
    assert engine.info == last


@pytest.mark.parametrize("ask", ASKS)
def test_a_job_reports_its_prompt_then_its_answer_then_its_cost(
    engine: ChatEngine, ask: Ask
) -> None:
    list(engine.load())
    *events, summary = ask(engine, None)
    kinds = [type(event) for event in events]
    assert set(kinds) == {PrefillProgress, TextDelta}
    assert kinds == sorted(kinds, key=[PrefillProgress, TextDelta].index)
    assert isinstance(summary, GenerationSummary)
    assert summary.status == "ok"
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == summary.text
    assert engine.info is not None and summary.model == engine.info.model


@pytest.mark.parametrize("ask", ASKS)
def test_progress_begins_with_what_is_known_and_ends_with_everything(
    engine: ChatEngine, ask: Ask
) -> None:
    progress = [event for event in ask(engine, None) if isinstance(event, PrefillProgress)]
    assert (progress[0].done, progress[-1].done) == (progress[0].cached, progress[-1].total)


@pytest.mark.parametrize("ask", ASKS)
def test_a_cancelled_job_ends_with_what_was_said(engine: ChatEngine, ask: Ask) -> None:
    cancel, said = threading.Event(), ""
    for event in ask(engine, cancel):
        if isinstance(event, TextDelta):
            said += event.text
            cancel.set()
    assert isinstance(event, GenerationSummary)
    assert (event.status, event.stop_reason) == ("cancelled", "cancelled")
    assert event.text == said != ""


@pytest.mark.parametrize("ask", ASKS)
def test_a_job_leaves_the_flag_alone(engine: ChatEngine, ask: Ask) -> None:
    cancel = threading.Event()
    list(ask(engine, cancel))
    assert not cancel.is_set()


def test_closing_twice_is_fine(engine: ChatEngine) -> None:
    engine.close()
    engine.close()
