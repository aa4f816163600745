"""Perplexity: how well a model foresees a text, token by token.

A text is read in windows that overlap. A window judges the ``stride`` tokens behind the last one
and begins ``window - stride`` before them: every token but a text's first is judged once, by a
model that saw at least that many tokens before it, or all there are. A model that sees texts begin
with a token of its own gets it before every window, and then the first token is judged too.

What is judged together, and kept together, is a passage of the text (see ``corpora``). So results
of models with different tokenizers compare passage by passage, in bits per byte.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.errors import DataError, InvalidOption
from mobilellm_mlx.evals.choice.task import Judge
from mobilellm_mlx.evals.corpora import Corpus, Passage
from mobilellm_mlx.evals.task import Request, Response
from mobilellm_mlx.events import Event, Judged, Progress

if TYPE_CHECKING:
    from mobilellm_mlx.decoding.likelihood import Row
    from mobilellm_mlx.tokenizer import Tokenizer

VERSION = 1
"""Of how texts are cut and scored."""
WINDOW = 1024
"""Tokens of a window. Every model of the family has room for it, so that results compare; a longer
one makes a small model little better, and takes longer."""
MIN_WINDOW = 8
"""What every window begins with has to leave room."""
MIN_DOCUMENTS = 10
"""With fewer, standard errors are over passages."""
MIN_PASSAGES = 5
"""With fewer there are no standard errors."""
FEW = 32
"""Passages of which the tokens that were judged are told as well."""
UNITS = ("byte", "character", "token", "word")
"""What likelihoods are divided by. A word is what stands between white space."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How texts are cut into windows.

    Attributes:
        window: tokens that a window has at most.
        stride: tokens that each of them judges; the first of a text judges all it has.
    """

    window: int
    stride: int

    def __post_init__(self) -> None:
        if self.window < MIN_WINDOW:
            raise InvalidOption(f"`--window` is {self.window}, expected at least {MIN_WINDOW}")
        if not 0 < self.stride < self.window:
            raise InvalidOption(
                f"`--stride` is {self.stride}, expected 1 to {self.window - 1}: a window of "
                f"{self.window:,} tokens needs one to go on from"
            )

    def rows(self, prefix: Sequence[int], before: Sequence[int], new: Sequence[int]) -> list[Row]:
        """Windows that judge the tokens of a passage.

        Args:
            prefix: what every window begins with.
            before: the tokens before the passage; ``reach`` of them are looked at.
            new: its own.
        """
        from mobilellm_mlx.decoding.likelihood import Row  # and with it MLX

        rows, at = [], 0
        while at < len(new):
            # Never none of them: then the window's first token would have nothing before it.
            before = before[max(0, len(before) - self.reach(prefix)) :]
            part = new[at : at + self.window - len(prefix) - len(before)]
            known = [*prefix, *before]
            if judged := len(part) - (not known):
                rows.append(Row((*known, *part), judged))
            before = [*before, *part]
            at += len(part)
        return rows

    def reach(self, prefix: Sequence[int]) -> int:
        """Tokens before those that a window judges."""
        return max(self.window - self.stride - len(prefix), 0 if prefix else 1)


class PerplexityTask:
    """The passages of a corpus.

    Args:
        corpus: to judge.
        cut: its windows.
        tokenizer: of the model.
        max_tokens: what comes after so many is left out, the last passage being whole; None for
            all of it.
    """

    version = VERSION

    def __init__(
        self, corpus: Corpus, cut: Cut, tokenizer: Tokenizer, max_tokens: int | None = None
    ):
        self.name = f"ppl-{corpus.name}"
        self.data_sha256 = corpus.sha256
        self.settings: Mapping[str, Any] = {"window": cut.window, "stride": cut.stride}
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        """The first of the passages; nothing is drawn, and nothing but their names is held."""
        return [Request(one.id, None) for one in islice(self._passages(), limit)]

    def _passages(self) -> Iterator[Passage]:
        tokens = 0
        for passage in self._corpus.passages():
            yield passage
            if self._max_tokens is not None:
                tokens += len(self._tokenizer.encode(passage.text))
                if tokens >= self._max_tokens:
                    return

    def score(self, request: Request, response: Response) -> dict[str, float]:
        """Bits per byte, character, token and word of the passage."""
        bits = float(response.values["nats"]) / math.log(2)
        counts = self.weights(request, response)
        return {name: bits / count for name, count in counts.items()}

    def weights(self, request: Request, response: Response) -> dict[str, float]:
        """How much of the whole the passage is: with these the mean is that of the corpus."""
        values = response.values
        counts = {unit: float(values[f"{unit}s"]) for unit in UNITS} if values["tokens"] else {}
        return {f"bits_per_{unit}": count for unit, count in counts.items() if count}


@dataclass(slots=True)
class _Asked:
    """A passage that is being judged."""

    id: str
    rows: list[Row]
    sizes: dict[str, int]
    nats: list[float] = field(default_factory=list)

    def response(self) -> Response:
        tokens = sum(row.judged for row in self.rows)
        values = {"nats": math.fsum(self.nats), "tokens": tokens, "windows": len(self.rows)}
        return Response(self.id, {**values, **self.sizes})


class PerplexityAnswerer:
    """Has a model judge the passages of a corpus.

    Args:
        judge: of the engine that holds the model.
        tokenizer: of the model.
        corpus: that the requests are of.
        cut: its windows.
        cancel: stops it after the present batch.
        at_once: tokens of windows that are handed to ``judge`` together; what is not whole when it
            is stopped is asked again.
    """

    def __init__(
        self,
        judge: Judge,
        tokenizer: Tokenizer,
        corpus: Corpus,
        cut: Cut,
        cancel: threading.Event,
        at_once: int = 8192,
    ):
        self._judge = judge
        self._tokenizer = tokenizer
        self._corpus = corpus
        self._cut = cut
        self._cancel = cancel
        self._at_once = at_once
        self._done = self._total = 0
        # SentencePiece puts a space before every text, also before what goes on from another.
        self._adds_space = b"".join(map(tokenizer.token_bytes, tokenizer.encode("a"))) == b" a"

    def __call__(self, requests: Sequence[Request]) -> Iterator[Event | Response]:
        batch: list[_Asked] = []
        tokens = 0
        passages = self._asked({request.id for request in requests})
        if len(requests) <= FEW:
            passages = self._counted(list(passages))
        for asked in passages:
            batch.append(asked)
            tokens += sum(len(row.tokens) for row in asked.rows)
            if tokens >= self._at_once:
                yield from self._judged(batch)
                batch, tokens = [], 0
            if self._cancel.is_set():
                return
        yield from self._judged(batch)

    def _counted(self, passages: Sequence[_Asked]) -> Iterator[_Asked]:
        """Passages of which each takes its time: tokens are counted as well."""
        self._done, self._total = 0, sum(row.judged for one in passages for row in one.rows)
        yield from passages

    def _asked(self, open_: set[str]) -> Iterator[_Asked]:
        """The open passages as rows. Of those that are not, no more is read than others need."""
        left, document = len(open_), -1
        before: list[int] = []
        skipped: deque[Passage] = deque(maxlen=self._cut.window)  # each has a token or more
        for passage in self._corpus.passages():
            if passage.document != document:
                document, before = passage.document, []
                skipped.clear()
            if passage.id not in open_:
                skipped.append(passage)
                continue
            if skipped:
                before = self._tail(before, skipped)
            new = self._encode(passage)
            rows = self._cut.rows(self._tokenizer.prefix, before, new)
            yield _Asked(passage.id, rows, self._sizes(passage, new))
            before = [*before, *new][-self._cut.window :]
            left -= 1
            if not left:
                return
        raise DataError(f"`{self._corpus.name}` changed while it was read", "start again")

    def _tail(self, before: list[int], skipped: deque[Passage]) -> list[int]:
        """The last tokens of passages that nobody asks about."""
        found: list[int] = []
        while skipped and len(found) < self._cut.window:
            found = [*self._encode(skipped.pop()), *found]
        skipped.clear()
        return [*before, *found][-self._cut.window :]

    def _encode(self, passage: Passage) -> list[int]:
        text = passage.text
        return self._tokenizer.encode(
            text.removeprefix(" ") if self._adds_space and passage.number else text
        )

    def _sizes(self, passage: Passage, tokens: Sequence[int]) -> dict[str, int]:
        """How much text is judged: the first token of a document may not be."""
        data = passage.text.encode()
        if not passage.number and not self._tokenizer.prefix:
            first = self._tokenizer.token_bytes(tokens[0]) if tokens else b""
            data = data[len(first) - (self._adds_space and data[:1] != b" ") :]
        return {
            "bytes": len(data),
            "characters": sum(byte & 0xC0 != 0x80 for byte in data),
            "words": len(passage.text.split()),
        }

    def _judged(self, batch: Sequence[_Asked]) -> Iterator[Event | Response]:
        owners = [asked for asked in batch for _ in asked.rows]
        for asked in batch:
            if not asked.rows:
                yield asked.response()  # a document of a single token
        groups = [[row] for asked in batch for row in asked.rows]
        for event in self._judge(groups, self._cancel) if groups else ():
            if not isinstance(event, Judged):
                yield event
                continue
            asked = owners[event.group]
            asked.nats.append(-event.log_likelihoods[0])
            if self._total:
                self._done += event.tokens[0]
                name = f"ppl-{self._corpus.name}"
                yield Progress(name, self._done, self._total, "tokens")
            if len(asked.nats) == len(asked.rows):
                yield asked.response()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of all passages together and its standard error, where that is known."""

    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a corpus; what is NaN or infinite is counted and in no figure.

    Attributes:
        perplexity: per token; tokenizers do not compare.
        word_perplexity: per word between white space.
        bits_per_byte: of UTF-8; None, as the others, where nothing was judged.
        bits_per_character: of Unicode.
        tokens: that were judged.
        bytes: of the text they stand for.
        characters: likewise.
        words: likewise.
        documents: that have a figure.
        passages: likewise.
        nonfinite: passages that have none.
        errors_over: what standard errors are taken over, ``documents`` or ``passages``.
    """

    perplexity: Figure | None
    word_perplexity: Figure | None
    bits_per_byte: Figure | None
    bits_per_character: Figure | None
    tokens: int
    bytes: int
    characters: int
    words: int
    documents: int
    passages: int
    nonfinite: int
    errors_over: str


def figures(responses: Iterable[Response]) -> Figures:
    """The figures of a corpus: of sums, not means of means."""
    whole, lost = [], 0
    for one in responses:
        if math.isfinite(one.values["nats"]):
            whole.append(one)
        else:
            lost += 1
    by_document: dict[str, list[Response]] = {}
    for one in whole:
        by_document.setdefault(one.id.partition(".")[0], []).append(one)
    is_many = len(by_document) >= MIN_DOCUMENTS
    parts = list(by_document.values()) if is_many else [[one] for one in whole]
    nats = _sums(parts, "nats")
    counts = {unit: _sums(parts, f"{unit}s") for unit in UNITS}
    per = {unit: _ratio(nats, counts[unit]) for unit in UNITS}
    return Figures(
        _exp(per["token"]),
        _exp(per["word"]),
        _bits(per["byte"]),
        _bits(per["character"]),
        tokens=round(sum(counts["token"])),
        bytes=round(sum(counts["byte"])),
        characters=round(sum(counts["character"])),
        words=round(sum(counts["word"])),
        documents=len(by_document),
        passages=len(whole),
        nonfinite=lost,
        errors_over="documents" if is_many else "passages",
    )


def _sums(parts: Iterable[Iterable[Response]], name: str) -> list[float]:
    """Of each part; what nothing was judged of counts nothing."""
    return [math.fsum(one.values[name] for one in part if one.values["tokens"]) for part in parts]


def _ratio(above: Sequence[float], below: Sequence[float]) -> Figure | None:
    """A ratio of sums; its error is that of the residuals, to first order."""
    total = math.fsum(below)
    if not total:
        return None
    value = math.fsum(above) / total
    square = math.fsum((one - value * other) ** 2 for one, other in zip(above, below, strict=True))
    return Figure(value, math.sqrt(square) / total if len(above) >= MIN_PASSAGES else None)


def _exp(figure: Figure | None) -> Figure | None:
    if figure is None:
        return None
    value = math.exp(min(figure.value, 700.0))  # what a hopeless model has is still a number
    return Figure(value, None if figure.stderr is None else value * figure.stderr)


def _bits(figure: Figure | None) -> Figure | None:
    if figure is None:
        return None
    error = None if figure.stderr is None else figure.stderr / math.log(2)
    return Figure(figure.value / math.log(2), error)
