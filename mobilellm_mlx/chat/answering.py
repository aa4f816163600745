"""The way from a question to an answer: what the model is shown, and tools in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from mobilellm_mlx.chat.context import ContextPolicy, Shown, choose, conversation, whole_turns
from mobilellm_mlx.chat.making import describe
from mobilellm_mlx.chat.records import Generation, StoredMessage, ToolUse
from mobilellm_mlx.chat.using import ToolKit, Work, joined, use_tools
from mobilellm_mlx.engine import ChatEngine
from mobilellm_mlx.errors import EngineError
from mobilellm_mlx.events import Event, GenerationSummary, ModelLoaded, Notice, TextDelta
from mobilellm_mlx.grammar import Grammar
from mobilellm_mlx.messages import Message
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.tools.running import clean_text

_LONGEST_EXTRA = 64
"""Tokens that a chat template may add to a message, generously."""
_SHORTEST_RESULT = 100
"""Characters of a tool's result below which shortening is in vain."""

Note = Callable[[StoredMessage], None]
"""Writes an answer down that has used a tool and is not complete."""


@dataclass(slots=True)
class Way:
    """One answer while it is made.

    Attributes:
        engine: answers.
        above: what led to the answer, the question last.
        answer: so far.
        instructions: the system prompt of the chat; in the end, the one that was in force.
        options: sampling and stopping.
        cancel: stops it.
        policy: what to do when the context fills.
        tools: what the model may use; None offers it nothing.
        note: writes down which tools were used.
        done: keys of calls that earlier answers to the same question have made; doing that again
            is asked for, whatever was allowed.
        before: ids of messages that the answer before was made without.
        left_out: those of this one.
        grammar: what the answer was bound to.
        is_made: whether a model made the answer; else it is a tool's.
    """

    engine: ChatEngine
    above: Sequence[StoredMessage]
    answer: StoredMessage
    instructions: str | None
    options: GenerationOptions
    cancel: threading.Event
    policy: ContextPolicy
    tools: ToolKit | None
    note: Note
    done: frozenset[str] = frozenset()
    before: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    grammar: Grammar | None = None
    is_made: bool = True

    @property
    def begun(self) -> str | tuple[int, ...]:
        """What the answer begins with when it is continued: its tokens, if all are known."""
        answer = self.answer
        known = answer.status in ("complete", "stopped") and all(
            stretch.tokens and stretch.begun_text is None for stretch in answer.made
        )
        if known and answer.made:
            return tuple(token for stretch in answer.made for token in stretch.tokens)
        return answer.content

    def events(self) -> Generator[Event, None, None]:
        """All that happens; ends with a summary."""
        kit, answer, begun = self.tools, self.answer, self.begun
        if kit is not None and kit.is_on and not (begun or answer.made or answer.uses):
            work = yield from self._use_tools(kit)
            if work.calls is not None and work.calls.speech is not None:
                self.grammar = work.calls.grammar
                yield work.calls.speech
                return
            if work.answer and not self.cancel.is_set():
                yield TextDelta(work.answer)
                yield self._unmade(work.answer)
                return
            if work.opening:  # it was told that it may call; it may not any more
                self.options = replace(self.options, stop=(*self.options.stop, work.opening))
        shown = self._shown(self.instructions)
        self.left_out = shown.left_out
        if new := set(shown.left_out) - set(self.before):
            yield Notice(
                f"{len(new)} older messages are no longer shown to the model: its context is full"
            )
        yield from self.engine.chat(shown.messages, self.options, self.cancel, begun)

    def describe(self, summary: GenerationSummary, adapter: str | None) -> Generation | None:
        """The note about how the answer was made; None when no model made it."""
        info = self.engine.info
        if info is None or not self.is_made:
            return None
        return describe(
            info,
            summary,
            instructions=self.instructions,
            adapter=adapter,
            left_out=self.left_out,
            begun=self.begun,
            grammar=self.grammar,
        )

    @property
    def _info(self) -> ModelLoaded:
        info = self.engine.info
        assert info is not None, "the model is loaded before an answer begins"
        return info

    def _unmade(self, text: str) -> GenerationSummary:
        """The end of an answer that no model made."""
        self.is_made = False
        branch = [m for m in whole_turns(self.above) if m.id not in self.left_out]
        shown = conversation(branch, self.instructions, self.answer.uses)
        return GenerationSummary(
            model=self._info.model,
            text=text,
            context_used=self.engine.count_tokens([*shown, Message("assistant", text)]),
            context_limit=self._info.context_limit,
        )

    def _use_tools(self, kit: ToolKit) -> Generator[Event, None, Work]:
        """Let the model use tools before it answers."""
        instructions = self.instructions

        def prompt(uses: Sequence[ToolUse], more: str) -> Sequence[Message]:
            self.answer = replace(self.answer, uses=tuple(uses))
            shown = self._shown(joined(instructions, more))
            self.left_out = shown.left_out
            return shown.messages

        def note(uses: Sequence[ToolUse]) -> None:
            self.answer = replace(self.answer, uses=tuple(uses))
            self.note(self.answer)

        said = self.above[-1].content
        work = yield from use_tools(
            kit, self.engine, said, prompt, note, self.options, self.cancel, self.done
        )
        self.instructions = joined(instructions, work.instructions)
        self._make_room()
        return work

    def _make_room(self) -> None:
        """Shorten what tools said until the model can be shown it: whoever asked waits for words.

        Letters of some scripts are several tokens each; results are limited in characters.
        """
        room = int(self.policy.threshold * self._info.context_limit)
        while uses := self.answer.uses:
            longest = max(uses, key=lambda use: len(use.result))
            size = sum(len(use.result.encode()) for use in uses)
            if size <= room // 4 or len(longest.result) < 2 * _SHORTEST_RESULT:
                return
            shown = conversation([self.above[-1]], self.instructions, uses)
            if self.engine.count_tokens(shown) <= room:
                return
            text, _ = clean_text(longest.result, len(longest.result) // 2)
            short = replace(longest, result=text, is_shortened=True)
            uses = tuple(short if use is longest else use for use in uses)
            self.answer = replace(self.answer, uses=uses)

    def _shown(self, instructions: str | None) -> Shown:
        """What the model is shown."""
        begun, limit = self.begun, self._info.context_limit
        more = len(begun.encode()) if isinstance(begun, str) else len(begun)

        def count(messages: Sequence[Message]) -> int:
            try:
                return self.engine.count_tokens(messages) + more
            except EngineError:  # the model had to make way for another one, which failed
                for _ in self.engine.load():
                    pass
                return self.engine.count_tokens(messages) + more

        bound = more + len((instructions or "").encode())
        bound += sum(map(_most_tokens, (*self.above, self.answer)))
        # A template may bring words of its own; a chat that is close to its limit is counted.
        is_short = bound <= self.policy.threshold * limit / 2
        return choose(
            self.above,
            instructions,
            count=(lambda _: bound) if is_short else count,
            limit=limit,
            policy=self.policy,
            before=self.before,
            using=self.answer.uses,
        )


def _most_tokens(message: StoredMessage) -> int:
    """A bound that costs nothing: no token is less than a byte."""
    size = len(message.content.encode()) + _LONGEST_EXTRA
    for use in message.uses:
        size += len(f"{use.tool}{use.arguments}{use.result}".encode()) + 8 * _LONGEST_EXTRA
    return size
