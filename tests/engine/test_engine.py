"""The engine: one thread owns MLX, jobs queue, errors arrive, nothing hangs."""

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, write_json, write_model

from mobilellm_mlx.engine import Engine, _forget_locals
from mobilellm_mlx.errors import (
    ContextOverflow,
    EngineError,
    InsufficientMemory,
    ModelNotFound,
    WeightsError,
)
from mobilellm_mlx.events import Event, GenerationSummary, ModelLoaded, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions

HI = [Message("user", "hi")]
SHORT = GenerationOptions(max_tokens=8)
LONG = GenerationOptions(max_tokens=None)
"""As much as the tiny model's context holds: a thousand tokens, a second or so."""
PATIENCE_S = 20


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """The result of an action on a thread of its own; fails, and does not hang, if it hangs."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((action(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, f"nothing came within {seconds} s"
    value, error = results[0]
    if error is not None:
        raise error
    return value


def read(events: Iterator[Event]) -> list[Event]:
    return within(PATIENCE_S, lambda: list(events))  # type: ignore[no-any-return]


def summary_of(events: Iterator[Event]) -> GenerationSummary:
    *_, last = read(events)
    assert isinstance(last, GenerationSummary)
    return last


def first_delta(events: Iterator[Event]) -> TextDelta:
    return within(  # type: ignore[no-any-return]
        PATIENCE_S, lambda: next(event for event in events if isinstance(event, TextDelta))
    )


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mobilellm-engine"]


@pytest.fixture
def engine(tiny_dir: Path) -> Iterator[Engine]:
    engine = Engine(tiny_dir)
    yield engine
    within(PATIENCE_S, engine.close)


def test_loading_ends_with_a_description_of_the_model(engine: Engine) -> None:
    assert engine.info is None
    *_, loaded = read(engine.load())
    assert isinstance(loaded, ModelLoaded)
    assert loaded.model == "tiny"
    assert engine.info == loaded


def test_the_makers_recommendation_is_known_after_loading(tmp_path: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.25}
    with Engine(write_model(tmp_path / "model", generation=generation)) as engine:
        read(engine.load())
        assert engine.defaults == GenerationOptions(temperature=0.25)


def test_a_job_loads_the_model_when_nobody_did(engine: Engine) -> None:
    assert summary_of(engine.chat(HI, SHORT)).generated_tokens == 8
    assert engine.info is not None


def test_load_options_reach_the_model(tiny_dir: Path) -> None:
    with Engine(tiny_dir, LoadOptions(context=64)) as engine:
        read(engine.load())
        assert engine.info is not None and engine.info.context_limit == 64


def test_the_engine_says_what_the_generator_says(engine: Engine, tiny_dir: Path) -> None:
    from mobilellm_mlx.decoding import Generator
    from mobilellm_mlx.loading import load_model

    generator = Generator(load_model(tiny_dir))
    *_, chat = generator.generate(generator.chat_prompt(HI), SHORT)
    *_, plain = generator.generate(generator.text_prompt("hi"), SHORT)
    assert isinstance(chat, GenerationSummary) and isinstance(plain, GenerationSummary)
    assert chat.text != plain.text
    assert summary_of(engine.chat(HI, SHORT)).text == chat.text
    assert summary_of(engine.complete("hi", SHORT)).text == plain.text


def test_events_can_be_read_from_any_thread(engine: Engine) -> None:
    summaries = [summary_of(engine.chat(HI, SHORT)) for _ in range(2)]  # each on its own thread
    *_, here = engine.chat(HI, SHORT)
    assert isinstance(here, GenerationSummary)
    assert {summary.text for summary in summaries} == {here.text}


def test_only_plain_values_cross(engine: Engine) -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (int, float, str, bool)

    events = read(engine.load()) + read(engine.chat(HI, SHORT))
    assert {"model_loaded", "prefill_progress", "text_delta", "summary"} == {e.name for e in events}
    for event in events:
        values = event.to_dict()
        assert all(plain(value) for value in values.values()), event
        assert json.loads(event.to_json()) == values


# Errors


def test_an_error_of_loading_arrives_at_the_reader_and_the_engine_closes(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "nothing")
    with pytest.raises(ModelNotFound):
        read(engine.load())
    within(PATIENCE_S, engine.close)
    assert not engine_threads()


def test_after_an_error_of_loading_each_job_tells_it_again(tmp_path: Path) -> None:
    with Engine(tmp_path / "nothing") as engine:
        for _ in range(2):
            with pytest.raises(ModelNotFound):
                read(engine.chat(HI, SHORT))
        assert engine.info is None


def test_loading_can_be_tried_again_once_the_directory_is_right(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    with Engine(directory) as engine:
        with pytest.raises(ModelNotFound):
            read(engine.load())
        write_model(directory)
        assert summary_of(engine.chat(HI, SHORT)).status == "ok"


def test_an_error_of_one_job_does_not_end_the_engine(engine: Engine) -> None:
    wanted = summary_of(engine.complete("x", SHORT)).text
    with pytest.raises(ContextOverflow):
        read(engine.complete("x" * 5000, SHORT))
    assert summary_of(engine.complete("x", SHORT)).text == wanted


def test_an_error_of_one_job_leaves_the_next_one_alone(engine: Engine) -> None:
    bad, good = engine.complete("x" * 5000, SHORT), engine.complete("x", SHORT)
    assert summary_of(good).status == "ok"
    with pytest.raises(ContextOverflow):
        read(bad)


# Several jobs


def test_a_second_job_waits_for_the_first(engine: Engine) -> None:
    first, second = engine.chat(HI, SHORT), engine.chat(HI, SHORT)
    late = summary_of(second)  # read first, run last: it knows the prompt from the other
    early = summary_of(first)
    assert (early.cached_tokens, late.cached_tokens) == (0, early.prompt_tokens - 1)
    assert early.text == late.text


def test_jobs_of_many_threads_are_all_answered(engine: Engine) -> None:
    results: list[GenerationSummary] = []

    def ask(number: int) -> None:
        results.append(summary_of(engine.complete(f"question {number}", SHORT)))

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [result.status for result in results] == ["ok"] * 8


# Cancelling


def test_cancelling_ends_a_job_soon(engine: Engine) -> None:
    cancel = threading.Event()
    events = engine.chat(HI, LONG, cancel)
    first_delta(events)
    cancel.set()
    summary = summary_of(events)
    assert (summary.status, summary.stop_reason) == ("cancelled", "cancelled")
    assert 1 <= summary.generated_tokens < 900


def test_after_cancelling_the_next_answer_is_that_of_a_fresh_engine(
    engine: Engine, tiny_dir: Path
) -> None:
    cancel = threading.Event()
    events = engine.chat(HI, LONG, cancel)
    first_delta(events)
    cancel.set()
    read(events)
    again = summary_of(engine.chat([Message("user", "hi there")], SHORT))
    with Engine(tiny_dir) as fresh:
        wanted = summary_of(fresh.chat([Message("user", "hi there")], SHORT))
    assert again.text == wanted.text
    assert again.cached_tokens > wanted.cached_tokens == 0


def test_leaving_an_iterator_early_cancels_its_job(engine: Engine) -> None:
    cancel = threading.Event()
    events = engine.chat(HI, LONG, cancel)
    first_delta(events)
    events.close()  # type: ignore[attr-defined]
    assert cancel.is_set()
    started = time.perf_counter()
    assert summary_of(engine.complete("x", SHORT)).status == "ok"
    assert time.perf_counter() - started < 0.5


def test_reading_to_the_end_does_not_touch_the_flag(engine: Engine) -> None:
    """So that one flag can serve a whole conversation."""
    cancel = threading.Event()
    for _ in range(2):
        assert summary_of(engine.chat(HI, SHORT, cancel)).status == "ok"
        assert not cancel.is_set()


def test_an_error_does_not_touch_the_flag(engine: Engine) -> None:
    cancel = threading.Event()
    with pytest.raises(ContextOverflow):
        read(engine.complete("x" * 5000, SHORT, cancel))
    assert not cancel.is_set()


def test_dropping_an_iterator_unread_cancels_its_job(engine: Engine) -> None:
    cancel = threading.Event()
    del_me = engine.chat(HI, LONG, cancel)
    del del_me
    assert cancel.wait(1)


# Closing


def test_closing_ends_the_thread(tiny_dir: Path) -> None:
    engine = Engine(tiny_dir)
    read(engine.chat(HI, SHORT))
    assert len(engine_threads()) == 1
    within(PATIENCE_S, engine.close)
    assert not engine_threads()


def test_closing_an_engine_that_did_nothing_is_quick(tiny_dir: Path) -> None:
    started = time.perf_counter()
    within(PATIENCE_S, Engine(tiny_dir).close)
    assert time.perf_counter() - started < 0.5


def test_closing_twice_is_fine(engine: Engine) -> None:
    within(PATIENCE_S, engine.close)
    within(PATIENCE_S, engine.close)


def test_closing_while_a_job_runs_cancels_it(engine: Engine) -> None:
    events = engine.chat(HI, LONG)
    first_delta(events)
    within(PATIENCE_S, engine.close)
    summary = summary_of(events)
    assert summary.status == "cancelled"
    assert summary.generated_tokens < 900


def test_closing_refuses_the_jobs_that_wait(engine: Engine) -> None:
    running = engine.chat(HI, LONG)
    waiting = [engine.chat(HI, LONG), engine.complete("x", LONG), engine.load()]
    first_delta(running)
    within(PATIENCE_S, engine.close)
    for events in waiting:
        with pytest.raises(EngineError, match="closed before this job ran"):
            read(events)
    assert summary_of(running).status == "cancelled"


def test_closing_right_after_asking_never_waits_for_the_answer(tiny_dir: Path) -> None:
    """At whatever moment the job is: not taken yet, just taken, loading, reading, answering."""
    for moment in range(40):
        engine = Engine(tiny_dir)
        events = engine.chat(HI, LONG)
        time.sleep(moment * 0.0005)
        started = time.perf_counter()
        within(PATIENCE_S, engine.close)
        with suppress(EngineError):  # when it was not taken yet
            assert summary_of(events).status == "cancelled"
        assert time.perf_counter() - started < 1.0


def test_a_job_that_is_taken_while_the_engine_closes_is_cancelled(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``close`` may look for a running job just before the thread says that it has one."""
    take, taken = Engine._next, threading.Event()

    def hesitate(engine: Engine) -> Any:
        job = take(engine)
        if job is not None:
            taken.set()
            while not engine._closed:
                time.sleep(0.001)
            time.sleep(0.05)
        return job

    monkeypatch.setattr(Engine, "_next", hesitate)
    engine = Engine(tiny_dir)
    events = engine.chat(HI, LONG)
    assert taken.wait(PATIENCE_S)
    within(PATIENCE_S, engine.close)
    assert summary_of(events).status == "cancelled"


def test_whoever_asks_while_the_engine_closes_gets_an_answer_or_an_error(tiny_dir: Path) -> None:
    for _ in range(10):
        engine = Engine(tiny_dir)
        read(engine.load())
        ends: list[str] = []

        def ask(engine: Engine = engine, ends: list[str] = ends) -> None:
            while True:
                try:
                    *_, last = engine.complete("x", GenerationOptions(max_tokens=1))
                    ends.append(last.name)
                except EngineError:
                    ends.append("refused")
                    return

        askers = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
        for asker in askers:
            asker.start()
        time.sleep(0.01)
        within(PATIENCE_S, engine.close)
        for asker in askers:
            asker.join(PATIENCE_S)
        assert ends.count("refused") == 3


def test_a_closed_engine_refuses_everything(engine: Engine) -> None:
    within(PATIENCE_S, engine.close)
    for ask in (
        engine.load,
        lambda: engine.chat(HI, SHORT),
        lambda: engine.complete("x", SHORT),
    ):
        with pytest.raises(EngineError, match="the engine is closed") as caught:
            ask()
        assert caught.value.hint


def test_leaving_the_with_block_closes_also_after_an_error(tiny_dir: Path) -> None:
    with pytest.raises(KeyError), Engine(tiny_dir) as engine:
        first_delta(engine.chat(HI, LONG))
        raise KeyError
    assert not engine_threads()


@pytest.fixture
def streams_cleared_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that gave their streams back."""
    from mobilellm_mlx.backend import mx

    names: list[str] = []
    clear = mx.clear_streams

    def spy() -> None:
        names.append(threading.current_thread().name)
        clear()

    monkeypatch.setattr(mx, "clear_streams", spy)
    return names


def test_the_thread_gives_its_streams_back(tiny_dir: Path, streams_cleared_by: list[str]) -> None:
    with Engine(tiny_dir) as engine:
        read(engine.chat(HI, SHORT))
    assert streams_cleared_by == ["mobilellm-engine"]


def test_the_thread_gives_its_streams_back_after_loading_failed_half_way(
    tmp_path: Path, streams_cleared_by: list[str]
) -> None:
    directory = write_model(tmp_path / "model")
    write_json(directory / "config.json", {**LLAMA, "num_hidden_layers": 3})
    with Engine(directory) as engine, pytest.raises(WeightsError):
        read(engine.load())
    assert streams_cleared_by == ["mobilellm-engine"]


def test_a_closed_engine_does_not_keep_the_weights(tiny_dir: Path) -> None:
    from mobilellm_mlx.backend import mx

    before = mx.get_active_memory()
    engine = Engine(tiny_dir)
    read(engine.chat(HI, SHORT))
    assert mx.get_active_memory() > before
    within(PATIENCE_S, engine.close)
    assert mx.get_active_memory() <= before


def test_an_error_that_is_kept_does_not_keep_the_weights(tiny_dir: Path) -> None:
    from mobilellm_mlx.backend import mx

    before = mx.get_active_memory()
    with Engine(tiny_dir) as engine, pytest.raises(ContextOverflow) as kept:
        read(engine.complete("x" * 5000, SHORT))
    assert kept.value.limit == 1024
    assert mx.get_active_memory() <= before


def test_nor_does_the_cause_of_an_error_that_is_kept() -> None:
    class Weights:
        pass

    held: list[weakref.ref[Weights]] = []

    def allocate() -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        raise RuntimeError("unable to allocate")

    def generate() -> None:
        try:
            allocate()
        except RuntimeError as error:
            raise InsufficientMemory("out of memory") from error

    try:
        generate()
    except InsufficientMemory as error:
        kept = error
    assert held[0]() is not None
    _forget_locals(kept)
    assert held[0]() is None and kept.__traceback__ is not None
