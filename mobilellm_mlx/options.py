"""What a person can ask of loading and of generation, checked when it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mobilellm_mlx.errors import InvalidOption

Compute = Literal["auto", "packed", "dense"]

_FLAGS = {"temperature": "temp", "speculation": "speculate"}
"""Options of the command line that have names of their own."""


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to choose tokens and when to stop."""

    max_tokens: int | None = 1024
    """Most tokens to generate; None means as many as the context holds."""
    temperature: float = 0.0
    """0 is greedy: always the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this sum; 1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one; 0 drops none."""
    repetition_penalty: float = 1.0
    """Divide (or multiply, when negative) the logits of the answer's last tokens by this; 1 is off.
    The prompt does not count: an answer should be free to use the question's words."""
    repetition_window: int = 64
    """How many recent tokens the repetition penalty looks at."""
    seed: int | None = None
    """Seed of the random choices; None draws one, which the summary then names."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not part of it. Reasoning does not look at them."""
    thinking_budget: int | None = None
    """Most tokens of reasoning before the answer; then its end marker is put in the model's mouth.
    0 means none at all, None as many as ``max_tokens`` allows. For models that mark reasoning."""
    speculation: bool = False
    """Whether tokens may be guessed from the prompt and the answer, and several checked in one
    pass: quoting and rewriting get faster. Done where it pays: on a CPU, without a grammar and
    without a budget for reasoning. What is said stays the same, but for rounding: where two tokens
    are as likely as each other, a pass over several may choose the other one."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "repetition_window", "seed", "thinking_budget"):
            value = getattr(self, name)
            optional = value is None and name in ("max_tokens", "seed", "thinking_budget")
            self._require(optional or type(value) is int, name, "a whole number")
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            self._require(type(getattr(self, name)) in (int, float), name, "a number")
        self._require(type(self.speculation) is bool, "speculation", "true or false")
        texts = isinstance(self.stop, tuple) and all(isinstance(text, str) for text in self.stop)
        self._require(texts, "stop", "a tuple of strings")
        self._require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        self._require(0 <= self.temperature < float("inf"), "temperature", "0 or more")
        self._require(self.top_k >= 0, "top_k", "0 or more")
        self._require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        self._require(0 <= self.min_p <= 1, "min_p", "between 0 and 1")
        self._require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "above 0")
        self._require(self.repetition_window >= 1, "repetition_window", "at least 1")
        self._require(self.seed is None or 0 <= self.seed < 2**64, "seed", "between 0 and 2^64 - 1")
        self._require(all(self.stop), "stop", "strings that are not empty")
        budget = self.thinking_budget
        self._require(budget is None or budget >= 0, "thinking_budget", "0 or more")

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            flag = _FLAGS.get(name, name).replace("_", "-")
            raise InvalidOption(
                f"`{name}` is {getattr(self, name)!r}, expected {expected}",
                f"pass another value with `--{flag}`",
            )

    def merged(self, overrides: Mapping[str, Any]) -> GenerationOptions:
        """These options with the values of ``overrides`` that are not None.

        Raises:
            InvalidOption: for an unknown name or an impossible value.
        """
        known = {f.name for f in fields(self)}
        if unknown := set(overrides) - known:
            raise InvalidOption(f"unknown generation option: {', '.join(sorted(unknown))}")
        return replace(self, **{k: v for k, v in overrides.items() if v is not None})


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is brought into memory."""

    compute: Compute = "auto"
    """`packed` multiplies by the 4-bit weights as stored (Metal, CUDA); `dense` unpacks the same
    weights to float32 once (CPU); `auto` chooses by backend."""
    context: int | None = None
    """Most tokens a conversation may hold; None means what the model was trained for."""
    clip_context: bool = False
    """Take what the model was trained for where ``context`` is more, instead of refusing it: what
    was asked of one model should not keep another from being used."""

    def __post_init__(self) -> None:
        if self.compute not in ("auto", "packed", "dense"):
            raise InvalidOption(
                f"`compute` is {self.compute!r}, expected `auto`, `packed` or `dense`"
            )
        if self.context is not None and self.context < 16:
            raise InvalidOption(
                f"`context` is {self.context}, expected at least 16 tokens",
                "pass a larger value with `--context`",
            )
