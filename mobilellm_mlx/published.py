"""Every published repository of the MobileLLM family as data: what it is, weighs and allows.

The rows are made from small tables. Sources are the repositories' own pages and READMEs and the
papers; what none of them says is None and shown as unknown. Nothing here asks the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobilellm_mlx import paths

AUTHORS = "Meta"
FAIR_NC = "FAIR Noncommercial Research License"

_V1, _R1, _R1_BASE, _R15 = "MobileLLM", "MobileLLM-R1", "MobileLLM-R1 base", "MobileLLM-R1.5"
_PRO, _PRO_BASE, _PARETOQ = "MobileLLM-Pro", "MobileLLM-Pro base", "MobileLLM-ParetoQ"

LINES: dict[str, str] = {
    _V1: "completes text, does not chat",
    _R1: "for maths, code and science; no tool training",
    _R15: "for maths, code and science; no tool training",
    _R1_BASE: "completes text, does not chat",
    _PRO: "chats and follows instructions, in long contexts",
    _PRO_BASE: "completes text, does not chat; long contexts",
    _PARETOQ: "completes text, does not chat; trained for few bits",
}
"""The lines of the family, and what each is for."""

_ABOUT = {
    _V1: "A base model, trained on text alone.",
    _R1: (
        "Reasons step by step and ends with its answer in \\boxed{}. It was not trained for small "
        "talk, nor to call tools."
    ),
    _R15: "Distilled from R1 on answers of its own, and of the same shape; for the same uses.",
    _R1_BASE: "What R1 was tuned from, and a start for fine-tuning.",
    _PRO: "Three of four blocks see the last 512 tokens only, which keeps long contexts cheap.",
    _PRO_BASE: "What Pro was tuned from, and a start for fine-tuning.",
    _PARETOQ: "Trained so that its blocks keep their quality when rounded to few bits.",
}


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One repository on the Hugging Face Hub."""

    repo_id: str
    line: str
    """A key of ``LINES``."""
    size: str
    """As its name has it, such as ``125M``."""
    about: str
    licence: str | None = FAIR_NC
    """All that are known forbid commercial use."""
    gated: bool | None = None
    """Whether its terms must be accepted before it can be fetched."""
    parameters: int | None = None
    context: int | None = None
    download_bytes: int | None = None
    """Of the published weights."""
    packed_bytes: int | None = None
    """Of the weights converted by the default recipe; by arithmetic, checked by a test."""
    variant: str = ""
    """The end of its name, where it has siblings that differ in nothing else that is listed."""
    weight_bits: str | None = None
    """Bits that its blocks were trained for, as the converter takes them; 1.58 is three values."""
    fake_quant: str | None = None
    """What its 16-bit weights were rounded to in training, as the converter takes it."""

    @property
    def title(self) -> str:
        """The repository's name without its owner."""
        return self.repo_id.rpartition("/")[2]

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.title.lower()

    @property
    def purpose(self) -> str:
        """What it is for, in a few words."""
        return LINES[self.line]

    @property
    def page(self) -> str:
        """Where its terms can be read and accepted."""
        return f"https://huggingface.co/{self.repo_id}"

    @property
    def path(self) -> Path:
        """Where its converted form lies, or would."""
        return paths.models_dir() / "hub" / self.repo_id.replace("/", "--")

    @property
    def is_installed(self) -> bool:
        """Whether it is there and whole: the manifest is written last."""
        return (self.path / paths.MANIFEST).is_file()


_V1_SIZES = {  # parameters, bytes of the published weights, bytes packed
    "125M": (124_635_456, 249_270_912, 91_608_192),
    "350M": (345_355_200, 690_710_400, 245_961_600),
    "600M": (603_188_352, 1_280_104_704, 423_108_864),
    "1B": (1_005_461_760, 2_092_843_520, 697_121_280),
    "1.5B": (1_562_388_800, 3_124_777_600, 1_097_219_200),  # published with a head of its own
}
_R1_SIZES = {  # parameters, bytes packed
    "140M": (140_248_512, 123_629_184),
    "360M": (359_431_168, 294_680_576),
    "950M": (949_685_760, 721_198_080),
}
_PARETOQ_WIDTHS = {
    "1-bit": "1", "1.58-bit": "1.58", "2-bit": "2", "3-bit": "3", "4-bit": "4", "BF16": None,
}  # fmt: skip
_PRO_KINDS = {
    "": (_PRO, None, _ABOUT[_PRO]),
    "-base": (_PRO_BASE, 2_168_906_240, _ABOUT[_PRO_BASE]),
    "-base-int4-cpu": (_PRO_BASE, None, "Trained to be rounded to 4 bits in groups of 32."),
    "-base-int4-accelerator": (_PRO_BASE, None, "Trained to be rounded to 4 bits by the channel."),
}


def _iter_models() -> Iterator[PublishedModel]:
    for size in _V1_SIZES:
        yield _v1(size)
    for size in ("125M", "350M"):
        yield _v1(size, "-layer-share", "Runs each block twice, for quality at no more weight.")
    for size in _R1_SIZES:
        # The gate and the context of R1.5 are not stated anywhere that we could read.
        yield _r1(_R1, f"R1-{size}", size, gated=True, context=32_768)
        yield _r1(_R15, f"R1.5-{size}", size)
        yield _r1(_R1_BASE, f"R1-{size}-base", size, gated=True, context=4096)
    for ending, (line, download_bytes, about) in _PRO_KINDS.items():
        yield PublishedModel(
            f"facebook/MobileLLM-Pro{ending}",
            line,
            "1B",
            about,
            gated=True,
            parameters=1_084_453_120,
            context=131_072,
            download_bytes=download_bytes,
            packed_bytes=None if "int4" in ending else 837_117_440,
            variant=ending.partition("-int4-")[2],
            fake_quant="int4" if "int4" in ending else None,
        )
    for size in _V1_SIZES:
        for width, bits in _PARETOQ_WIDTHS.items():
            yield PublishedModel(
                f"facebook/MobileLLM-ParetoQ-{size}-{width}",
                _PARETOQ,
                size,
                _ABOUT[_PARETOQ] if bits else "The 16-bit one, beside those of few bits.",
                licence=None,
                variant=width.lower(),
                weight_bits=bits,
            )


def _v1(size: str, ending: str = "", about: str = _ABOUT[_V1]) -> PublishedModel:
    parameters, download_bytes, packed_bytes = _V1_SIZES[size]
    return PublishedModel(
        f"facebook/MobileLLM-{size}{ending}",
        _V1,
        size,
        about,
        # The repositories' tags and the project's README disagree; neither allows commerce.
        licence=f"{FAIR_NC} or CC-BY-NC-4.0",
        parameters=parameters,
        context=2048,
        download_bytes=download_bytes,
        packed_bytes=packed_bytes,
    )


def _r1(
    line: str, title: str, size: str, *, gated: bool | None = None, context: int | None = None
) -> PublishedModel:
    parameters, packed_bytes = _R1_SIZES[size]
    return PublishedModel(
        f"facebook/MobileLLM-{title}",
        line,
        size,
        _ABOUT[line],
        gated=gated,
        parameters=parameters,
        context=context,
        download_bytes=parameters * 4 if title == "R1-950M" else None,  # stored in 32 bits
        packed_bytes=packed_bytes,
    )


PUBLISHED: dict[str, PublishedModel] = {model.name: model for model in _iter_models()}
"""The repositories by their short names."""


def find(name: str) -> PublishedModel | None:
    """The repository of a short name or of ``facebook/NAME``, in any case; None when unknown."""
    owner, _, title = name.rpartition("/")
    return PUBLISHED.get(title.lower()) if owner.lower() in ("", "facebook") else None
