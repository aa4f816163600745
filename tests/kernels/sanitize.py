"""Run the kernels' arithmetic and threads under the compiler's sanitizers.

make sanitize                    (python tests/kernels/sanitize.py [--rounds 100])
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from mobilellm_mlx.kernels.build import _PATHS, SOURCES

HERE = Path(__file__).parent
JOBS = 20_000
KINDS = {"address,undefined": "-fno-sanitize-recover=all", "thread": "-Wno-tsan"}


def main() -> int:
    """Compile and run it once for each kind of sanitizer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    failed = 0
    for kind, extra in KINDS.items():
        print(f"-- {kind}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            flags = ["-O1", "-g", "-w", f"-fsanitize={kind}", extra]
            failed |= subprocess.run([compile_check(flags, Path(scratch)), str(rounds)]).returncode
            failed |= subprocess.run([compile_threads(flags, Path(scratch)), str(JOBS)]).returncode
    return 1 if failed else 0


def compile_check(flags: list[str], scratch: Path) -> Path:
    """The program that checks the arithmetic of every path."""
    flags = ["-std=c++20", "-ffp-contract=fast", *flags]
    objects = []
    for name, own in _PATHS.items():
        objects.append(scratch / f"{name}.o")
        source = [f"-DPATH={name}", *own, "-c", str(SOURCES / "path.cpp")]
        subprocess.run(["g++", *flags, *source, "-o", str(objects[-1])], check=True)
    sources = [HERE / "check.cpp", SOURCES / "choice.cpp", SOURCES / "threads.cpp"]
    return _link(flags, [*sources, *objects], scratch / "check")


def compile_threads(flags: list[str], scratch: Path) -> Path:
    """The program that checks the threads."""
    sources = [HERE / "threads.cpp", SOURCES / "threads.cpp"]
    return _link(["-std=c++20", *flags], sources, scratch / "threads")


def _link(flags: list[str], inputs: list[Path], program: Path) -> Path:
    command = ["g++", *flags, f"-I{SOURCES}", *map(str, inputs), "-pthread", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
