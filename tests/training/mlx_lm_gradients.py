"""Run by a test in a process of its own: mlx-lm's loss and gradients on a batch, with an adapter.

Arguments: a model directory, an adapter's directory, ``lora`` or ``dora``, and where to write.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mobilellm_mlx.backend import mx, nn, tree_flatten  # first, for its fast BLAS

from mlx_lm.tuner.trainer import default_loss  # isort: skip
from mlx_lm.tuner.utils import load_adapters  # isort: skip
from mlx_lm.utils import load_model  # isort: skip


def main(model_path: str, adapter_path: str, target: str) -> None:
    model, _ = load_model(Path(model_path))
    model.freeze()
    load_adapters(model, adapter_path)
    model.train()
    batch = json.loads((Path(target) / "batch.json").read_text())
    tokens, lengths = mx.array(batch["tokens"]), mx.array(batch["lengths"])
    (loss, count), gradients = nn.value_and_grad(model, default_loss)(model, tokens, lengths)
    found = {name: array for name, array in tree_flatten(gradients)}
    found |= {"loss": loss, "count": count}
    mx.save_safetensors(str(Path(target) / "gradients.safetensors"), found)


if __name__ == "__main__":
    main(*sys.argv[1:])
