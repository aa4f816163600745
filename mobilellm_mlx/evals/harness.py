"""EleutherAI's lm-eval with a model of ours: its tasks, its words, its scores.

lm-eval is an extra and imported late. Data of its tasks comes from the Hugging Face Hub, fetched by
lm-eval itself. Texts are given as its tasks word them, without a chat template.
"""

from __future__ import annotations

import importlib
import numbers
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.added_tokens import token_name
from mobilellm_mlx.decoding.likelihood import Row
from mobilellm_mlx.errors import InvalidInput, MobileLLMError
from mobilellm_mlx.evals.budget import within
from mobilellm_mlx.evals.choice.question import encode_pair
from mobilellm_mlx.evals.results import make_result, save_result
from mobilellm_mlx.evals.task import Request, Response, Subject, digest
from mobilellm_mlx.events import EvalSummary, Event, GenerationSummary, Judged, Notice, Progress
from mobilellm_mlx.loading import Words, load_words, read_json
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mobilellm_mlx.engine import Engine

_MAX_NAME = 100
HINT = "install it with `pip install 'lm-eval>=0.4.9'`"
ANSWER_TOKENS = 256
"""Most tokens of an answer where a task does not say; lm-eval's own figure."""
GROUP = 32
"""Most continuations of one context that are judged at once: tasks that compare sentences have
thousands that begin with nothing."""

Found = Mapping[str, Any]
"""What lm-eval returns."""


class _Stopped(Exception):
    """Somebody cancelled; lm-eval knows no other way to end early."""


def lm_eval(module: str = "") -> Any:
    """A module of lm-eval.

    Raises:
        InvalidInput: when it is not installed.
    """
    try:
        return importlib.import_module(f"lm_eval{module}")
    except ModuleNotFoundError as error:
        if error.name == "lm_eval":
            raise InvalidInput("lm-eval is not installed", HINT) from None
        raise InvalidInput(f"lm-eval cannot be imported: {error}", HINT) from error
    except ImportError as error:
        raise InvalidInput(f"lm-eval cannot be imported: {error}", HINT) from error


def first_tokens(directory: Path, words: Words) -> tuple[int, ...]:
    """What stands before a text that has nothing in front, so that its first token can be judged.

    The token that begins a text or, where there is none, the one that ends it: lm-eval's rule.
    """
    if words.tokenizer.prefix:
        return words.tokenizer.prefix
    named = read_json(directory / "tokenizer_config.json", missing={})
    for key in ("bos_token", "eos_token"):
        token = words.tokenizer.special.get(token_name(named.get(key)) or "")
        if token is not None:
            return (token,)
    return tuple(sorted(words.stop_tokens)[:1])


class HarnessModel:
    """What lm-eval asks of a model; ``as_lm`` makes it one in lm-eval's eyes.

    Args:
        engine: its model is in memory.
        tokenizer: of that model.
        first: see ``first_tokens``.
        tell: hears of progress.
        cancel: stops whatever is asked.
        max_bytes: that MLX may hold while it judges; None for what suits the backend.
    """

    cache_hook: Any
    """Set by lm-eval; keeps answers where it was asked to."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        first: tuple[int, ...],
        tell: Callable[[Event], None] = lambda event: None,
        cancel: threading.Event | None = None,
        max_bytes: int | None = None,
    ):
        super().__init__()
        assert engine.info is not None
        self._judge = within(engine, max_bytes)
        self._engine = engine
        self._info = engine.info
        self._tokenizer = tokenizer
        self._first = first
        self._shortened_count = 0
        self._tell = tell
        self._cancel = cancel or threading.Event()

    @property
    def tokenizer_name(self) -> str:
        """Names the words of this model among requests that lm-eval keeps."""
        return f"{self._info.model}-{self._info.fingerprint[:12]}".replace("/", "__")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """How likely continuations are after their contexts, those of one context in groups."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(request.args[0], []).append(number)
        whole = [self._row(*request.args) for request in requests]
        rows = [row.cut(self._info.context_limit) for row in whole]
        self._tell_cut(sum(one != other for one, other in zip(whole, rows, strict=True)))
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        numbers_of = [
            some[at : at + GROUP] for some in groups.values() for at in range(0, len(some), GROUP)
        ]
        for event in self._judged([[rows[at] for at in some] for some in numbers_of], "answers"):
            answers = zip(event.log_likelihoods, event.greedy, strict=True)
            for at, answer in zip(numbers_of[event.group], answers, strict=True):
                found[at] = answer
                self.cache_hook.add_partial("loglikelihood", requests[at].args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """How likely whole texts are, each token judged once and after all that fits before it."""
        windows = [self._windows(request.args[0]) for request in requests]
        owners = [at for at, rows in enumerate(windows) for _ in rows]
        found = [0.0] * len(requests)
        for event in self._judged([[row] for rows in windows for row in rows], "windows"):
            found[owners[event.group]] += event.log_likelihoods[0]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The likeliest way on from each context, up to one of the strings that end it.

        Raises:
            InvalidInput: when a task asks for random answers.
        """
        found: list[str] = []
        self._shortened_count = 0
        for request in requests:
            context, wishes = request.args
            found.append(self._continued(context, wishes))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
            self._tell(Progress("texts to write", len(found), len(requests), "items"))
        self._tell_cut(self._shortened_count)
        return found

    def _row(self, context: str, continuation: str) -> Row:
        try:
            if context.strip():
                return encode_pair(self._tokenizer, context, continuation)
            ids = self._tokenizer.encode(context + continuation)
            return Row((*self._first, *ids), len(ids))
        except ValueError as error:
            raise InvalidInput(f"a request of the task cannot be judged: {error}") from error

    def _windows(self, text: str) -> list[Row]:
        """Rows that judge each token of a text once; the last one reaches as far back as it can."""
        whole = (*self._first, *self._tokenizer.encode(text))
        limit = self._info.context_limit
        rows = []
        for begin in range(max(len(self._first), 1), len(whole), limit):
            end = min(begin + limit, len(whole))
            rows.append(Row(whole[max(0, end - limit - 1) : end], end - begin))
        return rows

    def _judged(self, groups: Sequence[Sequence[Row]], name: str) -> Iterator[Judged]:
        """Every group's likelihoods, in whatever order they come."""
        done = lost = 0
        self._tell(Progress(f"{name} to judge", 0, len(groups), "items"))
        for event in self._judge(groups, self._cancel):
            if not isinstance(event, Judged):
                self._tell(event)
                continue
            yield event
            done += 1
            lost += sum(not isfinite(value) for value in event.log_likelihoods)
            self._tell(Progress(f"{name} to judge", done, len(groups), "items"))
        if lost:
            self._tell(Notice(f"{lost} log-likelihoods are NaN or infinite: scores mean nothing"))
        if done < len(groups):
            raise _Stopped

    def _continued(self, context: str, wishes: Mapping[str, Any]) -> str:
        if wishes.get("do_sample") and wishes.get("temperature", 1.0) > 0:
            raise InvalidInput(
                "the task asks for random answers, and only the likeliest are given here",
                "choose another task, or one with `do_sample: false`",
            )
        until = wishes.get("until") or []
        stop = (until,) if isinstance(until, str) else tuple(text for text in until if text)
        named = ("max_gen_toks", "max_new_tokens", "max_tokens")
        given = (wishes[name] for name in named if wishes.get(name) is not None)
        asked = int(next(given, ANSWER_TOKENS))
        if asked < 1:
            return ""
        limit = self._info.context_limit
        most = min(asked, max(1, limit // 2))
        text = self._shortened(context, limit - most)
        options = GenerationOptions(max_tokens=most, stop=stop)
        *_, summary = self._engine.complete(text, options, self._cancel)
        assert isinstance(summary, GenerationSummary)
        if summary.stop_reason == "cancelled":
            raise _Stopped
        return summary.text

    def _shortened(self, text: str, tokens: int) -> str:
        """The end of a text, where all of it is too long."""
        ids = self._tokenizer.encode(text)
        room = tokens - len(self._tokenizer.prefix)
        if len(ids) <= room:
            return text
        self._shortened_count += 1
        return self._tokenizer.decode(ids[-room:])

    def _tell_cut(self, count: int) -> None:
        if count:
            were = "1 request was" if count == 1 else f"{count:,} requests were"
            self._tell(Notice(f"{were} longer than the context and lost the beginning"))


def as_lm(*values: Any) -> Any:
    """A ``HarnessModel`` that is also a model of lm-eval's class, which is known only by now."""
    base = lm_eval(".api.model").LM
    return type("HarnessModel", (HarnessModel, base), {})(*values)


@dataclass(frozen=True, slots=True)
class Asked:
    """What lm-eval is to run.

    Attributes:
        tasks: names of its tasks.
        include: a directory with tasks of the user's own.
        few_shot: examples before each question; None for what the task says.
        limit: the first so many documents of each task.
        max_bytes: that MLX may hold while it judges; None for what suits the backend.
    """

    tasks: Sequence[str]
    include: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    max_bytes: int | None = None


class HarnessJob:
    """A run of lm-eval, on a thread of its own so that its progress can be told.

    Args:
        engine: its model is in memory.
        asked: what to run.
        cancel: stops it.
    """

    def __init__(self, engine: Engine, asked: Asked, cancel: threading.Event):
        self._engine = engine
        self._asked = asked
        self._cancel = cancel
        self._out: queue.SimpleQueue[Event | Found | BaseException] = queue.SimpleQueue()
        self.found: Found | None = None
        """What lm-eval returned; there once the summary is."""

    @property
    def table(self) -> str:
        """The results as lm-eval prints them."""
        return "" if self.found is None else str(lm_eval(".utils").make_table(self.found))

    def events(self) -> Iterator[Event]:
        """Run it; ends with an ``EvalSummary``, and keeps a result of each task.

        Raises:
            InvalidInput: when lm-eval is not there, or gives up.
            MobileLLMError: whatever judging raises.
        """
        started = time.perf_counter()
        info = self._engine.info
        assert info is not None
        words = load_words(Path(info.path))
        first = first_tokens(Path(info.path), words)
        asked = self._asked.max_bytes
        model = as_lm(self._engine, words.tokenizer, first, self._out.put, self._cancel, asked)
        threading.Thread(target=self._run, args=(model,), name="lm-eval", daemon=True).start()
        while isinstance(item := self._out.get(), Event):
            yield item
        results: list[dict[str, Any]] = []
        if isinstance(item, Mapping):
            self.found = item
            elapsed = time.perf_counter() - started
            settings = {"mode": "lm-eval", "context": info.context_limit}
            subject = Subject(info.model, info.fingerprint, info.adapter, settings)
            results = list(kept(item, subject, elapsed))
        elif not isinstance(item, _Stopped):
            raise _told(item)
        yield EvalSummary(
            status="ok" if results else "cancelled",
            elapsed_s=time.perf_counter() - started,
            model=info.model,
            results=results,
        )

    def _run(self, model: Any) -> None:
        """On lm-eval's thread."""
        asked = self._asked
        try:
            include = str(asked.include) if asked.include else None
            found = lm_eval(".evaluator").simple_evaluate(
                model=model,
                tasks=list(asked.tasks),
                num_fewshot=asked.few_shot,
                limit=asked.limit,
                task_manager=lm_eval(".tasks").TaskManager(include_path=include),
            )
            self._out.put(found)
        except BaseException as error:
            self._out.put(error)


def _told(error: BaseException) -> BaseException:
    """An error of lm-eval's as one of ours; what it raises are all kinds of things."""
    if isinstance(error, MobileLLMError) or not isinstance(error, Exception):
        return error
    reason = error.args[0] if isinstance(error, KeyError) and error.args else error
    lines = str(reason).strip().splitlines() or ["no reason given"]
    told = InvalidInput(
        f"lm-eval gave up: {type(error).__name__}: {lines[0]}",
        "`lm-eval ls tasks` lists its tasks, and their data must be on the hub or in its cache; "
        "`--debug` shows where it was",
    )
    told.__cause__ = error
    return told


class HarnessTask:
    """A task of lm-eval's that was run, for a result of ours to be made of.

    Args:
        name: that lm-eval has for it.
        found: what lm-eval returned.
    """

    version = 1

    def __init__(self, name: str, found: Found):
        samples = found["samples"][name]
        # A name of a file of ours: those of a user's tasks may be anything.
        self.name = f"harness-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:_MAX_NAME]}"
        self.data_sha256 = digest([[one["doc_hash"], one["prompt_hash"]] for one in samples])
        self.settings = {
            "version": str(found.get("versions", {}).get(name)),
            "few_shot": found.get("n-shot", {}).get(name),
        }
        self._documents = found.get("n-samples", {}).get(name, {}).get("original")
        self._scores: dict[str, dict[str, float]] = {}
        for one in samples:
            scores = self._scores.setdefault(str(one["doc_id"]), {})
            for metric in one["metrics"]:
                if isinstance(one[metric], numbers.Real):  # others mean something only together
                    label = metric if one["filter"] == "none" else f"{metric},{one['filter']}"
                    scores[label] = float(one[metric])

    @property
    def available(self) -> int:
        """Of another version of lm-eval nothing is known but what was asked."""
        known = self._documents
        return known if isinstance(known, int) else len(self._scores)

    def requests(self, limit: int | None, seed: int) -> Sequence[Request]:
        return [Request(id, None) for id in self._scores][:limit]

    def score(self, request: Request, response: Response) -> dict[str, float]:
        return self._scores[request.id]


def kept(found: Found, subject: Subject, elapsed_s: float) -> Iterable[dict[str, Any]]:
    """Keep a result of each task; each as ``EvalResult.brief`` gives it, with lm-eval's figures.

    Args:
        found: what lm-eval returned.
        subject: who was judged.
        elapsed_s: of all tasks together; lm-eval does not tell them apart.
    """
    for name in found["samples"]:
        task = HarnessTask(name, found)
        requests = task.requests(None, 0)
        scores = {one.id: task.score(one, Response(one.id)) for one in requests}
        result = make_result(task, subject, 0, requests, scores, elapsed_s)
        figures = {
            key: float(value) if isinstance(value, numbers.Real) and isfinite(value) else str(value)
            for key, value in found["results"].get(name, {}).items()
        }
        yield {**result.brief(), "path": str(save_result(result)), "harness": figures}
