"""Engines that wait where a test wants, and snapshots of the whole screen."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from mobilellm_mlx.events import Event, ReasoningDelta, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import SCRIPTED_MODEL, ScriptedEngine
from tui import bridge
from tui.app import MobileLLMApp
from tui.widgets.prompt import Prompt

SNAPSHOTS = Path(__file__).parent / "snapshots"
PATIENCE_S = 5.0
POLL_S = 0.01


class StagedEngine(ScriptedEngine):
    """A scripted engine that stops at chosen places until the test lets it go on.

    Args:
        hold_load: wait in ``load`` for ``may_load``.
        hold_after: wait after so many pieces of every answer for ``may_speak``, or for a cancel.
        hold_thinking: the same, after so many pieces of reasoning.
        crash_after: raise a ``RuntimeError`` after so many pieces.
        deaf: a cancel does not end the wait: an answer that takes its time to stop.
    """

    def __init__(
        self,
        *args: Any,
        hold_load: bool = False,
        hold_after: int | None = None,
        hold_thinking: int | None = None,
        crash_after: int | None = None,
        deaf: bool = False,
        before: Sequence[Event] = (),
        **options: Any,
    ):
        super().__init__(*args, **options)
        self.may_load = threading.Event()
        self.may_speak = threading.Event()
        if not hold_load:
            self.may_load.set()
        self.loads = 0
        self._hold_after = hold_after
        self._hold_thinking = hold_thinking
        self._crash_after = crash_after
        self._deaf = deaf
        self._before = before

    def load(self, directory: Path | None = None) -> Iterator[Event]:
        self.loads += 1
        self.may_load.wait(10)
        yield from super().load(directory)

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
    ) -> Iterator[Event]:
        cancel = cancel or threading.Event()
        yield from self._before
        if self._hold_after == 0:
            self._wait(cancel)
        said = thought = 0
        for event in super().chat(messages, options, cancel, begun):
            yield event
            said += isinstance(event, TextDelta)
            if isinstance(event, TextDelta) and said == self._crash_after:
                raise RuntimeError("the [/engine] broke")
            if isinstance(event, TextDelta) and said == self._hold_after:
                self._wait(cancel)
            thought += isinstance(event, ReasoningDelta)
            if isinstance(event, ReasoningDelta) and thought == self._hold_thinking:
                self._wait(cancel)

    def _wait(self, cancel: threading.Event) -> None:
        while self._deaf or not cancel.is_set():
            if self.may_speak.wait(0.03):
                break


@pytest.fixture
def staged() -> Iterator[Callable[..., StagedEngine]]:
    """Makes staged engines, and lets none of them hang after the test."""
    made: list[StagedEngine] = []

    def make(*args: Any, **options: Any) -> StagedEngine:
        options.setdefault("info", replace(SCRIPTED_MODEL, model="SmolLM2-135M-Instruct"))
        made.append(StagedEngine(*args, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.may_load.set()
        engine.may_speak.set()


class Chat:
    """A running app with the helpers that most tests need."""

    def __init__(self, app: MobileLLMApp, pilot: Pilot[None]):
        self.app = app
        self.pilot = pilot
        self.press = pilot.press

    @property
    def prompt(self) -> Prompt:
        return self.app.chat.query_one(Prompt)

    def all(self, kind: type[Any]) -> list[Any]:
        """Every widget of a kind on the chat screen, in order."""
        return list(self.app.chat.query(kind))

    async def until(self, predicate: Callable[[], object]) -> None:
        """Give the app time until something is so."""
        for _ in range(int(PATIENCE_S / POLL_S)):
            if predicate():
                return
            await self.pilot.pause(POLL_S)
        pytest.fail(f"still not so after {PATIENCE_S} s: {predicate.__code__}\n{self.text()}")

    async def write(self, text: str) -> None:
        """Put a text into the prompt as a paste does, without sending it."""
        self.prompt.insert(text)
        await self.pilot.pause(0)

    async def say(self, text: str) -> None:
        """Write a text and send it."""
        self.prompt.insert(text)
        await self.press("enter")

    def say_before_the_end_is_known(self, text: str) -> None:
        """Let the job end, with ``text`` sent after its end and before the screen hears of it."""
        bridge = self.app.bridge
        bridge._thread.join(PATIENCE_S)
        self.app.chat.post_message(Prompt.Submitted(text))
        bridge.pump()

    async def idle(self) -> None:
        """Wait until the model is loaded and nothing is being answered or queued."""
        await self.until(
            lambda: self.app.chat.status.state.phase == "idle" and not self.app.chat.is_answering
        )
        await self.pilot.pause(0)

    def text(self) -> str:
        """What is on the screen, as lines of text."""
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)


Open = Callable[..., AbstractAsyncContextManager[Chat]]


@pytest.fixture
def open_chat(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Runs the app with an engine: ``async with open_chat(engine, size=(80, 24)) as chat``.

    Events reach the screen sooner than in life, so that tests wait less; ``updates_per_s`` sets it.
    """

    @asynccontextmanager
    async def run(
        engine: ScriptedEngine,
        size: tuple[int, int] = (80, 24),
        updates_per_s: float = 40,
        **options: Any,
    ) -> AsyncIterator[Chat]:
        monkeypatch.setattr(bridge, "UPDATES_PER_S", updates_per_s)
        app = MobileLLMApp(engine, **options)
        async with app.run_test(size=size, tooltips=True, notifications=True) as pilot:
            yield Chat(app, pilot)

    return run


def normalise(svg: str) -> str:
    """The picture without what differs between two equal runs."""
    return re.sub(r"terminal-\d+-", "terminal-", svg)


Compare = Callable[[Chat, str], Awaitable[None]]


@pytest.fixture
def snapshot() -> Compare:
    """Compares the screen with a stored picture; ``UPDATE_SNAPSHOTS=1`` stores it instead."""

    async def compare(chat: Chat, name: str) -> None:
        path = SNAPSHOTS / f"{name}.svg"
        update = os.environ.get("UPDATE_SNAPSHOTS") == "1"
        wanted = path.read_text(encoding="utf-8") if path.exists() and not update else None
        same, last = 0, ""
        for _ in range(int(PATIENCE_S / 0.05)):
            await chat.pilot.pause(0.05)
            svg = normalise(chat.app.export_screenshot(title="MobileLLM for MLX"))
            if svg == wanted:
                return
            same, last = (same + 1, last) if svg == last else (0, svg)
            if same == 12:  # has not moved for more than half a second
                break
        if update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(last, encoding="utf-8")
            return
        seen = Path(tempfile.gettempdir()) / f"{name}.svg"
        seen.write_text(last, encoding="utf-8")
        pytest.fail(
            f"the screen differs from tests/tui/snapshots/{name}.svg\n"
            f"open both in a browser; what was drawn now is {seen}\n"
            "if the change is wanted: UPDATE_SNAPSHOTS=1 python -m pytest tests/tui -q\n\n"
            f"{chat.text()}"
        )

    return compare
