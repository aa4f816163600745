"""Lists and tables drawn by one widget each.

Textual's own are made of three widgets for every item and one for every cell, and the last item or
row is made anew with every piece of text that arrives. Drawn as rows of contents they cost what a
paragraph costs, which is what lets a fast model stream into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.content import Content
from textual.css.styles import RulesMap
from textual.geometry import Offset
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBulletList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
    MarkdownTable,
)

GAP = 2
"""Cells between two columns of a table."""
MIN_COLUMN = 4
"""No column of a table is made narrower than this, even if it then is cut."""


@dataclass(frozen=True, slots=True)
class Row:
    """Contents side by side; the text between two of them when they are copied is ``joint``."""

    cells: tuple[Content, ...]
    joint: str = ""
    rule: bool = False
    """A line is drawn below it."""
    gap: bool = False
    """An empty line is drawn below it."""

    @property
    def text(self) -> str:
        """The row as it is copied; one line, unless a cell holds several."""
        return self.joint.join(cell.plain for cell in self.cells)


# Style sheets find a widget by its first base class, so what is shared must not be a widget.
if TYPE_CHECKING:
    _Block = MarkdownBlock
else:
    _Block = object

Columns = Callable[[Row, int], Sequence[int]]
"""The widths of a row's cells in a total width."""


class Rows(Visual):
    """Rows below each other, every cell wrapped in its own column."""

    def __init__(self, rows: Sequence[Row], columns: Columns) -> None:
        self.rows = tuple(rows)
        self._columns = columns

    @property
    def text(self) -> str:
        """All of it, as it is copied."""
        return "\n".join(row.text for row in self.rows)

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:
        return container_width

    def get_height(self, rules: RulesMap, width: int) -> int:
        return sum(
            max((c.get_height(rules, w) for c, w in self._placed(row, width)), default=0)
            + row.rule
            + row.gap
            for row in self.rows
        )

    def render_strips(
        self, width: int, height: int | None, style: Style, options: RenderOptions
    ) -> list[Strip]:
        strips: list[Strip] = []
        line = 0
        for row in self.rows:
            strips += self._render_row(row, line, width, style, options)
            if row.rule:
                rule = style + options.get_style(".row-rule")
                widths = [w for _, w in self._placed(row, width)]
                drawn = (" " * GAP).join("─" * w for w in widths)
                strips.append(Strip([Segment(drawn, rule.rich_style)]))
            if row.gap:
                strips.append(Strip.blank(width, style.rich_style))
            line += row.text.count("\n") + 1
        return strips if height is None else strips[:height]

    def _placed(self, row: Row, width: int) -> list[tuple[Content, int]]:
        return list(zip(row.cells, self._columns(row, width), strict=True))

    def _render_row(
        self, row: Row, line: int, width: int, style: Style, options: RenderOptions
    ) -> list[Strip]:
        """The row's cells side by side; text knows its place in ``self.text``."""
        placed = self._placed(row, width)
        columns: list[list[Strip]] = []
        at = 0
        for cell, cell_width in placed:
            own = RenderOptions(
                options.get_style,
                options.rules,
                _moved(options.selection, -at, -line),
                options.selection_style,
                options.post_style,
            )
            drawn = cell.render_strips(cell_width, None, style, own)
            columns.append([_relocated(strip, at, line) for strip in drawn])
            at += len(cell.plain) + len(row.joint)
        gap = Strip.blank(GAP if row.joint else 0, style.rich_style)
        lines = []
        for y in range(max(map(len, columns), default=0)):
            parts: list[Strip] = []
            for column, (_, cell_width) in zip(columns, placed, strict=True):
                part = column[y] if y < len(column) else Strip.blank(0)
                parts += [part.adjust_cell_length(cell_width, style.rich_style), gap]
            lines.append(Strip.join(parts))
        return lines


def _moved(selection: Selection | None, x: int, y: int) -> Selection | None:
    """The selection as a cell sees it, whose text begins somewhere inside the whole."""
    if selection is None:
        return None
    start, end = (
        None if at is None else Offset(at.x + (x if at.y + y == 0 else 0), at.y + y)
        for at in selection
    )
    if start is not None and start.x < 0:
        start = Offset(0, start.y)
    if end is not None and end.y == 0 and end.x < 0:
        end = Offset(0, end.y)
    return Selection(start, end)


def _relocated(strip: Strip, x: int, y: int) -> Strip:
    """The strip with the places that the mouse finds in it, counted in the whole text."""
    segments = []
    for text, style, control in strip:
        if style is not None and style._meta is not None and "offset" in (meta := style.meta):
            at_x, at_y = meta["offset"]
            moved = (at_x + (x if at_y == 0 else 0), at_y + y)
            style += RichStyle.from_meta({"offset": moved})
        segments.append(Segment(text, style, control))
    return Strip(segments, strip.cell_length)


def take_apart(block: MarkdownBlock) -> None:
    """Free a block that was parsed and will never be mounted.

    Widgets refer to themselves in circles, and a fast model makes thousands of blocks that live
    only until they are compared with what is there: finding those takes the garbage collector
    longer than an update may take.
    """
    for inner in block._blocks:
        take_apart(inner)
    vars(block).clear()


class RowsBlock(_Block):
    """A block of Markdown that is drawn as rows instead of being composed of widgets."""

    rows: Rows | None = None

    def make_rows(self) -> Rows | None:
        """What to draw; None when it holds something that only widgets can show."""
        raise NotImplementedError

    def adopt(self) -> bool:
        """Draw the blocks that the parser put into this one; says whether that is possible."""
        if self.rows is None and (rows := self.make_rows()) is not None:
            self.rows = rows
            for block in self._blocks:
                take_apart(block)
            self._blocks.clear()
            self.update(rows)
        return self.rows is not None

    def compose(self) -> Any:
        if not self.adopt():
            yield from super().compose()

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        """More of the same block has come: draw that instead, without making a widget."""
        if type(block) is type(self) and self.rows is not None:
            assert isinstance(block, RowsBlock)
            if (rows := block.make_rows()) is not None:
                self.rows = rows
                self._copy_context(block)
                self.update(rows)
                return
        await super()._update_from_block(block)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return (selection.extract(self.rows.text), "\n") if self.rows is not None else None


def _list_columns(row: Row, width: int) -> Sequence[int]:
    mark = row.cells[0].cell_length
    return (mark, max(1, width - mark))


def _list_rows(block: MarkdownBlock, indent: int = 0) -> Iterable[Row]:
    """A list's items, those of lists inside it indented.

    Raises:
        TypeError: an item holds more than text and lists.
    """
    items = [item for item in block._blocks if isinstance(item, MarkdownListItem)]
    marks = list(_marks(block, items))
    for item, mark in zip(items, marks, strict=True):
        blank = " " * len(mark)
        for n, part in enumerate(item._blocks):
            if isinstance(part, MarkdownParagraph):
                head = Content.styled(" " * indent + (blank if n else mark), "" if n else ".mark")
                yield Row((head, part._content))
            elif isinstance(part, MarkdownBulletList | MarkdownOrderedList):
                if n == 0:
                    yield Row((Content(" " * indent + mark), Content()))
                yield from _list_rows(part, indent + len(mark))
            else:
                raise TypeError(type(part))
        if not item._blocks:
            yield Row((Content.styled(" " * indent + mark, ".mark"), Content()))


def _marks(block: MarkdownBlock, items: Sequence[MarkdownListItem]) -> Iterable[str]:
    if not isinstance(block, MarkdownOrderedList):
        yield from (item.bullet for item in items)
        return
    start = int(items[0].bullet) if items and items[0].bullet.isdigit() else 1
    numbers = [f"{n}. " for n in range(start, start + len(items))]
    widest = max(map(len, numbers), default=0) + 1
    yield from (number.rjust(widest) for number in numbers)


class _ListBlock(RowsBlock):
    def make_rows(self) -> Rows | None:
        try:
            return Rows(list(_list_rows(self)), _list_columns)
        except TypeError:
            return None


class BulletListBlock(_ListBlock, MarkdownBulletList):
    """A list with bullets."""

    COMPONENT_CLASSES = {"mark"}  # noqa: RUF012


class OrderedListBlock(_ListBlock, MarkdownOrderedList):
    """A list with numbers."""

    COMPONENT_CLASSES = {"mark"}  # noqa: RUF012


class TableBlock(RowsBlock, MarkdownTable):
    """A table: its columns share the width, and long cells are wrapped."""

    COMPONENT_CLASSES = {"row-head", "row-rule"}  # noqa: RUF012

    def make_rows(self) -> Rows | None:
        headers, rows = self._get_headers_and_rows()
        count = len(headers)
        head = Row(tuple(h.stylize(".row-head") for h in headers), "\t", rule=True)
        body = [Row(tuple((*row, *[Content()] * count)[:count]), "\t") for row in rows if row]
        natural = [max(row.cells[n].cell_length for row in (head, *body)) for n in range(count)]
        return Rows([head, *body], lambda _, width: share_width(natural, width))


def share_width(natural: Sequence[int], width: int) -> list[int]:
    """Widths of columns that fit into ``width``: the widest ones give way first."""
    widths = [max(1, n) for n in natural]
    over = sum(widths) + GAP * len(widths) - width
    while over > 0:
        widest = max(widths, default=0)
        if widest <= MIN_COLUMN:
            break
        second = max((w for w in widths if w < widest), default=MIN_COLUMN)
        wide = [n for n, w in enumerate(widths) if w == widest]
        cut = max(1, min(widest - max(second, MIN_COLUMN), -(-over // len(wide))))
        for n in wide:
            widths[n] -= cut
            over -= cut
    return widths
