"""What becomes of every tensor, decided from tables and options alone."""

from pathlib import Path
from typing import Any

import pytest

from convert.plan import ConvertOptions, Plan, TensorPlan, make_plan
from convert.recipes import RECIPES, Rule
from convert.source import open_source
from convert.writers.safetensors_file import layout_bytes
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.weights import Packing, read_quantization
from tests.convert.checkpoints import UP, WIDE, checkpoint, set_config, tensors, write_safetensors

EMBED, NORM = "model.embed_tokens.weight", "model.norm.weight"
V, DOWN = "model.layers.0.self_attn.v_proj.weight", "model.layers.0.mlp.down_proj.weight"
OWN_HEAD = {**WIDE, "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def plain(place: Path) -> Path:
    return checkpoint(place / "plain", OWN_HEAD)


@pytest.fixture(scope="module")
def packed(place: Path) -> Path:
    """4 bits in groups of 32, the embedding in 8, with float16 scales."""
    return checkpoint(place / "packed", packed=True, dtype=mx.float16)


def plan(directory: Path, **options: Any) -> Plan:
    return make_plan(open_source(directory), ConvertOptions(**options))


def of(plan: Plan, name: str) -> TensorPlan:
    (found,) = [tensor for tensor in plan.tensors if tensor.name == name]
    return found


def bits(plan: Plan) -> dict[str, int | None]:
    return {t.module: t.packing and t.packing.bits for t in plan.tensors if len(t.shape) == 2}


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 7}, "`bits` is 7, expected one of auto, 2, 3, 4, 5, 6, 8"),
        ({"bits": "four"}, "`bits` is 'four'"),
        ({"group_size": 48}, "`group_size` is 48, expected one of 32, 64, 128"),
        ({"mode": "mxfp5"}, "`mode` is 'mxfp5'"),
        ({"mode": "mxfp4", "bits": 8}, "`bits` is 8, expected one of auto, 4"),
        ({"mode": "nvfp4", "group_size": 32}, "`group_size` is 32, expected one of 16"),
        ({"recipe": "4bits"}, "`recipe` is '4bits'"),
        ({"recipe": "4bit", "bits": 4}, "`--recipe` and `--bits` exclude each other"),
        ({"recipe": "4bit", "bits": None}, "`--recipe` and `--bits` exclude each other"),
        ({"dtype": "float64"}, "`dtype` is 'float64'"),
        ({"bits_for": (Rule("v_proj", 7),)}, "`bits-for v_proj` is 7, expected one of 2, 3"),
        ({"method": "gptq", "mode": "mxfp4"}, "is for affine packing only"),
        ({"method": "gptq", "bits": None}, "needs bits to pack to"),
    ],
    ids=str,
)
def test_an_impossible_option_is_refused_with_its_value(options, said) -> None:
    with pytest.raises(InvalidOption) as caught:
        ConvertOptions(**options)
    assert said in caught.value.message


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InvalidOption):
        ConvertOptions(method="gtpq")  # type: ignore[arg-type]


def test_a_typing_mistake_brings_up_what_was_meant() -> None:
    with pytest.raises(InvalidOption) as caught:
        ConvertOptions(mode="mxpf4")
    assert caught.value.hint == "did you mean `mxfp4`?"


# Recipes


def test_the_default_is_four_bits_and_more_where_it_hurts_most(plain) -> None:
    made = plan(plain)
    more = {"embed_tokens": 8, "lm_head": 8, "v_proj": 6, "down_proj": 6}
    assert bits(made) == {module: more.get(module.rpartition(".")[2], 4) for module in bits(made)}
    assert of(made, UP).packing == Packing(32, 4) and of(made, EMBED).packing == Packing(64, 8)
    assert of(made, NORM).packing is None and of(made, NORM).action == "keep"
    assert made.notes == {}


def test_four_bit_blocks_keep_eight_for_embedding_and_head(plain) -> None:
    made, eight = bits(plan(plain, recipe="4bit-blocks")), {"model.embed_tokens", "lm_head"}
    assert made == {module: 8 if module in eight else 4 for module in made}
    assert set(bits(plan(plain, recipe="4bit-all")).values()) == {4}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_packs_every_matrix(plain, recipe) -> None:
    made = plan(plain, recipe=recipe)
    assert None not in bits(made).values() and RECIPES[recipe].about
    assert set(bits(made).values()) >= {RECIPES[recipe].bits}


def test_bits_are_for_every_matrix_the_embedding_included(plain) -> None:
    assert set(bits(plan(plain, bits=5)).values()) == {5}
    assert set(bits(plan(plain, bits=None)).values()) == {None}
    assert plan(plain, bits=None).quantization() is None


@pytest.mark.parametrize(
    ("mode", "width", "group"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
)
def test_a_mode_brings_its_own_bits_and_groups(plain, mode, width, group) -> None:
    made = plan(plain, mode=mode)
    assert {t.packing for t in made.tensors if t.packing} == {Packing(group, width, mode)}
    assert made.quantization() == {"group_size": group, "bits": width, "mode": mode}


# Exceptions


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("v_proj", {"0.v", "1.v"}),
        ("self_attn.v_proj", {"0.v", "1.v"}),
        ("layers.0.*", {"0.v", "0.up"}),
        ("*.0.*_proj", {"0.v", "0.up"}),
        ("model.layers.1.self_attn.v_proj", {"1.v"}),
        ("1.mlp.up_proj", {"1.up"}),
        ("proj", set()),
        ("V_PROJ", set()),
    ],
)
def test_a_pattern_is_a_path_or_its_end(pattern, matches) -> None:
    modules = {
        f"{n}.{short}": f"model.layers.{n}.{path}"
        for n in (0, 1)
        for short, path in (("v", "self_attn.v_proj"), ("up", "mlp.up_proj"))
    }
    rule = Rule(pattern, 6)
    assert {short for short, module in modules.items() if rule.matches(module)} == matches


def test_the_last_exception_that_matches_wins(plain) -> None:
    rules = (Rule("v_proj", 6), Rule("layers.0.*", 16), Rule("0.self_attn.v_proj", 3))
    made = bits(plan(plain, bits=4, bits_for=rules))
    assert made["model.layers.0.self_attn.v_proj"] == 3
    assert made["model.layers.1.self_attn.v_proj"] == 6
    assert made["model.layers.0.mlp.up_proj"] is None
    assert made["model.layers.1.mlp.up_proj"] == 4


def test_exceptions_come_after_the_recipe_s_own(plain) -> None:
    made = bits(plan(plain, recipe="4bit", bits_for=(Rule("lm_head", 6),)))
    assert (made["lm_head"], made["model.embed_tokens"]) == (6, 8)


def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is(plain) -> None:
    with pytest.raises(InvalidOption, match="`--bits-for w_proj=6` matches no tensor") as caught:
        plan(plain, bits_for=(Rule("w_proj", 6),))
    for name in ("v_proj", "down_proj", "embed_tokens", "lm_head"):
        assert name in str(caught.value.hint)


def test_a_pattern_that_matches_no_matrix_is_refused(plain) -> None:
    with pytest.raises(InvalidOption):
        plan(plain, bits_for=(Rule("input_layernorm", 6),))


# Groups that do not fit


def test_a_matrix_whose_columns_have_no_group_is_left_unpacked_and_noted(tmp_path) -> None:
    made = plan(checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 48}))
    assert of(made, DOWN).packing is None and of(made, DOWN).action == "keep"
    why = "48 columns do not divide into groups of 32: not packed"
    assert made.notes == {DOWN: why, DOWN.replace(".0.", ".1."): why}
    assert made.notices() == [f"2 tensors such as `{DOWN}`: {why}"]
    assert made.quantization()["model.layers.0.mlp.down_proj"] is False


def test_a_smaller_group_is_taken_where_the_wanted_one_does_not_fit_and_noted(tmp_path) -> None:
    made = plan(checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 96}), bits=8)
    assert of(made, DOWN).packing == Packing(32, 8) and of(made, UP).packing == Packing(64, 8)
    assert made.notes[DOWN] == "96 columns do not divide into groups of 64: 32 are used"
    table = made.quantization()
    assert table["model.layers.0.mlp.down_proj"] == {"group_size": 32, "bits": 8, "mode": "affine"}


def test_a_larger_group_than_wanted_is_never_taken(tmp_path) -> None:
    made = plan(checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 256}), bits=4)
    assert of(made, DOWN).packing == Packing(32, 4)


def test_an_asked_for_group_goes_for_all_bits(tmp_path) -> None:
    made = plan(checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 256}), group_size=128)
    assert of(made, DOWN).packing == Packing(128, 6)
    assert of(made, EMBED).packing == Packing(64, 8) and EMBED in made.notes


def test_one_matrix_alone_is_named_in_its_notice(tmp_path) -> None:
    raw = {**WIDE, "intermediate_size": 48, "num_hidden_layers": 1}
    (notice,) = plan(checkpoint(tmp_path / "s", raw)).notices()
    assert notice.startswith(f"`{DOWN}`: 48 columns")


def test_another_mode_than_the_asked_one_is_noted(plain) -> None:
    made = plan(plain, mode="mxfp4", bits_for=(Rule("v_proj", 6),))
    assert of(made, V).packing == Packing(64, 6, "affine")
    assert V in made.notes


# What is packed already


def test_packed_weights_are_copied_when_nothing_is_asked(packed) -> None:
    made = plan(packed)
    assert {t.action for t in made.tensors if t.packing} == {"copy"}
    assert of(made, UP).packing == Packing(32, 4) and of(made, EMBED).packing == Packing(32, 8)


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"recipe": "8bit"}, {"group_size": 64}, {"mode": "mxfp4"}], ids=str
)
def test_asking_for_another_packing_packs_anew(packed, options) -> None:
    made = plan(packed, **options)
    assert of(made, UP).action == "repack" and of(made, UP).packing != Packing(32, 4)


def test_the_same_packing_asked_for_is_a_copy(packed) -> None:
    assert of(plan(packed, bits=4), UP).action == "copy"
    assert of(plan(packed, bits=4), EMBED).action == "repack"


def test_no_bits_at_all_unpacks(packed) -> None:
    made = plan(packed, bits=None)
    assert {t.action for t in made.tensors} == {"unpack", "keep"}
    assert made.quantization() is None


def test_an_exception_packs_only_its_own_modules_anew(packed) -> None:
    made = plan(packed, bits_for=(Rule("v_proj", 6),))
    assert of(made, V).action == "repack" and of(made, V).packing == Packing(64, 6)
    assert {t.name for t in made.tensors if t.action == "repack"} == {V, V.replace(".0.", ".1.")}


def test_another_type_leaves_the_codes_alone(packed) -> None:
    made = plan(packed, dtype="bfloat16")
    assert of(made, UP).action == "copy" and of(made, UP).dtype == "BF16"
    assert of(made, NORM).action == "cast"


def test_what_a_packed_source_left_unpacked_stays_so_when_nothing_is_asked(tmp_path) -> None:
    directory = half_packed(tmp_path)
    made = plan(directory)
    assert of(made, UP).action == "keep" and of(made, V).action == "copy"


def test_a_half_packed_source_can_be_packed_and_unpacked_as_a_whole(tmp_path) -> None:
    directory = half_packed(tmp_path)
    assert of(plan(directory, bits=4), UP).action == "pack"
    assert of(plan(directory, bits=4), V).action == "copy"
    made = plan(directory, bits=None)
    assert (of(made, UP).action, of(made, V).action) == ("keep", "unpack")


def half_packed(tmp_path: Path) -> Path:
    """A packed directory with one matrix that its table leaves unpacked."""
    directory, module = tmp_path / "half", UP.removesuffix(".weight")
    checkpoint(directory, packed=True, dtype=mx.float16)
    kept = {n: a for n, a in tensors(directory).items() if not n.startswith(module)}
    kept[UP] = mx.ones((128, 64), mx.float16)
    mx.save_safetensors(str(directory / "model.safetensors"), kept)
    four, eight = {"group_size": 32, "bits": 4}, {"group_size": 32, "bits": 8}
    set_config(directory, quantization={**four, "model.embed_tokens": eight, module: False})
    return directory


# Types


@pytest.mark.parametrize(
    ("embedding", "norm", "dtype"),
    [
        *(("F16", "F16", "F16"), ("BF16", "BF16", "BF16"), ("F32", "F32", "F16")),
        *(("BF16", "F32", "BF16"), ("F32", "BF16", "BF16"), ("F16", "F32", "F16")),
        ("F64", "F64", "F16"),
    ],
)
def test_what_is_stored_has_the_source_s_own_16_bit_type(tmp_path, embedding, norm, dtype) -> None:
    checkpoint(tmp_path)
    shapes = {name: ("F32", array.shape) for name, array in tensors(tmp_path).items()}
    shapes |= {EMBED: (embedding, (258, 64)), NORM: (norm, (64,))}
    write_safetensors(tmp_path / "model.safetensors", shapes)
    made = plan(tmp_path)
    assert made.dtype == dtype and {t.dtype for t in made.tensors} == {dtype}
    assert plan(tmp_path, dtype="float32").dtype == "F32"


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "U32", "BOOL", "I64"])
@pytest.mark.parametrize("name", [UP, NORM])
def test_whole_numbers_are_no_weights(tmp_path, dtype, name) -> None:
    checkpoint(tmp_path)
    shapes = {n: ("F32", array.shape) for n, array in tensors(tmp_path).items()}
    shapes[name] = (dtype, shapes[name][1])
    write_safetensors(tmp_path / "model.safetensors", shapes)
    with pytest.raises(ConvertError, match=f"`{name}` has the type {dtype}, which holds no"):
        plan(tmp_path)


# What is written


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"recipe": "4bit-blocks"}, {"mode": "nvfp4"}, {"bits": None}),
        {"bits": 3, "dtype": "float32"},
    ],
    ids=str,
)
def test_the_planned_bytes_are_what_mlx_packs(plain, options) -> None:
    made = plan(plain, **options)
    for tensor in made.tensors:
        layout = tensor.layout()
        assert tensor.nbytes == layout_bytes(layout)
        if not tensor.packing:
            continue
        p = tensor.packing
        dtype = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}[tensor.dtype]
        weights = mx.ones(tensor.shape, dtype)
        parts = mx.quantize(weights, group_size=p.group_size, bits=p.bits, mode=p.mode)
        assert tensor.nbytes == sum(part.nbytes for part in parts)
        assert [shape for _, shape in layout.values()] == [part.shape for part in parts]
    assert made.nbytes == sum(t.nbytes for t in made.tensors)


def test_mean_bits_of_a_weight(plain) -> None:
    assert plan(plain, bits=None).bits_per_weight == 16
    made = plan(plain, bits=4, group_size=32)
    assert 5 < made.bits_per_weight < 5.1  # 4 bits, two 16-bit numbers for 32 weights, some norms


def test_the_table_says_of_every_module_how_it_is_packed(plain) -> None:
    made = plan(plain, recipe="4bit", bits_for=(Rule("k_proj", 16),))
    table = read_quantization({"quantization": made.quantization()})
    assert table is not None
    for tensor in made.tensors:
        if len(tensor.shape) == 2:
            assert table.packing(tensor.module) == tensor.packing
