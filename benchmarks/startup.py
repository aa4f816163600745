"""Process start to first token, beside ``mlx_lm.generate``.

    make bench                       (python benchmarks/startup.py [--repeats 7] [--as-installed])

Both programs get the same prompt, the same weights unpacked to float32, the same BLAS and greedy
decoding, and run in alternation; so the ratio is about start-up and nothing else. What is timed is
the first byte of the answer on stdout. ``--as-installed`` adds mlx-lm as a user finds it on a Linux
CPU: packed float16 weights and the BLAS of the wheel (slow: one run each).

Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

PROMPT = "What is the capital of France?"
TARGET = 0.4


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--as-installed", action="store_true", help="also time the bare mlx-lm")
    arguments = parser.parse_args()

    from mobilellm_mlx.backend import BLAS
    from mobilellm_mlx.cli.shared import resolve_model

    packed = resolve_model(None)
    with tempfile.TemporaryDirectory(prefix="mobilellm-bench-") as scratch:
        dense = write_dense(packed, Path(scratch) / "dense")
        ours = lambda: first_byte_s(our_command(packed), skip=0)  # noqa: E731
        peer = lambda: first_byte_s(peer_command(dense, same_blas=True), skip=1)  # noqa: E731
        ours(), peer()  # warm the page cache
        pairs = [(ours(), peer()) for _ in range(arguments.repeats)]
        extra = None
        if arguments.as_installed:
            extra = first_byte_s(peer_command(packed, same_blas=False), skip=1)
    print_result(pairs, extra, BLAS.name)


def write_dense(packed: Path, directory: Path) -> Path:
    """The same weights as float32 for the peer, which cannot unpack them itself on loading."""
    from mobilellm_mlx import weights
    from mobilellm_mlx.backend import mx

    config = json.loads((packed / "config.json").read_text())
    table = weights.read_quantization(config)
    shutil.copytree(packed, directory, ignore=shutil.ignore_patterns("model*.safetensors"))
    tensors = weights.load_tensors(weights.weight_files(packed))
    unpacked = weights.unpack_tensors(tensors, table, mx.float32)
    mx.save_safetensors(str(directory / "model.safetensors"), unpacked, {"format": "mlx"})
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    config["torch_dtype"] = "float32"
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def our_command(directory: Path) -> list[str]:
    """Our one-shot verb."""
    command = [sys.executable, "-m", "mobilellm_mlx", "generate", "-m", str(directory)]
    return [*command, "-p", PROMPT, "--temp", "0", "--max-tokens", "8"]


def peer_command(directory: Path, *, same_blas: bool) -> list[str]:
    """mlx-lm's one-shot verb, with our BLAS loaded first or as it is."""
    arguments = ["--model", str(directory), "--prompt", PROMPT, "--temp", "0", "--max-tokens", "8"]
    first = "import mobilellm_mlx.backend; " if same_blas else ""
    code = f"{first}from mlx_lm.generate import main; main()"  # what its console script does
    return [sys.executable, "-c", code, *arguments]


def first_byte_s(command: list[str], *, skip: int, env: Mapping[str, str] = os.environ) -> float:
    """Seconds from starting the process to the first byte after ``skip`` lines of stdout."""
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**env, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
    ) as process:
        assert process.stdout is not None
        for _ in range(skip):
            process.stdout.readline()
        got = process.stdout.read(1)
        elapsed = time.perf_counter() - started
        process.stdout.read()
    if process.returncode != 0 or not got:
        raise SystemExit(f"failed: {' '.join(command)}")
    return elapsed


def print_result(pairs: list[tuple[float, float]], extra: float | None, blas: str) -> None:
    """A table for people, a line of JSON for programs."""
    ratios = sorted(ours / peer for ours, peer in pairs)
    columns: dict[str, Callable[[list[float]], float]] = {
        "min": min,
        "median": median,
        "max": max,
    }
    rows = {
        "mobilellm generate (s)": [ours for ours, _ in pairs],
        "mlx_lm.generate, same BLAS, dense (s)": [peer for _, peer in pairs],
        "ratio": ratios,
    }
    print(f"start to first token, {platform.machine()}, {os.cpu_count()} cores, BLAS: {blas}")
    print(f"{'':<40}" + "".join(f"{name:>9}" for name in columns))
    for label, values in rows.items():
        print(f"{label:<40}" + "".join(f"{reduce(values):>9.3f}" for reduce in columns.values()))
    if extra is not None:
        print(f"{'mlx_lm.generate as installed (s)':<40}{'':>9}{extra:>9.3f}")
    verdict = "met" if median(ratios) <= TARGET else "missed"
    print(f"target: ratio at most {TARGET}: {verdict}")
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "ours_s": median(rows["mobilellm generate (s)"]),
                "peer_s": median(rows["mlx_lm.generate, same BLAS, dense (s)"]),
                "ratio": median(ratios),
                "ratio_min": ratios[0],
                "ratio_max": ratios[-1],
                "repeats": len(pairs),
                "peer_as_installed_s": extra,
                "blas": blas,
            }
        )
    )


if __name__ == "__main__":
    main()
