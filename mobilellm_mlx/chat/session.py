"""A conversation: what was said so far, on all its branches, and how to go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.chat import tree
from mobilellm_mlx.chat.answering import Way
from mobilellm_mlx.chat.context import (
    ContextPolicy,
    conversation,
)
from mobilellm_mlx.chat.keeper import AnswerWriter, Keeper
from mobilellm_mlx.chat.making import make_again
from mobilellm_mlx.chat.records import (
    AnswerStatus,
    ChatRecord,
    Generation,
    StoredMessage,
    make_id,
    now,
)
from mobilellm_mlx.chat.titles import make_title
from mobilellm_mlx.chat.using import ToolKit
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.errors import InvalidInput, StorageError
from mobilellm_mlx.events import (
    Event,
    GenerationSummary,
    ReasoningDelta,
    TextDelta,
    ToolEnded,
)
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tools.tool import Call

if TYPE_CHECKING:
    from mobilellm_mlx.chat.snapshots import Snapshots
    from mobilellm_mlx.chat.store import Store

WORTH_KEEPING = 256
"""Tokens from which on reading a cache from disk beats reading the chat anew."""


class Session:
    """A conversation with one engine.

    Its messages form a tree (see ``records``). What a job changes is settled when the job's last
    event has been read; between jobs the session belongs to whoever holds it.

    Args:
        engine: answers; must outlive the session.
        instructions: the system prompt; None leaves the model's own default.
        overrides: fields of ``GenerationOptions`` that replace what the model's makers recommend.
        store: where chats are kept; None keeps them in memory only.
        policy: what to do when the context fills.
        snapshots: where caches of chats are kept; None keeps none.
        tools: what the model may use; None offers it nothing.
    """

    def __init__(
        self,
        engine: ChatEngine,
        *,
        instructions: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        store: Store | None = None,
        policy: ContextPolicy | None = None,
        snapshots: Snapshots | None = None,
        tools: ToolKit | None = None,
    ):
        self._engine = engine
        self.standing_instructions = instructions
        """The system prompt of new chats; a chat keeps its own."""
        self.overrides = dict(overrides or {})
        GenerationOptions().merged(self.overrides)  # an impossible value is said at once
        self.policy = policy or ContextPolicy()
        self.tools = tools
        self._keeper = Keeper(store)
        self._snapshots = snapshots
        self._cached_chat: str | None = None
        """The chat whose tokens the engine's cache holds and that was not written down since."""
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation; instructions and overrides stay.

        It reaches the store with its first message: an empty chat is nothing to come back to.
        """
        moment = now()
        self.instructions = self.standing_instructions
        self.chat = ChatRecord(make_id(), moment, moment)
        self._known = False
        """Whether the store has this chat with all that was said so far."""
        self._nodes: dict[str, StoredMessage] = {}
        self._answering: frozenset[str] = frozenset()

    # ---------------------------------------------------------------- what was said

    @property
    def store(self) -> Store | None:
        """Where chats are kept."""
        return self._keeper.store

    @property
    def adapter(self) -> str | None:
        """Name of the adapter that answers; None for the model alone."""
        return self._engine.info.adapter if self._engine.info else None

    @property
    def tree(self) -> list[StoredMessage]:
        """Every message on every branch, in the order in which they were made."""
        return list(self._nodes.values())

    @property
    def branch(self) -> list[StoredMessage]:
        """The messages that are shown, the first one first."""
        return tree.branch(self.tree, self.chat.leaf_id)

    @property
    def messages(self) -> list[Message]:
        """The settled turns of the branch as a model sees them, without the instructions."""
        settled = (m for m in self.branch if m.id not in self._answering)
        return conversation(settled, None)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of messages on the branch that the newest answer was made without."""
        made = [g for m in reversed(self.branch) for g in reversed(m.made)]
        return made[0].left_out if made else ()

    def siblings(self, message_id: str) -> list[str]:
        """The versions of a message, itself among them, the oldest first."""
        nodes = self.tree
        return [message.id for message in tree.siblings(nodes, message_id)]

    def versions(self) -> dict[str, tuple[int, int]]:
        """Of every message that has siblings: which one it is, counted from 1, of how many."""
        families: dict[tuple[str | None, str], list[str]] = {}
        for message in self._nodes.values():
            if not message.deleted:
                families.setdefault((message.parent_id, message.role), []).append(message.id)
        return {
            message_id: (at, len(family))
            for family in families.values()
            if len(family) > 1
            for at, message_id in enumerate(family, 1)
        }

    def above(self, message_id: str) -> list[StoredMessage]:
        """What led to a message, itself not among them."""
        return tree.branch(self.tree, self.find(message_id).parent_id)

    def find(self, message_id: str) -> StoredMessage:
        """A message of this chat.

        Raises:
            InvalidInput: when there is none of this id.
        """
        try:
            return self._nodes[message_id]
        except KeyError:
            raise InvalidInput("this message is not in the chat any more") from None

    # ---------------------------------------------------------------- asking

    def send(self, text: str, cancel: threading.Event | None = None) -> Iterator[Event]:
        """Say something; gives the events of the answer and ends with a ``GenerationSummary``.

        The question is on the disk before the model begins, and the answer follows as it comes. A
        stopped or broken answer stays as far as it came; a turn that brought none leaves no trace.
        Only answers become part of later prompts: the templates of models that reason leave earlier
        reasoning out.
        """
        yield from self._ask(text, self.chat.leaf_id, cancel)

    def edit(
        self, message_id: str, text: str, cancel: threading.Event | None = None
    ) -> Iterator[Event]:
        """Ask a question anew in other words; the old one stays as another branch."""
        question = self._question(message_id)
        yield from self._ask(text, question.parent_id, cancel)

    def retry(
        self, message_id: str | None = None, cancel: threading.Event | None = None
    ) -> Iterator[Event]:
        """Have a question answered once more; the old answer stays as another branch.

        Args:
            message_id: the question or one of its answers; None is the newest.
            cancel: stops the answer.
        """
        question = self._question(message_id or self._newest())
        # With its seed given, the same answer would come again: once more means another one.
        overrides = {**self.overrides, "seed": None}
        yield from self._answer(question, cancel, overrides)

    def proceed(
        self, message_id: str | None = None, cancel: threading.Event | None = None
    ) -> Iterator[Event]:
        """Go on with an answer that was stopped, cut or broken off.

        The deltas and the summary hold what is new.

        Args:
            message_id: the answer; None is the newest message.
            cancel: stops it again.
        """
        answer = self.find(message_id or self._newest())
        if answer.role != "assistant" or answer.parent_id is None:
            raise InvalidInput("only an answer can be continued", "ask something first")
        yield from self._generate(answer, cancel, self.overrides)

    def reproduce(
        self, message_id: str, cancel: threading.Event | None = None
    ) -> Iterator[GenerationSummary]:
        """Make an answer again as it was made, and change nothing.

        Gives one summary for each stretch it was made in, to be compared with ``made``.

        Raises:
            InvalidInput: when it is not known how the answer was made.
        """
        yield from make_again(self._engine, self.above(message_id), self.find(message_id), cancel)

    def _ask(
        self, text: str, parent_id: str | None, cancel: threading.Event | None
    ) -> Iterator[Event]:
        question = StoredMessage(make_id(), self.chat.id, parent_id, "user", text, now())
        yield from self._answer(question, cancel, self.overrides)

    def _answer(
        self,
        question: StoredMessage,
        cancel: threading.Event | None,
        overrides: Mapping[str, Any],
    ) -> Iterator[Event]:
        before = self.chat.leaf_id
        is_new = question.id not in self._nodes
        answer = StoredMessage(
            make_id(), self.chat.id, question.id, "assistant", "", now(), status="partial"
        )
        added = [question, answer] if is_new else [answer]
        self._answering = frozenset(message.id for message in added)
        self._put(*added)
        self._move(answer.id)
        if not self.chat.title:
            self._name(make_title(question.content, ""))
        try:
            yield from self._generate(answer, cancel, overrides)
        finally:
            self._answering = frozenset()
            made = self._nodes[answer.id]
            if _is_nothing(made):
                self._drop(added, before)

    def _generate(
        self,
        answer: StoredMessage,
        cancel: threading.Event | None,
        overrides: Mapping[str, Any],
    ) -> Iterator[Event]:
        """Add to an answer, and note how it was made."""
        if self._engine.info is None:
            yield from self._engine.load()
        writer = AnswerWriter(self._keeper, answer.id, answer.content, answer.reasoning)
        way = Way(
            self._engine,
            self.above(answer.id),
            answer,
            self.instructions,
            self._engine.defaults.merged(overrides),
            cancel or threading.Event(),
            self.policy,
            self.tools,
            note=lambda made: self._put(replace(made, content=writer.content, status="partial")),
            done=self._done(answer),
            before=self.left_out,
        )
        if answer.status != "partial":  # should the program die now, its tokens will not be all
            self._put(replace(answer, status="partial"))
        summary: GenerationSummary | None = None
        status: AnswerStatus = "failed"
        parted = False
        try:
            with writer, closing(way.events()) as job:
                for event in job:
                    if isinstance(event, ToolEnded):  # what it said before the call, and after it
                        parted = bool(writer.content)
                    elif isinstance(event, TextDelta):
                        if parted:
                            event, parted = TextDelta(f"\n\n{event.text}"), False
                        writer.add(text=event.text)
                    elif isinstance(event, ReasoningDelta):
                        writer.add(reasoning=event.text)
                    elif isinstance(event, GenerationSummary):
                        summary = event
                        break
                    yield event
            assert summary is not None, "the engine ended without a summary"
            status = "complete" if summary.stop_reason == "stop" else "stopped"
        except GeneratorExit:  # the reader has left in the middle: not all tokens are known
            status = "partial"
            raise
        finally:
            made = way.describe(summary, self.adapter) if summary is not None else None
            self._settle(way.answer, writer, status, made)
        if notice := self._keeper.notice():
            yield notice
        yield summary

    def _done(self, answer: StoredMessage) -> frozenset[str]:
        """Keys of the calls that other answers to the same question have made."""
        others = tree.siblings(self.tree, answer.id)
        return frozenset(
            Call(use.tool, dict(use.arguments)).key
            for other in others
            for use in other.uses
            if use.allowed
        )

    def _settle(
        self,
        answer: StoredMessage,
        writer: AnswerWriter,
        status: AnswerStatus,
        made: Generation | None,
    ) -> None:
        """Write an answer down as it ended."""
        settled = replace(
            answer,
            content=writer.content,
            reasoning=writer.reasoning,
            status=status,
            made=(*answer.made, made) if made else answer.made,
        )
        self._answering = frozenset()
        self._cached_chat = self.chat.id
        self._put(settled)
        if not self.chat.named and len(self.branch) == 2:
            self._name(make_title(self.branch[0].content, settled.content))

    # ---------------------------------------------------------------- changing what was said

    def show(self, message_id: str) -> None:
        """Show the branch that goes through a message, up to its newest end."""
        self._move(tree.newest_leaf(self.tree, self.find(message_id).id))

    def delete_turn(self, message_id: str) -> list[str]:
        """Take a question and its answer out of the chat; what follows stays.

        Args:
            message_id: of either.

        Returns:
            The ids that ``restore`` puts back.
        """
        question = self._question(message_id)
        shown = [m.id for m in self.branch]
        if question.id not in shown:
            raise InvalidInput("this message is on another branch", "go there first")
        at = shown.index(question.id)
        gone = [question.id]
        if at + 1 < len(shown) and self._nodes[shown[at + 1]].role != "user":
            gone.append(shown[at + 1])
        self._set_deleted(gone, True)
        if self._snapshots:  # it holds what was deleted
            self._cached_chat = None
            self._snapshots.forget(self.chat.id)
        return gone

    def restore(self, message_ids: Sequence[str]) -> None:
        """Put messages back that ``delete_turn`` took out."""
        self._set_deleted(message_ids, False)
        self._put(*(self._nodes[message_id] for message_id in message_ids))  # erased meanwhile?

    def pin(self, message_id: str, pinned: bool) -> None:
        """Keep a message in what the model sees when older turns are dropped."""
        self._nodes[message_id] = replace(self.find(message_id), pinned=pinned)
        self._note(lambda store: store.pin_message(message_id, pinned))

    def rename(self, title: str) -> None:
        """Give the chat a title of one's own."""
        self.chat = replace(self.chat, title=title, named=True)
        self._note(lambda store: store.rename(self.chat.id, title))

    def instruct(self, instructions: str | None) -> None:
        """Change the system prompt of this chat from its next turn on."""
        self.instructions = instructions
        self.chat = replace(self.chat, instructions=instructions)
        self._note(lambda store: store.set_instructions(self.chat.id, instructions))

    # ---------------------------------------------------------------- other chats

    def open(self, chat_id: str) -> None:
        """Go on with a chat of the store, where it was left.

        Raises:
            InvalidInput: when the store does not have it.
        """
        chat = self.store.chat(chat_id) if self.store else None
        if chat is None or chat.deleted_at is not None or self.store is None:
            raise InvalidInput("this chat is not in the history any more")
        nodes = self.store.messages(chat_id)
        self.reset()
        self.chat, self._known = chat, True
        self._nodes = {message.id: message for message in nodes}
        self.instructions = chat.instructions

    def keep_cache(self) -> Iterator[Event] | None:
        """A job that writes the engine's cache down; None when that is not worth it.

        It is about the chat that is open now, also when it runs after the session has moved on.
        """
        branch = self.branch
        used = branch[-1].made[-1].context_used if branch and branch[-1].made else 0
        if not self._snapshots or self._cached_chat != self.chat.id or used < WORTH_KEEPING:
            return None
        self._cached_chat = None
        if self._is_gone():
            self._snapshots.forget(self.chat.id)
            return None
        return self._write_cache(self._snapshots, self.chat.id)

    def _write_cache(self, snapshots: Snapshots, chat_id: str) -> Iterator[Event]:
        yield from self._engine.save_cache(snapshots.path_for(chat_id))
        snapshots.keep(chat_id)

    def restore_cache(self) -> Iterator[Event] | None:
        """A job that reads this chat's cache, so that it goes on at once; None without one."""
        if not self._snapshots or not self._snapshots.path_for(self.chat.id).is_file():
            return None
        return self._read_cache(self._snapshots, self.chat.id)

    def _read_cache(self, snapshots: Snapshots, chat_id: str) -> Iterator[Event]:
        if self._engine.info is None:
            yield from self._engine.load()
        yield from self._engine.restore_cache(snapshots.path_for(chat_id))
        snapshots.keep(chat_id)

    # ---------------------------------------------------------------- parts

    def _newest(self) -> str:
        if not (branch := self.branch):
            raise InvalidInput("nothing has been said yet", "ask something first")
        return branch[-1].id

    def _question(self, message_id: str) -> StoredMessage:
        """The question that a message is or belongs to."""
        message, seen = self.find(message_id), {message_id}
        while message.role != "user" and message.parent_id not in (None, *seen):
            message = self.find(str(message.parent_id))
            seen.add(message.id)  # a damaged file may have a circle of parents
        return message

    def _is_gone(self) -> bool:
        """Whether this chat was taken out of the store, here or by another program."""
        if self.store is None:
            return False
        try:
            chat = self.store.chat(self.chat.id)
        except StorageError:
            return False  # nobody can say
        return chat is None or chat.deleted_at is not None

    def _put(self, *messages: StoredMessage) -> None:
        for message in messages:
            self._nodes[message.id] = message
        if self._known:
            self._known = self._keeper.write(lambda store: store.save(*messages))
            return
        # New, or the disk refused the last time: then it lacks more than these messages.
        self.chat = replace(self.chat, instructions=self.instructions)
        chat, everything = self.chat, self.tree
        self._known = self._keeper.write(lambda store: store.add(chat, everything))

    def _note(self, work: Callable[[Store], object]) -> None:
        """Write something about the chat; what the store does not have yet gets there whole."""
        if self._known:
            self._known = self._keeper.write(work)

    def _move(self, leaf_id: str | None) -> None:
        self.chat = replace(self.chat, leaf_id=leaf_id)
        self._note(lambda store: store.set_leaf(self.chat.id, leaf_id))

    def _name(self, title: str) -> None:
        self.chat = replace(self.chat, title=title)
        self._note(lambda store: store.rename(self.chat.id, title, named=False))

    def _drop(self, messages: Sequence[StoredMessage], leaf_id: str | None) -> None:
        """Undo the adding of messages that came to nothing."""
        self._set_deleted([message.id for message in messages], True)
        if any(not message.deleted for message in self._nodes.values()):
            self._move(leaf_id)
        else:
            self._note(lambda store: store.delete_chat(self.chat.id, now()))
            instructions = self.instructions
            self.reset()
            self.instructions = instructions

    def _set_deleted(self, message_ids: Sequence[str], deleted: bool) -> None:
        for message_id in message_ids:
            self._nodes[message_id] = replace(self.find(message_id), deleted=deleted)
        self._note(lambda store: store.set_deleted(message_ids, deleted))


def _is_nothing(answer: StoredMessage) -> bool:
    """Whether an answer brought not a word and was not meant to: it was stopped or broke.

    One that a limit ended while the model still thought can be continued, and what tools did was
    done.
    """
    if answer.uses:
        return False
    if answer.reasoning:
        ended = bool(answer.made) and answer.made[-1].stop_reason != "cancelled"
        return not answer.content and not ended
    return not answer.content and answer.status != "complete"
