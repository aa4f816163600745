"""The whole screen, as it is meant to look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilellm_mlx.errors import ContextOverflow, InsufficientMemory
from mobilellm_mlx.events import PrefillProgress
from mobilellm_mlx.testing import SCRIPTED_MODEL
from tui.themes import LIGHT

ANSWER = '''\
# Small models

A small model is quick, private and *often wrong*. Use it for **short jobs**:

- rewriting a sentence
- a title for a note
- a first draft that you correct

1. Write the text.
2. Ask for `one` change at a time.

## Speed

| model | tok/s | memory |
|---|---:|---:|
| 125M | 500 | 98 MB |
| 350M | 240 | 210 MB |

```python
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"
```

> A quotation, for the eye.

See [the paper](https://arxiv.org/abs/2402.14905) for more.
'''

QUESTION = "What is a small model good for?\nAnswer in Markdown, please."
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
STILL = {"clock": lambda: 0.0, "title": "SmolLM2-135M-Instruct"}


def label(name, size):
    return f"{name}-{size[0]}x{size[1]}"


@SIZES
async def test_the_empty_chat_looks_as_agreed(open_chat, staged, snapshot, size):
    async with open_chat(staged(), size, **STILL) as chat:
        await chat.idle()
        await snapshot(chat, label("empty", size))


@SIZES
async def test_an_answer_looks_as_agreed(open_chat, staged, snapshot, size):
    async with open_chat(staged([ANSWER]), size, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, label("answer", size))


@SIZES
async def test_an_answer_on_the_way_looks_as_agreed(open_chat, staged, snapshot, size):
    async with open_chat(staged([ANSWER], hold_after=70), size, **STILL) as chat:
        await chat.idle()
        await chat.say(QUESTION)
        await chat.say("And then?")
        await snapshot(chat, label("answering", size))


@SIZES
async def test_a_failed_answer_looks_as_agreed(open_chat, staged, snapshot, size):
    answers = ["Hello! How can I help?", ContextOverflow(5120, 2048)]
    async with open_chat(staged(answers), size, **STILL) as chat:
        await chat.say("Hello")
        await chat.idle()
        await chat.say("A very long text ...")
        await chat.idle()
        await snapshot(chat, label("failed", size))


async def test_the_light_theme_looks_as_agreed(open_chat, staged, snapshot):
    async with open_chat(staged([ANSWER]), (120, 40), **STILL) as chat:
        chat.app.theme = LIGHT.name
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "light-120x40")


async def test_loading_with_a_queued_message_looks_as_agreed(open_chat, staged, snapshot):
    async with open_chat(staged(hold_load=True), **STILL) as chat:
        await chat.say("Rewrite this politely: send me the file.")
        await snapshot(chat, "loading-80x24")


async def test_reading_a_long_prompt_looks_as_agreed(open_chat, staged, snapshot):
    engine = staged(hold_after=0, before=[PrefillProgress(512, 1400, 0)])
    async with open_chat(engine, **STILL) as chat:
        await chat.idle()
        await chat.say("Sum this up: ...")
        await snapshot(chat, "reading-80x24")


async def test_a_model_that_cannot_be_loaded_looks_as_agreed(open_chat, staged, snapshot):
    error = InsufficientMemory("the model needs 1.20 GB but 0.80 GB are free")
    async with open_chat(staged(loading_error=error), **STILL) as chat:
        await snapshot(chat, "no-model-80x24")


async def test_a_nearly_full_context_looks_as_agreed(open_chat, staged, snapshot):
    small = replace(SCRIPTED_MODEL, model="SmolLM2-135M-Instruct", context_limit=150)
    async with open_chat(staged([ANSWER], info=small), **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "nearly-full-80x24")


async def test_the_keys_look_as_agreed(open_chat, staged, snapshot):
    async with open_chat(staged(), **STILL) as chat:
        await chat.idle()
        await chat.press("f1")
        await snapshot(chat, "keys-80x24")


async def test_a_tiny_window_looks_as_agreed(open_chat, staged, snapshot):
    async with open_chat(staged(), (38, 9), **STILL) as chat:
        await snapshot(chat, "tiny-38x9")


async def test_a_narrow_window_looks_as_agreed(open_chat, staged, snapshot):
    async with open_chat(staged([ANSWER]), (44, 20), **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "narrow-44x20")
