"""How fast memory can be read here: what decoding is held to, which reads all weights each time.

The best of a few simple readings, for each is bound by something else as well: MLX sums and
searches a large array on its device; on a CPU the C library searches as many bytes with as many
threads as the kernels have, in pages as large as the system gives, for so the kernels' weights lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mobilellm_mlx.backend import available_memory_bytes, backend, mx

_SIZES = {"cpu": 256 << 20, "metal": 1 << 30, "cuda": 4 << 30}
"""Far larger than any cache, and on a GPU large enough that starting the work does not count."""
_TIMES = 5


def measure_bandwidth() -> tuple[float, str]:
    """Bytes a second, and how they were read."""
    size = min(_SIZES[backend().name], available_memory_bytes() // 4) // 4096 * 4096
    if size <= 0:
        return 0.0, "not measured: no memory is free"
    rates = _by_mlx(size)
    mx.clear_cache()
    if backend().name == "cpu":
        threads = _threads()
        rates[f"memchr with {threads} thread{'s' * (threads > 1)}"] = _search(size, threads)
    best = max(rates, key=lambda name: rates[name])
    return rates[best], f"{best} over {size >> 20} MiB, the best of {_TIMES}"


def _by_mlx(size: int) -> dict[str, float]:
    array = mx.ones((size // 4,), mx.float32)
    mx.eval(array)
    ways: dict[str, Callable[[], object]] = {
        "a sum by MLX": lambda: mx.eval(array.sum()),
        "a maximum by MLX": lambda: mx.eval(array.max()),
    }
    return {name: size / _quickest(way) for name, way in ways.items()}


def _quickest(way: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        way()
        times.append(time.perf_counter() - started)
    return min(times)


def _threads() -> int:
    from mobilellm_mlx.kernels import kernels

    module = kernels().module
    return int(module.threads()) if module else 1


def _search(size: int, threads: int) -> float:
    """Bytes a second of looking for a byte that is not there; it holds no lock of Python's."""
    library = ctypes.CDLL(None)
    library.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    library.memchr.restype = ctypes.c_void_p
    with mmap.mmap(-1, size) as pages:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                pages.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        # The address alone: pages that something refers to, if only a traceback, stay.
        return _searched(library, start, size, threads)


def _searched(library: ctypes.CDLL, start: int, size: int, threads: int) -> float:
    ctypes.memset(start, 1, size)  # pages that were never written are all the same one
    part = size // threads

    def read(index: int) -> None:
        library.memchr(start + index * part, 0, part)

    with ThreadPoolExecutor(threads) as pool:
        return part * threads / _quickest(lambda: list(pool.map(read, range(threads))))
