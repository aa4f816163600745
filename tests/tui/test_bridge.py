"""The way from the engine's events to messages, without a screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilellm_mlx.chat.session import Session
from mobilellm_mlx.events import CacheSummary, Event, Notice, PrefillProgress, Progress, TextDelta
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine
from tui import messages as say
from tui.bridge import Bridge


class Target:
    """Stands for a screen: keeps what is posted, and has a timer that never fires."""

    def __init__(self) -> None:
        self.got = []

    def post_message(self, message):
        self.got.append(message)

    def set_interval(self, *_args, **_options):
        return self

    def resume(self):
        pass

    pause = stop = resume


class Told(ScriptedEngine):
    """Loads with exactly these events."""

    def __init__(self, *told: Event | BaseException):
        super().__init__()
        self.told = told

    def load(self, directory: Path | None = None) -> Iterator[Event]:
        for item in self.told:
            if isinstance(item, BaseException):
                raise item
            yield item


def run(engine, start):
    """One job from beginning to end, its events read in one go; the messages it gave."""
    bridge = Bridge(engine, Session(engine), clock=lambda: 0.0)
    target = Target()
    bridge.attach(target)
    start(bridge)
    bridge._thread.join(5)
    bridge.pump()
    assert not bridge.is_busy
    return target.got


def send(bridge, text):
    bridge.ask(lambda cancel: bridge.session.send(text, cancel))


def test_many_pieces_become_one_message():
    got = run(ScriptedEngine(["a rather long answer"]), lambda b: send(b, "hi"))
    kinds = [type(message) for message in got]
    assert kinds == [say.Pace, say.PromptRead, say.AnswerText, say.AnswerEnded]
    assert got[2].text == "a rather long answer"


def test_only_the_newest_progress_is_shown():
    engine = Told(*[PrefillProgress(n, 10, 0) for n in range(11)], SCRIPTED_MODEL)
    read = [m for m in run(engine, Bridge.load) if isinstance(m, say.PromptRead)]
    assert [(m.done, m.total) for m in read] == [(10, 10)]


def test_stages_of_loading_are_passed_on():
    engine = Told(Notice("checking"), Progress("reading weights", 1, 4), SCRIPTED_MODEL)
    got = run(engine, Bridge.load)
    assert [m.text for m in got if isinstance(m, say.Noted)] == ["checking", "reading weights 25 %"]
    assert isinstance(got[-1], say.ModelReady)


def test_an_engine_that_ends_without_a_last_event_is_an_internal_error():
    got = run(Told(TextDelta("?")), Bridge.load)
    assert isinstance(got[-1], say.LoadingFailed)
    assert got[-1].problem.internal


def test_an_exception_is_reported_with_its_words():
    got = run(Told(KeyError("k")), Bridge.load)
    assert got[-1].problem.text == "internal error: KeyError: 'k'"
    assert "--debug" in got[-1].problem.hint


def test_jobs_do_not_overlap():
    gate = threading.Event()

    class Waits(ScriptedEngine):
        def load(self, directory=None):
            gate.wait(5)
            yield from super().load(directory)

    engine = Waits()
    bridge = Bridge(engine, Session(engine))
    bridge.load()
    for job in (bridge.load, lambda: send(bridge, "hi"), lambda: bridge.tidy(iter(()))):
        with pytest.raises(RuntimeError):
            job()
    gate.set()
    bridge.close(timeout_s=5)
    assert not bridge._thread.is_alive()


def test_a_cache_that_was_moved_is_told_and_one_that_was_not_holds_nobody_up():
    moved = CacheSummary("restore_cache", tokens=7)
    (told,) = [m for m in run(ScriptedEngine(), lambda b: b.tidy(iter([moved])))
               if isinstance(m, say.CacheMoved)]  # fmt: skip
    assert told.summary == moved

    def fail():
        raise OSError("gone")
        yield

    for job in (iter(()), fail()):
        got = run(ScriptedEngine(), lambda b, job=job: b.tidy(job))
        assert isinstance(got[-1], say.CacheMoved) and got[-1].summary is None


def test_reasoning_comes_in_a_message_of_its_own_before_the_answer():
    got = run(ScriptedEngine(["a rather long answer"], reasoning="so so"), lambda b: send(b, "?"))
    kinds = [type(message) for message in got]
    assert kinds[2:] == [say.ReasoningText, say.AnswerText, say.AnswerEnded]
    assert (got[2].text, got[2].pieces) == ("so so", 2)
