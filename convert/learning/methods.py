"""Learned quantisation: methods of mlx-lm that choose the codes by what text does to the network.

Plain rounding treats every weight alike. These methods run calibration text through the network
first. GPTQ (arXiv 2210.17323) rounds column by column and lets the columns to come make up for the
error, AWQ (arXiv 2306.00978) scales up the channels that see large inputs before it rounds, and DWQ
trains scales and biases until the packed network's predictions are close to the dense one's.

All of them hold the whole network in memory as float32, whatever the checkpoint's type: 4 bytes a
parameter, once for GPTQ and AWQ, up to twice for DWQ; GPTQ takes up to 2 GB more for what it
measures. mlx-lm's functions are called with our data, never its programs, which would download
some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mobilellm_mlx.backend import allocation_errors, mx, tree_flatten
from mobilellm_mlx.errors import ConvertError
from mobilellm_mlx.models import LanguageModel, ModelConfig
from mobilellm_mlx.weights import Packing

from ..readers.tensors import PackedTensor, Tensor
from .mlx_lm_methods import INSTEAD, Job, Progress, awq, dwq, gptq, matrices, rounded

METHODS = ("gptq", "dwq", "awq")


def quantize_learned(
    method: str,
    config: ModelConfig,
    tensors: Mapping[str, mx.array],
    plan: Mapping[str, Packing | None],
    windows: list[list[int]],
    *,
    seed: int = 0,
    steps: int = 16,
    batch_size: int = 4,
    learning_rate: float = 5e-5,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Tensor]:
    """Pack a network by a learned method; the whole network is in memory while this runs.

    GPTQ works on linear layers in 2, 4 or 8 bits, AWQ on the linear layers of the blocks if the
    plan packs them all alike, DWQ on everything below 8 bits. What the plan packs and the method
    does not reach (an embedding, say) is rounded plainly. AWQ also changes norms, whose scales it
    moves; nothing else that stays unpacked is touched.

    Args:
        method: one of ``METHODS``.
        config: of the network.
        tensors: its dense weights, 16 or 32 bits, by name.
        plan: packing by module path; None, or no entry, keeps a module unpacked.
        windows: calibration text as token ids, all of one length, from ``calibration.samples``.
        seed: for the order in which DWQ sees the windows; the others draw nothing.
        steps: of DWQ's training.
        batch_size: windows for each of these steps.
        learning_rate: of DWQ's optimizer, Adam.
        progress: called as the work goes on.

    Returns:
        Every parameter of the network by name; packed ones under the name of their ``weight``, with
        scales in that weight's type.

    Raises:
        ConvertError: when the method cannot do what the plan asks, or fails.
        WeightsError: when the tensors do not fit the network.
        InsufficientMemory: when memory ran out.
    """
    runs = {"gptq": gptq, "dwq": dwq, "awq": awq}
    if method not in runs:
        raise ConvertError(f"`{method}` is no learned method, expected {', '.join(METHODS)}")
    packings = {path: packing for path, packing in plan.items() if packing is not None}
    _check_packings(method, LanguageModel(config), packings)
    _check_windows(config, windows)
    job = Job(config, tensors, packings, windows, seed, steps, batch_size, learning_rate, progress)
    with _failures(method), allocation_errors(f"quantising with {method}"):
        _check_values(tensors)
        return _complete(method, job, runs[method](job))


def _check_packings(method: str, model: LanguageModel, packings: Mapping[str, Packing]) -> None:
    known = dict(matrices(model))
    for path, packing in packings.items():
        if path not in known:
            raise ConvertError(f"the plan packs `{path}`, which is no matrix of this network")
        if packing.mode != "affine":
            raise ConvertError(
                f"{method} knows affine packing only, but the plan has {packing.mode} for `{path}`",
                INSTEAD,
            )
        columns = known[path].weight.shape[-1]
        if columns % packing.group_size:
            raise ConvertError(
                f"`{path}` has {columns} columns, which groups of {packing.group_size} do not fill",
                "choose a smaller group size, or leave this module unpacked",
            )


def _check_windows(config: ModelConfig, windows: Sequence[Sequence[int]]) -> None:
    if not windows:
        raise ConvertError("there is no calibration text, and learned methods need some")
    lengths = {len(window) for window in windows}
    if len(lengths) != 1 or not 2 <= min(lengths) <= config.max_position_embeddings:
        raise ConvertError(
            f"the calibration text is in pieces of {sorted(lengths)} tokens, expected pieces of one"
            f" length, from 2 to {config.max_position_embeddings:,}"
        )
    highest = max(max(window) for window in windows)
    if highest >= config.vocab_size or min(min(window) for window in windows) < 0:
        raise ConvertError(
            f"the calibration text has token {highest:,}, but the vocabulary is "
            f"{config.vocab_size:,}",
            "the tokenizer belongs to another model",
        )


def _check_values(tensors: Mapping[str, mx.array]) -> None:
    for name, array in tensors.items():
        if not mx.isfinite(array).all().item():
            raise ConvertError(
                f"`{name}` of the checkpoint holds values that are not finite",
                "the file is damaged or its training went wrong; look for another copy",
            )


def _complete(method: str, job: Job, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All parameters: learned, else plainly rounded where the plan packs them, else as they are."""
    result: dict[str, Tensor] = {}
    for name, _ in tree_flatten(LanguageModel(job.config).parameters()):
        tensor = learned.get(name, job.tensors[name])
        packing = job.packings.get(name.removesuffix(".weight"))
        if packing is not None and isinstance(tensor, mx.array):
            tensor = rounded(tensor, packing)
        scales = tensor.scales if isinstance(tensor, PackedTensor) else tensor
        if not mx.isfinite(scales).all().item():
            raise ConvertError(f"{method} gave `{name}` values that are not finite", INSTEAD)
        result[name] = tensor
    mx.eval([(t.codes, t.scales, t.biases) for t in result.values() if isinstance(t, PackedTensor)])
    return result


@contextmanager
def _failures(method: str) -> Iterator[None]:
    """What mlx-lm or MLX raise as an error for people."""
    try:
        yield
    except ImportError as error:
        raise ConvertError(f"{method} needs mlx-lm: {error}", "install mlx-lm again") from error
    # An attribute of None: what mlx-lm comes to when every candidate's error is infinite.
    except (RuntimeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ConvertError(f"{method} failed: {error}", INSTEAD) from error
