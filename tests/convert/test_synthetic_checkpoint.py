"""The checkpoint that ``benchmarks/convert.py`` converts is one that the converter reads."""

import importlib.util
import json
from math import prod
from pathlib import Path
from types import ModuleType

import pytest
from tiny import MOBILELLM

from convert.source import open_source
from mobilellm_mlx.backend import mx
from mobilellm_mlx.models.sizes import SIZES
from mobilellm_mlx.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def synthetic() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_checkpoint", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_without_torch_is_read_as_a_torch_file(synthetic, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MOBILELLM))
    shapes = synthetic.tensor_shapes(MOBILELLM)
    synthetic.write_bin(tmp_path / "pytorch_model.bin", shapes)
    source = open_source(tmp_path)
    assert source.shapes == shapes
    assert mx.array_equal(source.read("model.norm.weight"), mx.ones(32))
    gate, up = (source.read(f"model.layers.0.mlp.{name}_proj.weight") for name in ("gate", "up"))
    assert gate.dtype == mx.bfloat16
    assert 0.018 < mx.std(gate.astype(mx.float32)).item() < 0.022
    assert not mx.array_equal(gate, up)


@pytest.mark.parametrize("size", SIZES)
def test_it_has_the_parameters_of_the_published_model(synthetic, size: str) -> None:
    shapes = synthetic.tensor_shapes(synthetic.published_config(size))
    own_head = 32_000 * SIZES[size].dim if size == "1.5b" else 0
    assert sum(map(prod, shapes.values())) == SIZES[size].parameters + own_head


def test_its_made_up_vocabulary_has_the_size_of_llama_2_s(synthetic, tmp_path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(synthetic.sentencepiece_model(32_000))
    tokenizer = load_tokenizer(tmp_path, synthetic.TOKENIZER_CONFIG)
    assert tokenizer.vocab_size == 32_000
    assert tokenizer.prefix == (1,)
    assert tokenizer.decode(tokenizer.encode("the brown Jug, é")) == "the brown Jug, é"
