"""Text with marked places to token ids, so that no token is half learned."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from mobilellm_mlx.tokenizer import Tokenizer

Span = tuple[int, int]
"""Where something learned begins and ends, in characters."""

_KEPT_PIECES = 2_048
_LONGEST_KEPT = 4_000
"""Pieces of text that stand in many examples, such as a system prompt, are encoded once."""


_MOST_HEADS = 64
"""Edges in one text for which it is encoded up to each of them; the cost is the square of it."""


class Encoder:
    """Encodes what a template rendered, or plain text, and carries the spans over to the tokens.

    The ids are those of ``Tokenizer.encode_template``, but for one thing: where a token would
    reach over the edge of a span, the text is cut there. That is how it is when the model answers:
    the prompt ends there, whatever follows.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        names = sorted((name for name in tokenizer.special if len(name) > 1), key=len, reverse=True)
        self._names = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        self._kept = lru_cache(_KEPT_PIECES)(self._encode_now)

    def encode(
        self, text: str, spans: Sequence[Span], marker: str = "", *, signs: bool = True
    ) -> tuple[array[int], bytearray]:
        """Token ids, and for each whether it is in a span.

        Args:
            text: what to encode.
            spans: in order, without overlap.
            marker: stands in names that are only talked about; see ``Tokenizer.guard``.
            signs: whether names of special tokens are meant.
        """
        tokens, learned = array("i"), bytearray()
        parts = self._names.split(text) if signs and self._names else [text]
        at = 0
        for part in parts:
            end = at + len(part)
            if signs and part in self._tokenizer.special and len(part) > 1:
                tokens.append(self._tokenizer.special[part])
                learned.append(any(start <= at < stop for start, stop in spans))
            elif part:
                edges = [e - at for span in spans for e in span if at < e < end]
                pieces = [part[a:b] for a, b in pairwise([0, *edges, len(part)])]
                starts = [at, *(edge + at for edge in edges)]
                flags = [any(a <= place < b for a, b in spans) for place in starts]
                for ids, flag in self._pieces(pieces, flags, marker):
                    tokens.extend(ids)
                    learned.extend((flag,) * len(ids))
            at = end
        return tokens, learned

    def _pieces(
        self, pieces: Sequence[str], flags: Sequence[bool], marker: str
    ) -> Iterator[tuple[Sequence[int], bool]]:
        """The ids of pieces that stand side by side, those of each with its flag."""
        if marker:
            pieces = [piece.replace(marker, "") for piece in pieces]
        if len(pieces) == 1:
            yield self._ids(pieces[0]), flags[0]
            return
        whole = self._ids("".join(pieces))
        if len(pieces) > _MOST_HEADS:
            yield from self._apart(pieces, flags, whole)
            return
        ends, head = [0], ""
        for piece in pieces[:-1]:
            head += piece
            ids = self._ids(head)
            if whole[: len(ids)] != ids:
                yield from self._apart(pieces, flags, whole)
                return
            ends.append(len(ids))
        for (start, end), flag in zip(pairwise([*ends, len(whole)]), flags, strict=True):
            yield whole[start:end], flag

    def _apart(
        self, pieces: Sequence[str], flags: Sequence[bool], whole: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], bool]]:
        """The same where tokens of the whole reach over an edge."""
        apart = [self._ids(piece) for piece in pieces]
        if all(self._length(ids) == len(piece.encode()) for ids, piece in zip(apart, pieces)):  # noqa: B905
            yield from zip(apart, flags, strict=True)
            return
        # Sentencepiece puts a space before every text, so its pieces cannot be put together. A
        # token counts as learned when any byte of it is.
        extra = self._length(whole) - len("".join(pieces).encode())
        spans, at = [], extra
        for piece, flag in zip(pieces, flags, strict=True):
            spans.append((at, at + len(piece.encode()), flag))
            at = spans[-1][1]
        at = 0
        for token in whole:
            end = at + len(self._tokenizer.token_bytes(token))
            yield (token,), any(flag and at < stop and end > start for start, stop, flag in spans)
            at = end

    def _length(self, ids: Sequence[int]) -> int:
        return sum(len(self._tokenizer.token_bytes(token)) for token in ids)

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._kept(text) if len(text) <= _LONGEST_KEPT else self._encode_now(text)

    def _encode_now(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text)) if text else ()
