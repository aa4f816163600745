"""Gradients against mlx-lm's own trainer, on the same weights, adapter and batch."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from tiny import LLAMA, make_model, write_model

from mobilellm_mlx.adapters import AdapterInfo
from mobilellm_mlx.adapters.files import write_adapter
from mobilellm_mlx.backend import as_number, mx, nn, tree_flatten
from mobilellm_mlx.models.lora import LoraSpec, adapter_parameters, attach, find_modules
from mobilellm_mlx.models.uncached import make_uncached
from mobilellm_mlx.training.batches import make_batch
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.loss import summed_loss

PEER = Path(__file__).with_name("mlx_lm_gradients.py")
ROWS = [[5, 6, 7, 8, 9, 10, 11], [3, 1, 4, 1, 5], [2, 7, 1, 8, 2, 8, 1]]
PROMPTS = [2, 1, 3]
"""Tokens of each row that are not learned."""


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_loss_and_gradients_are_mlx_lms(tmp_path: Path, method: str) -> None:
    model = make_model(LLAMA)
    directory = write_model(tmp_path / "model", LLAMA)
    spec = LoraSpec(method, 4, 2.5, find_modules(model, ("*_proj",), "last 1"))
    attach(model, spec)
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape, key=mx.random.key(4))
    info = AdapterInfo(
        name="a", method=method, rank=4, scale=2.5, keys=spec.paths, base_name="tiny"
    )
    write_adapter(tmp_path / "adapter", info, adapter_parameters(model), model.config)
    width = max(map(len, ROWS))
    batch = {
        "tokens": [row + [0] * (width - len(row)) for row in ROWS],
        # From the first learned token on, counted as mlx-lm counts: by what predicts it.
        "lengths": [[start, len(row) - 1] for start, row in zip(PROMPTS, ROWS, strict=True)],
    }
    (tmp_path / "batch.json").write_text(json.dumps(batch))
    done = subprocess.run(
        [sys.executable, str(PEER), str(directory), str(tmp_path / "adapter"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = mx.load(str(tmp_path / "gradients.safetensors"))
    examples = [
        Example(array("i", row), bytes([0] * start + [1] * (len(row) - start)))
        for start, row in zip(PROMPTS, ROWS, strict=True)
    ]
    made = make_batch(examples, [(0,), (1,), (2,)])

    def loss() -> mx.array:
        hidden = model.hidden(made.tokens, make_uncached(model.config))
        return summed_loss(model, hidden, made.positions, made.targets, made.weights, 3)

    total, gradients = nn.value_and_grad(model, loss)()
    assert made.learned == as_number(theirs.pop("count"))
    assert as_number(total) / made.learned == pytest.approx(as_number(theirs.pop("loss")), rel=1e-6)
    ours = dict(tree_flatten(gradients))
    assert ours.keys() == theirs.keys()
    for name, want in theirs.items():
        scale = as_number(mx.abs(want).max())
        difference = as_number(mx.abs(ours[name] / made.learned - want).max())
        assert difference <= 1e-5 * scale + 1e-9, name
