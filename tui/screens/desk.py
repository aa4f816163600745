"""What can be done with chats as a whole: open, name, pin, delete, write to files, bring in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx.chat.exchange import WholeChat, files, from_json, renew
from mobilellm_mlx.chat.records import ChatRecord, SearchHit, StoredMessage, now
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import InvalidInput, MobileLLMError, StorageError, format_bytes
from mobilellm_mlx.events import GenerationSummary

from ..completing import on_thread
from ..messages import Problem
from ..widgets.sidebar import Sidebar, title_of
from .dialogs import AskLine
from .search import SearchScreen

if TYPE_CHECKING:
    from .chat import ChatScreen

RECENT = 50
LISTED = 1000
"""Chats in the list at the side; a search finds the others."""

UNDO_FOR = timedelta(days=1)
"""How long what was deleted is kept: long enough for a slip, short for what should be gone."""

ERASE_EVERY_S = 3600.0
"""How often a window that stays open looks for what is to be erased."""

Undo = Callable[[], Awaitable[None]]


def last_summary(branch: Sequence[StoredMessage]) -> GenerationSummary | None:
    """What is remembered of the newest answer's cost."""
    made = branch[-1].made[-1] if branch and branch[-1].made else None
    if made is None:
        return None
    return GenerationSummary(
        prompt_tokens=made.prompt_tokens,
        cached_tokens=made.cached_tokens,
        generated_tokens=len(made.tokens),
        ttft_s=made.ttft_s,
        prefill_tok_per_s=made.prefill_tok_per_s,
        decode_tok_per_s=made.decode_tok_per_s,
        context_used=made.context_used,
        context_limit=made.context_limit,
        memory_bytes=made.memory_bytes,
    )


class Desk:
    """Acts on chats for a screen and keeps what it shows of them up to date.

    Args:
        screen: shows one of the chats.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._undo: list[tuple[str, Undo]] = []

    @property
    def store(self) -> Store | None:
        """Where chats are kept."""
        return self._screen.house.store

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What goes wrong inside is said, and nothing else happens."""
        try:
            yield
        except MobileLLMError as error:
            self.say_problem(error)

    def say_problem(self, error: Exception) -> None:
        """A failure beside the conversation."""
        problem = Problem.of(error)
        said = f"{problem.text}\n{problem.hint}" if problem.hint else problem.text
        self._screen.notify(said, severity="error", markup=False, timeout=8)

    def say(self, text: str) -> None:
        """Something short, for a moment."""
        self._screen.app.clear_notifications()  # the newest word counts
        self._screen.notify(text, markup=False, timeout=3)

    def refresh(self) -> None:
        """Draw the list at the side anew."""
        with self.explained():
            chats = self.store.chats(LISTED) if self.store else []
            shown = [chat for chat in chats if chat.messages]
            today = self._screen.house.now().date()
            self._screen.query_one(Sidebar).show(shown, self._screen.session.chat.id, today)

    def erase_deleted(self) -> None:
        """Erase for good what was deleted long enough ago; on a thread, for it may take a while."""
        store, snapshots = self.store, self._screen.house.snapshots
        if store is None:
            return

        def erase() -> None:
            with suppress(StorageError):  # the next start tries again
                for chat_id in store.purge(now() - UNDO_FOR):
                    if snapshots:
                        snapshots.forget(chat_id)

        on_thread(erase)

    # ---------------------------------------------------------------- moving between chats

    async def new(self, *, keep: bool = True) -> None:
        """Begin a chat; what waits was said after that and opens it.

        Args:
            keep: what the model has read of the old one.
        """
        screen = self._screen
        screen.do_chore(screen.session.keep_cache() if keep else None)
        screen.adapters.start_over()
        screen.session.reset()
        screen.status.change(summary=None, read=(0, 0), tokens=0)
        await screen.draw_chat()
        self.refresh()

    async def open(self, chat_id: str, hit: SearchHit | None = None) -> None:
        """Go on with a chat where it was left, or look at a message in it.

        Args:
            chat_id: of the chat.
            hit: what was found in it; shown on its own branch.
        """
        session = self._screen.session
        if session.chat.id != chat_id:
            leaving = session.keep_cache()
            with self.explained():
                session.open(chat_id)
                self._screen.do_chore(leaving)
                self._screen.adapters.follow()
                self._screen.do_chore(session.restore_cache())
                last = last_summary(session.branch)
                self._screen.status.change(summary=last, read=(0, 0), tokens=0)
        if hit is not None and hit.message_id:
            with self.explained():
                if hit.message_id not in {message.id for message in session.branch}:
                    session.show(hit.message_id)
        await self._screen.draw_chat()
        if hit is not None:
            await self._screen.reveal(hit)
        self.refresh()

    def search(self, query: str = "") -> None:
        """Resume a recent chat, or search them all."""
        if (store := self.store) is None:
            self.say("Chats are not kept, so there are none to search")
            return
        with self.explained():
            shown = self._screen.session.chat.id  # its own place is here already
            recent = [c for c in store.chats(RECENT) if c.messages and c.id != shown]
            screen = SearchScreen(
                store.search, recent, query=query, today=self._screen.house.now().date()
            )
            self._screen.app.push_screen(screen, self._go_to)

    async def _go_to(self, found: SearchHit | ChatRecord | None) -> None:
        match found:
            case SearchHit():
                await self._screen.when_free(lambda: self.open(found.chat.id, found))
            case ChatRecord():
                await self._screen.when_free(lambda: self.open(found.id))

    async def resume_last(self) -> None:
        """Open the chat in which something was said last."""
        with self.explained():
            chats = self.store.chats(2) if self.store else []
            for chat in chats:
                if chat.id != self._screen.session.chat.id and chat.messages:
                    await self._screen.when_free(lambda: self.open(chat.id))  # noqa: B023
                    return
        self.say("There is no earlier chat")

    # ---------------------------------------------------------------- changing chats

    def ask_title(self, chat_id: str) -> None:
        """Ask for another title."""
        if (chat := self._find(chat_id)) is None:
            return

        def rename(title: str | None) -> None:
            if title:
                self.rename(chat_id, title)

        self._screen.app.push_screen(AskLine("Title of the chat", title_of(chat)), rename)

    def rename(self, chat_id: str, title: str) -> None:
        """Give a chat another title."""
        with self.explained():
            if chat_id == self._screen.session.chat.id:
                self._screen.session.rename(title)
            elif self.store:
                self.store.rename(chat_id, title)
            self.refresh()

    def pin(self, chat_id: str) -> None:
        """Keep a chat at the top, or no longer."""
        if (chat := self._find(chat_id)) is None or self.store is None:
            return
        with self.explained():
            self.store.pin_chat(chat_id, not chat.pinned)
            session = self._screen.session
            if chat_id == session.chat.id:
                session.chat = replace(session.chat, pinned=not chat.pinned)
            self.say(f"{'Unpinned' if chat.pinned else 'Pinned'} “{title_of(chat)}”")
            self.refresh()

    async def delete(self, chat_id: str) -> None:
        """Take a chat away; the last things deleted can be brought back."""
        store = self.store
        if (chat := self._find(chat_id)) is None or store is None:
            return
        with self.explained():
            store.delete_chat(chat_id, now())
            if self._screen.house.snapshots:
                self._screen.house.snapshots.forget(chat_id)
            title = title_of(chat)

            async def bring_back() -> None:
                store.restore_chat(chat_id)
                await self._screen.when_free(lambda: self.open(chat_id))

            self.can_undo(f"Deleted “{title}”", bring_back)
        if chat_id == self._screen.session.chat.id:
            await self._screen.when_free(lambda: self.new(keep=False))
        self.refresh()

    def can_undo(self, what: str, undo: Undo) -> None:
        """Say what was done, and remember how to undo it."""
        self._undo.append((what, undo))
        self._screen.notify(f"{what}\n/undo brings it back", markup=False, timeout=6)

    async def undo(self) -> None:
        """Bring back what was deleted last."""
        if not self._undo:
            self.say("There is nothing to undo")
            return
        if self._screen.is_answering and not self._screen.may_act():
            return
        _, undo = self._undo.pop()
        with self.explained():
            await undo()
            self.refresh()

    # ---------------------------------------------------------------- files

    def export(self, typed: str) -> None:
        """Write this chat to a file; its ending says in which form.

        Args:
            typed: the path; empty asks for one.
        """
        session, house = self._screen.session, self._screen.house
        if not session.branch:
            raise InvalidInput("there is nothing in this chat yet", "say something first")
        if not typed:
            name = "".join(c if c.isalnum() else " " for c in title_of(session.chat)).split()
            suggested = f"{'-'.join(name)[:40] or 'chat'}.md"
            self._screen.app.push_screen(
                AskLine("Write this chat to (.md, .json or .jsonl)", suggested, yes="Write"),
                self._export_to,
            )
            return
        target = house.folder / Path(os.path.expanduser(typed))  # noqa: PTH111 (it raises nothing)
        whole = WholeChat(session.chat, session.tree)
        files.check_target(target)
        text, missing = files.as_text([whole], files.format_of(target))
        if missing:
            raise InvalidInput(
                "this chat has no complete turn to learn from", "export it as .md or .json"
            )
        size = files.write_text(target, text)
        self._screen.notify(f"Wrote {target}, {format_bytes(size)}", markup=False, timeout=6)

    def _export_to(self, typed: str | None) -> None:
        if typed:
            with self.explained():
                self.export(typed)

    def bring_in(self, typed: str) -> None:
        """Add the chats of a file, and open the first of them.

        It is read on a thread: a large one takes seconds.

        Args:
            typed: the path; empty asks for one.
        """
        if (store := self.store) is None:
            raise InvalidInput("chats are not kept, so none can be brought in")
        if not typed:
            self._screen.app.push_screen(AskLine("Bring in chats from (.json)"), self._bring_from)
            return
        source = self._screen.house.folder / Path(os.path.expanduser(typed))  # noqa: PTH111
        reading = on_thread(lambda: _bring(source, store))
        self._screen.run_worker(self._show_brought(reading))

    async def _show_brought(self, reading: Future[list[ChatRecord]]) -> None:
        screen = self._screen
        with self.explained():
            chats = await asyncio.wrap_future(reading)
            screen.notify(f"Brought in {_described(chats)}", markup=False, timeout=8)
            self.refresh()
            if chats and not screen.is_answering:
                # In its turn: meanwhile the screen has gone on.
                screen.call_later(screen.when_free, lambda: self.open(chats[0].id))

    def _bring_from(self, typed: str | None) -> None:
        if typed:
            with self.explained():
                self.bring_in(typed)

    def _find(self, chat_id: str) -> ChatRecord | None:
        found: ChatRecord | None = None
        with self.explained():
            found = self.store.chat(chat_id) if self.store else None
            if found is None and self.store and chat_id == self._screen.session.chat.id:
                self.say("This chat is kept as soon as something is said in it")
            elif found is None:
                self.say("This chat is not kept")
        return found


def _bring(source: Path, store: Store) -> list[ChatRecord]:
    """Add the chats of a file to a store."""
    # New ids: a file must not be able to write over what is here.
    fresh = [renew(whole) for whole in from_json(files.read_bytes(source))]
    for whole in fresh:
        store.add(whole.chat, whole.messages)
    return [whole.chat for whole in fresh]


def _described(chats: Sequence[ChatRecord]) -> str:
    """How many, and whether they tell the model something that nobody here has written."""
    prompts = sum(bool(chat.instructions) for chat in chats)
    if len(chats) == 1:
        return f"one chat{', with a system prompt: /system shows it' if prompts else ''}"
    return f"{len(chats)} chats{f', {prompts} of them with a system prompt' if prompts else ''}"
