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
from typing import TYPE_CHECKING, Literal, Protocol

from mobilellm_mlx.errors import EngineError, MobileLLMError
from mobilellm_mlx.events import Event, ModelLoaded, Notice
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions, LoadOptions

if TYPE_CHECKING:
    from mobilellm_mlx.adapters.wearing import Wardrobe
    from mobilellm_mlx.decoding import Generator
    from mobilellm_mlx.decoding.likelihood import Row

Work = Callable[[], Iterator[Event]]
Wearing = Path | Literal["same"] | None
"""Directory of the adapter to answer with; None for none."""


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
        adapter: Wearing = "same",
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
            adapter: of a question aside: the directory of another one than the conversation's, or
                None for the bare model.
        """

    def adapt(self, adapter: Path | None, *, force: bool = False) -> Iterator[Event]:
        """Put an adapter on the model, or take it off; ends with ``ModelLoaded``.

        The model itself stays in memory. After a failure all is as it was.

        Args:
            adapter: its directory; None takes off what is on.
            force: use it also when it was made for another model.
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
        adapter: directory of one that the model has on from the start.
        force_adapter: use it also when it was made for another model.
    """

    def __init__(
        self,
        directory: Path,
        options: LoadOptions | None = None,
        *,
        adapter: Path | None = None,
        force_adapter: bool = False,
    ):
        self._directory = directory
        self._options = options or LoadOptions()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: _Job | None = None
        self._worker = _Worker(directory, self._options, adapter, force_adapter)
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
        adapter: Wearing = "same",
    ) -> Iterator[Event]:
        if adapter != "same" and not aside:
            raise ValueError("a conversation is answered with the adapter that is on: see `adapt`")
        cancel = cancel or threading.Event()
        said = tuple(messages)
        begun = begun if isinstance(begun, str) else tuple(begun)
        return self._submit(
            lambda: self._worker.chat(said, options, cancel, begun, grammar, aside, adapter), cancel
        )

    def adapt(self, adapter: Path | None, *, force: bool = False) -> Iterator[Event]:
        return self._submit(lambda: self._worker.adapt(adapter, force), threading.Event())

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

    def judge(
        self,
        groups: Sequence[Sequence[Row]],
        cancel: threading.Event | None = None,
        *,
        batch_tokens: int | None = None,
    ) -> Iterator[Event]:
        """How likely the model finds the ends of sequences; a ``Judged`` for each group.

        Args:
            groups: of sequences; what all of a group begin with is read once.
            cancel: stops it after the batch that is being read.
            batch_tokens: to read at once; None for what suits the backend.
        """
        cancel = cancel or threading.Event()
        return self._submit(lambda: self._worker.judge(groups, cancel, batch_tokens), cancel)

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

    def __init__(
        self, directory: Path, options: LoadOptions, adapter: Path | None, force_adapter: bool
    ):
        self._directory = self._first = directory
        self._options = options
        self._adapter, self._forced = adapter, force_adapter
        self._generator: Generator | None = None
        self._beside: Generator | None = None
        """For questions aside with another adapter."""
        self._wardrobe: Wardrobe | None = None
        self._touched_mlx = False
        self._notices: list[Notice] = []
        self.info: ModelLoaded | None = None
        self.defaults = GenerationOptions()
        self.template: str | None = None

    def load(self, directory: Path | None) -> Iterator[Event]:
        if directory is not None and directory != self._directory:
            self._switch(directory)
        yield from self._tell(self._ready())

    def adapt(self, adapter: Path | None, force: bool) -> Iterator[Event]:
        self._put_on(self._ready(), adapter, force)
        yield from self._tell(self._ready())

    def _tell(self, generator: Generator) -> Iterator[Event]:
        """What there is to say about the model in memory."""
        notices, self._notices = self._notices, []
        yield from notices
        yield generator.info

    def chat(
        self,
        messages: Sequence[Message],
        options: GenerationOptions,
        cancel: threading.Event,
        begun: str | Sequence[int],
        grammar: Grammar | None,
        aside: bool,
        adapter: Wearing,
    ) -> Iterator[Event]:
        generator = self._ready() if adapter == "same" else self._ready_beside(adapter)
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

    def judge(
        self, groups: Sequence[Sequence[Row]], cancel: threading.Event, batch_tokens: int | None
    ) -> Iterator[Event]:
        from mobilellm_mlx.decoding.likelihood import judge_all

        model = self._ready().loaded.model
        yield from judge_all(model, groups, cancel, batch_tokens)

    def save_cache(self, path: Path) -> Iterator[Event]:
        yield from self._ready().save_cache(path)

    def restore_cache(self, path: Path) -> Iterator[Event]:
        yield from self._ready().restore_cache(path)

    def close(self) -> None:
        if not self._touched_mlx:
            return
        from mobilellm_mlx.backend import mx

        self._generator = self._beside = self._wardrobe = None
        mx.synchronize()
        mx.clear_streams()

    def _ready(self) -> Generator:
        """The conversation's generator, its adapter on."""
        generator = self._generator or self._bring(self._directory)
        assert self._wardrobe is not None
        self._wardrobe.wear(generator.loaded)
        return generator

    def _ready_beside(self, adapter: Path | None) -> Generator:
        """A generator for a question aside, its adapter on; the conversation's keeps its caches."""
        present = self._ready()
        assert self._wardrobe is not None
        loaded = self._wardrobe.dressed(adapter)
        if loaded is present.loaded:
            return present
        if self._beside is None or self._beside.loaded is not loaded:
            self._beside = present.sibling(loaded)
            self._wardrobe.keep_only(present.loaded, loaded)
        self._wardrobe.wear(loaded)
        return self._beside

    def _put_on(self, generator: Generator, adapter: Path | None, force: bool) -> None:
        """Have the conversation answered with an adapter; what was read with another is dropped."""
        assert self._wardrobe is not None
        loaded = self._wardrobe.dressed(adapter, force=force)
        self._adapter, self._forced = adapter, force
        if loaded is not generator.loaded:
            self._take(generator.sibling(loaded))
            self._beside = None
            self._wardrobe.wear(loaded)
            self._wardrobe.keep_only(loaded, spare=generator.loaded)
        if doubt := self._wardrobe.doubt(loaded):
            self._notices.append(Notice(doubt))

    def _take(self, generator: Generator) -> None:
        """From now on this one answers."""
        loaded = generator.loaded
        self._generator = generator
        self.defaults, self.info = loaded.defaults, loaded.info
        self.template = loaded.template.source if loaded.template else None

    def _options_for(self, directory: Path) -> LoadOptions:
        """What was asked for was asked of the first model."""
        return replace(self._options, clip_context=directory != self._first)

    def _bring(self, directory: Path) -> Generator:
        """Load a model; it is the present one once all of it is there.

        It has on what the one before had, if that fits. An adapter that cannot be used does not
        take the model with it.
        """
        from mobilellm_mlx.adapters.wearing import Wardrobe
        from mobilellm_mlx.decoding import Generator
        from mobilellm_mlx.loading import load_model

        self._touched_mlx = True  # also when loading fails half-way
        loaded = load_model(directory, self._options_for(directory))
        generator = Generator(loaded)
        is_other, self._directory = directory != self._directory, directory
        self._wardrobe, self._beside = Wardrobe(loaded), None
        self._take(generator)
        adapter, self._adapter = self._adapter, None
        if adapter is not None and is_other:
            self._keep_on(generator, adapter)
        elif adapter is not None:
            self._put_on(generator, adapter, self._forced)
        assert self._generator is not None
        return self._generator

    def _keep_on(self, generator: Generator, adapter: Path) -> None:
        """Put the adapter of the model before on this one, if it is for both."""
        from mobilellm_mlx.adapters import fits, read_info

        reason = "it is for another model"
        try:
            if fits(read_info(adapter), Path(generator.info.path)):
                self._put_on(generator, adapter, force=False)
                return
        except MobileLLMError as error:
            reason = error.message
        self._notices.append(Notice(f"The adapter {adapter.name} was taken off: {reason}."))

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
        held += self._beside.cache_bytes if self._beside else 0
        plan = plan_memory(directory, self._options_for(directory), freed_bytes=held)
        if not plan.fits:
            raise InsufficientMemory(plan.arithmetic)
        if not plan.fits_beside:
            self._generator = self._beside = self._wardrobe = None
            mx.clear_cache()
        try:
            self._bring(directory)
        finally:
            mx.clear_cache()
