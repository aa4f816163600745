"""Several tokens in one pass: guesses from what was said before, checked by the network.

Who quotes, summarises or rewrites says much that stands in the prompt already. So the last few
tokens are looked up in the prompt and the answer, what followed them there is taken for a guess,
and one pass over the known token and the guessed ones gives the logits behind each of them.

The sampler then chooses from these logits in turn, exactly as it does without guesses: one draw of
its random state a token, the repetition penalty over what was chosen so far. As long as it chooses
what was guessed, the next logits are the right ones too; at the first other choice the rest is
thrown away. That is rejection sampling for a guess that is certain: it is taken with the
probability that the network gives it, and otherwise what comes is drawn from the others. Tokens are
therefore the very ones that ``iter_tokens`` gives, but for the rounding of logits, which depends on
how many tokens are in a pass.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding.sampling import Sampler
from mobilellm_mlx.decoding.step import Recent
from mobilellm_mlx.models import Cache, LanguageModel
from mobilellm_mlx.options import GenerationOptions

MATCHED = (4, 2)
"""Tokens that have to agree with an earlier place; the longest match counts."""
LENGTHS = (2, 3, 4, 8, 16)
"""Tokens that a pass with guesses may have, the known one among them."""


class Lookup:
    """Guesses what follows from where the last tokens stood before.

    Args:
        tokens: what was read and said so far.
    """

    def __init__(self, tokens: Sequence[int]):
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        """Where it goes on behind the last occurrence of a few tokens."""
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token was said."""
        place = len(self._tokens)
        for count in MATCHED:
            if place >= count:
                self._next[tuple(self._tokens[-count:])] = place
        self._tokens.append(token)

    def guess(self, count: int) -> list[int]:
        """The next ``count`` tokens; none when the last ones were never seen before."""
        for matched in MATCHED:
            place = self._next.get(tuple(self._tokens[-matched:]))
            if place is not None:
                guessed = self._tokens[place : place + count]
                while len(guessed) < count:  # what repeats itself goes on repeating itself
                    guessed += guessed[: count - len(guessed)] or [self._tokens[-1]]
                return guessed
        return []


class Pace:
    """What passes cost on this machine, and so how many guesses pay.

    Some machines read four tokens in the time of one, others need four times as long. Nothing is
    known beforehand: passes are timed as they come. What guessing may cost an answer is bounded by
    an account in tokens: it begins with ``CREDIT``, plain tokens add ``SHARE`` of themselves, and a
    pass that could overdraw it is not made.
    """

    CREDIT = 2.0
    SHARE = 0.02
    KNOWN = 2
    """Passes of a length that are timed before its cost counts as known."""
    STALE = 64
    """Plain tokens after which the oldest time of each length is forgotten: load comes and goes."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {n: deque(maxlen=8) for n in (1, *LENGTHS)}
        self._credit = self.CREDIT
        self._plain = 0

    def begin(self) -> None:
        """Another answer: what was gained with the last one is not gambled away with it."""
        self._credit = self.CREDIT

    def choose(self, rate: float, most: int) -> int:
        """How many tokens the next pass should have for the most tokens a second.

        Args:
            rate: how probable it is that a guess is right when those before it were.
            most: not more than this many.
        """
        if len(self._seconds[1]) < self.KNOWN:
            return 1
        best, most_a_second = 1, 1.0
        known, cost = 1, 1.0
        for length in LENGTHS:
            if length > most:
                break
            likely, dearest = self._cost(length, known, cost)
            gives = (1 - rate**length) / (1 - rate)  # tokens: the sum of 1, rate, rate^2, ...
            if gives / likely > most_a_second and dearest - 1 <= self._credit:
                best, most_a_second = length, gives / likely
            if self._is_known(length):
                known, cost = length, likely
        return best

    def note(self, length: int, given: int, seconds: float) -> None:
        """A pass over ``length`` tokens gave this many after so long."""
        self._seconds[length].append(seconds)
        if length == 1:
            self._credit += self.SHARE
            self._plain += 1
            if self._plain % self.STALE == 0:
                for count in LENGTHS:
                    if self._seconds[count]:
                        self._seconds[count].popleft()
        else:
            self._credit += given - seconds / median(self._seconds[1])

    def _is_known(self, length: int) -> bool:
        return len(self._seconds[length]) >= self.KNOWN

    def _cost(self, length: int, known: int, cost: float) -> tuple[float, float]:
        """What a pass costs in plain tokens: probably, and at the very most.

        Args:
            length: of the pass.
            known: the next smaller length whose cost is known,
            cost: and what that is.
        """
        if self._is_known(length):
            measured = median(self._seconds[length]) / median(self._seconds[1])
            return measured, measured
        more = length / known
        return cost * more**0.5, cost * more


class Guessing:
    """How good guesses are of late, and how many were made and taken."""

    FADES = 0.8
    """What an older guess counts for beside the one after it."""

    def __init__(self) -> None:
        self.drafted = 0
        self.accepted = 0
        self._right, self._all = 1.0, 2.5

    @property
    def rate(self) -> float:
        """The probability that a guess is right when those before it were."""
        return min(self._right / self._all, 0.98)

    def judge(self, guessed: Sequence[int], given: Sequence[int]) -> None:
        """Compare guesses, tried or not, with the tokens that came."""
        for guess, token in zip(guessed, given, strict=False):
            self._right = self._right * self.FADES + (guess == token)
            self._all = self._all * self.FADES + 1
            if guess != token:
                break  # what was guessed behind it was for another answer


def iter_speculated(
    model: LanguageModel,
    caches: Sequence[Cache],
    last: Sequence[int],
    sampler: Sampler,
    count: int,
    *,
    read: Sequence[int],
    pace: Pace,
    guessing: Guessing,
    options: GenerationOptions | None = None,
    begun: Sequence[int] = (),
) -> Iterator[int]:
    """``count`` ids, the same as from ``iter_tokens``, sooner where guesses turn out right.

    When the reader stops early, the caches may hold tokens that it was not given: up to a pass of
    them. Nothing is computed ahead.

    Args:
        model: the network.
        caches: hold everything before ``last``; updated in place.
        last: the end of the prompt, at least one token and at most a chunk.
        sampler: logits (V,) to token.
        count: how many ids to generate.
        read: the whole prompt, in which guesses are looked for.
        pace: what passes cost; better used again and again.
        guessing: of this answer.
        options: for the repetition penalty only, which looks at the generated ids.
        begun: the end of ``last`` and of what was fed before that counts as generated.
    """
    recent = Recent(options or GenerationOptions(), begun)

    def choose(logits: mx.array) -> int:
        chosen = sampler(recent.penalize(logits))
        recent.add(chosen)
        return int(chosen.item())  # type: ignore[arg-type]

    token = choose(model.head(model.hidden(mx.array(list(last))[None], caches)[:, -1])[0])
    yield token
    lookup = Lookup(read)
    lookup.add(token)
    pace.begin()
    left = count - 1
    while left > 0:
        guessed = lookup.guess(LENGTHS[-1] - 1)
        length = pace.choose(guessing.rate, min(left, 1 + len(guessed)))
        started = time.perf_counter()
        fed = [token, *guessed[: length - 1]]
        logits = model.head(model.hidden(mx.array(fed)[None], caches))[0]  # (L, V)
        given = list(_agreed(fed[1:], logits, choose))
        for cache in caches:
            # What a pass has just appended can always be taken away, from a window too.
            cache.trim(length - len(given))
        pace.note(length, len(given), time.perf_counter() - started)
        guessing.drafted += length - 1
        guessing.accepted += len(given) - 1
        guessing.judge(guessed, given)
        left -= len(given)
        for token in given:
            lookup.add(token)
        yield from given


def _agreed(
    guessed: Sequence[int], logits: mx.array, choose: Callable[[mx.array], int]
) -> Iterator[int]:
    """What is chosen behind each token of a pass, up to the first that was not guessed."""
    for row, guess in enumerate([*guessed, None]):
        chosen = choose(logits[row])
        yield chosen
        if chosen != guess:
            break
