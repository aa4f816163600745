"""The scripted engine behaves as the real one, so that what is tested with it is true."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import write_model

from mobilellm_mlx.engine import ChatEngine, Engine
from mobilellm_mlx.errors import EngineError
from mobilellm_mlx.events import (
    CacheSummary,
    GenerationSummary,
    ModelLoaded,
    PrefillProgress,
    TextDelta,
)
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ScriptedEngine
from tests.adapters.made import write_random_adapter

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


def test_a_summary_names_every_token(engine: ChatEngine) -> None:
    *_, summary = engine.chat(HI, OPTIONS)
    assert isinstance(summary, GenerationSummary)
    assert len(summary.tokens) == summary.generated_tokens > 0


@pytest.mark.parametrize("begun", ["Well then", [1, 2, 3]])
def test_the_beginning_of_an_answer_counts_as_prompt(
    engine: ChatEngine, begun: str | list[int]
) -> None:
    *_, plain = engine.chat(HI, OPTIONS)
    *_, summary = engine.chat(HI, OPTIONS, None, begun)
    assert isinstance(plain, GenerationSummary) and isinstance(summary, GenerationSummary)
    assert summary.prompt_tokens > plain.prompt_tokens
    assert not summary.text.startswith("Well then")


def test_tokens_can_be_counted_once_there_is_a_model(engine: ChatEngine) -> None:
    with pytest.raises(EngineError, match="no model"):
        engine.count_tokens(HI)
    *_, summary = [*engine.load(), *engine.chat(HI, OPTIONS)]
    assert isinstance(summary, GenerationSummary)
    assert engine.count_tokens(HI) == summary.prompt_tokens


def test_what_was_read_of_a_chat_is_kept_and_known_again(
    engine: ChatEngine, tmp_path: Path
) -> None:
    list(engine.chat(HI, OPTIONS))
    (kept,) = engine.save_cache(tmp_path / "kv" / "chat.safetensors")
    (known,) = engine.restore_cache(tmp_path / "kv" / "chat.safetensors")
    assert isinstance(kept, CacheSummary) and isinstance(known, CacheSummary)
    assert (kept.job, known.job) == ("save_cache", "restore_cache")
    assert kept.tokens == known.tokens > 0
    assert kept.bytes == known.bytes == (tmp_path / "kv" / "chat.safetensors").stat().st_size
    assert kept.reason is known.reason is None
    *_, summary = engine.chat(HI, OPTIONS)
    assert isinstance(summary, GenerationSummary) and summary.cached_tokens > 0


def test_nothing_kept_is_no_error(engine: ChatEngine, tmp_path: Path) -> None:
    (nothing,) = engine.save_cache(tmp_path / "chat")
    (unknown,) = engine.restore_cache(tmp_path / "chat")
    for summary in (nothing, unknown):
        assert isinstance(summary, CacheSummary)
        assert (summary.status, summary.tokens) == ("ok", 0) and summary.reason


def test_another_model_can_take_the_place(engine: ChatEngine, tmp_path: Path) -> None:
    *_, first = engine.load()
    *_, second = engine.load(write_model(tmp_path / "other"))
    assert isinstance(first, ModelLoaded) and isinstance(second, ModelLoaded)
    assert engine.info == second
    assert (second.model, second.path) == ("other", str(tmp_path / "other"))
    assert second.fingerprint != first.fingerprint != ""
    *_, summary = engine.chat(HI, OPTIONS)
    assert isinstance(summary, GenerationSummary) and summary.model == "other"


def test_an_adapter_is_named_and_makes_it_another_model(
    engine: ChatEngine, tiny_dir: Path, tmp_path: Path
) -> None:
    adapter = write_random_adapter(tmp_path / "pirate", tiny_dir).path
    *_, bare = engine.load()
    *_, worn = engine.adapt(adapter)
    assert isinstance(bare, ModelLoaded) and isinstance(worn, ModelLoaded)
    assert worn == engine.info
    assert (bare.adapter, worn.adapter) == (None, "pirate")
    assert worn.fingerprint != bare.fingerprint
    *_, again = engine.adapt(None)
    assert again == bare


def test_a_question_aside_may_be_asked_with_another_adapter(
    engine: ChatEngine, tiny_dir: Path, tmp_path: Path
) -> None:
    adapter = write_random_adapter(tmp_path / "pirate", tiny_dir).path
    *_, bare = engine.load()
    *_, summary = engine.chat(HI, OPTIONS, aside=True, adapter=adapter)
    assert isinstance(summary, GenerationSummary)
    assert engine.info == bare
    with pytest.raises(ValueError, match="adapt"):
        list(engine.chat(HI, OPTIONS, adapter=adapter))


def test_closing_twice_is_fine(engine: ChatEngine) -> None:
    engine.close()
    engine.close()
