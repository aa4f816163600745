"""The whole screen, as it is meant to look."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mobilellm_mlx.chat.records import ChatRecord, StoredMessage
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import ContextOverflow, InsufficientMemory
from mobilellm_mlx.events import PrefillProgress
from mobilellm_mlx.testing import SCRIPTED_MODEL
from tests.tui.shelves import FakeShelf
from tui.house import House
from tui.themes import ANSI, CONTRAST, LIGHT

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


NOON = datetime(2026, 3, 11, 12, 0, tzinfo=UTC)
EARLIER = [
    ("Postcards from the sea", 0.1, True, "Write a postcard from the sea.", "Wish you were here."),
    ("Rewrite this politely", 0.3, False, "Rewrite politely: send me the file.", "Could you …"),
    ("A title for my notes", 1, False, "A title for notes about tides?", "“Ebb and Flow”"),
    ("Why is the sea salty?", 2, False, "Why is the sea salty?", "Rivers carry **salt** to it."),
    ("What [bold]markup[/] does", 40, False, "What does [bold] do?", "Nothing: it is text."),
]


def label(name, size):
    return f"{name}-{size[0]}x{size[1]}"


class StillShelf(FakeShelf):
    """Its models lie in the same place every time."""

    def rows(self):
        return [replace(row, path=Path("/models") / row.name) for row in super().rows()]


@pytest.fixture
def house(monkeypatch, tmp_path):
    """A history with some days in it, at noon of a fixed one."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    store = Store(tmp_path / "history.db")
    for number, (title, days, pinned, question, answer) in enumerate(EARLIER):
        when = NOON - timedelta(days=days)
        chat = ChatRecord(f"c{number}", when, when, title=title, named=True, leaf_id=f"a{number}")
        asked = StoredMessage(f"q{number}", chat.id, None, "user", question, when)
        said = StoredMessage(f"a{number}", chat.id, asked.id, "assistant", answer, when)
        store.add_chat(chat)
        store.save(asked, said)
        store.pin_chat(chat.id, pinned)
    yield House(store=store, now=lambda: NOON, shelf=StillShelf(tmp_path))
    store.close()
    monkeypatch.undo()
    time.tzset()


@SIZES
async def test_the_empty_chat_looks_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged(), size, house=house, **STILL) as chat:
        await chat.idle()
        await snapshot(chat, label("empty", size))


@SIZES
async def test_an_answer_looks_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged([ANSWER]), size, house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, label("answer", size))


@SIZES
async def test_an_answer_on_the_way_looks_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged([ANSWER], hold_after=70), size, house=house, **STILL) as chat:
        await chat.idle()
        await chat.say(QUESTION)
        await chat.say("And then?")
        await snapshot(chat, label("answering", size))


@SIZES
async def test_a_failed_answer_looks_as_agreed(open_chat, staged, house, snapshot, size):
    answers = ["Hello! How can I help?", ContextOverflow(5120, 2048)]
    async with open_chat(staged(answers), size, house=house, **STILL) as chat:
        await chat.say("Hello")
        await chat.idle()
        await chat.say("A very long text ...")
        await chat.idle()
        await snapshot(chat, label("failed", size))


async def test_the_light_theme_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged([ANSWER]), (120, 40), house=house, **STILL) as chat:
        chat.app.theme = LIGHT.name
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "light-120x40")


async def test_loading_with_a_queued_message_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged(hold_load=True), house=house, **STILL) as chat:
        await chat.say("Rewrite this politely: send me the file.")
        await snapshot(chat, "loading-80x24")


async def test_reading_a_long_prompt_looks_as_agreed(open_chat, staged, house, snapshot):
    engine = staged(hold_after=0, before=[PrefillProgress(512, 1400, 0)])
    async with open_chat(engine, house=house, **STILL) as chat:
        await chat.idle()
        await chat.say("Sum this up: ...")
        await snapshot(chat, "reading-80x24")


async def test_a_model_that_cannot_be_loaded_looks_as_agreed(open_chat, staged, house, snapshot):
    error = InsufficientMemory("the model needs 1.20 GB but 0.80 GB are free")
    async with open_chat(staged(loading_error=error), house=house, **STILL) as chat:
        await snapshot(chat, "no-model-80x24")


async def test_a_nearly_full_context_looks_as_agreed(open_chat, staged, house, snapshot):
    small = replace(SCRIPTED_MODEL, model="SmolLM2-135M-Instruct", context_limit=150)
    async with open_chat(staged([ANSWER], info=small), house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "nearly-full-80x24")


async def test_the_keys_look_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged(), house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("f1")
        await snapshot(chat, "keys-80x24")


async def test_a_tiny_window_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged(), (38, 9), house=house, **STILL) as chat:
        await snapshot(chat, "tiny-38x9")


async def test_a_narrow_window_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged([ANSWER]), (44, 20), house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, "narrow-44x20")


@SIZES
async def test_a_search_looks_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged(), size, house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("ctrl+r")
        await chat.press(*"sea")
        await chat.until(lambda: "Rivers" in chat.text() or "salt" in chat.text())
        await snapshot(chat, label("search", size))


@SIZES
async def test_the_settings_look_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged(), size, house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("ctrl+o")
        await snapshot(chat, label("settings", size))


@SIZES
async def test_the_models_look_as_agreed(open_chat, staged, house, snapshot, size):
    async with open_chat(staged(), size, house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("ctrl+l")
        await chat.until(lambda: "other-chat" in chat.text())
        await snapshot(chat, label("models", size))


async def test_the_list_of_chats_looks_as_agreed_in_a_small_window(
    open_chat, staged, house, snapshot
):
    async with open_chat(staged(), (80, 24), house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("ctrl+b")
        await snapshot(chat, "chats-80x24")


async def test_what_can_be_done_with_a_message_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged([ANSWER]), (80, 24), house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await chat.press("shift+tab")
        await snapshot(chat, "message-80x24")


async def test_commands_look_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged(), (80, 24), house=house, **STILL) as chat:
        await chat.idle()
        await chat.press("slash", "c")
        await chat.until(lambda: "/continue" in chat.text())
        await snapshot(chat, "commands-80x24")


async def test_finding_in_a_chat_looks_as_agreed(open_chat, staged, house, snapshot):
    async with open_chat(staged([ANSWER]), (80, 24), house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await chat.press("ctrl+f", *"small")
        await chat.until(lambda: " of " in chat.text())
        await snapshot(chat, "find-80x24")


@pytest.mark.parametrize("theme", [CONTRAST, ANSI], ids=lambda theme: theme.name)
async def test_the_other_themes_look_as_agreed(open_chat, staged, house, snapshot, theme):
    house.settings = house.settings.replaced("interface.theme", theme.name)
    async with open_chat(staged([ANSWER]), (120, 40), house=house, **STILL) as chat:
        await chat.say(QUESTION)
        await chat.idle()
        await snapshot(chat, f"{theme.name.removeprefix('mobilellm-')}-120x40")
