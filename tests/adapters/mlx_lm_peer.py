"""What stock mlx-lm makes of adapters, and adapters as it makes them.

    python mlx_lm_peer.py TASK

TASK is JSON: ``make``, a list of [model, adapter directory, ``adapter_config.json``, seed] to be
written with random values; ``compute``, a list of [model, adapter directory or null] whose logits
are wanted, printed as JSON; ``ids``, (B, L). Of an adapter that mlx-lm refuses, its words come.

In a process of its own, because importing mlx-lm loads transformers, takes seconds and warns.
"""

import contextlib
import json
import sys
from pathlib import Path

from mobilellm_mlx.backend import mx  # first: the fast BLAS, for both sides

mx.set_default_device(mx.cpu)

from mlx.utils import tree_flatten, tree_map  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

task = json.loads(sys.argv[1])


def widen(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


def network(directory: str):
    model, _ = load_model(Path(directory))
    model.update(tree_map(widen, model.parameters()))
    return model


def make(directory: str, target: str, config: dict, seed: int) -> None:
    """As ``mlx_lm.lora`` saves: the trainable parameters, and what they were trained with."""
    model, path = network(directory), Path(target)
    model.freeze()
    mx.random.seed(seed)
    if config["fine_tune_type"] == "full":
        for block in model.layers[-max(config["num_layers"], 0) :]:
            block.unfreeze()
    else:
        dora = config["fine_tune_type"] == "dora"
        linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"], dora)
    tensors = dict(tree_flatten(model.trainable_parameters()))
    # Greater ones bring attention near ties, where the last bit of a sum decides.
    changed = {name: array + 0.1 * mx.random.normal(array.shape) for name, array in tensors.items()}
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"model": directory, **config}))
    mx.save_safetensors(str(path / "adapters.safetensors"), changed)


def compute(directory: str, adapter: str | None):
    model = network(directory)
    if adapter is not None:
        try:
            load_adapters(model, adapter)
        except ValueError as error:
            return str(error)
    model.eval()
    return model(mx.array(task["ids"])).tolist()


with contextlib.redirect_stdout(sys.stderr):
    for each in task.get("make", []):
        make(*each)
    answers = [compute(*each) for each in task.get("compute", [])]
print(json.dumps(answers))
