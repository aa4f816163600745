"""Chats as JSON: nothing is lost on the way, and nothing is believed on the way back."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilellm_mlx.chat.exchange import WholeChat, from_json, renew, to_json
from mobilellm_mlx.chat.records import ChatRecord, Generation, StoredMessage, ToolUse
from mobilellm_mlx.chat.tree import branch
from mobilellm_mlx.errors import InvalidInput
from mobilellm_mlx.tools.checking import check_arguments
from mobilellm_mlx.tools.tool import Tool

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def small_chat(chat_id: str = "c1") -> WholeChat:
    """A question with two answers, the second of which is shown."""
    made = Generation("tiny", bits=4, options={"seed": 2**64 - 1, "stop": ["x"]}, tokens=(5, 7))
    messages = [
        StoredMessage(f"{chat_id}-q", chat_id, None, "user", "why?", NOON, pinned=True),
        StoredMessage(f"{chat_id}-a", chat_id, f"{chat_id}-q", "assistant", "so", NOON),
        StoredMessage(
            f"{chat_id}-b", chat_id, f"{chat_id}-q", "assistant", "thus\x1b", NOON, "hm", "stopped",
            made=(replace(made, left_out=(f"{chat_id}-q",)), made),
        ),
    ]  # fmt: skip
    chat = ChatRecord(chat_id, NOON, NOON, "Why?", leaf_id=f"{chat_id}-b", messages=3)
    return WholeChat(chat, messages)


# ---------------------------------------------------------------- there and back

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
moments = st.datetimes(
    min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
)
wholes = st.integers(0, 2**40)
numbers = st.floats(0, 1e9)
plain = st.one_of(st.none(), st.booleans(), st.integers(0, 2**64 - 1), numbers, texts)
parts_of_a_generation = {
    **dict.fromkeys(
        ("model", "model_path", "fingerprint", "compute", "dtype", "backend", "stop_reason"), texts
    ),
    **dict.fromkeys(("adapter", "instructions"), st.none() | texts),
    "begun_text": texts,
    "grammar": texts,
    **dict.fromkeys(("prompt_tokens", "cached_tokens", "reasoning_tokens"), wholes),
    **dict.fromkeys(("context_used", "context_limit", "memory_bytes"), wholes),
    **dict.fromkeys(("ttft_s", "prefill_tok_per_s", "decode_tok_per_s"), numbers),
    "peak_memory_bytes": wholes,
    "bits": st.none() | wholes,
    "options": st.dictionaries(texts, plain | st.lists(plain, max_size=3), max_size=4),
    "tokens": st.lists(wholes, max_size=9).map(tuple),
    "left_out": st.lists(texts, max_size=2).map(tuple),
}
generations = st.builds(Generation, **parts_of_a_generation)
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=2) | st.dictionaries(texts, v, max_size=2)
)
parts_of_a_use = {
    **dict.fromkeys(("id", "tool", "words", "source", "allowed", "status", "result"), texts),
    "format": texts,
    "arguments": st.dictionaries(texts, values, max_size=3),
    "is_shortened": st.booleans(),
    **dict.fromkeys(("tokens", "forced_tokens", "forward_passes"), wholes),
    **dict.fromkeys(("chosen_s", "elapsed_s"), numbers),
}
uses = st.builds(ToolUse, **parts_of_a_use)


@st.composite
def whole_chats(draw: st.DrawFn) -> WholeChat:
    chat_id = draw(st.text("0123456789abcdef", min_size=1))
    messages: list[StoredMessage] = []
    for at in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([None, *(message.id for message in messages)]))
        messages.append(
            StoredMessage(
                f"{chat_id}.{at}", chat_id, parent,
                draw(st.sampled_from(["system", "user", "assistant", "tool"])),
                draw(texts), draw(moments), draw(texts),
                draw(st.sampled_from(["complete", "partial", "stopped", "failed"])),
                draw(st.booleans()), draw(st.booleans()),
                tuple(draw(st.lists(generations, max_size=2))),
                tuple(draw(st.lists(uses, max_size=2))),
            )
        )  # fmt: skip
    chat = draw(
        st.builds(
            ChatRecord,
            id=st.just(chat_id), created_at=moments, updated_at=moments, title=texts,
            named=st.booleans(), pinned=st.booleans(), deleted_at=st.none() | moments,
            instructions=st.none() | texts, model=texts,
            leaf_id=st.sampled_from([None, *(message.id for message in messages)]),
            messages=st.just(sum(not message.deleted for message in messages)),
        )
    )  # fmt: skip
    return WholeChat(chat, messages)


@given(whole_chats())
@settings(max_examples=60)
def test_a_chat_comes_back_as_it_went(whole: WholeChat) -> None:
    text = to_json([whole])
    assert from_json(text.encode()) == [whole]
    assert to_json(from_json(text.encode())) == text


@given(whole_chats())
@settings(max_examples=30)
def test_a_renewed_chat_is_the_same_under_other_ids(whole: WholeChat) -> None:
    fresh = renew(whole)
    old = {whole.chat.id, *(message.id for message in whole.messages)}
    assert not old & {fresh.chat.id, *(message.id for message in fresh.messages)}
    assert [m.content for m in fresh.messages] == [m.content for m in whole.messages]
    assert sorted(m.id for m in fresh.messages) == [m.id for m in fresh.messages]
    if whole.chat.leaf_id is not None:
        shown = [m.content for m in branch(whole.messages, whole.chat.leaf_id)]
        assert [m.content for m in branch(fresh.messages, fresh.chat.leaf_id)] == shown
    assert {m.chat_id for m in fresh.messages} <= {fresh.chat.id}


def test_a_chat_that_does_not_say_where_it_ends_is_shown_up_to_its_newest_message() -> None:
    small = small_chat()
    newest = replace(small.messages[1], created_at=NOON + timedelta(hours=1))
    gone = replace(small.messages[2], created_at=NOON + timedelta(hours=2), deleted=True)
    messages = [small.messages[0], newest, gone]
    fresh = renew(WholeChat(replace(small.chat, leaf_id=None), messages))
    assert [m.content for m in branch(fresh.messages, fresh.chat.leaf_id)] == ["why?", "so"]


def test_a_chat_that_was_deleted_where_it_comes_from_is_not_deleted_here() -> None:
    small = small_chat()
    fresh = renew(WholeChat(replace(small.chat, deleted_at=NOON), small.messages))
    assert fresh.chat.deleted_at is None


def test_no_field_of_a_generation_is_forgotten_above() -> None:
    assert {field.name for field in fields(Generation)} == set(parts_of_a_generation)
    assert {field.name for field in fields(ToolUse)} == set(parts_of_a_use)


def test_a_message_has_a_line_of_its_own_that_cannot_steer_a_terminal() -> None:
    lines = to_json([small_chat()]).splitlines()
    assert len(lines) == 1 + 1 + 3 + 2
    assert all(line.isprintable() for line in lines)
    assert json.loads("\n".join(lines))["version"] == 1


def test_no_chat_at_all_is_a_document_too() -> None:
    assert from_json(to_json([]).encode()) == []


def test_a_speed_that_json_cannot_say_becomes_none() -> None:
    whole = small_chat()
    made = Generation("tiny", decode_tok_per_s=float("inf"), ttft_s=float("nan"))
    text = to_json([WholeChat(whole.chat, [replace(whole.messages[0], made=(made,))])])
    assert '"decode_tok_per_s": 0.0' in text


# ---------------------------------------------------------------- ids


def test_a_chat_that_is_there_twice_gets_new_ids_the_second_time() -> None:
    first, second = from_json(to_json([small_chat(), small_chat()]).encode())
    assert first == small_chat()
    assert second.chat.id != first.chat.id
    assert not {m.id for m in first.messages} & {m.id for m in second.messages}
    answer = second.messages[2]
    assert answer.parent_id == second.messages[0].id and answer.id == second.chat.leaf_id
    assert answer.made[0].left_out == (second.messages[0].id,)


def test_a_message_of_another_chat_cannot_be_taken_over() -> None:
    thief = small_chat()
    thief = WholeChat(replace(thief.chat, id="c2"), thief.messages)
    _, second = from_json(to_json([small_chat(), thief]).encode())
    assert not {m.id for m in second.messages} & {m.id for m in small_chat().messages}


def test_a_message_id_that_is_there_twice_is_replaced() -> None:
    whole = small_chat()
    twice = [*whole.messages, replace(whole.messages[1], content="again")]
    (read,) = from_json(to_json([WholeChat(whole.chat, twice)]).encode())
    assert len({m.id for m in read.messages}) == 4
    assert read.messages[3].content == "again" and read.messages[3].parent_id == "c1-q"


def test_answers_before_their_questions_are_put_in_order() -> None:
    whole = small_chat()
    (read,) = from_json(to_json([WholeChat(whole.chat, whole.messages[::-1])]).encode())
    assert [m.id for m in read.messages] == ["c1-q", "c1-b", "c1-a"]


def test_a_long_chat_backwards_takes_no_time() -> None:
    whole = small_chat()
    chain = [
        StoredMessage(f"m{at}", "c1", f"m{at - 1}" if at else None, "user", "x", NOON)
        for at in range(5000)
    ]
    chat = replace(whole.chat, leaf_id="m4999", messages=5000)
    (read,) = from_json(to_json([WholeChat(chat, chain[::-1])]).encode())
    assert read.messages == chain


# ---------------------------------------------------------------- hostile files


def edited(change) -> bytes:
    """The small chat's document after a change to its parsed form."""
    document = json.loads(to_json([small_chat()]))
    change(document)
    return json.dumps(document).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidInput) as refused:
        from_json(data)
    assert len(refused.value.message) < 200 and "\n" not in refused.value.message
    return refused.value.message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{", "not JSON: "),
        (b"[" * 100_000, "a value that no chat has"),
        (b"1" * 5000, "a value that no chat has"),
        (b'{"format": NaN}', "a value that no chat has"),
        (b"[]", "not of the format"),
        (b"null", "not of the format"),
        (b'{"messages": []}', "not of the format"),
        (b'{"format": "mobilellm-chat"}', "an unknown one"),
        (b'{"format": "mobilellm-chat", "version": true}', "an unknown one"),
        (b'{"format": "mobilellm-chat", "version": 2, "chats": []}', "is 2, this program reads 1"),
        (b'{"format": "mobilellm-chat", "version": 1}', "a list `chats`"),
        (b'{"format": "mobilellm-chat", "version": 1, "chats": {}}', "a list `chats`"),
        (b'{"format": "mobilellm-chat", "version": 1, "chats": [1]}', "`chats[0]` is not a chat"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value[:24]),
)
def test_what_is_no_document_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, m: c.pop("id"), "`chats[0]` has no `id`"),
        (lambda c, m: c.update(colour="red"), "`chats[0]` has a field `colour`"),
        (lambda c, m: c.update(messages={}), "no list `messages`"),
        (lambda c, m: c.update(title=7), "`chats[0].title` is 7, expected text"),
        (lambda c, m: c.update(title="\ud800"), "half a character"),
        (lambda c, m: c.update(pinned="yes"), "expected true or false"),
        (lambda c, m: c.update(pinned=1), "expected true or false"),
        (lambda c, m: c.update(created_at="yesterday"), "expected a time"),
        (lambda c, m: c.update(created_at="2026-03-01T12:00:00"), "expected a time"),
        (lambda c, m: c.update(created_at="0001-01-01T00:00:00+23:00"), "expected a time"),
        (lambda c, m: c.update(leaf_id="nobody"), "not in the chat"),
        (lambda c, m: m[0].pop("content"), "`chats[0].messages[0]` has no `content`"),
        (lambda c, m: m[0].update(chat_id="other"), "has a field `chat_id`"),
        (lambda c, m: m[0].update(content=None), "messages[0].content` is None, expected text"),
        (lambda c, m: m[0].update(role="root"), "expected one of system, user"),
        (lambda c, m: m[0].update(role=["user"]), "expected one of system, user"),
        (lambda c, m: m[0].update(status="fine"), "expected one of complete"),
        (lambda c, m: m[1].update(parent_id="nobody"), "answers `nobody`, which is not there"),
        (lambda c, m: m[0].update(parent_id="c1-b"), "in a circle"),
        (lambda c, m: m[0].update(parent_id="c1-q"), "in a circle"),
        (lambda c, m: m.append("text"), "messages[3]` is 'text', expected an object"),
        (lambda c, m: m[2].update(made={}), "made` is dict, expected a list"),
        (lambda c, m: m[2]["made"][0].update(tokens=[1, "2"]), "tokens[1]` is '2'"),
        (lambda c, m: m[2]["made"][0].update(tokens=[True]), "tokens[0]` is True"),
        (lambda c, m: m[2]["made"][0].update(bits=2**63), "expected a whole number"),
        (lambda c, m: m[2]["made"][0].update(ttft_s="fast"), "expected a number"),
        (lambda c, m: m[2]["made"][0].update(options=[]), "options` is list, expected an object"),
        (lambda c, m: m[2]["made"][0].update(options={"a": {}}), "options.a` is dict"),
        (lambda c, m: m[2]["made"][0].update(options={"a": [[]]}), "options.a` is list"),
        (lambda c, m: m[2]["made"][0].update(options={"a": "\ud800"}), "half a character"),
        (lambda c, m: m[2]["made"][0].update(options={"a": 2**70}), "options.a` is"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place(change, said: str) -> None:
    data = edited(lambda document: change(document["chats"][0], document["chats"][0]["messages"]))
    assert said in refusal(data)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    data = to_json([small_chat()]).replace('"bits": 4', '"ttft_s": 1e999').encode()
    assert "expected a number" in refusal(data)


def test_a_file_that_is_too_large_is_not_even_parsed(monkeypatch) -> None:
    from mobilellm_mlx.chat.exchange import document

    monkeypatch.setattr(document, "LARGEST_BYTES", 100)
    assert "is 1 kB, at most 100 B" in refusal(b" " * 1000)


def test_times_in_other_zones_are_understood() -> None:
    data = edited(lambda d: d["chats"][0].update(created_at="2026-03-01T14:00:00+02:00"))
    (read,) = from_json(data)
    assert read.chat.created_at == NOON and read.chat.created_at.utcoffset() == timedelta(0)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert from_json(b"\xef\xbb\xbf" + to_json([small_chat()]).encode()) == [small_chat()]


def test_whatever_a_tool_may_be_called_with_comes_back() -> None:
    deep: object = 1e300
    for _ in range(32):  # as deep as ``check_arguments`` allows
        deep = [deep]
    arguments: dict[str, object] = {"deep": deep, "large": 2**80}
    check_arguments(Tool("t", "Do.", {"type": "object"}, lambda *_: ""), arguments)
    chat = small_chat()
    answer = replace(chat.messages[1], uses=(ToolUse("u", "t", arguments),))
    chat = replace(chat, messages=[chat.messages[0], answer, chat.messages[2]])
    assert from_json(to_json([chat]).encode()) == [chat]
