"""How people ask for the built-in tools: templates in hassil's notation, and what fills them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobilellm_mlx.evals.calls.mixture import values
from mobilellm_mlx.evals.calls.mixture.values import Value, one_of
from mobilellm_mlx.tools.builtin.places import HERE


@dataclass(frozen=True, slots=True)
class Asked:
    """Ways to ask for one tool.

    Attributes:
        tool: its name.
        texts: templates; ``{name}`` is an argument.
        filled: draws the words of an argument.
        constant: arguments that nobody says.
        weight: how often, beside the other ways of the tool.
    """

    tool: str
    texts: tuple[str, ...]
    filled: Mapping[str, Value] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


def _conversions(texts: Sequence[str], count: int = 220) -> tuple[Asked, ...]:
    """Ways to ask in which the unit has to suit the quantity."""
    draw = random.Random("conversions")
    made = []
    for _ in range(count):
        quantity, target = values.a_conversion(draw)
        filled = {"quantity": one_of((quantity,)), "to_unit": one_of((target,))}
        made.append(Asked("convert_units", tuple(texts), filled))
    return tuple(made)


_PLACES: dict[str, Value] = {"from_place": one_of(values.CITIES), "to_place": one_of(values.CITIES)}

ASKS: tuple[Asked, ...] = (
    Asked(
        "calculator",
        (
            "(what is|what's|how much is|calculate|compute|work out) {expression}",
            "can you (calculate|work out|tell me) {expression}",
            "{expression}",
            "I need to know (what|how much) {expression} is",
        ),
        {"expression": values.a_sum},
    ),
    Asked(
        "current_time",
        (
            "what time is it [right now] in {place}",
            "(what's|what is) the [current] time in {place}",
            "tell me the time in {place}",
            "is it (late|early) in {place} [now]",
            "what day is it in {place}",
            "how late is it in {place}",
        ),
        {"place": one_of(values.CITIES)},
        weight=2,
    ),
    Asked(
        "current_time",
        (
            "(what time is it|what's the time) [now|right now]",
            "(what's|what is) (today's date|the date today|the date)",
            "tell me the (time|date)",
            "what day is it [today]",
            "do you know what time it is",
        ),
        constant={"place": HERE},
    ),
    Asked(
        "convert_time",
        (
            "what time is {time} in {from_place} in {to_place}",
            "when it is {time} in {from_place} what time is it in {to_place}",
            "if it is {time} in {from_place}, what is the time in {to_place}",
            "convert {time} in {from_place} to {to_place} time",
        ),
        {"time": values.a_clock, **_PLACES},
        weight=2,
    ),
    Asked(
        "convert_time",
        (
            "what time is {time} in {from_place} here",
            "when it is {time} in {from_place} what time is it here",
        ),
        {"time": values.a_clock, "from_place": one_of(values.CITIES)},
        {"to_place": HERE},
    ),
    Asked(
        "date_math",
        (
            "(what|which) (weekday|day of the week) is {date}",
            "how many days [are there] until {date}",
            "how long until {date}",
            "what (weekday|day) does {date} fall on",
        ),
        {"date": values.any_date},
    ),
    Asked(
        "days_between",
        (
            "how many days are [there] between {start} and {end}",
            "count the days from {start} to {end}",
            "how many days from {start} to {end}",
            "(tell me|what is) the number of days between {start} and {end}",
        ),
        {"start": values.a_date, "end": values.a_date},
    ),
    *_conversions(
        (
            "how many {to_unit} is {quantity}",
            "how many {to_unit} are {quantity}",
            "convert {quantity} (to|into) {to_unit}",
            "what is {quantity} in {to_unit}",
            "{quantity} in {to_unit}",
            "how much is {quantity} in {to_unit}",
        )
    ),
    Asked(
        "set_timer",
        (
            "(set|start) a timer for {duration}",
            "set a {duration} timer",
            "timer for {duration}",
            "(wake|remind) me in {duration}",
            "start a countdown of {duration}",
            "give me a timer of {duration}",
        ),
        {"duration": values.a_duration},
    ),
    Asked(
        "set_timer",
        (
            "(set|start) a timer for {duration} (called|named) {label}",
            "set a {duration} timer for the {label}",
        ),
        {"duration": values.a_duration, "label": one_of(values.LABELS)},
        weight=0.6,
    ),
    Asked(
        "set_timer",
        ("remind me in {duration} to {label}", "set a timer for {duration} to {label}"),
        {"duration": values.a_duration, "label": one_of(values.TASKS)},
        weight=0.6,
    ),
    Asked(
        "set_alarm",
        (
            "set an alarm for {time}",
            "wake me [up] at {time}",
            "(set|make) an alarm at {time}",
            "alarm for {time}",
            "I need an alarm at {time}",
            "please wake me at {time}",
        ),
        {"time": values.an_alarm},
    ),
    Asked(
        "set_alarm",
        (
            "set an alarm at {time} to {label}",
            "remind me at {time} to {label}",
            "set an alarm for {time} to {label}",
        ),
        {"time": values.an_alarm, "label": one_of(values.TASKS)},
        weight=0.7,
    ),
    Asked(
        "list_timers",
        (
            "(which|what) (timers|alarms) are (running|set)",
            "how much time is left on my timer",
            "show [me] [all] my (alarms|timers)",
            "list [all] [my] (timers|alarms)",
            "do I have any (timers|alarms) [running]",
            "when does my (timer|alarm) ring",
            "are there any (timers|alarms) set",
        ),
    ),
    Asked(
        "cancel_timer",
        (
            "(cancel|stop|delete|turn off) the {name} [timer]",
            "(cancel|stop) my {name} [timer]",
            "I don't need the {name} [timer] any more",
        ),
        {"name": one_of(values.TIMERS)},
    ),
    Asked(
        "add_note",
        (
            "note that {text}",
            "make a note: {text}",
            "write down [that] {text}",
            "take a note: {text}",
            "add a note: {text}",
            "note: {text}",
            "remember that {text}",
        ),
        {"text": one_of(values.NOTED)},
    ),
    Asked(
        "find_notes",
        (
            "find my note[s] about [the] {words}",
            "search my notes for {words}",
            "what did I (note|write down) about [the] {words}",
            "do I have a note about [the] {words}",
        ),
        {"words": one_of(values.TOPICS)},
    ),
    Asked(
        "list_notes",
        (
            "what notes do I have",
            "list [all] my notes",
            "show [me] [all] my notes",
            "which notes did I write",
            "give me a list of my notes",
            "do I have any notes",
        ),
    ),
    Asked(
        "read_note",
        (
            "read [me] my note {title}",
            "what does the note {title} say",
            "open [the|my] note {title}",
            "show me the note {title}",
            "read the {title} note",
        ),
        {"title": one_of(values.TITLES)},
    ),
    Asked(
        "delete_note",
        (
            "delete (the|my) note {title}",
            "remove (the|my) note {title}",
            "throw away the note {title}",
            "erase my {title} note",
        ),
        {"title": one_of(values.TITLES)},
    ),
    Asked(
        "search_chats",
        (
            "what did we say about [the] {words}",
            "search my chats for {words}",
            "find the chat where I asked about [the] {words}",
            "when did we talk about [the] {words}",
            "find our conversation about [the] {words}",
        ),
        {"words": one_of(values.TOPICS)},
    ),
    Asked(
        "list_files",
        (
            "what is in my {folder} folder",
            "(show me|list) the files in {folder}",
            "which files are in {folder}",
            "list the {folder} folder",
        ),
        {"folder": values.a_folder},
    ),
    Asked(
        "read_file",
        (
            "read {path}",
            "what does {path} say",
            "(open|show me) the file {path}",
            "what is in {path}",
            "read [me] the file {path}",
        ),
        {"path": values.a_path},
    ),
    Asked(
        "search_files",
        (
            "which of my files mention [the] {words}",
            "find files about [the] {words}",
            "search my files for {words}",
            "look for {words} in my files",
        ),
        {"words": one_of(values.TOPICS)},
    ),
    Asked(
        "search_files",
        ("search {folder} for {words}", "search the folder {folder} for {words}"),
        {"words": one_of(values.TOPICS), "folder": values.a_folder},
        weight=0.5,
    ),
    Asked(
        "read_clipboard",
        (
            "what is (on|in) my clipboard",
            "what did I [just] copy",
            "(read|show) [me] the clipboard",
            "what have I copied",
            "read out what I copied",
            "paste what I copied",
        ),
    ),
    Asked(
        "copy_to_clipboard",
        (
            "copy {text} to the clipboard",
            "put {text} on my clipboard",
            "copy {text} to my clipboard",
        ),
        {"text": one_of(values.TEXTS)},
    ),
    Asked(
        "open_url",
        (
            "(open|go to|visit) {url}",
            "open {url} in the browser",
            "take me to {url}",
            "show me the website {url}",
        ),
        {"url": one_of(values.SITES)},
    ),
    Asked(
        "open_app",
        (
            "(open|start|launch) {name}",
            "(open|start|launch) the {name} app",
            "can you open {name} for me",
            "I want to use {name}",
        ),
        {"name": one_of(values.APPS)},
    ),
    Asked(
        "system_status",
        (
            "how (full|charged) is my battery",
            "what is my battery level",
            "is my (mac|computer|laptop) charging",
            "how much battery [charge] is left",
        ),
        constant={"what": "battery"},
    ),
    Asked(
        "system_status",
        (
            "how much (disk|storage) space is left",
            "is my disk full",
            "how full is my disk",
            "how much [free] space do I have [on my disk]",
        ),
        constant={"what": "disk"},
    ),
    Asked(
        "system_status",
        (
            "how much memory is (free|used)",
            "how much RAM (do I have|is in use)",
            "is my memory full",
        ),
        constant={"what": "memory"},
    ),
    Asked(
        "system_status",
        (
            "am I (online|offline|connected)",
            "is the (network|wifi) working",
            "am I connected to the (network|wifi|internet)",
        ),
        constant={"what": "network"},
    ),
    Asked(
        "system_status",
        ("how is my (computer|mac) doing", "what is the state of my (computer|mac)"),
        constant={"what": "all"},
        weight=0.5,
    ),
    Asked(
        "run_shortcut",
        (
            "run my {name} shortcut",
            "run [the] shortcut {name}",
            "start the {name} shortcut",
            "run {name}",
        ),
        {"name": one_of(values.SHORTCUTS)},
    ),
    Asked(
        "run_shortcut",
        ("run {name} with {input}", "run the shortcut {name} with {input}"),
        {"name": one_of(values.SHORTCUTS), "input": one_of(values.INPUTS)},
        weight=0.4,
    ),
)
"""All ways, by tool."""
