"""A chat's title, made from its first question and answer without asking a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

LONGEST = 48
"""Most characters of a title."""
_READ = 1000
"""Most characters of a line or a paragraph that are looked at."""
_LINES = 200
"""Most lines that are looked at, those of code blocks not counted."""

_HELLO = (
    r"(?:hi|hello|hey|hiya|yo|hallo|hola|ciao|bonjour|salut|moin|servus|greetings|welcome|namaste"
    r"|(?:good|guten) (?:morning|afternoon|evening|day|morgen|tag|abend))"
    r"(?: (?:there|again|all|everyone|friend|assistant))*"
)
_GREETING = re.compile(rf"{_HELLO}(?:\s*[,.!;:–—-]+\s*|\s*$)", re.IGNORECASE)
_SMALL_TALK = re.compile(r"(?:how are you(?: doing)?(?: today)?|what's up|test(?:ing)?)\W*$", re.I)

_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
# Tables, rules, targets of links, nothing at all.
_NO_WORDS = re.compile(r"\s*(?:\|.*|[-=*_\s]*|\[[^\]]*\]:.*)$")
_BLOCK_MARKS = re.compile(r"\s*(?:(?:#{1,6}\s+|>\s?|[-*+]\s+(?:\[[ xX]\]\s+)?|\d{1,3}[.)]\s+)\s*)+")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s[^()]*)?\)")
_EMPHASIS = re.compile(r"(?<![\w*_])([*_]{1,3}|~~)(?=\S)([^*_~]+)(?<=\S)\1(?![\w*_])")
_CODE = re.compile(r"(`+)([^`]+)\1")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")

# A full stop ends no sentence after "e.g.", "Dr." or a lone letter.
_END = re.compile(
    r"(?<!\b[A-Za-z])(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bvs)(?<!\betc)[.!?…]+(?=\s)|[。！？]"
)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_JOINERS = "\u200c\u200d"
"""Invisible, but parts of words and of emoji."""


def make_title(question: str, answer: str = "") -> str:
    """A title of at most 48 characters on one line; empty when neither text has words.

    It is the first sentence of the question in plain words. A mere greeting or a question that is
    all code says nothing about a chat, so then the answer is asked, and only after it the greeting.

    Args:
        question: what was said first; Markdown, attached files and all.
        answer: what came back, perhaps nothing yet.
    """
    for text in (question, answer):
        if subject := _subject(text):
            return _shorten(subject)
    words = next(_passages(question), "") or _safe(question[:_READ].replace("`", " "))
    return _shorten(words)


def _subject(text: str) -> str:
    """The first sentence that is about something."""
    for passage in _passages(text):
        while greeting := _GREETING.match(passage):
            passage = passage[greeting.end() :]
        for sentence in _sentences(passage):
            if not _SMALL_TALK.match(sentence) and any(char.isalnum() for char in sentence):
                return sentence
    return ""


def _sentences(text: str) -> Iterator[str]:
    at = 0
    for end in _END.finditer(text):
        yield text[at : end.end()].strip()
        at = end.end()
    yield text[at:].strip()


def _passages(text: str) -> Iterator[str]:
    """The paragraphs, headings and list items of a Markdown text in plain words, one line each."""
    lines: list[str] = []
    for line in islice(_outside_code(text), _LINES):
        line = line[:_READ]
        mark = _BLOCK_MARKS.match(line)
        ends = _NO_WORDS.match(line)
        if mark or ends:
            yield from _plain(lines)
            lines = []
        if not ends:
            lines.append(line[mark.end() :] if mark else line)
    yield from _plain(lines)


def _plain(lines: list[str]) -> Iterator[str]:
    """Lines as one line without Markdown's marks, unless nothing is left of them."""
    text = " ".join(lines)[:_READ]
    for pattern, kept in ((_LINK, r"\1"), (_CODE, r"\2"), (_TAG, " ")):
        text = pattern.sub(kept, text)
    for _ in range(3):  # emphasis within emphasis
        text = _EMPHASIS.sub(r"\2", text)
    if text := _safe(text):
        yield text


def _outside_code(text: str) -> Iterator[str]:
    """The lines that are in no fenced block; one that is never closed runs to the end."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if not fence and not mark:
            yield line
        elif mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~"):
            fence = ""


def _safe(text: str) -> str:
    """One line without what could steer a terminal or turn the direction of writing."""
    text = _ESCAPES.sub("", text)
    shown = (" " if char.isspace() else char for char in text)
    kept = "".join(char for char in shown if char.isprintable() or char in _JOINERS)
    return " ".join(kept.split())


def _shorten(text: str) -> str:
    """At most 48 characters, cut between words where there are any."""
    text = text.rstrip(" .,:;!–—-")
    if len(text) > LONGEST:
        head = text[: LONGEST - 1]
        whole = head if text[LONGEST - 1] == " " else head.rpartition(" ")[0]
        text = (whole if len(whole) >= LONGEST // 2 else head).rstrip(f" .,:;!?–—-{_JOINERS}") + "…"
    first, capital = text.partition(" ")[0], text[:1].upper()
    plain = first.isalpha() and first.islower() and len(capital) == 1
    return capital + text[1:] if plain else text
