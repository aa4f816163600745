"""transformers on torch, as ``serve`` asks for it: its network and cache, a greedy loop of ours.

Runs in an interpreter that need not have anything of ours.
"""

from __future__ import annotations

import time
from importlib import import_module
from itertools import pairwise
from typing import Any

_STEPS = 20


def start(directory: str, threads: int | None, on_gpu: bool) -> Transformers:
    """Load a model.

    Args:
        directory: with weights as float32.
        threads: of torch; None leaves it to itself.
        on_gpu: take the GPU, in bfloat16.
    """
    torch: Any = import_module("torch")
    if threads is not None:
        torch.set_num_threads(threads)
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("this torch sees no GPU")
    return Transformers(torch, directory, on_gpu)


class Transformers:
    """A model of transformers'."""

    def __init__(self, torch: Any, directory: str, on_gpu: bool):
        library: Any = import_module("transformers")
        self._torch, self._library = torch, library
        self._device = "cuda" if on_gpu else "cpu"
        dtype = torch.bfloat16 if on_gpu else torch.float32
        started = time.perf_counter()
        model = library.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
        self._model = model.to(self._device).eval()
        self._wait()
        load_s = time.perf_counter() - started
        cache = library.DynamicCache()
        init_s = self._step(cache)
        self.about = {
            "engine": "transformers",
            "version": f"{library.__version__}, torch {torch.__version__}",
            "form": "unpacked",
            "dtype": str(dtype).removeprefix("torch."),
            "blas": "torch's own",
            "threads": torch.get_num_threads(),
            "load_s": load_s,
            "init_s": init_s,
            "execute_s": [self._step(cache) for _ in range(_STEPS)],
        }

    def _wait(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _step(self, cache: Any) -> float:
        """Seconds of one forward pass of one token."""
        started = time.perf_counter()
        self._read([[1]], cache)
        return time.perf_counter() - started

    def _read(self, tokens: list[list[int]], cache: Any) -> list[int]:
        """The likeliest token after each sequence."""
        torch = self._torch
        with torch.inference_mode():
            ids = torch.tensor(tokens, device=self._device)
            read = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            chosen: list[int] = read.logits[:, -1].argmax(-1).tolist()  # waits for it
        return chosen

    def run(
        self, depth: list[int], prompt: list[int], batch: int, generate: int
    ) -> tuple[float, list[float]]:
        """Seconds to the first token after a prompt, and from each to the next."""
        cache = self._library.DynamicCache()
        if depth:
            self._read([depth] * batch, cache)
        started = time.perf_counter()
        chosen, stamps = self._read([prompt] * batch, cache), [time.perf_counter()]
        for _ in range(generate):
            chosen = self._read([[token] for token in chosen], cache)
            stamps.append(time.perf_counter())
        return stamps[0] - started, [b - a for a, b in pairwise(stamps)]

    def count(self, depth: int) -> dict[str, Any]:
        """Nothing: torch computes as it goes."""
        return {}

    def device_peak_bytes(self) -> int:
        """The most that torch held of a GPU."""
        return int(self._torch.cuda.max_memory_allocated()) if self._device == "cuda" else 0
