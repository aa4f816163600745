"""Process start to first token, beside ``mlx_lm.generate``.

    make bench                       (python benchmarks/startup.py [--repeats 7] [--as-installed])

Three runs in alternation, all with the same prompt, the same BLAS and greedy decoding:

- ours and mlx-lm's from the same files, weights as float32: about start-up and nothing else;
- ours from the 4-bit files, as people have them: unpacking included.

What is timed is the first byte of the answer on stdout. ``--as-installed`` adds mlx-lm as a user
finds it on a Linux CPU: packed float16 weights and the BLAS of the wheel (slow: one run).

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
from collections.abc import Mapping
from pathlib import Path
from statistics import median

PROMPT = "What is the capital of France?"
TARGET = 0.4
OURS = "mobilellm, same float32 files"
OURS_PACKED = "mobilellm, 4-bit files"
PEER = "mlx_lm.generate, float32 files"


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
        commands = {
            OURS: (our_command(dense), 0),
            OURS_PACKED: (our_command(packed), 0),
            PEER: (peer_command(dense, same_blas=True), 1),
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for turn in range(arguments.repeats + 1):
            for label, (command, skip) in commands.items():
                elapsed = first_byte_s(command, skip=skip)
                if turn:  # the first one only warms the page cache
                    times[label].append(elapsed)
        extra = None
        if arguments.as_installed:
            extra = first_byte_s(peer_command(packed, same_blas=False), skip=1)
    print_result(times, extra, BLAS.name)


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


def print_result(times: dict[str, list[float]], extra: float | None, blas: str) -> None:
    """A table for people, a line of JSON for programs."""
    rows = dict(times)
    for label in (OURS, OURS_PACKED):
        pairs = zip(times[label], times[PEER], strict=True)
        rows[f"ratio, {label}"] = [ours / peer for ours, peer in pairs]
    print(f"start to first token (s), {platform.machine()}, {os.cpu_count()} cores, BLAS: {blas}")
    print(f"{'':<40}{'min':>9}{'median':>9}{'max':>9}")
    for label, values in rows.items():
        print(f"{label:<40}{min(values):>9.3f}{median(values):>9.3f}{max(values):>9.3f}")
    if extra is not None:
        print(f"{'mlx_lm.generate as installed':<40}{'':>9}{extra:>9.3f}")
    ratio = median(rows[f"ratio, {OURS}"])
    verdict = "met" if ratio <= TARGET else "missed"
    print(f"target: ratio at most {TARGET} from the same files: {verdict}")
    result = {label: [min(values), median(values), max(values)] for label, values in rows.items()}
    print(
        json.dumps(
            {
                "benchmark": "startup",
                "min_median_max": result,
                "repeats": len(times[OURS]),
                "peer_as_installed_s": extra,
                "blas": blas,
            }
        )
    )


if __name__ == "__main__":
    main()
