"""Process start to first token, beside ``mlx_lm.generate``: a table of ``benchmark.startup``.

    make bench                       (python benchmarks/startup.py [--repeats 7] [--as-installed])

Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict

from mobilellm_mlx.benchmark.startup import REPEATS, StartupResult, StartupTimes, iter_startup
from mobilellm_mlx.cli.shared import resolve_model


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--as-installed", action="store_true", help="also time the bare mlx-lm")
    arguments = parser.parse_args()
    for event in iter_startup(
        resolve_model(None), repeats=arguments.repeats, as_installed=arguments.as_installed
    ):
        if isinstance(event, StartupTimes):
            continue
        print_result(event)


def print_result(result: StartupResult) -> None:
    """A table for people, a line of JSON for programs."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, BLAS: {result.blas}"
    print(f"start to first token (s), {machine}")
    print(f"{'':<40}{'min':>9}{'median':>9}{'max':>9}")
    for row in result.rows:
        name = row["case"] if row["what"] == "seconds" else f"{row['what']}, {row['case']}"
        print(f"{name:<40}{row['min']:>9.3f}{row['median']:>9.3f}{row['max']:>9.3f}")
    verdict = "met" if result.is_met else "missed"
    print(f"target: ratio at most {result.target} from the same files: {verdict}")
    print(json.dumps({"benchmark": "startup", **asdict(result)}))


if __name__ == "__main__":
    main()
