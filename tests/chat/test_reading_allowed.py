"""Leave for all that only reads, given while an answer is being made."""

from __future__ import annotations

from mobilellm_mlx.events import ToolAllowed
from mobilellm_mlx.tools.tool import Answer
from tests.chat.callers import CALL, Notes, Person, ask, make_session, only


def test_after_leave_for_all_that_only_reads_the_next_reading_call_is_not_asked_for() -> None:
    notes, person = Notes(reads_only=True), Person(Answer(True, "reading"))
    session = make_session("note", CALL, "Done.", "note", CALL, "Done.", notes=notes, person=person)
    assert only(ask(session), ToolAllowed).by == "you"
    assert only(ask(session, "note: more"), ToolAllowed).by == "reads only"
    assert len(person.asked) == 1 and len(notes.ran) == 2
    assert session.tools is not None and session.tools.approvals.rules == ()  # it is no rule


def test_what_may_change_something_is_asked_for_all_the_same() -> None:
    notes, person = Notes(), Person()
    session = make_session("note", CALL, "Done.", notes=notes, person=person, reads_freely=True)
    assert only(ask(session), ToolAllowed).by == "you" and len(person.asked) == 1
