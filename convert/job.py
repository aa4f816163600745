"""The conversion: a checkpoint in, a verified model directory out."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from mobilellm_mlx import __version__
from mobilellm_mlx.backend import allocation_errors, mx
from mobilellm_mlx.errors import ConvertError, InvalidOption
from mobilellm_mlx.events import ConvertSummary, Event, Notice, Progress
from mobilellm_mlx.hub import require_free_space
from mobilellm_mlx.loading import read_json
from mobilellm_mlx.tokenizer import Tokenizer, load_tokenizer

from . import report
from .files import display_name
from .learning import calibration
from .learning.background import Report, iter_progress
from .licence import Licence
from .plan import ConvertOptions, Plan, TensorPlan, make_plan
from .readers.open import open_directory
from .readers.packed import packed_reader
from .readers.tensors import PackedTensor, Tensor
from .resources import hashing, peak_memory_bytes, small_cache
from .source import Source, open_source
from .target import generation_config, target_config
from .transform import Error, cast, count_nonfinite, dense, measure, transform
from .verify import WINDOW, Quality, budget, compare
from .writers import directory as writer
from .writers.safetensors_file import DTYPES
from .writers.shards import write_shards

__all__ = ["ConvertOptions", "convert"]


@dataclass
class Measured:
    """What a conversion found out, for the report."""

    errors: dict[str, Error] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    quality: Quality | None = None
    convert_s: float = 0.0
    verify_s: float = 0.0
    convert_peak_memory_bytes: int = 0

    def relative_error(self) -> float | None:
        """Of all packed weights together."""
        if not self.errors:
            return None
        total = Error(
            sum(error.difference for error in self.errors.values()),
            sum(error.original for error in self.errors.values()),
        )
        return total.relative if isfinite(total.relative) else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint came from, when that is more than a path."""

    name: str
    details: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of source files that were verified already, by their names."""
    weights: tuple[str, ...] = ()
    """The weight files that are meant, when others may lie beside them."""
    licence: str | None = None
    """Its licence, where the place it came from names one."""


def convert(
    path: Path,
    target: Path,
    options: ConvertOptions | None = None,
    *,
    config: Path | None = None,
    tokenizer: Path | None = None,
    text: Path | None = None,
    origin: Origin | None = None,
) -> Iterator[Event]:
    """Convert a checkpoint into a model directory that appears whole or not at all.

    Args:
        path: a checkpoint's directory or weight file.
        target: the directory to make.
        options: how to pack and what to check.
        config: a ``config.json`` elsewhere than beside the weights.
        tokenizer: a directory with the tokenizer, when the source has none.
        text: a UTF-8 text to calibrate and measure with, in place of the built-in ones.
        origin: where the source came from; None is the path.

    Yields:
        ``Progress`` in bytes and blocks, ``Notice``, and a ``ConvertSummary`` at the end.

    Raises:
        MobileLLMError: one of its kinds; nothing is left behind.
    """
    started = time.perf_counter()
    options = options or ConvertOptions()
    target = Path(os.path.abspath(target))  # noqa: PTH100 (`resolve` would follow a link)
    if text is not None and not options.verify and options.method == "round":
        raise InvalidOption("a text is of no use without verifying or learning")
    writer.require_absent(target, options.force, [path])
    origin = origin or Origin(display_name(path))
    source = open_source(path, config, origin.weights, options.weight_bits, options.fake_quant)
    named = [place for place in (config, tokenizer, text) if place is not None]
    files = [path, *named, *source.reader.files, *source.licence().files]
    writer.require_absent(target, options.force, files)
    plan = make_plan(source, options)
    job = Conversion(source, plan, options, origin, tokenizer, text)
    with writer.staging(target) as directory:
        writer.require_absent(target, options.force, files)  # what a killed run left is back
        require_free_space(directory, int(plan.nbytes * 1.01) + 10_000_000)
        yield from job.run(directory)
        writer.require_absent(target, options.force, files)  # hours may have passed
        writer.publish(directory, target, job.manifest(target.name))
    yield job.summary(target, time.perf_counter() - started)


class Conversion:
    """One checkpoint on its way into one directory."""

    def __init__(
        self,
        source: Source,
        plan: Plan,
        options: ConvertOptions,
        origin: Origin,
        tokenizer: Path | None = None,
        text: Path | None = None,
    ):
        self.source, self.plan, self.options, self.origin = source, plan, options, origin
        self.tokenizer, self.text = tokenizer, text
        licence = source.licence()
        self.licence: Licence = replace(licence, name=licence.name or origin.licence)
        self.measured = Measured()
        self.notices: list[str] = []
        self.chat = False
        self._packed: dict[str, Tensor] = {}
        self._rounded = False

    def run(self, directory: Path) -> Iterator[Event]:
        """Fill ``directory`` with everything but its manifest."""
        yield from self._notices()
        raw = target_config(
            self.source.config, self.source.raw, self.plan.dtype, self.plan.quantization()
        )
        # The words first: they take no time, and a checkpoint without a tokenizer is said early.
        for notice in self.source.write_tokenizer(directory, self.tokenizer):
            yield self._notice(notice)
        words = read_json(directory / "tokenizer_config.json", missing={})
        self.chat = "chat_template" in words or (directory / "chat_template.jinja").is_file()
        writer.write_json(directory / "config.json", raw)
        generation = self.source.generation()
        writer.write_json(
            directory / "generation_config.json", generation_config(self.source.raw, generation)
        )
        lesson, exam = yield from self._read_text(directory)
        files, known = self.source.reader.files, self.origin.digests
        with hashing(files, known) as digests, small_cache():
            if lesson:
                yield from self._learn(lesson)
            yield from self._write(directory)
            if exam and self._rounded:
                yield from self._verify(directory, raw, exam)
        self.measured.digests = digests
        self._write_papers(directory)

    def _notices(self) -> Iterator[Event]:
        for text in [*self.source.notices, *self.plan.notices()]:
            yield self._notice(text)

    def _notice(self, text: str) -> Notice:
        self.notices.append(text)
        return Notice(text)

    def _write(self, directory: Path) -> Iterator[Event]:
        started, verified = time.perf_counter(), self.measured.verify_s
        total = sum(tensor.source_bytes for tensor in self.plan.tensors)
        done = 0
        yield Progress("converting", 0, total)
        with allocation_errors("converting"):
            for tensor in self._stored(directory):
                done += tensor.source_bytes
                yield Progress("converting", done, total)
        elapsed = time.perf_counter() - started
        self.measured.convert_s = elapsed - (self.measured.verify_s - verified)
        self.measured.convert_peak_memory_bytes = peak_memory_bytes()
        for name, count in self.measured.nonfinite.items():
            yield self._notice(f"tensor `{name}` holds {count:,} NaN or infinite values")

    def _stored(self, directory: Path) -> Iterator[TensorPlan]:
        """The tensors, as they are written."""
        return write_shards(directory, self.plan.tensors, self._values())

    def _values(self) -> Iterator[tuple[TensorPlan, Tensor]]:
        if self.options.method != "round":
            yield from self._learned()
            return
        for tensor in self.plan.tensors:
            before = self.source.read(tensor.name)
            after = transform(tensor, before)
            self._look(tensor, before, after)
            yield tensor, after

    def _learned(self) -> Iterator[tuple[TensorPlan, Tensor]]:
        """The whole model at once, because these methods watch it compute."""
        for tensor in self.plan.tensors:
            after = self._packed.pop(tensor.name)
            self._look(tensor, self.source.read(tensor.name), after)
            yield tensor, after

    def _look(self, tensor: TensorPlan, before: Tensor, after: Tensor) -> None:
        """Count what is not finite; measure what packing costs."""
        if count := count_nonfinite(before):
            self.measured.nonfinite[tensor.name] = count
        if isinstance(after, PackedTensor) and after is not before:
            self._rounded = True
        if self.options.verify and isinstance(after, PackedTensor) and after is not before:
            started = time.perf_counter()
            self.measured.errors[tensor.name] = measure(before, after)
            self.measured.verify_s += time.perf_counter() - started

    def _read_text(
        self, directory: Path
    ) -> Generator[Event, None, tuple[list[list[int]], list[list[int]]]]:
        """The tokens to learn and to measure with, before any work: a text can be too short."""
        learns, verifies = self.options.method != "round", self.options.verify
        if not (learns or verifies):
            return [], []
        words = load_tokenizer(directory, read_json(directory / "tokenizer_config.json"))
        length = min(WINDOW, self.source.config.max_position_embeddings)
        if length < len(words.prefix) + 2:
            if verifies:
                yield self._notice("the context is too short for text, so nothing is measured")
            return [], []
        most = budget(self.source.config.parameter_count())
        if self.text is None:
            exam = self._encode(words, calibration.held_out_text())[:most] if verifies else []
            lesson = self._encode(words, calibration.calibration_text()) if learns else []
        else:  # what was learned from must not be what it is judged by
            tokens = self._encode(words, calibration.calibration_text(self.text))
            asked = min(most, len(tokens) // 2 if learns else len(tokens)) if verifies else 0
            exam, lesson = tokens[:asked], tokens[asked:]
        return (
            calibration.samples(lesson[: 4 * most], length, prefix=words.prefix) if learns else [],
            calibration.samples(exam, length, prefix=words.prefix) if verifies else [],
        )

    def _encode(self, words: Tokenizer, text: str) -> list[int]:
        tokens, rows = words.encode(text), self.source.config.vocab_size
        if tokens and max(tokens) >= rows:
            raise ConvertError(
                f"the tokenizer has token {max(tokens):,}, the model only {rows:,}",
                "the source mixes files of different models",
            )
        return tokens

    def _learn(self, windows: list[list[int]]) -> Iterator[Event]:
        """Pack by a method that watches the model compute; it holds the whole of it."""
        from .learning.methods import quantize_learned

        dtype = DTYPES[self.plan.dtype]
        tensors = {
            t.name: cast(t, dense(self.source.read(t.name)), dtype) for t in self.plan.tensors
        }
        mx.eval(tensors)
        packings = {tensor.module: tensor.packing for tensor in self.plan.tensors}
        config, method = self.source.config, self.options.method

        def work(report: Report) -> dict[str, Tensor]:
            return quantize_learned(method, config, tensors, packings, windows, progress=report)

        for step in iter_progress(work):
            if isinstance(step, Progress):
                yield step
            else:
                self._packed = step

    def _verify(
        self, directory: Path, raw: Mapping[str, Any], windows: list[list[int]]
    ) -> Iterator[Event]:
        started = time.perf_counter()
        written = packed_reader(open_directory(directory), raw)
        dtype = DTYPES[self.plan.dtype]

        def converted(name: str) -> mx.array:
            return dense(written.read(name))

        def reference(name: str) -> mx.array:
            value = self.source.read(name)
            return dense(value if isinstance(value, PackedTensor) else value.astype(dtype))

        with allocation_errors("verifying"):
            for step in compare(self.source.config, reference, converted, windows):
                if isinstance(step, Quality):
                    self.measured.quality = step
                else:
                    yield Progress("verifying", *step, "steps")
        if self.measured.quality is None:
            yield self._notice("the model computes values that are not numbers: it is of no use")
        self.measured.verify_s += time.perf_counter() - started

    def _write_papers(self, directory: Path) -> None:
        """Licence, proof and model card."""
        for path in self.licence.files:
            (directory / path.name).write_bytes(path.read_bytes())
        proof = report.proof(self)
        writer.write_json(directory / "conversion.json", proof)
        (directory / "README.md").write_text(report.card(proof), encoding="utf-8")

    def manifest(self, name: str) -> dict[str, Any]:
        """Where the directory came from, for `doctor` and for loading it."""
        return {
            "format": 1,
            "name": name,
            "licence": self.licence.name,
            "family": self.source.config.family,
            "made_by": f"mobilellm-mlx {__version__}",
            "source": {"name": self.origin.name, **self.origin.details},
        }

    def summary(self, target: Path, elapsed_s: float) -> ConvertSummary:
        """What the job says at its end."""
        measured = self.measured
        quality: dict[str, Any] = asdict(measured.quality) if measured.quality else {}
        return ConvertSummary(
            elapsed_s=elapsed_s,
            path=str(target),
            family=self.source.config.family,
            parameters=self.source.config.parameter_count(),
            source_format=self.source.reader.format,
            source_bytes=self.source.nbytes,
            bytes=self.plan.nbytes,
            bits_per_weight=self.plan.bits_per_weight,
            licence=self.licence.name,
            chat=self.chat,
            nonfinite=sum(measured.nonfinite.values()),
            relative_error=measured.relative_error(),
            verified_tokens=quality.pop("tokens", 0),
            **quality,
            convert_s=measured.convert_s,
            verify_s=measured.verify_s,
            convert_peak_memory_bytes=measured.convert_peak_memory_bytes,
            peak_memory_bytes=peak_memory_bytes(),
        )
