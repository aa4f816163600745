"""Every setting: its name, what it takes, what it is for. The file and the screen follow this."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.plain import STEERING
from mobilellm_mlx.settings.servers import check_name, check_server
from mobilellm_mlx.settings.wording import close, shown

Kind = Literal["number", "integer", "text", "lines", "choice", "switch", "keys", "server"]
"""What a setting takes; ``lines`` is a text of several, ``keys`` is ``ctrl+x,f5``, ``server`` a
table that only the file has."""

THEMES = ("mobilellm-dark", "mobilellm-light", "mobilellm-contrast", "mobilellm-ansi")
MAX_CHARACTERS = 32_000
"""Of one text. A system prompt that is longer fills the context of most models we run."""
MAX_NAME = 40
LARGEST = 2**64
"""Whole numbers from here on mean nothing in any setting, and long ones cannot even be printed."""

_KEY = re.compile(r"(?:(?:ctrl|alt|shift|super|meta|hyper)\+)*[^\s,+]{1,32}")
_BINDING = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)+")
_KINDS: dict[Kind, tuple[tuple[type, ...], str]] = {
    "number": ((int, float), "a number"),
    "integer": ((int,), "a whole number"),
    "text": ((str,), "a text"),
    "lines": ((str,), "a text"),
    "choice": ((str,), "a text"),
    "switch": ((bool,), "`true` or `false`"),
    "keys": ((str,), "keys such as `ctrl+x,f5`"),
    "server": ((dict,), "a table"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be chosen.

    Attributes:
        key: where it stands in the file: the table, a dot, the name.
        default: what holds when it is not set; None where the model or the program decides.
    """

    key: str
    kind: Kind
    title: str
    help: str
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def group(self) -> str:
        """The table it stands in."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the table."""
        return self.key.partition(".")[2]

    def check(self, value: Any) -> Any:
        """``value`` if this setting can have it.

        Raises:
            InvalidOption: says what was expected.
        """
        if self.kind == "server":
            return check_server(self.key, value)
        types, expected = _KINDS[self.kind]
        self._require(type(value) in types, value, expected)
        if type(value) is int:
            self._require(abs(value) < LARGEST, "", "a smaller number")
        if isinstance(value, str):
            self._check_text(value)
        if self.group == "sampling":
            self._check_sampling(value)
        if self.choices:
            near = close(value, self.choices)
            expected = " or ".join(f"`{choice}`" for choice in self.choices)
            self._require(value in self.choices, value, expected, near)
        if self.minimum is not None and self.maximum is not None:
            expected = f"between {self.minimum:g} and {self.maximum:g}"
            self._require(self.minimum <= value <= self.maximum, value, expected)
        return value

    def parse(self, text: str) -> Any:
        """The value that a person typed.

        Raises:
            InvalidOption: as for ``check``, or when ``text`` is none of its kind.
        """
        typed = text.strip()
        try:
            match self.kind:
                case "integer":
                    return self.check(int(typed.replace(",", "")))
                case "number":
                    return self.check(float(typed) if not typed.isdecimal() else int(typed))
                case "switch":
                    return self.check(
                        {"on": True, "true": True, "off": False, "false": False}[typed]
                    )
                case "keys":
                    keys = (key.strip() for key in typed.split(","))
                    return self.check(",".join(key for key in keys if key))
                case "lines":
                    return self.check(text)
        except (ValueError, KeyError):
            self._require(False, text, _KINDS[self.kind][1])
        return self.check(typed)

    def _check_text(self, value: str) -> None:
        limit = MAX_CHARACTERS if self.kind == "lines" else 500
        self._require(len(value) <= limit, value, f"at most {limit:,} characters")
        several = self.kind == "lines" or "\n" not in value
        self._require(several, value, "one line")
        clean = not STEERING.search(value) and not any("\ud800" <= c <= "\udfff" for c in value)
        self._require(clean, value, "a text without control characters")
        if self.kind == "keys":
            well_formed = all(_KEY.fullmatch(key) for key in value.split(","))
            self._require(well_formed, value, _KINDS["keys"][1])

    def _check_sampling(self, value: Any) -> None:
        """By the rules of ``GenerationOptions`` itself, so that the two never differ."""
        try:
            GenerationOptions().merged({self.name: value})
        except InvalidOption as error:
            expected = error.message.rpartition(", expected ")[2]
            self._require(False, value, expected)

    def _require(self, condition: bool, value: Any, expected: str, near: str = "") -> None:
        if not condition:
            said = f" is {shown(value)}" if value != "" else ""
            raise InvalidOption(
                f"`{self.key}`{said}, expected {expected}",
                f"did you mean `{near}`?" if near else None,
            )


GROUPS = {
    "sampling": "Sampling",
    "chat": "Chat",
    "history": "History",
    "cache": "Cache",
    "interface": "Interface",
    "tools": "Tools",
    "model": "Model",
    "presets": "System prompts",
    "keys": "Keys",
    "mcp": "Servers of tools",
}
"""The tables of the file, in the order of the screen, and what they are called there."""

SCHEMA: tuple[Setting, ...] = (
    Setting(
        "sampling.temperature",
        "number",
        "Temperature",
        "0 always takes the likeliest word; 1 draws as the model would; more is wilder.",
    ),
    Setting(
        "sampling.top_k", "integer", "Top k", "Draw from the k likeliest tokens only; 0 is off."
    ),
    Setting(
        "sampling.top_p",
        "number",
        "Top p",
        "Draw from the likeliest tokens that together reach this probability; 1 is off.",
    ),
    Setting(
        "sampling.min_p",
        "number",
        "Min p",
        "Leave out tokens less likely than this share of the likeliest one; 0 is off.",
    ),
    Setting(
        "sampling.repetition_penalty",
        "number",
        "Repetition penalty",
        "Above 1, what was just said becomes less likely; 1 is off. 1.1 is mild.",
    ),
    Setting(
        "sampling.max_tokens", "integer", "Longest answer", "Tokens after which an answer stops."
    ),
    Setting(
        "sampling.thinking_budget",
        "integer",
        "Longest reasoning",
        "Tokens a reasoning model may think before it must answer; 0 is no thinking.",
    ),
    Setting(
        "sampling.seed",
        "integer",
        "Seed",
        "The same seed and the same chat give the same answer. Unset draws a new one each time.",
    ),
    Setting(
        "chat.preset",
        "text",
        "Preset",
        "Which of your system prompts new chats begin with. Unset takes the text below.",
    ),
    Setting(
        "chat.instructions",
        "lines",
        "System prompt",
        "What the model is told before every chat, when no preset is chosen.",
    ),
    Setting(
        "chat.context_policy",
        "choice",
        "When context runs out",
        "drop leaves the oldest turns out of what the model sees, pinned ones stay; stop asks you.",
        default="drop",
        choices=("drop", "stop"),
    ),
    Setting(
        "chat.context_threshold",
        "number",
        "Runs out at",
        "The share of the context at which that happens: 0.8 is 80 %.",
        default=0.8,
        minimum=0.3,
        maximum=0.95,
    ),
    Setting(
        "history.save",
        "switch",
        "Keep chats",
        "Off: from the next start on, chats are forgotten. What is kept already stays.",
        default=True,
    ),
    Setting(
        "cache.snapshots",
        "switch",
        "Remember what was read",
        "Keeps the model's state of long chats on disk: they go on at once. From the next start.",
        default=True,
    ),
    Setting(
        "cache.limit_gb",
        "number",
        "At most, in GB",
        "What those states may take on disk. The chat not used for longest goes first.",
        default=2.0,
        minimum=0.1,
        maximum=1000,
    ),
    Setting(
        "interface.theme",
        "choice",
        "Theme",
        "Dark, light, high contrast, or ansi: only the sixteen colours of your terminal.",
        default=THEMES[0],
        choices=THEMES,
    ),
    Setting(
        "interface.sidebar",
        "choice",
        "List of chats",
        "auto shows it where the window is wide enough.",
        default="auto",
        choices=("auto", "shown", "hidden"),
    ),
    Setting(
        "interface.wrap_code",
        "switch",
        "Wrap code",
        "Long lines of code continue below; off, they are scrolled sideways. Copies never wrap.",
        default=False,
    ),
    Setting(
        "interface.notify",
        "switch",
        "Notify",
        "Tell the desktop when a long job ends while another window is in front.",
        default=True,
    ),
    Setting(
        "tools.use",
        "switch",
        "Offer tools",
        "Let the model use tools in chats: nothing that writes or sends runs without asking you.",
        default=True,
    ),
    Setting(
        "tools.free_reading",
        "switch",
        "Read without asking",
        "Tools that only read, such as the calculator or a search in your notes, need no leave.",
        default=False,
    ),
    Setting(
        "tools.folders",
        "lines",
        "Folders",
        "Tools may read files below these folders, one on a line; unset lets them read none.",
    ),
    Setting(
        "tools.file",
        "text",
        "Your own tools",
        "A Python file with tools of your own; docs/tools.md says how they are written.",
    ),
    Setting(
        "tools.style",
        "choice",
        "Manner of calling",
        "How calls are asked for. auto takes what the model was trained on.",
        default="auto",
        choices=("auto", "two-step", "hermes", "smollm2", "llama3", "paper"),
    ),
    Setting(
        "tools.adapter",
        "text",
        "Adapter for calls",
        "On while calls are asked for: auto is the newest that fits the model; none, or a name.",
        default="auto",
    ),
    Setting(
        "model.default",
        "text",
        "Model",
        "Which one `mobilellm` starts with: a name of `mobilellm models list` or a directory.",
    ),
    Setting(
        "model.adapter",
        "text",
        "Adapter",
        "Which one new chats begin with, from the next start on: a name of "
        "`mobilellm adapters list`.",
    ),
)

_BY_KEY = {setting.key: setting for setting in SCHEMA}


def find(key: str) -> Setting:
    """The setting called ``key``; those of presets, keys and servers are made as asked for.

    Raises:
        InvalidOption: there is none; the hint names the nearest.
    """
    if known := _BY_KEY.get(key):
        return known
    group, _, name = key.partition(".")
    if group == "presets" and name:
        if len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
            raise InvalidOption(
                f"{shown(name)} cannot be the name of a preset",
                f"use one line of at most {MAX_NAME} characters",
            )
        return Setting(key, "lines", name, "A system prompt to choose in a chat.")
    if group == "keys" and name:
        if not _BINDING.fullmatch(name) or len(name) > MAX_NAME:
            raise InvalidOption(
                f"{shown(name)} is not the name of an action", "they look like `chat.new`"
            )
        return Setting(key, "keys", name, "The keys of an action.")
    if group == "mcp" and name:
        check_name(name)
        return Setting(key, "server", name, "A program that gives tools.")
    near = close(key, (*_BY_KEY, *GROUPS))
    raise InvalidOption(
        f"there is no setting {shown(key)}",
        f"did you mean `{near}`?" if near else "the settings screen shows all of them",
    )
