"""A training from its first line to the adapter in the registry, as a stream of events."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import ceil, isfinite
from pathlib import Path
from statistics import median
from typing import Any

from mobilellm_mlx.adapters.files import write_adapter
from mobilellm_mlx.adapters.identity import model_sha256
from mobilellm_mlx.adapters.record import AdapterInfo
from mobilellm_mlx.adapters.registry import Registry
from mobilellm_mlx.backend import backend, mx
from mobilellm_mlx.decoding import Generator
from mobilellm_mlx.errors import MobileLLMError, TrainingError
from mobilellm_mlx.events import (
    Event,
    GenerationSummary,
    MemoryEstimated,
    Notice,
    Sampled,
    TrainStarted,
    TrainStep,
    TrainSummary,
)
from mobilellm_mlx.loading import LoadedModel, load_model
from mobilellm_mlx.models.lora import LoraSpec, attach, count_parameters, find_modules
from mobilellm_mlx.models.uncached import packs
from mobilellm_mlx.options import GenerationOptions, LoadOptions
from mobilellm_mlx.training.checkpoint import WEIGHTS, Checkpoints, read_arrays
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.data import Data, data_sha256, load_data
from mobilellm_mlx.training.estimate import estimate_memory
from mobilellm_mlx.training.helping import digest, hear, tell
from mobilellm_mlx.training.loop import Trainer
from mobilellm_mlx.training.runs import Run
from mobilellm_mlx.training.workers import Workers, join_workers


def train(
    run: Run, *, resume: bool = False, force: bool = False, stop: threading.Event | None = None
) -> Iterator[Event]:
    """Train, and put the best of it into the registry; ends with a ``TrainSummary``.

    Args:
        run: what is trained on what.
        resume: go on from the newest checkpoint.
        force: although it may not fit the memory, or base or data have changed since the run began.
        stop: ends it after the present step, saved.

    Raises:
        MobileLLMError: one of its kinds; what was saved until then stays.
    """
    workers = join_workers()
    job = _Job(run, workers, resume, force, stop or threading.Event())
    with run.lock():
        workers.gather(tell(run, resume=resume, force=force))
        for event in job.events():
            run.note(event)
            yield event


def help_along() -> None:
    """Take part in the training of the first process: compute, and neither say nor write anything.

    Raises:
        WorkerLost: when another process has ended before the training has.
        MobileLLMError: one of its kinds, when this process cannot go on.
    """
    workers = join_workers()
    if workers.leads:
        raise TrainingError(
            "this process was told to help in a training, but there is no other one",
            "start all with `mlx.launch`, or unset `MLX_RANK`",
        )
    run, manner = hear(workers.gather("")[0])
    for _ in _Job(run, workers, manner["resume"], manner["force"], threading.Event()).events():
        pass


class _Job:
    """One training from loading to the end."""

    def __init__(
        self, run: Run, workers: Workers, resume: bool, force: bool, stop: threading.Event
    ):
        self._run, self._workers = run, workers
        self._resume, self._force, self._stop = resume, force, stop
        self._config = run.config
        self._speeds: list[float] = []
        self._peak = 0
        self._estimated = 0
        self._started = time.perf_counter()

    def events(self) -> Iterator[Event]:
        yield from self._require_same()  # a refusal is no end of the run
        trainer: Trainer | None = None
        try:
            with self._workers.together():
                loaded, data = self._load()
            self._workers.require_alike({"the tokens of the examples": _digest(data)})
            trainer = self._make_trainer(loaded, data)
            if self._resume and self._workers.leads:
                self._run.cut(trainer.state.step if trainer.resume() else -1)
            trainer.follow_first()
            yield from self._estimate(loaded, data, trainer)
            yield self._beginning(loaded, data, trainer)
            for event in trainer.run():
                if isinstance(event, TrainStep):
                    self._speeds.append(event.tok_per_s)
                    self._peak = max(self._peak, event.peak_memory_bytes)
                yield event
            yield from self._end(loaded, data, trainer)
        except MobileLLMError as error:
            yield replace(self._summary(trainer), status="error", reason="error",
                          error=error.message, hint=error.hint)  # fmt: skip
            raise

    # ---------------------------------------------------------------- before

    def _require_same(self) -> Iterator[Event]:
        """What changed since the run began is named, and refused unless forced."""
        run = self._run
        changed = []
        with self._workers.together():
            model, data = model_sha256(run.base.path), data_sha256(run.data.path)
        self._workers.require_alike({"the model": model, "the data": data})
        if model != run.base.sha256:
            changed.append(f"the model `{run.base.path}`")
        if data != run.data.sha256:
            changed.append(f"the data `{run.data.path}`")
        if self._resume and self._workers.leads:
            names = Checkpoints(run.checkpoints, self._config.to_dict()).changed_settings()
            changed += [f"the setting `{name}`" for name in names]
        if not changed:
            return
        what = " and ".join(changed)
        verb = "have" if len(changed) > 1 else "has"
        if not self._force:
            with self._workers.together():
                raise TrainingError(
                    f"{what} {verb} changed since the run `{run.name}` began",
                    "put it back, start a new run, or go on all the same with `--force`",
                )
        yield Notice(f"{what} {verb} changed since the run began")

    def _load(self) -> tuple[LoadedModel, Data]:
        config = self._config
        # Kernels for packed weights are for going forward only: the way back would be MLX's.
        is_full = config.method == "full"
        options = LoadOptions(compute="dense" if is_full else backend().default_compute)
        loaded = load_model(self._run.base.path, options)
        data = load_data(
            self._run.data.path, loaded.tokenizer, loaded.template, loaded.stop_tokens, config,
            loaded.context_limit,
        )  # fmt: skip
        if config.pack and not packs(loaded.model.config):
            raise TrainingError(
                f"`{self._run.base.name}` counts positions from the start of a row, so examples "
                "cannot share one",
                "train without `--pack`",
            )
        manner = data.manner
        loaded = replace(loaded, template=manner.template, stop_tokens=manner.stop_tokens)
        mx.random.seed(config.seed)
        if config.method == "full":
            loaded.model.unfreeze()
        else:
            attach(loaded.model, lora_spec(loaded.model, config))
        mx.eval(loaded.model.parameters())
        return loaded, data

    def _make_trainer(self, loaded: LoadedModel, data: Data) -> Trainer:
        prompts = data.samples[: self._config.samples]
        options = GenerationOptions(max_tokens=self._config.sample_tokens, temperature=0.0, seed=0)

        def sample(step: int) -> Iterator[Sampled]:
            if not self._workers.leads:
                return
            generator = Generator(loaded)
            for prompt in prompts:
                if self._stop.is_set():
                    return
                text = ""
                for event in generator.generate(prompt.tokens, options, self._stop):
                    if isinstance(event, GenerationSummary):
                        text = event.text
                if self._stop.is_set():  # it may be the beginning of an answer
                    return
                yield Sampled(step, prompt.text, text, prompt.expected)

        return Trainer(
            loaded.model,
            self._config,
            data.train,
            data.valid,
            Checkpoints(self._run.checkpoints, self._config.to_dict()),
            want=self._want,
            sample=sample,
            workers=self._workers,
        )

    def _want(self) -> Want:
        return "stop" if self._stop.is_set() else self._run.want()

    def _estimate(self, loaded: LoadedModel, data: Data, trainer: Trainer) -> Iterator[Event]:
        rows = ceil(self._config.batch_size / self._workers.size)
        config = replace(self._config, batch_size=rows)
        estimate = estimate_memory(loaded.model, config, [*data.train, *data.valid])
        self._estimated = estimate.total_bytes
        yield estimate
        with self._workers.together():
            if not estimate.fits and not self._force:
                raise TrainingError(_does_not_fit(estimate), _remedies(estimate))
        if not estimate.fits:
            yield Notice(_does_not_fit(estimate))
        mx.reset_peak_memory()

    def _beginning(self, loaded: LoadedModel, data: Data, trainer: Trainer) -> TrainStarted:
        return TrainStarted(
            run=self._run.name,
            path=str(self._run.path),
            model=self._run.base.name,
            method=self._config.method,
            trained_parameters=count_parameters(loaded.model),
            total_parameters=loaded.info.parameters,
            train_examples=len(data.train),
            valid_examples=len(data.valid),
            steps=trainer.steps,
            steps_per_epoch=trainer.steps_per_epoch,
            start_step=trainer.state.step,
            workers=self._workers.size,
        )

    # ---------------------------------------------------------------- after

    def _end(self, loaded: LoadedModel, data: Data, trainer: Trainer) -> Iterator[Event]:
        summary = self._summary(trainer)
        best = Checkpoints(self._run.checkpoints).best() if self._workers.leads else None
        (found,) = self._workers.sum_numbers(best is not None)
        state = trainer.state
        learned = state.step and (state.best_step or not data.valid)
        if found and learned and trainer.ended != "diverged":
            weights = read_arrays(best / WEIGHTS) if best else {}
            loaded.model.load_weights(list(weights.items()), strict=False)
            if data.test and trainer.ended != "stopped":
                trainer.follow_first()
                loss, _ = trainer.measure(data.test)
                summary = replace(summary, test_loss=loss if isfinite(loss) else None)
            if self._workers.leads:
                summary = replace(summary, adapter=self._publish(loaded, data, weights, summary))
        if trainer.ended == "diverged":
            summary = replace(
                summary,
                status="error",
                error="the training went wrong four times, the last time with an eighth of the "
                "learning rate",
                hint="use a much smaller `--learning-rate`, and look at the data with "
                "`mobilellm train check`",
            )
        yield replace(summary, elapsed_s=time.perf_counter() - self._started)

    def _summary(self, trainer: Trainer | None) -> TrainSummary:
        run = self._run
        summary = TrainSummary(
            run=run.name, path=str(run.path), estimated_memory_bytes=self._estimated,
            peak_memory_bytes=self._peak,
            elapsed_s=time.perf_counter() - self._started,
        )  # fmt: skip
        if trainer is None:
            return summary
        state = trainer.state
        return replace(
            summary,
            status="cancelled" if trainer.ended == "stopped" else "ok",
            reason=trainer.ended,
            step=state.step,
            steps=trainer.steps,
            tokens=state.tokens,
            first_loss=_finite(state.first_loss),
            last_loss=_finite(state.last_loss),
            best_loss=_finite(state.best_loss),
            best_step=state.best_step,
            train_s=state.elapsed_s,
            tok_per_s=median(self._speeds) if self._speeds else 0.0,
        )

    def _publish(
        self, loaded: LoadedModel, data: Data, weights: dict[str, mx.array], summary: TrainSummary
    ) -> str:
        """Put the best weights into the registry under the run's name; the name it got."""
        run, config = self._run, self._config
        registry = Registry()
        spec = None if config.method == "full" else lora_spec(loaded.model, config)
        info = AdapterInfo(
            name=run.name,
            method=config.method,
            rank=spec.rank if spec else 0,
            scale=spec.scale if spec else 0.0,
            dropout=config.dropout if spec else 0.0,
            keys=spec.paths if spec else None,
            per_run=config.per_run,
            base_name=run.base.name,
            base_sha256=run.base.sha256,
            data_name=run.data.path.name,
            data_sha256=run.data.sha256,
            config={**config.to_dict(), "learning_rate": config.rate},
            scores=_scores(summary),
            licence=run.base.licence,
            run=f"{run.name} {run.created.isoformat()}",
            tools=_tools(config),
            stop_token=data.manner.end or "",
        )
        scratch = Path(tempfile.mkdtemp(prefix=".adapter.", dir=run.path))
        try:
            network = loaded.model.config
            write_adapter(scratch / "new", info, weights, network, data.manner.source)
            return _keep(registry, scratch / "new", run.name, info.run)
        finally:
            with suppress(OSError):
                shutil.rmtree(scratch)


def lora_spec(model: Any, config: TrainConfig) -> LoraSpec:
    """What a configuration attaches to a network.

    Raises:
        ConfigError: when it names modules or blocks that are not there.
    """
    assert config.method != "full"
    paths = find_modules(model, config.modules, config.layers)
    return LoraSpec(config.method, config.rank, config.scale, paths, config.dropout, config.per_run)


def _digest(data: Data) -> str:
    return digest((data.train, data.valid, data.test))


def _scores(summary: TrainSummary) -> dict[str, Any]:
    names = ("first_loss", "best_loss", "best_step", "last_loss", "test_loss", "step", "tokens")
    found = {name: getattr(summary, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _keep(registry: Registry, directory: Path, name: str, run: str) -> str:
    """Add an adapter under a name, in place of an earlier one of the same run; the name it got."""
    earlier = registry.kept(name)
    if earlier is not None and not earlier.shipped and earlier.run == run:
        return registry.add(directory, name, replacing=True).name
    return registry.add(directory, registry.free_name(name)).name


def _tools(config: TrainConfig) -> dict[str, Any] | None:
    """What a chat has to know to use the adapter for calls."""
    if config.tool_format == "auto":
        return None
    return {"style": config.tool_format, "only_calls": config.only_calls}


def _finite(number: float | None) -> float | None:
    return number if number is not None and isfinite(number) else None


def _does_not_fit(estimate: MemoryEstimated) -> str:
    from mobilellm_mlx.errors import format_bytes

    return (
        f"the training needs about {format_bytes(estimate.total_bytes)} of memory, but there is "
        f"{format_bytes(estimate.available_bytes)}"
    )


def _remedies(estimate: MemoryEstimated) -> str:
    return "; ".join(estimate.remedies[:3]) or "close other programs, or use a smaller model"
