"""Which block of code is copied next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .code import Code, find_code
from .said import Said


class CodeCycle:
    """Goes through the blocks of code of an answer, one with every call."""

    def __init__(self) -> None:
        self._last: tuple[Said, int] | None = None

    def next(self, answers: Iterable[Said]) -> tuple[Said, Sequence[Code], int] | None:
        """The next block of the first answer that has any: the answer, its blocks, which one.

        None when there is no code at all.
        """
        for said in answers:
            if codes := find_code(said.text):
                is_again = self._last is not None and self._last[0] is said
                index = (self._last[1] + 1) % len(codes) if self._last and is_again else 0
                self._last = said, index
                return said, codes, index
        return None

    def chose(self, said: Said, index: int) -> None:
        """The person copied this one; the next is the one after it."""
        self._last = said, index


def say_copied(codes: Sequence[Code], index: int) -> str:
    """What to tell the person: ``Copied code block 2 of 3 (python, 14 lines)``."""
    which = f" {index + 1} of {len(codes)}" if len(codes) > 1 else ""
    return f"Copied code block{which} ({codes[index].description})"
