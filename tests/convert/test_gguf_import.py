"""GGUF in: every code, scale and row is where it belongs, and nothing else is let in."""

import json
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convert.gguf import GGUFSource, unpermute_rows
from convert.job import ConvertOptions, convert
from convert.readers.gguf import open_gguf
from convert.readers.tensors import MergedReader, PackedTensor
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConfigError, ConvertError, MobileLLMError
from mobilellm_mlx.events import Notice
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from tests.convert import gguf_writer as gguf
from tests.convert.gguf_writer import F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0

PLACES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    **{
        f"blk.{layer}.{theirs}": f"model.layers.{layer}.{ours}"
        for layer in range(gguf.LAYERS)
        for theirs, ours in {
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }.items()
    },
}
MATRICES = [name for name, tensor in gguf.tiny_tensors().items() if tensor.kind is not F32]
VECTORS = [name for name, tensor in gguf.tiny_tensors().items() if tensor.kind is F32]


@dataclass(frozen=True)
class Converted:
    """A model directory that a conversion made, and what it said meanwhile."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, mx.array]
    notices: list[str]

    def module(self, name: str) -> list[mx.array]:
        """Codes, scales and biases of a packed matrix."""
        return [self.tensors[f"{name}.{leaf}"] for leaf in ("weight", "scales", "biases")]

    def report(self, name: str) -> dict[str, Any]:
        """What ``conversion.json`` says about a tensor."""
        rows = json.loads((self.path / "conversion.json").read_text())["tensors"]
        return next(row for row in rows if row["name"] == name)


def run(path: Path, **options: Any) -> Converted:
    """The conversion of a file, into a directory beside it."""
    target = path.with_suffix("")
    events = list(convert(path, target, ConvertOptions(**{"verify": False, **options})))
    return Converted(
        target,
        json.loads((target / "config.json").read_text()),
        mx.load(str(target / "model.safetensors")),
        [event.text for event in events if isinstance(event, Notice)],
    )


def open_source(path: Path) -> GGUFSource:
    return GGUFSource(path, open_gguf(path))


@pytest.fixture(scope="module")
def converted(gguf_file) -> Converted:
    return run(gguf_file)


@pytest.fixture(scope="module")
def source() -> dict[str, gguf.Tensor]:
    """What the file was written from, before llama.cpp's row order."""
    return gguf.tiny_tensors()


def codes_of(words: mx.array, bits: int) -> list[list[int]]:
    """The codes in rows of 32-bit words, which are one stream of bits with the lowest first."""
    rows = []
    for row in words.tolist():
        stream = sum(word << 32 * i for i, word in enumerate(row))
        rows.append([stream >> bits * i & (1 << bits) - 1 for i in range(len(row) * 32 // bits)])
    return rows


def halves_of(array: mx.array) -> list[list[bytes]]:
    """float16 values as their two bytes: equality means equality of bits."""
    assert array.dtype == mx.float16
    return [[struct.pack("<e", value) for value in row] for row in array.tolist()]


@pytest.mark.parametrize("name", MATRICES)
def test_every_packed_code_is_preserved(converted, source, name) -> None:
    got = codes_of(converted.tensors[f"{PLACES[name]}.weight"], source[name].kind.bits)
    assert got == [[code for block in row for code in block.codes] for row in source[name].rows]


@pytest.mark.parametrize("name", MATRICES)
def test_every_scale_and_offset_is_preserved_to_the_bit(converted, source, name) -> None:
    _, scales, biases = converted.module(PLACES[name])
    for got, field in ((scales, "scale"), (biases, "offset")):
        want = [[struct.pack("<e", getattr(b, field)) for b in row] for row in source[name].rows]
        assert halves_of(got) == want, field


@pytest.mark.parametrize("name", MATRICES)
def test_the_weights_are_what_the_block_formula_says(converted, source, name) -> None:
    weight, scales, biases = converted.module(PLACES[name])
    values = mx.dequantize(
        weight,
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=32,
        bits=source[name].kind.bits,
    )
    for got, want in zip(values.tolist(), source[name].values(), strict=True):
        assert got == [struct.unpack("<f", struct.pack("<f", value))[0] for value in want]


@pytest.mark.parametrize("name", VECTORS)
def test_norms_become_float16_without_losing_anything(converted, source, name) -> None:
    norm = converted.tensors[f"{PLACES[name]}.weight"]
    assert norm.dtype == mx.float16
    assert norm.tolist() == list(source[name].numbers)


def test_exactly_the_tensors_of_the_network_come_out(converted) -> None:
    want = {f"{PLACES[name]}.weight" for name in VECTORS}
    want |= {f"{PLACES[n]}.{leaf}" for n in MATRICES for leaf in ("weight", "scales", "biases")}
    assert converted.tensors.keys() == want


def test_nothing_is_wider_than_the_file_was(converted) -> None:
    assert {str(t.dtype) for t in converted.tensors.values()} == {
        "mlx.core.uint32",
        "mlx.core.float16",
    }


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (1, 8), (3, 4), (9, 64), (5, 2)])
def test_unpermuting_is_the_inverse_of_llama_cpp_s_order(heads, size) -> None:
    rows = [[row * 10 + column for column in range(3)] for row in range(heads * size)]
    stored = []
    for head in range(heads):
        for i in range(size // 2):
            for part in (0, 1):
                stored.append(rows[head * size + part * size // 2 + i])
    assert unpermute_rows(mx.array(stored), heads).tolist() == rows
    if size > 2:
        assert stored != rows


def test_the_order_of_v_is_left_alone(gguf_file, converted, source) -> None:
    raw = mx.load(str(gguf_file))
    for layer in range(gguf.LAYERS):
        ours = converted.tensors[f"model.layers.{layer}.self_attn.v_proj.weight"]
        assert mx.array_equal(ours, raw[f"blk.{layer}.attn_v.weight"])


def test_the_configuration_says_what_the_metadata_said(converted) -> None:
    meta, config = gguf.tiny_metadata(), converted.config
    assert config["model_type"] == "llama"
    assert config["hidden_size"] == meta["llama.embedding_length"]
    assert config["intermediate_size"] == meta["llama.feed_forward_length"]
    assert config["num_hidden_layers"] == meta["llama.block_count"]
    assert config["num_attention_heads"] == meta["llama.attention.head_count"]
    assert config["num_key_value_heads"] == meta["llama.attention.head_count_kv"]
    assert config["head_dim"] == gguf.HEAD
    assert config["max_position_embeddings"] == meta["llama.context_length"]
    assert config["vocab_size"] == len(meta["tokenizer.ggml.tokens"])
    assert config["bos_token_id"] == meta["tokenizer.ggml.bos_token_id"]
    assert config["eos_token_id"] == meta["tokenizer.ggml.eos_token_id"]
    assert json.loads(json.dumps(config)) == config


def test_rounded_constants_are_written_as_people_write_them(converted) -> None:
    assert converted.config["rms_norm_eps"] == 1e-5  # float32 holds 9.999999747378752e-06
    assert converted.config["rope_theta"] == 100_000.0


def test_the_quantization_table_names_the_odd_module_only(converted) -> None:
    table = {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8, "mode": "affine"},
    }
    assert converted.config["quantization"] == converted.config["quantization_config"] == table


def write(tmp_path, tensors=None, **metadata):
    """A tiny file with changes."""
    merged = {**gguf.tiny_metadata(), **{k.replace("__", "."): v for k, v in metadata.items()}}
    kept = {key: value for key, value in merged.items() if value is not None}
    return gguf.write_gguf(
        tmp_path / "changed.gguf", kept, tensors or gguf.stored(gguf.tiny_tensors())
    )


def test_without_an_output_matrix_the_head_is_tied(converted) -> None:
    assert converted.config["tie_word_embeddings"] is True


def test_with_an_output_matrix_the_head_is_its_own(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    vocab = len(gguf.tiny_metadata()["tokenizer.ggml.tokens"])
    tensors["output.weight"] = gguf.matrix(Q8_0, vocab, gguf.HIDDEN, random.Random(9))
    untied = run(write(tmp_path, tensors))
    assert untied.config["tie_word_embeddings"] is False
    assert untied.config["quantization"]["lm_head"] == {
        "group_size": 32,
        "bits": 8,
        "mode": "affine",
    }
    codes = [[code for b in row for code in b.codes] for row in tensors["output.weight"].rows]
    assert codes_of(untied.tensors["lm_head.weight"], 8) == codes


@pytest.mark.parametrize(
    "name", ["blk.0.attn_qkv.weight", "blk.0.attn_q.bias", "blk.00.attn_q.weight", "mystery.weight"]
)
def test_a_tensor_without_a_place_is_named(tmp_path, name) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors[name] = gguf.vector([0.0] * 32)
    with pytest.raises(ConvertError, match=f"1 tensors have no place in the network: {name}"):
        open_source(write(tmp_path, tensors))


@pytest.mark.parametrize("name", ["blk.1.attn_k.weight", "output_norm.weight"])
def test_a_missing_tensor_is_named(tmp_path, name) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    del tensors[name]
    place = PLACES[name.removesuffix(".weight")]
    with pytest.raises(ConvertError, match=f"missing .*{place}"):
        open_source(write(tmp_path, tensors))


def test_a_missing_embedding_is_named(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    del tensors["token_embd.weight"]
    with pytest.raises(ConvertError, match="no token embedding"):
        open_source(write(tmp_path, tensors))


def test_a_tensor_of_another_size_is_refused(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["blk.0.ffn_up.weight"] = gguf.matrix(Q4_1, gguf.FFN - 32, gguf.HIDDEN, random.Random())
    with pytest.raises(ConvertError, match=r"`blk.0.ffn_up.weight` is 64 x 64, .* 96 x 64"):
        open_source(write(tmp_path, tensors))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general__architecture": "qwen2"}, "architecture 'qwen2', expected 'llama'"),
        ({"general__architecture": None}, "architecture '', expected 'llama'"),
        ({"general__architecture": 7}, "`general.architecture` is not a string"),
        ({"llama__block_count": None}, "`llama.block_count` is missing"),
        ({"llama__block_count": "two"}, "`llama.block_count` is not a number"),
        ({"llama__block_count": True}, "`llama.block_count` is True, expected a whole number"),
        ({"llama__block_count": 0}, "`llama.block_count` is 0, expected 1 to 1,048,576"),
        ({"llama__embedding_length": 2**32 - 1}, "4,294,967,295, expected 1 to 1,048,576"),
        ({"llama__attention__key_length": 2**20}, "4 heads of 1,048,576, which is no model"),
        ({"llama__attention__head_count_kv": [2, 2]}, "head_count_kv` is not a number"),
        ({"llama__rope__dimension_count": 8}, "rope.dimension_count` is 8, expected 16"),
        ({"llama__attention__value_length": 32}, "value_length` is 32, expected 16"),
        ({"llama__expert_count": 8}, "`llama.expert_count` is 8, expected 0"),
        ({"llama__attention__sliding_window": 4096}, "sliding_window` is 4096, expected 0"),
        ({"llama__attention__causal": False}, "causal` is False, expected True"),
        ({"llama__logit_scale": 0.5}, "logit_scale` is 0.5, expected 0"),
        ({"split__count": 3}, "`changed.gguf` is one of several parts, but its name does not"),
        ({"tokenizer__ggml__model": "t5"}, "tokenizer is 't5', expected 'gpt2' or 'llama'"),
        ({"tokenizer__ggml__model": "llama"}, "`tokenizer.ggml.scores` is not a list of numbers"),
        ({"tokenizer__ggml__pre": "default"}, "pre-tokenizer 'default'"),
        ({"tokenizer__ggml__pre": "tekken"}, "pre-tokenizer 'tekken'"),
        ({"tokenizer__ggml__pre": None}, "pre-tokenizer ''"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "does not fit its types, or names one twice"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "does not fit its types"),
        ({"tokenizer__ggml__merges": ["he"]}, "the GGUF merge 'he' is not a pair"),
        ({"tokenizer__ggml__merges": ["he the"]}, "the GGUF merges do not fit the tokens"),
        ({"tokenizer__ggml__merges": "h e"}, "`tokenizer.ggml.merges` is not a list"),
        ({"tokenizer__ggml__tokens": None}, "`tokenizer.ggml.tokens` is not a list"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if type(value) is dict else "",
)
def test_metadata_that_we_cannot_honour_is_refused(tmp_path, change, said) -> None:
    with pytest.raises(ConvertError) as caught:
        run(write(tmp_path, **change))
    assert [path.name for path in tmp_path.iterdir()] == ["changed.gguf"]
    assert said in caught.value.message


@pytest.mark.parametrize(
    "settings",
    [{"llama__rope__scaling__type": "yarn"}, {"llama__rope__scaling__factor": 4.0}],
    ids=["yarn", "a factor alone"],
)
def test_rope_scaling_is_refused_because_the_network_has_none(tmp_path, settings) -> None:
    with pytest.raises(ConfigError, match=r"'(yarn|linear)' scaling"):
        open_source(write(tmp_path, **settings))


def test_settings_that_change_nothing_are_accepted(tmp_path, gguf_file) -> None:
    same = {
        "llama__rope__scaling__type": "none",
        "llama__rope__dimension_count": gguf.HEAD,
        "llama__attention__causal": True,
        "llama__expert_count": 0,
        "llama__logit_scale": 1.0,
        "split__count": 0,
    }
    assert open_source(write(tmp_path, **same)).raw == open_source(gguf_file).raw


@pytest.mark.parametrize("key", ["attention__head_count", "attention__head_count_kv",
                                 "embedding_length", "attention__key_length", "block_count",
                                 "feed_forward_length", "context_length"])  # fmt: skip
@pytest.mark.parametrize("value", [0, 3, 1024, 2**20, 2**32 - 1])
def test_no_shape_in_the_metadata_gets_past_the_checks(tmp_path, key, value) -> None:
    """Either it is refused in our words, or (a context of any length) it does not matter."""
    path = write(tmp_path, **{f"llama__{key}": value})
    if key == "context_length" and 0 < value < 2**31:
        assert open_source(path).raw["max_position_embeddings"] == value
        return
    with pytest.raises(MobileLLMError) as caught:
        open_source(path)
    assert type(caught.value) in (ConvertError, ConfigError)


def test_rope_factors_of_one_are_checked_and_left_out(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["rope_freqs.weight"] = gguf.vector([1.0] * (gguf.HEAD // 2))
    source = open_source(write(tmp_path, tensors))
    assert source.unused == {"rope_freqs.weight": "all its factors are 1"}
    assert source.names.keys() == {f"{place}.weight" for place in PLACES.values()}


def test_other_rope_factors_are_refused(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["rope_freqs.weight"] = gguf.vector([1.0] * (gguf.HEAD // 2 - 1) + [8.0])
    with pytest.raises(ConvertError, match=r"`rope_freqs.weight` stretches the positions"):
        open_source(write(tmp_path, tensors))


def test_a_source_says_nothing_about_packing_where_nothing_is_lost(gguf_file, converted) -> None:
    source = open_source(gguf_file)
    assert "quantization" not in source.raw
    assert source.notices == converted.notices == []


def test_what_was_converted_loads_and_computes(converted) -> None:
    loaded = load_model(converted.path, LoadOptions(compute="packed"))
    logits = loaded.model(mx.array([[1, 2, 3]]), loaded.model.make_cache())
    assert logits.shape == (1, 3, converted.config["vocab_size"])
    assert mx.all(mx.isfinite(logits)).item()


def test_mlx_s_own_reader_sees_the_same_bits(gguf_file, source) -> None:
    theirs, reader = mx.load(str(gguf_file)), open_gguf(gguf_file)
    for name in reader.entries:
        value = reader.read(name)
        module = name.removesuffix(".weight")
        parts = value.parts() if isinstance(value, PackedTensor) else {"weight": value}
        for part, array in parts.items():
            other = theirs.pop(f"{module}.{part}")
            assert array.dtype == other.dtype
            assert mx.array_equal(array.view(mx.uint8), other.view(mx.uint8)), name
    assert not theirs


@pytest.mark.parametrize("kind", [Q5_0, Q5_1])
def test_five_bit_blocks_stay_packed(tmp_path, kind) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    odd = gguf.matrix(kind, gguf.FFN, gguf.HIDDEN, random.Random(5))
    tensors["blk.1.ffn_up.weight"] = odd
    model, module = run(write(tmp_path, tensors)), "model.layers.1.mlp.up_proj"
    table = {"group_size": 32, "bits": 5, "mode": "affine"}
    assert model.config["quantization"][module] == table
    weight, scales, biases = model.module(module)
    assert codes_of(weight, 5) == [[code for b in row for code in b.codes] for row in odd.rows]
    values = mx.dequantize(
        weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size=32, bits=5
    )
    for got, want in zip(values.tolist(), odd.values(), strict=True):
        assert got == [struct.unpack("<f", struct.pack("<f", value))[0] for value in want]


WIDE = 256
"""Columns of ``ffn_down`` in files with K-quants, which come in blocks of that many."""


def write_k_quants(tmp_path, *downs: gguf.Raw) -> Path:
    """A tiny file whose ``ffn_down`` matrices are these."""
    tensors, rng = gguf.stored(gguf.tiny_tensors()), random.Random(6)
    for layer, down in enumerate(downs):
        for name in ("gate", "up"):
            tensors[f"blk.{layer}.ffn_{name}.weight"] = gguf.matrix(Q4_1, WIDE, gguf.HIDDEN, rng)
        tensors[f"blk.{layer}.ffn_down.weight"] = down
    return write(tmp_path, tensors, llama__feed_forward_length=WIDE)


def k_matrix(bits: int) -> tuple[gguf.Raw, list[list[float]]]:
    """A random matrix for ``ffn_down`` in Q4_K or Q5_K, and its weights."""
    rng = random.Random(bits)
    blocks = [gguf.draw_k_block(rng, bits) for _ in range(gguf.HIDDEN)]
    data = b"".join(block for block, _ in blocks)
    return gguf.Raw(8 + bits, (gguf.HIDDEN, WIDE), data), [weights for _, weights in blocks]


def six_bits() -> gguf.Raw:
    """The same in Q6_K."""
    rng = random.Random(6)
    block = bytes(rng.randrange(256) for _ in range(208)) + struct.pack("<e", 0.001)
    return gguf.Raw(14, (gguf.HIDDEN, WIDE), block * gguf.HIDDEN)


DOWN = [f"model.layers.{layer}.mlp.down_proj" for layer in range(gguf.LAYERS)]
ROUNDED = (
    "where they stay packed, their scales are rounded to 16 bits (`--dtype float32` keeps them "
    "exact)"
)


@pytest.mark.parametrize("bits", [4, 5])
def test_k_quants_in_groups_of_32_stay_packed_without_loss_in_float32(tmp_path, bits) -> None:
    down, weights = k_matrix(bits)
    model = run(write_k_quants(tmp_path, down, down), dtype="float32")
    for module in DOWN:
        assert model.report(f"{module}.weight")["action"] == "copy"
        assert model.report(f"{module}.weight")["bits"] == bits
        codes, scales, biases = model.module(module)
        assert scales.dtype == biases.dtype == mx.float32
        got = mx.dequantize(codes, scales, biases, group_size=32, bits=bits)
        want = mx.array(weights)  # doubles, rounded once
        assert mx.array_equal(got, want).item()


@pytest.mark.parametrize("bits", [4, 5])
def test_k_quants_lose_the_rounding_of_their_scales_only_and_say_so(tmp_path, bits) -> None:
    down, _ = k_matrix(bits)
    path = write_k_quants(tmp_path, down, down)
    model, source = run(path), open_source(path)
    assert model.notices == [f"2 tensors are Q{bits}_K: {ROUNDED}"]
    for module in DOWN:
        packed = source.read(f"{module}.weight")
        codes, scales, biases = model.module(module)
        assert mx.array_equal(codes, packed.codes).item()
        assert packed.scales.dtype == mx.float32  # else the comparison would prove nothing
        assert not mx.array_equal(scales, packed.scales).item()
        assert mx.array_equal(scales, packed.scales.astype(mx.float16)).item()
        assert mx.array_equal(biases, packed.biases.astype(mx.float16)).item()


def test_a_mixture_of_k_quants_keeps_what_can_be_kept(tmp_path) -> None:
    model = run(write_k_quants(tmp_path, k_matrix(4)[0], six_bits()), verify=True)
    assert model.notices == [
        f"1 tensors are Q4_K: {ROUNDED}",
        "1 tensors are Q6_K, which MLX cannot hold packed: they are unpacked, and packed again "
        "with more bits unless others are asked for",
    ]
    table = model.config["quantization"]
    assert (table["bits"], table["group_size"]) == (4, 32)
    assert DOWN[0] not in table
    assert table[DOWN[1]] == {"group_size": 64, "bits": 8, "mode": "affine"}
    kept, again = (model.report(f"{module}.weight") for module in DOWN)
    assert (kept["source_dtype"], kept["action"], kept["bits"]) == ("Q4_K", "copy", 4)
    assert (again["source_dtype"], again["action"], again["bits"]) == ("Q6_K", "pack", 8)
    assert 0 < again["relative_error"] < 0.01  # eight bits after six cost little
    load_model(model.path, LoadOptions(compute="packed"))


def test_k_quants_are_packed_anew_when_that_is_asked_for(tmp_path) -> None:
    path = write_k_quants(tmp_path, k_matrix(4)[0], six_bits())
    model = run(path, bits=8, group_size=32)
    assert [model.report(f"{module}.weight")["action"] for module in DOWN] == ["repack", "pack"]
    assert [model.report(f"{module}.weight")["bits"] for module in DOWN] == [8, 8]


def test_sampling_advice_beside_a_file_may_be_another_model_s(tmp_path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.9, "do_sample": true}')
    path = write(tmp_path)
    assert open_source(path).generation() == {}
    told = json.loads((run(path).path / "generation_config.json").read_text())
    assert "temperature" not in told
    assert GGUFSource(tmp_path, open_gguf(path)).generation()["temperature"] == 0.9


def test_the_licence_is_what_the_file_says(tmp_path) -> None:
    assert open_source(write(tmp_path)).licence().name is None
    assert open_source(write(tmp_path, general__license="mit")).licence().name == "mit"


def test_a_tensor_of_whole_numbers_is_no_weight(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["output_norm.weight"] = gguf.Raw(26, (gguf.HIDDEN,), bytes(4 * gguf.HIDDEN))
    with pytest.raises(ConvertError, match=r"`output_norm.weight` is I32, expected weights"):
        open_source(write(tmp_path, tensors))


def write_parts(tmp_path, count=3, **changes):
    """The tiny model in parts: all metadata in the first, every third tensor in each."""
    names, paths = list(gguf.stored(gguf.tiny_tensors())), []
    for number in range(count):
        metadata = {"split.no": number, "split.count": count}
        metadata |= gguf.tiny_metadata() if number == 0 else {}
        metadata |= changes.get(f"part_{number}", {})
        tensors = gguf.stored(gguf.tiny_tensors())
        part = {name: tensors[name] for name in names[number::count]}
        paths.append(tmp_path / f"tiny-{number + 1:05}-of-{count:05}.gguf")
        gguf.write_gguf(paths[-1], metadata, part)
    return paths


def test_a_split_file_is_opened_by_any_of_its_parts(tmp_path, converted) -> None:
    for path in write_parts(tmp_path):
        model = run(path)
        assert model.config == converted.config
        assert model.tensors.keys() == converted.tensors.keys()
        assert all(mx.array_equal(model.tensors[n], a) for n, a in converted.tensors.items())


def test_a_split_file_is_opened_by_its_directory(tmp_path) -> None:
    paths = write_parts(tmp_path)
    source = GGUFSource(tmp_path, MergedReader([open_gguf(path) for path in paths]))
    assert source.reader.files == tuple(paths)
    assert source.names.keys() == {f"{place}.weight" for place in PLACES.values()}


def test_a_missing_part_is_named(tmp_path) -> None:
    paths = write_parts(tmp_path)
    paths[1].unlink()
    with pytest.raises(ConvertError, match=r"`tiny-00002-of-00003.gguf` is missing"):
        open_source(paths[0])


def test_parts_in_the_wrong_order_are_refused(tmp_path) -> None:
    paths = write_parts(tmp_path, part_1={"split.no": 2})
    with pytest.raises(ConvertError, match=r"`tiny-00002-of-00003.gguf` says it is part 2"):
        open_source(paths[2])


def test_a_norm_beyond_float16_is_refused(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["output_norm.weight"] = gguf.vector([1e6] * gguf.HIDDEN)
    with pytest.raises(ConvertError, match=r"`model.norm.weight` holds .* too large for float16"):
        run(write(tmp_path, tensors))


def test_a_file_that_is_not_gguf_is_refused(tmp_path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>" * 100)
    with pytest.raises(ConvertError, match=r"`page\.gguf` cannot be read as GGUF"):
        open_source(path)


def test_q4_0_and_q4_1_count_as_the_same_width(converted) -> None:
    kinds = {tensor.kind for tensor in gguf.tiny_tensors().values()}
    assert {Q4_0, Q4_1} <= kinds  # else this file does not have both
    modules = [
        key for key, value in converted.config["quantization"].items() if type(value) is dict
    ]
    assert modules == ["model.embed_tokens"]
