"""What a training tells: its curves, its figures, and the lines made of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import floor
from pathlib import Path

import pytest

from mobilellm_mlx.errors import ConfigError, InvalidInput
from mobilellm_mlx.events import RolledBack, Sampled, TrainPaused
from mobilellm_mlx.training.status import RunStatus
from tests.tui.workshops import finished, started, step, tale, validated
from tui.screens.training.draft import Draft
from tui.screens.training.fields import PathSuggester
from tui.screens.training.words import (
    LEARNED,
    SIGNS,
    as_in_form,
    counted,
    duration,
    example_lines,
    figures_line,
    progress_line,
    run_line,
)
from tui.shelf import ModelRow
from tui.trainlog import MOST_POINTS, Series, Story
from tui.widgets.plot import LEFT, Scale, level_scale, thinned, tick_labels
from tui.workshop import Preset

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ROW = RunStatus("a-run", Path("/runs/a-run"), "running", 180, 300, 1.2, 1.1, 150, updated=NOW)


def story_of(*events: object) -> Story:
    story = Story()
    for event in events:
        story.take(event)  # type: ignore[arg-type]
    return story


def test_a_curve_never_grows_beyond_what_can_be_drawn() -> None:
    series = Series()
    for at in range(1, 50 * MOST_POINTS):
        series.add(at, float(at))
    assert len(series.steps) <= MOST_POINTS
    assert series.steps == pytest.approx(series.values)  # means of both stay together
    assert series.steps[-1] > 49 * MOST_POINTS


def test_a_run_that_went_back_takes_its_points_back() -> None:
    story = story_of(step(1, 3.0), step(2, 2.0), step(3, 99.0), RolledBack(3, 1, "NaN", 1e-4, 2))
    assert story.loss.steps == [1]
    story.take(step(2, 1.5))
    assert story.loss.values == [3.0, 1.5]
    assert "back to step 1" in story.notes[-1]


def test_losses_that_are_no_numbers_are_not_drawn() -> None:
    story = story_of(step(1, 3.0), step(2, float("nan")), step(3, 2.0))
    assert story.loss.steps == [1, 3]


def test_events_with_values_of_another_kind_are_passed_over() -> None:
    story = story_of(
        replace(step(1), loss="[/b]"),  # type: ignore[arg-type]
        replace(validated(1, 2.0), step=None),  # type: ignore[arg-type]
        Sampled(1, ["no"], "text"),  # type: ignore[arg-type]
    )
    assert story == Story(loss=story.loss, valid_loss=story.valid_loss, rate=story.rate,
                          speed=story.speed, memory=story.memory)  # fmt: skip
    assert not any(story.series)


def test_a_run_that_goes_on_has_no_end_any_more() -> None:
    story = story_of(started(), step(1), finished())
    assert story.summary is not None
    story.take(replace(started(), start_step=1))
    assert story.summary is None


def test_a_pause_that_is_over_is_not_told_as_if_it_lasted() -> None:
    story = story_of(started(), step(57), TrainPaused(57))
    assert story.notes == ["step 57: paused"]
    story.take(step(58))
    story.take(TrainPaused(58))
    assert story.notes == ["step 57: paused, then went on", "step 58: paused"]


def test_hints_name_settings_as_the_form_does() -> None:
    assert (
        as_in_form("`--max-tokens 512` or --batch-size 4")
        == "`longest example 512` or batch size 4"
    )
    assert as_in_form("go on with `--force`") == "go on with `--force`"
    assert (counted(1, "step"), counted(2000, "step")) == ("1 step", "2,000 steps")


def test_sample_answers_of_steps_that_were_taken_back_go() -> None:
    story = story_of(Sampled(30, "a", "b"), Sampled(60, "a", "c"), Sampled(30, "a", "d"))
    assert list(story.samples) == [30]


@pytest.mark.parametrize("width", [20, 36, 56, 76, 120])
@pytest.mark.parametrize("state", list(SIGNS))
def test_a_run_stands_on_one_line_with_its_state(width: int, state: str) -> None:
    row = replace(ROW, state=state, name="a-name-that-is-rather-long-for-a-run")  # type: ignore[arg-type]
    line = run_line(row, width, NOW + timedelta(hours=3))
    assert line.cell_length <= width
    assert line.plain.startswith(SIGNS[state])  # type: ignore[index]
    assert (state in line.plain) == (width >= 48)
    assert ("180/300" in line.plain) == (width >= 34)


@pytest.mark.parametrize("width", [10, 36, 76, 116])
def test_the_last_figures_fit_on_one_line(width: int) -> None:
    story = story_of(*tale())
    assert figures_line(story, width).cell_length <= width
    assert progress_line(ROW, story, width).cell_length <= max(width, 15)
    assert "step 180 of 300" in progress_line(ROW, story, 76).plain


def test_durations_are_as_exact_as_they_are_long() -> None:
    assert [duration(s) for s in (7, 300, 7 * 3600 + 120)] == ["7 s", "5 min", "7 h 02 min"]


def test_what_is_learned_is_marked_without_colour() -> None:
    lines = example_lines([("user\nHi [b]\n", False), ("Hello.", True)], 40)
    assert [line.plain for line in lines] == ["  user", "  Hi [b]", f"{LEARNED} Hello."]


def test_ticks_are_round_and_apart() -> None:
    assert Scale(0.93, 3.61, 20, 0).ticks(6) == [1.0, 2.0, 3.0]
    for least, most in ((0.0, 1e-4), (0.9, 0.91), (1, 90_000), (-2, 3)):
        scale = Scale(least, most, 12, 0)
        places = [scale.at(tick) for tick in scale.ticks(2)]
        assert 2 <= len(places) <= 8
        assert all(a - b >= 1.5 for a, b in pairwise(places))
        labels = tick_labels(scale.ticks(2))
        assert len(set(labels)) == len(labels)
        assert max(map(len, labels)) <= 6


@pytest.mark.parametrize("rows", [2, 3, 6, 7, 11, 30])
@pytest.mark.parametrize(
    ("least", "most"),
    [(0, 5e-4), (0, 412), (0, 0.94), (1.1, 3.41), (3.41, 3.41), (0, 0), (-2, 3), (0.9, 0.91)],
)
def test_numbers_beside_a_curve_stand_at_their_heights(
    rows: int, least: float, most: float
) -> None:
    scale, ticks = level_scale(least, most, rows)
    places = [scale.at(tick) for tick in ticks]
    assert len(places) >= (2 if rows >= 4 else 1)
    assert all(abs(place % 1 - 0.5) < 0.02 for place in places)  # in the middle of a row
    assert len({floor(a) - floor(b) for a, b in pairwise(places)}) <= 1
    assert all(0 <= scale.at(value) < rows for value in (least, most, *ticks))
    assert max(len(label) for label in tick_labels(ticks)) <= LEFT - 2


def test_more_points_than_columns_become_their_means() -> None:
    series = Series()
    for at in range(1, 101):
        series.add(at, at % 2)
    points = thinned(series, 10)
    assert len(points) == 10
    assert all(value == 0.5 for _, value in points)


# ---------------------------------------------------------------- the form's values


def draft(tmp_path: Path) -> Draft:
    bases = [ModelRow("small", tmp_path, "Here", installed=True)]
    presets = [Preset("chat", "for chats", {"rank": 32, "learning_rate": 1e-3})]
    return Draft(bases, presets, base="small", data="talk.jsonl")


def test_what_a_person_sets_goes_before_a_recipe(tmp_path: Path) -> None:
    chosen = draft(tmp_path)
    chosen.put("preset", "chat")
    chosen.put("rank", 4)
    order = chosen.order(tmp_path)
    assert (order.config.rank, order.config.learning_rate) == (4, 1e-3)
    assert order.data == tmp_path / "talk.jsonl"
    chosen.put("rank", None)
    assert chosen.config.rank == 32


def test_a_value_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    chosen = draft(tmp_path)
    with pytest.raises(ConfigError, match="at least 1"):
        chosen.put("rank", chosen.parse("rank", "0"))
    with pytest.raises(ConfigError, match="a whole number"):
        chosen.parse("rank", "many")
    assert chosen.values == {}


def test_every_setting_has_a_line_when_all_are_shown(tmp_path: Path) -> None:
    from mobilellm_mlx.training.config import options

    chosen = draft(tmp_path)
    few = {line.key for line in chosen.lines()}
    chosen.unfolded = True
    lines = chosen.lines()
    assert {option.name for option in options()} <= {line.key for line in lines}
    assert len(few) < len(lines) / 2
    for line in lines:
        assert line.help and line.title


def test_the_rate_that_follows_the_method_is_shown(tmp_path: Path) -> None:
    chosen = draft(tmp_path)
    rates = []
    for method in ("lora", "full"):
        chosen.put("method", method)
        rates.append(next(each.shown for each in chosen.lines() if each.key == "learning_rate"))
    assert rates == ["0.0005", "5e-05"]


def test_without_data_there_is_no_order(tmp_path: Path) -> None:
    chosen = draft(tmp_path)
    chosen.put("data", "")
    with pytest.raises(InvalidInput, match="no data"):
        chosen.order(tmp_path)


async def test_paths_are_completed_data_files_first(tmp_path: Path) -> None:
    for name in ("talk.txt", "talk.jsonl", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "tales").mkdir()
    suggest = PathSuggester(tmp_path).get_suggestion
    assert await suggest("tal") == "tales/"
    assert await suggest("talk") == "talk.jsonl"
    assert await suggest("nothing/") is None
    assert await suggest("") is None
