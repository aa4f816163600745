"""Text to token ids and back, byte for byte.

Two kinds of vocabulary cover the family: byte-level BPE (``tokenizer.json``: SmolLM2, Llama 3)
and sentencepiece with byte fallback (``tokenizer.model``: MobileLLM v1, Llama 2). Both say which
bytes a token stands for, so a stream is put together from bytes and never shows half a character.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from mobilellm_mlx.errors import TokenizerError

# Unicode's noncharacters: never part of a real text, so one of them can mark a place in it.
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class Tokenizer(ABC):
    """What the rest of the program needs of a vocabulary."""

    vocab_size: int
    special: dict[str, int]
    """Tokens that are signs, not text, such as ``<|im_end|>``."""
    prefix: tuple[int, ...] = ()
    """Ids that start every plain text (a begin-of-sequence token, where the model wants one)."""

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
        for part in re.split(f"({'|'.join(map(re.escape, names))})", rendered):
            if part in self.special:
                ids.append(self.special[part])
            elif plain := part.replace(marker, "") if marker else part:
                ids += self.encode(plain)
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
        # Looking ahead finds overlapping names too; each is broken after its first character.
        begins = re.compile(f"(?=(?:{'|'.join(map(re.escape, names))}))")
        return [_broken(text, begins, names, marker) for text in texts], marker

    def _sign_names(self) -> list[str]:
        """Names of special tokens that a template can mean, longest first.

        A name of one character cannot be broken up in a text, so it is never taken for a sign.
        """
        return sorted((name for name in self.special if len(name) > 1), key=len, reverse=True)


def _broken(text: str, begins: re.Pattern[str], names: Sequence[str], marker: str) -> str:
    """The text with a marker inside every name and at an edge that could complete one.

    Two texts that a template puts side by side must not make a name together either.
    """
    cuts = [found.start() + 1 for found in begins.finditer(text)]
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    broken = marker.join(pieces)
    if any(text.endswith(name[:n]) for name in names for n in range(1, len(name))):
        broken += marker
    if any(text.startswith(name[n:]) for name in names for n in range(1, len(name))):
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


def token_name(entry: object) -> str | None:
    """A token in ``tokenizer_config.json``, which is a string or a table with its ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes, as character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


class ByteLevelTokenizer(Tokenizer):
    """Byte-level BPE from a Hugging Face ``tokenizer.json``."""

    def __init__(self, path: Path, *, prefix: Sequence[int] = ()):
        from tokenizers import Tokenizer as Rust

        try:
            self._rust = Rust.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise TokenizerError(f"`{path}` cannot be read: {error}") from error
        if type(self._rust.decoder).__name__ != "ByteLevel":
            raise TokenizerError(
                f"`{path}` is not byte-level BPE, the only kind of `tokenizer.json` supported"
            )
        # Text is text: names of special tokens inside it must not become special tokens.
        self._rust.encode_special_tokens = True
        self._rust.no_truncation()
        self._rust.no_padding()
        self.vocab_size = self._rust.get_vocab_size(with_added_tokens=True)
        self._added = self._rust.get_added_tokens_decoder()
        self.special = {t.content: i for i, t in self._added.items() if t.special}
        self.prefix = tuple(prefix)
        self._alphabet = _byte_level_alphabet()

    def encode(self, text: str) -> list[int]:
        _require_unicode(text)
        return list(self._rust.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token: int) -> bytes:
        if added := self._added.get(token):
            return b"" if added.special else added.content.encode()
        piece = self._rust.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is None:
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.vocab_size:,}")
        return bytes(self._alphabet[char] for char in piece)


class SentencePieceTokenizer(Tokenizer):
    """Sentencepiece BPE or unigram with byte fallback, from a ``tokenizer.model``."""

    def __init__(self, path: Path, *, add_bos: bool = True):
        from sentencepiece import SentencePieceProcessor

        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"`{path}` is not a readable sentencepiece model") from error
        self.vocab_size = self._model.vocab_size()
        self.special = {
            self._model.id_to_piece(i): i
            for i in range(self.vocab_size)
            if self._model.is_control(i) or self._model.is_unknown(i)
        }
        bos = self._model.bos_id()
        self.prefix = (bos,) if add_bos and bos >= 0 else ()

    def encode(self, text: str) -> list[int]:
        _require_unicode(text)
        return list(self._model.encode(text))

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.vocab_size:,}")
        if self._model.is_control(token) or self._model.is_unknown(token):
            return b""
        piece: str = self._model.id_to_piece(token)
        if self._model.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # "<0xE4>"
        return piece.replace("\u2581", " ").encode()

    def decode(self, tokens: Iterable[int]) -> str:
        """As ``Tokenizer.decode``, without the space that sentencepiece puts before a text."""
        return super().decode(tokens).removeprefix(" ")


def load_tokenizer(directory: Path, config: dict[str, object]) -> Tokenizer:
    """The tokenizer of a model directory.

    Args:
        directory: holds ``tokenizer.json`` or ``tokenizer.model``.
        config: its ``tokenizer_config.json``, empty when it has none.

    Raises:
        TokenizerError: when there is none, or it cannot be read.
    """
    add_bos = config.get("add_bos_token")
    if (path := directory / "tokenizer.json").is_file():
        tokenizer = ByteLevelTokenizer(path)
        bos = token_name(config.get("bos_token"))
        if add_bos is True and bos in tokenizer.special:
            tokenizer.prefix = (tokenizer.special[bos],)
        return tokenizer
    if (path := directory / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path, add_bos=add_bos is not False)
    raise TokenizerError(
        f"no tokenizer in `{directory}`: expected `tokenizer.json` or `tokenizer.model`",
        "copy the tokenizer of the original checkpoint into the directory",
    )
