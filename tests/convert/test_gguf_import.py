"""GGUF in: every code, scale and row is where it belongs, and nothing else is let in."""

import json
import random
import struct

import pytest

from convert.gguf import import_gguf, unpermute_rows
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConfigError, ConvertError
from tests.convert import gguf_writer as gguf
from tests.convert.gguf_writer import F32, Q4_0, Q4_1, Q8_0

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


@pytest.fixture(scope="module")
def source() -> dict[str, gguf.Tensor]:
    """What the file was written from, before llama.cpp's row order."""
    return gguf.tiny_tensors()


def codes_of(words: mx.array, bits: int) -> list[list[int]]:
    """The codes in rows of 32-bit words, the lowest bits first."""
    per_word, mask = 32 // bits, (1 << bits) - 1
    return [
        [word >> bits * i & mask for word in row for i in range(per_word)] for row in words.tolist()
    ]


def halves_of(array: mx.array) -> list[list[bytes]]:
    """float16 values as their two bytes: equality means equality of bits."""
    assert array.dtype == mx.float16
    return [[struct.pack("<e", value) for value in row] for row in array.tolist()]


@pytest.mark.parametrize("name", MATRICES)
def test_every_packed_code_is_preserved(imported, source, name) -> None:
    got = codes_of(imported.tensors[f"{PLACES[name]}.weight"], source[name].kind.bits)
    assert got == [[code for block in row for code in block.codes] for row in source[name].rows]


@pytest.mark.parametrize("name", MATRICES)
def test_every_scale_and_offset_is_preserved_to_the_bit(imported, source, name) -> None:
    scales, biases = (imported.tensors[f"{PLACES[name]}.{leaf}"] for leaf in ("scales", "biases"))
    for got, field in ((scales, "scale"), (biases, "offset")):
        want = [[struct.pack("<e", getattr(b, field)) for b in row] for row in source[name].rows]
        assert halves_of(got) == want, field


@pytest.mark.parametrize("name", MATRICES)
def test_the_weights_are_what_the_block_formula_says(imported, source, name) -> None:
    weight, scales, biases = (
        imported.tensors[f"{PLACES[name]}.{leaf}"] for leaf in ("weight", "scales", "biases")
    )
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
def test_norms_become_float16_without_losing_anything(imported, source, name) -> None:
    norm = imported.tensors[f"{PLACES[name]}.weight"]
    assert norm.dtype == mx.float16
    assert norm.tolist() == list(source[name].numbers)


def test_exactly_the_tensors_of_the_network_come_out(imported) -> None:
    want = {f"{PLACES[name]}.weight" for name in VECTORS}
    want |= {f"{PLACES[n]}.{leaf}" for n in MATRICES for leaf in ("weight", "scales", "biases")}
    assert imported.tensors.keys() == want


def test_nothing_is_wider_than_the_file_was(imported) -> None:
    assert {str(t.dtype) for t in imported.tensors.values()} == {
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


def test_the_order_of_v_is_left_alone(gguf_file, imported, source) -> None:
    raw = mx.load(str(gguf_file))
    for layer in range(gguf.LAYERS):
        ours = imported.tensors[f"model.layers.{layer}.self_attn.v_proj.weight"]
        assert mx.array_equal(ours, raw[f"blk.{layer}.attn_v.weight"])


def test_the_configuration_says_what_the_metadata_said(imported) -> None:
    meta, config = gguf.tiny_metadata(), imported.config
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


def test_rounded_constants_are_written_as_people_write_them(imported) -> None:
    assert imported.config["rms_norm_eps"] == 1e-5  # float32 holds 9.999999747378752e-06
    assert imported.config["rope_theta"] == 100_000.0


def test_the_quantization_table_names_the_odd_module_only(imported) -> None:
    table = {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }
    assert imported.config["quantization"] == imported.config["quantization_config"] == table


def write(tmp_path, tensors=None, **metadata):
    """A tiny file with changes."""
    merged = {**gguf.tiny_metadata(), **{k.replace("__", "."): v for k, v in metadata.items()}}
    kept = {key: value for key, value in merged.items() if value is not None}
    return gguf.write_gguf(
        tmp_path / "changed.gguf", kept, tensors or gguf.stored(gguf.tiny_tensors())
    )


def test_without_an_output_matrix_the_head_is_tied(imported) -> None:
    assert imported.config["tie_word_embeddings"] is True


def test_with_an_output_matrix_the_head_is_its_own(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    vocab = len(gguf.tiny_metadata()["tokenizer.ggml.tokens"])
    tensors["output.weight"] = gguf.matrix(Q8_0, vocab, gguf.HIDDEN, random.Random(9))
    untied = import_gguf(write(tmp_path, tensors))
    assert untied.config["tie_word_embeddings"] is False
    assert untied.config["quantization"]["lm_head"] == {"group_size": 32, "bits": 8}
    codes = [[code for b in row for code in b.codes] for row in tensors["output.weight"].rows]
    assert codes_of(untied.tensors["lm_head.weight"], 8) == codes


@pytest.mark.parametrize(
    "name", ["blk.0.attn_qkv.weight", "blk.0.attn_q.bias", "rope_freqs.weight", "mystery.weight"]
)
def test_a_tensor_without_a_place_is_named(tmp_path, name) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors[name] = gguf.vector([0.0] * 32)
    with pytest.raises(ConvertError, match=f"1 tensors have no place in the network: {name}"):
        import_gguf(write(tmp_path, tensors))


@pytest.mark.parametrize("name", ["blk.1.attn_k.weight", "output_norm.weight"])
def test_a_missing_tensor_is_named(tmp_path, name) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    del tensors[name]
    place = PLACES[name.removesuffix(".weight")]
    with pytest.raises(ConvertError, match=f"missing .*{place}"):
        import_gguf(write(tmp_path, tensors))


def test_a_missing_embedding_is_named(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    del tensors["token_embd.weight"]
    with pytest.raises(ConvertError, match="no token embedding"):
        import_gguf(write(tmp_path, tensors))


def test_a_tensor_of_another_size_is_refused(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["blk.0.ffn_up.weight"] = gguf.matrix(Q4_1, gguf.FFN - 32, gguf.HIDDEN, random.Random())
    with pytest.raises(ConvertError, match=r"wrong shape \(model.layers.0.mlp.up_proj"):
        import_gguf(write(tmp_path, tensors))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"general__architecture": "qwen2"}, "architecture 'qwen2', expected 'llama'"),
        ({"general__architecture": None}, "architecture '', expected 'llama'"),
        ({"general__architecture": 7}, "`general.architecture` is not a string"),
        ({"llama__block_count": None}, "`llama.block_count` is missing"),
        ({"llama__block_count": "two"}, "`llama.block_count` is not a number"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer is 'llama'"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe'"),
        ({"tokenizer__ggml__pre": None}, "pre-tokenizer ''"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "does not fit its types, or names one twice"),
        ({"tokenizer__ggml__token_type": [1, 1]}, "does not fit its types"),
        ({"tokenizer__ggml__merges": ["he"]}, "the GGUF merge 'he' is not a pair"),
        ({"tokenizer__ggml__merges": "h e"}, "`tokenizer.ggml.merges` is not a list"),
        ({"tokenizer__ggml__tokens": None}, "`tokenizer.ggml.tokens` is not a list"),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if type(value) is dict else "",
)
def test_metadata_that_we_cannot_honour_is_refused(tmp_path, change, said) -> None:
    with pytest.raises(ConvertError) as caught:
        import_gguf(write(tmp_path, **change))
    assert said in caught.value.message


def test_rope_scaling_is_refused_because_the_network_has_none(tmp_path) -> None:
    with pytest.raises(ConfigError, match="'yarn' scaling"):
        import_gguf(write(tmp_path, llama__rope__scaling__type="yarn"))


def test_a_norm_beyond_float16_is_refused(tmp_path) -> None:
    tensors = gguf.stored(gguf.tiny_tensors())
    tensors["output_norm.weight"] = gguf.vector([1e6] * gguf.HIDDEN)
    with pytest.raises(ConvertError, match=r"`model.norm.weight` does not fit into .*float16"):
        import_gguf(write(tmp_path, tensors))


def test_a_file_that_is_not_gguf_is_refused(tmp_path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>" * 100)
    with pytest.raises(ConvertError, match=r"`page\.gguf` cannot be read as GGUF"):
        import_gguf(path)


def test_q4_0_and_q4_1_count_as_the_same_width(tmp_path, imported) -> None:
    kinds = {tensor.kind for tensor in gguf.tiny_tensors().values()}
    assert {Q4_0, Q4_1} <= kinds  # else this file does not have both
    modules = [key for key, value in imported.config["quantization"].items() if type(value) is dict]
    assert modules == ["model.embed_tokens"]
