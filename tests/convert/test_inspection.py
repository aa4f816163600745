"""What a checkpoint is, without converting it."""

import json

import pytest

from convert.inspection import inspect
from convert.plan import ConvertOptions
from convert.readers.safetensors_file import SafetensorsReader
from convert.recipes import Rule
from convert.source import HEAD, open_source
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from tests.convert.checkpoints import SHARED, WIDE, checkpoint, run, tensors


def look(path, **options):
    return inspect(open_source(path), ConvertOptions(**options), "tiny")


def test_it_says_what_the_checkpoint_is(tmp_path) -> None:
    directory = checkpoint(tmp_path / "s", SHARED)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    found = look(directory)
    assert (found.name, found.format, found.family) == ("tiny", "safetensors", "mobilellm")
    assert (found.layers, found.runs, found.context, found.tied) == (2, 4, 1024, True)
    arrays = tensors(directory)
    assert found.parameters == sum(array.size for array in arrays.values())
    assert found.source_bytes == (directory / "model.safetensors").stat().st_size
    assert (found.tensors, found.licence, found.notices) == (len(arrays), "mit", [])


@pytest.mark.parametrize(
    "options", [{}, {"recipe": "4bit-blocks"}, {"mode": "mxfp4"}, {"bits": None}]
)
def test_it_says_what_converting_gives_to_the_byte(tmp_path, options) -> None:
    directory = checkpoint(tmp_path / "s")
    found = look(directory, **options)
    summary = run(directory, tmp_path / "t", ConvertOptions(**options, verify=False))[-1]
    assert found.converted_bytes == summary.bytes
    assert found.converted_bytes == sum(a.nbytes for a in tensors(tmp_path / "t").values())
    assert found.bits_per_weight == pytest.approx(summary.bits_per_weight)


def test_matrices_are_counted_by_what_becomes_of_them(tmp_path) -> None:
    directory = checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 48})
    found = look(directory, mode="mxfp4", bits_for=(Rule("embed_tokens", 8),))
    assert found.packings == {
        "4-bit mxfp4, groups of 32": 12,
        "8-bit, groups of 64": 1,
        "bfloat16 matrices": 2,
        "bfloat16 norms": 5,
    }
    assert len(found.fallbacks) == 3 and len(found.notices) == 2


def test_memory_is_weights_and_cache_at_contexts_that_the_model_has(tmp_path) -> None:
    raw = {**WIDE, "max_position_embeddings": 8192}
    found = look(checkpoint(tmp_path / "s", raw))
    assert list(found.memory) == [2048, 8192]
    per_token = 2 * 2 * 2 * 16 * 2  # keys and values, blocks, heads, head size, bytes
    assert found.memory[2048] == found.converted_bytes + per_token * 2048
    run(tmp_path / "s", tmp_path / "t")
    model = load_model(tmp_path / "t", LoadOptions(compute="packed")).model
    assert model.config.kv_bytes_per_token(2) == per_token


def test_a_short_context_is_all_there_is(tmp_path) -> None:
    assert list(look(checkpoint(tmp_path / "s")).memory) == [1024]


def test_nothing_of_the_weights_is_read(tmp_path, monkeypatch) -> None:
    directory = checkpoint(tmp_path / "s")
    monkeypatch.setattr(SafetensorsReader, "read", lambda *_: pytest.fail("read"))
    look(directory)


def test_a_head_that_is_left_out_is_listed(tmp_path) -> None:
    checkpoint(tmp_path / "t")
    head = tensors(tmp_path / "t")["model.embed_tokens.weight"]
    found = look(checkpoint(tmp_path / "s", WIDE, {HEAD: head}))
    assert "equals the embedding" in found.left_out[HEAD]
    notices = look(checkpoint(tmp_path / "u", WIDE, {HEAD: mx.ones((258, 64))})).notices
    assert len(notices) == 1 and "the head is kept" in notices[0]


def test_it_is_json(tmp_path) -> None:
    found = look(checkpoint(tmp_path / "s"))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["parameters"] > 0


def test_impossible_wishes_are_refused_as_in_a_conversion(tmp_path) -> None:
    with pytest.raises(InvalidOption, match="matches no tensor"):
        look(checkpoint(tmp_path / "s"), bits_for=(Rule("nothing", 4),))
