"""A sentencepiece BPE vocabulary as a Hugging Face ``tokenizer.json`` with the same ids.

Sentencepiece joins the two neighbours whose joint piece has the highest score, leftmost first, and
does not care how a piece was cut in two. ``tokenizers`` ranks pairs instead, so a piece with
several cuts (three spaces are 2 + 1 and 1 + 2) seems to need one rank for several pairs, which the
format cannot say.

It needs only one of them. As long as nothing joins across its ends, a stretch of text is put
together exactly as if it stood alone; so whenever a piece comes about, its last join is the last
join of the piece encoded by itself. That pair is written down, ranked by score. No other pair for
the piece is ever reached, and a piece that does not come out whole by itself never comes out at
all. What this leaves open, pieces that share a score, is compared with sentencepiece on texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm_mlx import added_tokens
from mobilellm_mlx.errors import ConvertError

from .sentencepiece_model import SPACE, Kind, Piece, Settings, load_processor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_JOINS = 20_000_000
"""Bound on the work that long pieces make; Llama 2's vocabulary takes some twentieth of it."""


Added = added_tokens.AddedToken


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that the two vocabularies take apart differently."""

    text: str
    expected: list[int]
    """Ids of sentencepiece."""
    found: list[int]


def obstacle(pieces: Sequence[Piece], settings: Settings) -> str | None:
    """Why ``tokenizer.json`` could not give the same ids, as part of a sentence; None if it can."""
    kinds = Counter(piece.kind for piece in pieces)
    known = {piece.text for piece in pieces if piece.kind is Kind.NORMAL}
    if settings.algorithm != "bpe":
        return f"it is a {settings.algorithm} model, not BPE"
    if settings.normaliser != "identity":
        return f"it changes characters by the rules `{settings.normaliser}`"
    if settings.remove_extra_whitespaces or not settings.escape_whitespaces:
        return "it does not keep the spaces of a text"
    if settings.treat_whitespace_as_suffix:
        return "it puts the space after a word"
    if kinds[Kind.UNUSED]:
        return f"{kinds[Kind.UNUSED]:,} of its pieces are switched off"
    if kinds[Kind.USER_DEFINED] and settings.add_dummy_prefix:
        return "it has user-defined pieces and puts a space before a text"
    if settings.byte_fallback and kinds[Kind.BYTE] != 256:
        return f"it has {kinds[Kind.BYTE]} pieces for single bytes, expected 256"
    if any(len(text) > 1 and not known.issuperset(text) for text in known):
        return "some of its pieces hold characters that are not pieces"
    if sum(len(text) ** 2 for text in known) > _MAX_JOINS:
        return "its pieces are too long"
    return None


def tokenizer_json(
    pieces: Sequence[Piece],
    settings: Settings,
    *,
    added: Sequence[Added] = (),
    add_bos: bool = True,
) -> str:
    """The whole tokenizer as JSON text, in the form that Llama 2's has.

    Args:
        pieces: the vocabulary.
        settings: how texts are prepared.
        added: tokens with the ids after the last piece, in order.
        add_bos: put the beginning-of-text token before an encoded text, where there is one.

    Raises:
        ConvertError: when such a file would give other ids than sentencepiece; see ``obstacle``.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    if reason := obstacle(pieces, settings):
        raise ConvertError(f"the sentencepiece model has no `tokenizer.json`: {reason}")
    ids = {piece.text: i for i, piece in enumerate(pieces)}
    prefix = settings.add_dummy_prefix
    spaces = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    bos = settings.names.get("bos")
    try:
        tokenizer = Tokenizer(
            models.BPE(
                ids,
                _merges(pieces),
                unk_token=next((p.text for p in pieces if p.kind is Kind.UNKNOWN), None),
                fuse_unk=True,
                byte_fallback=settings.byte_fallback,
            )
        )
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), spaces] if prefix else [spaces]
        )
        tokenizer.decoder = decoders.Sequence(
            [*steps, decoders.Strip(" ", 1, 0)] if prefix else steps
        )
        _add_tokens(tokenizer, pieces, added)
        if add_bos and bos in ids:
            _begin_with(tokenizer, bos, ids[bos])
        return str(tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ConvertError(f"the vocabulary has no `tokenizer.json`: {error}") from error


def _add_tokens(tokenizer: Tokenizer, pieces: Sequence[Piece], added: Sequence[Added]) -> None:
    """Tell the tokenizer which tokens are found in a text before it is taken apart."""
    from tokenizers import AddedToken

    for piece in pieces:
        if piece.kind in (Kind.CONTROL, Kind.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(piece.text, special=True, normalized=False)])
        elif piece.kind is Kind.USER_DEFINED:  # found where spaces are already written as U+2581
            tokenizer.add_tokens([AddedToken(piece.text, normalized=True)])
    for token in added:
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([AddedToken(token.text, special=token.special, normalized=False)])


def _begin_with(tokenizer: Tokenizer, name: str, token: int) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single=[name, "$A"], pair=[name, "$A", f"{name}:1", "$B:1"], special_tokens=[(name, token)]
    )


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The last join of every piece that has one, most urgent first.

    Of pieces that share a score the longest comes first. In Mistral's vocabulary all runs of spaces
    do: the leftmost run then grows to its full length before the next begins, as in sentencepiece.
    """
    normal = [piece for piece in pieces if piece.kind is Kind.NORMAL]
    scores = {piece.text: piece.score for piece in normal}
    joined = sorted(normal, key=lambda piece: (-piece.score, -len(piece.text)))
    return [join for piece in joined if (join := _last_join(piece.text, scores))]


def _last_join(text: str, scores: Mapping[str, float]) -> tuple[str, str] | None:
    """The two parts from which sentencepiece makes this text, if it makes it one piece."""
    parts = list(text)
    last = None
    while len(parts) > 1:
        best, place = None, 0
        for i, pair in enumerate(pairwise(parts)):
            score = scores.get("".join(pair))
            if score is not None and (best is None or score > best):
                best, place = score, i
        if best is None:
            return None
        last = (parts[place], parts[place + 1])
        parts[place : place + 2] = ["".join(last)]
    return last


_TEXTS = (
    "", " ", "  ", "a", " a", "a ", "  a  ", "\n", "\r\n", "\t", "\n\n \n", "a\nb\r\nc\td", "\0",
    "a\0b", "\u2581", " \u2581 ", "a\u2581b", "\u00a0", "\u3000", "\ufeff", "\u200b\u200d",
    "e\u0301", "\u00e9", "stra\u00dfe", "\u65e5\u672c\u8a9e", "\u0441\u043b\u043e\u0432\u043e",
    "\u05e9\u05dc", "\U0001f642", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0010ffff",
    "<s>", "</s>", "<unk>", "<0x41>", "a<s>b</s>", "0123456789", "3.14159e-27",
    "x = [i ** 2 for i in range(10)]", "    if x:\n        return  y\n",
    "The quick brown fox jumps over the lazy dog.",
)  # fmt: skip


def battery(pieces: Sequence[Piece]) -> list[str]:
    """Texts on which a wrong order of joins would show.

    Oddities of Unicode; every piece, alone and doubled; runs of spaces and of everything periodic
    in the vocabulary; and what pieces with one score make side by side.
    """
    normal = [piece for piece in pieces if piece.kind is Kind.NORMAL]
    known = [piece.text.replace(SPACE, " ") for piece in normal]
    texts = [*_TEXTS, *known, *(text * 2 for text in known)]
    periods = {" "} | {text[:n] for text in known if (n := _period(text)) < len(text)}
    for period in sorted(periods):
        texts += [(period * 40)[: n + shift] for n in (3, 5, 7, 11, 40) for shift in (0, 1)]
        texts += [f"a{period * n}{end}" for n in (2, 3, 4, 5, 17) for end in ("b", period[:1], "")]
    texts += [f"{start}{' ' * n}{end}" for n in range(40) for start in "\na" for end in ("", "the")]
    ranked = sorted(normal, key=lambda piece: piece.score)
    for _, group in groupby(ranked, key=lambda piece: piece.score):
        tied = [piece.text.replace(SPACE, " ") for piece in group][:_TIED]
        if len(tied) > 1:
            texts += [a + b + c for a in tied for b in tied for c in tied]
            texts += [text for a in tied for b in tied for text in _overlapping(a, b)]
    return texts


_TIED = 16
"""Pieces of one score that are put side by side, three at a time."""


def _overlapping(left: str, right: str) -> list[str]:
    """The two texts with the end of one as the beginning of the other."""
    most = min(len(left), len(right))
    return [left + right[n:] for n in range(1, most) if left[-n:] == right[:n]]


def _period(text: str) -> int:
    """The smallest number of characters after which the text repeats itself."""
    return next((n for n in range(1, len(text)) if text[n:] == text[:-n]), len(text))


def compare(tokenizer: str, model: Path, texts: Iterable[str]) -> list[Difference]:
    """The texts that ``tokenizer``, the content of a ``tokenizer.json``, takes apart differently.

    Names of special tokens inside the texts are text, as they are to sentencepiece.
    """
    from tokenizers import Tokenizer

    rust, processor = Tokenizer.from_str(tokenizer), load_processor(model)
    rust.encode_special_tokens = True
    differences = []
    for text in texts:
        expected = list(processor.encode(text))
        found = list(rust.encode(text, add_special_tokens=False).ids)
        if found != expected:
            differences.append(Difference(text, expected, found))
    return differences
