"""From a model directory to a model in memory."""

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from tiny import (
    CHATML,
    END,
    GOLDEN,
    LLAMA,
    MOBILELLM,
    make_model,
    write_byte_tokenizer,
    write_json,
    write_model,
)
from tolerances import FP32, FP32_REORDERED, assert_close

import mobilellm_mlx.loading as loading
from mobilellm_mlx.backend import BACKENDS, backend, mx, nn, tree_flatten
from mobilellm_mlx.errors import (
    ConfigError,
    InsufficientMemory,
    InvalidOption,
    MobileLLMError,
    ModelNotFound,
    TemplateError,
    TokenizerError,
    WeightsError,
)
from mobilellm_mlx.loading import load_model, planned_weight_bytes
from mobilellm_mlx.models import build_config
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from mobilellm_mlx.weights import weight_files

IDS = mx.array([[3, 1, 4, 1, 5]])
FORMS: list[Literal["packed", "dense"]] = ["packed", "dense"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def dtypes(model: Any) -> set[mx.Dtype]:
    return {array.dtype for _, array in tree_flatten(model.parameters())}


@pytest.mark.parametrize("form", FORMS)
def test_an_unpacked_model_is_loaded_bit_for_bit(directory: Path, form: Any) -> None:
    loaded = load_model(directory, LoadOptions(compute=form))
    assert_close(loaded.model(IDS), make_model(LLAMA)(IDS), 0, form)


def test_packed_and_dense_forms_of_one_directory_agree(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", packed=True)
    packed, dense = (load_model(directory, LoadOptions(compute=form)) for form in FORMS)
    assert_close(packed.model(IDS), dense.model(IDS), FP32_REORDERED, "packed against dense")
    assert packed.info.weight_bytes < dense.info.weight_bytes / 2


def test_a_packed_directory_is_not_the_unpacked_one(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "model", packed=True))
    assert mx.abs(loaded.model(IDS) - make_model(LLAMA)(IDS)).max().item() > 0.01


def test_layer_sharing_is_loaded_with_its_caches(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "model", MOBILELLM))
    assert_close(loaded.model(IDS), make_model(MOBILELLM)(IDS), FP32, "shared")
    assert loaded.info.family == "mobilellm"
    assert loaded.info.kv_bytes_per_token == 4 * 2 * 2 * 8 * 4


def test_what_was_loaded_is_described(directory: Path) -> None:
    info = load_model(directory).info
    config = build_config(LLAMA)
    assert (info.model, info.path, info.family) == ("model", str(directory), "llama")
    assert info.parameters == config.parameter_count()
    assert info.weight_bytes == 4 * info.parameters
    assert info.kv_bytes_per_token == config.kv_bytes_per_token(4)
    assert (info.context_limit, info.chat, info.licence) == (1024, True, None)
    kind = backend()
    assert (info.compute, info.backend) == (kind.default_compute, kind.name)
    assert info.dtype == "float32"  # as stored here
    assert info.load_s > 0


def test_our_own_manifest_gives_name_and_licence(directory: Path) -> None:
    write_json(directory / "mobilellm.json", {"name": "mine", "licence": "MIT"})
    info = load_model(directory).info
    assert (info.model, info.licence) == ("mine", "MIT")


@pytest.mark.parametrize("stored", [mx.float16, mx.bfloat16, mx.float32])
def test_dense_is_float32_whatever_is_stored(tmp_path: Path, stored: mx.Dtype) -> None:
    loaded = load_model(write_model(tmp_path / "model", dtype=stored), LoadOptions(compute="dense"))
    assert dtypes(loaded.model) == {mx.float32}
    assert loaded.info.dtype == "float32"


@pytest.mark.parametrize("stored", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("name", "wide"), [("cpu", True), ("metal", False), ("cuda", False)])
def test_packed_widens_only_where_half_precision_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: mx.Dtype, name: Any, wide: bool
) -> None:
    directory = write_model(tmp_path / "model", packed=True, dtype=stored)
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS[name])
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: 10**12)
    loaded = load_model(directory, LoadOptions(compute="packed"))
    activations = mx.float32 if wide else stored
    assert dtypes(loaded.model) == {mx.uint32, activations}
    assert loaded.model(IDS).dtype == activations
    assert loaded.info.kv_bytes_per_token == loaded.model.config.kv_bytes_per_token(
        4 if wide else 2
    )


def test_a_float32_norm_does_not_promote_a_16_bit_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_model(tmp_path / "model", packed=True, dtype=mx.float16)
    path = directory / "model.safetensors"
    tensors = dict(mx.load(str(path)))
    norms = {name: a.astype(mx.float32) for name, a in tensors.items() if "norm" in name}
    assert norms
    mx.save_safetensors(str(path), {**tensors, **norms})
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS["metal"])
    loaded = load_model(directory)
    assert dtypes(loaded.model) == {mx.uint32, mx.float16}
    assert loaded.model(IDS).dtype == mx.float16


def test_the_cache_of_a_float32_checkpoint_is_counted_in_full_on_a_gpu(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS["metal"])
    info = load_model(directory).info
    assert info.compute == "packed" and info.dtype == "float32"
    needed = info.weight_bytes + 1024 * info.kv_bytes_per_token + 256_000_000
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(InsufficientMemory):
        load_model(directory)
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: needed)
    load_model(directory)


@pytest.mark.parametrize(("name", "form"), [("cpu", "dense"), ("metal", "packed")])
def test_auto_takes_the_form_that_suits_the_backend(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: Any, form: str
) -> None:
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS[name])
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: 10**12)
    assert load_model(directory).info.compute == form


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cpu", "metal"])
def test_the_planned_bytes_are_those_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, form: Any, packed: bool
) -> None:
    directory = write_model(tmp_path / "model", packed=packed, dtype=mx.float16)
    monkeypatch.setattr(loading, "backend", lambda: BACKENDS[name])
    planned = planned_weight_bytes(build_config(LLAMA), weight_files(directory), form)
    assert load_model(directory, LoadOptions(compute=form)).info.weight_bytes == planned


@pytest.mark.parametrize("form", FORMS)
def test_what_would_not_fit_is_refused_with_the_arithmetic(
    directory: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    info = load_model(directory, LoadOptions(compute=form)).info
    needed = info.weight_bytes + 1024 * info.kv_bytes_per_token + 256_000_000
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(InsufficientMemory) as caught:
        load_model(directory, LoadOptions(compute=form))
    weights, cache = f"{info.weight_bytes / 1000:.0f} kB", f"{1024 * 256 / 1000:.0f} kB"
    message = caught.value.message
    assert f"{weights} for weights" in message
    assert f"{cache} for 1,024 tokens of context" in message
    assert "there is 256 MB" in message
    assert caught.value.hint and "--context" in caught.value.hint


def test_what_just_fits_is_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = load_model(directory).info
    needed = info.weight_bytes + 1024 * info.kv_bytes_per_token + 256_000_000
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: needed)
    load_model(directory)


def test_a_shorter_context_is_what_makes_it_fit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = load_model(directory).info
    needed = info.weight_bytes + 512 * info.kv_bytes_per_token + 256_000_000
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: needed)
    with pytest.raises(InsufficientMemory):
        load_model(directory)
    assert load_model(directory, LoadOptions(context=512)).context_limit == 512


def test_memory_is_checked_before_anything_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "available_memory_bytes", lambda: 0)
    monkeypatch.setattr(loading, "build_model", lambda *_: pytest.fail("the model was built"))
    with pytest.raises(InsufficientMemory):
        load_model(directory)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
        RuntimeError("[malloc] Unable to allocate 8589934592 bytes."),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (kIOGPU...)"),
        RuntimeError("cudaMallocAsync(&p, n) failed: out of memory"),
        RuntimeError("Attempting to allocate 9 bytes, above the maximum allowed buffer size"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_failed_allocation_is_told_as_such(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loading, "build_model", fail)
    with pytest.raises(InsufficientMemory, match="out of memory while loading the model") as caught:
        load_model(directory)
    assert caught.value.hint and caught.value.__cause__ is error


def test_another_runtime_error_is_not_taken_for_a_failed_allocation(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(loading, "build_model", fail)
    with pytest.raises(RuntimeError, match="something else"):
        load_model(directory)


def test_the_context_can_be_made_shorter(directory: Path) -> None:
    loaded = load_model(directory, LoadOptions(context=64))
    assert (loaded.context_limit, loaded.info.context_limit) == (64, 64)


def test_a_context_above_the_trained_one_is_refused(directory: Path) -> None:
    with pytest.raises(InvalidOption, match=r"1,025 but .* 1,024 tokens") as caught:
        load_model(directory, LoadOptions(context=1025))
    assert caught.value.hint == "pass `--context 1024` or less"


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", {**LLAMA, "vocab_size": 257})
    with pytest.raises(TokenizerError, match="the tokenizer has 258 tokens, the model only 257"):
        load_model(directory)


def test_a_model_larger_than_its_tokenizer_is_fine(tmp_path: Path) -> None:
    load_model(write_model(tmp_path / "model", {**LLAMA, "vocab_size": 320}))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_directory_without_one_of_its_files_is_refused(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(MobileLLMError, match=name.replace(".", r"\.")) as caught:
        load_model(directory)
    assert caught.value.hint
    kinds = {"config.json": ModelNotFound, "model.safetensors": WeightsError}
    assert type(caught.value) is kinds.get(name, TokenizerError)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "mobilellm.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000], ids=repr)
def test_a_damaged_json_file_is_named(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_model(directory)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(MobileLLMError):
            load_model(path)


def test_greedy_is_the_default_when_a_checkpoint_recommends_nothing(directory: Path) -> None:
    assert load_model(directory).defaults == GenerationOptions()


@pytest.mark.parametrize("sample", [{}, {"do_sample": False}])
def test_recommended_values_do_not_count_unless_sampling_is_recommended(
    tmp_path: Path, sample: dict[str, Any]
) -> None:
    generation = {**sample, "temperature": 0.7, "top_p": 0.9}
    loaded = load_model(write_model(tmp_path / "model", generation=generation))
    assert loaded.defaults == GenerationOptions()


def test_recommended_sampling_becomes_the_default(tmp_path: Path) -> None:
    generation = {
        "do_sample": True,
        "temperature": 0.2,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }
    loaded = load_model(write_model(tmp_path / "model", generation=generation))
    assert loaded.defaults == GenerationOptions(
        temperature=0.2, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1
    )


def test_sampling_without_a_temperature_is_at_one(tmp_path: Path) -> None:
    loaded = load_model(write_model(tmp_path / "model", generation={"do_sample": True}))
    assert loaded.defaults == GenerationOptions(temperature=1.0)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 0}, {"temperature": "hot"}, {"top_k": [5]}, {"min_p": 2}],
    ids=str,
)
def test_an_impossible_recommendation_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    directory = write_model(tmp_path / "model", generation={"do_sample": True, **wrong})
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        load_model(directory)


@pytest.mark.parametrize("wrong", [{"top_k": 2.5}, {"temperature": True}], ids=str)
def test_a_recommendation_of_the_wrong_type_is_refused(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    directory = write_model(tmp_path / "model", generation={"do_sample": True, **wrong})
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        load_model(directory)


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        ({}, None, {END}),  # the tokenizer's own
        ({"eos_token_id": 5}, None, {5}),
        ({"eos_token_id": [5, 6]}, None, {5, 6}),
        ({}, {"eos_token_id": END}, {END}),
        ({"eos_token_id": 5}, {"eos_token_id": [6, 7]}, {5, 6, 7}),
        ({"eos_token_id": None}, {"eos_token_id": [None, 6]}, {6}),
        ({"eos_token_id": True}, {"eos_token_id": "6"}, {END}),
    ],
)
def test_stop_tokens_come_from_both_files(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, stops: set[int]
) -> None:
    loaded = load_model(write_model(tmp_path / "model", {**LLAMA, **config}, generation=generation))
    assert loaded.stop_tokens == stops


def test_a_template_file_comes_before_the_one_in_the_tokenizers_configuration(
    directory: Path,
) -> None:
    write_byte_tokenizer(directory, chat_template="old")
    (directory / "chat_template.jinja").write_text("new")
    template = load_model(directory).template
    assert template is not None and template.render([]) == "new"


def test_a_template_in_the_tokenizers_configuration_is_enough(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    write_byte_tokenizer(directory, chat_template="old")
    template = load_model(directory).template
    assert template is not None and template.render([]) == "old"


@pytest.mark.parametrize("source", [None, "", "  \n"])
def test_without_a_template_it_is_a_base_model(tmp_path: Path, source: str | None) -> None:
    loaded = load_model(write_model(tmp_path / "model", template=source))
    assert loaded.template is None
    assert loaded.info.chat is False


def test_a_template_that_is_not_text_is_refused(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
    with pytest.raises(TemplateError, match=r"chat_template\.jinja"):
        load_model(directory)


@pytest.mark.parametrize("form", ["<|im_end|>", {"content": "<|im_end|>", "lstrip": False}])
def test_a_template_sees_the_special_tokens_however_they_are_written(
    directory: Path, form: Any
) -> None:
    write_byte_tokenizer(directory, eos_token=form)
    (directory / "chat_template.jinja").write_text("{{ eos_token }}")
    template = load_model(directory).template
    assert template is not None and template.render([]) == "<|im_end|>"


@pytest.mark.parametrize("form", ["<|im_start|>", {"content": "<|im_start|>", "lstrip": False}])
@pytest.mark.parametrize(("add", "prefix"), [(True, (256,)), (False, ()), (None, ())])
def test_plain_text_starts_with_the_bos_token_where_the_model_wants_one(
    directory: Path, form: Any, add: bool | None, prefix: tuple[int, ...]
) -> None:
    write_byte_tokenizer(directory, bos_token=form, add_bos_token=add)
    assert load_model(directory).tokenizer.prefix == prefix


def test_the_chat_template_of_a_directory_makes_its_prompts(directory: Path) -> None:
    from mobilellm_mlx.messages import Message

    template = load_model(directory).template
    assert template is not None
    assert template.render([Message("user", "hi")]) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert CHATML.count("<|im_start|>") == 2


def test_a_sentencepiece_directory_is_a_base_model(tmp_path: Path) -> None:
    raw = {**MOBILELLM, "vocab_size": 1000, "eos_token_id": 2}
    directory = write_model(tmp_path / "model", raw, template=None)
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer_config.json").unlink()
    shutil.copy(GOLDEN / "botchan_en_bpe_1000.model", directory / "tokenizer.model")
    loaded = load_model(directory)
    assert loaded.template is None and loaded.info.chat is False
    assert (loaded.tokenizer.vocab_size, loaded.tokenizer.prefix) == (1000, (1,))
    assert loaded.stop_tokens == {2}
    ids = loaded.tokenizer.encode("Once upon a time")
    assert loaded.model(mx.array([ids])).shape == (1, len(ids), 1000)


def test_a_byte_level_tokenizer_comes_before_a_sentencepiece_one(directory: Path) -> None:
    shutil.copy(GOLDEN / "botchan_en_bpe_1000.model", directory / "tokenizer.model")
    assert load_model(directory).tokenizer.vocab_size == 258


def test_unpacking_holds_little_beside_the_weights(tmp_path: Path) -> None:
    """What one matrix is computed from is gone before the next one is; of 3 bits that is a lot."""
    raw = LLAMA | {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8}
    directory = write_model(tmp_path / "tiny", raw)
    model = make_model(raw)
    nn.quantize(model, group_size=32, bits=3)
    tensors = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors)
    config = raw | {"quantization": {"group_size": 32, "bits": 3}}
    write_json(directory / "config.json", config)
    del model, tensors
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    loaded = load_model(directory, LoadOptions(compute="dense"))
    held = loaded.model.weight_bytes()
    assert held >= 4 * loaded.info.parameters
    assert mx.get_peak_memory() - before < 1.3 * held
