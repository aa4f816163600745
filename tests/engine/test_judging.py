"""The engine judges sequences between the turns of a conversation, which it does not forget."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.decoding.likelihood import Row, judge
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import EngineError, ModelNotFound
from mobilellm_mlx.events import Event, Judged
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from tests.adapters.made import write_random_adapter
from tests.engine.test_engine import PATIENCE_S, read, summary_of, within

HI = [Message("user", "hi there")]
SHORT = GenerationOptions(max_tokens=8)
GROUPS = [
    [Row((*b"question", *answer), len(answer)) for answer in (b"yes", b"no", b"perhaps")],
    [Row(tuple(b"a longer text, all of it judged"), 30)],
]
MANY = [[Row((*b"the same for all ", number, 7), 1)] for number in range(200)]


@pytest.fixture
def engine(tiny_dir: Path) -> Iterator[Engine]:
    engine = Engine(tiny_dir)
    yield engine
    within(PATIENCE_S, engine.close)


Found = dict[tuple[int, int], float]
"""Log-likelihoods by group and row."""


def judged(events: Iterator[Event]) -> Found:
    found: Found = {}
    for event in read(events):
        assert isinstance(event, Judged) and (event.group, 0) not in found
        found |= {(event.group, at): value for at, value in enumerate(event.log_likelihoods)}
    return found


def by_hand(model: Any) -> Found:
    return {
        (number, at): one.log_likelihood
        for number, rows in enumerate(judge(model, GROUPS))
        for at, one in enumerate(rows)
    }


def near(found: Found) -> Any:
    return pytest.approx(found, rel=0, abs=1e-3)


def test_the_engine_judges_as_the_network_does(engine: Engine, tiny_dir: Path) -> None:
    """The first job of an engine brings the model along, whichever it is."""
    events = read(engine.judge(GROUPS))
    wanted = judge(load_model(tiny_dir).model, GROUPS)
    assert len(events) == len(wanted)
    for event in events:
        assert isinstance(event, Judged)
        rows = wanted[event.group]
        assert event.log_likelihoods == pytest.approx([one.log_likelihood for one in rows])
        assert event.greedy == [one.is_greedy for one in rows]
        assert event.tokens == [one.tokens for one in rows]
    assert engine.info is not None


def test_only_plain_values_cross(engine: Engine) -> None:
    for event in read(engine.judge(GROUPS)):
        assert isinstance(event, Judged)
        kinds = [{type(value) for value in values} for values in (event.greedy, event.tokens)]
        assert [type(event.group), *kinds] == [int, {bool}, {int}]
        assert {type(value) for value in event.log_likelihoods} == {float}


def test_a_conversation_goes_on_with_what_was_read_before_judging(engine: Engine) -> None:
    first = summary_of(engine.chat(HI, SHORT))
    said = [*HI, Message("assistant", first.text), Message("user", "go on")]
    wanted = summary_of(engine.chat(said, SHORT, aside=True))
    read(engine.judge(GROUPS))
    again = summary_of(engine.chat(HI, SHORT))
    assert again.cached_tokens == again.prompt_tokens - 1  # all but the last, which is read anew
    assert again.tokens == first.tokens
    read(engine.judge(GROUPS))
    last = summary_of(engine.chat(said, SHORT))
    assert last.cached_tokens >= first.prompt_tokens
    assert last.tokens == wanted.tokens


def test_judging_does_not_depend_on_the_conversation(engine: Engine) -> None:
    before = near(judged(engine.judge(GROUPS)))
    summary_of(engine.chat(HI, SHORT))
    assert judged(engine.judge(GROUPS)) == before


def test_an_adapter_that_is_on_counts(engine: Engine, tiny_dir: Path, tmp_path: Path) -> None:
    write_random_adapter(tmp_path / "pirate", tiny_dir)
    bare = by_hand(load_model(tiny_dir).model)
    assert judged(engine.judge(GROUPS)) == near(bare)
    read(engine.adapt(tmp_path / "pirate"))
    dressed = judged(engine.judge(GROUPS))
    assert min(abs(dressed[key] - bare[key]) for key in bare) > 0.01
    with Engine(tiny_dir, adapter=tmp_path / "pirate") as other:
        assert judged(other.judge(GROUPS)) == near(dressed)
    read(engine.adapt(None))
    assert judged(engine.judge(GROUPS)) == near(bare)


def test_an_adapter_of_a_question_aside_does_not_count(
    engine: Engine, tiny_dir: Path, tmp_path: Path
) -> None:
    write_random_adapter(tmp_path / "pirate", tiny_dir)
    bare = near(judged(engine.judge(GROUPS)))
    summary_of(engine.chat(HI, SHORT, aside=True, adapter=tmp_path / "pirate"))
    assert judged(engine.judge(GROUPS)) == bare


def test_batches_are_as_large_as_was_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import mobilellm_mlx.decoding.likelihood as likelihood

    sizes: list[int] = []

    def spied(model: Any, groups: Any, *most: Any) -> Any:
        sizes.append(len(groups))
        return judge(model, groups)

    monkeypatch.setattr(likelihood, "judge", spied)
    read(engine.judge(MANY[:6], batch_tokens=1))
    assert sizes == [1] * 6
    read(engine.judge(MANY[:6], batch_tokens=36))  # of 18 each
    assert sizes[6:] == [2] * 3
    read(engine.judge(MANY[:6]))
    assert sizes[9:] == [6]


def test_cancelling_ends_after_the_present_batch(engine: Engine) -> None:
    read(engine.load())
    cancel = threading.Event()
    events = engine.judge(MANY, cancel, batch_tokens=1)
    within(PATIENCE_S, lambda: next(events))
    cancel.set()
    assert len(read(events)) < len(MANY) - 1


def test_what_is_cancelled_beforehand_gives_nothing(engine: Engine) -> None:
    cancel = threading.Event()
    cancel.set()
    assert read(engine.judge(GROUPS, cancel)) == []


def test_leaving_the_events_early_cancels_and_lets_the_next_job_run(engine: Engine) -> None:
    read(engine.load())
    cancel = threading.Event()
    events = engine.judge(MANY * 20, cancel, batch_tokens=1)
    within(PATIENCE_S, lambda: next(events))
    events.close()  # type: ignore[attr-defined]
    assert cancel.is_set()
    started = time.perf_counter()
    assert summary_of(engine.chat(HI, SHORT)).status == "ok"
    assert time.perf_counter() - started < 1


def test_reading_to_the_end_does_not_touch_the_flag(engine: Engine) -> None:
    cancel = threading.Event()
    for _ in range(2):
        assert len(read(engine.judge(GROUPS, cancel))) == len(GROUPS)
        assert not cancel.is_set()


def test_an_error_arrives_at_the_reader(tmp_path: Path) -> None:
    with Engine(tmp_path / "nothing") as engine, pytest.raises(ModelNotFound):
        read(engine.judge(GROUPS))


def test_a_closed_engine_refuses_to_judge(engine: Engine) -> None:
    within(PATIENCE_S, engine.close)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.judge(GROUPS)


def test_closing_while_it_judges_ends_it(engine: Engine) -> None:
    read(engine.load())
    events = engine.judge(MANY * 20, batch_tokens=1)
    within(PATIENCE_S, lambda: next(events))
    within(PATIENCE_S, engine.close)
    assert len(read(events)) < len(MANY) * 20 - 1
