"""Which time zone a place is in: cities, countries and the names of zones."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, tzinfo
from difflib import get_close_matches
from functools import cache

from mobilellm_mlx.errors import ToolError
from mobilellm_mlx.plain import printable

HERE = "here"
TZDATA_HINT = "`pip install tzdata`"
_AREAS = (
    *("Africa", "America", "Antarctica", "Arctic", "Asia"),
    *("Atlantic", "Australia", "Europe", "Indian", "Pacific"),
)

# Zone -> names that the data base of zones does not have, or not as people say them.
_NAMES: Mapping[str, str] = {
    "UTC": "UTC,GMT,Greenwich",
    "America/New_York": "New York,NYC,Washington,Boston,Miami,Atlanta,Philadelphia,Florida,"
    "Eastern time,EST,EDT",
    "America/Chicago": "Chicago,Houston,Dallas,Austin,Texas,New Orleans,Central time,CST,CDT",
    "America/Denver": "Denver,Salt Lake City,Colorado,Utah,Mountain time",
    "America/Phoenix": "Phoenix,Arizona",
    "America/Los_Angeles": "Los Angeles,San Francisco,Seattle,San Diego,Las Vegas,California,"
    "Silicon Valley,Cupertino,Pacific time,PST,PDT",
    "America/Anchorage": "Anchorage,Alaska",
    "Pacific/Honolulu": "Honolulu,Hawaii",
    "America/Toronto": "Toronto,Montreal,Ottawa",
    "America/Edmonton": "Edmonton,Calgary",
    "America/Mexico_City": "Mexico City",
    "America/Bogota": "Bogota,Colombia",
    "America/Lima": "Lima,Peru",
    "America/Santiago": "Santiago",
    "America/Argentina/Buenos_Aires": "Buenos Aires,Argentina",
    "America/Sao_Paulo": "Sao Paulo,Rio de Janeiro,Brasilia",
    "Atlantic/Reykjavik": "Reykjavik,Iceland",
    "Europe/London": "London,England,Scotland,Wales,UK,United Kingdom,Britain,Edinburgh,Manchester",
    "Europe/Dublin": "Dublin,Ireland",
    "Europe/Lisbon": "Lisbon",
    "Europe/Madrid": "Madrid,Barcelona",
    "Europe/Paris": "Paris,France,Lyon,Marseille",
    "Europe/Brussels": "Brussels,Belgium",
    "Europe/Amsterdam": "Amsterdam,Netherlands,Rotterdam",
    "Europe/Berlin": "Berlin,Germany,Munich,Hamburg,Frankfurt,Cologne,CET",
    "Europe/Zurich": "Zurich,Switzerland,Geneva,Bern",
    "Europe/Vienna": "Vienna,Austria",
    "Europe/Rome": "Rome,Italy,Milan,Naples",
    "Europe/Copenhagen": "Copenhagen,Denmark",
    "Europe/Oslo": "Oslo,Norway",
    "Europe/Stockholm": "Stockholm,Sweden",
    "Europe/Helsinki": "Helsinki,Finland",
    "Europe/Warsaw": "Warsaw,Poland,Krakow",
    "Europe/Prague": "Prague,Czechia",
    "Europe/Budapest": "Budapest,Hungary",
    "Europe/Athens": "Athens,Greece",
    "Europe/Bucharest": "Bucharest,Romania",
    "Europe/Istanbul": "Istanbul,Turkey,Ankara",
    "Europe/Kyiv": "Kyiv,Kiev,Ukraine",
    "Europe/Moscow": "Moscow,Saint Petersburg",
    "Africa/Cairo": "Cairo,Egypt",
    "Africa/Lagos": "Lagos,Nigeria,Abuja",
    "Africa/Nairobi": "Nairobi,Kenya",
    "Africa/Johannesburg": "Johannesburg,South Africa,Cape Town",
    "Africa/Casablanca": "Casablanca,Morocco",
    "Asia/Jerusalem": "Jerusalem,Israel,Tel Aviv",
    "Asia/Riyadh": "Riyadh,Saudi Arabia",
    "Asia/Dubai": "Dubai,Abu Dhabi,United Arab Emirates",
    "Asia/Tehran": "Tehran,Iran",
    "Asia/Karachi": "Karachi,Pakistan,Islamabad,Lahore",
    "Asia/Kolkata": "Kolkata,India,Mumbai,Delhi,New Delhi,Bangalore,Chennai",
    "Asia/Kathmandu": "Kathmandu,Nepal",
    "Asia/Dhaka": "Dhaka,Bangladesh",
    "Asia/Bangkok": "Bangkok,Thailand",
    "Asia/Ho_Chi_Minh": "Ho Chi Minh City,Vietnam,Hanoi,Saigon",
    "Asia/Jakarta": "Jakarta",
    "Asia/Singapore": "Singapore",
    "Asia/Kuala_Lumpur": "Kuala Lumpur,Malaysia",
    "Asia/Manila": "Manila,Philippines",
    "Asia/Hong_Kong": "Hong Kong",
    "Asia/Shanghai": "Shanghai,China,Beijing,Shenzhen",
    "Asia/Taipei": "Taipei,Taiwan",
    "Asia/Seoul": "Seoul,South Korea,Korea",
    "Asia/Tokyo": "Tokyo,Japan,Osaka,Kyoto",
    "Australia/Perth": "Perth",
    "Australia/Adelaide": "Adelaide",
    "Australia/Brisbane": "Brisbane,Queensland",
    "Australia/Sydney": "Sydney,Canberra",
    "Australia/Melbourne": "Melbourne",
    "Pacific/Auckland": "Auckland,New Zealand,Wellington",
}


@cache
def _zones() -> Mapping[str, str]:
    """Zones by the names of places, those that are asked for most first."""
    from zoneinfo import available_timezones

    known = available_timezones()
    found = {
        name: zone
        for zone, names in _NAMES.items()
        if zone in known or zone == "UTC"
        for name in names.split(",")
    }
    for zone in sorted(known):
        area, _, city = zone.partition("/")
        if area in _AREAS and city and "/" not in city:
            found.setdefault(city.replace("_", " "), zone)
    return found


@cache
def _folded() -> Mapping[str, str]:
    """Names as they are shown, by how they are compared; names of zones too."""
    return {_fold(name): name for name in (HERE, *_zones())} | {
        _fold(zone): name for name, zone in reversed(list(_zones().items()))
    }


def _fold(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold().replace("_", " "))
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def place_names() -> list[str]:
    """What ``find_place`` knows, ``here`` and the large cities first."""
    return [HERE, *_zones()]


def find_place(name: str) -> str:
    """The name of a place as it is listed.

    Args:
        name: of a city, country or zone, in any case, with accents or without.

    Raises:
        ToolError: when no such place is known, or no zones are.
    """
    if listed := _folded().get(_fold(name)):
        return listed
    if set(_zones().values()) == {"UTC"}:
        raise ToolError("this system has no data about time zones", TZDATA_HINT)
    near = get_close_matches(_fold(name)[:60], _folded(), n=1)
    raise ToolError(
        f"no place {printable(name)[:60]!r} is known here",
        f"did you mean {_folded()[near[0]]}?" if near else "name a large city near it",
    )


def zone_of(place: str, here: tzinfo) -> tzinfo:
    """The time zone of a place.

    Args:
        place: a name of ``place_names``.
        here: the zone of ``here``.

    Raises:
        ToolError: when the system has no data about the zone.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    name = find_place(place)
    if name == HERE:
        return here
    zone = _zones()[name]
    if zone == "UTC":
        return UTC
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ToolError(
            f"this system has no data about the time zone of {name}", TZDATA_HINT
        ) from None
