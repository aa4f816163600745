"""What long jobs say while they run: small frozen events, one language for every face.

The console, ``--json``, the terminal interface and child processes all show these same events. On
the wire each is one JSON object with its name under ``event``; a ``summary`` event ends every job,
also a failed one. ``docs/events.md`` lists the names and fields and the rule for new ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

StopReason = Literal["stop", "length", "context", "cancelled"]
"""Why an answer ended: the model or a stop string said so, `max_tokens`, a full context, or you."""

Status = Literal["ok", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; ``name`` is what the event is called on the wire."""

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values, its name under ``event``."""
        return {"event": self.name, **asdict(self)}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """A part of a job that can be counted; ``total`` is None while unknown."""

    name = "progress"
    task: str
    done: float
    total: float | None = None
    unit: Literal["bytes", "tokens", "tensors", "steps", "items"] = "bytes"


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the person should know and need not act on."""

    name = "notice"
    text: str


@dataclass(frozen=True, slots=True)
class ModelLoaded(Event):
    """A model is in memory and ready."""

    name = "model_loaded"
    model: str
    path: str
    family: str
    parameters: int
    bits: int | None
    """Width of the packed weights as stored, the commonest one; None when nothing is packed."""
    weight_bytes: int
    kv_bytes_per_token: int
    context_limit: int
    compute: Literal["packed", "dense"]
    dtype: str
    backend: str
    chat: bool
    licence: str | None
    load_s: float
    fingerprint: str = ""
    """Of the model's files and of the form they are computed in: what was computed by a model of
    another fingerprint is not its own."""
    adapter: str | None = None
    """Name of what is on top of it; it is part of the fingerprint."""


@dataclass(frozen=True, slots=True)
class PrefillProgress(Event):
    """Reading the prompt; ``cached`` tokens were known from the turn before."""

    name = "prefill_progress"
    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class TextDelta(Event):
    """The next piece of an answer; the pieces joined are the answer."""

    name = "text_delta"
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta(Event):
    """The next piece of what the model thinks before it answers; no part of the answer."""

    name = "reasoning_delta"
    text: str


@dataclass(frozen=True, slots=True)
class ToolsOffered(Event):
    """A model is about to choose a tool, or none."""

    name = "tools_offered"
    tools: list[str]


@dataclass(frozen=True, slots=True)
class ToolCalled(Event):
    """A model has made a call; nothing has been run."""

    name = "tool_called"
    id: str
    tool: str
    arguments: dict[str, Any]
    words: str
    """The call in words."""
    source: str
    reads_only: bool
    scope: str
    """What it reaches, in words; empty for all that the tool can do."""
    tokens: int = 0
    """Of the choice and the call together."""
    forced_tokens: int = 0
    """Those of them that the grammar left no choice about."""
    forward_passes: int = 0
    """Of the network, from the end of the prompt on."""
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolAllowed(Event):
    """A call is run: the person said so now, said so before, or it only reads."""

    name = "tool_allowed"
    id: str
    by: Literal["you", "session", "always", "reads only"]
    arguments: dict[str, Any]
    """As they will be used; the person may have changed them."""


@dataclass(frozen=True, slots=True)
class ToolEnded(Event):
    """What came of a call; also of one that was not run."""

    name = "tool_ended"
    id: str
    tool: str
    status: Literal[
        "ok",
        "denied",
        "invalid",
        "failed",
        "timeout",
        "cancelled",
        "cut",
        "repeated",
        "unavailable",
    ]
    text: str
    """The result, or why there is none."""
    elapsed_s: float = 0.0
    is_shortened: bool = False


@dataclass(frozen=True, slots=True)
class MemoryEstimated(Event):
    """What a training will take, before it takes it. All in bytes, as float estimates rounded."""

    name = "memory_estimated"
    weights_bytes: int
    """Of the base and, beside it, of what is trained."""
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """The most that one forward and backward pass holds, logits included."""
    total_bytes: int
    available_bytes: int
    fits: bool
    remedies: list[str] = field(default_factory=list)
    """Options that would make it smaller, with what each would save, most first."""


@dataclass(frozen=True, slots=True)
class TrainStarted(Event):
    """A training begins, or goes on."""

    name = "train_started"
    run: str
    path: str
    """The directory of the run."""
    model: str
    method: str
    trained_parameters: int
    total_parameters: int
    train_examples: int
    valid_examples: int
    steps: int
    """Of the whole run; ``start_step`` of them were done before."""
    steps_per_epoch: int
    start_step: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class TrainStep(Event):
    """One change of the weights. Losses are means over the tokens that count, in nats."""

    name = "train_step"
    step: int
    """From 1 on."""
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens: int
    """That were learned from, in this run so far."""
    tok_per_s: float
    """All tokens of the step, also those that only stand in front."""
    memory_bytes: int
    peak_memory_bytes: int
    elapsed_s: float
    """Since the run began, pauses left out."""
    left_s: float | None = None
    """Until the end, when that can be said."""


@dataclass(frozen=True, slots=True)
class Validated(Event):
    """The loss on examples that are not trained on, all of them, in the same order every time."""

    name = "validated"
    step: int
    loss: float
    is_best: bool
    best_loss: float
    best_step: int
    tokens: int
    elapsed_s: float
    is_overfitting: bool = False
    """The training's loss goes down while this one goes up."""


@dataclass(frozen=True, slots=True)
class Sampled(Event):
    """What the model answers at this point of its training, greedily."""

    name = "sampled"
    step: int
    prompt: str
    text: str
    expected: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """Everything needed to go on from here is on the disk."""

    name = "checkpoint_saved"
    step: int
    path: str
    is_best: bool = False


@dataclass(frozen=True, slots=True)
class RolledBack(Event):
    """Something went wrong, and the run goes on from its last good state with a smaller rate."""

    name = "rolled_back"
    step: int
    """At which it went wrong."""
    to_step: int
    reason: str
    learning_rate: float
    """The highest there will be from now on."""
    tries_left: int


@dataclass(frozen=True, slots=True)
class TrainPaused(Event):
    """A training waits, its state saved; ``TrainStep`` says that it goes on."""

    name = "train_paused"
    step: int


@dataclass(frozen=True, slots=True)
class Summary(Event):
    """The last event of a job. ``error`` and ``hint`` are set when ``status`` is ``error``."""

    name = "summary"
    job: str
    status: Status = "ok"
    elapsed_s: float = 0.0
    error: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationSummary(Summary):
    """The end of one answer, with what it cost. Rates are tokens per second."""

    job: str = "generate"
    model: str = ""
    text: str = ""
    """The answer alone."""
    reasoning: str = ""
    """What the model thought before it; the pieces of ``reasoning_delta`` joined."""
    stop_reason: StopReason = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were reused from the turn before."""
    generated_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the generated tokens that are reasoning, without the markers around it."""
    tokens: list[int] = field(default_factory=list)
    """Ids of the generated tokens, the one that ended the answer among them."""
    forced_tokens: int = 0
    """Those of the generated tokens that a grammar left no choice about."""
    forward_passes: int = 0
    """Of the network, from the one that chose the first token on."""
    drafted_tokens: int = 0
    """Tokens that were guessed and checked by the network."""
    accepted_tokens: int = 0
    """Those of them that were right: none had a forward pass of its own."""
    is_whole: bool = True
    """Whether the answer is all that its grammar asks for; one that was cut is not."""
    ttft_s: float = 0.0
    """From the request's turn on the engine to the first token: template, tokens, prefill."""
    prefill_s: float = 0.0
    """From the prompt's tokens to the first token of the answer."""
    decode_s: float = 0.0
    prefill_tok_per_s: float = 0.0
    decode_tok_per_s: float = 0.0
    context_used: int = 0
    context_limit: int = 0
    memory_bytes: int = 0
    """Held by the backend after the answer: weights, cache and scratch."""
    peak_memory_bytes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """Sampling options in force, the seed included, so that the answer can be made again."""


@dataclass(frozen=True, slots=True)
class ConvertSummary(Summary):
    """The end of a conversion. Quality is None when it was not measured."""

    job: str = "convert"
    path: str = ""
    family: str = ""
    parameters: int = 0
    source_format: str = ""
    source_bytes: int = 0
    bytes: int = 0
    """Of the weights as written."""
    bits_per_weight: float = 0.0
    """Mean of all weights, scales and unpacked ones included."""
    licence: str | None = None
    chat: bool = False
    """Whether there is a chat template; without one the model continues text."""
    nonfinite: int = 0
    """Weights that are NaN or infinite."""
    relative_error: float | None = None
    """Of all packed weights together: the norm of what changed over the norm."""
    mean_kl: float | None = None
    """Mean KL divergence of the next token's distribution from the 16-bit weights', in nats."""
    top1_agreement: float | None = None
    """Share of positions at which the likeliest next token is the same."""
    perplexity: float | None = None
    reference_perplexity: float | None = None
    """Of the 16-bit weights on the same text."""
    verified_tokens: int = 0
    convert_s: float = 0.0
    """Reading, packing and writing."""
    verify_s: float = 0.0
    convert_peak_memory_bytes: int = 0
    """Most the process held until all was written."""
    peak_memory_bytes: int = 0
    """The same with verification."""


@dataclass(frozen=True, slots=True)
class FuseSummary(ConvertSummary):
    """The end of fusing an adapter into its base. What a conversion measures against the 16-bit
    weights is here measured against the base with the adapter on it."""

    job: str = "fuse"
    adapter: str = ""
    adapted_tensors: int = 0
    relative_change: float | None = None
    """Norm of the adapter's change over the norm of the weights that it changes."""
    share_kept: float | None = None
    """How much of the change is left after packing, along the change: 1 is all of it."""
    cosine: float | None = None
    """Between the change and what is left of it; below 1 for what rounding added."""
    adapter_kl: float | None = None
    """Mean KL divergence of the base with the adapter from the base alone: what ``mean_kl``, the
    rounding's, is to be compared with."""
    adapter_top1: float | None = None
    tensors: list[dict[str, Any]] = field(default_factory=list)
    """The three figures of every changed tensor, by ``name``."""
    dry_run: bool = False
    """Nothing was kept."""


@dataclass(frozen=True, slots=True)
class ExportSummary(Summary):
    """The end of an export."""

    job: str = "export"
    path: str = ""
    """The file or directory that was written."""
    format: str = ""
    type: str = ""
    """Of most matrices, such as ``f16`` or ``q4_1``."""
    bytes: int = 0
    """Of the file, or of all files of the directory."""
    tensors: int = 0
    lossless: bool = True
    """Whether every value is the model's own."""
    rounded: int = 0
    """Tensors with a value that is not."""


@dataclass(frozen=True, slots=True)
class CacheSummary(Summary):
    """The end of ``save_cache`` or ``restore_cache``: what was read of a chat, to disk and back."""

    job: str = "save_cache"
    tokens: int = 0
    """Whose keys and values were written or are known again."""
    bytes: int = 0
    """Of the file."""
    reason: str | None = None
    """Why nothing was written or restored, as one sentence; that is no error."""


@dataclass(frozen=True, slots=True)
class Judged(Event):
    """How likely a model finds the ends of sequences that belong together.

    Between the engine and who asked it; never printed, so it may hold NaN.
    """

    name = "judged"
    group: int
    """Which of those that were asked about, counted from 0."""
    log_likelihoods: list[float]
    """Of the judged tokens of each sequence together, in nats."""
    greedy: list[bool]
    """Each judged token was the likeliest."""
    tokens: list[int]
    """Judged tokens of each sequence."""


@dataclass(frozen=True, slots=True)
class BenchRun(Event):
    """One program has read a prompt and gone on from it, once."""

    name = "bench_run"
    engine: str
    """``mobilellm``, or what it is measured beside."""
    repeat: int
    """From 1 on; 0 for a first time that counts because it was slow."""
    prompt: int
    """Tokens that were read, behind ``depth`` others, in each of ``batch`` sequences."""
    depth: int
    batch: int
    ttft_s: float
    """From the prompt's tokens to the first token of the answer."""
    token_s: list[float]
    """From each token to the next."""


@dataclass(frozen=True, slots=True)
class BenchSummary(Summary):
    """The end of a benchmark; ``docs/benchmark.md`` says what its figures are."""

    job: str = "bench"
    model: str = ""
    table: str = "speed"
    """Which: ``speed``, ``layer-sharing``, ``startup`` or ``turns``."""
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    engines: list[dict[str, Any]] = field(default_factory=list)
    """What each program ran, what loading it took, and what a step of it costs."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each program and case."""
    ratios: list[dict[str, Any]] = field(default_factory=list)
    """How many times as fast ours is as each peer."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know."""


@dataclass(frozen=True, slots=True)
class EvalSummary(Summary):
    """The end of an evaluation."""

    job: str = "eval"
    model: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    """One for each task and mode: what it depends on, and its metrics; see ``evals.results``. Those
    of a run that was stopped are of what it had done."""


TrainEnd = Literal["finished", "early stop", "stopped", "diverged", "error"]
"""Why a training ended: all steps done, no better for long, somebody stopped it, it went wrong four
times, or it could not go on."""


@dataclass(frozen=True, slots=True)
class TrainSummary(Summary):
    """The end of a training."""

    job: str = "train"
    run: str = ""
    path: str = ""
    """The directory of the run; ``mobilellm train resume`` goes on from there."""
    reason: TrainEnd = "finished"
    adapter: str | None = None
    """Name of the adapter in the registry; None where none was made."""
    step: int = 0
    steps: int = 0
    tokens: int = 0
    first_loss: float | None = None
    """On the validation examples before the first step."""
    last_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    test_loss: float | None = None
    train_s: float = 0.0
    tok_per_s: float = 0.0
    estimated_memory_bytes: int = 0
    peak_memory_bytes: int = 0


_EVENTS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Progress,
        Notice,
        ModelLoaded,
        PrefillProgress,
        TextDelta,
        ReasoningDelta,
        ToolsOffered,
        ToolCalled,
        ToolAllowed,
        ToolEnded,
        Judged,
        MemoryEstimated,
        TrainStarted,
        TrainStep,
        Validated,
        Sampled,
        CheckpointSaved,
        RolledBack,
        TrainPaused,
        BenchRun,
        Summary,
    )
}
_SUMMARIES: dict[str, type[Summary]] = {
    "generate": GenerationSummary,
    "convert": ConvertSummary,
    "fuse": FuseSummary,
    "export": ExportSummary,
    "eval": EvalSummary,
    "bench": BenchSummary,
    "train": TrainSummary,
    "save_cache": CacheSummary,
    "restore_cache": CacheSummary,
}


def from_dict(values: dict[str, Any]) -> Event:
    """The event that ``to_dict`` described; the inverse for a parent reading a child's lines.

    Raises:
        ValueError: when the name is unknown or the fields do not fit.
    """
    fields = dict(values)
    name = fields.pop("event", None)
    kind = _EVENTS.get(str(name))
    if kind is Summary:
        kind = _SUMMARIES.get(str(fields.get("job")), Summary)
    if kind is None:
        raise ValueError(f"unknown event: {name!r}")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"event `{name}`: {error}") from error
