"""The status line: what happens now, and what the last answer cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from mobilellm_mlx.errors import format_bytes
from mobilellm_mlx.events import GenerationSummary, ModelLoaded

from ..text import Segment, fit, format_seconds, meter, printable

Phase = Literal[
    "loading",
    "failed",
    "idle",
    "recalling",
    "adapting",
    "reading",
    "answering",
    "choosing",
    "waiting",
    "running",
    "stopping",
]
IN_A_TURN = ("reading", "answering", "choosing", "waiting", "running", "stopping")
"""The phases between a question and the end of its answer."""
WARN_AT = 0.8
METER_WIDTH = 6
WORTH_A_RATE = 16
"""Tokens that must have been read before their rate says anything."""

WORTH_A_TIME_S = 1.0

SHORT_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class State:
    """Everything the line shows."""

    phase: Phase = "loading"
    name: str = ""
    info: ModelLoaded | None = None
    elapsed_s: float = 0.0
    note: str = ""
    """A stage of loading, in the engine's words."""
    read: tuple[int, int] = (0, 0)
    """Prompt tokens read, and all of them."""
    tokens: int = 0
    """Of the answer that is coming."""
    tool: str = ""
    """The one that runs."""
    since_s: float = 0.0
    """When it began to, as ``elapsed_s`` counts."""
    tok_per_s: float | None = None
    summary: GenerationSummary | None = None
    queued: int = 0
    when_full: str = ""
    """What happens when the context fills, in a word or two."""
    beside: str = ""
    """A job that goes on beside the chat, such as a model that is being fetched."""
    manner: str = ""
    """The system prompt in force, by its name."""
    unsaved: bool = False
    """Whether chats are forgotten when the program ends."""

    @property
    def context_used(self) -> int:
        """Tokens in the context now, the answer that is coming included."""
        if self.phase in IN_A_TURN and self.read[1]:
            return self.read[1] + self.tokens
        return self.summary.context_used if self.summary else 0


def _activity(state: State) -> Segment:
    done, total = state.read
    share = f" {100 * done / total:.0f} %" if total else ""
    elapsed = format_seconds(state.elapsed_s) if state.elapsed_s >= 0.1 else ""
    words = {
        "loading": f"loading {state.name or 'the model'} {elapsed}".rstrip(),
        "failed": "no model",
        "idle": "",
        "recalling": "recalling this chat",
        "adapting": f"changing the adapter {elapsed}".rstrip(),
        "reading": f"reading {done:,}/{total:,} tokens{share}" if total else "reading",
        "answering": "answering",
        "choosing": f"choosing a tool{share if done < total else ''}",
        "waiting": "waiting for you",
        "running": f"running {state.tool}{_since(state)}",
        "stopping": "stopping",
    }[state.phase]
    if state.phase == "loading" and state.note:
        words += f" · {state.note}"
    if state.queued:
        words += f"{', ' if words else ''}{state.queued} queued"
    form = Content.styled(words, "bold")
    if state.phase in ("answering", "choosing", "running"):
        return Segment([(6, Content.assemble(form, (" · Esc stops", "dim"))), (9, form)])
    if state.phase == "reading" and total:
        bar = meter(done / total, METER_WIDTH, "bold")
        return Segment([(7, Content.assemble(form, " ", bar)), (9, form)])
    return Segment([(9, form)])


def _since(state: State) -> str:
    """How long a tool has been running, once that is worth knowing."""
    spent = state.elapsed_s - state.since_s
    return f" {spent:.0f} s" if spent >= WORTH_A_TIME_S else ""


def _context(state: State, limit: int) -> Segment:
    used = state.context_used
    share = used / limit
    count = f"{used:,}/{limit:,}"
    if share >= WARN_AT:
        style = "bold $text-warning"
        words = Content.styled(f"context {100 * share:.0f} % full", style)
        then = words + Content(f", {state.when_full}") if state.when_full else words
        bar = meter(share, METER_WIDTH, style)
        return Segment([(5, Content.assemble(then, " ", bar, " ", count)), (6, then), (9, words)])
    bar = meter(share, METER_WIDTH, "$primary")
    return Segment(
        [
            (0, Content.assemble(("context ", "dim"), bar, " ", count)),
            (1, Content.assemble(("ctx ", "dim"), bar, " ", count)),
            (9, Content.assemble(("ctx ", "dim"), count)),
        ]
    )


def _optional(worth: int, *parts: Content | tuple[str, str] | str) -> Segment:
    """Something that is shown as a whole or not at all."""
    return Segment([(worth, Content.assemble(*parts)), (0, Content(""))])


def _model(info: ModelLoaded) -> Segment:
    """Who answers; of the two names the adapter's stays longer, for it is what changes."""
    if not info.adapter:
        return _optional(6, info.model)
    on_top = Content.assemble(("with ", "dim"), printable(info.adapter))
    return Segment([(5, Content(f"{info.model} ") + on_top), (7, on_top), (0, Content(""))])


def _figures(state: State) -> list[Segment]:
    """What the last answer cost; while one is coming, its rate so far."""
    if state.phase in ("answering", "stopping"):
        if state.tok_per_s is None:
            return []
        return [_optional(7, ("decode ", "dim"), f"{state.tok_per_s:,.0f} tok/s")]
    summary = state.summary
    if summary is None or state.phase in IN_A_TURN:
        return []
    figures = []
    read = summary.prompt_tokens - summary.cached_tokens
    if summary.generated_tokens:
        figures.append(_optional(5, ("ttft ", "dim"), format_seconds(summary.ttft_s)))
    if summary.prefill_tok_per_s and read >= WORTH_A_RATE:
        figures.append(_rate(4, "prefill ", "pre ", f"{summary.prefill_tok_per_s:,.0f}"))
    if summary.decode_tok_per_s:
        figures.append(_rate(7, "decode ", "dec ", f"{summary.decode_tok_per_s:,.0f} tok/s"))
    return figures


def _rate(worth: int, label: str, short: str, rate: str) -> Segment:
    """A rate whose label is shortened before anything is left out."""
    long_form, short_form = (Content.assemble((name, "dim"), rate) for name in (label, short))
    return Segment([(2, long_form), (worth, short_form), (0, Content(""))])


def status_line(state: State, width: int) -> Content:
    """The line for ``state``, at most ``width`` cells wide."""
    left, right = [_activity(state)], _figures(state)
    if (info := state.info) is not None:
        left.append(_model(info))
        if state.manner:
            left.append(_optional(4, ("as ", "dim"), state.manner))
        if state.unsaved:
            left.append(_optional(5, ("not saved", "italic")))
        dtype = SHORT_DTYPES.get(info.dtype, info.dtype)
        bits = f"{info.bits}-bit " if info.bits else ""
        left.append(_optional(3, (f"{bits}{info.compute} {dtype} {info.backend}", "dim")))
        right.insert(0, _context(state, info.context_limit))
        # An answer that is a tool's own words measured nothing.
        memory = (state.summary.memory_bytes if state.summary else 0) or info.weight_bytes
        right.append(_optional(4, format_bytes(memory)))
    if state.beside:
        left.append(_optional(5, state.beside))
    return fit(left, right, width)


class StatusLine(Widget):
    """One row that drops its least important parts when it gets narrow, and never wraps."""

    state: reactive[State] = reactive(State, always_update=False)

    def change(self, **fields: object) -> None:
        """Replace some fields of the state."""
        self.state = replace(self.state, **fields)  # type: ignore[arg-type]

    def render(self) -> Content:
        return status_line(self.state, self.content_size.width)
