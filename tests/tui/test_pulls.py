"""Pulls beside the chat, without a screen: the queue, pausing, and how they end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mobilellm_mlx.errors import DownloadError
from mobilellm_mlx.events import Progress
from tests.tui.shelves import FakeShelf
from tui.pulls import Pull, PullBoard, _Rate
from tui.widgets.models import describe_pull, pull_status


class Hearer:
    """Stands for an app: keeps what is posted; its timer is the test."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.ticking = False

    def post_message(self, message: object) -> None:
        self.got.append(message)

    def set_interval(self, *_: object, **__: object) -> Hearer:
        return self

    def resume(self) -> None:
        self.ticking = True

    def pause(self) -> None:
        self.ticking = False

    stop = pause

    @property
    def ended(self) -> list[Pull]:
        return [message.pull for message in self.got if isinstance(message, PullBoard.Ended)]


@pytest.fixture
def shelf(tmp_path):
    shelf = FakeShelf(tmp_path)
    yield shelf
    shelf.may_pull.set()


@pytest.fixture
def board(shelf):
    board = PullBoard(shelf)
    hearer = Hearer()
    board.attach(hearer)  # type: ignore[arg-type]
    board.hearer = hearer
    yield board
    board.close(1)


def until(board: PullBoard, predicate: Callable[[], object]) -> None:
    for _ in range(1000):
        board.pump()
        if predicate():
            return
        time.sleep(0.003)
    pytest.fail(f"never so; {board.pulls}")


def test_a_pull_runs_to_its_end_and_reports_it(board, shelf):
    board.start(shelf.make("r1-140m"))
    until(board, lambda: board.hearer.ended)
    (pull,) = board.hearer.ended
    assert (pull.phase, pull.row.name, pull.share) == ("done", "r1-140m", 1.0)
    assert board.pulls == () and not board.hearer.ticking


def test_the_timer_stands_still_while_nothing_runs(board, shelf):
    assert not board.hearer.ticking
    shelf.may_pull.clear()
    board.start(shelf.make("r1-140m"))
    assert board.hearer.ticking
    shelf.may_pull.set()
    until(board, lambda: not board.hearer.ticking)


def test_one_runs_and_the_others_wait(board, shelf):
    shelf.may_pull.clear()
    for name in ("r1-140m", "r1-360m", "wheel"):
        board.start(shelf.make(name))
    until(board, lambda: board.current and board.current.done)
    assert [pull.phase for pull in board.pulls] == ["running", "queued", "queued"]
    assert pull_status(board.pulls) in (f"pulling r1-140m {n} %, 2 waiting" for n in (25, 50))
    assert shelf.asked == ["pull r1-140m"]
    shelf.may_pull.set()
    until(board, lambda: len(board.hearer.ended) == 3)
    assert shelf.asked == ["pull r1-140m", "pull r1-360m", "pull wheel"]


def test_a_pause_closes_the_job_and_lets_the_next_one_run(board, shelf):
    shelf.may_pull.clear()
    board.start(shelf.make("r1-140m"))
    board.start(shelf.make("r1-360m"))
    until(board, lambda: board.current.done)
    board.pause("r1-140m")
    assert board.get("r1-140m").phase == "pausing"
    until(board, lambda: board.get("r1-140m").phase == "paused")
    assert shelf.closed == ["r1-140m"] and board.current.row.name == "r1-360m"
    assert not board.hearer.ended


def test_a_paused_pull_goes_on(board, shelf):
    shelf.may_pull.clear()
    board.start(shelf.make("r1-140m"))
    board.pause("r1-140m")
    board.start(shelf.make("r1-140m"))  # its thread has not let go yet: nothing happens
    until(board, lambda: board.get("r1-140m").phase == "paused")
    shelf.may_pull.set()
    board.start(shelf.make("r1-140m"))
    until(board, lambda: board.hearer.ended)
    assert shelf.asked == ["pull r1-140m", "pull r1-140m"]


def test_a_pull_that_was_ready_before_the_pause_is_done(board, shelf):
    board.start(shelf.make("r1-140m"))
    board._run.thread.join(5)
    board.pause("r1-140m")
    until(board, lambda: board.hearer.ended)
    assert board.hearer.ended[0].phase == "done"


def test_cancelling_forgets_a_pull_wherever_it_is(board, shelf):
    shelf.may_pull.clear()
    for name in ("r1-140m", "r1-360m", "wheel"):
        board.start(shelf.make(name))
    board.cancel("r1-360m")
    board.cancel("r1-140m")
    until(board, lambda: [pull.row.name for pull in board.pulls] == ["wheel"])
    assert shelf.closed == ["r1-140m"] and not board.hearer.ended
    assert board.current.row.name == "wheel"


def test_a_failure_is_kept_in_words_and_can_be_tried_again(board, shelf):
    shelf.failing = DownloadError("the hub cannot be reached", "try later")
    board.start(shelf.make("r1-140m"))
    until(board, lambda: board.hearer.ended)
    assert board.get("r1-140m").phase == "failed"
    said = describe_pull(board.get("r1-140m"))
    assert said.startswith("It failed: the hub cannot be reached (try later).")
    shelf.failing = None
    board.start(shelf.make("r1-140m"))
    until(board, lambda: len(board.hearer.ended) == 2)
    assert board.pulls == ()


def test_a_failure_nobody_foresaw_is_a_sentence_too(board, shelf):
    shelf.failing = ZeroDivisionError("x")
    board.start(shelf.make("r1-140m"))
    until(board, lambda: board.hearer.ended)
    assert "internal error: ZeroDivisionError: x" in describe_pull(board.get("r1-140m"))


def test_closing_stops_the_job_in_order(board, shelf):
    shelf.may_pull.clear()
    board.start(shelf.make("r1-140m"))
    board.close(5)
    assert shelf.closed == ["r1-140m"]


def test_what_a_pause_keeps_is_said_as_it_is(shelf):
    paused = Pull(shelf.make("r1-140m"), phase="paused")
    assert describe_pull(paused) == "Stopped. What came is kept, and it goes on from there."
    from_pip = Pull(shelf.make("wheel", resumes=False), phase="paused")
    assert "nothing is kept, and it starts over" in describe_pull(from_pip)


def test_a_running_pull_says_how_fast_it_is_and_what_is_left(shelf):
    pull = Pull(shelf.make("x"), "running", "fetching a/B", 120e6, 349e6, per_s=2.1e6)
    assert describe_pull(pull) == (
        "Fetching a/B · 34 % · 120 MB of 349 MB · 2 MB/s · 2 min left"
    )  # fmt: skip


def test_a_rate_is_of_late_and_of_one_task():
    rate = _Rate()
    assert rate.add(0, Progress("a", 0, 100)) is None
    assert rate.add(0.1, Progress("a", 50, 100)) is None  # too soon to tell
    assert rate.add(1, Progress("a", 100, 1000)) == 100
    for second in range(2, 12):
        last = rate.add(second, Progress("a", 100 + 10 * (second - 1), 1000))
    assert last == 10
    assert rate.add(12, Progress("b", 500, 1000)) is None


def test_a_check_is_remembered_with_its_time(board, shelf):
    row = shelf.make("small-chat")
    board.check(row)
    board.check(row)  # once is enough
    assert row.path in board.checking
    until(board, lambda: row.path in board.verdicts)
    assert board.verdicts[row.path].damage is None and not board.checking
    assert shelf.asked == ["check small-chat"]
