"""Copying: what the model wrote, not what the screen made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.screen import Screen
from textual.selection import Selection

from mobilellm_mlx.events import GenerationSummary
from tui import terminal
from tui.widgets import transcript
from tui.widgets.code import find_code
from tui.widgets.markdown import CodeBlock
from tui.widgets.transcript import Transcript

WIDE = "value = " + " + ".join(f"number_{n}" for n in range(40))
ANSWER = f"""First:

```python
{WIDE}
if value:
\treturn "x"
```

- in a list:

  ```sh
  echo hi
  ```

~~~
no language
~~~
"""


class Harness(App[None]):
    CSS = "Transcript { height: 1fr; } Response { height: auto; }"

    def compose(self) -> ComposeResult:
        yield Transcript()


async def answered(pilot, text=ANSWER):
    transcript = pilot.app.query_one(Transcript)
    response = await transcript.add_answer()
    await response.finish(GenerationSummary(text=text))
    await pilot.pause()
    return transcript, response


def said(app):
    return [notification.message for notification in app._notifications]


def test_code_is_whole_and_without_its_fence_or_indentation():
    found = find_code(ANSWER)
    assert [code.text for code in found] == [
        f'{WIDE}\nif value:\n\treturn "x"',
        "echo hi",
        "no language",
    ]
    assert [code.description for code in found] == ["python, 3 lines", "sh, 1 line", "1 line"]


def test_code_that_is_still_being_written_counts_and_controls_do_not():
    assert [code.text for code in find_code("```\na\x1b[2Jb\nc")] == ["a[2Jb\nc"]


async def test_every_call_copies_the_next_block_and_says_which():
    async with Harness().run_test(size=(60, 24)) as pilot:
        transcript, _ = await answered(pilot)
        copied = []
        for _ in range(4):
            await transcript.copy_code()
            copied.append(pilot.app.clipboard)
        assert copied[:3] == [code.text for code in find_code(ANSWER)]
        assert copied[3] == copied[0]
        await pilot.pause()
        assert said(pilot.app)[1] == "Copied code block 2 of 3 (sh, 1 line)"


async def test_without_code_there_is_nothing_to_copy():
    async with Harness().run_test(size=(60, 24)) as pilot:
        transcript, _ = await answered(pilot, "Words.")
        await transcript.copy_code()
        await pilot.pause()
        assert said(pilot.app) == ["There is no code to copy"]
        assert pilot.app.clipboard == ""


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_a_click_on_a_block_copies_exactly_that(index):
    async with Harness().run_test(size=(60, 40)) as pilot:
        _, response = await answered(pilot)
        block = list(response.query(CodeBlock))[index]
        await pilot.click(block, offset=(3, 0))
        for _ in range(100):
            if pilot.app.clipboard:
                break
            await pilot.pause(0.01)
        assert pilot.app.clipboard == find_code(ANSWER)[index].text
        assert block.has_class("-copied")


async def test_a_drag_selects_and_copies_no_block():
    async with Harness().run_test(size=(60, 40)) as pilot:
        _, response = await answered(pilot)
        block = response.query(CodeBlock).first()
        await pilot.mouse_down(block, offset=(2, 0))
        await pilot.hover(block, offset=(9, 1))
        await pilot.mouse_up(block, offset=(9, 1))
        await pilot.pause()
        assert pilot.app.screen.get_selected_text()
        assert pilot.app.clipboard == ""


async def test_a_block_that_was_broken_for_drawing_is_copied_whole():
    code = "".join(f"line_{n} = {n}\n" for n in range(900))
    text = f"```python\n{code}```\n\nThen:\n\n```sh\nls\n```\n"
    async with Harness().run_test(size=(60, 40)) as pilot:
        transcript, response = await answered(pilot, text)
        assert len(response.documents) > 2
        transcript.scroll_end(animate=False)
        await pilot.pause()
        blocks = [block for d in response.documents for block in d.query(CodeBlock)]
        assert response.code_index(blocks[-1]) == 1
        if len(blocks) > 1:
            assert response.code_index(blocks[-2]) == 0
        await transcript.copy_code()
        assert pilot.app.clipboard + "\n" == code


@pytest.mark.parametrize(
    ("environment", "tool"),
    [
        ({"WAYLAND_DISPLAY": "wayland-0"}, "wl-copy"),
        ({"DISPLAY": ":0"}, "xclip"),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "a"}, None),
        ({}, None),
    ],
)
def test_on_linux_the_session_s_own_tool_is_used(environment, tool, monkeypatch):
    monkeypatch.setattr(terminal.sys, "platform", "linux")
    monkeypatch.setattr(terminal.shutil, "which", lambda name: f"/usr/bin/{name}")
    command = terminal.clipboard_command(environment)
    assert (command[0].rsplit("/", 1)[-1] if command else None) == tool


class Wrapping(Harness):
    """The transcript with its own rules, on the screen whose class says whether code wraps."""

    CSS_PATH = Path(transcript.__file__).parent.parent / "transcript.tcss"

    def get_default_screen(self):
        return ChatScreen(id="_default")


class ChatScreen(Screen):
    """Named as the screen of the chat is in the rules."""


async def test_long_lines_of_code_scroll_sideways():
    async with Wrapping().run_test(size=(60, 30)) as pilot:
        _, response = await answered(pilot)
        block = response.query(CodeBlock).first()
        await pilot.pause()
        assert block.size.height == 3
        assert block.max_scroll_x > 300
        block.scroll_to(x=block.max_scroll_x, animate=False, force=True)
        await until(pilot, lambda: "number_39" in screen_text(pilot.app))
        assert "number_0 " not in screen_text(pilot.app)


async def test_long_lines_of_code_wrap_when_that_is_set_and_are_copied_without_the_wraps():
    async with Wrapping().run_test(size=(60, 30)) as pilot:
        pilot.app.screen.add_class("-wrap-code")
        transcript, response = await answered(pilot)
        block = response.query(CodeBlock).first()
        await until(pilot, lambda: block.size.height > 8)
        assert block.max_scroll_x == 0
        shown = screen_text(pilot.app)
        assert all(f"number_{n}" in shown for n in range(40))
        await transcript.copy_code()
        assert pilot.app.clipboard == find_code(ANSWER)[0].text
        label = block.query_one("#code-content")
        pilot.app.screen.selections = {label: Selection(None, None)}
        assert pilot.app.screen.get_selected_text() == find_code(ANSWER)[0].text
        pilot.app.screen.remove_class("-wrap-code")
        await until(pilot, lambda: block.size.height == 3)


async def until(pilot, predicate):
    for _ in range(200):
        if predicate():
            return
        await pilot.pause(0.01)
    pytest.fail("still not so")


def screen_text(app):
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in strips)
