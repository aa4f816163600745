"""Finding words in titles and messages.

Whatever a person types is looked for as words; SQLite's query language is not offered, so nothing
can be wrong with a query.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

from mobilellm_mlx.chat.records import ChatRecord, SearchHit
from mobilellm_mlx.chat.store.rows import SELECT_CHATS, chat_from, clean, fetch, message_from

_WORDS = re.compile(r'"([^"]*)"|([^\s"]+)')
_WORDS_LIMIT = 32
_OPEN, _SHUT = "\ufdd0", "\ufdd1"
"""Around every find in what SQLite gives back: noncharacters of Unicode, not found in texts."""

# What a terminal must not see is out before the places of the marks are counted.
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")
_EXCERPT_TOKENS = 24
_EXCERPT_LENGTH, _EXCERPT_LEAD = 240, 60
_HALF_WORTH_DAYS = 90

# bm25 is negative, and the more so the better the match; age moves it towards zero.
_FIND_MESSAGES = f"""
    SELECT messages.number
    FROM messages_search
    JOIN messages ON messages.number = messages_search.rowid
    JOIN chats ON chats.id = messages.chat_id
    WHERE messages_search MATCH :words
        AND messages.deleted_at IS NULL AND chats.deleted_at IS NULL
    ORDER BY bm25(messages_search) / (
        1 + max(0, julianday('now') - julianday(messages.created_at)) / {_HALF_WORTH_DAYS}
    ), messages.number DESC
    LIMIT :limit
"""

# The plus keeps SQLite from running the whole query again for each of the rows.
_READ_MESSAGES = f"""
    SELECT messages.*,
        snippet(messages_search, 0, '{_OPEN}', '{_SHUT}', '…', {_EXCERPT_TOKENS}) AS excerpt
    FROM messages_search
    JOIN messages ON messages.number = messages_search.rowid
    WHERE messages_search MATCH :words AND +messages_search.rowid IN ({{numbers}})
"""

_FIND_TITLES = f"""
    SELECT chats.*, highlight(chats_search, 0, '{_OPEN}', '{_SHUT}') AS excerpt
    FROM chats_search
    JOIN chats ON chats.number = chats_search.rowid
    WHERE chats_search MATCH :words AND chats.deleted_at IS NULL
    ORDER BY chats.updated_at DESC
    LIMIT :limit
"""


def search_expression(query: str) -> str | None:
    """``query`` as FTS5 wants it: all words, the last one perhaps unfinished, phrases in quotes.

    None if there is no word in it.
    """
    terms = []
    for match in _WORDS.finditer(_BLANK.sub(" ", clean(query))):
        phrase, word = match.groups()
        text = phrase if word is None else word
        if any(letter.isalnum() for letter in text):
            terms.append(f'"{text}"' if word is None else f'"{text}" *')
    *firsts, last = terms[:_WORDS_LIMIT] or [""]
    return " ".join([*(term.removesuffix(" *") for term in firsts), last]) or None


def search(connection: sqlite3.Connection, query: str, limit: int) -> list[SearchHit]:
    """Chats whose title matches, newest first, then messages, the best and newest first."""
    words = search_expression(query)
    if words is None or limit <= 0:
        return []
    hits = _titles(connection, words, limit)
    return hits + _messages(connection, words, limit - len(hits))


def _titles(connection: sqlite3.Connection, words: str, limit: int) -> list[SearchHit]:
    found = list(fetch(connection.execute(_FIND_TITLES, {"words": words, "limit": limit})))
    chats = _chats(connection, [row["id"] for row in found])
    hits = []
    for row in found:
        chat = chats[row["id"]]
        excerpt, marks = read_marks(row["excerpt"])
        hits.append(SearchHit(chat, chat.leaf_id or "", "user", chat.updated_at, excerpt, marks))
    return hits


def _messages(connection: sqlite3.Connection, words: str, limit: int) -> list[SearchHit]:
    found = connection.execute(_FIND_MESSAGES, {"words": words, "limit": limit})
    numbers = [number for (number,) in found]
    query = _READ_MESSAGES.format(numbers=",".join(map(str, numbers)))
    rows = {row["number"]: row for row in fetch(connection.execute(query, {"words": words}))}
    chats = _chats(connection, [row["chat_id"] for row in rows.values()])
    hits = []
    for number in numbers:
        message = message_from(rows[number])
        excerpt, marks = read_marks(rows[number]["excerpt"])
        hits.append(
            SearchHit(
                chats[message.chat_id],
                message.id,
                message.role,
                message.created_at,
                excerpt,
                marks,
            )
        )
    return hits


def _chats(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, ChatRecord]:
    unique = list(dict.fromkeys(ids))
    places = ",".join("?" * len(unique))
    query = f"{SELECT_CHATS} WHERE chats.id IN ({places})"
    return {row["id"]: chat_from(row) for row in fetch(connection.execute(query, unique))}


def read_marks(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text of one line, and where in it the finds are, from one with signs around them."""
    text, marks, begun = "", [], None
    for part in re.split(f"([{_OPEN}{_SHUT}])", _BLANK.sub(" ", marked).strip()):
        if part == _OPEN:
            begun = len(text)
        elif part == _SHUT:
            if begun is not None:
                marks.append((begun, len(text)))
            begun = None
        else:
            text += part
    if len(text) <= _EXCERPT_LENGTH:
        return text, tuple(marks)
    # Words can be very long: a picture as text, a script that writes without spaces.
    start = max(0, marks[0][0] - _EXCERPT_LEAD) if marks else 0
    end = start + _EXCERPT_LENGTH
    seen = [(max(a, start) - start, min(b, end) - start) for a, b in marks if start <= a < end]
    return text[start:end], tuple(seen)
