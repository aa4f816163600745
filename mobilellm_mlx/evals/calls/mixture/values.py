"""What people put into requests: sums, quantities, dates, names of an invented person's things."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Value = Callable[[random.Random], str | tuple[str, str]]
"""Draws a value; a pair is the words for it and the value itself."""


def one_of(values: Sequence[str]) -> Value:
    return lambda draw: draw.choice(values)


def _number(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.55:
        return str(draw.randint(2, 99))
    if kind < 0.8:
        return str(draw.randint(100, 2500))
    return f"{draw.randint(1, 60)}.{draw.choice(('5', '25', '75', '2', '8'))}"


def a_sum(draw: random.Random) -> str:
    a, b, c = (_number(draw) for _ in range(3))
    small = str(draw.randint(2, 12))
    forms = (
        *(f"{a} {sign} {b}" for sign in "+-*/"),
        *(f"{a} {word} {b}" for word in ("plus", "minus", "times", "divided by")),
        f"{draw.randint(1, 60)}% of {b}",
        f"{draw.randint(1, 60)} percent of {b}",
        f"({a} + {b}) * {small}",
        f"({a} - {b}) / {small}",
        f"{a} + {b} + {c}",
        f"{small} * {a} + {b}",
        f"sqrt({draw.randint(2, 900)})",
        f"{small} squared",
        f"{small}^{draw.randint(2, 9)}",
        f"the square root of {draw.randint(2, 400)}",
    )
    return draw.choice(forms)


_UNITS: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("miles", "kilometres", "kilometers", "km", "metres", "meters", "yards", "feet"), 1, 500),
    (("inches", "centimetres", "cm", "feet", "millimetres", "metres"), 1, 90),
    (("pounds", "kilograms", "kg", "ounces", "grams", "stones"), 1, 300),
    (("gallons", "litres", "liters", "cups", "pints", "millilitres", "tablespoons"), 1, 40),
    (("degrees Celsius", "degrees Fahrenheit", "kelvins"), 1, 200),
    (("hours", "minutes", "seconds", "days", "weeks"), 2, 90),
    (("megabytes", "gigabytes", "terabytes", "kilobytes", "MB", "GB"), 2, 900),
    (("acres", "hectares", "square metres", "square feet", "square miles"), 1, 200),
    (("miles per hour", "kilometres per hour", "mph", "km/h", "knots"), 5, 200),
    (("kilojoules", "kilocalories", "kilowatt hours"), 2, 500),
    (("bar", "psi", "kilopascals"), 1, 60),
)

_SAME = {
    **dict.fromkeys(("kilometers", "km"), "kilometres"),
    "cm": "centimetres",
    "meters": "metres",
    "kg": "kilograms",
    "liters": "litres",
    "MB": "megabytes",
    "GB": "gigabytes",
    "mph": "miles per hour",
    "km/h": "kilometres per hour",
}
"""Other names of a unit: nobody converts it into itself."""


def a_conversion(draw: random.Random) -> tuple[str, str]:
    """A quantity and the unit that is wanted, with a stroke between."""
    units, low, high = draw.choice(_UNITS)
    source, target = draw.sample(units, 2)
    while _SAME.get(source, source) == _SAME.get(target, target):
        source, target = draw.sample(units, 2)
    amount: str = str(draw.randint(int(low), int(high)))
    if draw.random() < 0.2:
        amount += f".{draw.choice('258')}"
    return f"{amount} {source}", target


CITIES = (
    *("Tokyo", "London", "New York", "Paris", "Berlin", "Madrid", "Rome", "Lisbon", "Vienna"),
    *("Sydney", "Melbourne", "Auckland", "Singapore", "Hong Kong", "Seoul", "Beijing", "Delhi"),
    *("Mumbai", "Dubai", "Istanbul", "Athens", "Cairo", "Nairobi", "Cape Town", "Lagos"),
    *("Chicago", "Denver", "Los Angeles", "San Francisco", "Seattle", "Toronto", "Montreal"),
    *("Mexico City", "Buenos Aires", "Honolulu", "Reykjavik", "Dublin", "Oslo", "Helsinki"),
    *("Stockholm", "Copenhagen", "Warsaw", "Prague", "Budapest", "Zurich", "Amsterdam"),
    *("Bangkok", "Jakarta", "Manila", "Kathmandu", "Osaka", "Kyoto", "Brazil", "Japan", "India"),
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def a_clock(draw: random.Random) -> str:
    hour, half = draw.randint(1, 11), draw.choice(("am", "pm"))
    forms = (
        f"{hour} {half}",
        f"{hour}:{draw.choice(('15', '30', '45', '05', '20'))} {half}",
        f"{draw.randint(13, 23)}:{draw.choice(('00', '15', '30', '45'))}",
        f"{hour}{half}",
        draw.choice(("noon", "midnight")),
    )
    return draw.choices(forms, (3, 3, 2, 1, 0.5))[0]


def an_alarm(draw: random.Random) -> str:
    hour, half = draw.randint(4, 11), draw.choice(("am", "pm"))
    minutes = draw.choice(("00", "15", "30", "45", "05", "20", "50"))
    forms = (
        *(f"{hour} {half}", f"{hour}:{minutes}", f"{hour}:{minutes} {half}", f"{hour}:{minutes}"),
        *(f"{draw.randint(13, 22)}:{minutes}", f"{hour} {half} tomorrow", f"{hour} tomorrow"),
    )
    return draw.choice(forms)


def a_date(draw: random.Random) -> str:
    day, month = draw.randint(1, 28), draw.choice(_MONTHS)
    return draw.choice(
        (f"{day} {month}", f"{month} {day}", f"{day} {month} {draw.randint(2026, 2029)}")
    )


def any_date(draw: random.Random) -> str:
    ahead = f"{draw.randint(2, 90)} {draw.choice(('days', 'weeks'))}"
    others = ("Christmas", "New Year's Eve", f"next {draw.choice(_WEEKDAYS)}", "Halloween")
    return draw.choice((a_date(draw), a_date(draw), f"{ahead} from now", draw.choice(others)))


def a_duration(draw: random.Random) -> str:
    minutes = draw.choice((*range(1, 16), 20, 25, 30, 35, 40, 45, 50, 90))
    forms = (
        f"{minutes} minutes" if minutes > 1 else "1 minute",
        f"{minutes} min",
        f"{draw.randint(2, 8)} hours",
        f"{draw.randint(10, 90)} seconds",
        f"1 hour {draw.choice((10, 15, 20, 30, 45))} minutes",
        draw.choice(("half an hour", "an hour", "ten minutes", "five minutes", "two hours")),
    )
    return draw.choices(forms, (5, 1, 1.5, 1, 1, 1.5))[0]


LABELS = (
    *("pasta", "tea", "laundry", "eggs", "bread", "pizza", "rice", "soup", "cookies", "nap"),
    *("workout", "meeting", "homework", "roast", "potatoes", "coffee", "stretching", "practice"),
)
TASKS = (
    *("call Anna", "water the plants", "feed the cat", "take out the trash", "walk the dog"),
    *("check the oven", "pick up Ben", "ring the plumber", "take my medicine", "join the call"),
)
TOPICS = (
    *("garden fence", "sourdough", "Lisbon", "tax return", "dentist", "spare key", "wifi password"),
    *(
        "birthday party",
        "car insurance",
        "knitting",
        "boiler",
        "rental contract",
        "recipe",
        "moving",
    ),
    *(
        "piano lessons",
        "summer trip",
        "bike repair",
        "budget",
        "new job",
        "passport",
        "vaccination",
    ),
    *("kitchen renovation", "wedding", "camping", "gym", "vegan recipes", "python course", "chess"),
)
NOTED = (
    *("the spare key is at Anna's", "buy milk and bread", "my locker number is 42"),
    *("the plumber comes on Tuesday", "dad likes dark chocolate", "parking spot B17"),
    *("the wifi password is sunflower", "call the bank about the card", "size 42 for the shoes"),
    *("the meeting moved to Thursday", "water filter changed in May", "try the new ramen place"),
    *("ask Carla for the tent", "the blue paint is called Harbor", "rent goes up in October"),
    *("bring cake on Friday", "the dog weighs 12 kilos", "flight leaves at 9:40 from gate 12"),
    *("the doctor is Mrs Weber", "two eggs and 200 grams of flour", "return the drill to Hugo"),
)
TEXTS = (
    *("221B Baker Street", "hello@example.org", "see you at eight", "1600 Pennsylvania Avenue"),
    *("thank you for your order", "+49 30 1234567", "the quick brown fox", "ABC-4711", "42.3601"),
    *("best regards, Ben", "on my way", "https://example.org/menu", "room 204", "happy birthday"),
    *("maria@example.com", "DE89 3704 0044", "please reply by Monday", "lorem ipsum", "3.14159"),
)
SITES = (
    *("example.org", "https://docs.python.org/3/", "wikipedia.org", "www.bbc.co.uk", "github.com"),
    *("https://example.com/news", "apple.com", "openstreetmap.org", "nasa.gov", "www.example.net"),
    *("https://www.gutenberg.org", "mozilla.org", "archive.org", "weather.com", "python.org"),
)
APPS = (
    *("Calendar", "Music", "Safari", "Mail", "Photos", "Maps", "Terminal", "Calculator", "Preview"),
    *("Reminders", "Messages", "Pages", "Numbers", "Podcasts", "TextEdit", "Firefox", "Books"),
)
TITLES = (
    *("Buy milk", "Packing list", "Garden plan", "Gift ideas", "Meeting notes", "Book list"),
    *("Pancake recipe", "Wifi password", "Car service", "Reading log", "Movie list", "Rent"),
)
FOLDERS = (
    *("Documents", "Documents/taxes", "Downloads", "Desktop", "Documents/letters", "Pictures"),
    *("Documents/recipes", "Music", "Projects", "Projects/website", "Documents/school"),
)
FILES = (
    *("Documents/todo.txt", "Documents/packing-list.md", "Desktop/ideas.txt", "Downloads/log.csv"),
    *("Documents/letters/landlord.txt", "Projects/website/index.html", "Documents/budget.csv"),
    *("Documents/recipes/soup.md", "Projects/notes.md", "Documents/school/essay.txt"),
)
TIMERS = (
    *("pasta", "tea", "laundry", "nap", "bread", "5 minute timer", "alarm of 07:30", "pizza"),
    *("alarm of 18:00", "eggs", "workout", "10 minute timer"),
)
SHORTCUTS = (
    "Morning Routine",
    "Log Weight",
    "Focus",
    "Good Night",
    "Share Location",
    "Log Coffee",
)

INPUTS = ("71.5 kg", "two cups", "home", "work")

LIVE: dict[str, dict[str, tuple[str, ...]]] = {
    "cancel_timer": {"name": TIMERS},
    "read_note": {"title": TITLES},
    "delete_note": {"title": TITLES},
    "list_files": {"folder": FOLDERS},
    "read_file": {"path": FILES},
    "search_files": {"folder": FOLDERS},
    "open_app": {"name": APPS},
    "run_shortcut": {"name": SHORTCUTS},
}
"""What the invented person has."""


def a_path(draw: random.Random) -> tuple[str, str]:
    path = draw.choice(FILES)
    return draw.choice((path, path.rpartition("/")[2])), path


def a_folder(draw: random.Random) -> tuple[str, str]:
    folder = draw.choice(FOLDERS)
    return draw.choice((folder, folder.rpartition("/")[2])), folder
