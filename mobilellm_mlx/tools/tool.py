"""What a tool is, what calls it, and what comes of that; free of any way to do so."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

MAX_RESULT = 4_000
"""Characters of a result that a model is shown; small models lose the thread in more."""
DEFAULT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Call:
    """A tool's name and what it is to be run with."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for equal calls, however their arguments are ordered."""
        return json.dumps([self.name, self.arguments], sort_keys=True, ensure_ascii=False)


ScopeKind = Literal["any", "folder", "host", "app", "shortcut", "server"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What a call reaches: the part of the world that "always" would open.

    ``any`` with an empty value is all that the tool can do. A folder is an absolute path with no
    links in it; it covers everything below.
    """

    kind: ScopeKind = "any"
    value: str = ""

    def covers(self, other: Scope) -> bool:
        """Whether leave for this is leave for ``other``."""
        if self.kind == "any":
            return True
        if self.kind != other.kind:
            return False
        if self.kind == "folder":
            return other.value == self.value or other.value.startswith(self.value.rstrip("/") + "/")
        return self.value == other.value


Status = Literal[
    "ok", "denied", "invalid", "failed", "timeout", "cancelled", "cut", "repeated", "unavailable"
]
"""How a call ended. ``denied``: the person, or nobody there to ask; ``invalid``: arguments that the
tool does not take; ``cut``: the model was cut off in the middle of it; ``repeated``: it had been
made already in the same turn; ``unavailable``: not on this machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call. ``text`` is plain: no control characters, at most ``MAX_RESULT``."""

    status: Status
    text: str
    elapsed_s: float = 0.0
    is_shortened: bool = False
    """Whether the tool said more than ``text`` holds."""


@dataclass(frozen=True, slots=True)
class Example:
    """How somebody asks for a tool, and the call that is meant. Small models learn from these."""

    said: str
    arguments: dict[str, Any]


Heard = Callable[[str], Sequence[str]]
"""Reads the values that an argument could have out of what somebody said; none: it cannot tell."""
Live = Callable[[], Sequence[str]]
"""Gives the values that exist now; called when a call is about to be made, on any thread."""


class Run(Protocol):
    """Does what a tool does."""

    def __call__(self, arguments: Mapping[str, Any], cancel: threading.Event) -> str:
        """The result as text.

        Args:
            arguments: checked against the tool's schema.
            cancel: set when nobody waits any more.

        Raises:
            ToolError: says what went wrong in a sentence.
        """


def _everything(_: Mapping[str, Any]) -> Scope:
    return Scope()


@dataclass(frozen=True)
class Tool:
    """Something that a model can ask to be done.

    Attributes:
        name: ``[a-z][a-z0-9_]{0,63}``.
        description: one sentence in the imperative, for the model and the person.
        parameters: JSON Schema of the arguments: an object without additional properties.
        run: does it.
        reads_only: whether it changes nothing in the world and sends nothing out of this machine.
        source: ``builtin``, ``file:/path/of/tools.py`` or ``mcp:server``.
        live: of arguments that name real things: the values that exist. They become an enum when a
            call is made, so no other can be said.
        spoken: arguments that can only be words out of what the person said, such as the text of a
            note; a model that is bound to copy cannot invent.
        heard: of arguments that follow from the person's words: what they could be. Where it gives
            something, nothing else can be said. Our own tools only.
        cues: of arguments that may be left out: a regular expression for the words that ask for
            them, in any case. Where they are found a call must have the argument, and must not
            where they are not: small models leave out what they may. Our own tools only.
        examples: a few, shown to models that were not trained on tools.
        keywords: words that hint at the tool beside those of its name and description.
        describe: the call in words for the person who is to allow it; None writes it as code.
        scope: what a call reaches.
        check: more than a schema can say; returns the arguments as they will be used.
        answers: whether the result, when it went well, is a sentence fit for the person as it is;
            then no model needs to repeat it.
        timeout_s: seconds after which nobody waits any more.
        missing: why it cannot be used here, as a sentence; empty when it can.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Run
    reads_only: bool = False
    source: str = "builtin"
    live: Mapping[str, Live] = field(default_factory=dict)
    spoken: frozenset[str] = frozenset()
    heard: Mapping[str, Heard] = field(default_factory=dict)
    cues: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    keywords: tuple[str, ...] = ()
    describe: Callable[[Mapping[str, Any]], str] | None = None
    scope: Callable[[Mapping[str, Any]], Scope] = _everything
    check: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    answers: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S
    missing: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that a person was told when they allowed the tool."""
        said = [self.name, self.source, self.description, self.parameters, self.reads_only]
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]

    def words(self, arguments: Mapping[str, Any]) -> str:
        """A call in words; never fails, whatever the arguments are."""
        try:
            if self.describe is not None:
                return self.describe(arguments)
        except Exception:  # the arguments may be anything
            pass
        said = ", ".join(
            f"{name} = {json.dumps(v, ensure_ascii=False)}" for name, v in arguments.items()
        )
        return f"{self.name}({said})"


Duration = Literal["once", "session", "always", "reading"]
"""For how long leave is given; ``reading``: for every tool that only reads."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that waits for leave."""

    id: str
    tool: Tool
    call: Call
    words: str
    """The call in words."""
    scope: Scope
    rule: str
    """What "always" would store, in words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the person said to a request.

    Attributes:
        allowed: whether it may be run.
        duration: for how long such calls are allowed.
        arguments: as the person changed them; None leaves them.
        reason: why not, for the record: ``you``, or ``nobody was there to ask``.
    """

    allowed: bool
    duration: Duration = "once"
    arguments: dict[str, Any] | None = None
    reason: str = ""


Approve = Callable[[Request, threading.Event], Answer]
"""Asks a person, and waits for the answer; the flag is set when the turn is stopped."""


def deny(_: Request, __: threading.Event) -> Answer:
    """Where nobody can be asked, nothing is allowed."""
    return Answer(False, reason="there is no terminal to ask on")
