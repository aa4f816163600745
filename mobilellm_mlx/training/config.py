"""All that can be chosen about a training, in one flat table: recipes, options and forms follow it.

The figures of LoRA are those of its paper (arXiv 2106.09685) and, for ``rank_stabilised``, of arXiv
2312.03732; DoRA is arXiv 2402.09353. Defaults are for models of 125M to 1B parameters, which want a
higher rate and a smaller rank than the 7B models that most recipes are written for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from math import ceil, isfinite, sqrt
from typing import Any, Literal, get_args

from mobilellm_mlx.errors import ConfigError

Method = Literal["lora", "dora", "full"]
LossOn = Literal["assistant", "last", "all"]
OptimizerName = Literal["adamw", "adam", "lion", "adafactor", "muon", "sgd"]
ToolFormat = Literal["auto", "hermes", "smollm2", "llama3", "paper"]
Schedule = Literal["cosine", "linear", "constant"]


_LARGEST = 2**63
"""Of whole numbers: there are files with more digits than can be printed."""
_VALIDATIONS = 10
"""In a run whose configuration leaves their number open, at most."""

GROUPS: dict[str, tuple[str, ...]] = {
    "What is trained": (
        "method", "rank", "alpha", "rank_stabilised", "dropout", "modules", "layers", "per_run",
    ),
    "What is learned": (
        "loss_on", "max_tokens", "valid_share", "system", "template", "tool_format", "only_calls",
    ),
    "How long": ("epochs", "steps", "patience", "seed"),
    "How fast": (
        "learning_rate", "schedule", "warmup", "final_rate", "optimizer", "weight_decay", "clip",
    ),
    "Batches and memory": (
        "batch_size", "accumulate", "pack", "checkpoint_layers", "loss_chunk",
    ),
    "While it runs": ("validate_every", "save_every", "samples", "sample_tokens"),
}  # fmt: skip
"""The settings by what they are about, for helps and forms."""


def _option(default: Any, help: str, *, choices: Any = None, least: float | None = None,
            most: float | None = None) -> Any:  # fmt: skip
    told = {"help": help, "choices": get_args(choices), "least": least, "most": most}
    return field(default=default, metadata=told)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training. Every field has its help and bounds in ``metadata``: see ``options``.

    Raises:
        ConfigError: for impossible values.
    """

    method: Method = _option(
        "lora", "What is trained: small matrices beside the weights (lora, dora), or all (full).",
        choices=Method,
    )  # fmt: skip
    rank: int = _option(8, "Rank of the small matrices.", least=1, most=1024)
    alpha: float = _option(
        16.0, "Weight of the small matrices; the scale is alpha / rank.", least=0
    )
    rank_stabilised: bool = _option(False, "Scale by alpha / sqrt(rank) instead (rsLoRA).")
    dropout: float = _option(
        0.0, "Share of inputs of the small matrices left out.", least=0, most=0.9
    )
    modules: tuple[str, ...] = _option(
        ("*_proj",), "Names or patterns of the modules that get small matrices."
    )
    layers: str = _option("all", "Blocks that do: `all`, `last 8`, or numbers such as `0-3,29`.")
    per_run: bool = _option(False, "Shared blocks get one adapter for each of their runs.")
    optimizer: OptimizerName = _option("adamw", "The optimiser.", choices=OptimizerName)
    learning_rate: float = _option(
        0.0, "Highest learning rate; 0 is 0.0005, or 0.00005 for full.", least=0, most=10
    )
    weight_decay: float = _option(0.0, "Decay of the trained weights.", least=0, most=10)
    schedule: Schedule = _option(
        "cosine", "How the rate falls after the warm-up.", choices=Schedule
    )
    warmup: float = _option(
        0.05, "Steps until the highest rate; below 1 a share of all steps.", least=0
    )
    final_rate: float = _option(
        0.1, "What the rate falls to, as a share of the highest.", least=0, most=1
    )
    clip: float = _option(
        1.0, "Longest gradient; longer ones are shortened. 0 clips none.", least=0
    )
    batch_size: int = _option(8, "Examples in one pass.", least=1, most=4096)
    accumulate: int = _option(1, "Passes for one step.", least=1, most=4096)
    max_tokens: int = _option(1024, "Longest example in tokens; longer ones are cut.", least=8)
    pack: bool = _option(False, "Put short examples together into rows of `max_tokens`.")
    epochs: float = _option(
        3.0, "Times through the data, unless `steps` says otherwise.", least=0, most=1_000_000
    )
    steps: int = _option(0, "Steps in all; 0 leaves it to `epochs`.", least=0)
    validate_every: int = _option(0, "Steps between validations; 0: up to ten in a run.", least=0)
    patience: int = _option(
        0, "Validations without a better loss after which to stop; 0 never stops.", least=0
    )
    save_every: int = _option(0, "Steps between checkpoints; 0: at validations.", least=0)
    samples: int = _option(2, "Answers to show at each validation.", least=0, most=16)
    sample_tokens: int = _option(64, "Tokens of such an answer.", least=1, most=1024)
    seed: int = _option(0, "Of order, dropout and first values.", least=0, most=2**31)
    loss_on: LossOn = _option(
        "assistant", "What is learned of a conversation: all answers, the last, or every word.",
        choices=LossOn,
    )  # fmt: skip
    valid_share: float = _option(
        0.05, "Share set aside for validation where the data has none.", least=0, most=0.9
    )
    system: str = _option("", "System prompt in place of the data's own; `-` leaves theirs out.")
    tool_format: ToolFormat = _option(
        "auto", "How calls are written where the template has no form of its own.",
        choices=ToolFormat,
    )  # fmt: skip
    only_calls: bool = _option(
        False, "The adapter is put on for calls of tools alone; the rest is the bare model's."
    )
    template: str = _option("", "Chat template for a base model: `chatml`, or a Jinja file.")
    checkpoint_layers: bool = _option(False, "Compute blocks twice instead of keeping them.")
    loss_chunk: int = _option(128, "Tokens whose logits are held at a time.", least=16)

    def __post_init__(self) -> None:
        for option in options():
            _check(option.name, getattr(self, option.name), option.metadata, option.default)
        if not self.modules:
            raise ConfigError("`modules` is empty, expected at least one name or pattern")
        if self.only_calls and self.tool_format != "paper":
            raise ConfigError(
                "`only_calls` needs a format that can say that no call is wanted",
                "set `tool_format` to `paper`",
            )
        if self.steps == 0 and self.epochs <= 0:
            raise ConfigError("`steps` and `epochs` are 0, expected one of them above")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or (5e-5 if self.method == "full" else 5e-4)

    @property
    def scale(self) -> float:
        """What the product of the small matrices is multiplied by."""
        return self.alpha / (sqrt(self.rank) if self.rank_stabilised else self.rank)

    def validation_interval(self, steps: int) -> int:
        """Steps between validations in a run of so many."""
        return self.validate_every or max(1, ceil(steps / _VALIDATIONS))

    def to_dict(self) -> dict[str, Any]:
        """As JSON and TOML can say it."""
        return {**asdict(self), "modules": list(self.modules)}

    def merged(self, values: Mapping[str, Any]) -> TrainConfig:
        """The same with other values.

        Raises:
            ConfigError: for unknown names (with a did-you-mean) and impossible values.
        """
        names = [option.name for option in options()]
        for name in values:
            if name not in names:
                close = get_close_matches(name, names, 1)
                raise ConfigError(
                    f"there is no setting `{name[:80]}` of a training",
                    f"did you mean `{close[0]}`?" if close else f"there are {', '.join(names)}",
                )
        changed = {**self.to_dict(), **values}
        if isinstance(changed["modules"], list):
            changed["modules"] = tuple(changed["modules"])
        return TrainConfig(**changed)


def options() -> tuple[Any, ...]:
    """The fields: ``name``, ``type``, ``default``, and in their ``metadata`` ``help``, ``choices``,
    ``least`` and ``most``."""
    return fields(TrainConfig)


def _check(name: str, value: Any, told: Mapping[str, Any], default: Any) -> None:
    assert default is not MISSING
    if type(value) is int and abs(value) > _LARGEST:
        raise ConfigError(f"`{name}` is a number of {value.bit_length():,} bits, far too large")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    fits = type(value) is type(default)
    if isinstance(default, tuple):
        fits = fits and all(isinstance(each, str) and each for each in value)
    if not fits:
        expected = {bool: "true or false", int: "a whole number", float: "a number",
                    str: "a text", tuple: "a list of texts"}[type(default)]  # fmt: skip
        found = value if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        raise ConfigError(f"`{name}` is {str(found)[:80]!r}, expected {expected}")
    if told["choices"] and value not in told["choices"]:
        close = get_close_matches(value, told["choices"], 1)
        hint = f"did you mean `{close[0]}`?" if close else None
        raise ConfigError(
            f"`{name}` is {value[:80]!r}, expected one of {', '.join(told['choices'])}", hint
        )
    if isinstance(value, float) and not isfinite(value):
        raise ConfigError(f"`{name}` is {value}, expected a number")
    if told["least"] is not None and value < told["least"]:
        raise ConfigError(f"`{name}` is {value}, expected at least {told['least']:g}")
    if told["most"] is not None and value > told["most"]:
        raise ConfigError(f"`{name}` is {value}, expected at most {told['most']:g}")
