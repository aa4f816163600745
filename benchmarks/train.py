"""LoRA training beside mlx-lm's trainer: tokens a second and the most memory held.

    python benchmarks/train.py [--quick] [--repeats 2] [--steps 2] [--batch-size 4] [--length 96]

Same float32 files, same tokens, rank, modules, batch, length and BLAS; every run is a process of
its own, and the trainers take turns. Two lessons:

- whole: every token is learned, so both compute the same; their first losses must agree;
- answers: the last quarter of every example is learned, as of a conversation's answers. mlx-lm
  makes logits of the rest as well, and throws them away.

Ours also runs with ``--checkpoint-layers`` and a small ``--loss-chunk``, which is how to train
where memory is short. ``--quick`` takes a small random network instead of the default model. The
first step of a run only warms up. Memory is MLX's own count from the loaded model on, weights
included; processor seconds are those of all threads, which a busy machine lengthens least.

Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `convert` is not the benchmark

RANK, SCALE = 8, 2.0
OURS, SMALL, PEER = "mobilellm", "mobilellm, checkpoints", "mlx_lm.lora"
TRAINERS = {OURS: "ours", SMALL: "small", PEER: "peer"}
SMALL_OPTIONS = {"checkpoint_layers": True, "loss_chunk": 64}
TARGETS = {OURS: 1.0, SMALL: 0.7}
"""The most memory, as a share of mlx-lm's; the first one's speed is to be at least its."""
LESSONS = {"whole": 0, "answers": 0.75}
"""Share of an example that is not learned."""
AGREEMENT = 1e-3
MODULES = tuple(
    f"{part}_proj"
    for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                 "mlp.gate", "mlp.up", "mlp.down")
)  # fmt: skip
QUICK = {
    "model_type": "llama", "vocab_size": 16384, "hidden_size": 256, "intermediate_size": 688,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip

Result = dict[str, Any]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small random network")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="timed ones of each run")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--child", nargs=2, metavar=("TRAINER", "JOB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        trainer, job = arguments.child
        job = json.loads(job)
        print(json.dumps(train_peer(job) if trainer == "peer" else train_ours(job, trainer)))
        return

    with tempfile.TemporaryDirectory(prefix="mobilellm-bench-") as scratch:
        model = write_network(Path(scratch) / "model", quick=arguments.quick)
        job = {
            "model": str(model), "steps": arguments.steps, "batch_size": arguments.batch_size,
            "length": arguments.length,
        }  # fmt: skip
        results: dict[str, dict[str, list[Result]]] = {}
        for lesson, unlearned in LESSONS.items():
            results[lesson] = {label: [] for label in TRAINERS}
            for _ in range(arguments.repeats):
                for label, trainer in TRAINERS.items():
                    job["prompt"] = int(arguments.length * unlearned)
                    results[lesson][label].append(run(trainer, job))
            require_same_loss(results[lesson])
    print_result(results, arguments)


def write_network(directory: Path, *, quick: bool) -> Path:
    """The default model, or a random one, as float32."""
    from startup import write_dense

    from mobilellm_mlx.backend import mx, tree_flatten
    from mobilellm_mlx.cli.shared import resolve_model
    from mobilellm_mlx.models import LanguageModel, build_config

    if not quick:
        return write_dense(resolve_model(None), directory)
    directory.mkdir()
    mx.random.seed(0)
    parameters = dict(tree_flatten(LanguageModel(build_config(QUICK)).parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), parameters, {"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(QUICK))
    return directory


def run(trainer: str, job: Result) -> Result:
    """One training in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", trainer, json.dumps(job)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{trainer} failed:\n{done.stderr[-2000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def rows_of(job: Result, vocab_size: int) -> list[list[int]]:
    """One batch of made-up tokens; it is learned at every step."""
    draw = random.Random(0)
    return [
        [draw.randrange(vocab_size) for _ in range(job["length"])] for _ in range(job["batch_size"])
    ]


def train_ours(job: Result, trainer: str) -> Result:
    """Some steps of our loop."""
    from mobilellm_mlx import weights
    from mobilellm_mlx.backend import mx
    from mobilellm_mlx.events import TrainStep
    from mobilellm_mlx.loading import build_model
    from mobilellm_mlx.models import build_config
    from mobilellm_mlx.models.lora import LoraSpec, attach, find_modules
    from mobilellm_mlx.training.checkpoint import Checkpoints
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.data.example import Example
    from mobilellm_mlx.training.loop import Trainer

    directory = Path(job["model"])
    config = build_config(json.loads((directory / "config.json").read_text()))
    tensors = weights.load_tensors(weights.weight_files(directory))
    model = build_model(config, tensors, None, "dense")
    del tensors
    attach(model, LoraSpec("lora", RANK, SCALE, find_modules(model, ("*_proj",), "all")))
    mx.eval(model.parameters())
    unlearned = max(1, job["prompt"])
    learned = bytes([0] * unlearned + [1] * (job["length"] - unlearned))
    examples = [Example(array("i", row), learned) for row in rows_of(job, config.vocab_size)]
    options = TrainConfig(
        rank=RANK, alpha=RANK * SCALE, batch_size=job["batch_size"], steps=job["steps"] + 1,
        learning_rate=1e-4, max_tokens=job["length"],
        **(SMALL_OPTIONS if trainer == "small" else {}),
    )  # fmt: skip
    mx.reset_peak_memory()
    with tempfile.TemporaryDirectory() as scratch:
        loop = Trainer(model, options, examples, [], Checkpoints(Path(scratch)))
        clock, steps = [], []
        for event in loop.run():
            if isinstance(event, TrainStep):
                steps.append(event)
                clock.append(time.process_time())
    return {
        "tok_per_s": [step.tok_per_s for step in steps[1:]],
        "cpu_s": (clock[-1] - clock[0]) / job["steps"],
        "peak_bytes": steps[-1].peak_memory_bytes,
        "loss": steps[0].loss,
    }


def train_peer(job: Result) -> Result:
    """As many steps of mlx-lm's, under our BLAS."""
    from mobilellm_mlx.backend import mx, optim  # isort: skip  # before mlx-lm loads the slow BLAS
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, config = load_model(Path(job["model"]))
    model.freeze()
    lora = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": list(MODULES)}
    linear_to_lora_layers(model, len(model.layers), lora)
    mx.eval(model.parameters())
    clock: list[float] = []
    reports: list[Result] = []

    class Reports(TrainingCallback):  # type: ignore[misc]
        def on_train_loss_report(self, train_info: Result) -> None:
            reports.append(train_info)
            clock.append(time.process_time())

    mx.reset_peak_memory()
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainingArgs(
            batch_size=job["batch_size"], iters=job["steps"] + 1, steps_per_report=1,
            max_seq_length=job["length"], adapter_file=f"{scratch}/adapters.safetensors",
        )  # fmt: skip
        rows = [(row, job["prompt"]) for row in rows_of(job, config["vocab_size"])]
        train(model, optim.AdamW(1e-4), rows, args=options, training_callback=Reports())
    tokens = job["batch_size"] * job["length"]
    return {
        "tok_per_s": [tokens * each["iterations_per_second"] for each in reports[1:]],
        "cpu_s": (clock[-1] - clock[0]) / job["steps"],
        "peak_bytes": mx.get_peak_memory(),
        "loss": reports[0]["train_loss"],
    }


def require_same_loss(results: dict[str, list[Result]]) -> None:
    """Before anything is learned all of them must judge the same: else they do different things."""
    losses = [result["loss"] for runs in results.values() for result in runs]
    if max(losses) - min(losses) > AGREEMENT:
        raise SystemExit(f"the first losses differ: {losses}")


def print_result(
    results: dict[str, dict[str, list[Result]]], arguments: argparse.Namespace
) -> None:
    """A table for people, a line of JSON for programs."""
    from mobilellm_mlx.backend import BLAS

    told: Result = {
        "benchmark": "train", "model": "quick" if arguments.quick else "default",
        "batch_size": arguments.batch_size, "length": arguments.length, "rank": RANK,
        "repeats": arguments.repeats, "steps": arguments.steps, "blas": BLAS.name,
    }  # fmt: skip
    print(
        f"LoRA of rank {RANK}, {arguments.batch_size} x {arguments.length} tokens, float32, "
        f"{platform.machine()}, {os.cpu_count()} cores, BLAS: {BLAS.name}"
    )
    head = ("min", "tok/s", "max", "ratio", "CPU s", "ratio", "peak MB", "ratio")
    print(f"{'':<32}" + "".join(f"{word:>8}" for word in head))
    for lesson, runs in results.items():
        for label, of in runs.items():
            figures = figures_of(of, runs[PEER])
            told[f"{lesson}, {label}"] = figures
            slowest, speed, fastest, *rest = figures.values()
            print(
                f"{f'{lesson}: {label}':<32}{slowest:>8.1f}{speed:>8.1f}{fastest:>8.1f}"
                "{:>8.2f}{:>8.2f}{:>8.2f}{:>8.0f}{:>8.2f}".format(*rest)
            )
    for words, is_met in verdicts(told):
        print(f"target: {words}: {'met' if is_met else 'missed'}")
    print(json.dumps(told))


def figures_of(runs: list[Result], peer: list[Result]) -> dict[str, float]:
    """Medians of some runs; ratios are those of runs that came one after the other."""
    speeds = [speed for each in runs for speed in each["tok_per_s"]]
    pairs = list(zip(runs, peer, strict=True))
    return {
        "min": min(speeds),
        "tok_per_s": median(speeds),
        "max": max(speeds),
        "speed_ratio": median(
            median(own["tok_per_s"]) / median(its["tok_per_s"]) for own, its in pairs
        ),
        "cpu_s": median(each["cpu_s"] for each in runs),
        "cpu_ratio": median(own["cpu_s"] / its["cpu_s"] for own, its in pairs),
        "peak_mb": median(each["peak_bytes"] for each in runs) / 1e6,
        "peak_ratio": median(own["peak_bytes"] / its["peak_bytes"] for own, its in pairs),
    }


def verdicts(told: Result) -> list[tuple[str, bool]]:
    """What is aimed at, like for like, and whether it is so."""
    ours, small = told[f"whole, {OURS}"], told[f"whole, {SMALL}"]
    return [
        ("at least the speed", ours["speed_ratio"] >= 1),
        (f"at most {TARGETS[OURS]:.1f} x the memory", ours["peak_ratio"] <= TARGETS[OURS]),
        (f"at most {TARGETS[SMALL]:.1f} x with checkpoints", small["peak_ratio"] <= TARGETS[SMALL]),
    ]


if __name__ == "__main__":
    main()
