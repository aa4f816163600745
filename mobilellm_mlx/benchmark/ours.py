"""Our own network, as ``peers.serve`` asks for it: the loops of a chat, without its words."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from mobilellm_mlx import weights
from mobilellm_mlx.backend import (
    BLAS,
    allocation_errors,
    backend,
    device_name,
    mx,
    tree_flatten,
)
from mobilellm_mlx.benchmark.bandwidth import measure_bandwidth
from mobilellm_mlx.benchmark.peers.with_mlx_lm import count_primitives
from mobilellm_mlx.decoding.step import iter_prefill, iter_tokens
from mobilellm_mlx.errors import InsufficientMemory
from mobilellm_mlx.kernels import kernels
from mobilellm_mlx.loading import best_compute, build_model, plan_memory, read_json, read_weights
from mobilellm_mlx.models import Cache, LanguageModel, build_config
from mobilellm_mlx.models.accelerated import AcceleratedModel
from mobilellm_mlx.options import LoadOptions

_STEPS = 20


def start(directory: str, compute: str) -> Ours:
    """Load a model directory.

    Raises:
        MobileLLMError: one of its kinds, for whatever is wrong with it.
    """
    return Ours(Path(directory), LoadOptions(compute=compute))  # type: ignore[arg-type]


class Ours:
    """A network of ours.

    What ``load`` is here is the way from the files to weights in memory, in the form in which they
    are computed; ``init`` the first forward pass of one token, with whatever it prepares for those
    that follow; ``execute`` a later one, behind a few tokens.
    """

    def __init__(self, directory: Path, options: LoadOptions):
        plan = plan_memory(directory, options)
        if not plan.fits:
            raise InsufficientMemory(plan.arithmetic)
        raw = read_json(directory / "config.json")
        started = time.perf_counter()
        config, packing = build_config(raw), weights.read_quantization(raw)
        compute = best_compute(packing) if options.compute == "auto" else options.compute
        with allocation_errors("loading the model"):
            files = weights.weight_files(directory)
            # Not kept in a name: the kernels take copies, each at its turn.
            self._model = build_model(config, weights.load_tensors(files), packing, compute)
            read_weights(self._model)
        load_s = time.perf_counter() - started
        caches = self._model.make_cache()
        init_s = self._step(caches)
        self._kept: tuple[int, int, list[Cache]] | None = None
        self.about = {
            "engine": "mobilellm",
            "version": f"{version('mobilellm-mlx')}, MLX {version('mlx')}",
            "form": "packed" if compute == "packed" and packing else "unpacked",
            "dtype": str(self._model.dtype).removeprefix("mlx.core."),
            "blas": BLAS.name if backend().name == "cpu" else "none: the GPU computes",
            "threads": BLAS.threads if backend().name == "cpu" else None,
            "kernels": kernels().reason,
            "backend": backend().name,
            "device": device_name(),
            "bits": packing.default.bits if packing else None,
            "parameters": config.parameter_count(),
            "context": config.max_position_embeddings,
            "vocab_size": config.vocab_size,
            "weight_bytes": self._model.weight_bytes(),
            "step_bytes": step_bytes(self._model),
            "item_bytes": self._model.dtype.size,
            "kv_bytes_per_token": self._model.kv_bytes_per_token(),
            "load_s": load_s,
            "init_s": init_s,
            "execute_s": [self._step(caches) for _ in range(_STEPS)],
        }

    def _step(self, caches: Sequence[Cache]) -> float:
        """Seconds of one forward pass of one token."""
        started = time.perf_counter()
        mx.eval(self._model(mx.array([[1]]), caches))
        return time.perf_counter() - started

    def run(
        self, depth: list[int], prompt: list[int], batch: int, generate: int
    ) -> tuple[float, list[float]]:
        """Seconds to the first token after a prompt, and from each to the next."""
        caches = self._behind(depth, batch)
        with allocation_errors("measuring"):
            started = time.perf_counter()
            loop = self._one if batch == 1 else self._several
            stamps = [time.perf_counter() for _ in loop(caches, prompt, batch, generate + 1)]
        mx.clear_cache()
        return stamps[0] - started, [b - a for a, b in pairwise(stamps)]

    def _one(
        self, caches: Sequence[Cache], prompt: list[int], _: int, count: int
    ) -> Iterator[object]:
        """The loops of a chat."""
        done = max(iter_prefill(self._model, caches, prompt, backend().prefill_chunk), default=0)
        yield from iter_tokens(self._model, caches, prompt[done:], mx.argmax, count)

    def _several(
        self, caches: Sequence[Cache], prompt: list[int], batch: int, count: int
    ) -> Iterator[object]:
        """Several sequences in step, which no chat needs: the cost of a token when shared."""
        done = self._fill(caches, [prompt] * batch, leave=backend().prefill_chunk)
        tokens = mx.array([prompt[done:]] * batch)  # (B, L)
        for _ in range(count):
            logits = self._model.head(self._model.hidden(tokens, caches)[:, -1])  # (B, V)
            tokens = mx.argmax(logits, axis=-1)[:, None]  # (B, 1)
            mx.eval(tokens)
            yield tokens

    def _behind(self, depth: list[int], batch: int) -> list[Cache]:
        """Caches that hold a context: those of the last time, if they can forget what came then."""
        if not depth:
            return self._model.make_cache()
        key = (len(depth), batch)
        if self._kept is not None and self._kept[:2] == key:
            caches = self._kept[2]
            if all(cache.can_trim(cache.offset - len(depth)) for cache in caches):
                for cache in caches:
                    cache.trim(cache.offset - len(depth))
                return caches
        caches = self._model.make_cache()
        self._fill(caches, [depth] * batch)
        self._kept = (*key, caches)
        return caches

    def _fill(self, caches: Sequence[Cache], rows: list[list[int]], leave: int = 0) -> int:
        """Read all of the rows but, perhaps, their ends; how much was read."""
        chunk, length, done = backend().prefill_chunk, len(rows[0]), 0
        while done < length - leave:
            part = mx.array([row[done : done + chunk] for row in rows])  # (B, L)
            self._model.hidden(part, caches)
            mx.eval([array for cache in caches for array in cache.arrays])
            done = min(done + chunk, length)
        return done

    def count(self, depth: int) -> dict[str, Any]:
        """Of one decode step: primitives, seconds of Python, bandwidth of the memory."""
        caches = self._model.make_cache()
        self._fill(caches, [[1] * max(depth, 1)])
        host, primitives = [], 0
        for _ in range(_STEPS):
            token = mx.array([1])
            mx.eval(token)
            called_s, started = self._called_s or 0.0, time.perf_counter()
            hidden = self._model.hidden(token[None], caches)
            chosen = mx.argmax(self._model.head(hidden[:, -1])[0])
            elapsed = time.perf_counter() - started
            host.append(elapsed - ((self._called_s or 0.0) - called_s))
            primitives = primitives or _primitives(chosen)
            mx.eval(chosen)
        bandwidth, how = measure_bandwidth()
        return {
            "primitives": primitives,
            "compiled_calls": int(self._called_s is not None),
            "host_s": host,
            "bandwidth_bytes_per_s": bandwidth,
            "bandwidth_of": how,
        }

    @property
    def _called_s(self) -> float | None:
        """Seconds so far in the kernels' one call, which computes at once: work, not the host's."""
        return self._model.called_s if isinstance(self._model, AcceleratedModel) else None

    def device_peak_bytes(self) -> int:
        """The most that MLX held."""
        return mx.get_peak_memory()


def _primitives(array: mx.array) -> int:
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return count_primitives(text.getvalue())


def step_bytes(model: LanguageModel) -> int:
    """Bytes of weights that one decode step reads, once for each run of a block.

    Of an embedding that is not the head as well, it reads one row: as good as nothing.
    """
    total = 0
    for name, array in tree_flatten(model.parameters()):
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            total += array.nbytes * model.config.layers[int(parts[2])].runs
        elif parts[:2] != ["model", "embed_tokens"] or model.config.tie_word_embeddings:
            total += array.nbytes
    return total
