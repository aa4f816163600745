"""Logits of stock mlx-lm, float32, as JSON on stdout.

    python mlx_lm_logits.py IDS DIRECTORY...

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns.
Floating-point parameters are widened to float32, as ours are on a CPU; packed codes stay as they
are.
"""

import json
import sys
from typing import Any

from mobilellm_mlx.backend import mx  # first: the fast BLAS, for both sides

mx.set_default_device(mx.cpu)

from mlx.utils import tree_map  # noqa: E402
from mlx_lm import load  # noqa: E402


def widen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def describe(directory: str, ids: mx.array) -> dict[str, Any]:
    model, tokenizer = load(directory)
    packed = {type(m).__name__ for _, m in model.named_modules() if "Quantized" in type(m).__name__}
    model.update(tree_map(widen, model.parameters()))
    return {
        "logits": model(ids).tolist(),
        "packed": sorted(packed),
        "ids": tokenizer.encode("the brown jug"),
        "eos": sorted(tokenizer.eos_token_ids),
    }


ids = mx.array(json.loads(sys.argv[1]))
print(json.dumps([describe(directory, ids) for directory in sys.argv[2:]]))
