"""The interface under a fast model: what every update costs while an answer streams in.

    python benchmarks/streaming.py [--rate 500] [--only short giant chat open]

A scripted engine speaks at ``--rate`` tokens a second through the real application, which draws to
a terminal that throws everything away. Four scenes, each in a process of its own:

- short: one answer of 1,000 tokens with code, a table and lists;
- giant: one answer of 50,000 tokens;
- chat: a chat of 50,000 tokens in 200 turns, and then an answer of 1,000 more;
- open: that chat is opened, and scrolled from its end to its beginning.

An *update* is all the work between two deliveries of text (25 a second): to stay smooth it must
fit into 40 ms. It is measured as processor time of the interface's thread, so that other programs
do not count; a *stall*, a time in which no key would be read, is measured by the clock and so knows
them. A token is four characters here.

Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from textual.drivers.headless_driver import HeadlessDriver

from mobilellm_mlx.chat.records import StoredMessage, now
from mobilellm_mlx.events import Event, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.testing import ScriptedEngine
from tui.app import MobileLLMApp
from tui.bridge import UPDATES_PER_S, Bridge
from tui.widgets.prompt import Prompt
from tui.widgets.transcript import Transcript

SCENES = ("short", "giant", "chat", "open")
SIZE = (120, 40)
TURNS = 200
CHARACTERS = 4
"""In a token, as the scripted engine cuts them."""
BUDGET_MS = 1000 / UPDATES_PER_S

SECTION = '''\
## Part {n}: what a small model is good for

A small model is quick, private and *often wrong*. Use it for **short jobs** and check what it
says, `{n}` times if need be, because it has read much less than the large ones that people know.

- rewriting a sentence so that it says the same in fewer words
- a title for a note, with [a link](https://example.org/{n}) to where it came from
- a first draft that you correct yourself before anybody else sees it

1. Write the text as you would say it.
2. Ask for one change at a time, and look at each.

| model | tok/s | memory | note |
|---|---:|---:|---|
| 125M | 500 | 98 MB | the quickest |
| 350M | 240 | 210 MB | knows a little more |

```python
def greet(name: str, times: int = {n}) -> str:
    """Say hello as often as wanted."""
    words = [f"Hello, {{name}}!" for _ in range(times)]
    return " ".join(words)
```

> A quotation, for the eye, that is long enough to be broken into two lines when it is drawn.

The rest is a paragraph of plain words, as most of what models write is: it goes on for a while,
says little that is new, and ends when nobody expects it any more, which is often too late.

'''


def make_text(tokens: int) -> str:
    """Markdown with everything that models write, so many tokens long."""
    sections = tokens * CHARACTERS // len(SECTION) + 1
    text = "".join(SECTION.format(n=n) for n in range(1, sections + 1))
    return text[: tokens * CHARACTERS]


def make_chat(turns: int, tokens: int) -> list[StoredMessage]:
    """A chat of so many turns and tokens."""
    answer, messages = make_text(tokens // turns), []
    for turn in range(turns):
        for role, text in (("user", f"Tell me about part {turn}."), ("assistant", answer)):
            parent = messages[-1].id if messages else None
            id = f"{len(messages):06}"
            messages.append(StoredMessage(id, "chat", parent, role, text, now()))
    return messages


class PacedEngine(ScriptedEngine):
    """Speaks by the clock: when it was held up it catches up, as a model's own thread does."""

    def __init__(self, answer: str, rate: float):
        super().__init__([answer])
        self.rate = rate
        self.said = 0
        self.last_token_at = 0.0

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
    ) -> Iterator[Event]:
        began = time.perf_counter()
        for event in super().chat(messages, options, cancel, begun):
            if isinstance(event, TextDelta):
                self.said += 1
                wait = began + self.said / self.rate - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                self.last_token_at = time.perf_counter()
            yield event


class NullTerminal(HeadlessDriver):
    """Takes everything that is drawn, encoded as for a terminal, and keeps the count."""

    written = 0

    @property
    def is_headless(self) -> bool:
        return False

    def write(self, data: str) -> None:
        NullTerminal.written += len(data.encode())


@dataclass
class Meter:
    """The event loop's work, summed from one delivery of text to the next.

    Work is processor time of the interface's thread, so that other programs do not count.
    """

    updates: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    _woke: float = 0.0
    _work: float = 0.0

    def attach(self) -> None:
        """Listen to the running loop, and to the bridge that delivers text to it."""
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select, pump = selector.select, Bridge.pump
        self.clear()

        def timed_select(timeout: float | None = None) -> Any:
            self.stalls.append(time.perf_counter() - self._woke)
            ready = select(timeout)
            self._woke = time.perf_counter()
            return ready

        def timed_pump(bridge: Bridge) -> None:
            self.cut()
            pump(bridge)

        selector.select = timed_select
        Bridge.pump = timed_pump  # type: ignore[method-assign]

    def cut(self) -> None:
        """End an update."""
        work = time.thread_time()
        self.updates.append(work - self._work)
        self._work = work

    def clear(self) -> None:
        """Forget what was measured so far."""
        self.updates.clear()
        self.stalls.clear()
        self._work = time.thread_time()
        self._woke = time.perf_counter()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all lies; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def memory_bytes() -> int:
    """What this process holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the most it has held
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def run_scene(scene: str, rate: float) -> dict[str, Any]:
    """Play a scene and measure it."""
    tokens = 50_000 if scene == "giant" else 1_000
    engine = PacedEngine(make_text(tokens), rate)
    app = MobileLLMApp(engine)
    app.driver_class = NullTerminal
    meter = Meter()
    result: dict[str, Any] = {}
    meter.attach()
    with app._context():  # as Textual's own pilot does, which draws to no terminal at all
        running = asyncio.create_task(app.run_async(size=SIZE, mouse=False))
        try:
            await until(lambda: running.done() or (app.is_running and engine.info))
            await asyncio.sleep(0.5)
            before = memory_bytes()
            if scene in ("chat", "open"):
                result |= await open_long_chat(app, meter, scroll=scene == "open")
            if scene != "open":
                result |= await stream(app, engine, meter)
            result["widgets"] = len(list(app.screen.walk_children()))
            result["memory_mb"] = round(memory_bytes() / 1e6)
            result["grown_mb"] = round((memory_bytes() - before) / 1e6)
        finally:
            app.exit()
            await running
    return {"scene": scene, **result}


async def stream(app: MobileLLMApp, engine: PacedEngine, meter: Meter) -> dict[str, Any]:
    """Ask, and measure until the answer is complete."""
    meter.clear()
    began = time.perf_counter()
    app.chat.query_one(Prompt).insert("Go on.")
    await app.chat.query_one(Prompt).action_submit()
    await until(lambda: engine.said or app.failure)
    await until(lambda: not app.chat.is_answering)
    ended = time.perf_counter()
    meter.cut()
    return {
        "tokens": engine.said,
        "tokens_per_s": round(engine.said / (ended - began)),
        "settling_ms": round(1000 * (ended - engine.last_token_at)),
        **describe(meter),
    }


async def open_long_chat(app: MobileLLMApp, meter: Meter, *, scroll: bool) -> dict[str, Any]:
    """Show a long chat; with ``scroll``, go through it page by page, and measure that."""
    transcript = app.chat.query_one(Transcript)
    began = time.perf_counter()
    await transcript.show(make_chat(TURNS, 50_000))
    await asyncio.sleep(0)
    result: dict[str, Any] = {"open_ms": round(1000 * (time.perf_counter() - began))}
    await asyncio.sleep(0.5)
    if scroll:
        meter.clear()
        for _ in range(150):
            transcript.scroll_page_up(animate=False)
            await asyncio.sleep(1 / UPDATES_PER_S)
            meter.cut()
        result |= describe(meter)
    return result


def describe(meter: Meter) -> dict[str, Any]:
    """Figures in milliseconds."""
    return {
        "updates": len(meter.updates),
        **{
            f"update_{name}_ms": round(1000 * percentile(meter.updates, share), 1)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
        },
        "stall_p99_ms": round(1000 * percentile(meter.stalls, 0.99), 1),
        "stall_max_ms": round(1000 * max(meter.stalls, default=0.0), 1),
    }


async def until(predicate: Any, patience_s: float = 200.0) -> None:
    """Wait until something is so; a look every few milliseconds costs next to nothing."""
    deadline = time.perf_counter() + patience_s
    while not predicate():
        if time.perf_counter() > deadline:
            raise TimeoutError("the scene did not come to its end")
        await asyncio.sleep(0.005)


COLUMNS = (
    ("scene", "scene"),
    ("tokens_per_s", "tok/s"),
    ("update_p50_ms", "update p50"),
    ("update_p95_ms", "p95"),
    ("update_max_ms", "max ms"),
    ("stall_max_ms", "longest stall ms"),
    ("settling_ms", "end ms"),
    ("open_ms", "open ms"),
    ("widgets", "widgets"),
    ("memory_mb", "memory MB"),
)


def print_result(results: Sequence[dict[str, Any]], rate: float) -> None:
    """The table, and the line of JSON."""
    print("| " + " | ".join(label for _, label in COLUMNS) + " |")
    print("|---" + "|---:" * (len(COLUMNS) - 1) + "|")
    for result in results:
        cells = [result.get(key) for key, _ in COLUMNS]
        print("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    print(f"\nan update fits when it stays below {BUDGET_MS:.0f} ms\n")
    about = {"benchmark": "streaming", "rate": rate, "size": SIZE, "machine": platform.machine()}
    print(json.dumps({**about, "cores": os.cpu_count(), "scenes": list(results)}))


def main() -> None:
    """Play every scene in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--only", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--scene", choices=SCENES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scene:
        print(json.dumps(asyncio.run(run_scene(arguments.scene, arguments.rate))))
        return
    results = []
    for scene in arguments.only:
        command = [sys.executable, __file__, "--scene", scene, "--rate", str(arguments.rate)]
        played = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(played.stdout.splitlines()[-1]))
    print_result(results, arguments.rate)


if __name__ == "__main__":
    main()
