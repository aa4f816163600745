"""Open a page in the browser, or an app."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, quote, urlsplit

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.tools.builtin import Surroundings
from mobilellm_mlx.tools.builtin.hearing import readings
from mobilellm_mlx.tools.command import failure, operand
from mobilellm_mlx.tools.schema import Limits, tool_from
from mobilellm_mlx.tools.tool import Example, Scope, Tool

APP_FOLDERS = (
    *("/Applications", "/Applications/Utilities"),
    *("/System/Applications", "/System/Applications/Utilities"),
)
MAX_APPS = 300
Url = Annotated[str, Limits(min_length=4, max_length=1_000)]
Name = Annotated[str, Limits(min_length=1, max_length=100)]

_HOST = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d)")
"""What comes before a colon, unless a port does after it."""
_ASCII = "".join(map(chr, range(0x21, 0x7F)))


def tools(around: Surroundings) -> list[Tool]:
    """``open_url`` and ``open_app``."""
    return [_open_url(around), _open_app(around)]


def _open_url(around: Surroundings) -> Tool:
    opener = "open" if around.is_mac else "xdg-open"

    def open_url(url: Url, cancel: threading.Event) -> str:
        """Open a web page in the browser.

        Args:
            url: its address, such as example.org or https://example.org/page
        """
        address = parse_url(url)
        # A browser that this starts goes on when it ends, and when it does not.
        ran = around.runner.run(
            [opener, address.geturl()], timeout_s=5, cancel=cancel, may_stay=not around.is_mac
        )
        if ran.code != 0:
            raise failure(f"opening {address.hostname}", ran)
        return f"Opened {address.hostname} in the browser."

    return tool_from(
        open_url,
        answers=True,
        spoken={"url"},
        heard={"url": _addresses},
        examples=(
            Example("Open example.org", {"url": "example.org"}),
            Example("Go to https://docs.python.org/3/", {"url": "https://docs.python.org/3/"}),
        ),
        keywords=("<url>", "open", "website", "web", "site", "page", "browser", "link", "visit"),
        describe=_page_in_words,
        scope=lambda arguments: Scope("host", str(parse_url(arguments["url"]).hostname)),
        check=lambda arguments: {"url": parse_url(arguments["url"]).geturl()},
        missing="" if around.runner.find(opener) else f"the program {opener} is not installed",
    )


def _addresses(said: str) -> list[str]:
    """What looks like an address of the web."""
    return [text for text in readings(said, parse_url) if "." in text or "localhost" in text]


def parse_url(text: str) -> SplitResult:
    """The address that somebody means, in the one form in which it is shown and opened.

    Raises:
        ToolError: when it is not a plain address of the web whose host can be read as it is.
    """
    text = text.strip().rstrip(".,;!?")
    shown = printable(text)[:80]
    if printable(text) != text or any(sign.isspace() or sign == "\\" for sign in text):
        raise ToolError(f"the address {shown!r} holds spaces, backslashes or control characters")
    if not _SCHEME.match(text):
        text = "https://" + text
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except (ValueError, UnicodeError) as error:
        raise ToolError(f"{shown!r} is not an address of the web: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ToolError(
            f"the address {shown!r} begins with {parts.scheme}:", "only http and https are opened"
        )
    if "@" in parts.netloc:
        raise ToolError(
            f"the address {shown!r} holds a user name in front of its host",
            "open it without the part up to the @",
        )
    _check_host(host, shown)
    where = f"[{host}]" if ":" in host else host
    netloc = where if port is None else f"{where}:{port}"
    path, query, rest = (quote(part, safe=_ASCII) for part in parts[2:])
    return SplitResult(parts.scheme, netloc, path or "/", query, rest)


def _check_host(host: str, shown: str) -> None:
    if not host.isascii() or any(label.startswith("xn--") for label in host.split(".")):
        raise ToolError(
            f"the host of {shown!r} is written with letters that can look like others",
            "type it into the browser yourself if you trust it",
        )
    if _is_ip_address(host):
        return
    last = host.rpartition(".")[2]
    # Browsers take 2130706433 and 0x7f.1 for numeric addresses; people do not see which.
    if not _HOST.fullmatch(host) or re.fullmatch(r"\d+|0x[0-9a-f]*", last) or len(host) > 253:
        raise ToolError(f"{shown!r} names no host that can be opened")
    if "." not in host and host != "localhost":
        raise ToolError(f"{shown!r} is a word and not an address", "name a host like example.org")


def _is_ip_address(host: str) -> bool:
    try:
        return "%" not in host and bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _page_in_words(arguments: Mapping[str, Any]) -> str:
    address = parse_url(arguments["url"])
    # What "in the browser" does not say by itself: anything but https://HOST/.
    more = address.geturl() != f"https://{address.hostname}/"
    return f"Open {address.hostname} in the browser" + (f": {address.geturl()}" if more else "")


def _open_app(around: Surroundings) -> Tool:
    def apps() -> dict[str, Path]:
        return find_apps((*map(Path, APP_FOLDERS), around.home / "Applications"))

    def open_app(name: Name, cancel: threading.Event) -> str:
        """Open an app.

        Args:
            name: the app's name
        """
        found = apps()
        path = found.get(name)
        if path is None:
            near = get_close_matches(name, found, 1)
            raise ToolError(
                f"there is no app {name!r}", f"did you mean {near[0]!r}?" if near else None
            )
        # By its path, so that exactly this one opens and not another of the same name.
        ran = around.runner.run(
            ["open", "-a", operand(str(path), "the app")], timeout_s=10, cancel=cancel
        )
        if ran.code != 0:
            raise failure(f"opening {name}", ran)
        return f"Opened {name}."

    return tool_from(
        open_app,
        answers=True,
        live={"name": lambda: list(apps())},
        examples=(
            Example("Open Calendar", {"name": "Calendar"}),
            Example("Start the Music app", {"name": "Music"}),
        ),
        keywords=("open", "app", "start", "launch", "application", "program"),
        describe=lambda arguments: f"Open the app {arguments['name']}",
        scope=lambda arguments: Scope("app", str(arguments["name"])),
        missing="" if around.is_mac else "apps can be opened on macOS only",
    )


def find_apps(folders: tuple[Path, ...]) -> dict[str, Path]:
    """The apps of some folders by name; the first of a name counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            bundles = sorted(folder.glob("*.app"))
        except OSError:
            continue
        for bundle in bundles:
            name = bundle.stem
            if not name.startswith((".", "-")) and printable(name) == name:
                found.setdefault(name, bundle)
    return dict(sorted(found.items(), key=lambda item: item[0].casefold())[:MAX_APPS])
