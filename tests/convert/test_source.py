"""A checkpoint, opened: names, shapes and the question of the output head."""

import pytest
from tiny import MOBILELLM, write_json

from convert.source import HEAD, Source, map_names, open_source
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConfigError, ConvertError, MobileLLMError
from tests.convert import gguf_writer
from tests.convert.checkpoints import (
    SHARED,
    UP,
    WIDE,
    checkpoint,
    set_config,
    tensors,
    write_safetensors,
)

UNTIED = {**WIDE, "tie_word_embeddings": False}
V1 = {**MOBILELLM, "hidden_size": 64, "intermediate_size": 128, "layer_sharing": False}


def refused(path, **places) -> MobileLLMError:
    with pytest.raises(MobileLLMError) as caught:
        open_source(path, **places)
    assert "\n" not in caught.value.message
    return caught.value


# Names


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module."])
def test_what_training_programs_put_before_names_is_taken_off(prefix) -> None:
    names, unused = map_names([f"{prefix}model.layers.0.x.weight", f"{prefix}lm_head.weight"])
    assert names["model.layers.0.x.weight"] == f"{prefix}model.layers.0.x.weight"
    assert names["lm_head.weight"] == f"{prefix}lm_head.weight" and not unused


def test_prefixes_in_the_other_order_are_taken_off_too() -> None:
    theirs = "module._orig_mod.model.layers.0.x.weight"  # a compiled model, trained in parallel
    assert map_names([theirs])[0] == {"model.layers.0.x.weight": theirs}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_bare_names_are_known_behind_a_prefix(prefix) -> None:
    names, _ = map_names([f"{prefix}embed_tokens.weight", f"{prefix}layers.0.x.weight"])
    assert names.keys() == {"model.embed_tokens.weight", "model.layers.0.x.weight"}


def test_a_transformer_saved_without_its_head_has_bare_names() -> None:
    names, _ = map_names(["embed_tokens.weight", "layers.0.x.weight", "norm.weight"])
    assert names["model.embed_tokens.weight"] == "embed_tokens.weight"
    assert names["model.norm.weight"] == "norm.weight"


def test_tables_that_follow_from_the_configuration_are_left_out_with_the_reason() -> None:
    derived = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.cos_cached"]
    names, unused = map_names([*derived, "model.layers.0.x.weight"])
    assert unused == dict.fromkeys(derived, "follows from the configuration")
    assert names.keys() == {"model.layers.0.x.weight"}


def test_two_names_for_one_tensor_are_refused() -> None:
    with pytest.raises(ConvertError, match=r"`module\.model\.layers\.0\.x` and `model\.layers"):
        map_names(["model.layers.0.x", "module.model.layers.0.x"])


# Fit


def test_a_checkpoint_is_opened_with_our_names_and_shapes(tmp_path) -> None:
    source = open_source(checkpoint(tmp_path / "s"))
    assert source.shapes.keys() == source.names.keys() == tensors(tmp_path / "s").keys()
    assert (source.shapes[UP], source.entry(UP).dtype) == ((128, 64), "BF16")
    assert (source.notices, source.unused, source.home) == ([], {}, tmp_path / "s")


def test_a_single_file_takes_the_configuration_beside_it_or_a_named_one(tmp_path) -> None:
    file = checkpoint(tmp_path / "s") / "model.safetensors"
    assert open_source(file).home == tmp_path / "s"
    (tmp_path / "s" / "config.json").rename(tmp_path / "elsewhere.json")
    assert "has no `config.json` beside it" in refused(file).message
    assert open_source(file, tmp_path / "elsewhere.json").config.hidden_size == 64


def test_a_named_configuration_that_is_not_there_is_named(tmp_path) -> None:
    error = refused(checkpoint(tmp_path / "s"), config=tmp_path / "typo.json")
    assert "typo.json" in error.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({UP: None}, f"1 missing ({UP})"),
        ({"odd.weight": mx.ones((1,))}, "1 without a place in the network (odd.weight)"),
        ({"model.norm.bias": mx.ones((64,))}, "1 without a place in the network (model.norm.bias)"),
        ({UP: mx.ones((64, 128))}, f"`{UP}` is 64 x 128, the configuration says 128 x 64"),
        ({UP: mx.array(1.0)}, f"`{UP}` is a single number, the configuration says"),
        ({"model.layers.2.mlp.up_proj.weight": mx.ones((128, 64))}, "1 without a place"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, changes, said) -> None:
    error = refused(checkpoint(tmp_path / "s", WIDE, changes))
    assert said in error.message and "belong to the same model" in str(error.hint)


def test_of_many_misfits_a_few_are_named(tmp_path) -> None:
    checkpoint(tmp_path / "s")
    set_config(tmp_path / "s", num_hidden_layers=5, hidden_size=32)
    message = refused(tmp_path / "s").message
    assert "27 missing (" in message and "and 24 more)" in message and len(message) < 800


def test_an_error_does_not_repeat_a_name_of_any_length(tmp_path) -> None:
    checkpoint(tmp_path / "s", WIDE, {"x" * 300: mx.ones((1,))})
    assert len(refused(tmp_path / "s").message) < 500


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "5", '{"model_type": "gpt2"}', "[" * 100_000, '{"model_type": 5}', "\xff"),
        '{"model_type":"llama","hidden_size":1' + "0" * 5000 + "}",
        '{"model_type":"llama","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda text: text[:20],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, text) -> None:
    (checkpoint(tmp_path / "s") / "config.json").write_text(text, encoding="latin-1")
    assert isinstance(refused(tmp_path / "s"), ConfigError)


def test_a_network_too_large_to_describe_is_refused(tmp_path) -> None:
    most = 2**31 - 2
    sizes = ("intermediate_size", "hidden_size", "num_attention_heads", "head_dim")
    checkpoint(tmp_path / "s")
    set_config(tmp_path / "s", **dict.fromkeys(sizes, most), num_key_value_heads=most)
    refused(tmp_path / "s")


@pytest.mark.parametrize(("layers", "hidden"), [(1024, 64), (2, 2**31 - 8)])
def test_absurd_sizes_are_refused_without_making_the_network(tmp_path, layers, hidden) -> None:
    checkpoint(tmp_path / "s")
    set_config(tmp_path / "s", num_hidden_layers=layers, hidden_size=hidden, head_dim=16)
    assert "do not fit `config.json`" in refused(tmp_path / "s").message


def test_what_is_not_there_is_said(tmp_path) -> None:
    assert "there is no" in refused(tmp_path / "nowhere").message


def test_a_gguf_brings_its_own_configuration(tmp_path) -> None:
    path = gguf_writer.write_tiny_gguf(tmp_path / "q4.gguf")
    source = open_source(path)
    assert source.reader.format == "gguf" and source.config.family == "llama"


# The output head


def own_head(path, raw, head: mx.array | None) -> Source:
    """A checkpoint whose head is ``head``, whatever its configuration says."""
    return open_source(checkpoint(path / "s", raw, {HEAD: head}))


@pytest.mark.parametrize("raw", [WIDE, V1, SHARED], ids=["llama", "v1", "shared"])
def test_an_equal_head_is_the_embedding_and_left_out(tmp_path, raw) -> None:
    checkpoint(tmp_path / "t", raw)
    source = own_head(tmp_path, raw, tensors(tmp_path / "t")["model.embed_tokens.weight"])
    assert source.config.tie_word_embeddings and HEAD not in source.names
    assert "equals the embedding" in source.unused[HEAD] and source.notices == []


@pytest.mark.parametrize("raw", [WIDE, V1, SHARED], ids=["llama", "v1", "shared"])
def test_a_head_that_differs_is_kept_and_said(tmp_path, raw) -> None:
    source = own_head(tmp_path, raw, mx.ones((258, 64), mx.bfloat16))
    assert not source.config.tie_word_embeddings and HEAD in source.names
    assert HEAD in source.shapes and source.unused == {}
    assert len(source.notices) == 1 and "the head is kept" in source.notices[0]


def test_one_different_value_makes_another_head(tmp_path) -> None:
    checkpoint(tmp_path / "t")
    head = mx.array(tensors(tmp_path / "t")["model.embed_tokens.weight"])
    head[257, 63] += 1
    assert not own_head(tmp_path, WIDE, head).config.tie_word_embeddings


def test_a_head_with_the_same_nans_is_the_embedding(tmp_path) -> None:
    rows = mx.full((258, 64), float("nan"), mx.bfloat16)
    changes = {HEAD: rows, "model.embed_tokens.weight": rows}
    assert open_source(checkpoint(tmp_path / "s", WIDE, changes)).config.tie_word_embeddings


@pytest.mark.parametrize("raw", [UNTIED, {**V1, "share_embedding": False}], ids=["llama", "v1"])
def test_without_a_head_the_embedding_is_one_and_said(tmp_path, raw) -> None:
    source = own_head(tmp_path, raw, None)
    assert source.config.tie_word_embeddings
    assert len(source.notices) == 1 and "have no output head" in source.notices[0]


def test_a_head_of_its_own_that_the_configuration_knows_of_is_no_news(tmp_path) -> None:
    source = open_source(checkpoint(tmp_path / "s", UNTIED))
    assert source.notices == [] and HEAD in source.shapes


def test_a_head_of_another_shape_does_not_fit(tmp_path) -> None:
    checkpoint(tmp_path / "s", WIDE, {HEAD: mx.ones((7, 64), mx.bfloat16)})
    assert "`lm_head.weight` is 7 x 64" in refused(tmp_path / "s").message


def test_a_head_without_an_embedding_is_no_model(tmp_path) -> None:
    changes = {"model.embed_tokens.weight": None, HEAD: mx.ones((258, 64), mx.bfloat16)}
    checkpoint(tmp_path / "s", WIDE, changes)
    assert "1 missing (model.embed_tokens.weight)" in refused(tmp_path / "s").message


def test_a_packed_head_equal_to_the_packed_embedding_is_left_out(tmp_path) -> None:
    directory = checkpoint(tmp_path / "s", packed=True)
    parts = {n.replace("model.embed_tokens", "lm_head"): a for n, a in tensors(directory).items()}
    eight = {"group_size": 32, "bits": 8}
    table = {"group_size": 32, "bits": 4, "lm_head": eight, "model.embed_tokens": eight}
    set_config(directory, quantization=table)
    everything = {**tensors(directory), **{n: a for n, a in parts.items() if "lm_head" in n}}
    mx.save_safetensors(str(directory / "model.safetensors"), everything)
    assert "equals the embedding" in open_source(directory).unused[HEAD]


def test_a_name_that_is_not_unicode_is_refused_like_any_other(tmp_path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"\ud800": ("F32", (1,))})
    write_json(tmp_path / "config.json", WIDE)
    assert "unreadable header" in refused(tmp_path).message
