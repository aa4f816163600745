"""The one door to MLX: whoever needs it says ``from mobilellm_mlx.backend import mx``.

The Linux CPU wheel of MLX bundles the reference BLAS, some forty times slower than it need be; here
a fast one takes its place (see ``blas.py``), so that no product runs on the slow one. Nothing of
this happens on macOS, where MLX uses Metal and Accelerate.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from mobilellm_mlx.blas import Blas, load_fast_blas
from mobilellm_mlx.errors import InsufficientMemory, MobileLLMError, format_bytes

try:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.utils import tree_flatten, tree_map, tree_unflatten
except ImportError as error:  # mlx's Linux wheels come without a backend unless an extra names one
    raise MobileLLMError(
        f"MLX cannot be imported: {error}",
        "on Linux `pip install 'mlx[cpu]'` or `'mlx[cuda13]'`; on macOS use a native "
        "arm64 Python (not Rosetta)",
    ) from error

BLAS: Blas = load_fast_blas()
"""The BLAS that CPU matrix products use."""

__all__ = [
    "BLAS",
    "Backend",
    "backend",
    "fused",
    "mx",
    "nn",
    "optim",
    "tree_flatten",
    "tree_map",
    "tree_unflatten",
]

BackendName = Literal["metal", "cuda", "cpu"]
_Function = TypeVar("_Function", bound=Callable[..., mx.array])

ALLOCATION_FAILURE = re.compile(
    r"unable to allocate|out of memory|insufficient memory|maximum allowed buffer size"
    r"|malloc.*fail|resource limit|bad_alloc|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
"""How MLX's backends word a failed allocation; they raise plain RuntimeErrors."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What differs between the machines this runs on."""

    name: BackendName
    prefill_chunk: int
    """Tokens of a prompt handled at once: between chunks a job can be cancelled."""
    look_ahead: bool
    """Whether one decode step is kept in flight. On a CPU ``async_eval`` waits for all but its last
    few operations, so a step ahead would only show every token one step late."""
    default_compute: Literal["packed", "dense"]
    """CPU kernels for packed 4-bit prefill about twenty times slower than unpacked float32."""
    half_precision: bool
    """Whether 16-bit arithmetic is fast; on x86 CPUs MLX emulates it, some thirty times slower."""


BACKENDS: dict[BackendName, Backend] = {
    "metal": Backend("metal", 2048, look_ahead=True, default_compute="packed", half_precision=True),
    "cuda": Backend("cuda", 2048, look_ahead=True, default_compute="packed", half_precision=True),
    "cpu": Backend("cpu", 256, look_ahead=False, default_compute="dense", half_precision=False),
}


def backend() -> Backend:
    """The backend of MLX's default device."""
    return BACKENDS[_select(mx.default_device() == mx.Device(mx.gpu), sys.platform)]


def _select(on_gpu: bool, platform: str) -> BackendName:
    if not on_gpu:
        return "cpu"
    return "metal" if platform == "darwin" else "cuda"


def fused(function: _Function) -> _Function:
    """Compile a chain of element-wise operations into one kernel where that pays: on a GPU.

    On Linux CPUs ``mx.compile`` starts a C++ compiler at run time (a second or more before the
    first token) or, where there is none, silently runs eagerly.
    """
    compiled = mx.compile(function, shapeless=True)

    def call(*arrays: mx.array) -> mx.array:
        return function(*arrays) if backend().name == "cpu" else compiled(*arrays)

    return call  # type: ignore[return-value]


def available_memory_bytes() -> int:
    """Memory that a new job may take without pushing others out.

    The least of what the system says is available, what the container is allowed, and, on a GPU,
    what the device recommends. (Unified memory: on a Mac the first and the last are the same pool.)
    """
    bounds = [_system_available_bytes()]
    if (limit := _container_headroom_bytes()) is not None:
        bounds.append(limit)
    if backend().name != "cpu":
        info = mx.device_info()
        recommended = info.get("max_recommended_working_set_size") or info.get("memory_size")
        if recommended:
            bounds.append(int(recommended) - mx.get_active_memory())
    return max(0, min(bounds))


def _system_available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the system says; Linux without psutil, whose import takes longer than all of this."""
    with suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


def _container_headroom_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((root / "memory.max").read_text())
        return limit - int((root / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return None


@contextmanager
def allocation_errors(doing: str) -> Iterator[None]:
    """Turn the backend's failed allocations into an error that says what can be done.

    Raises:
        InsufficientMemory: when the body ran out of memory.
    """
    try:
        yield
    except MemoryError as error:
        raise InsufficientMemory(f"out of memory while {doing}") from error
    except RuntimeError as error:
        if ALLOCATION_FAILURE.search(str(error)):
            held = format_bytes(mx.get_active_memory())
            raise InsufficientMemory(f"out of memory while {doing} ({held} held)") from error
        raise


def as_number(array: mx.array) -> float:
    """The number in an array of one element, computed if need be."""
    return float(array.item())  # type: ignore[arg-type]


def device_name() -> str:
    """The chip, as the backend names it."""
    info = mx.device_info()
    return str(info.get("device_name") or info.get("architecture") or os.uname().machine)
