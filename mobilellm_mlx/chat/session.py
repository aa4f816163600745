"""A conversation: what was said so far, and how to go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.events import Event, GenerationSummary, TextDelta
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions


class Session:
    """A conversation with one engine.

    Args:
        engine: answers; must outlive the session.
        instructions: the system prompt; None leaves the model's own default.
        overrides: fields of ``GenerationOptions`` that replace what the model's makers recommend.
    """

    def __init__(
        self,
        engine: ChatEngine,
        *,
        instructions: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ):
        self._engine = engine
        self.instructions = instructions
        self.overrides = dict(overrides or {})
        GenerationOptions().merged(self.overrides)  # an impossible value is said at once
        self.messages: list[Message] = []
        """Turns so far, the instructions not among them."""

    def send(self, text: str, cancel: threading.Event | None = None) -> Iterator[Event]:
        """Say something; gives the events of the answer and ends with a ``GenerationSummary``.

        Of an answer with reasoning only the answer stays: the templates of models that reason leave
        earlier reasoning out. A stopped answer stays in the conversation as far as it came. A turn
        that brought no answer at all, because it failed or was stopped before the first word of
        the answer, leaves no trace.
        """
        said = Message("user", text)
        system = [Message("system", self.instructions)] if self.instructions else []
        if self._engine.info is None:
            yield from self._engine.load()
        options = self._engine.defaults.merged(self.overrides)
        shown: list[str] = []
        ended = False
        try:
            for event in self._engine.chat([*system, *self.messages, said], options, cancel):
                if isinstance(event, TextDelta):
                    shown.append(event.text)
                elif isinstance(event, GenerationSummary):
                    ended = True
                    only_reasoned = bool(event.reasoning) and not event.text
                    if event.text or (event.status == "ok" and not only_reasoned):
                        self.messages += [said, Message("assistant", event.text)]
                yield event
        except GeneratorExit:  # the reader has left in the middle
            if shown and not ended:
                self.messages += [said, Message("assistant", "".join(shown))]
            raise

    def reset(self) -> None:
        """Forget the conversation; instructions and overrides stay."""
        self.messages.clear()
