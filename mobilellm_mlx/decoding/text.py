"""From a stream of ids to a stream of text that ends where it should."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mobilellm_mlx.tokenizer import Detokenizer, Tokenizer


class StopStrings:
    """Lets text through up to the first stop string.

    The tail that could still become one is held back, so no part of a stop string is ever shown.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The part of everything so far that is now safe to show and was not shown yet."""
        if self.found or not self._stops:
            return "" if self.found else text
        self._held += text
        hits = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            self.found = True
            shown, self._held = self._held[: min(hits)], ""
            return shown
        keep = max(self._overlap(stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back in vain."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class TextStream:
    """Turns generated ids into text and notices the end.

    Args:
        tokenizer: says which bytes a token stands for.
        stop_tokens: ids that end the answer.
        stops: strings that end the answer.
    """

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Collection[int], stops: Sequence[str]):
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_tokens = stop_tokens
        self._strings = StopStrings(stops)
        self.stopped = False
        """Whether the model or a stop string ended the answer."""

    def add(self, token: int) -> str:
        """Text to show for this token, possibly none."""
        if token in self._stop_tokens:
            self.stopped = True
            return self.finish()
        text = self._strings.add(self._detokenizer.add(token))
        self.stopped = self._strings.found
        return text

    def finish(self) -> str:
        """What is still held back when no more tokens come."""
        return self._strings.add(self._detokenizer.finish()) + self._strings.finish()
