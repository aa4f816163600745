"""The way back through what was sent."""

from __future__ import annotations

from collections.abc import Sequence


class History:
    """What was sent before, and the draft that waits at its end."""

    def __init__(self) -> None:
        self._typed: list[str] = []
        """What was sent since the start, as it was typed; stored is what became of it."""
        self._sent: list[str] = []
        self._at = 0
        self._draft = ""

    def load(self, prompts: Sequence[str], chat_prompts: Sequence[str] = ()) -> None:
        """Go back through these, too, behind what was sent since the start.

        ``chat_prompts`` are met first on the way back, then all other ``prompts``. Both are in the
        order in which they were sent.
        """
        walks = self._at < len(self._sent)  # a draft waits: it is one step away
        here, typed = set(chat_prompts), set(self._typed)
        self._sent = [text for text in prompts if text not in here | typed]
        self._sent += [text for text in chat_prompts if text not in typed]
        self._sent += self._typed
        self._at = len(self._sent) - (walks and bool(self._sent))
        self._draft = self._draft if walks else ""

    def add(self, text: str) -> None:
        """Remember ``text`` as the newest; sending the same again adds nothing."""
        if not self._typed or self._typed[-1] != text:
            self._typed.append(text)
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self._at = len(self._sent)
        self._draft = ""

    def older(self, current: str) -> str | None:
        """The text before; None at the oldest. ``current`` is kept when it is the draft."""
        if self._at == 0:
            return None
        if self._at == len(self._sent):
            self._draft = current
        self._at -= 1
        return self._sent[self._at]

    def newer(self) -> str | None:
        """The text after, in the end the draft; None when that is already shown."""
        if self._at >= len(self._sent):
            return None
        self._at += 1
        return self._draft if self._at == len(self._sent) else self._sent[self._at]
