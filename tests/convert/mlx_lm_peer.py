"""What stock mlx-lm makes of checkpoints and of converted directories, as JSON on stdout.

    python mlx_lm_peer.py TASK

TASK is JSON: ``conversions``, a list of [checkpoint, target, bits, group size, mode] for mlx-lm's
own ``convert``; ``directories`` whose logits are wanted; ``ids``, (B, L).

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns. To
compute, floats are widened to float32 as ours are on a CPU; packed codes stay what they are.
"""

import contextlib
import json
import sys

from mobilellm_mlx.backend import mx  # first: the fast BLAS, for both sides

mx.set_default_device(mx.cpu)

from mlx.utils import tree_map  # noqa: E402
from mlx_lm import load  # noqa: E402
from mlx_lm.convert import convert  # noqa: E402

task = json.loads(sys.argv[1])


def widen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def logits(directory: str) -> list:
    model, _ = load(directory)
    model.update(tree_map(widen, model.parameters()))
    return model(mx.array(task["ids"])).tolist()


with contextlib.redirect_stdout(sys.stderr):
    for source, target, bits, group, mode in task["conversions"]:
        convert(source, target, quantize=True, q_bits=bits, q_group_size=group, q_mode=mode)
    answers = [logits(directory) for directory in task["directories"]]
print(json.dumps(answers))
