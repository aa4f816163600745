"""The default model's real weights, through the kernels and without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tolerances import FP32_DEEP, assert_close

from mobilellm_mlx.backend import mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.events import TextDelta
from mobilellm_mlx.loading import LoadOptions, load_model
from mobilellm_mlx.options import GenerationOptions

TEXT = "A lighthouse is a tower with a bright lamp at its top. It tells ships where the coast is."


@pytest.mark.real
def test_real_weights_give_the_same_logits_and_the_same_words(
    module: Any, real_model: Path
) -> None:
    packed = load_model(real_model)
    dense = load_model(real_model, LoadOptions(compute="dense"))
    assert (packed.info.compute, dense.info.compute) == ("packed", "dense")
    ids = packed.tokenizer.encode(TEXT)
    tokens, caches = mx.array([ids]), packed.model.make_cache()
    parts = [packed.model(tokens[:, :9], caches)]
    parts += [packed.model(tokens[:, i : i + 1], caches) for i in range(9, len(ids))]
    assert_close(mx.concatenate(parts, axis=1), dense.model(tokens), FP32_DEEP, "logits")
    options = GenerationOptions(temperature=0, max_tokens=24)
    answers = []
    for loaded in (packed, dense):
        events = list(Generator(loaded).generate(ids, options))
        answers.append("".join(event.text for event in events if isinstance(event, TextDelta)))
    assert answers[0] == answers[1] and answers[0].strip()
