"""``mobilellm train check``: what a data set is like, before a model is trained on it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli.errors import print_error
from mobilellm_mlx.cli.shared import debug_option, require_text, resolve_model
from mobilellm_mlx.errors import DataError
from mobilellm_mlx.plain import printable
from mobilellm_mlx.training.config import options

if TYPE_CHECKING:
    from rich.text import Text

    from mobilellm_mlx.tokenizer import Tokenizer
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.data import Data, DataReport, Example
    from mobilellm_mlx.training.data.report import SplitReport

_PROBLEMS = 10
"""Lines that cannot be used of which each is shown."""
_EXAMPLES = 3
_BAR = 36
_PARTS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589"
_NARROW = 72
"""Columns below which a table has only what matters most."""
_PIECE_LINES, _EXAMPLE_LINES = 7, 18
"""Of an example, at most: of one piece of it, and in all."""


@dataclass(slots=True)
class _Problems:
    """Lines that cannot be used: the first few, and how many there are."""

    first: list[DataError] = field(default_factory=list)
    count: int = 0

    def add(self, error: DataError) -> None:
        self.count += 1
        if len(self.first) < _PROBLEMS:
            self.first.append(error)


def _setting(name: str, **told: Any) -> Callable[[Any], Any]:
    """An option for one setting of a training."""
    option = next(each for each in options() if each.name == name)
    least, most, help_ = (option.metadata[key] for key in ("least", "most", "help"))
    if option.metadata["choices"]:
        told["type"] = click.Choice(list(option.metadata["choices"]))
    elif isinstance(option.default, int | float):
        kind: Any = click.IntRange if isinstance(option.default, int) else click.FloatRange
        told |= {"type": kind(least, most), "metavar": "N" if kind is click.IntRange else "X"}
    else:
        told |= {"callback": require_text, "metavar": "TEXT"}
    shown = f"  [default: {option.default}]" if option.default != "" else ""
    return click.option(f"--{name.replace('_', '-')}", name, help=f"{help_}{shown}", **told)


@click.command("check")
@click.argument("data", callback=require_text)
@click.option("-m", "--model", metavar="MODEL", help="Name or directory; default smollm2-135m.")
@click.option("--recipe", callback=require_text, metavar="NAME", help="Settings to check with.")
@_setting("max_tokens")
@_setting("loss_on")
@_setting("valid_share")
@_setting("seed")
@_setting("system")
@_setting("template")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def check(data: str, model: str | None, recipe: str | None, as_json: bool, **values: Any) -> int:
    """Look at DATA before training on it.

    Shows how many examples and tokens there are and how long they are, what will be cut, what is
    there twice or on both sides of a split, and three examples as the model will see them; what it
    learns to say stands between the marks \u27e6 and \u27e7.

    DATA is a file of JSON lines, or a folder with `train.jsonl` and perhaps `valid.jsonl` and
    `test.jsonl`. Every line is an object with `messages`, `conversations`, `prompt` and
    `completion`, or `text`.
    """
    config = _config(recipe, {name: v for name, v in values.items() if v is not None})
    directory = resolve_model(model)
    problems = _Problems()
    try:
        found, tokenizer = _look(Path(data).expanduser(), directory, config, problems)
    except DataError as error:
        if as_json:
            click.echo(json.dumps({"data": data, "problems": _as_json([*problems.first, error])}))
            return 1
        _print_problems(problems)
        raise
    if as_json:
        click.echo(json.dumps(_everything(data, directory, found, tokenizer, problems), indent=2))
    else:
        _print_problems(problems)
        _print(Path(data).name or data, directory.name, found, tokenizer, problems)
    return 1 if problems.count else 0


def _config(recipe: str | None, values: dict[str, Any]) -> TrainConfig:
    from mobilellm_mlx.training.config import TrainConfig
    from mobilellm_mlx.training.recipes import load_recipe

    config = TrainConfig()
    if recipe is not None:
        config = config.merged(load_recipe(recipe).values)
    return config.merged(values)


def _look(
    path: Path, directory: Path, config: TrainConfig, problems: _Problems
) -> tuple[Data, Tokenizer]:
    """The data as a training would read it; of the model only its words are needed."""
    from mobilellm_mlx.loading import load_words
    from mobilellm_mlx.training.data import load_data

    words = load_words(directory)
    with _progress() as progress:
        found = load_data(
            path, words.tokenizer, words.template, words.stop_tokens, config, words.context_limit,
            problems.add, progress,
        )  # fmt: skip
    return found, words.tokenizer


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that is gone when it is full; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), TimeRemainingColumn(compact=True))
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _everything(
    data: str, directory: Path, found: Data, tokenizer: Tokenizer, problems: _Problems
) -> dict[str, Any]:
    from mobilellm_mlx.training.data import render_example

    return {
        "data": data,
        "sha256": found.sha256,
        "model": str(directory),
        "report": found.report.to_dict(),
        "unusable": problems.count,
        "problems": _as_json(problems.first),
        "examples": [
            {
                "source": each.source,
                "tokens": len(each),
                "learned": each.learned_count,
                "pieces": render_example(each, tokenizer),
            }
            for each in _chosen(found.train)
        ],
    }


def _as_json(errors: Sequence[DataError]) -> list[dict[str, str | None]]:
    return [{"message": error.message, "hint": error.hint} for error in errors]


def _print_problems(problems: _Problems) -> None:
    for error in problems.first:
        print_error(error.message, error.hint)
    if problems.count > len(problems.first):
        rest = problems.count - len(problems.first)
        click.echo(
            f"and {rest:,} more {'line' if rest == 1 else 'lines'} that cannot be used", err=True
        )
    if problems.count:
        click.echo(err=True)


def _print(data: str, model: str, found: Data, tokenizer: Tokenizer, problems: _Problems) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    width = min(console.width, 100)
    console.print(Text(printable(f"{data} for {model}"), style="bold"), soft_wrap=True)
    console.print()
    console.print(_table(found.report, width))
    console.print()
    for line in _histogram(found.report, width):
        console.print(line, soft_wrap=True)
    console.print()
    for line in _said(found.report, problems, width):
        console.print(line, soft_wrap=True)
    for example in _chosen(found.train):
        console.print()
        for line in _shown(example, tokenizer, width):
            console.print(line, soft_wrap=True)


def _table(report: DataReport, width: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    heads = ("", "examples", "tokens", "learned", "median", "longest", "cut", "left out")
    shown = len(heads) if width >= _NARROW else 4
    for at, head in enumerate(heads[:shown]):
        table.add_column(head, justify="right" if at else "left", header_style="dim")
    for name, split in report.splits.items():
        table.add_row(*[name, *_cells(split)][:shown])
    return table


def _cells(split: SplitReport) -> list[str]:
    return [
        f"{split.examples:,}",
        f"{split.tokens:,}",
        f"{split.learned / max(1, split.tokens):.0%}",
        f"{split.median:,}",
        f"{split.longest:,}",
        f"{split.cut:,}" if split.cut else "-",
        f"{split.left_out + split.unlearnable:,}" if split.left_out + split.unlearnable else "-",
    ]


def _histogram(report: DataReport, width: int) -> list[Text]:
    """A bar for each range of lengths; the one that the limit falls into says so."""
    from rich.text import Text

    bars = list(dropwhile(lambda bar: not bar[2], report.histogram))
    most = max((count for *_, count in bars), default=0)
    rows = [(f"{low:,}-{high - 1:,}", low, high, count) for low, high, count in bars]
    first = max((len(label) for label, *_ in rows), default=0)
    second = max((len(f"{n:,}") for *_, n in rows), default=0)
    room = max(8, min(_BAR, width - first - second - 26))
    lines = [Text("tokens of an example", style="dim")]
    for label, low, high, count in rows:
        line = Text(f"  {label:>{first}}  ", style="dim")
        line.append(f"{count:>{second},}  ", style="default not dim")
        line.append(_bar(count / most * room if most else 0), style="cyan not dim")
        if low <= report.max_tokens < high:
            line.append(f" cut at {report.max_tokens:,}", style="not dim")
        lines.append(line)
    return lines


def _bar(length: float) -> str:
    """Blocks of eighths; whatever is there at all is seen."""
    eighths = round(length * 8) or (1 if length else 0)
    rest = _PARTS[eighths % 8 - 1] if eighths % 8 else ""
    return "\u2588" * (eighths // 8) + rest


def _said(report: DataReport, problems: _Problems, width: int) -> list[Text]:
    """What is to be known, the worrying things first."""
    from rich.text import Text

    warnings = list(report.warnings)
    if problems.count:
        lines = "line is" if problems.count == 1 else "lines are"
        warnings.insert(0, f"{problems.count:,} {lines} broken; a training would not begin")
    marked = [("!", text, "yellow") for text in warnings]
    marked += [("\u00b7", text, "dim") for text in report.notes]
    if not warnings:
        marked.insert(0, ("\u2713", "nothing looks wrong", "green"))
    said = []
    for mark, text, style in marked:
        for at, line in enumerate(textwrap.wrap(printable(text), width - 3)):
            said.append(Text.assemble((f"{'' if at else mark:<3}", style), line))
    return said


def _chosen(examples: Sequence[Example]) -> list[Example]:
    """A few, from all over the file."""
    count = min(_EXAMPLES, len(examples))
    return [examples[at * len(examples) // count] for at in range(count)]


def _shown(example: Example, tokenizer: Tokenizer, width: int) -> list[Text]:
    """An example as the model sees it: what it only reads is dim, what it learns is marked."""
    from rich.text import Text

    from mobilellm_mlx.training.data import render_example

    cut = f", {example.cut:,} more cut" if example.cut else ""
    head = f"{example.source}  {len(example):,} tokens, {example.learned_count:,} learned{cut}"
    text = Text()
    for piece, learned in render_example(example, tokenizer):
        piece = _shortened(printable(piece), _PIECE_LINES, width - 2)
        text.append(f"\u27e6{piece}\u27e7" if learned else piece, style="" if learned else "dim")
    lines = []
    for line in text.split("\n", allow_blank=True):
        folded = line.wrap(_console(width), width - 2, tab_size=4)
        lines += [Text("  ").append_text(each) for each in folded or [Text()]]
    if len(lines) > _EXAMPLE_LINES:
        more = f"  \u2026 {len(lines) - _EXAMPLE_LINES + 1:,} more lines"
        lines[_EXAMPLE_LINES - 1 :] = [Text(more, style="dim")]
    return [Text(printable(head), style="bold"), *lines]


def _console(width: int) -> Any:
    from rich.console import Console

    return Console(width=width)


def _shortened(text: str, lines: int, width: int) -> str:
    """The beginning and the end of a text that would fill more lines."""
    rows = text.split("\n")
    if len(rows) > lines:
        half = lines // 2
        rows = [*rows[:half], f"\u2026 {len(rows) - 2 * half:,} lines \u2026", *rows[-half:]]
        text = "\n".join(rows)
    room = lines * width
    return text if len(text) <= room else f"{text[: room // 2]} \u2026 {text[-room // 2 :]}"
