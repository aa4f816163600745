"""Layer sharing as the paper measures it (arXiv 2402.14905, table 7), on the machine at hand.

Three networks with random weights, of one shape: 30 blocks, 30 blocks that run twice, and 60
blocks. The paper's point is that the second costs hardly more than the first where weights are what
has to be moved; whether that is so here is what is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mobilellm_mlx.benchmark.machine import describe_machine, iter_busy
from mobilellm_mlx.benchmark.peers import Place, our_command
from mobilellm_mlx.benchmark.plan import Plan
from mobilellm_mlx.benchmark.results import decode_speed
from mobilellm_mlx.benchmark.run import Asked, iter_runs, start
from mobilellm_mlx.benchmark.spread import spread
from mobilellm_mlx.events import BenchRun, BenchSummary, Event, Progress
from mobilellm_mlx.models.sizes import checkpoint_config

SHARED_TWICE = "LS-125M"
NETWORKS: dict[str, dict[str, Any]] = {
    "125M": checkpoint_config("125m"),
    SHARED_TWICE: checkpoint_config("125m", layer_sharing=True),
    "60 layers": {**checkpoint_config("125m"), "num_hidden_layers": 60},
}
PAPER: dict[str, tuple[float, float, float]] = {
    "125M": (39.2, 1361.7, 15.6),
    SHARED_TWICE: (43.6, 1388.2, 16.0),
    "60 layers": (68.6, 3347.7, 29.0),
}
"""Milliseconds to load, initialise and execute on an iPhone 13 (iOS 17.2.1, ExecuTorch with MPS,
float16, means of 50); how many tokens a forward pass had there is not said."""
LOADS = 3
"""How often each is loaded."""


def iter_layer_sharing(
    plan: Plan,
    *,
    bits: int = 4,
    compute: str = "auto",
    limit_s: float = 600.0,
    networks: dict[str, dict[str, Any]] | None = None,
) -> Iterator[Event]:
    """Measure the three networks in turn; a ``BenchSummary`` comes last.

    Args:
        plan: one case of it, the first, is measured.
        bits: of the weights: 4 is blocks of 4 and an embedding of 8, as conversions are; 16 is
            float16, as checkpoints are.
        compute: see ``LoadOptions``.
        limit_s: no answer may take longer.
        networks: other ones, by name; the first is what the rest is compared with.

    Raises:
        EngineError: when one of them fails.
    """
    started, machine = time.perf_counter(), describe_machine()
    networks = networks or NETWORKS
    loads: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    runs: list[BenchRun] = []
    with TemporaryDirectory(prefix="mobilellm-bench-") as scratch, ExitStack() as stack:
        places: dict[str, Place] = {}
        for done, (name, raw) in enumerate(networks.items()):
            yield Progress("making random weights", done, len(networks), "items")
            directory = Path(scratch) / name.replace(" ", "-")
            write_random(raw, directory, bits)
            places[name] = Place(directory, Path(scratch), compute=compute)
        asked: list[Asked] = []
        for load in range(LOADS):
            stays = load + 1 == LOADS
            for done, (name, place) in enumerate(places.items()):
                yield Progress("loading", load * len(places) + done, LOADS * len(places), "items")
                with ExitStack() as own:
                    command = our_command(place)
                    one = start(own, name, command, plan.threads, limit_s, is_ours=True)
                    loads[name].append(one.about)
                    if stays:
                        stack.push(own.pop_all())
                        asked.append(one)
        single = Plan(plan.prompts[:1], (0,), (1,), plan.generate, plan.repeats, plan.threads)
        for event in iter_runs(asked, single, [1] * single.longest):
            if isinstance(event, BenchRun):
                runs.append(event)
            yield event
    yield BenchSummary(
        elapsed_s=time.perf_counter() - started,
        model="random weights",
        table="layer-sharing",
        machine=machine,
        settings={**single.to_dict(), "bits": bits},
        engines=[one.about for one in asked],
        rows=[_row(name, loads[name], runs) for name in networks],
        ratios=_ratios(list(networks), runs),
        notes=[
            "The files were written just before, so loading reads them from memory.",
            *iter_busy(machine),
        ],
    )


def write_random(raw: dict[str, Any], directory: Path, bits: int) -> None:
    """A model directory without words: random weights, packed as a conversion packs them.

    Args:
        raw: its configuration.
        directory: made.
        bits: 4, or 16 for none.
    """
    from mobilellm_mlx.backend import mx, nn, tree_flatten
    from mobilellm_mlx.models import LanguageModel, build_config

    directory.mkdir(parents=True)
    model = LanguageModel(build_config(raw))
    model.set_dtype(mx.float16)
    if bits == 4:
        packing = {"group_size": 32, "bits": 4, "mode": "affine"}
        embedding = {"group_size": 32, "bits": 8}

        def how(path: str, module: nn.Module) -> bool | dict[str, int]:
            if path == "model.embed_tokens":
                return embedding
            return hasattr(module, "to_quantized")

        nn.quantize(model, group_size=32, bits=4, class_predicate=how)
        raw = {**raw, "quantization": {**packing, "model.embed_tokens": embedding}}
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, {"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")


def _row(name: str, loads: Sequence[dict[str, Any]], runs: Sequence[BenchRun]) -> dict[str, Any]:
    own = [run for run in runs if run.engine == name]
    paper = PAPER.get(name)
    return {
        "name": name,
        "weight_bytes": loads[0]["weight_bytes"],
        "load_s": spread([one["load_s"] for one in loads]),
        "init_s": spread([one["init_s"] for one in loads]),
        "execute_s": spread([one["execute_s"]["median"] for one in loads]),
        "decode_tok_per_s": spread([decode_speed(run) for run in own]),
        "paper_ms": list(paper) if paper else None,
    }


def _ratios(names: Sequence[str], runs: Sequence[BenchRun]) -> list[dict[str, Any]]:
    """How much longer a token takes than the first network's, repeat by repeat."""
    first = {run.repeat: decode_speed(run) for run in runs if run.engine == names[0]}
    rows = []
    for name in names[1:]:
        own = [run for run in runs if run.engine == name and run.repeat in first]
        costs = [first[run.repeat] / decode_speed(run) for run in own]
        if costs:
            rows.append({"name": name, "what": "token", **spread(costs)})
    return rows
