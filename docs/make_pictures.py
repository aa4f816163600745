"""Makes the pictures of the README: the real interface with the real model.

    pip install resvg-py && python docs/make_pictures.py FONT_DIRECTORY

FONT_DIRECTORY holds DejaVu Sans Mono (Debian: fonts-dejavu-core), in which the terminal is drawn.
The history is made on the spot and forgotten; what the model says is what it says. The training is
the run `tools` of whoever runs this (docs/training.md says how it is made); without it, its picture
stays as it is.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.cli.demo import Demo
from mobilellm_mlx.cli.shared import resolve_model
from mobilellm_mlx.cli.shelf import Shelf
from mobilellm_mlx.cli.workshop import Workshop
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.errors import TrainingError
from mobilellm_mlx.training.runs import Run

if TYPE_CHECKING:
    from tui.app import MobileLLMApp

CHATS = (
    ("Why is the sea salty? One sentence.",),
    ("Rewrite politely: send me the file now.",),
    ("A title for notes about the tides, please.",),
    (
        "What is the capital of France?",
        "Write a Python function that adds two numbers. Only the code.",
    ),
)
OVERRIDES = {"seed": 1, "max_tokens": 120}
RUN = "tools"
"""A training that is shown if it is here."""


async def draw(engine: Engine) -> dict[str, str]:
    """Hold the chats and take the pictures, as SVG by name."""
    from tui.app import MobileLLMApp
    from tui.house import House
    from tui.screens.approval import ApprovalScreen
    from tui.screens.demo import DemoScreen

    house = House(store=Store(), shelf=Shelf(), demo=lambda: Demo(engine), workshop=Workshop())
    app = MobileLLMApp(engine, house=house, overrides=OVERRIDES, title="smollm2-135m")
    pictures = {}
    async with app.run_test(size=(112, 32)) as pilot:

        async def until(found: Any) -> None:
            while not found():
                await asyncio.sleep(0.1)
            await pilot.pause(0.5)

        asked = 0
        for chat in CHATS:
            await pilot.press("ctrl+n")
            for question in chat:
                app.chat.prompt.insert(question)
                await pilot.press("enter")
                asked += 1
                await until(
                    lambda: len(house.store.prompts()) == asked and app.chat.is_free  # noqa: B023
                )
        pictures["chat"] = app.export_screenshot(title="mobilellm")
        await pilot.press("ctrl+r", *"sea")
        await until(lambda: "finds in" in str(app.export_screenshot()).replace("&#160;", " "))
        pictures["search"] = app.export_screenshot(title="mobilellm")
        await pilot.press("escape", "ctrl+l")
        await until(lambda: "of&#160;memory&#160;free" in app.export_screenshot())
        pictures["models"] = app.export_screenshot(title="mobilellm")
        await pilot.press("escape", *"/demo", "enter")
        await until(lambda: isinstance(app.screen, DemoScreen))
        demo = app.screen
        await pilot.press("a")

        def is_done() -> bool:
            if isinstance(app.screen, ApprovalScreen) and app.screen.focused is not None:
                pictures.setdefault("leave", app.export_screenshot(title="mobilellm"))
                app.screen.action_allow("once")
            return all(trial.stage == "over" for trial in demo.trials)

        await until(is_done)
        await pilot.press(*["up"] * 4)
        await pilot.pause(0.5)
        pictures["tools"] = app.export_screenshot(title="mobilellm")
        if is_trained():
            pictures["training"] = await draw_run(app, until)
    return pictures


def is_trained() -> bool:
    """Whether there is a finished run to show; says so if not."""
    try:
        state = Run.open(RUN).status().state
    except TrainingError:
        state = None
    if state != "finished":
        sys.stderr.write(f"training.png stays as it is: there is no finished run `{RUN}`\n")
    return state == "finished"


async def draw_run(app: MobileLLMApp, until: Callable[[Any], Awaitable[None]]) -> str:
    """The picture of the run, as SVG."""
    from tui.screens.training import RunScreen
    from tui.widgets.plot import Plot

    await until(lambda: app.trainings.get(RUN))
    app.chat.trains.open_run(RUN)
    await until(lambda: isinstance(app.screen, RunScreen))
    shown = app.screen
    await until(lambda: shown.story.summary and shown.query(Plot))
    return app.export_screenshot(title="mobilellm")


def main() -> None:
    """Write the PNGs beside this script."""
    import resvg_py

    with Engine(resolve_model(None)) as engine:
        pictures = asyncio.run(draw(engine))
    for name, svg in pictures.items():
        svg = re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "DejaVu Sans Mono")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=1400, font_dirs=[sys.argv[1]])
        (Path(__file__).parent / f"{name}.png").write_bytes(bytes(png))


if __name__ == "__main__":
    main()
