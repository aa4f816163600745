"""The same examples as mlx-lm makes of the same lines: its adapters and ours learn the same.

Two differences, both meant. mlx-lm learns the line break that a template writes behind the sign
that ends an answer, which no model ever has to say; we end with the sign. And names of special
tokens that people wrote are special tokens to mlx-lm; to us they are text.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from tiny import END, START, write_json, write_model
from training.data.making import NAMED, load, said, write_lines

from mobilellm_mlx.loading import load_model

ROWS: list[dict[str, Any]] = [
    said("hi", "Hello.", system="Be kind."),
    said("hi", "Hello.", "what now?", "  Nothing much.\n"),
    said("\u00fc\u00f1\u4e2d\u6587", "\n\nGr\u00fc\u00dfe \U0001f600"),
    {"prompt": "What is 2 + 2?", "completion": "4"},
    {"text": "Once upon a time there was a <model>."},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_model(
        tmp_path_factory.mktemp("model"), template=NAMED.source, generation={"eos_token_id": END}
    )
    names = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(path / "tokenizer_config.json", names)
    return path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: next(iter(row)))
def test_tokens_and_masks_are_mlx_lms(directory: Path, tmp_path: Path, row: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlx_lm.tuner.datasets import create_dataset
        from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(directory)
    masked = "text" not in row
    settings = type("Settings", (), {"mask_prompt": masked})
    theirs, offset = create_dataset([row], tokenizer, settings).process(row)

    loaded = load_model(directory)
    path = write_lines(tmp_path / "d.jsonl", [row])
    stop = min(loaded.stop_tokens)
    data = load(path, loaded.tokenizer, loaded.template, stop, loss_on="last")
    [example] = data.train
    ours = list(example.tokens)
    assert ours == theirs[: len(ours)]
    assert theirs[len(ours) :] == (loaded.tokenizer.encode("\n") if masked else [])
    learned = [at for at, counts in enumerate(example.learned) if counts]
    assert learned == list(range(max(1, offset), len(ours)))
    assert ours.count(START) == (theirs.count(START))
