"""What Home Assistant would say after a call, where the call alone tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_REPLY = 400


def render_reply(template: str, slots: Mapping[str, Any]) -> str:
    """The reply of a Jinja template that needs nothing but slots; empty for any other."""
    if not template:
        return ""
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        text = environment.from_string(template).render(slots=dict(slots))
    except (TemplateError, TypeError, ValueError, ArithmeticError):
        return ""  # it asks for the state of a device, which no data set has
    text = " ".join(text.split())
    return text if len(text) <= MAX_REPLY else ""
