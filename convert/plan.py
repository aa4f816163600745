"""What becomes of every tensor, decided before any is read."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.weights import MODES, Packing

from .readers.fake_quant import SCHEMES
from .readers.paretoq import WIDTHS
from .readers.tensors import Entry
from .recipes import DEFAULT, LEARNED, RECIPES, UNPACKED, Rule
from .source import EMBEDDING, NORM, Source
from .writers.safetensors_file import STORED, layout_bytes

DTypeName = Literal["auto", "float16", "bfloat16", "float32"]
Method = Literal["round", "gptq", "dwq", "awq"]

_FLOATS = ("F16", "BF16", "F32", "F64")
METHODS = ("round", "gptq", "dwq", "awq")

_AGAIN = {"Q2_K": 4, "Q3_K": 4, "Q6_K": 8}
"""Bits for blocks that had to be unpacked: one step up, so that rounding twice costs little."""


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert.

    Raises:
        InvalidOption: for values that no conversion can have.
    """

    recipe: str | None = None
    """A key of ``RECIPES``; None is the default recipe, or what the source is packed in."""
    bits: int | Literal["auto"] | None = "auto"
    """Bits of every matrix; None packs nothing, ``auto`` leaves it to the recipe."""
    group_size: int | None = None
    """Weights that share a scale; None is 32 up to 4 bits, 64 above, or what the mode has."""
    mode: str = "affine"
    bits_for: tuple[Rule, ...] = ()
    """Exceptions, the last that matches wins."""
    dtype: DTypeName = "auto"
    """Of what is not packed, and of scales. ``auto`` is the source's own 16-bit type."""
    method: Method = "round"
    weight_bits: str | None = None
    """Bits that ParetoQ's weights were trained for, when their configuration does not say."""
    fake_quant: str | None = None
    """What a checkpoint's 16-bit weights were rounded to in training: a scheme or None."""
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        _choose("recipe", self.recipe, [None, *RECIPES])
        _choose("mode", self.mode, list(MODES))
        _choose("dtype", self.dtype, ["auto", *STORED])
        widths, groups = MODES[self.mode]
        _choose("method", self.method, list(METHODS))
        _choose("weight_bits", self.weight_bits, [None, *WIDTHS])
        _choose("fake_quant", self.fake_quant, [None, *SCHEMES])
        _choose("bits", self.bits, ["auto", None, *widths])
        _choose("group_size", self.group_size, [None, *groups])
        if self.bits is None and (self.group_size is not None or self.mode != "affine"):
            raise InvalidOption("a group size or mode is of no use when nothing is packed")
        if self.recipe is not None and self.bits != "auto":
            raise InvalidOption("`--recipe` and `--bits` exclude each other", "give one of them")
        for rule in self.bits_for:
            _choose(f"bits-for {rule.pattern}", rule.bits, [*MODES["affine"][0], UNPACKED])
        if self.method != "round" and self.mode != "affine":
            raise InvalidOption(f"`--method {self.method}` is for affine packing only")
        if self.method != "round" and self.bits is None:
            raise InvalidOption(f"`--method {self.method}` needs bits to pack to")

    @property
    def keeps_packing(self) -> bool:
        """Whether nothing was asked that would pack a packed source anew."""
        return (
            self.bits == "auto"
            and self.recipe is None
            and self.group_size is None
            and self.mode == "affine"
            and self.method == "round"
        )


def _choose(name: str, value: object, allowed: list[Any]) -> None:
    if value not in allowed:
        named = ", ".join(str(a) for a in allowed if a is not None)
        close = get_close_matches(str(value), [str(a) for a in allowed], n=1)
        raise InvalidOption(
            f"`{name}` is {value!r}, expected one of {named}",
            f"did you mean `{close[0]}`?" if close else None,
        )


Action = Literal["keep", "cast", "pack", "unpack", "repack", "copy"]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor."""

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    source_bytes: int
    dtype: str
    """Stored type of the values, or of scales and biases: ``F16``, ``BF16`` or ``F32``."""
    packing: Packing | None
    action: Action
    note: str | None = None
    """Why it is packed otherwise than asked."""

    @property
    def module(self) -> str:
        """The module whose weight it is."""
        return self.name.removesuffix(".weight")

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays that are written, with type and shape."""
        if self.packing is None:
            return {self.name: (self.dtype, self.shape)}
        rows, columns = self.shape
        groups = (rows, columns // self.packing.group_size)
        codes = ("U32", (rows, columns * self.packing.bits // 32))
        if self.packing.mode != "affine":
            return {self.name: codes, f"{self.module}.scales": ("U8", groups)}
        return {
            self.name: codes,
            f"{self.module}.scales": (self.dtype, groups),
            f"{self.module}.biases": (self.dtype, groups),
        }

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return layout_bytes(self.layout())


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a checkpoint."""

    tensors: tuple[TensorPlan, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they will be stored."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Mean bits of one weight, scales included."""
        weights = sum(Entry(t.name, t.shape, t.dtype, 0).size for t in self.tensors)
        return self.nbytes * 8 / weights

    @property
    def notes(self) -> dict[str, str]:
        """The tensors that are packed otherwise than asked, with the reason."""
        return {tensor.name: tensor.note for tensor in self.tensors if tensor.note}

    def notices(self) -> list[str]:
        """The same for people, one sentence for each reason."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.notes.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"{_count(names)}: {reason}" for reason, names in by_reason.items()]

    def quantization(self) -> dict[str, Any] | None:
        """mlx-lm's ``quantization`` table: the commonest packing, and every module that differs."""
        packings = [tensor.packing for tensor in self.tensors if tensor.packing]
        if not packings:
            return None
        usual = max(dict.fromkeys(packings), key=packings.count)
        table: dict[str, Any] = _table(usual)
        for tensor in self.tensors:
            if len(tensor.shape) == 2 and tensor.packing != usual:
                table[tensor.module] = _table(tensor.packing) if tensor.packing else False
        return table


def _count(names: list[str]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"{len(names)} tensors such as `{names[0]}`"


def _table(packing: Packing) -> dict[str, Any]:
    return {"group_size": packing.group_size, "bits": packing.bits, "mode": packing.mode}


def make_plan(source: Source, options: ConvertOptions) -> Plan:
    """Decide what becomes of every tensor.

    Raises:
        InvalidOption: when an exception matches no tensor.
        ConvertError: for tensors of a type that holds no weights.
    """
    dtype = _stored_dtype(source, options)
    for rule in options.bits_for:
        matrices = [name for name, shape in source.shapes.items() if len(shape) == 2]
        modules = [name.removesuffix(".weight") for name in matrices]
        if not any(rule.matches(module) for module in modules):
            ends = sorted({module.rpartition(".")[2] for module in modules})
            raise InvalidOption(
                f"`--bits-for {rule.pattern}={rule.bits}` matches no tensor",
                f"modules end in: {', '.join(ends)}",
            )
    keep = options.keeps_packing and any(source.entry(name).packing for name in source.shapes)
    return Plan(
        tuple(_plan_tensor(source.entry(n), n, options, dtype, keep) for n in source.shapes), dtype
    )


def _stored_dtype(source: Source, options: ConvertOptions) -> str:
    if options.dtype != "auto":
        return STORED[options.dtype]
    types = {source.entry(name).dtype for name in (EMBEDDING, NORM)}
    return "BF16" if "BF16" in types else "F16"


def _plan_tensor(
    entry: Entry, name: str, options: ConvertOptions, dtype: str, keep: bool
) -> TensorPlan:
    if entry.packing is None and entry.dtype not in (*_FLOATS, *_AGAIN):
        raise ConvertError(
            f"tensor `{entry.name}` has the type {entry.dtype}, which holds no weights"
        )
    # Of a packed source nothing changes that nothing was asked for, but for blocks that MLX cannot
    # hold: these are packed again.
    wanted = entry.packing if keep else None
    note = None
    rules = [rule for rule in options.bits_for if rule.matches(name.removesuffix(".weight"))]
    as_it_is = keep and not rules and entry.dtype not in _AGAIN
    if len(entry.shape) == 2 and not (as_it_is or (wanted and not rules)):
        bits = _bits(entry, name, options)
        wanted, note = _packing(bits, entry.shape[1], options)
    packed = entry.packing is not None
    action: Action
    if wanted == entry.packing and not (packed and options.method != "round"):
        action = "copy" if packed else "keep" if entry.dtype == dtype else "cast"
    elif wanted is None:
        action = "unpack"
    else:
        action = "repack" if packed else "pack"
    if action == "copy" and entry.exact:
        dtype = entry.dtype
    return TensorPlan(name, entry.shape, entry.dtype, entry.nbytes, dtype, wanted, action, note)


def _bits(entry: Entry, name: str, options: ConvertOptions) -> int:
    module = name.removesuffix(".weight")
    if options.bits is None:
        bits, rules = UNPACKED, options.bits_for
    elif options.bits != "auto":
        bits, rules = options.bits, options.bits_for
    elif options.recipe is None and options.keeps_packing and entry.dtype in _AGAIN:
        bits, rules = _AGAIN[entry.dtype], options.bits_for
    elif options.recipe is None and options.mode != "affine":
        bits, rules = MODES[options.mode][0][0], options.bits_for
    else:
        usual = DEFAULT if options.method == "round" else LEARNED
        recipe = RECIPES[options.recipe or usual]
        bits, rules = recipe.bits, (*recipe.rules, *options.bits_for)
    for rule in rules:
        if rule.matches(module):
            bits = rule.bits
    return bits


def _packing(bits: int, columns: int, options: ConvertOptions) -> tuple[Packing | None, str | None]:
    """The packing for a matrix, and why it is not the one that was asked for."""
    if bits == UNPACKED:
        return None, None
    mode = options.mode if bits in MODES[options.mode][0] else "affine"
    groups = MODES[mode][1]
    wanted = options.group_size if options.group_size in groups else None
    # Few bits hurt small models; llama.cpp and Meta's own 4-bit models take groups of 32 as well.
    wanted = wanted or (groups[0] if mode != "affine" or bits <= 4 else 64)
    fitting = [group for group in sorted(groups, reverse=True) if columns % group == 0]
    smaller = [group for group in fitting if group <= wanted]
    if mode != options.mode and smaller:
        note = f"{options.mode} has no {bits} bits: affine groups of {smaller[0]} are used"
        return Packing(smaller[0], bits, mode), note
    if not smaller:
        return None, f"{columns} columns do not divide into groups of {min(groups)}: not packed"
    if smaller[0] != wanted:
        note = f"{columns} columns do not divide into groups of {wanted}: {smaller[0]} are used"
        return Packing(smaller[0], bits, mode), note
    return Packing(wanted, bits, mode), None
