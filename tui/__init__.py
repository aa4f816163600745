"""The terminal interface: a face for a ``ChatEngine``, nothing more.

Importing this package is cheap: Textual is loaded by ``run_chat``. Nothing in here knows MLX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm_mlx.engine import ChatEngine

__all__ = ["run_chat"]


def run_chat(
    engine: ChatEngine,
    *,
    instructions: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    title: str = "",
) -> None:
    """Chat in the terminal until the person leaves.

    The interface comes up first and the model is loaded behind it. The caller closes the engine.

    Args:
        engine: answers; need not be loaded.
        instructions: the system prompt; None leaves the model's own default.
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

    app = MobileLLMApp(engine=engine, instructions=instructions, overrides=overrides, title=title)
    app.run()
    app.bridge.close(timeout_s=1.0)
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        raise SystemExit(app.return_code)
