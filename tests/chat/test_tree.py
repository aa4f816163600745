"""The tree of a chat: branches, versions of a message, and the way back to the newest end."""

from datetime import UTC, datetime

from mobilellm_mlx.chat.records import StoredMessage
from mobilellm_mlx.chat.tree import branch, newest_leaf, siblings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def node(id: str, parent: str | None, *, deleted: bool = False) -> StoredMessage:
    """A message whose role its id tells: questions begin with q."""
    role = "user" if id.startswith("q") else "assistant"
    return StoredMessage(id, "chat", parent, role, f"text of {id}", NOON, deleted=deleted)


#   q1 -- a1 -- q2 -- a2
#      \      \ q3 (an edited q2) -- a3
#       a4 (a1 once more)
TREE = [
    node("q1", None),
    node("a1", "q1"),
    node("q2", "a1"),
    node("a2", "q2"),
    node("q3", "a1"),
    node("a3", "q3"),
    node("a4", "q1"),
]


def ids(messages: list[StoredMessage]) -> list[str]:
    return [message.id for message in messages]


def deleted(*gone: str) -> list[StoredMessage]:
    return [node(m.id, m.parent_id, deleted=m.id in gone) for m in TREE]


def test_a_branch_is_the_way_from_the_root_to_its_leaf() -> None:
    assert ids(branch(TREE, "a2")) == ["q1", "a1", "q2", "a2"]
    assert ids(branch(TREE, "a3")) == ["q1", "a1", "q3", "a3"]
    assert ids(branch(TREE, "q1")) == ["q1"]


def test_without_a_leaf_nothing_is_shown() -> None:
    assert branch(TREE, None) == branch(TREE, "nobody") == branch([], "q1") == []


def test_a_deleted_turn_is_passed_over_and_what_follows_stays() -> None:
    assert ids(branch(deleted("q1", "a1"), "a2")) == ["q2", "a2"]
    assert ids(branch(deleted("q2", "a2"), "a2")) == ["q1", "a1"]


def test_the_versions_of_a_message_answer_the_same_one() -> None:
    assert ids(siblings(TREE, "q3")) == ids(siblings(TREE, "q2")) == ["q2", "q3"]
    assert ids(siblings(TREE, "a1")) == ["a1", "a4"]
    assert ids(siblings(TREE, "q1")) == ["q1"]
    assert siblings(TREE, "nobody") == []


def test_a_chat_can_begin_in_two_ways() -> None:
    assert ids(siblings([*TREE, node("q5", None)], "q1")) == ["q1", "q5"]


def test_deleted_versions_do_not_count_but_the_one_asked_for_does() -> None:
    assert ids(siblings(deleted("q2"), "q3")) == ["q3"]
    assert ids(siblings(deleted("q2"), "q2")) == ["q2", "q3"]


def test_a_question_is_no_version_of_an_answer() -> None:
    assert ids(siblings([*TREE, node("q5", "q1")], "a1")) == ["a1", "a4"]


def test_a_message_leads_on_to_where_something_was_said_last() -> None:
    assert newest_leaf(TREE, "a1") == "a3"
    assert newest_leaf(TREE, "q2") == "a2"
    assert newest_leaf(TREE, "q1") == "a4"
    assert newest_leaf(TREE, "a3") == "a3"


def test_no_branch_ends_with_what_was_deleted() -> None:
    assert newest_leaf(deleted("q3", "a3"), "a1") == "a2"
    assert newest_leaf(deleted("a2"), "q2") == "q2"
    assert newest_leaf(deleted("q2", "a2"), "q2") == "q2"


def test_a_circle_of_parents_ends_the_walk() -> None:
    circle = [node("q1", "a1"), node("a1", "q1"), node("q9", "q9")]
    assert ids(branch(circle, "a1")) == ["q1", "a1"]
    assert ids(branch(circle, "q9")) == ["q9"]
    assert newest_leaf(circle, "q1") == "a1"


def test_a_missing_parent_is_where_the_branch_begins() -> None:
    assert ids(branch([node("a1", "gone"), node("q2", "a1")], "q2")) == ["a1", "q2"]
