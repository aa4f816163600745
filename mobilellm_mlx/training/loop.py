"""The one training loop: LoRA, DoRA and full fine-tuning differ in what is trainable.

A run is a function of its configuration, data and seed: which examples come when, what dropout
leaves out and how fast it goes follow from the number of the step. So a run that was killed goes on
from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mobilellm_mlx.backend import (
    allocation_errors,
    as_number,
    backend,
    mx,
    tree_flatten,
    tree_unflatten,
)
from mobilellm_mlx.errors import InsufficientMemory, TrainingError, WeightsError
from mobilellm_mlx.events import (
    CheckpointSaved,
    Event,
    RolledBack,
    Sampled,
    TrainEnd,
    TrainPaused,
    TrainStep,
    Validated,
)
from mobilellm_mlx.models import LanguageModel
from mobilellm_mlx.models.lora import adapted_modules
from mobilellm_mlx.models.uncached import make_uncached
from mobilellm_mlx.training.batches import Batch, Order, Row, in_order, make_batch
from mobilellm_mlx.training.checkpoint import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoints,
    TrainState,
    read_arrays,
    read_state,
)
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.control import Want
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.guard import complaint, forget
from mobilellm_mlx.training.loss import only_loss, summed_loss
from mobilellm_mlx.training.optimizer import (
    build_optimizer,
    gradient_norm,
    learning_rate,
    scaled,
)
from mobilellm_mlx.training.workers import WorkerLost, Workers

_POLL_S = 0.3
REMEDIES = (
    "use a smaller `--batch-size` (with `--accumulate` the steps stay the same), a smaller "
    "`--max-tokens`, or `--checkpoint-layers`"
)


class Trainer:
    """Trains what is trainable of a network.

    Args:
        model: with its adapters, or unfrozen.
        config: of the run.
        train: examples to learn from, at least one.
        valid: examples to judge by; may be empty.
        checkpoints: of the run.
        want: what the person wants, looked at between steps.
        sample: answers some prompts at a step.
        workers: the processes that share the work.
        compiled: whether steps are compiled; None where that pays.
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainConfig,
        train: Sequence[Example],
        valid: Sequence[Example],
        checkpoints: Checkpoints,
        *,
        want: Callable[[], Want] = lambda: "run",
        sample: Callable[[int], Iterator[Sampled]] = lambda step: iter(()),
        workers: Workers | None = None,
        compiled: bool | None = None,
    ):
        self._model, self._config = model, config
        self._train, self._valid = train, valid
        self._checkpoints, self._want, self._sample = checkpoints, want, sample
        self._workers = workers or Workers()
        self._order = Order(
            train, config.batch_size, config.seed, config.max_tokens if config.pack else None
        )
        self.steps_per_epoch = math.ceil(len(self._order) / config.accumulate)
        self.steps = config.steps or max(1, math.ceil(config.epochs * self.steps_per_epoch))
        self._validate_every = config.validation_interval(self.steps)
        self.state = TrainState()
        self.ended: TrainEnd = "finished"
        self._optimizer = build_optimizer(config)
        self._optimizer.init(model.trainable_parameters())
        self._step_s: list[float] = []
        self._saved_step: int | None = None
        model.model.recomputes = config.checkpoint_layers
        self._gradients = self._make_gradients(
            backend().name != "cpu" if compiled is None else compiled
        )

    # ---------------------------------------------------------------- going on

    def resume(self) -> bool:
        """Take up the newest checkpoint; whether there was one.

        Raises:
            TrainingError: when it is damaged or does not fit this training.
        """
        path = self._checkpoints.latest()
        if path is not None:
            self._take_up(path)
            if self._is_best:  # a kill may have come between the checkpoint and the word for it
                self._checkpoints.call_best(path)
        return path is not None

    def _take_up(self, path: Path) -> None:
        state = read_state(path)
        try:
            weights, optimizer = read_arrays(path / WEIGHTS), read_arrays(path / OPTIMIZER)
        except WeightsError as error:
            raise TrainingError(
                f"the checkpoint `{path}` is damaged: {error.message}",
                "remove it to use the one before",
            ) from error
        held = dict(tree_flatten(self._model.trainable_parameters()))
        fresh = dict(tree_flatten(self._optimizer.state))
        for found, wanted, what in (
            (weights, held, "a network with other trained parameters"),
            (optimizer, fresh, "another optimiser"),
        ):
            if _kinds(found) != _kinds(wanted):
                raise TrainingError(f"the checkpoint `{path}` is of {what}", "start a new run")
        if state.batch and state.batch >= len(self._order.epoch(state.epoch)):
            raise TrainingError(f"the checkpoint `{path}` is of other data", "start a new run")
        self._model.update(tree_unflatten(list(weights.items())))
        self._optimizer.state = tree_unflatten(list(optimizer.items()))
        mx.eval(self._model.trainable_parameters(), self._optimizer.state)
        self.state, self._saved_step = state, state.step

    def follow_first(self) -> None:
        """Stand where the first of the processes stands.

        Raises:
            WorkerLost: when another process has ended.
        """
        if self._workers.size == 1:
            return
        told = json.dumps({"state": asdict(self.state), "saved": self._saved_step})
        told = json.loads(self._workers.gather(told if self._workers.leads else "")[0])
        held = {"weights": self._model.trainable_parameters(), "optimizer": self._optimizer.state}
        given = self._workers.of_first(held)
        self._model.update(given["weights"])
        self._optimizer.state = given["optimizer"]
        self.state, self._saved_step = TrainState(**told["state"]), told["saved"]

    def run(self) -> Iterator[Event]:
        """All steps that are left, as they are done.

        Raises:
            InsufficientMemory: when the backend runs out of it.
            StorageError: when a checkpoint cannot be written.
            TrainingError: when the model cannot be judged.
            WorkerLost: when another process has ended; what was done until then is saved.
        """
        self._model.train()
        self.ended = "finished"
        try:
            with allocation_errors("training"):
                yield from self._steps()
        except InsufficientMemory as error:
            raise InsufficientMemory(error.message, REMEDIES) from error
        except WorkerLost:  # between two steps, or in one that has changed nothing yet
            yield from self._save()
            raise
        finally:
            self._model.eval()

    def _steps(self) -> Iterator[Event]:
        if self.state.step == 0 and self._saved_step is None:
            if self._agreed() == "stop":  # while it was loaded: there is nothing to save
                self.ended = "stopped"
                return
            yield from self._validate()
            if not self._goes_on():
                return
            yield from self._save()  # what an accident at the first steps goes back to
        while self.state.step < self.steps and self._goes_on():
            if self._config.patience and self.state.worse >= self._config.patience:
                self.ended = "early stop"
                return
            yield from self._heed()
            before = self.state.step
            if self._goes_on():
                yield from self._next_step()
            if not self._goes_on():
                return
            if self.state.step <= before:
                continue  # an accident led back
            done = self.state.step == self.steps
            if done or self.state.step % self._validate_every == 0:
                yield from self._validate()
                if self.state.step <= before or not self._goes_on():
                    continue
                yield from self._save()
            elif self._config.save_every and self.state.step % self._config.save_every == 0:
                yield from self._save()

    def _goes_on(self) -> bool:
        return self.ended == "finished"

    def _heed(self) -> Iterator[Event]:
        """Do what the person wants: the processes agree on it, and the first one decides."""
        wanted = self._agreed()
        if wanted == "pause":
            yield from self._save()
            yield TrainPaused(self.state.step)
            while (wanted := self._agreed()) == "pause":
                time.sleep(_POLL_S)
        if wanted == "stop":
            yield from self._save()
            self.ended = "stopped"

    def _agreed(self) -> Want:
        words: tuple[Want, ...] = ("run", "pause", "stop")
        own = words.index(self._want()) if self._workers.leads else 0
        (number,) = self._workers.sum_numbers(float(own))
        return words[int(number)]

    # ---------------------------------------------------------------- one step

    def _next_step(self) -> Iterator[Event]:
        started = time.perf_counter()
        state, config = self.state, self._config
        batches = self._order.epoch(state.epoch)
        group = batches[state.batch : state.batch + config.accumulate]
        gradients, loss_sum, learned, total = self._summed_gradients(group)
        gradients = self._workers.sum(gradients)
        loss_sum, learned, total = self._workers.sum_numbers(loss_sum, learned, total)
        gradients = scaled(gradients, 1 / max(1.0, learned))
        norm = gradient_norm(gradients)
        mx.eval(gradients, norm)
        loss, length = loss_sum / max(1.0, learned), as_number(norm)
        if wrong := complaint(state, loss, length):
            yield from self._roll_back(wrong, state.step + 1)
            return
        if config.clip and length > config.clip:
            gradients = scaled(gradients, config.clip / length)
        rate = learning_rate(config, state.step + 1, self.steps) * state.rate_factor
        self._optimizer.learning_rate = rate
        self._optimizer.update(self._model, gradients)
        mx.eval(self._model.trainable_parameters(), self._optimizer.state)
        del gradients
        state.step += 1
        state.tokens += int(learned)
        state.batch += len(group)
        epoch = state.epoch + state.batch / len(batches)
        if state.batch >= len(batches):
            state.epoch, state.batch = state.epoch + 1, 0
        spent = time.perf_counter() - started
        state.elapsed_s += spent
        yield TrainStep(
            step=state.step,
            epoch=epoch,
            loss=loss,
            learning_rate=rate,
            gradient_norm=length,
            tokens=state.tokens,
            tok_per_s=total / spent,
            memory_bytes=mx.get_active_memory(),
            peak_memory_bytes=mx.get_peak_memory(),
            elapsed_s=state.elapsed_s,
            left_s=self._left_s(spent),
        )

    def _summed_gradients(self, group: Sequence[Sequence[Row]]) -> tuple[Any, float, float, float]:
        """Of this process's share of some batches: gradients, loss, tokens learned and read."""
        summed: Any = None
        loss_sum, learned, total = 0.0, 0, 0
        for number, rows in enumerate(group):
            if not (own := self._workers.share(rows)):
                continue
            batch = make_batch(self._train, own, packed=self._config.pack)
            loss, gradients = self._gradients(self._key(number), *_arrays(batch))
            if summed is None:
                summed = gradients
            else:
                flat = dict(tree_flatten(gradients))
                added = [(name, array + flat[name]) for name, array in tree_flatten(summed)]
                summed = tree_unflatten(added)
            mx.eval(loss, summed)
            loss_sum += as_number(loss)
            learned += batch.learned
            total += batch.total
        if summed is None:  # fewer rows than processes
            flat = tree_flatten(self._model.trainable_parameters())
            summed = tree_unflatten([(name, mx.zeros_like(array)) for name, array in flat])
        if mx.get_cache_memory() > mx.get_active_memory():
            mx.clear_cache()
        return summed, loss_sum, learned, total

    def _key(self, number: int) -> mx.array:
        """Dropout follows from the place in the run, so that going on needs nothing remembered."""
        place = self.state.step * self._config.accumulate + number
        return mx.random.key((self._config.seed * 1_000_003 + place * self._workers.size
                              + self._workers.rank + 1) % 2**62)  # fmt: skip

    def _make_gradients(self, compiled: bool) -> Callable[..., tuple[mx.array, Any]]:
        model, chunk = self._model, self._config.loss_chunk
        dropouts = [module.dropout for _, module in adapted_modules(model)]

        def loss(
            parameters: Any,
            key: mx.array,
            tokens: mx.array,
            segments: mx.array | None,
            positions: mx.array,
            targets: mx.array,
            weights: mx.array,
        ) -> mx.array:
            model.update(parameters)
            if self._config.dropout:
                for dropout, own in zip(dropouts, mx.random.split(key, len(dropouts)), strict=True):
                    dropout.draw(own)
            hidden = model.hidden(tokens, make_uncached(model.config, segments))
            return summed_loss(model, hidden, positions, targets, weights, chunk)

        gradients: Callable[..., tuple[mx.array, Any]] = mx.value_and_grad(loss)
        if compiled:  # what is frozen is a constant to it
            gradients = mx.compile(gradients)

        def call(*arrays: mx.array | None) -> tuple[mx.array, Any]:
            parameters = model.trainable_parameters()
            found: tuple[mx.array, Any] = gradients(parameters, *arrays)
            model.update(parameters)  # tracing left its own arrays in the modules
            return found

        return call

    def _left_s(self, spent: float) -> float | None:
        """What is left to do, by the median of the newest steps; validations are left out."""
        self._step_s = [*self._step_s[-24:], spent]
        if len(self._step_s) < 3:
            return None
        return sorted(self._step_s)[len(self._step_s) // 2] * (self.steps - self.state.step)

    # ---------------------------------------------------------------- judging, saving, going back

    def measure(self, examples: Sequence[Example]) -> tuple[float, int]:
        """Mean loss over all learned tokens of some examples, and how many there are."""
        model = self._model
        model.eval()
        total, learned = 0.0, 0
        for rows in in_order(examples, self._config.batch_size):
            if not (own := self._workers.share(rows)):
                continue
            batch = make_batch(examples, own)
            hidden = model.hidden(batch.tokens, make_uncached(model.config))
            loss = only_loss(
                model, hidden, batch.positions, batch.targets, batch.weights,
                self._config.loss_chunk,
            )  # fmt: skip
            total += as_number(loss)
            learned += batch.learned
        model.train()
        total, count = self._workers.sum_numbers(total, learned)
        return total / max(1.0, count), int(count)

    def _validate(self) -> Iterator[Event]:
        if self._valid:
            started = time.perf_counter()
            loss, tokens = self.measure(self._valid)
            if not math.isfinite(loss):
                reason = "the loss on the validation examples is no number"
                if self._saved_step is None:
                    raise TrainingError(
                        f"{reason}, before anything was trained",
                        "see with `mobilellm chat` whether the model is sound, and with "
                        "`mobilellm train check` whether the data is",
                    )
                yield from self._roll_back(reason, self.state.step)
                return
            state = self.state
            climbs = state.last_loss is not None and loss > state.last_loss
            state.last_loss = loss
            if state.first_loss is None:
                state.first_loss = loss
            is_best = state.best_loss is None or loss < state.best_loss
            if is_best:
                state.best_loss, state.best_step, state.worse = loss, state.step, 0
            else:
                state.worse += 1
            spent = time.perf_counter() - started
            state.elapsed_s += spent
            assert state.best_loss is not None and state.best_step is not None
            yield Validated(
                step=state.step,
                loss=loss,
                is_best=is_best,
                best_loss=state.best_loss,
                best_step=state.best_step,
                tokens=tokens,
                elapsed_s=spent,
                is_overfitting=climbs and state.worse >= 2,
            )
        self._model.eval()
        yield from self._sample(self.state.step)
        self._model.train()

    def _save(self) -> Iterator[Event]:
        if self._saved_step == self.state.step:
            return
        self._saved_step = self.state.step
        if not self._workers.leads:
            return
        weights = dict(tree_flatten(self._model.trainable_parameters()))
        path = self._checkpoints.save(
            self.state, weights, self._optimizer.state, is_best=self._is_best
        )
        yield CheckpointSaved(self.state.step, str(path), self._is_best)

    @property
    def _is_best(self) -> bool:
        return self.state.best_step == self.state.step or not self._valid

    def _roll_back(self, reason: str, failed: int) -> Iterator[Event]:
        """Go back to where all was well with half the rate; the fourth time is the end.

        That is the best checkpoint: newer ones may be of a time when it had begun to go wrong.
        """
        tries, factor = self.state.tries_left - 1, self.state.rate_factor / 2
        path = None
        if self._workers.leads:
            path = (self._checkpoints.best() if self._valid else None) or self._checkpoints.latest()
        (found,) = self._workers.sum_numbers(path is not None)
        if tries < 0 or not found:
            self.ended = "diverged"
            return
        if path is not None:
            self._take_up(path)
        self.follow_first()
        forget(self.state)
        self.state.tries_left, self.state.rate_factor = tries, factor
        if path is not None:  # a kill must not bring the high rate back
            self._checkpoints.forget_after(self.state.step)
            self._checkpoints.amend(path, self.state)
        yield RolledBack(
            step=failed,
            to_step=self.state.step,
            reason=reason,
            learning_rate=self._config.rate * factor,
            tries_left=tries,
        )


def _kinds(arrays: Mapping[str, mx.array]) -> dict[str, tuple[Any, ...]]:
    """What tells arrays apart before they are used: their shapes, and whether they are floats."""
    return {n: (a.shape, mx.issubdtype(a.dtype, mx.floating)) for n, a in arrays.items()}


def _arrays(batch: Batch) -> tuple[mx.array | None, ...]:
    return batch.tokens, batch.segments, batch.positions, batch.targets, batch.weights
