"""Builds the kernels for the Python and the MLX that are installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx.errors import MobileLLMError
from mobilellm_mlx.kernels.place import FILE, LENGTH, SOURCES, directory

_KEPT = 6
_WORK = ".building-"
_NO_HEADERS = "install them (Debian, Ubuntu: `apt install python3-dev`) or go on without kernels"
NANOBIND = 3
"""The first version whose arrays are those of MLX's own module."""

# fmt: off
_FLAGS = [
    "-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno",
    "-DNDEBUG",
    # GCC's own headers of AVX-512 look uninitialised to it.
    "-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unused-parameter",
]
# fmt: on
_AVX512 = ["-DLANES=16", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
_PATHS = {
    "vnni": [*_AVX512, "-mavx512vnni"],
    "avx512": _AVX512,
    "avx2": ["-DLANES=8", "-mavx2", "-mfma"],
    "plain": ["-DLANES=4"],
}
_CHECK = """
import importlib.util, sys
from mobilellm_mlx.backend import mx
spec = importlib.util.spec_from_file_location("_kernels", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for path in module.paths():
    module.choose(path)
    for bits, group, tokens in ((4, 32, 3), (4, 64, 1), (8, 32, 1), (8, 64, 30)):
        matrix = mx.quantize(mx.random.normal((50, 192)), group_size=group, bits=bits)
        x = mx.random.normal((tokens, 192))
        right = mx.quantized_matmul(x, *matrix, True, group, bits)
        found = module.quantized_matmul(x, *matrix, group, bits)
        assert mx.allclose(found, right, atol=1e-4).item(), path
"""


def require_tools() -> None:
    """Refuse at once what could not be built.

    Raises:
        MobileLLMError: saying what is missing.
    """
    if sys.platform != "linux":
        raise MobileLLMError(
            f"there are no kernels for {sys.platform}",
            "none are needed on macOS: there Metal computes",
        )
    _Tools.find()


def build() -> Path:
    """Compile the kernels, try them in a process of their own, and put them in their place.

    Raises:
        MobileLLMError: when they cannot be built here.
    """
    require_tools()
    tools = _Tools.find()
    place = directory()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=place.parent) as scratch:
        work = Path(scratch)
        commands = tools.commands(work)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        objects = [command[-1] for command in commands]
        library = [f"-L{tools.mlx / 'lib'}", "-lmlx"]  # loaded before, by `mlx.core`
        _run([*tools.compiler, "-shared", "-o", str(work / FILE), *objects, *library])
        for built in work.glob("*.o"):
            built.unlink()
        _try_out(work / FILE)
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)
        (work / FILE).chmod(0o700)
        (work / LENGTH).write_text(str((work / FILE).stat().st_size), "ascii")
        for name in (FILE, LENGTH):
            with (work / name).open("rb") as made:
                os.fsync(made.fileno())
            (work / name).replace(place / name)
    _tidy(place.parent)
    return place / FILE


def _tidy(root: Path) -> None:
    """Other environments may share the cache: the last few stay, about a megabyte each.

    What a build that was killed left goes when no build can be at it any more.
    """
    found = sorted(root.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    left = [old for old in found if old.name.startswith(_WORK)]
    long_ago = time.time() - 3600
    dead = [old for old in left if old.stat().st_mtime < long_ago]
    for old in [*dead, *[old for old in found if old not in left][_KEPT:]]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Tools:
    """What building takes."""

    compiler: list[str]
    nanobind: Path
    mlx: Path

    @classmethod
    def find(cls) -> _Tools:
        wanted = os.environ.get("CXX", "").strip()
        compiler = shlex.split(wanted) if wanted else [shutil.which("g++") or "g++"]
        if not shutil.which(compiler[0]):
            raise MobileLLMError(
                f"there is no C++ compiler `{compiler[0]}`",
                "CXX says which one is taken; without it that is g++"
                if wanted
                else "install one (Debian, Ubuntu: `apt install g++`) or go on without kernels",
            )
        nanobind = _package("nanobind")
        if nanobind is None or _major("nanobind") < NANOBIND:
            raise MobileLLMError(
                f"nanobind {NANOBIND}, which joins the kernels to Python, is not installed",
                f'`pip install "nanobind>={NANOBIND}"`',
            )
        mlx = _package("mlx")
        if mlx is None or not (mlx / "include" / "mlx" / "mlx.h").is_file():
            raise MobileLLMError(
                "the installed MLX came without its C++ headers", "install MLX from its wheel"
            )
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            raise MobileLLMError(
                "this Python came without its C headers",
                _NO_HEADERS,
            )
        return cls(compiler, nanobind, mlx)

    def commands(self, work: Path) -> list[list[str]]:
        """One for each object, whose path comes last; the longest first."""
        include = [
            f"-I{self.mlx / 'include'}",
            f"-I{sysconfig.get_path('include')}",
            f"-isystem{self.nanobind / 'include'}",
            f"-isystem{self.nanobind / 'ext' / 'robin_map' / 'include'}",
            "-DNB_DOMAIN=mlx",
            "-DNB_COMPACT_ASSERTIONS",
        ]
        binding = self.nanobind / "src" / "nb_combined.cpp"
        units = [("nanobind", binding, [*include, "-fno-strict-aliasing", "-w"])]
        names = ("module", "stack", "matmul", "choice", "threads", "pages")
        units += [(name, SOURCES / f"{name}.cpp", include) for name in names]
        is_x86 = platform.machine() in ("x86_64", "AMD64")
        units += [
            (path, SOURCES / "path.cpp", [f"-DPATH={path}", *flags])
            for path, flags in _PATHS.items()
            if is_x86 or path == "plain"
        ]
        return [
            [*self.compiler, *_FLAGS, *flags, "-c", str(source), "-o", str(work / f"{name}.o")]
            for name, source, flags in units
        ]


def _package(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _major(name: str) -> int:
    try:
        return int(importlib.metadata.version(name).split(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return 0


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        said = (errors or done.stderr.splitlines() or ["nothing was said"])[0]
        raise MobileLLMError(f"the kernels could not be compiled: {said[:300]}", _hint(said))
    if not Path(command[command.index("-o") + 1]).is_file():
        raise MobileLLMError(
            f"the kernels could not be compiled: `{command[0]}` made nothing",
            "CXX says which compiler is taken; without it that is g++",
        )


def _hint(said: str) -> str:
    if "Python.h" in said:
        return _NO_HEADERS
    return "GCC 12 or newer is needed; everything works without kernels, only slower"


def _try_out(path: Path) -> None:
    """In another process: an illegal instruction would end this one."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CHECK, str(path)],  # -P: no module from where people are
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        said = (done.stderr.splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise MobileLLMError(
            f"the kernels were built and do not work here: {said[:300]}",
            "please report this; everything works without kernels, only slower",
        )
