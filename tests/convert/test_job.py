"""Conversions from end to end: what comes out, what is said, and what is refused."""

import json
from math import exp, nan
from pathlib import Path

import pytest
from tiny import MOBILELLM, write_byte_tokenizer, write_json
from tolerances import FP32_REORDERED, assert_close

from convert.job import ConvertOptions
from convert.readers.tensors import PackedTensor
from convert.recipes import Rule
from convert.source import HEAD, open_source
from mobilellm_mlx import events
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, MobileLLMError
from mobilellm_mlx.events import ConvertSummary, Progress
from mobilellm_mlx.loading import load_model
from mobilellm_mlx.options import LoadOptions
from mobilellm_mlx.weights import read_quantization, unpack_tensors
from tests.convert import gguf_writer
from tests.convert.checkpoints import (
    FAST,
    SHARED,
    UP,
    WIDE,
    checkpoint,
    config,
    notices,
    proof,
    run,
    same_bits,
    set_config,
    strict_json,
    tensors,
    write_safetensors,
)

IDS = mx.array([[3, 1, 4, 1, 5, 256]])
EMBED = "model.embed_tokens.weight"
PLAIN = ConvertOptions(bits=None, verify=False)


def logits(directory: Path, form: str = "dense") -> mx.array:
    return load_model(directory, LoadOptions(compute=form)).model(IDS)  # type: ignore[arg-type]


# The same model


@pytest.mark.parametrize("raw", [WIDE, SHARED, {**WIDE, "tie_word_embeddings": False}])
def test_without_packing_the_model_says_the_same(tmp_path, raw) -> None:
    source = checkpoint(tmp_path / "s", raw)
    run(source, tmp_path / "t", PLAIN)
    assert_close(logits(tmp_path / "t"), logits(source), 0, "unpacked")
    ours, theirs = tensors(tmp_path / "t"), tensors(source)
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[name], theirs[name]) for name in ours)


def test_the_result_is_everything_that_a_chat_needs(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", generation={"do_sample": True, "temperature": 0.6})
    set_config(source, eos_token_id=[257, 3])
    run(source, tmp_path / "t")
    loaded = load_model(tmp_path / "t")
    assert loaded.template is not None and loaded.stop_tokens == {257, 3}
    assert loaded.defaults.temperature == 0.6 and loaded.info.bits == 4
    assert loaded.info.model == "t" and loaded.info.parameters == 90_560
    assert {path.name for path in (tmp_path / "t").iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "conversion.json", "mobilellm.json"),
        *("generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }


@pytest.mark.parametrize(
    ("raw", "model_type"),
    [(WIDE, "llama"), (SHARED, "mobilellm"), ({**SHARED, "layer_sharing": False}, "llama")],
)
def test_the_family_that_is_written_is_the_widest_known_that_is_right(
    tmp_path, raw, model_type
) -> None:
    source = checkpoint(tmp_path / "s", raw)
    run(source, tmp_path / "t", PLAIN)
    assert config(tmp_path / "t")["model_type"] == model_type
    assert_close(logits(tmp_path / "t"), logits(source), 0, "as another family")


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_other_modes_give_a_model_that_answers(tmp_path, mode) -> None:
    run(checkpoint(tmp_path / "s"), tmp_path / "t", ConvertOptions(mode=mode, verify=False))
    assert_close(logits(tmp_path / "t", "packed"), logits(tmp_path / "t"), FP32_REORDERED, mode)
    assert config(tmp_path / "t")["quantization"]["mode"] == mode


def test_a_float64_checkpoint_is_converted(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", dtype=mx.float32)
    shapes = {name: ("F64", array.shape) for name, array in tensors(source).items()}
    write_safetensors(source / "model.safetensors", shapes)
    run(source, tmp_path / "t", PLAIN)
    assert {array.dtype for array in tensors(tmp_path / "t").values()} == {mx.float16}


# What is packed already


@pytest.fixture
def packed(tmp_path) -> Path:
    return checkpoint(tmp_path / "packed", packed=True, dtype=mx.float16)


def test_packed_weights_come_out_bit_for_bit_when_nothing_is_asked(tmp_path, packed) -> None:
    said = run(packed, tmp_path / "t", ConvertOptions())
    ours, theirs = tensors(tmp_path / "t"), tensors(packed)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not same_bits(ours[name], theirs[name])] == []
    assert read_quantization(config(tmp_path / "t")) is not None
    assert notices(said) == [] and said[-1].verified_tokens == 0  # nothing changed


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_a_converted_directory_can_be_converted_again(tmp_path, mode) -> None:
    run(checkpoint(tmp_path / "s"), tmp_path / "a", ConvertOptions(mode=mode, verify=False))
    run(tmp_path / "a", tmp_path / "b")
    ours, theirs = tensors(tmp_path / "b"), tensors(tmp_path / "a")
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[name], theirs[name]) for name in ours)
    mine, before = config(tmp_path / "b"), config(tmp_path / "a")
    assert mine == before


def test_packed_weights_are_packed_anew_from_what_they_stand_for(tmp_path, packed) -> None:
    run(packed, tmp_path / "t", ConvertOptions(bits=8, group_size=32, verify=False))
    table = read_quantization(config(packed))
    halves = unpack_tensors(tensors(packed), table, mx.float32)[UP].astype(mx.float16)
    codes, scales, _ = mx.quantize(halves, group_size=32, bits=8)
    got = tensors(tmp_path / "t")
    assert same_bits(got[UP], codes)
    assert same_bits(got[UP.replace("weight", "scales")], scales)


def test_packed_weights_are_unpacked_to_what_they_stand_for(tmp_path, packed) -> None:
    run(packed, tmp_path / "t", ConvertOptions(bits=None, dtype="float32", verify=False))
    wanted = unpack_tensors(tensors(packed), read_quantization(config(packed)), mx.float32)
    got = tensors(tmp_path / "t")
    assert got.keys() == wanted.keys() and "quantization" not in config(tmp_path / "t")
    assert all(same_bits(got[name], wanted[name]) for name in got)


def test_a_gguf_stays_as_it_is_packed(tmp_path) -> None:
    path = gguf_writer.write_tiny_gguf(tmp_path / "tiny.gguf")
    assert run(path, tmp_path / "t")[-1].source_format == "gguf"
    source, written, packed = open_source(path), tensors(tmp_path / "t"), 0
    for name in source.shapes:
        value = source.read(name)
        if isinstance(value, PackedTensor):
            packed += 1
            assert same_bits(written[name], value.codes)
            assert same_bits(written[name.replace(".weight", ".scales")], value.scales)
    assert packed > 5 and logits(tmp_path / "t").shape == (1, 6, source.config.vocab_size)


# The output head


def test_an_equal_head_is_listed_as_left_out(tmp_path) -> None:
    rows = tensors(checkpoint(tmp_path / "x"))[EMBED]
    said = run(checkpoint(tmp_path / "s", WIDE, {HEAD: rows}), tmp_path / "t")
    assert "equals the embedding" in proof(tmp_path / "t")["left_out"][HEAD]
    assert HEAD not in tensors(tmp_path / "t") and notices(said) == []


@pytest.mark.parametrize("raw", [WIDE, SHARED, {**MOBILELLM, "layer_sharing": False}])
def test_a_head_that_differs_makes_an_untied_model_that_uses_it(tmp_path, raw) -> None:
    head = mx.random.normal((258, raw["hidden_size"]), key=mx.random.key(3)).astype(mx.bfloat16)
    source = checkpoint(tmp_path / "s", raw, {HEAD: head})
    said = run(source, tmp_path / "t", PLAIN)
    assert len(notices(said)) == 1 and config(tmp_path / "t")["tie_word_embeddings"] is False
    set_config(source, tie_word_embeddings=False, share_embedding=False)
    assert_close(logits(tmp_path / "t"), logits(source), 0, "the head")


def test_a_missing_head_makes_a_tied_model(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", {**WIDE, "tie_word_embeddings": False}, {HEAD: None})
    said = run(source, tmp_path / "t", PLAIN)
    assert "the files have no output head" in notices(said)[0]
    assert config(tmp_path / "t")["tie_word_embeddings"] is True
    set_config(source, tie_word_embeddings=True)
    assert_close(logits(tmp_path / "t"), logits(source), 0, "tied")


# What is said


def test_progress_reaches_its_total_and_a_summary_ends_it(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    said = run(source, tmp_path / "t", ConvertOptions())
    steps = [event for event in said if isinstance(event, Progress)]
    for task in ("converting", "verifying"):
        mine = [event for event in steps if event.task == task]
        assert mine[-1].done == mine[-1].total
        assert [event.done for event in mine] == sorted(event.done for event in mine)
    assert isinstance(said[-1], ConvertSummary) and said[-1].job == "convert"
    assert all(events.from_dict(json.loads(event.to_json())) == event for event in said)


def test_the_summary_says_what_came_out(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    summary = run(source, tmp_path / "t", ConvertOptions())[-1]
    assert isinstance(summary, ConvertSummary)
    assert (summary.status, summary.path, summary.licence) == ("ok", str(tmp_path / "t"), "mit")
    assert (summary.parameters, summary.source_format) == (90_560, "safetensors")
    assert summary.source_bytes == (source / "model.safetensors").stat().st_size
    assert summary.bytes == sum(array.nbytes for array in tensors(tmp_path / "t").values())
    assert summary.verified_tokens > 1000 and 0 < summary.mean_kl < 5
    assert 0 < summary.top1_agreement < 1 and 0.05 < summary.relative_error < 0.12
    assert summary.perplexity > 1 and summary.reference_perplexity > 1
    assert 0 < summary.convert_s < summary.elapsed_s and summary.verify_s > 0
    assert 0 < summary.convert_peak_memory_bytes <= summary.peak_memory_bytes


@pytest.mark.parametrize("raw", [WIDE, SHARED], ids=["llama", "shared"])
@pytest.mark.parametrize("packed", [False, True], ids=["16-bit source", "packed source"])
def test_the_quality_is_that_of_the_two_directories_loaded_whole(tmp_path, raw, packed) -> None:
    source = checkpoint(tmp_path / "s", raw, packed=packed)
    (tmp_path / "mine.txt").write_bytes(bytes(range(32, 127)) * 3)
    options = ConvertOptions(bits=3)
    said = run(source, tmp_path / "t", options, text=tmp_path / "mine.txt")[-1]
    window = load_model(source).tokenizer.encode((tmp_path / "mine.txt").read_text())[:256]
    before, after = (
        whole - mx.logsumexp(whole, axis=-1, keepdims=True)
        for whole in (load_model(p).model(mx.array([window]))[0] for p in (source, tmp_path / "t"))
    )  # (L, V)
    kl = mx.mean(mx.sum(mx.exp(before) * (before - after), axis=-1)).item()
    agreed = mx.mean(mx.argmax(before, axis=-1) == mx.argmax(after, axis=-1)).item()
    losses = [
        -mx.mean(mx.take_along_axis(side[:-1], mx.array(window[1:])[:, None], axis=-1)).item()
        for side in (before, after)
    ]
    assert said.verified_tokens == 256 and kl > 0.01
    assert said.mean_kl == pytest.approx(kl, rel=1e-3)
    assert said.top1_agreement == pytest.approx(agreed)
    assert said.reference_perplexity == pytest.approx(exp(losses[0]), rel=1e-3)
    assert said.perplexity == pytest.approx(exp(losses[1]), rel=1e-3)


def test_more_bits_are_nearer_to_the_source(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    three, eight = (
        run(source, tmp_path / f"{bits}", ConvertOptions(bits=bits))[-1] for bits in (3, 8)
    )
    assert eight.mean_kl < three.mean_kl / 100 and eight.top1_agreement > three.top1_agreement
    assert eight.relative_error < three.relative_error / 10
    assert eight.reference_perplexity == three.reference_perplexity


def test_without_verification_quality_is_not_claimed(tmp_path) -> None:
    summary = run(checkpoint(tmp_path / "s"), tmp_path / "t")[-1]
    assert summary.perplexity is summary.mean_kl is summary.relative_error is None
    assert summary.verified_tokens == 0 and summary.verify_s < 0.01


def test_groups_that_do_not_fit_are_said(tmp_path) -> None:
    said = run(checkpoint(tmp_path / "s", {**WIDE, "intermediate_size": 48}), tmp_path / "t")
    (notice,) = notices(said)
    assert "48 columns do not divide" in notice and notice in proof(tmp_path / "t")["notices"]


@pytest.mark.parametrize("name", [UP, "model.norm.weight", EMBED])
@pytest.mark.parametrize("value", [nan, float("inf")])
def test_what_is_not_finite_is_counted_said_and_kept(tmp_path, name, value) -> None:
    array = mx.array(tensors(checkpoint(tmp_path / "x"))[name])
    flat = mx.where(mx.arange(array.size) < 3, value, array.reshape(-1)).astype(array.dtype)
    source = checkpoint(tmp_path / "s", WIDE, {name: flat.reshape(array.shape)})
    said = run(source, tmp_path / "t", ConvertOptions())
    counted, useless = notices(said)
    assert counted == f"tensor `{name}` holds 3 NaN or infinite values"
    assert "it is of no use" in useless and useless in (tmp_path / "t" / "README.md").read_text()
    assert said[-1].nonfinite == 3 and said[-1].perplexity is None
    assert proof(tmp_path / "t")["nonfinite"] == {name: 3}
    assert proof(tmp_path / "t")["quality"] is None
    json.loads(said[-1].to_json())
    load_model(tmp_path / "t")


def test_the_person_s_text_is_what_is_measured(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    (tmp_path / "mine.txt").write_text("the quick brown fox " * 20)
    summary = run(source, tmp_path / "t", ConvertOptions(), text=tmp_path / "mine.txt")[-1]
    assert summary.verified_tokens == 256
    assert proof(tmp_path / "t")["quality_text"] == "mine.txt"


def test_the_tokenizer_can_come_from_elsewhere(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    (tmp_path / "words").mkdir()
    write_byte_tokenizer(tmp_path / "words")
    run(source, tmp_path / "t", tokenizer=tmp_path / "words")
    assert load_model(tmp_path / "t").tokenizer.vocab_size == 258


# What is refused


def test_a_model_with_a_context_of_one_token_is_not_verified(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", {**WIDE, "max_position_embeddings": 1})
    assert run(source, tmp_path / "t", ConvertOptions())[-1].verified_tokens == 0


@pytest.mark.parametrize("context", [40, 300])
def test_a_model_with_a_short_context_is_verified_as_far_as_it_goes(tmp_path, context) -> None:
    source = checkpoint(tmp_path / "s", {**WIDE, "max_position_embeddings": context})
    assert run(source, tmp_path / "t", ConvertOptions())[-1].verified_tokens > 0


@pytest.mark.parametrize("text", ["gone.txt", "short.txt"])
def test_a_text_that_cannot_be_used_is_said_before_the_work(tmp_path, text) -> None:
    source = checkpoint(tmp_path / "s")
    (tmp_path / "short.txt").write_text("hi")
    from convert.job import convert

    said = []
    with pytest.raises(ConvertError):
        for event in convert(source, tmp_path / "t", text=tmp_path / text):
            said.append(event)
    assert not any(isinstance(event, Progress) for event in said)


def test_a_tokenizer_of_another_model_is_refused(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", {**WIDE, "vocab_size": 100})
    with pytest.raises(MobileLLMError, match="258 tokens, the model only 100"):
        run(source, tmp_path / "t", ConvertOptions())


@pytest.mark.parametrize("options", [FAST, ConvertOptions(bits=8, verify=False)], ids=["copy", "8"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.int32], ids=str)
def test_codes_that_are_none_are_refused(tmp_path, dtype, options) -> None:
    source = checkpoint(tmp_path / "s", WIDE, {UP: mx.zeros((128, 8), dtype)}, packed=True)
    with pytest.raises(MobileLLMError):
        run(source, tmp_path / "t", options)


def test_a_tensor_whose_name_is_no_text_is_refused(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    shapes = {name: ("BF16", array.shape) for name, array in tensors(source).items()}
    shapes["\ud800.rotary_emb.inv_freq"] = ("BF16", (8,))
    write_safetensors(source / "model.safetensors", shapes)
    with pytest.raises(MobileLLMError, match="unreadable header"):
        run(source, tmp_path / "t")


def test_a_licence_may_have_any_name(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    (source / "LICENSE\udcff").write_text("do as you like")
    run(source, tmp_path / "t")


def test_the_weights_may_be_links_as_in_a_hub_cache(tmp_path) -> None:
    source = checkpoint(tmp_path / "snapshots" / "abc")
    (tmp_path / "blobs").mkdir()
    for path in list(source.iterdir()):
        blob = tmp_path / "blobs" / path.name[::-1]
        path.rename(blob)
        path.symlink_to(blob)
    run(source, tmp_path / "t")
    assert proof(tmp_path / "t")["source"]["files"][0]["name"] == "model.safetensors"
    assert all(not path.is_symlink() for path in (tmp_path / "t").iterdir())


def test_a_tokenizer_that_is_a_link_to_somebody_s_file_is_refused(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    (source / "tokenizer.json").rename(tmp_path / "private.json")
    (source / "tokenizer.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(ConvertError, match="a link to a file outside"):
        run(source, tmp_path / "t")


def test_only_what_is_ours_or_named_is_in_the_result(tmp_path) -> None:
    """No code of the source, none of its other files."""
    source = checkpoint(tmp_path / "s")
    for name in ("modeling_evil.py", "training_args.bin", "optimizer.pt", "notes.txt", ".env"):
        (source / name).write_text("secret")
    (source / "LICENSE").write_text("do as you like")
    (source / "README.md").write_text("---\nlicense: mit\n---\nsecret" + "x" * 2_000_000)
    run(source, tmp_path / "t")
    written = {path.name: path.read_bytes() for path in (tmp_path / "t").iterdir()}
    assert not any(b"secret" in data for data in written.values())
    assert written["LICENSE"] == b"do as you like"


def test_a_configuration_cannot_smuggle_settings_through(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    set_config(source, auto_map={"AutoModel": "evil.Evil"}, trust_remote_code=True)
    write_json(source / "generation_config.json", {"custom_generate": "evil", "eos_token_id": 257})
    run(source, tmp_path / "t")
    assert not {"auto_map", "trust_remote_code"} & config(tmp_path / "t").keys()
    assert strict_json(tmp_path / "t" / "generation_config.json") == {"eos_token_id": 257}


def test_an_exception_of_bits_is_what_comes_out(tmp_path) -> None:
    options = ConvertOptions(bits_for=(Rule("v_proj", 6), Rule("1.mlp.*", 16)), verify=False)
    run(checkpoint(tmp_path / "s"), tmp_path / "t", options)
    written = tensors(tmp_path / "t")
    assert written["model.layers.0.self_attn.v_proj.weight"].shape == (32, 64 * 6 // 32)
    assert written["model.layers.1.mlp.up_proj.weight"].dtype == mx.bfloat16
    assert "model.layers.1.mlp.up_proj.scales" not in written


# Learned rounding


def test_a_learned_conversion_runs_from_end_to_end(tmp_path) -> None:
    source = checkpoint(tmp_path / "s")
    *events, summary = run(source, tmp_path / "t", ConvertOptions(bits=4, method="gptq"))
    assert summary.mean_kl is not None and summary.verified_tokens > 0
    tasks = {event.task for event in events if isinstance(event, Progress)}
    assert {"measuring", "rounding"} <= tasks
    plain = run(source, tmp_path / "p", ConvertOptions(bits=4))[-1]
    assert summary.mean_kl != plain.mean_kl


def test_what_was_learned_from_is_not_what_it_is_judged_by(tmp_path, monkeypatch) -> None:
    from convert import job
    from convert.learning import calibration

    asked: list[list[list[int]]] = []
    samples = calibration.samples

    def spy(*args, **options) -> list[list[int]]:
        asked.append(samples(*args, **options))
        return asked[-1]

    monkeypatch.setattr(job.calibration, "samples", spy)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(map(str, range(3000))))
    options = ConvertOptions(bits=4, method="gptq")
    list(job.convert(checkpoint(tmp_path / "s"), tmp_path / "t", options, text=text))
    lesson, exam = asked
    assert lesson and exam and not {tuple(w) for w in lesson} & {tuple(w) for w in exam}


def test_values_too_large_to_learn_from_are_said_as_for_plain_rounding(tmp_path) -> None:
    source = checkpoint(tmp_path / "s", WIDE, {UP: mx.full((128, 64), 1e5)}, dtype=mx.float32)
    with pytest.raises(ConvertError, match="too large for float16"):
        run(source, tmp_path / "t", ConvertOptions(bits=4, method="gptq"))


def test_leaving_a_learned_conversion_early_ends_its_thread(tmp_path) -> None:
    import threading

    from convert.job import convert

    steps = convert(checkpoint(tmp_path / "s"), tmp_path / "t", ConvertOptions(method="gptq"))
    next(event for event in steps if isinstance(event, Progress) and event.task == "measuring")
    steps.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "learn" for thread in threading.enumerate())
