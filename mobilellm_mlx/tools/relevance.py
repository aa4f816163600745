"""Which tools a message could mean, by its words alone.

A small model that is shown tools tends to use one. So the first answer to "is a tool wanted?" is
given here, cheaply and with restraint: a message has to share telling words with a tool before the
model is asked at all. Telling are, in this order:

- a pattern that stands in one of the tool's examples or keywords too: ``3*17`` is a sum, ``a.txt``
  a file (``PATTERNS``),
- keywords of several words that stand in the message as they are,
- keywords and words of the name,
- words of the examples, of live values and of the description.

What is shared counts for less the more of the message is about something else.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from mobilellm_mlx.tools.tool import Tool

MAX_READ = 4_000
"""Characters of a message that are looked at; a request stands at its beginning."""
ENOUGH = 1.5
"""What a message must share with a tool; one keyword in a short message is enough."""

_PATTERN, _PHRASE, _KEYWORD, _NAME, _LIVE, _EXAMPLE, _DESCRIPTION = (
    3.0,
    3.0,
    2.0,
    1.6,
    1.5,
    0.7,
    0.5,
)
_GENERAL_WORD = 0.8
_EVERYDAY_PHRASE = 1.2
_CLEAR = 0.5
"""What a tool must share beside the likeliest one."""
_LONG_PHRASE = 3
"""Words of a phrase that says something even where none of them does."""
_MAX_LIVE = 1_000

_UNITS = (
    r"(?:[kcm]?m|mi|ft|in|yd|k?g|mg|lbs?|oz|st|m?l|gal|mph|kmh|km/h|°?[cf]|kwh|[kmgt]i?b|"
    r"(?:kilo|centi|milli)?(?:met(?:er|re)|gram|lit(?:er|re))s?|miles?|feet|foot|inch(?:es)?|"
    r"yards?|pounds?|ounces?|stones?|gallons?|pints?|cups?|tablespoons?|teaspoons?|celsius|"
    r"fahrenheit|kelvin|degrees?|(?:kilo|mega|giga|tera)?bytes?|acres?|hectares?|knots?)"
)
_ENDINGS = (
    r"(?:txt|md|csv|json|py|js|ts|log|toml|ya?ml|html?|pdf|docx?|xlsx?|ini|cfg|sh|rs|c|h|swift|"
    r"tex|rtf|xml)"
)
_NUMBER_WORDS = (
    r"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|"
    r"sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    r"hundred|thousand|million)"
)
PATTERNS = {
    "<sum>": re.compile(
        r"\d\s*(?:[-+*/×÷^%]|\*\*|x|plus|minus|times|over|divided by|multiplied by|mod|modulo|"
        r"to the power of|percent of)\s*\(?-?\s*[$€£]?\.?\d|(?:square|cube) root of \d|"
        r"\d\s*(?:%|percent)\s*(?:of|off|tip)|"
        r"\b(?:add|subtract|multiply|divide|(?:sum|average|total) of)\s+[$€£]?\d|"
        rf"\b{_NUMBER_WORDS}\s+(?:plus|minus|times|over|divided by|multiplied by|percent of)\s+"
        rf"(?:\d|{_NUMBER_WORDS}\b)|\b(?:half|a third|a quarter) of \d|"
        rf"\b(?:square|cube) root of {_NUMBER_WORDS}\b"
    ),
    "<measure>": re.compile(rf"\d\s*{_UNITS}\b|\d'(?:\d|\s|$)"),
    "<duration>": re.compile(
        r"\b(?:\d+|an?|one|two|five|ten|half an)[\s-]*"
        r"(?:s|secs?|seconds?|min|mins?|minutes?|h|hrs?|hours?)\b"
    ),
    "<clock>": re.compile(r"\b\d{1,2}(?::\d\d|\s*[ap]\.?m\b|\s*o'?clock)|\b(?:noon|midnight)\b"),
    "<url>": re.compile(
        r"https?://|\bwww\.|\b[a-z0-9-]{1,63}\.(?:com|org|net|io|dev|edu|gov|app|co|de|uk)\b"
    ),
    "<file>": re.compile(rf"(?:^|\s)[~.]{{0,2}}/\w|\b[\w-]{{1,64}}\.{_ENDINGS}\b"),
}
"""What stands for a whole kind of text; each may be a keyword by its name, and those that a tool's
examples hold are found by themselves."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STOP = _listed(
    "a about after all also am an and any are as ask at be been before but by can could did do "
    "does doing don't down for from get give go good got had has have he hello help her here hey "
    "hi him his how i i'd i'll i'm if in into is it it's its just kind know let let's like make "
    "many may me mean might more most much must my need no not now of off ok okay on one only or "
    "other our out over please really right say see she should show so some something still tell "
    "thank thanks that that's the their them then there these they thing things this those to too "
    "up us use using very want was way we well were what what's when where which while who whose "
    "why will with without would yes you your"
)
_GENERAL = _listed(
    "add build call change check close copy create current day delete edit find list look new "
    "number open put read run save search send set start stop system take text turn "
    "work write"
)
"""Words that many a sentence has without meaning a tool; alone they are not enough."""
_TALK = re.compile(
    r"^\W{0,8}(?:please\s+)?(?:can|could|would|will)?\s*(?:you\s+)?(?:please\s+)?"
    r"(?:explain|describe|imagine|summari[sz]e|translate|rewrite|rephrase|discuss|define|why\b|who\b)|"
    r"\b(?:write|tell|compose|make up|give|sing|invent|draft|read)\b[\w\s]{0,24}?\b"
    r"(?:stor(?:y|ies)|poems?|jokes?|essays?|haikus?|songs?|letters?|lyrics|riddles?|limericks?|blog|"
    r"functions?|scripts?|programs?|facts?|tips?|advice|speech)\b|"
    r"^\W{0,8}should i\b|\bdo you remember\b|"
    r"\bdifference between\b|\bhistory of\b|\bmeaning of\b|\bwhat does [\w\s]{1,40} mean\b|"
    r"\bhow(?: are|'re) you\b|^\W{0,8}how (?:do|does|did) (?!i\b|we\b|my\b)|"
    r"^\W{0,8}what(?:'s| is| are| does) (?:an?|the best)\b"
)
"""Requests that want words and not deeds."""
_TALK_SHARE = 0.4


def words(text: str) -> list[str]:
    """The stems of a text's words, in order, with those that mean little."""
    return [_stem(word) for word in _WORD.findall(_plain(text).replace("_", " "))]


def _plain(text: str) -> str:
    """The beginning of a text in small letters, with single spaces and straight apostrophes."""
    said = unicodedata.normalize("NFKC", text[:MAX_READ])[:MAX_READ]
    return " ".join(said.casefold().replace("’", "'").split())


def telling_words(text: str) -> set[str]:
    """The words of a text that say something."""
    return _telling(words(text))


def _telling(stems: Iterable[str]) -> set[str]:
    """The stems that say something; numbers do not, patterns are there for them."""
    return {stem for stem in stems if stem not in _STOP and not stem.isdigit()}


_ENDINGS_OF_WORDS = (
    *(("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("xes", "x"), ("ing", ""), ("ed", "")),
    ("s", ""),
)


def _stem(word: str) -> str:
    """A word without its commonest endings: enough to let "timers" find "timer"."""
    word = word.removesuffix("'s")
    if len(word) <= 3 or not word.isascii() or word in _STOP or word in _WHOLE:
        return word
    stem = word
    for ending, instead in _ENDINGS_OF_WORDS:
        if word.endswith(ending) and not word.endswith(("ss", "us", "is")):
            stem = word[: -len(ending)] + instead
            if ending in ("ing", "ed") and len(stem) > 3 and stem[-1] == stem[-2] != "l":
                stem = stem[:-1]
            break
    if len(stem) < 3 or stem in _STOP:
        return word
    shorter = stem.removesuffix("e")
    return shorter if len(shorter) >= 3 and shorter not in _STOP else stem


_WHOLE = frozenset(("times",))
"""Words that mean something else without their ending."""
_GENERAL_STEMS = frozenset(_stem(word) for word in _GENERAL)


def _patterns(text: str) -> set[str]:
    said = _plain(text)
    return {name for name, pattern in PATTERNS.items() if pattern.search(said)}


class _Entry:
    """What a tool is known by: stems and patterns with their weights, and phrases."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.weights: dict[str, float] = {}
        self.phrases: list[list[str]] = []
        for keyword in tool.keywords:
            self._add_keyword(keyword)
        self._add(words(tool.name), _NAME)
        patterns: Counter[str] = Counter()
        for example in tool.examples:
            self._add(words(example.said), _EXAMPLE)
            patterns.update(_patterns(example.said))
        # Most examples must have it: one that happens to name 71.5 kg is not about measures.
        usual = [name for name, count in patterns.items() if 2 * count > len(tool.examples)]
        self._weigh(usual, _PATTERN)
        self._add(words(tool.description), _DESCRIPTION)

    def _add_keyword(self, keyword: str) -> None:
        if keyword in PATTERNS:
            self._weigh([keyword], _PATTERN)
            return
        stems = words(keyword)
        if len(stems) == 1:
            # One that was chosen counts even when it is an everyday word.
            self._weigh(stems, _KEYWORD if stems[0] not in _GENERAL_STEMS else _GENERAL_WORD)
        elif stems:
            self.phrases.append(stems)

    def _add(self, stems: Iterable[str], weight: float) -> None:
        for stem in _telling(stems):
            self._weigh([stem], min(weight, _GENERAL_WORD) if stem in _GENERAL_STEMS else weight)

    def _weigh(self, terms: Iterable[str], weight: float) -> None:
        for term in terms:
            self.weights[term] = max(weight, self.weights.get(term, 0.0))

    def live_words(self) -> set[str]:
        """Telling words of the values that its arguments can have now."""
        found: set[str] = set()
        for live in self.tool.live.values():
            try:
                for value in list(live())[:_MAX_LIVE]:
                    found |= _telling(words(value))
            except Exception:  # a live value comes from disks, programs and servers
                continue
        return found


class Relevance:
    """Finds the tools that a message could mean.

    Args:
        tools: to choose among.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._entries = [_Entry(tool) for tool in tools]
        counts = Counter(term for entry in self._entries for term in entry.weights)
        total = len(self._entries)
        # As in BM25: a word that many tools know says little about which of them is meant.
        self._rarity = {
            term: math.log(1 + (total - count + 0.5) / (count + 0.5))
            for term, count in counts.items()
        }

    def find(self, said: str) -> list[Tool]:
        """The tools that share enough with what was said, the likeliest first."""
        scores = self.scores(said)
        # Small models choose badly among tools; one that is clearly meant need not be chosen.
        return [tool for tool, score in scores if score >= _CLEAR * scores[0][1]]

    def scores(self, said: str) -> list[tuple[Tool, float]]:
        """The same with what each shares, for those who tune it."""
        order = words(said)
        stems, patterns = _telling(order), _patterns(said)
        talks = not patterns and _TALK.search(_plain(said))
        found = []
        for entry in self._entries:
            evidence = self._evidence(entry, order, stems, patterns) * (
                _TALK_SHARE if talks else 1.0
            )
            if evidence >= ENOUGH:
                rank = sum(
                    entry.weights[term] * self._rarity[term]
                    for term in (stems | patterns) & entry.weights.keys()
                )
                rank += sum(_phrase_weight(each) for each in entry.phrases if _holds(order, each))
                found.append((entry.tool, evidence + rank))
        found.sort(key=lambda pair: -pair[1])
        return found

    def _evidence(
        self, entry: _Entry, order: list[str], stems: set[str], patterns: set[str]
    ) -> float:
        """How much of a message speaks for a tool."""
        matched = stems & entry.weights.keys()
        shared = sum(entry.weights[term] for term in matched | (patterns & entry.weights.keys()))
        for phrase in entry.phrases:
            if _holds(order, phrase):
                shared += _phrase_weight(phrase)
                matched |= stems & set(phrase)
        evidence = shared * self._focus(entry, order, matched, stems)
        if 0 < evidence < ENOUGH and entry.tool.live:
            # Asked last, and only of tools that are hinted at: live values may take a while.
            alive = (entry.live_words() & stems) - matched
            matched |= alive
            shared += _LIVE * len(alive)
            evidence = shared * self._focus(entry, order, matched, stems)
        return evidence

    def _focus(self, entry: _Entry, order: list[str], matched: set[str], stems: set[str]) -> float:
        """Less than 1 where most of a message is about something else."""
        if not stems:
            return 1.0
        if entry.tool.spoken:
            # "note: ..." is about the note, however much there is to write down.
            first = next((stem for stem in order if stem in stems - _GENERAL_STEMS), "")
            if first in matched and entry.weights.get(first, 0.0) >= _KEYWORD:
                return 1.0
        return 0.5 + 0.5 * len(matched) / len(stems)


def _holds(order: list[str], phrase: list[str]) -> bool:
    size = len(phrase)
    return any(order[at : at + size] == phrase for at in range(len(order) - size + 1))


def _phrase_weight(phrase: list[str]) -> float:
    is_telling = len(phrase) >= _LONG_PHRASE or bool(_telling(phrase))
    return _PHRASE if is_telling else _EVERYDAY_PHRASE
