"""An answer has at most as many calls as a turn makes, whoever wrote it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mobilellm_mlx.chat.exchange import from_json, to_json
from mobilellm_mlx.chat.records import MAX_USES, StoredMessage, ToolUse
from mobilellm_mlx.chat.store import Store
from mobilellm_mlx.errors import InvalidInput
from tests.chat.stored import chat, message
from tests.chat.test_exchange import small_chat


def answer_with(count: int) -> StoredMessage:
    uses = tuple(ToolUse(str(n), "calculator", {"expression": "1+1"}) for n in range(count))
    return replace(small_chat().messages[1], uses=uses)


def written_with(count: int) -> bytes:
    whole = small_chat()
    messages = [whole.messages[0], answer_with(count), whole.messages[2]]
    return to_json([replace(whole, messages=messages)]).encode()


def test_a_chat_with_more_calls_than_a_turn_makes_is_refused() -> None:
    (kept,) = from_json(written_with(MAX_USES))
    assert len(kept.messages[1].uses) == MAX_USES == 64
    with pytest.raises(InvalidInput, match=r"messages\[1\].uses` are 65, at most 64 are taken"):
        from_json(written_with(MAX_USES + 1))


def test_a_history_with_more_calls_than_a_turn_makes_is_cut() -> None:
    store = Store()
    store.add_chat(chat())
    uses = tuple(ToolUse(str(n), "calculator", {}) for n in range(MAX_USES + 9))
    store.save(message("a", "x", role="assistant", uses=uses))
    (found,) = store.messages("c")
    assert found.uses == uses[:MAX_USES]
    store.close()
