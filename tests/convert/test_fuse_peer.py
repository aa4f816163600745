"""mlx-lm as the judge: it fuses to the same weights, and runs what was fused here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tolerances import FP32_REORDERED, assert_close

from convert.fuse.job import fuse
from convert.plan import ConvertOptions
from mobilellm_mlx.backend import mx
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from tests.adapters.made import write_random_adapter
from tests.convert.checkpoints import WIDE, checkpoint, tensors

IDS = [[3, 1, 4, 1, 5, 256]]
KINDS = {"lora": ("*_proj",), "dora": ("*_proj",), "words": ("q_proj", "embed_tokens")}
EXACT = ConvertOptions(verify=False)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Ours and theirs of every kind, by name, and mlx-lm's logits of ours."""
    out = tmp_path_factory.mktemp("fused")
    base = checkpoint(out / "base", WIDE, dtype=mx.float32)
    fusions = []
    for name, modules in KINDS.items():
        method = "dora" if name == "dora" else "lora"
        adapter = write_random_adapter(out / f"a-{name}", base, method=method, modules=modules)
        list(fuse(base, adapter, out / name, EXACT))
        fusions.append([str(base), str(adapter.path), str(out / f"{name}.safetensors")])
    packed = ConvertOptions(bits=4, group_size=32, verify=False)
    list(fuse(base, adapter, out / "packed", packed))
    directories = [str(out / name) for name in (*KINDS, "packed")]
    task = {"fusions": fusions, "directories": directories, "ids": IDS}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mlx_lm_fuse.py")), json.dumps(task)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", KINDS)
def test_mlx_lm_fuses_to_the_same_weights(fused, name) -> None:
    out, _ = fused
    theirs, ours = mx.load(str(out / f"{name}.safetensors")), tensors(out / name)
    assert isinstance(theirs, dict) and theirs.keys() == ours.keys()
    before = tensors(out / "base")
    for tensor, array in ours.items():
        assert_close(array, theirs[tensor], 1e-5, tensor)
    changed = [n for n, a in ours.items() if float(mx.abs(a - before[n]).max()) > 0.01]
    assert len(changed) == (3 if name == "words" else 14)


@pytest.mark.parametrize("number", range(4), ids=[*KINDS, "packed"])
def test_mlx_lm_runs_what_was_fused(fused, number) -> None:
    out, theirs = fused
    name = [*KINDS, "packed"][number]
    ours = load_model(out / name, LoadOptions(compute="dense")).model(mx.array(IDS))
    assert_close(ours, theirs[number], FP32_REORDERED, name)
