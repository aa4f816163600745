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

CHECK = Path(__file__).parent / "check.cpp"
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
            program = compile_with(kind, extra, Path(scratch))
            failed |= subprocess.run([program, str(rounds)]).returncode
    return 1 if failed else 0


def compile_with(kind: str, extra: str, scratch: Path) -> Path:
    """The program that checks, under one kind of sanitizer."""
    flags = ["-std=c++20", "-O1", "-g", "-w", "-ffp-contract=fast", f"-fsanitize={kind}", extra]
    units = {f"path_{name}": (SOURCES / "path.cpp", [f"-DPATH={name}", *own])
             for name, own in _PATHS.items()}  # fmt: skip
    for path in (SOURCES / "choice.cpp", SOURCES / "threads.cpp", CHECK):
        units[path.stem] = path, [f"-I{SOURCES}"]
    objects = []
    for name, (source, own) in units.items():
        objects.append(scratch / f"{name}.o")
        command = ["g++", *flags, *own, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True)
    program = scratch / "check"
    subprocess.run(["g++", *flags, *map(str, objects), "-o", str(program)], check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
