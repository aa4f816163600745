"""What reaches the desktop, with programs that only remember what they were asked."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from recorded import Asked, RecordedRunner, by_name

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.tools.builtin import Surroundings, clipboard, opening, shortcuts
from mobilellm_mlx.tools.command import Ran
from mobilellm_mlx.tools.tool import Scope, Tool

MODULES = {
    **{name: clipboard for name in ("read_clipboard", "copy_to_clipboard")},
    **{name: opening for name in ("open_url", "open_app")},
    "run_shortcut": shortcuts,
}


def make(
    name: str, runner: RecordedRunner, platform: str = "darwin", home: str = "/nobody"
) -> Tool:
    around = Surroundings(runner=runner, platform=platform, home=Path(home))
    tool: Tool = by_name(MODULES[name].tools(around))[name]
    return tool


def use(tool: Tool, **arguments: Any) -> str:
    return tool.run(arguments, threading.Event())


# -- the clipboard -------------------------------------------------------------------------------


def test_the_clipboard_of_a_mac_is_read_and_written() -> None:
    runner = RecordedRunner({"pbpaste": Ran(0, "copied text\n"), "pbcopy": Ran(0)})
    assert use(make("read_clipboard", runner)) == "copied text\n"
    assert use(make("copy_to_clipboard", runner), text="-e $(id) ü") == (
        "Copied to the clipboard: -e $(id) ü"
    )
    assert runner.asked == [
        Asked(("pbpaste", "-Prefer", "txt"), "", False),
        Asked(("pbcopy",), "-e $(id) ü", False),
    ]


def test_an_empty_clipboard_says_so() -> None:
    runner = RecordedRunner({"pbpaste": Ran(0, "  \n"), "pbcopy": Ran(0)})
    assert use(make("read_clipboard", runner)) == "The clipboard holds no text."


def test_a_clipboard_that_fails_is_one_sentence() -> None:
    runner = RecordedRunner({"pbpaste": Ran(1, "", "no pasteboard\nmore"), "pbcopy": Ran(5)})
    with pytest.raises(ToolError, match=r"^the clipboard failed: no pasteboard$"):
        use(make("read_clipboard", runner))
    with pytest.raises(ToolError, match="status 5"):
        use(make("copy_to_clipboard", runner), text="x")


def test_reading_what_was_copied_is_always_asked() -> None:
    assert not make("read_clipboard", RecordedRunner({})).reads_only
    assert not make("copy_to_clipboard", RecordedRunner({})).reads_only


@pytest.mark.parametrize(
    ("display", "installed", "copies_with"),
    [
        ("WAYLAND_DISPLAY", ["wl-paste", "wl-copy", "xclip"], "wl-copy"),
        ("DISPLAY", ["wl-paste", "wl-copy", "xclip", "xsel"], "xclip"),
        ("DISPLAY", ["xsel"], "xsel"),
    ],
)
def test_on_linux_the_desktops_own_programs_are_used(
    display: str, installed: list[str], copies_with: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    runner = RecordedRunner({}, installed)
    assert "needs a desktop" in make("read_clipboard", runner, "linux").missing
    monkeypatch.setenv(display, ":0")
    tool = make("copy_to_clipboard", runner, "linux")
    assert not tool.missing
    use(tool, text="x")
    assert runner.asked[0].argv[0] == copies_with
    # The owner of the clipboard outlives the call.
    assert runner.asked[0].may_stay


def test_where_there_is_no_clipboard_the_tools_say_so() -> None:
    assert (
        "wl-clipboard, xclip or xsel" in make("read_clipboard", RecordedRunner({}), "linux").missing
    )
    assert "pbcopy" in make("read_clipboard", RecordedRunner({})).missing
    assert "macOS and Linux only" in make("read_clipboard", RecordedRunner({}), "win32").missing


# -- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "opened", "host"),
    [
        ("example.org", "https://example.org/", "example.org"),
        ("Example.ORG/Page?q=1#top", "https://example.org/Page?q=1#top", "example.org"),
        ("http://example.org:8080.", "http://example.org:8080/", "example.org"),
        ("example.org:8080/x", "https://example.org:8080/x", "example.org"),
        ("https://example.org/für?q=ä", "https://example.org/f%C3%BCr?q=%C3%A4", "example.org"),
        ("https://example.org/a%20b", "https://example.org/a%20b", "example.org"),
        ("http://127.0.0.1:80/", "http://127.0.0.1:80/", "127.0.0.1"),
        ("http://[::1]/x", "http://[::1]/x", "::1"),
        ("localhost:8000", "https://localhost:8000/", "localhost"),
    ],
)
def test_a_page_opens_at_the_address_that_was_said(said: str, opened: str, host: str) -> None:
    runner = RecordedRunner({"open": Ran(0)})
    tool = make("open_url", runner)
    assert use(tool, url=said) == f"Opened {host} in the browser."
    assert runner.asked == [Asked(("open", opened), "", False)]
    assert tool.scope({"url": said}) == Scope("host", host)
    assert tool.check is not None and tool.check({"url": said}) == {"url": opened}
    assert tool.check({"url": opened}) == {"url": opened}


@pytest.mark.parametrize(
    "said",
    [
        *("javascript:alert(1)", "file:///etc/passwd", "FILE:///etc", "data:text/html,x"),
        *("ssh://example.org", "mailto:a@example.org", "vbscript:x", "x-apple:y", "tel:+1"),
        *("https://bank.example@evil.example/", "https://u:p@example.org", "user@example.org"),
        *("https://bücher.example", "https://xn--80ak6aa92e.com", "https://exаmple.org"),
        *("http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://１２７.0.0.1"),
        *("https://a.example\\@b.example", "https://example.org /x", "https://exa\nmple.org"),
        *("https://example.org\0", "\u202ehttps://example.org", "https://exa\u00admple.org"),
        *("https://e%2eorg/", "https:///x", "//example.org", "https:example.org", "wiki"),
        *("https://example.org:99999", "https://example.org:x", "http://[::1", "http://[::1%25lo]"),
        *(
            "--help",
            "-a.example",
            "https://-a.example",
            "https://.example",
            "https://a..b",
            "http://",
        ),
        *("", "?", "https://" + "a" * 300 + ".org"),
    ],
)
def test_what_is_no_plain_address_of_the_web_is_not_opened(said: str) -> None:
    runner = RecordedRunner({"open": Ran(0)})
    tool = make("open_url", runner)
    for attempt in (tool.check, tool.scope, lambda arguments: use(tool, **arguments)):
        assert attempt is not None
        with pytest.raises(ToolError) as caught:
            attempt({"url": said})
        assert caught.value.message.isprintable()
    assert not runner.asked


def test_the_host_stands_first_in_the_words() -> None:
    tool = make("open_url", RecordedRunner({"open": Ran(0)}))
    assert tool.words({"url": "example.org"}) == "Open example.org in the browser"
    assert tool.words({"url": "https://example.org/bank.example?a=1"}) == (
        "Open example.org in the browser: https://example.org/bank.example?a=1"
    )
    assert tool.words({"url": "javascript:1"}) == 'open_url(url = "javascript:1")'


def test_a_browser_on_linux_is_left_running() -> None:
    runner = RecordedRunner({"xdg-open": Ran(0)})
    use(make("open_url", runner, "linux"), url="example.org")
    assert runner.asked == [Asked(("xdg-open", "https://example.org/"), "", True)]


def test_without_an_opener_or_when_it_fails_the_tool_says_so() -> None:
    assert "xdg-open" in make("open_url", RecordedRunner({}), "linux").missing
    failing = make("open_url", RecordedRunner({"open": Ran(1, "", "no browser")}))
    with pytest.raises(ToolError, match=r"opening example\.org failed: no browser"):
        use(failing, url="example.org")


# -- apps ----------------------------------------------------------------------------------------


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("one/Calendar.app", "one/zoom.app", "two/Calendar.app", "Applications/Mine.app"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one" / "-e.app").mkdir()
    (tmp_path / "one" / "notes.txt").touch()
    folders = (str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "gone"))
    monkeypatch.setattr(opening, "APP_FOLDERS", folders)
    return tmp_path


def test_the_apps_that_exist_are_opened_by_their_paths(apps: Path) -> None:
    runner = RecordedRunner({"open": Ran(0)})
    tool = make("open_app", runner, home=str(apps))
    assert tool.live["name"]() == ["Calendar", "Mine", "zoom"]
    assert use(tool, name="Calendar") == "Opened Calendar."
    assert runner.asked[0].argv == ("open", "-a", str(apps / "one" / "Calendar.app"))
    assert tool.scope({"name": "Mine"}) == Scope("app", "Mine")
    assert tool.words({"name": "Mine"}) == "Open the app Mine"


@pytest.mark.parametrize("name", ["Calender", "-e", "../two/Calendar", "/bin/sh", "a\0"])
def test_an_app_that_is_not_there_is_not_opened(apps: Path, name: str) -> None:
    runner = RecordedRunner({"open": Ran(0)})
    with pytest.raises(ToolError, match="there is no app") as caught:
        use(make("open_app", runner, home=str(apps)), name=name)
    assert not runner.asked
    if name == "Calender":
        assert caught.value.hint == "did you mean 'Calendar'?"


def test_apps_and_shortcuts_need_macos() -> None:
    runner = RecordedRunner({}, ["open", "shortcuts"])
    assert "macOS" in make("open_app", runner, "linux").missing
    assert "macOS" in make("run_shortcut", runner, "linux").missing
    assert not make("run_shortcut", runner).missing
    assert "macOS 12" in make("run_shortcut", RecordedRunner({})).missing


# -- shortcuts -----------------------------------------------------------------------------------


LIST = "Morning Routine\nLog Weight\n\n--help\nbell\x07\nLog Weight\n日記\n"


def test_the_shortcuts_that_exist_are_named_once() -> None:
    runner = RecordedRunner({"shortcuts list": Ran(0, LIST)})
    tool = make("run_shortcut", runner)
    for _ in range(3):
        assert tool.live["name"]() == ["Morning Routine", "Log Weight", "日記"]
    assert len(runner.asked) == 1


def test_shortcuts_are_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = RecordedRunner({"shortcuts list": Ran(0, "One\n")})
    tool = make("run_shortcut", runner)
    assert tool.live["name"]() == ["One"]
    runner.recorded["shortcuts list"] = Ran(0, "Two\n")
    monkeypatch.setattr(shortcuts, "REMEMBERED_S", -1.0)
    assert tool.live["name"]() == ["Two"]


@pytest.mark.parametrize("answer", [Ran(1, "", "no"), Ran(0), ToolError("it hangs")])
def test_where_shortcuts_cannot_be_listed_none_are_offered(answer: Ran | Exception) -> None:
    tool = make("run_shortcut", RecordedRunner({"shortcuts list": answer}))
    assert tool.live["name"]() == []
    with pytest.raises(ToolError, match="there is no shortcut"):
        use(tool, name="Morning Routine")


def test_a_shortcut_runs_with_its_input_and_says_something() -> None:
    runner = RecordedRunner(
        {"shortcuts list": Ran(0, LIST), "shortcuts run Log Weight": Ran(0, "Logged 71.5\n")}
    )
    tool = make("run_shortcut", runner)
    assert use(tool, name="Log Weight", input="-71.5 kg; rm") == "Logged 71.5"
    assert use(tool, name="Morning Routine") == (
        "The shortcut 'Morning Routine' has run; it said nothing."
    )
    assert runner.asked[1:] == [
        Asked(("shortcuts", "run", "Log Weight", "--input-path", "-"), "-71.5 kg; rm", False),
        Asked(("shortcuts", "run", "Morning Routine"), "", False),
    ]
    assert tool.scope({"name": "Log Weight"}) == Scope("shortcut", "Log Weight")
    assert tool.words({"name": "日記", "input": "x"}) == "Run the shortcut '日記' with 'x'"


@pytest.mark.parametrize("name", ["--help", "Log", "bell\x07", "Morning Routine\n"])
def test_a_shortcut_that_is_not_there_is_not_run(name: str) -> None:
    runner = RecordedRunner({"shortcuts list": Ran(0, LIST), "shortcuts run": Ran(0)})
    with pytest.raises(ToolError, match="there is no shortcut"):
        use(make("run_shortcut", runner), name=name)
    assert len(runner.asked) == 1


def test_a_shortcut_that_fails_is_one_sentence() -> None:
    said = "Error: The operation couldn’t be completed.\nmore"
    runner = RecordedRunner({"shortcuts list": Ran(0, LIST), "shortcuts run": Ran(1, "", said)})
    with pytest.raises(ToolError) as caught:
        use(make("run_shortcut", runner), name="Log Weight")
    assert caught.value.message == (
        "the shortcut 'Log Weight' failed: Error: The operation couldn’t be completed."
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/", "Open example.org in the browser"),
        (
            "example.org:8443",
            "Open example.org in the browser: https://example.org:8443/",
        ),
        ("http://example.org", "Open example.org in the browser: http://example.org/"),
        (
            "http://localhost:631/",
            "Open localhost in the browser: http://localhost:631/",
        ),
    ],
)
def test_the_words_show_another_door_than_the_usual_one(url: str, words: str) -> None:
    assert make("open_url", RecordedRunner({"open": Ran(0)})).words({"url": url}) == words
