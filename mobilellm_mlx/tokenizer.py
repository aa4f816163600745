"""Text to token ids and back, byte for byte.

Two kinds of vocabulary cover the family: byte-level BPE (``tokenizer.json``: SmolLM2, Llama 3)
and sentencepiece with byte fallback (``tokenizer.model``, or a ``tokenizer.json`` made from one:
MobileLLM v1, Llama 2). Both say which bytes a token stands for, so a stream is put together from
bytes and never shows half a character.
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.added_tokens import AddedToken, added_tokens
from mobilellm_mlx.added_tokens import token_name as token_name
from mobilellm_mlx.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Rust

# Unicode's noncharacters: never part of a real text, so one of them can mark a place in it.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Tokenizer(ABC):
    """What the rest of the program needs of a vocabulary."""

    vocab_size: int
    special: dict[str, int]
    """Tokens that are signs, not text, such as ``<|im_end|>``."""
    prefix: tuple[int, ...] = ()
    """Ids that start every plain text (a begin-of-sequence token, where the model wants one)."""
    _known: Mapping[str, list[int]] = MappingProxyType({})
    """The texts between the signs of the last template and their ids. The next turn of a
    conversation brings all of them again; encoding them again would take longer with each turn."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing in it becomes a special token, no prefix is added."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes of text that a token stands for; none for special tokens."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the ids, special tokens left out, broken UTF-8 shown as U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def encode_template(self, rendered: str, marker: str = "") -> list[int]:
        """Ids of a rendered chat template, whose special tokens are meant.

        Args:
            rendered: text in which the names of special tokens become their ids.
            marker: character that breaks up such names where they are only talked about; see
                ``guard``.
        """
        names = self._sign_names()
        if not names:
            return self.encode(rendered.replace(marker, "") if marker else rendered)
        ids: list[int] = []
        before = self._known
        texts: dict[str, list[int]] = {}
        for part in re.split(f"({'|'.join(map(re.escape, names))})", rendered):
            if part in self.special:
                ids.append(self.special[part])
            elif plain := part.replace(marker, "") if marker else part:
                known = texts.get(plain, before.get(plain))
                texts[plain] = self.encode(plain) if known is None else known
                ids += texts[plain]
        self._known = texts  # in one go: any thread may be here
        return ids

    def guard(self, texts: Sequence[str]) -> tuple[list[str], str]:
        """The texts with every special token's name broken by a marker, and the marker.

        What a person types or a tool returns must never become a control token: rendered between
        a template's own signs it stays text, because ``encode_template`` drops the marker only
        after it has looked for special tokens.
        """
        joined = "".join(texts)
        marker = next((mark for mark in _NONCHARACTERS if mark not in joined), None)
        if marker is None:
            raise TokenizerError("the text contains all of Unicode's noncharacters")
        names = self._sign_names()
        if not names:
            return list(texts), marker
        signs = _Signs.of(tuple(names))
        return [_broken(text, signs, marker) for text in texts], marker

    def _sign_names(self) -> list[str]:
        """Names of special tokens that a template can mean, longest first.

        A name of one character cannot be broken up in a text, so it is never taken for a sign.
        """
        return sorted((name for name in self.special if len(name) > 1), key=len, reverse=True)


@dataclass(frozen=True, slots=True)
class _Signs:
    """Names of special tokens, and what a text can hold of them."""

    names: tuple[str, ...]
    begins: re.Pattern[str]
    """Where one begins; looking ahead finds overlapping names too."""
    heads: tuple[str, ...]
    """What one may begin with."""
    tails: tuple[str, ...]
    """What one may end with."""

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, names: tuple[str, ...]) -> _Signs:
        """Those of a tokenizer, put together once."""
        return cls(
            names,
            re.compile(f"(?=(?:{'|'.join(map(re.escape, names))}))"),
            tuple({name[:n] for name in names for n in range(1, len(name))}),
            tuple({name[n:] for name in names for n in range(1, len(name))}),
        )


def _broken(text: str, signs: _Signs, marker: str) -> str:
    """The text with a marker inside every name and at an edge that could complete one.

    A name is broken after its first character. Two texts that a template puts side by side must
    not make a name together either.
    """
    broken = text
    if any(name in text for name in signs.names):
        cuts = [found.start() + 1 for found in signs.begins.finditer(text)]
        pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        broken = marker.join(pieces)
    if text.endswith(signs.heads):
        broken += marker
    if text.startswith(signs.tails):
        broken = marker + broken
    return broken


class Detokenizer:
    """Puts streamed tokens together; gives text only once its characters are complete."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Text that this token completes; often a word, sometimes nothing."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What was left incomplete, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _require_unicode(text: str) -> None:
    """The libraries below raise whatever they like for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text is not valid Unicode at character {error.start:,}",
            "it holds bytes that are not UTF-8; convert it first",
        ) from error


class JsonTokenizer(Tokenizer):
    """What a Hugging Face ``tokenizer.json`` says, by the library that the format is made for."""

    def __init__(self, rust: Rust):
        self._rust = rust
        # Text is text: names of special tokens inside it must not become special tokens.
        rust.encode_special_tokens = True
        rust.no_truncation()
        rust.no_padding()
        self.vocab_size = rust.get_vocab_size(with_added_tokens=True)
        self.added = {
            i: AddedToken(token.content, token.special)
            for i, token in rust.get_added_tokens_decoder().items()
        }
        self.special = {token.text: i for i, token in self.added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        _require_unicode(text)
        return self._ids(text, add_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        if added := self.added.get(token):
            return b"" if added.special else added.text.encode()
        piece = self._rust.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is None:
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.vocab_size:,}")
        return self._piece_bytes(piece)

    def vocabulary(self) -> dict[str, int]:
        """Every token by name, added ones too."""
        return dict(self._rust.get_vocab(with_added_tokens=True))

    def begins_with(self, token: int) -> bool:
        """Whether the file itself asks for this token before every text."""
        return self._ids("a", add_special_tokens=True)[:1] == [token]

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with _rust_errors("`tokenizer.json` cannot encode a text"):
            return list(self._rust.encode(text, add_special_tokens=add_special_tokens).ids)

    @abstractmethod
    def _piece_bytes(self, piece: str) -> bytes:
        """The bytes of text that an entry of the vocabulary stands for."""


class ByteLevelTokenizer(JsonTokenizer):
    """Byte-level BPE: every character of a piece is a stand-in for a byte."""

    def __init__(self, rust: Rust):
        super().__init__(rust)
        self._alphabet = _byte_level_alphabet()

    def _piece_bytes(self, piece: str) -> bytes:
        try:
            return bytes(self._alphabet[char] for char in piece)
        except KeyError:  # a name that is no stand-in for bytes, left as it is
            return piece.encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_SPACE = "\u2581"
"""How sentencepiece writes a space inside a piece."""


class SpacePieceTokenizer(JsonTokenizer):
    """A sentencepiece vocabulary that was rewritten as ``tokenizer.json``.

    Args:
        rust: the tokenizer.
        byte_fallback: whether pieces such as ``<0xE4>`` are bytes.
        strips: whether a text begins with a space that is not its own.
    """

    def __init__(self, rust: Rust, *, byte_fallback: bool, strips: bool):
        super().__init__(rust)
        self._bytes = {f"<0x{byte:02X}>": byte for byte in range(256)} if byte_fallback else {}
        self._strips = strips

    def _piece_bytes(self, piece: str) -> bytes:
        byte = self._bytes.get(piece)
        return piece.replace(_SPACE, " ").encode() if byte is None else bytes([byte])

    def decode(self, tokens: Iterable[int]) -> str:
        """As ``Tokenizer.decode``, without the space that was put before the text."""
        text = super().decode(tokens)
        return text.removeprefix(" ") if self._strips else text


_MAX_GROWTH = 64


def _growth(normaliser: dict[str, Any]) -> int:
    """How many times as long a normaliser can make a text, at most: replacing can be chained."""
    growth = 1
    for step in normaliser.get("normalizers") or []:
        growth = min(growth * _growth(step), 1 << 30)
    if normaliser.get("type") == "Replace":
        growth *= len(str(normaliser.get("content", ""))) + 1
    return growth


@contextmanager
def _rust_errors(what: str) -> Iterator[None]:
    """``tokenizers`` raises bare Exceptions, and panics that are not even those."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{what}: {error}") from error
        raise


def read_tokenizer_json(path: Path) -> JsonTokenizer:
    """The tokenizer in a ``tokenizer.json``.

    Raises:
        TokenizerError: when it cannot be read, or is of neither of the two kinds.
    """
    from tokenizers import Tokenizer as Rust

    with _rust_errors(f"`{path}` cannot be read"):
        rust = Rust.from_file(str(path))
        # Only the state says what a sequence of decoders or normalisers is made of.
        decoder = json.loads(rust.decoder.__getstate__()) if rust.decoder else {}
        normaliser = json.loads(rust.normalizer.__getstate__()) if rust.normalizer else {}
    if _growth(normaliser) > _MAX_GROWTH:
        raise TokenizerError(f"`{path}` makes every text more than {_MAX_GROWTH} times as long")
    if decoder.get("type") == "ByteLevel":
        return ByteLevelTokenizer(rust)
    found = [_decoding_step(step) for step in decoder.get("decoders", [decoder])]
    if None in found or not {"space", "space, strip"} & set(found):
        raise TokenizerError(
            f"`{path}` is neither byte-level BPE nor of sentencepiece's kind, "
            "the only kinds of `tokenizer.json` supported"
        )
    return SpacePieceTokenizer(
        rust,
        byte_fallback="bytes" in found,
        strips="strip" in found or "space, strip" in found,
    )


def _decoding_step(step: dict[str, Any]) -> str | None:
    """What a decoder of sentencepiece's kind does; None for one that others have."""
    match step:
        case {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}:
            return "space"
        case {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme}:
            return "space" if scheme == "never" else "space, strip"
        case {"type": "Strip", "content": " ", "start": 1, "stop": 0}:
            return "strip"
        case {"type": "ByteFallback"}:
            return "bytes"
        case {"type": "Fuse"}:
            return "fuse"
    return None


class SentencePieceTokenizer(Tokenizer):
    """Sentencepiece BPE or unigram with byte fallback, from a ``tokenizer.model``.

    Args:
        path: the model.
        add_bos: whether plain text starts with the beginning-of-text token, where there is one.
        added: tokens that a fine-tune put on top, by id; those of the model itself are ignored.
    """

    def __init__(
        self, path: Path, *, add_bos: bool = True, added: Mapping[int, AddedToken] | None = None
    ):
        from sentencepiece import SentencePieceProcessor

        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"`{path}` is not a readable sentencepiece model") from error
        self._pieces: int = self._model.vocab_size()
        self._added = {i: token for i, token in (added or {}).items() if i >= self._pieces}
        self.vocab_size = max([self._pieces, *(i + 1 for i in self._added)])
        self.special = {
            self._model.id_to_piece(i): i
            for i in range(self._pieces)
            if self._model.is_control(i) or self._model.is_unknown(i)
        }
        self.special |= {token.text: i for i, token in self._added.items() if token.special}
        self._words = {token.text: i for i, token in self._added.items() if not token.special}
        names = sorted(self._words, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        bos = self._model.bos_id()
        self.prefix = (bos,) if add_bos and bos >= 0 else ()

    def encode(self, text: str) -> list[int]:
        _require_unicode(text)
        if self._split is None:
            return list(self._model.encode(text))
        ids: list[int] = []
        for part in self._split.split(text):
            ids += [self._words[part]] if part in self._words else self._model.encode(part)
        return ids

    def token_bytes(self, token: int) -> bytes:
        if added := self._added.get(token):
            return b"" if added.special else added.text.encode()
        if not 0 <= token < self._pieces:
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.vocab_size:,}")
        if self._model.is_control(token) or self._model.is_unknown(token):
            return b""
        piece: str = self._model.id_to_piece(token)
        if self._model.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # "<0xE4>"
        return piece.replace(_SPACE, " ").encode()

    def decode(self, tokens: Iterable[int]) -> str:
        """As ``Tokenizer.decode``, without the space that sentencepiece puts before a text."""
        return super().decode(tokens).removeprefix(" ")


def load_tokenizer(directory: Path, config: dict[str, object]) -> Tokenizer:
    """The tokenizer of a model directory.

    A byte-level ``tokenizer.json`` comes first, then sentencepiece's own file, which is exact, and
    last a ``tokenizer.json`` of sentencepiece's kind, which often is not.

    Args:
        directory: holds ``tokenizer.json`` or ``tokenizer.model``.
        config: its ``tokenizer_config.json``, empty when it has none.

    Raises:
        TokenizerError: when there is none, or it cannot be read.
    """
    add_bos = config.get("add_bos_token")
    path, model = directory / "tokenizer.json", directory / "tokenizer.model"
    described: JsonTokenizer | None = None
    if path.is_file() and not model.is_file():
        described = read_tokenizer_json(path)
    elif path.is_file() and not _can_stay_unread(path, config):
        with suppress(TokenizerError):
            described = read_tokenizer_json(path)
    if model.is_file() and not isinstance(described, ByteLevelTokenizer):
        added = added_tokens(directory, config)
        exact = SentencePieceTokenizer(model, add_bos=add_bos is not False, added=added)
        if described is None or described.vocab_size <= exact.vocab_size:
            return exact
    if described is None:
        raise TokenizerError(
            f"no tokenizer in `{directory}`: expected `tokenizer.json` or `tokenizer.model`",
            "copy the tokenizer of the original checkpoint into the directory",
        )
    bos = token_name(config.get("bos_token"))
    if add_bos is True and bos in described.special:
        described.prefix = (described.special[bos],)
    return described


def _can_stay_unread(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a ``tokenizer.json`` beside sentencepiece's own file has nothing to add to it.

    It takes long to read. Ours never needs to be: the configuration names what was added.
    """
    try:
        return "added_tokens_decoder" in config and b'"ByteLevel"' not in path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"`{path}` cannot be read: {error.strerror}") from error
