"""The default model's real weights against transformers: logits, greedy tokens, an answer."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tiny import GOLDEN
from tolerances import FP32_DEEP, assert_close

from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.events import CacheSummary, GenerationSummary
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions

pytestmark = pytest.mark.real

PROMPTS = ["p0", "p1", "p2", "p3"]
FRANCE = [Message("user", "What is the capital of France?")]
HALF_DEEP = 1.5
"""What float16 may move a logit of this network: 0.92 at most was seen, at the first position."""
CLEAR = 20 * FP32_DEEP
"""A first logit this much above the second one is no matter of rounding."""


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "smollm2.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def packed(real_model: Path) -> LoadedModel:
    return load_model(real_model, LoadOptions(compute="packed"))


def generate(generator: Generator, prompt: list[int], count: int) -> GenerationSummary:
    *_, summary = generator.generate(prompt, GenerationOptions(max_tokens=count))
    assert isinstance(summary, GenerationSummary)
    return summary


def check_logits(model: Any, golden: dict[str, np.ndarray], prompt: str) -> None:
    """One forward over prompt and reference answer: its logits, and its every greedy choice."""
    part = {key.removeprefix(f"{prompt}/"): golden[key] for key in golden if key.startswith(prompt)}
    ids = np.concatenate([part["ids"], part["greedy"][:-1]])
    logits = np.array(model(mx.array(ids)[None])[0].astype(mx.float32))
    chosen = logits[part["positions"]]
    top = np.take_along_axis(chosen, part["top_ids"].astype(np.int64), axis=1)
    half = model.dtype != mx.float32  # packed weights on a GPU: thirty layers in 16 bits
    atol = HALF_DEEP if half else FP32_DEEP
    assert_close(top, part["top_logits"], atol, f"{prompt}: top logits")
    assert_close(chosen.mean(-1), part["mean"], atol, f"{prompt}: means")
    assert_close(chosen.std(-1), part["std"], atol, f"{prompt}: standard deviations")
    clear = part["greedy_gap"] > (2 * HALF_DEEP if half else CLEAR)
    assert half or clear.sum() >= 20
    greedy = logits[len(part["ids"]) - 1 :].argmax(-1)
    assert greedy[clear].tolist() == part["greedy"][clear].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_logits_are_those_of_transformers(
    real_loaded: LoadedModel, golden: dict[str, np.ndarray], prompt: str
) -> None:
    check_logits(real_loaded.model, golden, prompt)


def test_the_logits_of_the_packed_form_are_those_of_transformers(
    packed: LoadedModel, golden: dict[str, np.ndarray]
) -> None:
    check_logits(packed.model, golden, "p0")


def test_decoding_token_by_token_takes_the_reference_tokens(
    real_loaded: LoadedModel, golden: dict[str, np.ndarray]
) -> None:
    assert golden["p0/greedy_gap"].min() > CLEAR
    summary = generate(Generator(real_loaded), golden["p0/ids"].tolist(), 16)
    wanted = real_loaded.tokenizer.decode(golden["p0/greedy"][:16].tolist())
    assert summary.text == wanted


@pytest.mark.parametrize("compute", ["dense", "packed"])
def test_the_capital_of_france_is_paris(
    compute: Literal["dense", "packed"], request: pytest.FixtureRequest
) -> None:
    loaded = request.getfixturevalue("real_loaded" if compute == "dense" else "packed")
    assert loaded.info.compute == compute
    generator = Generator(loaded)
    summary = generate(generator, generator.chat_prompt(FRANCE), 12)
    assert summary.text == "The capital of France is Paris."
    assert (summary.stop_reason, summary.generated_tokens) == ("stop", 8)


def test_a_second_turn_is_answered_as_without_a_cache(real_loaded: LoadedModel) -> None:
    generator = Generator(real_loaded)
    first = generate(generator, generator.chat_prompt(FRANCE), 12)
    more = [*FRANCE, Message("assistant", first.text), Message("user", "And of Italy?")]
    prompt = generator.chat_prompt(more)
    second, fresh = generate(generator, prompt, 8), generate(Generator(real_loaded), prompt, 8)
    # All of the first turn is known; its end sign only where it was fed ahead of the reader.
    ahead = second.cached_tokens - (first.prompt_tokens + first.generated_tokens - 1)
    assert ahead == backend().look_ahead
    assert (second.text, fresh.cached_tokens) == (fresh.text, 0)


def test_an_answer_is_continued_from_disk_token_for_token(
    real_loaded: LoadedModel, tmp_path: Path
) -> None:
    """Its greedy choices are close ones: only the very same keys and values lead to all of them."""
    generator, path = Generator(real_loaded), tmp_path / "chat.safetensors"
    prompt = generator.chat_prompt([Message("user", "Tell me a story about the sea.")])
    whole = generate(Generator(real_loaded), prompt, 40)
    first = generate(generator, prompt, 15)
    (kept,) = generator.save_cache(path)
    fresh = Generator(real_loaded)
    (known,) = fresh.restore_cache(path)
    assert isinstance(kept, CacheSummary) and isinstance(known, CacheSummary)
    assert kept.tokens == known.tokens == len(prompt) + 14
    *_, rest = fresh.generate(prompt, GenerationOptions(max_tokens=25), begun=first.tokens)
    assert isinstance(rest, GenerationSummary)
    assert rest.cached_tokens == known.tokens
    assert first.tokens + rest.tokens == whole.tokens
    assert first.text + rest.text == whole.text


def test_the_description_of_the_model_is_right(
    real_loaded: LoadedModel, packed: LoadedModel
) -> None:
    for loaded in (real_loaded, packed):
        info = loaded.info
        assert (info.model, info.family, info.licence) == ("smollm2-135m", "llama", "Apache-2.0")
        assert (info.parameters, info.context_limit, info.chat) == (134_515_008, 8192, True)
    assert real_loaded.info.weight_bytes == 4 * 134_515_008
    assert packed.info.weight_bytes < real_loaded.info.weight_bytes / 4
    special = real_loaded.tokenizer.special
    assert real_loaded.stop_tokens == {special["<|im_end|>"], special["<|endoftext|>"]}
    assert real_loaded.defaults == GenerationOptions(
        temperature=0.2, top_p=0.9, repetition_penalty=1.1
    )
