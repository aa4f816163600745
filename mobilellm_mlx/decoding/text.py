"""From a stream of ids to a stream of text that ends where it should, reasoning apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from mobilellm_mlx.loading import ReasoningMarkers
from mobilellm_mlx.tokenizer import Detokenizer, Tokenizer


class Piece(NamedTuple):
    """What one token adds to the answer and to the reasoning before it; often only to one."""

    text: str = ""
    reasoning: str = ""


def _without(text: str, seen: str) -> tuple[str, str]:
    """A text without the beginning that was seen before, and what of that is still to come."""
    common = min(len(text), len(seen))
    if text[:common] != seen[:common]:
        return text, ""
    return text[common:], seen[common:]


def _overlap(text: str, target: str) -> int:
    """Length of the longest end of ``text`` that begins ``target``, and is not all of it."""
    longest = min(len(target) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(target[:n])), 0)


class StopStrings:
    """Lets text through up to the first stop string.

    The tail that could still become one is held back, so no part of a stop string is ever shown.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = tuple(stops)
        self.held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The part of everything so far that is now safe to show and was not shown yet."""
        if self.found or not self._stops:
            return "" if self.found else text
        self.held += text
        hits = [at for stop in self._stops if (at := self.held.find(stop)) >= 0]
        if hits:
            self.found = True
            shown, self.held = self.held[: min(hits)], ""
            return shown
        keep = max(_overlap(self.held, stop) for stop in self._stops)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back in vain."""
        shown, self.held = self.held, ""
        return shown


class ReasoningSplitter:
    """Parts a text into the reasoning it begins with, between two markers, and the answer.

    A start marker counts at the very beginning only: further on, an answer talks about it. The
    markers belong to neither part, nor does white space right behind them. Text that could still
    become a marker is held back.

    Args:
        markers: what stands around reasoning; None lets every text through as answer.
        opened: whether the prompt has given the start marker already.
    """

    def __init__(self, markers: ReasoningMarkers | None, *, opened: bool = False):
        self._markers = markers
        self.expected: str | None = None
        """The marker that can come next."""
        if markers is not None:
            self.expected = markers.end if opened else markers.start
        self.held = ""
        self._trims = opened

    @property
    def inside(self) -> bool:
        """Whether what comes now is reasoning."""
        return self._markers is not None and self.expected == self._markers.end

    def add(self, text: str) -> Piece:
        """What is now sure to be answer or reasoning and was not given yet."""
        if self._markers is None or self.expected is None:
            return Piece(self._trim(text))
        self.held += text
        if self.inside:
            return self._add_reasoning(self._markers.end)
        begun = self.held.lstrip()
        if begun.startswith(self._markers.start):
            self.held = ""
            self.expected, self._trims = self._markers.end, True
            return self.add(begun.removeprefix(self._markers.start))
        if self._markers.start.startswith(begun):
            return Piece()
        self.expected = None
        return self.finish()

    def finish(self) -> Piece:
        """What was held back in vain."""
        rest, self.held = self.held, ""
        return Piece(reasoning=self._trim(rest)) if self.inside else Piece(self._trim(rest))

    def _add_reasoning(self, end: str) -> Piece:
        before, found, after = self.held.partition(end)
        if found:
            self.held = ""
            self.expected = None
            reasoning = self._trim(before)
            self._trims = True
            return Piece(self._trim(after), reasoning)
        cut = len(self.held) - _overlap(self.held, end)
        shown, self.held = self.held[:cut], self.held[cut:]
        return Piece(reasoning=self._trim(shown))

    def _trim(self, text: str) -> str:
        """Without the white space behind a marker, which may come in several pieces."""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return text


class TextStream:
    """Turns generated ids into text and notices the end.

    Args:
        tokenizer: says which bytes a token stands for.
        stop_tokens: ids that end the answer, also in the middle of reasoning.
        stops: strings that end the answer; reasoning may contain them.
        splitter: knows reasoning from answer; None takes everything for answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_tokens: Collection[int],
        stops: Sequence[str],
        splitter: ReasoningSplitter | None = None,
    ):
        self._detokenizer = Detokenizer(tokenizer)
        self._special = tokenizer.special
        self._stop_tokens = stop_tokens
        self._strings = StopStrings(stops)
        self._splitter = splitter or ReasoningSplitter(None)
        self._seen = Piece()
        """What was given out before, and is held back by a stream that goes on from there."""
        self._undecided = 0
        """Tokens of what the splitter holds back inside reasoning: its end marker, or not."""
        self.reasoning_tokens = 0
        """Tokens of reasoning so far, those of the markers not among them."""
        self.stopped = False
        """Whether the model or a stop string ended the answer."""

    @property
    def inside(self) -> bool:
        """Whether what comes now is reasoning, or its end marker."""
        return self._splitter.inside

    @property
    def reasons(self) -> bool:
        """Whether reasoning goes on, and no part of an end marker is there."""
        return self._splitter.inside and not self._splitter.held

    def resume(self, begun: Sequence[int]) -> None:
        """Go on where another stream was cut after these tokens: what it gave is not given again.

        What it held back it gave as the last thing. Should that now become part of a stop string or
        of a marker, it has been shown nevertheless.
        """
        for token in begun:
            self.add(token)
        rest = self._splitter.held
        text = self._strings.held
        self._seen = Piece(text, rest) if self.inside else Piece(text + rest)

    def add(self, token: int) -> Piece:
        """What to show for this token, possibly nothing."""
        if token in self._stop_tokens:
            self.stopped = True
            return self.finish()
        reasoned = self._splitter.inside
        piece = self._splitter.add(self._text_of(token))
        if reasoned or piece.reasoning:
            self._count(piece)
        shown = self._strings.add(piece.text)
        self.stopped = self._strings.found
        return self._unseen(Piece(shown, piece.reasoning))

    def finish(self, *, cut: bool = False) -> Piece:
        """What is still held back when no more tokens come.

        Args:
            cut: the answer is not over. A character that is not complete yet is left for whoever
                goes on with it.
        """
        last = Piece() if cut else self._splitter.add(self._detokenizer.finish())
        rest = self._splitter.finish()
        self.reasoning_tokens += self._undecided
        self._undecided = 0
        shown = self._strings.add(last.text + rest.text) + self._strings.finish()
        self.stopped = self.stopped or self._strings.found
        return self._unseen(Piece(shown, last.reasoning + rest.reasoning))

    def _unseen(self, piece: Piece) -> Piece:
        text, left = _without(piece.text, self._seen.text)
        reasoning, left_reasoning = _without(piece.reasoning, self._seen.reasoning)
        self._seen = Piece(left, left_reasoning)
        return Piece(text, reasoning)

    def _text_of(self, token: int) -> str:
        """A token's text; a special token that is the expected marker stands for its name."""
        marker = self._splitter.expected
        if marker is not None and self._special.get(marker) == token:
            return self._detokenizer.finish() + marker
        return self._detokenizer.add(token)

    def _count(self, piece: Piece) -> None:
        """Count a token that came inside reasoning, as soon as it is clear that it is no marker."""
        self._undecided += 1
        if piece.reasoning or self.reasons:
            self.reasoning_tokens += self._undecided
            self._undecided = 0
        elif not self._splitter.inside:
            self._undecided = 0  # all of them were the end marker


class Budget:
    """Ends reasoning after so many tokens by forcing its end marker, once.

    Args:
        limit: most tokens of reasoning; None is no limit.
        markers: of the model's reasoning, if it has any.
        tokenizer: gives the ids of the end marker.
    """

    def __init__(self, limit: int | None, markers: ReasoningMarkers | None, tokenizer: Tokenizer):
        self.forced: deque[int] = deque()
        """Ids that must come next."""
        self._limit = limit
        self._end: list[int] = []
        if limit is not None and markers is not None:
            self._end = marker_ids(markers.end, tokenizer)

    def watch(self, stream: TextStream) -> None:
        """Look after every token. An end marker that has begun by itself may come to its end."""
        spent = stream.reasoning_tokens - (self._limit or 0)
        # What looks like the beginning of a marker for longer than a marker is none.
        started = stream.reasons or (stream.inside and spent > len(self._end))
        if self._end and spent >= 0 and started:
            self.forced.extend(self._end)
            self._end = []


def marker_ids(marker: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a marker: the one of its sign, or those of its text."""
    sign = tokenizer.special.get(marker)
    return tokenizer.encode(marker) if sign is None else [sign]


def ends_with(prompt: Sequence[int], marker: str, tokenizer: Tokenizer) -> bool:
    """Whether a prompt ends with a marker, white space behind it aside."""
    sign, end = tokenizer.special.get(marker), b""
    for token in reversed(prompt):
        if token == sign:
            return not end.strip()
        text = tokenizer.token_bytes(token)
        end = text + end
        if not text or len(end.strip()) >= len(marker.encode()):
            break  # another sign, or enough to tell
    return end.rstrip().endswith(marker.encode())
