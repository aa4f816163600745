"""Another model takes the present one's place, or does not: one of the two always answers."""

import json
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, write_json, write_model

from mobilellm_mlx import loading
from mobilellm_mlx.chat import Session
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import ConfigError, InsufficientMemory, ModelNotFound, WeightsError
from mobilellm_mlx.events import CacheSummary, ModelLoaded
from mobilellm_mlx.loading import load_model, plan_memory
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from tests.engine.test_engine import PATIENCE_S, read, summary_of, within

HI = [Message("user", "hi there")]
SHORT = GenerationOptions(max_tokens=8)
ROOM = 10**12


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_model(tmp_path / "other", seed=1)


@pytest.fixture
def engine(tiny_dir: Path) -> Iterator[Engine]:
    engine = Engine(tiny_dir)
    yield engine
    within(PATIENCE_S, engine.close)


def leave_room(monkeypatch: pytest.MonkeyPatch, *available: int) -> list[int]:
    """What there is, each time that somebody asks; the last one stays. Gives what is left."""
    left = list(available)
    monkeypatch.setattr(
        loading, "available_memory_bytes", lambda: left.pop(0) if len(left) > 1 else left[0]
    )
    return left


def model_of(engine: Engine) -> Any:
    assert engine._worker._generator is not None
    return engine._worker._generator._loaded.model


def needed(directory: Path) -> int:
    return plan_memory(directory).needed_bytes


def test_after_switching_the_other_model_answers(engine: Engine, other: Path) -> None:
    before = summary_of(engine.chat(HI, SHORT))
    loaded = read(engine.load(other))[-1]
    assert isinstance(loaded, ModelLoaded) and engine.info == loaded
    after = summary_of(engine.chat(HI, SHORT))
    assert (after.model, after.cached_tokens) == ("other", 0)
    assert after.tokens != before.tokens
    with Engine(other) as fresh:
        assert summary_of(fresh.chat(HI, SHORT)).tokens == after.tokens


def test_the_makers_recommendation_changes_with_the_model(engine: Engine, tmp_path: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.25}
    read(engine.load(write_model(tmp_path / "warm", generation=generation)))
    assert engine.defaults.temperature == 0.25


def test_the_model_that_made_way_is_let_go(engine: Engine, other: Path) -> None:
    read(engine.chat(HI, SHORT))
    old = weakref.ref(model_of(engine))
    read(engine.load(other))
    assert old() is None


def test_the_model_in_memory_is_not_loaded_again(engine: Engine, tiny_dir: Path) -> None:
    read(engine.chat(HI, SHORT))
    model = model_of(engine)
    read(engine.load(tiny_dir))
    assert model_of(engine) is model
    assert summary_of(engine.chat(HI, SHORT)).cached_tokens > 0


def test_another_model_can_be_the_first_one(engine: Engine, other: Path) -> None:
    read(engine.load(other))
    assert engine.info is not None and engine.info.model == "other"


def test_a_model_that_does_not_fit_is_refused_before_the_present_one_goes(
    engine: Engine, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(engine.chat(HI, SHORT))
    model = model_of(engine)
    held = engine._worker._generator.nbytes  # type: ignore[union-attr]
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("it was loaded"))
    leave_room(monkeypatch, needed(other) - held - 1)
    with pytest.raises(InsufficientMemory, match="from the model now in memory"):
        read(engine.load(other))
    assert model_of(engine) is model
    summary = summary_of(engine.chat(HI, SHORT))
    assert summary.model == "tiny" and summary.cached_tokens > 0


def test_what_the_present_model_holds_counts_as_free(
    engine: Engine, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(engine.chat(HI, SHORT))
    old = weakref.ref(model_of(engine))
    held = engine._worker._generator.nbytes  # type: ignore[union-attr]
    gone: list[bool] = []
    load = loading.load_model

    def watch(*args: Any) -> Any:
        gone.append(old() is None)
        return load(*args)

    monkeypatch.setattr(loading, "load_model", watch)
    leave_room(monkeypatch, needed(other) - held, ROOM)
    read(engine.load(other))
    assert gone == [True]  # it had to make room
    assert summary_of(engine.chat(HI, SHORT)).model == "other"


def test_where_there_is_room_for_both_the_present_one_goes_last(
    engine: Engine, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(engine.chat(HI, SHORT))
    model = model_of(engine)

    def fail(*_: Any) -> None:
        raise WeightsError("broken")

    monkeypatch.setattr(loading, "load_model", fail)
    with pytest.raises(WeightsError):
        read(engine.load(other))
    assert model_of(engine) is model
    assert summary_of(engine.chat(HI, SHORT)).cached_tokens > 0


def broken(tmp_path: Path, kind: str) -> Path:
    directory = tmp_path / kind
    if kind == "missing":
        return directory
    write_model(directory)
    if kind == "cut off":
        weights = directory / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "of another shape":
        write_json(directory / "config.json", {**LLAMA, "num_hidden_layers": 3})
    else:
        write_json(directory / "config.json", {**LLAMA, "model_type": "unknown"})
    return directory


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", ModelNotFound),
        ("cut off", WeightsError),
        ("of another shape", WeightsError),
        ("of no known kind", ConfigError),
    ],
)
def test_after_a_failure_the_present_model_still_answers(
    engine: Engine, tmp_path: Path, kind: str, error: type[Exception]
) -> None:
    before = summary_of(engine.chat(HI, SHORT))
    info = engine.info
    with pytest.raises(error):
        read(engine.load(broken(tmp_path, kind)))
    assert engine.info == info
    after = summary_of(engine.chat(HI, SHORT))
    assert (after.model, after.tokens) == ("tiny", before.tokens)
    assert after.cached_tokens > 0


def test_a_model_that_had_to_make_room_is_loaded_again_after_a_failure(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = summary_of(engine.chat(HI, SHORT))
    info, old = engine.info, weakref.ref(model_of(engine))
    wrong = broken(tmp_path, "of another shape")
    leave_room(monkeypatch, needed(wrong) - 1, ROOM)
    with pytest.raises(WeightsError):
        read(engine.load(wrong))
    assert engine.info == info
    assert old() is None
    after = summary_of(engine.chat(HI, SHORT))
    assert (after.model, after.tokens, after.cached_tokens) == ("tiny", before.tokens, 0)


def test_a_long_chat_goes_on_after_a_switch_that_failed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted before it is asked, and by then there is no model in memory."""
    session = Session(engine, overrides={"max_tokens": 4})
    first = summary_of(session.send("hi there"))
    wrong = broken(tmp_path, "of another shape")
    leave_room(monkeypatch, needed(wrong) - 1, ROOM)
    with pytest.raises(WeightsError):
        read(engine.load(wrong))
    assert engine._worker._generator is None
    assert summary_of(session.send("w " * (first.context_limit // 4))).model == "tiny"


def test_what_was_kept_of_a_chat_belongs_to_its_model(
    engine: Engine, other: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    read(engine.chat(HI, SHORT))
    path = tmp_path / "chat.safetensors"
    kept = read(engine.save_cache(path))[-1]
    read(engine.load(other))
    refused = read(engine.restore_cache(path))[-1]
    read(engine.load(tiny_dir))
    known = read(engine.restore_cache(path))[-1]
    assert isinstance(kept, CacheSummary) and isinstance(known, CacheSummary)
    assert isinstance(refused, CacheSummary) and refused.reason and not refused.tokens
    assert known.tokens == kept.tokens > 0
    summary = summary_of(engine.chat(HI, SHORT))
    assert summary.cached_tokens == summary.prompt_tokens - 1


# Counting


def test_tokens_are_counted_while_an_answer_comes(engine: Engine) -> None:
    read(engine.load())
    wanted = engine.count_tokens(HI)
    cancel = threading.Event()
    events = engine.chat(HI, GenerationOptions(max_tokens=None), cancel)
    next(events)
    assert within(PATIENCE_S, lambda: engine.count_tokens(HI)) == wanted
    cancel.set()
    assert summary_of(events).prompt_tokens == wanted


# The plan


def test_a_plan_says_what_loading_takes(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = load_model(tiny_dir).info
    cache = 1024 * info.kv_bytes_per_token
    room = info.weight_bytes + cache + 256_000_000
    leave_room(monkeypatch, room)
    monkeypatch.setattr(loading, "build_model", lambda *_: pytest.fail("the model was built"))
    plan = plan_memory(tiny_dir)
    assert (plan.weight_bytes, plan.cache_bytes, plan.context) == (info.weight_bytes, cache, 1024)
    assert (plan.kept_free_bytes, plan.available_bytes) == (256_000_000, room)
    assert plan.fits and plan.fits_beside
    assert plan.arithmetic.endswith("kept free, and there is 256 MB")
    assert plan_memory(tiny_dir, LoadOptions(context=512)).cache_bytes == cache // 2


def test_a_plan_counts_what_another_model_gives_back(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_room(monkeypatch, 200_000_000)
    assert not plan_memory(tiny_dir).fits
    assert plan_memory(tiny_dir).arithmetic.endswith("but there is 200 MB")
    plan = plan_memory(tiny_dir, freed_bytes=100_000_000)
    assert plan.fits and not plan.fits_beside
    assert plan.arithmetic.endswith(
        "and there is 300 MB, 100 MB of it from the model now in memory"
    )


# The fingerprint


def fingerprint(directory: Path, options: LoadOptions | None = None) -> str:
    return load_model(directory, options).info.fingerprint


def test_other_words_are_another_fingerprint(other: Path) -> None:
    """They make other tokens of a text, and so other figures of the same weights."""
    first = fingerprint(other)
    path = other / "tokenizer_config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**values, "add_bos_token": True}))
    assert fingerprint(other) != first


def test_a_fingerprint_is_of_the_files_and_the_form(other: Path) -> None:
    first = fingerprint(other)
    assert first == fingerprint(other)
    assert first != fingerprint(other, LoadOptions(compute="packed"))
    assert first == fingerprint(other, LoadOptions(context=64))
    os.utime(other / "model.safetensors", ns=(0, 1))
    assert fingerprint(other) != first
    os.utime(other / "model.safetensors", ns=(0, 2))
    second = fingerprint(other)
    write_json(other / "config.json", {**LLAMA, "rope_theta": 9_999.0})
    assert fingerprint(other) != second


def test_a_context_that_was_asked_of_the_first_model_is_cut_to_what_another_one_has(
    tiny_dir: Path, tmp_path: Path
) -> None:
    short = write_model(tmp_path / "short", {**LLAMA, "max_position_embeddings": 64})
    with Engine(tiny_dir, LoadOptions(context=100)) as engine:
        read(engine.load())
        loaded = read(engine.load(short))[-1]
        assert loaded.context_limit == 64
        assert read(engine.load(tiny_dir))[-1].context_limit == 100
