"""mlx-lm, as ``serve`` asks for it: its own network, cache, generation loop."""

from __future__ import annotations

import io
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

_STEPS, _MOST_S = 20, 10.0
"""Steps of one kind, fewer when they take longer than so many seconds."""


def start(directory: str, same_blas: bool, threads: int | None) -> MlxLm:
    """Load a model.

    Args:
        directory: that mlx-lm reads.
        same_blas: take ours, which has to be there before MLX is; else MLX's own.
        threads: that were asked for.
    """
    blas = "MLX's own"
    if same_blas:
        from mobilellm_mlx.backend import BLAS

        blas = BLAS.name
    return MlxLm(Path(directory), blas, threads)


class MlxLm:
    """A model of mlx-lm's."""

    def __init__(self, directory: Path, blas: str, threads: int | None):
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model

        self._mx, self._make_cache = mx, make_prompt_cache
        started = time.perf_counter()
        self._model, config = load_model(directory)
        self._model.eval()
        load_s = time.perf_counter() - started
        cache = make_prompt_cache(self._model)
        init_s = self._step(cache)
        packing = config.get("quantization")
        self.about = {
            "engine": "mlx-lm",
            "version": f"{version('mlx-lm')}, MLX {version('mlx')}",
            "form": "packed" if packing else "unpacked",
            "dtype": _dtype(self._model),
            "blas": blas,
            "threads": threads,
            "load_s": load_s,
            "init_s": init_s,
            "execute_s": self._several(cache),
        }

    def _several(self, cache: Any) -> list[float]:
        times: list[float] = []
        while len(times) < _STEPS and sum(times) < _MOST_S:
            times.append(self._step(cache))
        return times

    def _step(self, cache: Any) -> float:
        """Seconds of one forward pass of one token."""
        mx = self._mx
        started = time.perf_counter()
        mx.eval(self._model(mx.array([[1]]), cache=cache))
        return time.perf_counter() - started

    def run(
        self, depth: list[int], prompt: list[int], batch: int, generate: int
    ) -> tuple[float, list[float]]:
        """Seconds to the first token after a prompt, and from each to the next."""
        from mlx_lm.generate import generate_step

        mx, cache = self._mx, self._make_cache(self._model)
        if depth:
            self._fill([depth] * batch, cache)
        started = time.perf_counter()
        if batch > 1:
            stamps = self._batch(prompt, batch, generate, cache)
        else:
            steps = generate_step(
                mx.array(prompt), self._model, max_tokens=generate + 1, prompt_cache=cache
            )
            stamps = [time.perf_counter() for _ in steps]
        mx.clear_cache()
        return stamps[0] - started, [b - a for a, b in pairwise(stamps)]

    def _fill(self, rows: list[list[int]], cache: Any, chunk: int = 2048) -> None:
        for begin in range(0, len(rows[0]), chunk):
            part = [row[begin : begin + chunk] for row in rows]
            self._model(self._mx.array(part), cache=cache)
            self._mx.eval([layer.state for layer in cache])

    def _batch(self, prompt: list[int], batch: int, generate: int, cache: Any) -> list[float]:
        """The same loop over several sequences, which its own does not take."""
        mx, stamps = self._mx, []
        tokens = mx.array([prompt] * batch)
        for _ in range(generate + 1):
            tokens = mx.argmax(self._model(tokens, cache=cache)[:, -1], axis=-1)[:, None]
            mx.eval(tokens)
            stamps.append(time.perf_counter())
        return stamps

    def count(self, depth: int) -> dict[str, Any]:
        """Primitives of one decode step and seconds that Python takes to ask for them."""
        mx, cache = self._mx, self._make_cache(self._model)
        self._fill([[1] * max(depth, 1)], cache)
        host: list[float] = []
        text = io.StringIO()
        begun = time.perf_counter()
        while len(host) < _STEPS and (not host or time.perf_counter() - begun < _MOST_S):
            token = mx.array([1])
            mx.eval(token)
            started = time.perf_counter()
            # What `generate_step` does for each token, greedily.
            logits = self._model(token[None], cache=cache)[:, -1, :]
            logprobs = logits - mx.logsumexp(logits, keepdims=True)
            chosen = mx.argmax(logprobs, axis=-1)
            host.append(time.perf_counter() - started)
            if not text.getvalue():
                mx.export_to_dot(text, chosen, logprobs)
            mx.eval(chosen, logprobs)
        return {"primitives": count_primitives(text.getvalue()), "host_s": host}

    def device_peak_bytes(self) -> int:
        """The most that MLX held."""
        return int(self._mx.get_peak_memory())


def count_primitives(dot: str) -> int:
    """Primitives in a graph that MLX exported: boxes, where arrays are ellipses or bare names."""
    return sum("shape=rectangle" in line for line in dot.splitlines())


def _dtype(model: Any) -> str:
    from mlx.utils import tree_flatten

    names = [str(array.dtype) for name, array in tree_flatten(model.parameters()) if "norm" in name]
    return names[0].removeprefix("mlx.core.") if names else "unknown"
