"""Stock mlx-lm reads the directories that we write, and says the same, token by token."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import LoadOptions

QUESTION = "What is the capital of France?"


def peer(directory: Path, count: int, messages: list[Message]) -> dict[str, Any]:
    """What mlx-lm says."""
    told = json.dumps([message.to_dict() for message in messages])
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("peer.py")),
            str(directory),
            str(count),
            told,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def greedy(loaded: LoadedModel, prompt: list[int], count: int) -> list[int]:
    """Our likeliest tokens, past the end of the turn, as the peer's generator goes on too."""
    from mobilellm_mlx.backend import mx

    caches, fed, said = loaded.model.make_cache(), prompt, []
    for _ in range(count):
        logits = loaded.model(mx.array([fed]), caches)[0, -1]  # (V,)
        fed = [int(mx.argmax(logits).item())]
        said += fed
    return said


@pytest.fixture(scope="module")
def theirs(real_model) -> dict[str, Any]:
    return peer(real_model, 12, [Message("user", QUESTION)])


@pytest.fixture(scope="module")
def our_prompt(real_loaded) -> list[int]:
    return real_loaded.template.encode(real_loaded.tokenizer, [Message("user", QUESTION)])


@pytest.mark.real
def test_mlx_lm_loads_the_imported_model_as_packed(theirs) -> None:
    assert theirs["packed"] == ["QuantizedEmbedding", "QuantizedLinear"]


@pytest.mark.real
def test_mlx_lm_renders_the_same_prompt(theirs, real_loaded) -> None:
    assert theirs["text"] == real_loaded.template.render([Message("user", QUESTION)])


@pytest.mark.real
def test_mlx_lm_s_tokenizer_gives_the_same_ids(theirs, our_prompt) -> None:
    assert theirs["ids"] == our_prompt


@pytest.mark.real
def test_mlx_lm_ends_at_the_same_tokens(theirs, real_loaded) -> None:
    assert set(theirs["eos"]) == real_loaded.stop_tokens


@pytest.mark.real
def test_mlx_lm_s_greedy_answer_is_ours_token_by_token(theirs, real_loaded, our_prompt) -> None:
    assert len(theirs["tokens"]) == 12
    assert greedy(real_loaded, our_prompt, 12) == theirs["tokens"]


def test_mlx_lm_agrees_on_an_imported_gguf_without_any_real_weights(tmp_path) -> None:
    from convert import pull
    from tests.convert import gguf_writer, pull_process

    gguf = gguf_writer.write_tiny_gguf(tmp_path / "tiny.gguf")
    list(pull.pull(pull_process.MODEL, pull_process.fetch_from(gguf, tmp_path / "log")))
    loaded = load_model(pull_process.MODEL.path, LoadOptions(compute="packed"))
    said = peer(pull_process.MODEL.path, 20, [Message("user", QUESTION)])
    prompt = loaded.template.encode(loaded.tokenizer, [Message("user", QUESTION)])
    assert said["ids"] == prompt
    assert greedy(loaded, prompt, 20) == said["tokens"]
    assert len(set(said["tokens"])) > 3  # not a model that says one thing for ever
