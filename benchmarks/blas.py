"""Prefill and decode on a Linux CPU with MLX's bundled BLAS and with the fast one.

    python benchmarks/blas.py [--repeats 3] [--prompt-tokens 256] [--tokens 32]

The same command runs in alternation with ``MOBILELLM_BLAS=none`` and without it; everything else is
equal. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median

RATES = ("prefill_tok_per_s", "decode_tok_per_s")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()

    prompt = " one" * arguments.prompt_tokens  # one token each
    runs: dict[str, list[dict[str, float]]] = {"bundled": [], "fast": []}
    for _ in range(arguments.repeats):
        runs["bundled"].append(measure(prompt, arguments.tokens, {"MOBILELLM_BLAS": "none"}))
        runs["fast"].append(measure(prompt, arguments.tokens, {}))
    result: dict[str, object] = {"benchmark": "blas", "repeats": arguments.repeats}
    print(f"{'tok/s':<12}{'bundled':>10}{'fast':>10}{'ratio':>9}{'min':>9}{'max':>9}")
    for rate in RATES:
        slow, fast = ([run[rate] for run in runs[name]] for name in ("bundled", "fast"))
        ratios = sorted(b / a for a, b in zip(slow, fast, strict=True))
        name = rate.split("_")[0]
        figures = (median(slow), median(fast), median(ratios), ratios[0], ratios[-1])
        print(
            f"{name:<12}"
            + "".join(f"{f:>{w}.1f}" for f, w in zip(figures, (10, 10, 9, 9, 9), strict=True))
        )
        result[name] = dict(zip(("bundled", "fast", "ratio", "min", "max"), figures, strict=True))
    print(json.dumps(result))


def measure(prompt: str, tokens: int, environment: dict[str, str]) -> dict[str, float]:
    """The summary of one run."""
    command = [sys.executable, "-m", "mobilellm_mlx", "generate", "--raw", "-p", prompt, "--json"]
    output = subprocess.run(
        [*command, "--temp", "0", "--max-tokens", str(tokens)],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    summary: dict[str, float] = json.loads(output.splitlines()[-1])
    return summary


if __name__ == "__main__":
    main()
