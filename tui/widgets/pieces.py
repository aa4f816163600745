"""Where a growing answer may be cut, so that what has been drawn is never drawn again.

Appending to a Markdown document costs what its last block costs, and its layout costs what all of
its blocks cost. So an answer is a row of documents: only the last one grows. It is sealed where a
new block begins; a block that does not end (small models like to go round in circles) is broken
where it can be done without a trace, or nearly so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

SEAL_AT = 1_600
"""Characters from which on a document ends with its next block."""
BREAK_AT = 2_000
"""Characters from which on a block is broken."""

STRIDE = 400
"""Steps in which a complete text is looked at, as if it came in such pieces."""

_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]")


def make_parser() -> MarkdownIt:
    """GitHub's dialect; HTML stays visible text, and an image is shown as a link to it."""
    parser = MarkdownIt("gfm-like", {"html": False}).disable("image")
    parser.core.ruler.push("breaks", _keep_line_ends)
    return parser


def _keep_line_ends(state: StateCore) -> None:
    """A line that a model ends is a line: poems and addresses are not run together."""
    for block in state.tokens:
        for token in block.children or ():
            if token.type == "softbreak":
                token.type = "hardbreak"


@dataclass(frozen=True, slots=True)
class Cut:
    """An answer's last document in two.

    Attributes:
        sealed: the document that is complete; where a code block was broken, with an end for it.
        rest: the document that grows from now on, with a beginning for what was broken.
        at: how much of the text lies before the cut.
        joined: whether one block goes on across the cut.
        again: how ``rest`` begins where that is not the text's own: the first line of a code
            block that was broken, or the head of a table.
    """

    sealed: str
    rest: str
    at: int
    joined: bool = False
    again: str = ""

    @property
    def is_code(self) -> bool:
        """Whether a block of code goes on across the cut."""
        return self.again.lstrip()[:3] in ("```", "~~~")


class Cutter:
    """Looks at a document while it grows; only its last block is read again."""

    def __init__(self) -> None:
        self._parser = make_parser()
        self._last = 0

    def look(self, text: str) -> Cut | None:
        """Where to cut the document now, if that is due. It must be the one seen before, longer."""
        if len(text) <= SEAL_AT:
            return None
        tail = text[self._last :]
        tops = [t for t in self._parser.parse(tail) if t.level == 0 and t.map and t.nesting >= 0]
        if not tops:
            return None
        last = tops[-1]
        self._last += _offset(tail, last.map[0] if last.map else 0)
        if self._last >= SEAL_AT // 2:
            return Cut(text[: self._last], text[self._last :], self._last)
        if len(text) - self._last > BREAK_AT:
            return _break(text, self._last, last)
        return None


def _offset(text: str, line: int) -> int:
    at = 0
    for _ in range(line):
        at = text.find("\n", at) + 1
    return at


def _break(text: str, start: int, block: Token) -> Cut:
    """Cut inside the block that begins at ``start``."""
    line_end = text.find("\n", start)
    first_line = text[start : line_end + 1]
    newline = text.rfind("\n") + 1
    if block.type == "fence" and newline > start + len(first_line):
        closing = re.sub(r"[^`~].*", "", first_line.strip()) + "\n"
        return Cut(text[:newline] + closing, first_line + text[newline:], newline, True, first_line)
    if block.type == "table_open":
        head_end = text.find("\n", line_end + 1) + 1
        if newline > head_end > 0:
            head = text[start:head_end]
            return Cut(text[:newline], head + text[newline:], newline, True, head)
    if block.type.endswith("_list_open"):
        for at in reversed([m.end() for m in re.finditer("\n", text[start:])]):
            if _ITEM.match(text, start + at):
                return Cut(text[: start + at], text[start + at :], start + at, True)
    space = text.rfind(" ", start + 1) + 1
    at = max(newline if newline > start + 1 else 0, space) or len(text)
    return Cut(text[:at], text[at:], at, True)


def split(text: str) -> list[Cut]:
    """A complete text as documents; the ``rest`` of the last one is the last document.

    Empty when the text is short enough to be one document.
    """
    cuts: list[Cut] = []
    rest = text
    while True:
        cutter = Cutter()
        found = None
        for end in range(SEAL_AT + STRIDE, len(rest) + STRIDE, STRIDE):
            if (found := cutter.look(rest[:end])) is not None:
                break
        if found is None:
            return cuts
        seen = min(end, len(rest))
        rest = found.rest + rest[seen:]
        cuts.append(replace(found, rest=rest))
