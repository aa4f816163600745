"""The interface as people meet it: a process on a terminal, keys typed, the screen read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from mobilellm_mlx import catalogue
from mobilellm_mlx.chat.records import StoredMessage
from mobilellm_mlx.chat.store import Store, history_path
from tests.cli.processes import command, environment
from tests.e2e.parrot import write_parrot
from tests.e2e.terminal import COMMAND, Terminal

READY = "Ask a short question"
"""Stands in the prompt as long as that is empty."""
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION = "What is the capital of France?"

Start = Callable[..., Terminal]


@pytest.fixture(scope="session")
def alphabet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every next word is seen on the screen to be right."""
    return write_parrot(tmp_path_factory.mktemp("models") / "alphabet", f"{ALPHABET} ")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command on a terminal; whatever is left is ended with the test."""
    with ExitStack() as stack:

        def start(
            *args: str,
            size: tuple[int, int] = (100, 30),
            command: Sequence[str] = COMMAND,
            controls: bool = True,
            **changes: str,
        ) -> Terminal:
            env = environment(**{"TERM": "xterm-256color", **changes})
            terminal = Terminal(*args, env=env, size=size, command=command, controls=controls)
            return stack.enter_context(terminal)

        yield start


@pytest.fixture
def chat(start: Start, alphabet_dir: Path) -> Start:
    """Starts a chat with the model that says the alphabet, ready to be asked."""

    def chat(*args: str, **options: object) -> Terminal:
        terminal = start(
            "chat", str(alphabet_dir), "--temp", "0", "--max-tokens", "50000", *args, **options
        )
        terminal.until(READY)
        return terminal

    return chat


def mobilellm(*args: str) -> str:
    """What a run of the command without a terminal says."""
    done = subprocess.run(
        command(*args), env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(screen: str) -> str:
    """The alphabet as far as a screen shows it."""
    return " ".join(re.findall(r"\bA[B-Z]*\b", screen))


def ask(terminal: Terminal, question: str = "say it", letters: int = 60) -> str:
    """Ask, and wait until so much of the alphabet has come; gives the screen."""
    terminal.type(question)
    terminal.press("enter")
    return terminal.until(lambda screen: len(said(screen)) >= letters)


def kept() -> list[list[StoredMessage]]:
    """The chats of the history, the oldest first."""
    store = Store(history_path())
    try:
        return [store.messages(chat.id) for chat in reversed(store.chats())]
    finally:
        store.close()


def leave(terminal: Terminal) -> None:
    """Ctrl+Q: the program ends well and the terminal is as it was."""
    terminal.press("ctrl+q")
    assert terminal.wait() == 0
    assert terminal.is_restored


# ---------------------------------------------------------------- the real model


@pytest.mark.real
def test_a_person_asks_reads_leaves_and_goes_on_later(real_model, home, start) -> None:
    place = home / "cache" / "models" / catalogue.DEFAULT
    place.parent.mkdir(parents=True)
    place.symlink_to(real_model)
    terminal = start("chat", "--temp", "0")
    terminal.until(READY)
    assert not terminal.is_restored
    terminal.type(QUESTION)
    terminal.press("enter")
    screen = terminal.until(" tokens · ")  # it is done
    assert QUESTION in screen and "The capital of France is Paris." in screen
    leave(terminal)

    shown = mobilellm("history", "show", "last")
    assert QUESTION in shown and "The capital of France is Paris." in shown

    terminal = start("chat", "--resume", "--temp", "0")
    screen = terminal.until("The capital of France is Paris.")
    assert QUESTION in screen
    terminal.until(READY)
    terminal.type("And of Germany?")
    terminal.press("enter")
    screen = terminal.until(lambda screen: screen.count(" tokens · ") == 2)
    assert "Berlin" in screen
    leave(terminal)
    ((first, second, third, fourth),) = kept()
    assert [m.role for m in (first, second, third, fourth)] == ["user", "assistant"] * 2
    assert "Berlin" in fourth.content and fourth.status == "complete"


# ---------------------------------------------------------------- a sudden end


def test_kill_9_in_mid_answer_loses_less_than_a_second(chat) -> None:
    terminal = chat(size=(120, 60))
    before = said(ask(terminal))
    assert len(said(terminal.watch(1.0))) > len(before)  # it was in the middle
    terminal.kill()
    ((question, answer),) = kept()
    assert (question.content, answer.status) == ("say it", "partial")
    assert answer.content.startswith(before)

    terminal = chat("--resume", size=(120, 60))
    screen = terminal.until("broken off")
    assert answer.content.strip() == said(screen)
    terminal.press("shift+tab")
    terminal.until("c continue")
    terminal.press("c")
    terminal.until(lambda screen: len(said(screen)) > len(answer.content) + 60)
    terminal.press("escape")
    terminal.until("continues")
    leave(terminal)
    ((_, continued),) = kept()
    circle = f"{ALPHABET} " * 1000
    assert circle.startswith(continued.content)
    assert len(continued.content) > len(answer.content) + 60


def interrupt(terminal: Terminal) -> int:
    """Ctrl+C stops the answer, not the program."""
    terminal.press("ctrl+c")
    terminal.until("continues")
    terminal.press("ctrl+q")
    return terminal.wait()


def hang_up(terminal: Terminal) -> int:
    """Close the window."""
    terminal.hang_up()
    return terminal.wait()


def signalled(number: signal.Signals) -> Callable[[Terminal], int]:
    """Send the program a signal."""

    def send(terminal: Terminal) -> int:
        terminal.signal(number)
        return terminal.wait()

    return send


ENDS = {
    "ctrl+c": (interrupt, 0),
    "ctrl+q": (lambda terminal: (terminal.press("ctrl+q"), terminal.wait())[1], 0),
    "SIGTERM": (signalled(signal.SIGTERM), 128 + signal.SIGTERM),
    "SIGHUP": (signalled(signal.SIGHUP), 128 + signal.SIGHUP),
    "a closed window": (hang_up, 128 + signal.SIGHUP),
}


@pytest.mark.parametrize("way", ENDS)
def test_however_it_ends_in_mid_answer_the_answer_is_kept(chat, way: str) -> None:
    end, code = ENDS[way]
    terminal = chat()
    before = said(ask(terminal))
    assert end(terminal) == code
    if way != "a closed window":
        assert terminal.is_restored
    assert "Traceback" not in terminal.text
    ((question, answer),) = kept()
    assert (question.content, answer.status) == ("say it", "stopped")
    assert answer.content.startswith(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_while_the_interface_comes_up_leaves_the_terminal_as_it_was(
    start, alphabet_dir, number
) -> None:
    terminal = start("chat", str(alphabet_dir))
    while terminal.is_restored:
        assert terminal.process.poll() is None
        terminal.read(0.05)
    terminal.signal(number)
    assert terminal.wait() == 128 + number
    assert terminal.is_restored and "Traceback" not in terminal.text


def test_a_terminal_that_goes_without_a_signal_takes_the_program_along(chat) -> None:
    terminal = chat(controls=False)  # as in a container
    terminal.hang_up()
    assert terminal.wait() == 128 + signal.SIGHUP


# ---------------------------------------------------------------- side by side


def test_two_at_once_keep_both_their_chats(chat) -> None:
    first, second = chat(), chat()
    ask(first, "one")
    ask(second, "two")
    for terminal in (first, second):
        terminal.press("escape")
        terminal.until("continues")
        ask(terminal, "again", letters=1)
    for terminal in (first, second):
        leave(terminal)
    both = sorted([message.content for message in messages] for messages in kept())
    assert [contents[0] for contents in both] == ["one", "two"]
    assert [contents[2] for contents in both] == ["again", "again"]
    assert all(len(contents) == 4 and contents[1].startswith(ALPHABET) for contents in both)


def test_two_that_go_on_with_one_chat_each_keep_a_branch_of_it(chat) -> None:
    terminal = chat()
    ask(terminal, "one")
    terminal.press("escape")
    terminal.until("continues")
    leave(terminal)
    both = [chat("--resume"), chat("--resume")]
    for terminal, question in zip(both, ("left", "right"), strict=True):
        terminal.until("continues")
        ask(terminal, question, letters=1)
    for terminal in both:
        leave(terminal)
    ((_, answer, *rest),) = kept()
    questions = [message for message in rest if message.role == "user"]
    assert sorted(message.content for message in questions) == ["left", "right"]
    assert {message.parent_id for message in questions} == {answer.id}


# ---------------------------------------------------------------- terminals


@pytest.mark.parametrize(
    "changes",
    [{"TERM": "xterm-256color"}, {"TERM": "linux"}, {"LANG": "C"}, {"LC_ALL": "C"}, {"TERM": ""}],
    ids=str,
)
def test_every_terminal_that_can_draw_shows_a_chat(chat, changes) -> None:
    terminal = chat(**changes)
    ask(terminal)
    assert "╭─" in terminal.text
    terminal.press("escape")
    terminal.until("continues")
    leave(terminal)


def test_a_terminal_without_colours_gets_none(chat) -> None:
    terminal = chat(NO_COLOR="1")
    screen = ask(terminal)
    colours = {
        (cell.fg, cell.bg) for row in terminal.screen.buffer.values() for cell in row.values()
    }
    assert colours == {("default", "default")}, screen
    terminal.press("f1")
    terminal.until("Quit")
    leave(terminal)


def test_a_terminal_that_cannot_draw_gets_lines(start, alphabet_dir) -> None:
    terminal = start("chat", str(alphabet_dir), "--temp", "0", "--max-tokens", "52", TERM="dumb")
    terminal.type("say it\n")
    terminal.until(f"{ALPHABET} {ALPHABET[:25]}")
    terminal.press("ctrl+d")
    assert terminal.wait() == 0
    assert b"\x1b" not in terminal.raw and terminal.is_restored


def test_without_stderr_there_is_nothing_to_draw_on_but_lines(start, alphabet_dir) -> None:
    aside = ("/bin/sh", "-c", 'exec "$@" 2>/dev/null', "sh", *COMMAND)
    terminal = start("chat", str(alphabet_dir), "--max-tokens", "26", command=aside)
    terminal.type("say it\n")
    terminal.until(ALPHABET)
    terminal.press("ctrl+d")
    assert terminal.wait() == 0


def test_what_a_model_writes_does_not_steer_the_terminal(start, tmp_path) -> None:
    parrot = write_parrot(tmp_path / "parrot", "\x1b]0;TAKEN\x07")
    # What is left of the colour, "31m", is a length to the tools.
    terminal = start("chat", str(parrot), "--max-tokens", "100", "--no-tools")
    terminal.until(READY)
    terminal.type("\x1b[200~\x9b31m say it\x1b[201~")
    terminal.press("enter")
    terminal.until("]0;TAKEN]0;TAKEN")
    terminal.until("tok/s")
    leave(terminal)
    assert "TAKEN" not in terminal.screen.title and b"\x1b]0;TAKEN" not in terminal.raw
    assert kept()[0][1].content.startswith("\x1b]0;TAKEN\x07")
    shown = start("history", "show", "last")
    assert shown.wait() == 0
    assert "]0;TAKEN" in shown.text
    assert shown.screen.title == "" and b"\x1b]0;TAKEN" not in shown.raw


def test_a_window_may_become_tiny_and_large_again_while_an_answer_comes(chat) -> None:
    terminal = chat()
    ask(terminal)
    terminal.resize(20, 5)
    terminal.until("This window is too")
    terminal.resize(100, 30)
    before = terminal.until(lambda screen: len(said(screen)) > 200)
    terminal.until(lambda screen: said(screen) != said(before))
    for size in [(1, 1), (40, 10), (200, 60), (80, 24)]:
        terminal.resize(*size)
        terminal.watch(0.1)
    terminal.press("escape")
    screen = terminal.until("continues")
    assert READY in screen and "alphabet" in screen
    leave(terminal)


def test_a_megabyte_is_pasted_as_a_chip_and_keys_still_answer(chat) -> None:
    terminal = chat()
    terminal.paste("0123456789 abcdef\n" * 60_000)
    terminal.until("[pasted 1: 60,000 lines]")
    terminal.type(" what is it?")
    terminal.until("lines] what is it?")
    terminal.press("ctrl+o")
    terminal.until("Settings", patience_s=5)
    terminal.press("escape")
    terminal.press("enter")
    terminal.until(lambda screen: "what is it?" in screen and "context" in screen)
    leave(terminal)


# ---------------------------------------------------------------- bad disks


def test_a_damaged_history_is_said_and_lies_beside_a_new_one(chat) -> None:
    history_path().parent.mkdir(parents=True)
    history_path().write_bytes(b"no database at all" * 1000)
    terminal = chat()
    terminal.until(lambda screen: "history file is damaged" in screen)
    ask(terminal)
    terminal.press("escape")
    terminal.until("continues")
    leave(terminal)
    (aside,) = history_path().parent.glob("history-damaged-*")
    assert aside.read_bytes() == b"no database at all" * 1000
    assert [messages[0].content for messages in kept()] == ["say it"]


LOSE_POWERS = """
import ctypes, os, sys
if os.geteuid() == 0:  # what root may write is no test: no CAP_DAC_OVERRIDE from here on
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_where_nothing_can_be_written_a_chat_goes_on_and_that_is_said(chat, home) -> None:
    Store(history_path()).close()
    history_path().chmod(0o444)
    places = (history_path().parent, home)
    for place in places:
        place.chmod(0o555)
    before = history_path().read_bytes()
    try:
        terminal = chat(command=(sys.executable, "-c", LOSE_POWERS, *COMMAND))
        terminal.until("history cannot be written")
        assert "not saved" in ask(terminal)
        terminal.press("escape")
        terminal.until("continues")
        leave(terminal)
    finally:
        for place in places:
            place.chmod(0o755)
    assert history_path().read_bytes() == before
    assert [path.name for path in home.iterdir()] == ["data"]


# ---------------------------------------------------------------- the network

WATCHER = """
import os, socket, sys

def note(event, args):
    if event == "socket.__new__" and args[1] == socket.AF_UNIX:
        return
    if event.startswith("socket.") or event == "subprocess.Popen":
        with open(os.environ["WATCHED"], "a") as file:
            print(event, args[1:], file=file)

sys.addaudithook(note)
"""


def test_no_screen_opens_a_connection_or_starts_a_program(chat, tmp_path) -> None:
    watcher, watched = tmp_path / "watcher", tmp_path / "watched"
    watcher.mkdir()
    (watcher / "sitecustomize.py").write_text(WATCHER)
    watched.touch()
    paths = os.pathsep.join(filter(None, [str(watcher), os.environ.get("PYTHONPATH", "")]))
    terminal = chat(PYTHONPATH=paths, WATCHED=str(watched), size=(120, 40))
    ask(terminal)
    terminal.press("escape")
    terminal.until("continues")
    rooms = {
        "ctrl+l": catalogue.DEFAULT,
        "ctrl+o": "Temperature",
        "ctrl+r": "Enter opens",
        "ctrl+p": "Search",
        "f1": "Quit",
    }
    for key, shown in rooms.items():
        terminal.press(key)
        terminal.until(shown)
        terminal.press("escape")
        terminal.until(lambda screen: shown not in screen and READY in screen)  # noqa: B023
    leave(terminal)
    assert watched.read_text() == ""
