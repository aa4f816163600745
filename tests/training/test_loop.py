"""The training loop: exact, resumable, and calm when something goes wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from counting import counting, make_trainer

from mobilellm_mlx.backend import mx, tree_flatten
from mobilellm_mlx.errors import InsufficientMemory, StorageError, TrainingError
from mobilellm_mlx.events import (
    CheckpointSaved,
    RolledBack,
    Sampled,
    TrainPaused,
    TrainStep,
    Validated,
)
from mobilellm_mlx.training.checkpoint import Checkpoints
from mobilellm_mlx.training.config import TrainConfig

CONFIG = TrainConfig(
    learning_rate=1e-2, epochs=3.0, dropout=0.1, accumulate=2, batch_size=4, save_every=3
)


def steps_of(events):
    return [(e.step, e.loss, e.gradient_norm, e.learning_rate) for e in events
            if isinstance(e, TrainStep)]  # fmt: skip


def losses_of(events):
    return [(e.step, e.loss, e.best_loss) for e in events if isinstance(e, Validated)]


def test_a_run_that_was_cut_off_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = list(make_trainer(CONFIG, tmp_path / "a").run())
    broken = []
    for event in make_trainer(CONFIG, tmp_path / "b").run():
        broken.append(event)
        if isinstance(event, TrainStep) and event.step == 8:
            break  # as a kill would: step 8 is done and not saved
    again = make_trainer(CONFIG, tmp_path / "b")
    assert again.resume()
    assert again.state.step < 8
    rest = list(again.run())
    first = again_from = steps_of(rest)[0][0]
    assert again_from > 1
    assert steps_of(rest) == steps_of(whole)[first - 1 :]  # to the last bit
    assert losses_of(rest) == [one for one in losses_of(whole) if one[0] >= first]


@pytest.mark.parametrize("changed", [
    {"optimizer": "lion"}, {"optimizer": "muon"}, {"optimizer": "adafactor"}, {"optimizer": "sgd"},
    {"optimizer": "adam"}, {"method": "dora"}, {"method": "full", "learning_rate": 1e-3},
    {"pack": True, "max_tokens": 64}, {"checkpoint_layers": True},
])  # fmt: skip
def test_every_manner_of_training_goes_on_exactly(tmp_path, changed):
    config = CONFIG.merged({"epochs": 1.0, "save_every": 1, "learning_rate": 1e-3, **changed})
    whole = steps_of(make_trainer(config, tmp_path / "a").run())
    for event in make_trainer(config, tmp_path / "b").run():
        if isinstance(event, TrainStep) and event.step == 2:
            break
    again = make_trainer(config, tmp_path / "b")
    assert again.resume()
    assert steps_of(again.run()) == whole[1:]


def test_the_loss_goes_down(tmp_path):
    events = list(make_trainer(CONFIG.merged({"epochs": 8.0}), tmp_path).run())
    losses = [e.loss for e in events if isinstance(e, Validated)]
    assert losses[-1] < losses[0] - 0.8


def test_every_example_is_seen_once_an_epoch(tmp_path):
    train = counting(37, 1)
    config = CONFIG.merged({"epochs": 2.0})
    trainer = make_trainer(config, tmp_path, train=train)
    last = steps_of(trainer.run())[-1]
    assert last[0] == trainer.steps == 10  # 37 examples: ten batches of 4, two to a step
    assert trainer.state.tokens == 2 * sum(one.learned_count for one in train)
    assert (trainer.state.epoch, trainer.state.batch) == (2, 0)


def test_accumulating_is_one_batch_of_all(tmp_path):
    small = CONFIG.merged({"batch_size": 2, "accumulate": 20, "dropout": 0.0, "epochs": 1.0})
    large = CONFIG.merged({"batch_size": 40, "accumulate": 1, "dropout": 0.0, "epochs": 1.0})
    one, other = (steps_of(make_trainer(c, tmp_path / str(i)).run())
                  for i, c in enumerate((small, large)))  # fmt: skip
    assert len(one) == len(other) == 1
    assert one[0][1:3] == pytest.approx(other[0][1:3], rel=1e-5)


def test_packing_changes_where_examples_lie_and_not_their_loss(tmp_path):
    config = CONFIG.merged({"dropout": 0.0, "epochs": 1.0, "accumulate": 40})
    plain = steps_of(make_trainer(config, tmp_path / "a").run())
    packed = config.merged({"pack": True, "max_tokens": 100})
    assert steps_of(make_trainer(packed, tmp_path / "b").run())[0][1:3] == pytest.approx(
        plain[0][1:3], rel=1e-5
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_computing_blocks_twice_changes_nothing(tmp_path, dropout):
    config = CONFIG.merged({"dropout": dropout, "epochs": 1.0})
    plain = steps_of(make_trainer(config, tmp_path / "a").run())
    twice = config.merged({"checkpoint_layers": True})
    assert steps_of(make_trainer(twice, tmp_path / "b").run()) == plain


def test_compiled_steps_are_those_that_are_not(tmp_path):
    plain = steps_of(make_trainer(CONFIG, tmp_path / "a", compiled=False).run())
    compiled = steps_of(make_trainer(CONFIG, tmp_path / "b", compiled=True).run())
    assert [one[0] for one in compiled] == [one[0] for one in plain]
    for got, want in zip(compiled, plain, strict=True):
        assert got == pytest.approx(want, rel=1e-4)


def test_the_validation_looks_at_all_examples_every_time(tmp_path):
    valid = counting(9, 2)
    trainer = make_trainer(CONFIG, tmp_path, valid=valid)
    found = [e for e in trainer.run() if isinstance(e, Validated)]
    assert {e.tokens for e in found} == {sum(one.learned_count for one in valid)}
    alone = make_trainer(CONFIG.merged({"batch_size": 1}), tmp_path / "b", valid=valid)
    assert alone.measure(valid)[0] == pytest.approx(found[0].loss, rel=1e-5)


# -------------------------------------------------------------------- stopping, pausing, ending


def test_stopping_saves_the_present_step(tmp_path):
    wants = iter(["run", "run", "run", "stop"])
    trainer = make_trainer(CONFIG.merged({"save_every": 100}), tmp_path, want=lambda: next(wants))
    events = list(trainer.run())
    assert trainer.ended == "stopped"
    assert isinstance(events[-1], CheckpointSaved) or trainer.state.step == 2
    again = make_trainer(CONFIG, tmp_path)
    assert again.resume() and again.state.step == 2


def test_pausing_waits_with_everything_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("mobilellm_mlx.training.loop._POLL_S", 0.0)
    wants = iter(["run", "run", "pause", "pause", "pause"])
    config = CONFIG.merged({"validate_every": 100, "save_every": 0})
    trainer = make_trainer(config, tmp_path, want=lambda: next(wants, "run"))
    events = list(trainer.run())
    at = [type(e) for e in events].index(TrainPaused)
    assert events[at] == TrainPaused(1)
    assert [type(e) for e in events].count(TrainPaused) == 1
    assert isinstance(events[at - 1], CheckpointSaved) and events[at - 1].step == 1
    assert trainer.ended == "finished"


def test_a_run_that_gets_no_better_ends_early_and_keeps_the_best(tmp_path):
    config = CONFIG.merged({"patience": 2, "validate_every": 1, "learning_rate": 3e-2, "clip": 0.0,
                            "epochs": 40.0, "dropout": 0.0, "schedule": "constant"})  # fmt: skip
    # Judged by the opposite of what is taught, it can only get worse.
    wrong = [replace(one, tokens=type(one.tokens)("i", one.tokens[::-1])) for one in counting(9, 2)]
    trainer = make_trainer(config, tmp_path, valid=wrong)
    events = list(trainer.run())
    assert trainer.ended == "early stop"
    assert trainer.state.worse == 2
    best = min((e for e in events if isinstance(e, Validated)), key=lambda e: e.loss)
    path = Checkpoints(tmp_path).best()
    assert path is not None and int(path.name) == best.step == trainer.state.best_step
    again = make_trainer(config, tmp_path, valid=wrong)  # killed before the end was told
    assert again.resume()
    assert not steps_of(again.run()) and again.ended == "early stop"


def test_what_is_stopped_while_it_is_loaded_judges_nothing(tmp_path):
    trainer = make_trainer(CONFIG, tmp_path, want=lambda: "stop")
    assert list(trainer.run()) == []
    assert trainer.ended == "stopped"
    assert not make_trainer(CONFIG, tmp_path).resume()  # it begins with its first validation


def test_a_kill_before_the_best_is_pointed_at_does_not_lose_it(tmp_path, monkeypatch):
    config = CONFIG.merged({"validate_every": 3, "save_every": 0})
    trainer, point, told = make_trainer(config, tmp_path), Checkpoints._point, []

    def killed(self, name):
        told.append(name)
        if len(told) == 3:
            raise KeyboardInterrupt
        point(self, name)

    monkeypatch.setattr(Checkpoints, "_point", killed)
    with pytest.raises(KeyboardInterrupt):
        list(trainer.run())
    monkeypatch.undo()
    again = make_trainer(config, tmp_path)
    assert again.resume() and again.state.step == again.state.best_step == 6
    assert Checkpoints(tmp_path).best().name == "00000006"


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (9, 1), (11, 2), (19, 2), (40, 4)])
def test_a_run_left_to_itself_validates_ten_times_at_most(steps: int, every: int):
    assert TrainConfig().validation_interval(steps) == every
    assert TrainConfig(validate_every=7).validation_interval(steps) == 7


def test_samples_come_with_every_validation(tmp_path):
    asked = []

    def sample(step):
        asked.append(step)
        yield Sampled(step, "one two", "three")

    events = list(make_trainer(CONFIG, tmp_path, sample=sample).run())
    assert asked == [e.step for e in events if isinstance(e, Validated)]


# -------------------------------------------------------------------- when something goes wrong


def test_a_loss_that_is_no_number_rolls_back_and_halves_the_rate(tmp_path, monkeypatch):
    trainer = make_trainer(CONFIG, tmp_path)
    gradients, calls = trainer._gradients, []

    def spoilt(*arrays):
        loss, found = gradients(*arrays)
        calls.append(loss)
        return (loss * math.nan if len(calls) == 9 else loss), found

    trainer._gradients = spoilt
    events = list(trainer.run())
    [accident] = [e for e in events if isinstance(e, RolledBack)]
    assert "nan" in accident.reason
    assert accident.to_step < accident.step == 5
    assert accident.learning_rate == CONFIG.learning_rate / 2
    assert accident.tries_left == 2
    assert trainer.ended == "finished"
    steps = [e.step for e in events if isinstance(e, TrainStep)]
    assert steps.index(accident.to_step + 1, 4) == 4  # the step after the accident
    after = [e for e in events if isinstance(e, TrainStep)][4:]
    assert max(e.learning_rate for e in after) <= CONFIG.learning_rate / 2
    assert all(math.isfinite(e.loss) for e in after)


def test_a_broken_gradient_never_reaches_the_weights(tmp_path):
    trainer = make_trainer(CONFIG, tmp_path)
    gradients = trainer._gradients

    def spoilt(*arrays):
        loss, found = gradients(*arrays)
        return loss, {**found, "model": _nan(found["model"])}

    before = {n: mx.array(a) for n, a in tree_flatten(trainer._model.trainable_parameters())}
    trainer._gradients = spoilt
    events = list(trainer.run())
    assert trainer.ended == "diverged"
    assert [e.tries_left for e in events if isinstance(e, RolledBack)] == [2, 1, 0]
    after = dict(tree_flatten(trainer._model.trainable_parameters()))
    assert all(mx.array_equal(before[name], after[name]) for name in before)


def _nan(tree):
    if isinstance(tree, dict):
        return {name: _nan(each) for name, each in tree.items()}
    return [_nan(each) for each in tree] if isinstance(tree, list) else tree * math.nan


def test_a_rate_that_is_far_too_high_is_halved_until_it_is_given_up(tmp_path):
    config = CONFIG.merged({"method": "full", "learning_rate": 9.0, "clip": 0.0, "epochs": 40.0,
                            "warmup": 0.0, "dropout": 0.0})  # fmt: skip
    trainer = make_trainer(config, tmp_path)
    accidents = [e for e in trainer.run() if isinstance(e, RolledBack)]
    assert [e.learning_rate for e in accidents] == [4.5, 2.25, 1.125]
    assert "climbed" in accidents[0].reason or "nan" in accidents[0].reason
    assert trainer.ended == "diverged"
    best = Checkpoints(tmp_path).best()
    assert best is not None and int(best.name) == trainer.state.best_step


def test_a_kill_after_an_accident_does_not_bring_the_high_rate_back(tmp_path):
    config = CONFIG.merged({"method": "full", "learning_rate": 9.0, "clip": 0.0, "epochs": 40.0,
                            "warmup": 0.0})  # fmt: skip
    for event in make_trainer(config, tmp_path).run():
        if isinstance(event, RolledBack):
            break
    again = make_trainer(config, tmp_path)
    assert again.resume()
    assert (again.state.rate_factor, again.state.tries_left) == (0.5, 2)


def test_an_accident_never_leaves_a_run_without_a_checkpoint(tmp_path, monkeypatch):
    """Its only one is that of step 0, and a kill may come at any moment of the going back."""
    trainer = make_trainer(CONFIG.merged({"save_every": 0, "validate_every": 100}), tmp_path)
    trainer._gradients = lambda *arrays: (mx.array(math.nan), trainer._model.trainable_parameters())

    def look(self, target, real=Path.rename):
        found = real(self, target)
        assert make_trainer(CONFIG, tmp_path).resume()
        return found

    monkeypatch.setattr(Path, "rename", look)
    assert [e.to_step for e in trainer.run() if isinstance(e, RolledBack)] == [0, 0, 0]


def test_a_climb_that_began_before_a_kill_is_noticed_after_it(tmp_path):
    config = CONFIG.merged({"steps": 40, "validate_every": 60, "save_every": 5, "accumulate": 1,
                            "dropout": 0.0, "schedule": "constant"})  # fmt: skip

    def climbing(directory):
        trainer = make_trainer(config, directory)
        gradients = trainer._gradients

        def call(*arrays):
            loss, found = gradients(*arrays)
            return loss * (3.0 if trainer.state.step >= 22 else 1.0), found

        trainer._gradients = call
        return trainer

    def first_accident(trainer):
        return next(e for e in trainer.run() if isinstance(e, RolledBack))

    whole = first_accident(climbing(tmp_path / "a"))
    assert "climbed" in whole.reason
    for event in climbing(tmp_path / "b").run():
        if isinstance(event, TrainStep) and event.step == 27:
            break
    again = climbing(tmp_path / "b")
    assert again.resume() and again.state.step == 25
    assert first_accident(again) == whole
    assert (again.state.smooth, again.state.lowest, again.state.high) == (None, None, 0)


def test_an_accident_goes_back_to_the_best_and_not_to_the_newest(tmp_path):
    trainer = make_trainer(CONFIG.merged({"validate_every": 2, "save_every": 1}), tmp_path)
    losses, gradients = iter([5.0, 4.0, 6.0, 7.0]), trainer._gradients
    trainer.measure = lambda examples: (next(losses, 8.0), 3)
    calls = []

    def spoilt(*arrays):
        loss, found = gradients(*arrays)
        calls.append(loss)
        return (loss * math.nan if len(calls) == 15 else loss), found

    trainer._gradients = spoilt
    [accident] = [e for e in trainer.run() if isinstance(e, RolledBack)]
    assert (accident.step, accident.to_step) == (8, 2)
    assert trainer.state.worse > 0 and trainer.state.best_step == 2


def test_the_end_is_always_judged_and_kept(tmp_path):
    config = CONFIG.merged({"validate_every": 2, "save_every": 0, "steps": 5})
    events = list(make_trainer(config, tmp_path).run())
    assert [e.step for e in events if isinstance(e, Validated)] == [0, 2, 4, 5]
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [0, 2, 4, 5]


def test_the_time_that_is_left_runs_out_at_the_end(tmp_path):
    events = make_trainer(CONFIG.merged({"steps": 5}), tmp_path).run()
    left = [e.left_s for e in events if isinstance(e, TrainStep)]
    assert left[:2] == [None, None]
    assert left[2] > 0 and left[-1] == 0


def test_no_pass_leaves_out_what_another_one_does(tmp_path):
    trainer, seen = make_trainer(CONFIG, tmp_path), set()
    for step in range(5):
        trainer.state.step = step
        seen |= {tuple(trainer._key(number).tolist()) for number in range(CONFIG.accumulate)}
    assert len(seen) == 5 * CONFIG.accumulate


def test_losses_of_validations_are_told_apart(tmp_path):
    trainer = make_trainer(CONFIG.merged({"validate_every": 1, "steps": 5}), tmp_path)
    losses = iter([5.0, 4.0, 4.5, 4.4, 4.6, 3.0])
    trainer.measure = lambda examples: (next(losses), 3)
    found = [e for e in trainer.run() if isinstance(e, Validated)]
    assert [e.is_best for e in found] == [True, True, False, False, False, True]
    # Worse than before and not for the first time since the best: not one bad validation alone.
    assert [e.is_overfitting for e in found] == [False, False, False, False, True, False]
    state = trainer.state
    assert (state.first_loss, state.best_loss, state.last_loss, state.worse) == (5.0, 3.0, 3.0, 0)


def test_a_model_that_cannot_be_judged_is_not_trained(tmp_path):
    trainer = make_trainer(CONFIG, tmp_path)
    trainer.measure = lambda examples: (math.nan, 3)
    with pytest.raises(TrainingError, match="before anything was trained"):
        list(trainer.run())


def test_a_validation_that_is_no_number_is_an_accident_of_its_step(tmp_path):
    trainer = make_trainer(CONFIG.merged({"validate_every": 2, "steps": 5}), tmp_path)
    losses = iter([5.0, 4.0, math.nan])
    trainer.measure = lambda examples: (next(losses, 3.0), 3)
    [accident] = [e for e in trainer.run() if isinstance(e, RolledBack)]
    assert (accident.step, accident.to_step) == (4, 2)
    assert trainer.state.step == 5


def test_what_killed_saves_left_is_swept_up(tmp_path):
    (tmp_path / ".00000001.99").mkdir()
    list(make_trainer(CONFIG.merged({"steps": 1}), tmp_path).run())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_long_gradient_is_shortened(tmp_path):
    """With plain steps the weights move by as much as the gradient is long."""
    config = CONFIG.merged({"optimizer": "sgd", "steps": 1, "clip": 0.01, "dropout": 0.0,
                            "warmup": 0.0, "schedule": "constant"})  # fmt: skip
    trainer = make_trainer(config, tmp_path)
    before = {n: mx.array(a) for n, a in tree_flatten(trainer._model.trainable_parameters())}
    [(_, _, norm, rate)] = steps_of(trainer.run())
    after = dict(tree_flatten(trainer._model.trainable_parameters()))
    moved = math.sqrt(sum(mx.square(after[n] - before[n]).sum().item() for n in before))
    assert norm > 0.1
    assert moved == pytest.approx(rate * 0.01, rel=1e-3)


def test_a_full_disk_is_an_error_and_the_checkpoint_before_stands(tmp_path, monkeypatch):
    trainer = make_trainer(CONFIG, tmp_path)
    save, calls = mx.save_safetensors, []

    def full(path, arrays):
        calls.append(path)
        if len(calls) > 4:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(path, arrays)

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(StorageError, match="the disk is full"):
        list(trainer.run())
    monkeypatch.undo()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    again = make_trainer(CONFIG, tmp_path)
    assert again.resume() and again.state.step == 2
    list(again.run())


def test_running_out_of_memory_says_what_can_be_done(tmp_path):
    trainer = make_trainer(CONFIG, tmp_path)

    def huge(*arrays):
        raise RuntimeError("[malloc] Unable to allocate 99999 bytes.")

    trainer._gradients = huge
    with pytest.raises(InsufficientMemory) as caught:
        list(trainer.run())
    assert "--batch-size" in caught.value.hint


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    list(make_trainer(CONFIG.merged({"epochs": 1.0}), tmp_path).run())
    other = make_trainer(CONFIG.merged({"rank": 4}), tmp_path)
    with pytest.raises(TrainingError, match="other trained parameters"):
        other.resume()


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    list(make_trainer(CONFIG.merged({"epochs": 1.0, "save_every": 1}), tmp_path).run())
    newest = sorted(p for p in tmp_path.iterdir() if p.name.isdecimal())[-1]
    (newest / "state.json").unlink()
    again = make_trainer(CONFIG, tmp_path)
    assert again.resume() and again.state.step < int(newest.name)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"step": 1e9}', '{"step": "x"}', "nonsense"])
def test_a_damaged_state_is_refused_in_a_sentence(tmp_path, text):
    list(make_trainer(CONFIG.merged({"epochs": 1.0}), tmp_path).run())
    newest = sorted(p for p in tmp_path.iterdir() if p.name.isdecimal())[-1]
    (newest / "state.json").write_text(text)
    with pytest.raises(TrainingError, match="cannot be read"):
        make_trainer(CONFIG, tmp_path).resume()


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    trainer = make_trainer(CONFIG.merged({"save_every": 1, "epochs": 6.0}), tmp_path)
    list(trainer.run())
    kept = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal())
    assert set(kept) == {trainer.steps, trainer.steps - 1, trainer.state.best_step}
