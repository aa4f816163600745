"""The engine: one thread owns MLX, everybody else sees events.

Since MLX 0.31.2 streams belong to threads: an array made lazily in one cannot be evaluated in
another. So loading, prefill, decode and caches all live on the engine's thread, and only plain
Python values cross. The thread is not a daemon and gives its streams back when it ends: without
that, some runs abort when the interpreter exits.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from mobilellm_mlx.errors import EngineError
from mobilellm_mlx.events import Event, ModelLoaded
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions

if TYPE_CHECKING:
    from mobilellm_mlx.decoding import Generator

Work = Callable[[], Iterator[Event]]


class ChatEngine(Protocol):
    """What a session and the faces need of an engine; ``testing.ScriptedEngine`` is another one."""

    @property
    def info(self) -> ModelLoaded | None:
        """The model in memory; None before it is loaded."""

    @property
    def defaults(self) -> GenerationOptions:
        """The sampling that the model's makers recommend."""

    @property
    def template(self) -> str | None:
        """The model's chat template; None before it is loaded, and where it has none."""

    def load(self, directory: Path | None = None) -> Iterator[Event]:
        """Bring the model into memory; ends with ``ModelLoaded``.

        Args:
            directory: of another model, which takes the present one's place. One that does not fit
                is refused while the present one is still in memory, and after any failure it is
                the present one that answers.
        """

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
        grammar: Grammar | None = None,
        *,
        aside: bool = False,
    ) -> Iterator[Event]:
        """Answer a conversation; ends with a ``GenerationSummary``.

        Args:
            messages: what was said.
            options: sampling and stopping.
            cancel: stops the answer.
            begun: what the answer begins with, and goes on from: the ids that the model generated
                before, or a text, which is answer and no reasoning. Deltas and summary hold only
                what is new, and ``max_tokens`` counts only that.
            grammar: what the answer has to be; one that was cut is no whole one, and the summary
                says so.
            aside: a question beside the conversation, which must not make the engine forget what
                it has read of that.
        """

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Length of the prompt that ``chat`` makes of a conversation; from any thread.

        Raises:
            EngineError: while no model is in memory.
        """

    def complete(
        self,
        text: str,
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[Event]:
        """Continue plain text; ends with a ``GenerationSummary``."""

    def save_cache(self, path: Path) -> Iterator[Event]:
        """Write what the model has read of the last conversation; ends with a ``CacheSummary``."""

    def restore_cache(self, path: Path) -> Iterator[Event]:
        """Know again what ``save_cache`` wrote; ends with a ``CacheSummary``.

        A file that is missing, damaged, or of another model restores nothing, which is no error.
        """

    def close(self) -> None:
        """Stop what runs and give everything back."""


class Engine:
    """A model directory brought to life on a thread of its own.

    One job runs at a time; a second one waits. Iterators may be read from any thread; leaving one
    early cancels its job.

    Args:
        directory: a complete model directory.
        options: compute form and context.
    """

    def __init__(self, directory: Path, options: LoadOptions | None = None):
        self._directory = directory
        self._options = options or LoadOptions()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: _Job | None = None
        self._worker = _Worker(directory, self._options)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="mobilellm-engine")
        self._thread.start()

    @property
    def info(self) -> ModelLoaded | None:
        return self._worker.info

    @property
    def defaults(self) -> GenerationOptions:
        return self._worker.defaults

    @property
    def template(self) -> str | None:
        return self._worker.template

    def load(self, directory: Path | None = None) -> Iterator[Event]:
        return self._submit(lambda: self._worker.load(directory), threading.Event())

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        begun: str | Sequence[int] = (),
        grammar: Grammar | None = None,
        *,
        aside: bool = False,
    ) -> Iterator[Event]:
        cancel = cancel or threading.Event()
        said = tuple(messages)
        begun = begun if isinstance(begun, str) else tuple(begun)
        return self._submit(
            lambda: self._worker.chat(said, options, cancel, begun, grammar, aside), cancel
        )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return self._worker.count_tokens(messages)

    def complete(
        self,
        text: str,
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        grammar: Grammar | None = None,
    ) -> Iterator[Event]:
        cancel = cancel or threading.Event()
        return self._submit(lambda: self._worker.complete(text, options, cancel, grammar), cancel)

    def save_cache(self, path: Path) -> Iterator[Event]:
        return self._submit(lambda: self._worker.save_cache(path), threading.Event())

    def restore_cache(self, path: Path) -> Iterator[Event]:
        return self._submit(lambda: self._worker.restore_cache(path), threading.Event())

    def close(self) -> None:
        with self._lock:
            self._closed = True
        if running := self._running:
            running.cancel.set()
        self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self, work: Work, cancel: threading.Event) -> Iterator[Event]:
        job = _Job(work, cancel)
        with self._lock:  # no job may enter after the last one was taken out
            if self._closed:
                raise EngineError("the engine is closed", "start a new one")
            self._jobs.put(job)
        return _Events(job)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._running = job
            if self._closed:  # `close` may have looked before the line above
                job.cancel.set()
            job.run()
            self._running = None
            if self._closed:
                break
        with self._lock:
            self._closed = True
        while not self._jobs.empty():  # nobody may wait for a job that will not come
            if left := self._jobs.get():
                left.refuse()
        self._worker.close()

    def _next(self) -> _Job | None:
        """The next job; None when the engine was closed or its program has ended."""
        while True:
            try:
                return self._jobs.get(timeout=1)
            except queue.Empty:
                if not threading.main_thread().is_alive():
                    return None


def _forget_locals(error: BaseException | None) -> None:
    """Whoever keeps an error keeps its traceback, and with it would keep the weights."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class _Job:
    """Some work, its cancel flag, and the way its events take to the reader."""

    def __init__(self, work: Work, cancel: threading.Event):
        self.cancel = cancel
        self._work = work
        self._out: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def run(self) -> None:
        """On the engine's thread: put out every event, then an error or the end."""
        try:
            for event in self._work():
                self._out.put(event)
                if not threading.main_thread().is_alive():
                    self.cancel.set()  # the program is ending: it must not wait for an answer
        except BaseException as error:
            _forget_locals(error)
            self._out.put(error)
        self._out.put(None)

    def refuse(self) -> None:
        """End without having run."""
        self._out.put(EngineError("the engine was closed before this job ran"))

    def take(self) -> Event | BaseException | None:
        """On the reader's thread: wait for what comes next; None is the end."""
        return self._out.get()


class _Events:
    """What a reader holds: the events as they come; an error is raised here.

    A class and not a generator, because a generator that was never started has no end to notice.
    """

    def __init__(self, job: _Job):
        self._job: _Job | None = job

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> Event:
        item = self._job.take() if self._job else None
        if isinstance(item, Event):
            return item
        self._job = None  # at the end the flag stays as its owner left it
        raise item if item is not None else StopIteration

    def close(self) -> None:
        """No reader, no work."""
        if self._job is not None:
            self._job.cancel.set()
            self._job = None

    def __del__(self) -> None:
        self.close()


class _Worker:
    """The part of the engine that touches MLX; jobs run on the engine's thread.

    MLX is imported here and not above: an interface is on the screen before that is done.
    """

    def __init__(self, directory: Path, options: LoadOptions):
        self._directory = self._first = directory
        self._options = options
        self._generator: Generator | None = None
        self._touched_mlx = False
        self.info: ModelLoaded | None = None
        self.defaults = GenerationOptions()
        self.template: str | None = None

    def load(self, directory: Path | None) -> Iterator[Event]:
        if directory is not None and directory != self._directory:
            self._switch(directory)
        yield self._ready().info

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event,
        begun: str | Sequence[int],
        grammar: Grammar | None,
        aside: bool,
    ) -> Iterator[Event]:
        generator = self._ready()
        started = time.perf_counter()
        prompt = generator.chat_prompt(messages)
        yield from generator.generate(prompt, options, cancel, started, begun, grammar, aside=aside)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """On any thread: templates and tokenizers know nothing of MLX."""
        generator = self._generator
        if generator is None:
            raise EngineError("no model is in memory", "load one first")
        return len(generator.chat_prompt(messages))

    def complete(
        self,
        text: str,
        options: GenerationOptions,
        cancel: threading.Event,
        grammar: Grammar | None,
    ) -> Iterator[Event]:
        generator = self._ready()
        started = time.perf_counter()
        prompt = generator.text_prompt(text)
        yield from generator.generate(prompt, options, cancel, started, grammar=grammar)

    def save_cache(self, path: Path) -> Iterator[Event]:
        yield from self._ready().save_cache(path)

    def restore_cache(self, path: Path) -> Iterator[Event]:
        yield from self._ready().restore_cache(path)

    def close(self) -> None:
        if not self._touched_mlx:
            return
        from mobilellm_mlx.backend import mx

        self._generator = None
        mx.synchronize()
        mx.clear_streams()

    def _ready(self) -> Generator:
        return self._generator or self._bring(self._directory)

    def _options_for(self, directory: Path) -> LoadOptions:
        """What was asked for was asked of the first model."""
        return replace(self._options, clip_context=directory != self._first)

    def _bring(self, directory: Path) -> Generator:
        """Load a model; it is the present one once all of it is there."""
        from mobilellm_mlx.decoding import Generator
        from mobilellm_mlx.loading import load_model

        self._touched_mlx = True  # also when loading fails half-way
        loaded = load_model(directory, self._options_for(directory))
        generator = Generator(loaded)
        self._directory, self._generator = directory, generator
        self.defaults, self.info = loaded.defaults, loaded.info
        self.template = loaded.template.source if loaded.template else None
        return generator

    def _switch(self, directory: Path) -> None:
        """Put another model in the present one's place.

        Where there is room for both, the present one goes when the other is there. Otherwise it
        has to go first, and is loaded again by the next job should the other one fail.
        """
        from mobilellm_mlx.backend import mx
        from mobilellm_mlx.errors import InsufficientMemory
        from mobilellm_mlx.loading import plan_memory

        self._touched_mlx = True
        held = self._generator.nbytes if self._generator else 0
        plan = plan_memory(directory, self._options_for(directory), freed_bytes=held)
        if not plan.fits:
            raise InsufficientMemory(plan.arithmetic)
        if not plan.fits_beside:
            self._generator = None
            mx.clear_cache()
        try:
            self._bring(directory)
        finally:
            mx.clear_cache()
