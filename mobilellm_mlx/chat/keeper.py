"""Between a conversation and its store: a chat goes on when the disk does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from mobilellm_mlx.errors import StorageError
from mobilellm_mlx.events import Notice

if TYPE_CHECKING:
    from mobilellm_mlx.chat.store import Store

FLUSH_EVERY_S = 0.4
"""How often an answer that is coming is written: a killed program loses less than a second."""


class Keeper:
    """Writes to a store as long as that works, and says once when it does not.

    Args:
        store: where chats are kept; None keeps nothing.
    """

    def __init__(self, store: Store | None):
        self.store = store
        self._trouble = ""
        self._said: set[str] = set()

    def write(self, work: Callable[[Store], object]) -> bool:
        """Do ``work`` with the store; a failure is remembered for ``notice``.

        Returns:
            Whether it was done. Without a store there is nothing to do.
        """
        if self.store is None:
            return True
        try:
            work(self.store)
        except StorageError as error:
            self._trouble = error.message
            return False
        return True

    def notice(self) -> Notice | None:
        """What to tell the person about writing that failed; each trouble is named once."""
        trouble, self._trouble = self._trouble, ""
        if not trouble or trouble in self._said:
            return None
        self._said.add(trouble)
        return Notice(f"this chat is not being saved: {trouble}")


class AnswerWriter:
    """Collects an answer while it comes and writes it down twice a second, on a thread of its own.

    A clock and not the next token decides: a token may be long in coming, and what is on the screen
    by then must be on the disk.

    Args:
        keeper: writes.
        message_id: of the answer, which the store knows already.
        content: what it begins with.
        reasoning: the same for its reasoning.
    """

    def __init__(self, keeper: Keeper, message_id: str, content: str = "", reasoning: str = ""):
        self._keeper = keeper
        self._id = message_id
        self._content = [content] if content else []
        self._reasoning = [reasoning] if reasoning else []
        self._written = (len(self._content), len(self._reasoning))
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def content(self) -> str:
        """The answer so far."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    def add(self, text: str = "", reasoning: str = "") -> None:
        """Take in the next piece."""
        if text:
            self._content.append(text)
        if reasoning:
            self._reasoning.append(reasoning)

    def __enter__(self) -> AnswerWriter:
        if self._keeper.store is not None:
            self._thread = threading.Thread(target=self._run, name="mobilellm-writer", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop writing; whoever knows how the answer ended writes it whole."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(FLUSH_EVERY_S):
            pieces = (len(self._content), len(self._reasoning))
            if pieces != self._written:
                self._written = pieces
                content, reasoning = self.content, self.reasoning
                self._keeper.write(lambda s: s.write_partial(self._id, content, reasoning))  # noqa: B023
