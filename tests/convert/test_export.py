"""Models out: what need not change does not, what must is said, and half a file is no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LLAMA, MOBILELLM, write_json, write_model

from convert.export import gguf as export_gguf
from convert.export import source as export_source
from convert.export.job import ExportOptions, export
from convert.job import ConvertOptions, convert
from convert.writers import safetensors_file as safetensors_out
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import (
    ConvertError,
    InvalidOption,
    MobileLLMError,
    StorageError,
)
from mobilellm_mlx.events import ExportSummary, Progress
from mobilellm_mlx.loading import build_model, load_model
from mobilellm_mlx.models import build_config
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.paths import MANIFEST
from tests.convert.exports import edit_weights, notices, run, same_bits, stored, unpacked
from tests.convert.gguf_parser import Parsed, parse

TOKENS = mx.array([[7, 256, 30, 31, 99]])
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def halves(rows: list[Any], heads: int) -> list[Any]:
    """Rows of q or k from llama.cpp's order to the checkpoint's, one by one."""
    size = len(rows) // heads
    ordered = []
    for head in range(heads):
        mine = rows[head * size : (head + 1) * size]
        ordered += mine[0::2] + mine[1::2]
    return ordered


def network_weights(parsed: Parsed) -> dict[str, mx.array]:
    """The tensors of a GGUF file under our names, in our order of rows, as float32."""
    meta = parsed.metadata
    heads = {
        "attn_q": meta["llama.attention.head_count"],
        "attn_k": meta["llama.attention.head_count_kv"],
    }
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    weights = {}
    for name, tensor in parsed.tensors.items():
        rows = tensor.values()
        first, _, rest = name.removesuffix(".weight").partition(".")
        if first in top:
            ours = top[first]
        else:
            layer, _, leaf = rest.partition(".")
            ours = f"model.layers.{layer}.{BLOCK_NAMES[leaf]}"
            rows = halves(rows, heads[leaf]) if leaf in heads else rows
        array = mx.array(rows if len(tensor.shape) == 2 else rows[0])
        weights[f"{ours}.weight"] = array
    return weights


@pytest.fixture
def half_dir(tmp_path: Path) -> Path:
    """An unpacked float16 model."""
    return write_model(tmp_path / "half", dtype=mx.float16)


@pytest.fixture
def packed_dir(tmp_path: Path) -> Path:
    """4-bit weights in groups of 32 with float16 scales, 8-bit embedding."""
    return write_model(tmp_path / "packed", packed=True, dtype=mx.float16)


# --- GGUF ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "kind"), [(mx.float16, "F16"), (mx.bfloat16, "BF16")])
def test_sixteen_bit_weights_keep_every_value_in_gguf(tmp_path, dtype, kind) -> None:
    source = write_model(tmp_path / "source", dtype=dtype)
    events = run(source, tmp_path / "x.gguf")
    parsed = parse(tmp_path / "x.gguf")
    kinds = {name: tensor.kind for name, tensor in parsed.tensors.items()}
    assert {kinds[name] for name in kinds if "norm" in name} == {"F32"}
    assert {kinds[name] for name in kinds if "norm" not in name} == {kind}
    assert same_bits(network_weights(parsed), unpacked(source))
    assert notices(events) == []


def test_packed_weights_stay_packed_and_keep_every_value(tmp_path, packed_dir) -> None:
    events = run(packed_dir, tmp_path / "x.gguf")
    parsed = parse(tmp_path / "x.gguf")
    kinds = {name: t.kind for name, t in parsed.tensors.items() if len(t.shape) == 2}
    # The tiny model's 8-bit embedding has offsets of its own, which no block has.
    assert kinds.pop("token_embd.weight") == "Q8_0" and set(kinds.values()) == {"Q4_1"}
    got, want = network_weights(parsed), unpacked(packed_dir)
    embedding = "model.embed_tokens.weight"
    rounded, exact = got[embedding], want[embedding]
    assert 0 < mx.abs(rounded - exact).max().item() < 0.01 * mx.abs(exact).max().item()
    assert same_bits(got, {**want, embedding: rounded})
    (said,) = notices(events)
    assert said.startswith("1 of 20 tensors are rounded to Q8_0: no type has codes of 8 bits")


@pytest.mark.parametrize(("bits", "kind"), [(4, "Q4_0"), (8, "Q8_0")])
def test_codes_around_the_middle_become_blocks_without_offset(tmp_path, bits, kind) -> None:
    source = write_model(tmp_path / "source", packed=True, dtype=mx.float16)
    module = {4: "model.layers.0.mlp.up_proj", 8: "model.embed_tokens"}[bits]
    scales = stored(source)[f"{module}.scales"]
    edit_weights(source, {f"{module}.biases": scales * -(2 ** (bits - 1))})
    run(source, tmp_path / "x.gguf")
    parsed = parse(tmp_path / "x.gguf")
    place = {4: "blk.0.ffn_up.weight", 8: "token_embd.weight"}[bits]
    assert parsed.tensors[place].kind == kind
    got = network_weights(parsed)[f"{module}.weight"]
    assert mx.array_equal(got, unpacked(source)[f"{module}.weight"]).item()


def test_what_was_exported_can_be_imported_with_every_bit_in_place(tmp_path) -> None:
    source = write_model(tmp_path / "source", packed=True, dtype=mx.float16)
    scales = stored(source)["model.embed_tokens.scales"]
    edit_weights(source, {"model.embed_tokens.biases": scales * -128})
    assert notices(run(source, tmp_path / "x.gguf")) == []
    list(convert(tmp_path / "x.gguf", tmp_path / "back", ConvertOptions(verify=False)))
    assert same_bits(stored(tmp_path / "back"), stored(source))


@pytest.mark.parametrize("type_", ["q8_0", "q4_1", "q4_0"])
def test_asking_for_blocks_rounds_unpacked_weights_and_says_so(tmp_path, half_dir, type_) -> None:
    events = run(half_dir, tmp_path / "x.gguf", type_=type_)
    parsed = parse(tmp_path / "x.gguf")
    kinds = {name: t.kind for name, t in parsed.tensors.items() if len(t.shape) == 2}
    assert kinds.pop("token_embd.weight") == "Q8_0"  # as in llama.cpp's own mixtures
    assert set(kinds.values()) == {type_.upper()}
    matrices = ", ".join(notices(events))
    assert f"14 of 20 tensors are rounded to {type_.upper()}" in matrices or type_ == "q8_0"
    assert "they were F16" in matrices
    steps = {"q8_0": 127, "q4_1": 7, "q4_0": 7}[type_]
    for name, want in unpacked(half_dir).items():
        error = mx.max(mx.abs(network_weights(parsed)[name] - want)).item()
        assert error <= mx.max(mx.abs(want)).item() / steps


def test_asking_for_what_the_codes_already_are_loses_nothing(tmp_path, packed_dir) -> None:
    events = run(packed_dir, tmp_path / "x.gguf", type_="q4_1")
    got, want = network_weights(parse(tmp_path / "x.gguf")), unpacked(packed_dir)
    for name in want.keys() - {"model.embed_tokens.weight"}:
        assert mx.array_equal(got[name], want[name]).item(), name
    (said,) = notices(events)
    assert said.startswith("1 of 20 tensors are rounded to Q8_0")


def test_rows_that_cannot_be_cut_into_blocks_stay_sixteen_bit(tmp_path) -> None:
    source = write_model(tmp_path / "odd", {**LLAMA, "intermediate_size": 48}, dtype=mx.float16)
    events = run(source, tmp_path / "x.gguf", type_="q8_0")
    kinds = {name: t.kind for name, t in parse(tmp_path / "x.gguf").tensors.items()}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert "2 of 20 tensors are F16: rows of 48 values cannot be cut into blocks of 32" in (
        notices(events)
    )


def test_float32_scales_are_rounded_to_sixteen_bits_only_with_a_word(tmp_path) -> None:
    source = write_model(tmp_path / "wide", packed=True, dtype=mx.float32)
    events = run(source, tmp_path / "x.gguf")
    assert any("no float16 numbers" in said for said in notices(events))
    run(source, tmp_path / "y.gguf", type_="f32")
    assert same_bits(network_weights(parse(tmp_path / "y.gguf")), unpacked(source))


def test_the_metadata_describes_the_network(tmp_path, packed_dir) -> None:
    write_json(packed_dir / MANIFEST, {"title": "Tiny 1k", "licence": "MIT", "authors": "Nobody"})
    run(packed_dir, tmp_path / "x.gguf")
    meta = parse(tmp_path / "x.gguf").metadata
    network = {key: value for key, value in meta.items() if not key.startswith("tokenizer")}
    assert network.pop("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert network == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny 1k",
        "general.author": "Nobody",
        "general.license": "MIT",
        "general.file_type": 3,
        "general.quantization_version": 2,
        "llama.block_count": 2,
        "llama.context_length": 1024,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.freq_base": 10_000.0,
        "llama.rope.dimension_count": 8,
        "llama.vocab_size": 258,
    }


def test_a_head_of_its_own_is_written(tmp_path) -> None:
    raw = {**LLAMA, "tie_word_embeddings": False}
    source = write_model(tmp_path / "untied", raw, dtype=mx.float16)
    run(source, tmp_path / "x.gguf")
    parsed = parse(tmp_path / "x.gguf")
    assert "output.weight" in parsed.tensors
    assert same_bits(network_weights(parsed), unpacked(source))


def test_a_head_that_is_not_the_embedding_is_kept_with_a_word(tmp_path, half_dir) -> None:
    edit_weights(half_dir, {"lm_head.weight": mx.ones((258, 32), mx.float16)})
    events = run(half_dir, tmp_path / "x.gguf")
    assert "output.weight" in parse(tmp_path / "x.gguf").tensors
    assert any("the head is kept" in said for said in notices(events))


@pytest.mark.parametrize("type_", ["auto", "q4_1", "f16", "bf16"])
def test_a_few_rows_at_a_time_make_the_same_file(tmp_path, packed_dir, monkeypatch, type_) -> None:
    run(packed_dir, tmp_path / "whole.gguf", type_=type_)
    monkeypatch.setattr(export_source, "_ROWS", 7)
    run(packed_dir, tmp_path / "rows.gguf", type_=type_)
    assert (tmp_path / "rows.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_shared_blocks_become_twice_as_many_that_compute_the_same(tmp_path) -> None:
    source = write_model(tmp_path / "shared", MOBILELLM, dtype=mx.float16)
    events = run(source, tmp_path / "x.gguf")
    parsed = parse(tmp_path / "x.gguf")
    assert parsed.metadata["llama.block_count"] == 4
    (said,) = notices(events)
    assert "2 shared blocks are written as 4 of their own" in said and "times as large" in said
    plain = build_config({**LLAMA, "num_hidden_layers": 4, "rms_norm_eps": 1e-5})
    unrolled = build_model(plain, network_weights(parsed), None, "dense")
    shared = load_model(source, LoadOptions(compute="dense")).model
    assert mx.array_equal(unrolled(TOKENS), shared(TOKENS)).item()
    once = build_model(
        build_config({**MOBILELLM, "layer_sharing": False}), unpacked(source), None, "dense"
    )
    assert not mx.allclose(once(TOKENS), shared(TOKENS), atol=0.1).item()


# --- what must not happen -----------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_progress_is_complete_and_a_summary_ends_the_job(tmp_path, half_dir, format_) -> None:
    *events, last = run(half_dir, tmp_path / "out", format_)
    assert isinstance(last, ExportSummary) and (last.job, last.status) == ("export", "ok")
    assert (last.path, last.format, last.type) == (str(tmp_path / "out"), format_, "f16")
    assert (last.tensors, last.rounded, last.lossless) == (20, 0, True)
    out = tmp_path / "out"
    files = [out] if format_ == "gguf" else list(out.iterdir())
    assert last.bytes == sum(file.stat().st_size for file in files)
    for task in ("writing", "checking"):
        told = [e for e in events if isinstance(e, Progress) and e.task == task]
        assert told[0].done == 0 and told[-1].done == told[-1].total
        assert [e.done for e in told] == sorted(e.done for e in told)


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_what_is_there_is_replaced_only_by_force(tmp_path, half_dir, format_) -> None:
    out = tmp_path / "out"
    run(half_dir, out, format_)
    with pytest.raises(StorageError, match="is there already"):
        run(half_dir, out, format_)
    run(half_dir, out, format_, "bf16", force=True)
    if format_ == "gguf":
        assert parse(out).tensors["token_embd.weight"].kind == "BF16"
    else:
        assert stored(out)["model.embed_tokens.weight"].dtype == mx.bfloat16
    assert {path.name for path in tmp_path.iterdir()} >= {"out", "half"}
    assert not list(tmp_path.glob(".*"))


def test_a_directory_of_other_things_is_never_replaced(tmp_path, half_dir) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for format_ in ("gguf", "safetensors"):
        with pytest.raises(StorageError, match="not replaced"):
            run(half_dir, mine, format_, force=True)
    for weights in (half_dir / "model.safetensors", mine / "letter.txt"):
        with pytest.raises(StorageError, match="no GGUF file"):
            run(half_dir, weights, force=True)
    with pytest.raises(StorageError):
        run(half_dir, half_dir, "safetensors", force=True)
    assert (mine / "letter.txt").read_text() == "dear" and (half_dir / "config.json").is_file()


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_an_export_that_is_left_early_leaves_nothing(tmp_path, half_dir, format_) -> None:
    before = set(tmp_path.iterdir())
    events = export(half_dir, tmp_path / "out", ExportOptions(format_))
    for event in events:
        if isinstance(event, Progress) and event.done:
            break
    assert set(tmp_path.iterdir()) != before
    events.close()  # type: ignore[attr-defined]
    assert set(tmp_path.iterdir()) == before


def test_ctrl_c_leaves_nothing(tmp_path, half_dir, monkeypatch) -> None:
    before = set(tmp_path.iterdir())

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_gguf.GgufWriter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(half_dir, tmp_path / "x.gguf")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_a_file_that_reads_back_differently_is_removed(
    tmp_path, half_dir, monkeypatch, format_
) -> None:
    writer = {"gguf": export_gguf.GgufWriter, "safetensors": safetensors_out.SafetensorsWriter}
    right = writer[format_].write

    def swapped(rows: mx.array) -> mx.array:
        return mx.concatenate([rows[1:], rows[:1]])

    def wrong(self: Any, name: str, data: Any) -> None:
        if "ffn_up" in name or "up_proj" in name:
            data = swapped(data) if format_ == "safetensors" else map(swapped, data)
        right(self, name, data)

    monkeypatch.setattr(writer[format_], "write", wrong)
    before = set(tmp_path.iterdir())
    with pytest.raises(ConvertError, match="reads back differently"):
        run(half_dir, tmp_path / "out", format_)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("type_", ["q8_0", "q4_0", "q4_1"])
def test_rounding_that_goes_too_far_is_noticed(tmp_path, half_dir, monkeypatch, type_) -> None:
    right = export_gguf.gguf_out.to_blocks

    def wrong(values: mx.array, kind: Any) -> mx.array:
        return right(values * 0.5 if len(values.shape) == 2 else values, kind)

    monkeypatch.setattr(export_gguf.gguf_out, "to_blocks", wrong)
    with pytest.raises(ConvertError, match="reads back differently"):
        run(half_dir, tmp_path / "x.gguf", type_=type_)


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
def test_values_too_large_for_float16_are_refused_with_a_way_out(tmp_path, format_) -> None:
    source = write_model(tmp_path / "wide")
    name = "model.layers.0.mlp.up_proj.weight"
    values = np.array(stored(source)[name])
    values[0, 0] = 1e6
    edit_weights(source, {name: mx.array(values)})
    with pytest.raises(ConvertError, match="too large for float16") as caught:
        run(source, tmp_path / "out", format_, "f16")
    assert "--type bf16" in str(caught.value.hint)
    run(source, tmp_path / "out", format_, "bf16")


@pytest.mark.parametrize("format_", ["gguf", "safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(tmp_path, half_dir, value, format_) -> None:
    edit_weights(half_dir, {"model.norm.weight": mx.full((32,), value, mx.float16)})
    with pytest.raises(ConvertError, match=r"`model\.norm\.weight` holds values that are not fin"):
        run(half_dir, tmp_path / "out", format_)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused_where_codes_are_moved(
    tmp_path, packed_dir, value
) -> None:
    name = "model.layers.1.mlp.up_proj.scales"
    scales = np.array(stored(packed_dir)[name])
    scales[3, 0] = value
    edit_weights(packed_dir, {name: mx.array(scales)})
    with pytest.raises(ConvertError, match="that are not finite"):
        run(packed_dir, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.norm.weight": None}, r"1 missing \(model\.norm\.weight\)"),
        ({"model.norm.weight": mx.zeros(31)}, r"`model\.norm\.weight` is 31, .* says 32"),
        ({"model.norm.weight": mx.zeros(32, mx.int32)}, "holds I32"),
        ({"model.extra.weight": mx.zeros(3)}, r"1 without a place .* \(model\.extra"),
        (
            {"model.embed_tokens.biases": None},
            r"`model.embed_tokens.weight` is not packed in 8 bits",
        ),
        ({"model.embed_tokens.scales": mx.zeros((258, 2))}, "not packed .* and groups of 32"),
    ],
    ids=["missing", "misshapen", "no floats", "unexpected", "half packed", "other groups"],
)
def test_a_directory_that_does_not_fit_its_network_is_refused(
    tmp_path, packed_dir, changes, said
) -> None:
    edit_weights(packed_dir, changes)
    with pytest.raises(ConvertError, match=said):
        run(packed_dir, tmp_path / "x.gguf")


def test_impossible_options_are_named(tmp_path) -> None:
    with pytest.raises(InvalidOption, match="'q4_0', expected one of auto, f16, bf16, f32"):
        ExportOptions("safetensors", "q4_0")
    with pytest.raises(InvalidOption, match="'q2_k', expected one of auto, f16"):
        ExportOptions("gguf", "q2_k")


def test_a_directory_without_a_model_is_an_error_of_ours(tmp_path) -> None:
    with pytest.raises(MobileLLMError, match="not a model directory"):
        run(tmp_path, tmp_path / "out" / "x.gguf")
    assert not (tmp_path / "out").exists()
