"""From files to everything that a training needs of its data."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobilellm_mlx.errors import DataError, MobileLLMError
from mobilellm_mlx.messages import Message
from mobilellm_mlx.templates import ChatTemplate
from mobilellm_mlx.tokenizer import Tokenizer
from mobilellm_mlx.training.config import TrainConfig
from mobilellm_mlx.training.data.encoding import Encoder
from mobilellm_mlx.training.data.example import Example
from mobilellm_mlx.training.data.reading import (
    Digest,
    Problem,
    find_files,
    place,
    read_line,
    read_lines,
)
from mobilellm_mlx.training.data.rendering import Renderer
from mobilellm_mlx.training.data.report import DataReport, Notes, make_report
from mobilellm_mlx.training.data.rows import (
    Conversation,
    Pair,
    Row,
    Text,
    Turn,
    answered,
    asked,
    is_blank,
    read_row,
)
from mobilellm_mlx.training.data.splitting import choose_valid, fingerprint, normalised
from mobilellm_mlx.training.data.templates import Manner, choose_template

_SAMPLE_WORDS = 24
"""How much of a text is shown to a model that is to go on with it, in tokens."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where data came from.

    Attributes:
        path: of the file or folder.
        sha256: see ``reading.data_sha256``.
    """

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """Something to ask the model now and then while it learns.

    Attributes:
        messages: the conversation so far; empty for a text that is to be gone on with.
        text: the same in one piece, for people.
        expected: what the data answers.
        tokens: ids that the answer follows.
    """

    messages: tuple[Message, ...]
    text: str
    expected: str
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Data:
    """Everything that a training needs of its data."""

    train: list[Example]
    valid: list[Example]
    test: list[Example]
    report: DataReport
    sha256: str
    samples: list[SamplePrompt]
    manner: Manner
    """The template and stop tokens that the examples were made with."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An example with what tells it from others; its words are not kept."""

    example: Example
    prompt: int
    """Fingerprint of the prompt, written alike."""
    whole: int
    """Fingerprint of all of it."""
    answer: int
    path: Path
    offset: int


@dataclass(slots=True)
class Pile:
    """What was read of one file."""

    kept: list[Kept] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


class Reader:
    """Makes examples of lines.

    Args:
        tokenizer: of the model.
        manner: how it is spoken to.
        config: what is learned, and how long an example may be.
        context_limit: of the model.
    """

    def __init__(
        self, tokenizer: Tokenizer, manner: Manner, config: TrainConfig, context_limit: int
    ):
        self._encoder = Encoder(tokenizer)
        self._tokenizer = tokenizer
        self.limit = min(config.max_tokens, context_limit)
        self.changed = 0
        """Answers that the template did not show as the data has them."""
        self._all = config.loss_on == "all"
        self._stop = min(manner.stop_tokens, default=None)
        self._end = self._stop
        self._renderer = None
        if manner.template is not None:
            self._renderer = Renderer(
                tokenizer,
                manner.template,
                manner.stop_tokens,
                config.loss_on,
                config.system,
                config.tool_format,
            )
            if manner.end:
                self._end = tokenizer.special[manner.end]

    def read(self, path: Path, problem: Problem | None, digest: Digest) -> Pile:
        """All examples of a file.

        Raises:
            DataError: for the first line that cannot be used, unless ``problem`` takes it.
        """
        pile = Pile()
        before = self.changed
        digest.begin(path)

        def broken(error: DataError) -> None:
            pile.notes.broken += 1
            if problem is None:
                raise error from None
            problem(error)

        for line in read_lines(path, broken, digest.update):
            try:
                row = read_row(line.value)
                if is_blank(row):
                    pile.notes.leave_out(line.source)
                    continue
                made = list(self.examples(row, line.source))
            except MobileLLMError as error:
                broken(place(error, line.source))
                continue
            self._keep(pile, row, made, path, line.offset)
        pile.notes.changed = self.changed - before
        return pile

    def _keep(self, pile: Pile, row: Row, made: list[Example], path: Path, offset: int) -> None:
        prompt, answer = asked(row), answered(row)
        pile.notes.answer(answer)
        if len(made) > 1:
            pile.notes.divided += 1
        for number, example in enumerate(made):
            if not example.learned_count:
                pile.notes.lose(example)
                continue
            whole = fingerprint(f"{number} {row!r}")
            marks = fingerprint(normalised(prompt)), whole, fingerprint(normalised(answer))
            pile.kept.append(Kept(example, *marks, path, offset))

    def examples(self, row: Row, source: str = "") -> Iterator[Example]:
        """What a row gives to learn, cut to the longest that is allowed.

        Raises:
            MobileLLMError: when it cannot be rendered or encoded.
        """
        match row:
            case Text(text):
                yield self._made(*self._plain(text, 0), source)
            case Pair(prompt, completion) if self._renderer is None:
                yield self._made(*self._plain(prompt + completion, len(prompt)), source)
            case _:
                yield from self._conversation(as_conversation(row), source)

    def _plain(self, text: str, start: int) -> tuple[array[int], bytearray]:
        tokens, learned = self._encoder.encode(text, [(start, len(text))], signs=False)
        if self._stop is not None:
            tokens.append(self._stop)
            learned.append(1)
        prefix = self._tokenizer.prefix
        return array("i", prefix) + tokens, bytearray(len(prefix)) + learned

    def _conversation(self, row: Conversation, source: str) -> Iterator[Example]:
        if self._renderer is None:
            raise DataError(
                "it is a conversation, but the model has no chat template",
                "give it one with `--template chatml`, or use `text`, or `prompt` and `completion`",
            )
        for one in self._renderer.render(row):
            self.changed += one.is_changed
            tokens, learned = self._encoder.encode(one.text, one.spans, one.marker)
            if one.needs_end and self._end is not None:
                tokens.append(self._end)
                learned.append(1)
            yield self._made(tokens, learned, source)

    def _made(self, tokens: array[int], learned: bytearray, source: str) -> Example:
        if self._all:
            learned = bytearray(b"\x01") * len(learned)
        if learned:
            learned[0] = 0  # nothing comes before it that it could be told from
        cut = max(0, len(tokens) - self.limit)
        return Example(tokens[: self.limit], bytes(learned[: self.limit]), source, cut)

    def sample(self, row: Row) -> SamplePrompt | None:
        """A prompt of which a row knows the answer; None where it has none.

        Raises:
            MobileLLMError: when it cannot be rendered.
        """
        if isinstance(row, Text) or self._renderer is None:
            text, expected = self._halves(row)
            tokens = [*self._tokenizer.prefix, *self._tokenizer.encode(text)]
            return SamplePrompt((), text, expected, tokens) if tokens else None
        conversation = as_conversation(row)
        answers = [at for at, t in enumerate(conversation.turns) if t.role == "assistant"]
        if not answers:
            return None
        before = Conversation(conversation.turns[: answers[-1]], conversation.tools)
        shown, _ = self._renderer.messages(before)
        messages = tuple(Message(m["role"], str(m["content"])) for m in shown)
        text = next((m.content for m in reversed(messages) if m.role != "system"), "")
        through = Conversation(conversation.turns[: answers[-1] + 1], conversation.tools)
        expected = self._renderer.in_words(through)[-1].content
        return SamplePrompt(messages, text, expected, self._renderer.prompt(before))

    def _halves(self, row: Row) -> tuple[str, str]:
        if isinstance(row, Pair):
            return row.prompt, row.completion
        text = row.text if isinstance(row, Text) else ""
        ids = self._tokenizer.encode(text[:2_000])
        begin = self._tokenizer.decode(ids[: min(_SAMPLE_WORDS, len(ids) // 2)])
        return begin, text[len(begin) :][:2_000]


def as_conversation(row: Row) -> Conversation:
    """A prompt and its completion as question and answer."""
    if isinstance(row, Pair):
        return Conversation((Turn("user", row.prompt), Turn("assistant", row.completion)))
    assert isinstance(row, Conversation)
    return row


def load_data(
    path: Path,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    stop_tokens: frozenset[int],
    config: TrainConfig,
    context_limit: int,
    problem: Problem | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Read, render, tokenise, and set aside what is for validation.

    Args:
        path: a file of JSON lines, or a folder with ``train.jsonl`` and maybe ``valid.jsonl`` and
            ``test.jsonl``. Without the second a share of the first is set aside.
        tokenizer: of the model.
        template: of the model; ``config.template`` comes before it.
        stop_tokens: end its answers.
        config: what is learned, and how.
        context_limit: longest example that the model can take.
        problem: is told of lines that cannot be used; without it the first one is raised.
        progress: is told now and then how many bytes were read, and how many there are.

    Raises:
        DataError: for what cannot be read or used, and when nothing is left to train with.
    """
    files = find_files(path)
    manner = choose_template(template, config, tokenizer, stop_tokens)
    reader = Reader(tokenizer, manner, config, context_limit)
    digest = Digest(path, progress, sum(file.stat().st_size for file in files.values()))
    piles = {split: reader.read(file, problem, digest) for split, file in files.items()}
    _require(piles, path, reader.limit)
    if "valid" not in piles and config.valid_share > 0:
        piles["valid"] = _set_aside(piles["train"], config)
    report = make_report(piles, config, context_limit)
    valid = piles["valid"].kept if "valid" in piles else []
    return Data(
        train=[kept.example for kept in piles["train"].kept],
        valid=[kept.example for kept in valid],
        test=[kept.example for kept in piles["test"].kept] if "test" in piles else [],
        report=report,
        sha256=digest.hexdigest(),
        samples=_samples(valid or piles["train"].kept, reader, config),
        manner=manner,
    )


def _require(piles: Mapping[str, Pile], path: Path, limit: int) -> None:
    """Files that are there must have something in them to learn."""
    for split, pile in piles.items():
        if pile.kept:
            continue
        lines = len(pile.notes.left_out) + len(pile.notes.lost)
        where = f"`{path}`" if len(piles) == 1 else f"the {split} file of `{path}`"
        if pile.notes.broken:
            raise DataError(
                f"{where} has no example that can be used",
                "`mobilellm train check` lists what is wrong with its lines",
            )
        if not lines:
            raise DataError(f"{where} has no examples", "one JSON object a line is expected")
        whole = "its only example is" if lines == 1 else f"all of its {lines:,} examples are"
        raise DataError(
            f"{where} has nothing to learn: {whole} without an answer, or cut at {limit:,} tokens, "
            "before it begins",
            "give longer examples room with `--max-tokens`, as far as the model's context goes, or "
            "learn everything with `--loss-on all`",
        )


def _set_aside(pile: Pile, config: TrainConfig) -> Pile:
    """Take a share for validation out of a pile."""
    groups = [kept.prompt for kept in pile.kept]
    chosen = choose_valid(groups, config.valid_share, config.seed)
    valid = Pile([kept for place, kept in enumerate(pile.kept) if place in chosen])
    pile.kept = [kept for place, kept in enumerate(pile.kept) if place not in chosen]
    return valid


def _samples(kept: Sequence[Kept], reader: Reader, config: TrainConfig) -> list[SamplePrompt]:
    """Prompts of a few examples, always the same ones for the same data and seed."""
    made: list[SamplePrompt] = []
    seen: set[int] = set()

    def order(one: Kept) -> tuple[bool, int]:
        return one.example.cut > 0, fingerprint(f"{config.seed} {one.whole}")

    for each in sorted(kept, key=order):
        if len(made) >= config.samples:
            break
        if each.prompt in seen:
            continue
        seen.add(each.prompt)
        sample = reader.sample(read_row(read_line(each.path, each.offset)))
        if sample is not None and len(sample.tokens) < reader.limit:
            made.append(sample)
    return made
