"""The terminal interface: a face for a ``ChatEngine``, nothing more.

Importing this package is cheap: Textual is loaded by ``run_chat``. Nothing in here knows MLX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm_mlx.engine import ChatEngine

    from .app import MobileLLMApp
    from .house import House

__all__ = ["DEMO_TASKS", "make_house", "run_chat", "run_demo"]

DEMO_TASKS = (
    "What is 17% of 240?",
    "What time is it in Tokyo?",
    "Convert 5 miles to kilometres",
    "Take a note: buy oat milk",
    "Set a timer for 10 minutes called pasta",
    "Find my note about milk",
    "How full is my disk?",
    "Write a line about the sea",
)
"""What the demo of the tools asks for; the last one needs none."""


def make_house(**parts: Any) -> House:
    """What the interface is handed besides an engine: see ``House`` for the parts."""
    from .house import House

    return House(**parts)


def run_chat(
    engine: ChatEngine,
    *,
    house: House | None = None,
    instructions: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    title: str = "",
) -> None:
    """Chat in the terminal until the person leaves.

    The interface comes up first and the model is loaded behind it. The caller closes the engine
    and what is in the house.

    Args:
        engine: answers; need not be loaded.
        house: where chats and settings are kept, and where models come from; None keeps nothing.
        instructions: the system prompt; None leaves it to the settings.
        overrides: fields of ``GenerationOptions`` that replace the model's recommended ones.
        title: what to call the model until it is loaded and says its own name.

    Raises:
        InvalidOption: for an impossible override, before anything is drawn.
        MobileLLMError: after leaving, when the model could not be loaded at all.
        Exception: after leaving, the last unexpected failure that was shown as an internal error,
            so that a traceback is to be had with ``--debug``.
        SystemExit: when the interface itself failed; Textual has then printed why.
    """
    from .app import MobileLLMApp

    app = MobileLLMApp(
        engine, house=house, instructions=instructions, overrides=overrides, title=title
    )
    _run(app)


def run_demo(engine: ChatEngine, *, house: House, title: str = "") -> None:
    """Show what tools can do, until the person leaves.

    Args:
        engine: answers; need not be loaded.
        house: makes the place for it; see ``House.demo``.
        title: what to call the model until it is loaded and says its own name.

    Raises:
        MobileLLMError: as ``run_chat`` does.
        Exception: as ``run_chat`` does.
        SystemExit: as ``run_chat`` does.
    """
    from .app import MobileLLMApp

    _run(MobileLLMApp(engine, house=house, title=title, is_demo=True))


def _run(app: MobileLLMApp) -> None:
    app.run()
    if app.board is not None:
        app.board.close(timeout_s=1.0)
    if app.bridge.close(timeout_s=1.0) and (job := app.bridge.session.keep_cache()):
        for _ in job:  # the next time, this chat goes on at once
            pass
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        raise SystemExit(app.return_code)
