"""One pile of examples into two, with equal prompts on one side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

from mobilellm_mlx.errors import DataError


def fingerprint(text: str) -> int:
    """64 bits that stand for a text: a million different ones collide once in 37 million tries."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def normalised(text: str) -> str:
    """A text without what two ways to type the same differ in: case and white space."""
    return " ".join(text.casefold().split())


def choose_valid(groups: Sequence[int], share: float, seed: int) -> set[int]:
    """Which examples are set aside: groups of the same prompt stay together.

    The same groups, share and seed always give the same; an example more elsewhere in the data
    moves few.

    Args:
        groups: the fingerprint of each example's prompt.
        share: how many of all, roughly.
        seed: of the choice.

    Returns:
        Places in ``groups``; never none, and never all.

    Raises:
        DataError: when there is only one prompt.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    if len(members) < 2:
        what = "there is only one example" if len(groups) == 1 else "all examples ask the same"
        raise DataError(
            f"{what}, so none can be set aside for validation",
            "add examples, give a folder with `train.jsonl` and `valid.jsonl`, or train without "
            "validation with `--valid-share 0`",
        )
    wanted = min(max(1, round(share * len(groups))), len(groups) - 1)
    order = sorted(members, key=lambda group: fingerprint(f"{seed} {group}"))
    chosen: set[int] = set()
    for group in order:
        # A group that would overshoot by far is left to training; a smaller one will come.
        if len(chosen) + len(members[group]) <= wanted:
            chosen.update(members[group])
        if len(chosen) >= wanted:
            break
    if not chosen:
        chosen.update(members[min(order, key=lambda group: len(members[group]))])
    return chosen
