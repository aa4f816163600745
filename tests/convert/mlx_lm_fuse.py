"""What stock mlx-lm makes of adapters and of fused directories, as JSON on stdout.

    python mlx_lm_fuse.py TASK

TASK is JSON: ``fusions``, a list of [base, adapter, file] of which the file gets the weights that
mlx-lm's own fusing gives; ``directories`` whose logits are wanted; ``ids``, (B, L).

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns.
"""

import contextlib
import json
import sys

from mobilellm_mlx.backend import mx  # first: the fast BLAS, for both sides

mx.set_default_device(mx.cpu)

from mlx.utils import tree_flatten, tree_map, tree_unflatten  # noqa: E402
from mlx_lm import load  # noqa: E402

task = json.loads(sys.argv[1])


def widen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def fuse(base: str, adapter: str, file: str) -> None:
    model, _ = load(base, adapter_path=adapter)
    fused = [(name, m.fuse()) for name, m in model.named_modules() if hasattr(m, "fuse")]
    model.update_modules(tree_unflatten(fused))
    mx.save_safetensors(file, dict(tree_flatten(model.parameters())))


def logits(directory: str) -> list:
    model, _ = load(directory)
    model.update(tree_map(widen, model.parameters()))
    return model(mx.array(task["ids"])).tolist()


with contextlib.redirect_stdout(sys.stderr):
    for fusion in task["fusions"]:
        fuse(*fusion)
    answers = [logits(directory) for directory in task["directories"]]
print(json.dumps(answers))
