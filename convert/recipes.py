"""Quantisation recipes as data: which matrices get how many bits.

A rule is a pattern of module paths and a number of bits; the last rule that matches wins. A pattern
matches a whole path or its end, so ``v_proj`` means the one of every block.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

UNPACKED = 16
"""The bits of a rule that leaves a matrix as it is."""

EMBEDDINGS = ("embed_tokens", "lm_head")


@dataclass(frozen=True, slots=True)
class Rule:
    """``bits`` for the modules that match ``pattern``."""

    pattern: str
    bits: int

    def matches(self, module: str) -> bool:
        """Whether the pattern is the module's path or the end of it."""
        return fnmatchcase(module, self.pattern) or fnmatchcase(module, f"*.{self.pattern}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named choice of bits."""

    bits: int
    about: str
    rules: tuple[Rule, ...] = ()


def _embeddings(bits: int) -> tuple[Rule, ...]:
    return tuple(Rule(name, bits) for name in EMBEDDINGS)


DEFAULT = "4bit"
LEARNED = "4bit-blocks"
"""The default of methods that learn: they want the matrices of all blocks alike."""

RECIPES: dict[str, Recipe] = {
    DEFAULT: Recipe(
        4,
        "4-bit blocks with 6 bits for values and down-projections, 8-bit embedding and head",
        (*_embeddings(8), Rule("v_proj", 6), Rule("down_proj", 6)),
    ),
    LEARNED: Recipe(4, "4-bit blocks, 8-bit embedding and head", _embeddings(8)),
    "4bit-all": Recipe(4, "4 bits throughout, the smallest that answers well"),
    "6bit": Recipe(6, "6-bit blocks, 8-bit embedding and head", _embeddings(8)),
    "8bit": Recipe(8, "8 bits throughout, hardly to be told from 16"),
}
"""The recipes by name. In small models 4 bits hurt values and down-projections most: on the default
model 6 bits there cost a twentieth more bytes and take the KL divergence from 0.26 to 0.10 nats
(docs/LOG.md). The embedding is the head as well, and 8 bits there are worth another fifth."""
