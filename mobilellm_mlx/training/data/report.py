"""What a data set is like, and what somebody should know before it is trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.data.splitting import fingerprint, normalised

if TYPE_CHECKING:
    from mobilellm_mlx.training.data.loading import Pile

_BARS = 10
_MANY = 0.1
"""Share of examples from which on something that they have in common is worth a word."""
_RARE = 0.01
"""Share of examples below which it does not matter that they are cut."""
_FEW = 50
_ALIKE = 3
"""Answers that are the same, at least, before that is worth a word."""
_SHOWN_PLACES = 5
_KEPT_ANSWERS = 60
_REFUSAL = re.compile(
    r"(?:i(?:'m| am) sorry|sorry,|i (?:can(?:no|')t|cannot|am unable|am not able)"
    r"|unfortunately, i|as an ai)\b",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Notes:
    """What is noticed while a file is read."""

    left_out: list[str] = field(default_factory=list)
    """Places of examples without an answer."""
    lost: list[str] = field(default_factory=list)
    """Places of examples that were cut before what is learned begins."""
    lost_lengths: list[int] = field(default_factory=list)
    broken: int = 0
    """Lines that could not be used."""
    divided: int = 0
    """Conversations that became one example for each answer."""
    changed: int = 0
    """Examples in which the template does not show an answer as the data has it."""
    refusals: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    heard: dict[int, str] = field(default_factory=dict)
    """How the commonest answers begin."""

    def leave_out(self, source: str) -> None:
        """An example says nothing."""
        self.left_out.append(source)

    def lose(self, example: Example) -> None:
        """Nothing of an example is learned."""
        self.lost.append(example.source)
        self.lost_lengths.append(len(example) + example.cut)

    def answer(self, text: str) -> None:
        """What an example answers."""
        self.refusals += bool(_REFUSAL.match(text.lstrip()[:200].replace("\u2019", "'")))
        mark = fingerprint(normalised(text))
        self.answers[mark] += 1
        if self.answers[mark] == 2:  # one that is there once needs no showing
            words = " ".join(text.split())
            short = words[:_KEPT_ANSWERS].rstrip() + "\u2026"
            self.heard[mark] = words if len(words) <= _KEPT_ANSWERS else short


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One of ``train``, ``valid`` and ``test``."""

    examples: int
    tokens: int
    """After cutting."""
    learned: int
    """Of those, how many count."""
    longest: int
    """Before cutting, as the next two."""
    median: int
    cut: int
    """Examples that were."""
    tokens_lost: int
    left_out: int
    """Lines without an answer."""
    unlearnable: int
    """Examples that were cut before what is learned begins."""
    duplicates: int
    """Examples that were there before, word for word."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """What the doctor found.

    Attributes:
        splits: by name.
        histogram: lengths in tokens before cutting: from, to (not in it), examples.
        max_tokens: longest that is allowed.
        leaks: examples of ``valid`` and ``test`` whose prompt is in ``train`` too, written alike
            but for case and white space.
        warnings: what is likely to spoil a training.
        notes: what is good to know.
    """

    splits: dict[str, SplitReport]
    histogram: list[tuple[int, int, int]]
    max_tokens: int
    leaks: dict[str, int]
    warnings: list[str]
    notes: list[str]

    @property
    def cut(self) -> int:
        """Examples that were cut, in all splits."""
        return sum(split.cut for split in self.splits.values())

    @property
    def cut_share(self) -> float:
        """The same as a share."""
        return self.cut / max(1, sum(split.examples for split in self.splits.values()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can say it."""
        return asdict(self)


def make_report(piles: Mapping[str, Pile], config: TrainConfig, context: int) -> DataReport:
    """Look at everything that was read.

    Args:
        piles: examples by split, with what was noticed while they were read.
        config: that they were read with.
        context: longest example that the model can take.
    """
    limit = min(config.max_tokens, context)
    lengths = {split: sorted(_lengths(pile)) for split, pile in piles.items()}
    every = sorted(length for each in lengths.values() for length in each)
    splits = {split: _split(pile, lengths[split]) for split, pile in piles.items()}
    known = {kept.prompt for kept in piles["train"].kept}
    leaks = {
        split: sum(kept.prompt in known for kept in pile.kept)
        for split, pile in piles.items()
        if split != "train"
    }
    return DataReport(
        splits,
        _histogram(every),
        limit,
        leaks,
        _warnings(piles, splits, leaks, every, limit, context),
        _notes(piles, config),
    )


def _lengths(pile: Pile) -> list[int]:
    kept = (len(each.example) + each.example.cut for each in pile.kept)
    return [*kept, *pile.notes.lost_lengths]


def _split(pile: Pile, lengths: Sequence[int]) -> SplitReport:
    examples = [kept.example for kept in pile.kept]
    return SplitReport(
        examples=len(examples),
        tokens=sum(map(len, examples)),
        learned=sum(example.learned_count for example in examples),
        longest=lengths[-1] if lengths else 0,
        median=lengths[len(lengths) // 2] if lengths else 0,
        cut=sum(example.cut > 0 for example in examples),
        tokens_lost=sum(example.cut for example in examples),
        left_out=len(pile.notes.left_out),
        unlearnable=len(pile.notes.lost),
        duplicates=len(pile.kept) - len({kept.whole for kept in pile.kept}),
    )


def _histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Ten bars up to the length that 99 % keep to, and one for all the longer ones."""
    if not lengths:
        return []
    usual = lengths[min(len(lengths) - 1, ceil(0.99 * len(lengths)) - 1)]
    width = _round_up(max(1, ceil((usual + 1) / _BARS)))
    counts = Counter(min(length // width, _BARS) for length in lengths)
    bars = [(at * width, (at + 1) * width, counts[at]) for at in range(min(_BARS, max(counts) + 1))]
    if counts[_BARS]:
        bars.append((_BARS * width, lengths[-1] + 1, counts[_BARS]))
    return bars


def _round_up(width: int) -> int:
    """To a number that is easy to read: 8, 10, 16, 20, 25, 32, 50, 64 and their like."""
    scale = 1
    while True:
        for nice in (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 64, 80):
            if nice * scale >= width:
                return nice * scale
        scale *= 10


def suggested_max_tokens(lengths: Sequence[int]) -> int:
    """The least multiple of 64 that cuts fewer than 1 % of examples.

    Args:
        lengths: in tokens, in order.
    """
    at = min(len(lengths) - 1, int(0.99 * len(lengths)))
    return ceil(lengths[at] / 64) * 64


def _warnings(
    piles: Mapping[str, Pile],
    splits: Mapping[str, SplitReport],
    leaks: Mapping[str, int],
    lengths: Sequence[int],
    limit: int,
    context: int,
) -> list[str]:
    said = [*_about_length(splits, lengths, limit, context), *_about_lines(piles)]
    changed = sum(pile.notes.changed for pile in piles.values())
    if changed:
        said.append(
            f"the chat template changes what {changed:,} of the examples answer (it may leave "
            "reasoning out); what it makes of it is learned"
        )
    twice = sum(split.duplicates for split in splits.values())
    if twice:
        said.append(f"{_examples(twice)} there more than once, word for word")
    for split, count in leaks.items():
        if count:
            said.append(
                f"{count:,} of the {splits[split].examples:,} prompts in {split} are in train too: "
                f"its loss will look better than it is"
            )
    said += _about_answers(piles)
    count = splits["train"].examples
    if count < _FEW:
        said.append(
            f"{_examples(count)} few to train on; a model learns them by heart "
            f"({_FEW} are little, some hundreds begin to be enough)"
        )
    return said


def _about_length(
    splits: Mapping[str, SplitReport], lengths: Sequence[int], limit: int, context: int
) -> Iterable[str]:
    cut = sum(split.cut + split.unlearnable for split in splits.values())
    if not cut:
        return
    share = cut / len(lengths)
    lost = sum(split.tokens_lost for split in splits.values())
    text = (
        f"{_examples(cut)} longer than {limit:,} tokens and cut ({share:.1%}); "
        f"{lost:,} {'token is' if lost == 1 else 'tokens are'} lost"
    )
    better = suggested_max_tokens(lengths)
    if limit >= context:
        yield f"{text}. That is the model's context: it reads no longer ones"
    elif share < _RARE:
        yield text
    elif better > context:
        yield f"{text}. `--max-tokens {context}` is the most: the model's context"
    else:
        yield f"{text}. `--max-tokens {better}` would cut fewer than 1 %"


def _about_lines(piles: Mapping[str, Pile]) -> Iterable[str]:
    """Lines of which nothing is learned."""
    empty = [place for pile in piles.values() for place in pile.notes.left_out]
    if empty:
        yield f"{_examples(len(empty))} without an answer and left out: {_places(empty)}"
    lost = [place for pile in piles.values() for place in pile.notes.lost]
    if lost:
        yield f"{_examples(len(lost))} cut before the answer begins and left out: {_places(lost)}"


def _about_answers(piles: Mapping[str, Pile]) -> Iterable[str]:
    """Answers that are all alike."""
    counted: Counter[int] = Counter()
    heard: dict[int, str] = {}
    for pile in piles.values():
        counted.update(pile.notes.answers)
        heard |= pile.notes.heard
    total = counted.total()
    if total < _BARS:
        return
    mark, count = counted.most_common(1)[0]
    # One that is in every file only once was not kept: nothing to show, and nothing to worry about.
    if count >= max(_MANY * total, _ALIKE) and heard.get(mark):
        yield f"{count / total:.0%} of the answers are the same: \u201c{heard[mark]}\u201d"
    refusals = sum(pile.notes.refusals for pile in piles.values())
    if refusals >= _MANY * total:
        yield (
            f"{refusals / total:.0%} of the answers refuse or are sorry; the model will learn to "
            "as well"
        )


def _notes(piles: Mapping[str, Pile], config: TrainConfig) -> list[str]:
    said = []
    divided = sum(pile.notes.divided for pile in piles.values())
    if divided:
        said.append(
            f"{divided:,} {'conversation' if divided == 1 else 'conversations'} became one example "
            "for each answer: the chat template "
            "shows earlier answers differently from the last one"
        )
    return said


def _examples(count: int) -> str:
    return "1 example is" if count == 1 else f"{count:,} examples are"


def _places(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_SHOWN_PLACES])
    rest = len(places) - _SHOWN_PLACES
    return f"{shown} and {rest:,} more" if rest > 0 else shown
