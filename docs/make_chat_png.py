"""Makes ``chat.png``: the real interface with the real default model, drawn by Textual itself.

    pip install resvg-py && python docs/make_chat_png.py FONT_DIRECTORY

FONT_DIRECTORY holds DejaVu Sans Mono (Debian: fonts-dejavu-core), in which the terminal is drawn.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from mobilellm_mlx.cli.shared import resolve_model
from mobilellm_mlx.engine import Engine

QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers. Only the code.",
)
OVERRIDES = {"seed": 1, "max_tokens": 200}


async def draw(engine: Engine) -> str:
    """Ask the questions and take the picture, as SVG."""
    from tui.app import MobileLLMApp
    from tui.widgets.response import Response
    from tui.widgets.status import StatusLine

    app = MobileLLMApp(engine=engine, overrides=OVERRIDES, title="smollm2-135m")
    async with app.run_test(size=(100, 26)) as pilot:
        for asked, question in enumerate(QUESTIONS, 1):
            await pilot.press(*question, "enter")
            status = app.screen.query_one(StatusLine)
            while len(app.screen.query(Response)) < asked or status.state.phase != "idle":
                await asyncio.sleep(0.1)
        await pilot.pause(0.5)
        return app.export_screenshot(title="mobilellm")


def main() -> None:
    """Write the PNG beside this script."""
    import resvg_py

    with Engine(resolve_model(None)) as engine:
        svg = asyncio.run(draw(engine))
    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg).replace("Fira Code", "DejaVu Sans Mono")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=1400, font_dirs=[sys.argv[1]])
    (Path(__file__).parent / "chat.png").write_bytes(bytes(png))


if __name__ == "__main__":
    main()
