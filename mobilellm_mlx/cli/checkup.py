"""The doctor of data for the interface, in a process of its own: an order in, a report out.

Reading a large file keeps Python busy, and reckoning memory needs MLX; both would hold up an
interface that did them on a thread.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.cli.errors import explain

if TYPE_CHECKING:
    from mobilellm_mlx.events import MemoryEstimated
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.data import Data, DataReport

EXAMPLES = 3


def examine(base: Path, data: Path, config: TrainConfig) -> dict[str, Any]:
    """What the data hold for that model, and what the training would take.

    Returns:
        The fields of ``tui.workshop.Checkup``, as JSON can say them.

    Raises:
        MobileLLMError: for what cannot be read or trained on.
    """
    from mobilellm_mlx.cli.train_check import _look, _Problems
    from mobilellm_mlx.training.data import render_example

    problems = _Problems()
    found, tokenizer = _look(data, base, config, problems)
    unusable = [f"{error.message}; {error.hint}" if error.hint else error.message
                for error in problems.first[:EXAMPLES]]  # fmt: skip
    if problems.count > EXAMPLES:
        unusable.append(f"{problems.count - EXAMPLES:,} more lines cannot be used")
    return {
        "facts": list(_facts(found.report)),
        "warnings": [*unusable, *found.report.warnings],
        "examples": [render_example(each, tokenizer) for each in found.train[:EXAMPLES]],
        "estimate": asdict(_estimate(base, config, found)),
    }


def _facts(report: DataReport) -> Iterator[tuple[str, str]]:
    for name, split in report.splits.items():
        learned = f"{split.learned / max(1, split.tokens):.0%} of them learned"
        yield name, f"{split.examples:,} examples, {split.tokens:,} tokens, {learned}"
    train = report.splits["train"]
    lengths = f"{train.median:,} tokens in the middle, {train.longest:,} at most"
    yield "length", f"{lengths}; {report.max_tokens:,} are allowed"
    if report.cut:
        yield "cut", f"{report.cut:,} examples ({report.cut_share:.1%})"
    for note in report.notes:
        yield "", note


def _estimate(base: Path, config: TrainConfig, data: Data) -> MemoryEstimated:
    """Of the network with its weights, none of which is read."""
    from mobilellm_mlx import loading, weights
    from mobilellm_mlx.backend import backend, tree_flatten
    from mobilellm_mlx.models import build_config
    from mobilellm_mlx.training.estimate import estimate_memory

    raw = loading.read_json(base / "config.json")
    packed = config.method != "full" and backend().name != "cpu"
    model = loading.build_model(
        build_config(raw),
        weights.load_tensors(weights.weight_files(base)),
        weights.read_quantization(raw),
        "packed" if packed else "dense",
    )
    estimate = estimate_memory(model, config, [*data.train, *data.valid])
    # It takes the weights for loaded, and they are not.
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    free = estimate.available_bytes - held
    return replace(estimate, available_bytes=free, fits=estimate.total_bytes <= free)


def main() -> int:
    """Answer the order on stdin; an error is an answer, too."""
    from mobilellm_mlx.training.config import TrainConfig

    try:
        order = json.load(sys.stdin)
        config = TrainConfig().merged(order["config"])
        answer = examine(Path(order["base"]), Path(order["data"]), config)
    except Exception as error:
        known = explain(error)
        answer = {"error": known.message, "hint": known.hint}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
