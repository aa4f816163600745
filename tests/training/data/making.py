"""Data sets, tokenizers and templates to make examples with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.testing import ByteTokenizer
from mobilellm_mlx.tokenizer import Tokenizer
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data import Data, Example, load_data, render_example


class Signs(ByteTokenizer):
    """A token for each byte, and some special ones from 256 on.

    Args:
        names: of the special ones.
    """

    def __init__(self, *names: str):
        self.special = {name: 256 + at for at, name in enumerate(names)}
        self.vocab_size = 256 + len(names)


CHATML_SIGNS = Signs("<|im_start|>", "<|im_end|>")
LLAMA3_SIGNS = Signs("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
MISTRAL_SIGNS = Signs("<s>", "</s>")

CHATML = ChatTemplate(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = ChatTemplate(
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = ChatTemplate(
    "{{ '<s>' }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
REASONS = ChatTemplate(
    "{% for m in messages %}{% set said = m.content %}"
    "{% if m.role == 'assistant' and not loop.last %}"
    "{% set said = said.split('</think>')[-1].lstrip() %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + said + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMED = ChatTemplate(
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Nim.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML.source
)


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(*contents: str, system: str = "") -> dict[str, Any]:
    """A row of messages: user and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


def load(
    path: Path,
    tokenizer: Tokenizer = CHATML_SIGNS,
    template: ChatTemplate | str | None = CHATML,
    stop: int = 257,
    context: int = 4096,
    **settings: Any,
) -> Data:
    """``load_data`` with a model that has this template, or none and is given the one named."""
    if isinstance(template, str):
        template, settings = None, {**settings, "template": template}
    config = TrainConfig().merged({"valid_share": 0.0, **settings})
    return load_data(path, tokenizer, template, frozenset({stop}), config, context)


def marked(example: Example, tokenizer: Tokenizer = CHATML_SIGNS) -> str:
    """An example with brackets around what is learned."""
    pieces = render_example(example, tokenizer)
    return "".join(f"[[{piece}]]" if learned else piece for piece, learned in pieces)
