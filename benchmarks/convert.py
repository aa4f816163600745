"""Converting a large checkpoint to 4 bits: memory against a bound, time against a floor.

    python benchmarks/convert.py [--size 1.5b] [--runs 3]

Makes a synthetic ``pytorch_model.bin`` of a published size (``synthetic.py``), then in alternation

- copies the file, as `cp` would;
- packs matrices of the same shapes with ``mx.quantize``, from memory to memory;
- converts the checkpoint with ``mobilellm convert``, without verification.

No converter that reads everything and packs everything can be faster than the first two together
by much. One more conversion runs with verification. The bound on memory is one shard of 512 MB and
the largest tensor, on top of what a process needs that only imports the converter.

All steps find the source in the page cache: it is read once before, so this measures work and not
the disk. What a step has written is flushed before the next one starts, outside the clock. The
conversion waits until its files are on the disk, the plain copy does not. Needs free disk of twice
the checkpoint and some, in the temporary directory, and memory to cache the source.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

SHARD_BYTES = 512_000_000
BITS, GROUP_SIZE = 4, 64
COPY, QUANTIZE = "plain copy of the source", "mx.quantize of its matrices"
CONVERT = "convert, not verified"
RATIO = "ratio, convert to copy + quantize"
PYTHON = [sys.executable, "-P"]  # else this file would be found as `convert` from its own folder
SYNTHETIC = Path(__file__).with_name("synthetic.py")


@dataclass(frozen=True, slots=True)
class Child:
    """What a process took."""

    elapsed_s: float
    peak_bytes: int
    """The most resident memory it had."""
    output: str


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="1.5b", choices=["125m", "350m", "600m", "1b", "1.5b"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quantize", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quantize:  # a child of this script, so that the parent stays small
        print(quantize_s(arguments.size))
        return
    with tempfile.TemporaryDirectory(prefix="mobilellm-bench-") as scratch:
        print_result(measure(Path(scratch), arguments.size, arguments.runs))


def measure(scratch: Path, size: str, runs: int) -> dict[str, Any]:
    """All figures, in seconds and bytes."""
    source, copy, target = scratch / "source", scratch / "copy.bin", scratch / "target"
    child([sys.executable, str(SYNTHETIC), str(source), "--size", size])
    checkpoint = source / "pytorch_model.bin"
    warm(checkpoint)
    times: dict[str, list[float]] = {COPY: [], QUANTIZE: [], CONVERT: [], RATIO: []}
    peaks = []
    for _ in range(runs):
        os.sync()
        times[COPY].append(seconds(lambda: shutil.copyfile(checkpoint, copy)))
        copy.unlink()
        quantize = child([sys.executable, __file__, "--quantize", "--size", size])
        times[QUANTIZE].append(float(quantize.output))
        os.sync()
        run = child(convert_command(source, target, verify=False))
        times[CONVERT].append(run.elapsed_s)
        times[RATIO].append(run.elapsed_s / (times[COPY][-1] + times[QUANTIZE][-1]))
        peaks.append(run.peak_bytes)
        written = sum(path.stat().st_size for path in target.iterdir())
        shutil.rmtree(target)
    os.sync()
    verified = child(convert_command(source, target, verify=True))
    summary = json.loads(verified.output.splitlines()[-1])
    return {
        "size": size,
        "runs": runs,
        "times": times,
        "source_bytes": checkpoint.stat().st_size,
        "written_bytes": written,
        "peak_bytes": max(peaks),
        "import_bytes": child([*PYTHON, "-c", "import convert.job"]).peak_bytes,
        "largest_bytes": largest_bytes(source),
        "verify_s": summary["verify_s"],
        "verified_tokens": summary["verified_tokens"],
        "verified_peak_bytes": verified.peak_bytes,
    }


def convert_command(source: Path, target: Path, *, verify: bool) -> list[str]:
    """The verb, as a person types it."""
    command = [*PYTHON, "-m", "mobilellm_mlx", "convert", str(source), "-o", str(target)]
    command += ["--bits", str(BITS), "--group-size", str(GROUP_SIZE), "--json"]
    return command if verify else [*command, "--no-verify"]


def warm(path: Path) -> None:
    """Read a file once, into the page cache."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def child(command: list[str]) -> Child:
    """Run a process to its end.

    ``wait4`` tells one child from the others. Linux counts the memory of the parent at the start
    into the child's peak, so this script must stay smaller than what it measures: it imports
    nothing large, and files are copied inside the kernel.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"failed: {' '.join(command)}")
        output.seek(0)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Child(elapsed, peak, output.read().decode())


def largest_bytes(source: Path) -> int:
    """Bytes of the largest tensor, the embedding, as it is stored."""
    config = json.loads((source / "config.json").read_text())
    return int(config["vocab_size"] * config["hidden_size"] * 2)


def quantize_s(size: str) -> float:
    """Seconds that MLX takes to pack matrices of the checkpoint's shapes, one by one."""
    from synthetic import published_config, tensor_shapes

    from mobilellm_mlx.backend import mx

    matrices: dict[tuple[int, ...], mx.array] = {}
    total = 0.0
    for shape in tensor_shapes(published_config(size)).values():
        if len(shape) != 2:
            continue
        if shape not in matrices:
            matrices[shape] = mx.random.normal(shape, scale=0.02).astype(mx.bfloat16)
            mx.eval(matrices[shape])
        matrix = matrices[shape]
        total += seconds(lambda m=matrix: mx.eval(mx.quantize(m, GROUP_SIZE, BITS)))
    return total


def print_result(result: dict[str, Any]) -> None:
    """A table for people, a line of JSON for programs."""
    times, bound = result["times"], SHARD_BYTES + result["largest_bytes"]
    own = result["peak_bytes"] - result["import_bytes"]
    verifying = result["verified_peak_bytes"] - result["import_bytes"]
    print(
        f"MobileLLM-{result['size']}, {result['source_bytes'] / 1e9:.2f} GB of bfloat16 to "
        f"{result['written_bytes'] / 1e9:.2f} GB in {BITS} bits, {platform.machine()}, "
        f"{os.cpu_count()} cores"
    )
    print(f"{'seconds':<40}{'min':>9}{'median':>9}{'max':>9}")
    for label, values in times.items():
        print(f"{label:<40}{min(values):>9.2f}{median(values):>9.2f}{max(values):>9.2f}")
    label = f"verification, one run, {result['verified_tokens']} tokens"
    print(f"{label:<40}{'':>9}{result['verify_s']:>9.2f}")
    print(f"{'peak memory':<40}{'MB':>9}")
    for label, count in (
        ("a process that imports the converter", result["import_bytes"]),
        ("the conversion", result["peak_bytes"]),
        ("the conversion beyond importing", own),
        ("bound: a shard and the largest tensor", bound),
        ("the conversion with verification", result["verified_peak_bytes"]),
        ("the same beyond importing", verifying),
    ):
        print(f"{label:<40}{count / 1e6:>9.0f}")
    verdict, verified = ("met" if count <= bound else "missed" for count in (own, verifying))
    print(f"bound on memory: {verdict} by the conversion, {verified} with verification")
    spread = {name: [min(values), median(values), max(values)] for name, values in times.items()}
    figures = {name: value for name, value in result.items() if name != "times"}
    print(
        json.dumps(
            {"benchmark": "convert", "min_median_max": spread, **figures, "bound_bytes": bound}
        )
    )


if __name__ == "__main__":
    main()
