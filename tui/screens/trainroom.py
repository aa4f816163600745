"""Fine-tuning from the chat: its screens, and what follows from what is done there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import InvalidInput, TrainingError
from mobilellm_mlx.training.status import RunStatus

from ..training import TrainingBoard, training_status
from ..workshop import Made
from .compare import CompareScreen, Side
from .training import FormScreen, RunScreen, RunsScreen

if TYPE_CHECKING:
    from .chat import ChatScreen


class TrainRoom:
    """Trainings for a chat screen.

    Args:
        screen: shows the chat.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen

    @property
    def _board(self) -> TrainingBoard:
        """What runs the trainings.

        Raises:
            InvalidInput: nothing does.
        """
        if (board := self._screen.trainings) is None:
            raise InvalidInput("nothing can be trained here", "use `mobilellm train lora DATA`")
        return board

    def open(self) -> None:
        """Show the runs; the one that is trained, if there is one, on top of them."""
        board, app = self._board, self._screen.app
        app.push_screen(RunsScreen(board, self.open_run, self.open_form))
        if active := board.active:
            self.open_run(active[0].name)

    def open_run(self, name: str) -> None:
        """Watch a run."""
        self._screen.app.push_screen(RunScreen(self._board, name, self.try_it))

    def open_form(self) -> None:
        """Ask for a new one, and watch it when it has begun."""
        screen = self._screen
        house, info, shelf = screen.house, screen.info, screen.house.shelf

        def begun(name: str | None) -> None:
            if name is not None:
                self.open_run(name)

        screen.app.push_screen(
            FormScreen(
                self._board,
                (list) if shelf is None else shelf.rows,
                folder=house.folder,
                current=Path(info.path) if info else None,
                held_bytes=info.weight_bytes if info else 0,
                chats=len(house.store.chats()) if house.store is not None else 0,
            ),
            begun,
        )

    def try_it(self, name: str) -> None:
        """Ask the model the same with and without what a run has made."""

        def found(made: Made | Exception) -> None:
            with self._screen.desk.explained():
                if isinstance(made, Exception):
                    raise made
                self._compare(name, made)

        self._board.later(lambda: self._board.workshop.made(name), found)

    def _compare(self, name: str, made: Made) -> None:
        screen = self._screen
        if made.adapter is None:
            raise TrainingError(
                f"there is no adapter of `{name}`", "one is made when a training is finished"
            )
        if (info := screen.info) is None or Path(info.path).resolve() != made.base.resolve():
            raise TrainingError(
                f"`{name}` is for {made.base_name}, which is not loaded",
                f"choose it in the chat first: /model {made.base_name}",
            )
        sides = [Side(f"{info.model}, as it was"), Side(f"with {name}", made.adapter)]
        screen.app.push_screen(
            CompareScreen(screen.bridge.engine, sides, instructions=screen.session.instructions)
        )

    # ---------------------------------------------------------------- what the board says

    def status(self) -> str:
        """The training that goes on, in a few words."""
        board = self._screen.trainings
        return training_status(board.active) if board is not None else ""

    def report(self, row: RunStatus) -> None:
        """Say how a training ended, to whoever does not watch it."""
        shown = self._screen.app.screen
        if isinstance(shown, RunScreen) and shown.run_name == row.name:
            return
        why = f": {row.reason}" if row.reason else ""
        bad = row.state in ("failed", "interrupted")
        self._screen.notify(
            f"The training {row.name} is {row.state}{why}",
            severity="warning" if bad else "information",
            markup=False,
            timeout=8,
        )
