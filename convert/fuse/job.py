"""Fusing: a model and its adapter in, one verified model directory out.

It is a conversion whose source is the model with the adapter's change in it, so packing, writing
and proof are a conversion's own. What is new is the question that packing raises: whether the
change is larger than the rounding.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from mobilellm_mlx.adapters import AdapterInfo, model_sha256, require_fit
from mobilellm_mlx.backend import allocation_errors, mx
from mobilellm_mlx.errors import InvalidOption
from mobilellm_mlx.events import ConvertSummary, Event, FuseSummary, Notice, Progress
from mobilellm_mlx.hub import require_free_space, sha256
from mobilellm_mlx.huggingface import is_repo_id
from mobilellm_mlx.weights import MODES, Packing

from ..export.source import ModelDirectory
from ..files import display_name
from ..job import Conversion, Origin
from ..plan import ConvertOptions, Plan, TensorPlan, make_plan
from ..readers.open import open_directory
from ..readers.packed import packed_reader
from ..readers.tensors import Tensor
from ..recipes import UNPACKED
from ..source import EMBEDDING
from ..transform import dense, transform
from ..verify import Quality, Read, compare
from ..writers import directory as writer
from ..writers.safetensors_file import TORCH_NAMES
from . import report
from .source import FusedSource
from .survival import Survival, survival, total

_LITTLE = 0.5
"""Share of the change below which a person is warned."""
_ENOUGH_BITS = 8
"""What a changed matrix is packed with where nothing was asked for: fewer take the change away."""
_DETAILS = ("hub", "revision", "package", "version", "member", "sha256")
"""What a base's manifest may say of where it came from."""


def fuse(
    path: Path,
    adapter: AdapterInfo,
    target: Path | None,
    options: ConvertOptions | None = None,
    *,
    text: Path | None = None,
    other_base: bool = False,
) -> Iterator[Event]:
    """Make one model of a model and an adapter; it appears whole or not at all.

    Args:
        path: the base's model directory.
        adapter: what is to be fused into it.
        target: the directory to make; None writes no weights and says what would come.
        options: how to pack; by default what the adapter changes with 8 bits, where the base has
            fewer, and all else as it is in the base.
        text: a UTF-8 text to measure with, in place of the built-in one.
        other_base: use the adapter though it was made for another model.

    Yields:
        ``Progress`` in bytes and blocks, ``Notice``, and a ``FuseSummary`` at the end.

    Raises:
        MobileLLMError: one of its kinds; nothing is left behind.
    """
    started = time.perf_counter()
    options = options or ConvertOptions()
    if text is not None and not options.verify:
        raise InvalidOption("a text is of no use without verifying")
    if target is not None:
        target = Path(os.path.abspath(target))  # noqa: PTH100 (`resolve` would follow a link)
        writer.require_absent(target, options.force, [path, adapter.path])
    base = ModelDirectory(path)
    name = _base_name(base)
    require_fit(adapter, path, name, force=other_base)
    source = FusedSource(path, adapter)
    plain, plan = make_plans(source, options)
    job = Fusion(source, plan, plain, options, _origin(base, name), text)
    job.other_base = other_base and adapter.base_sha256 not in (None, model_sha256(path))
    with _scratch(target) as directory:
        if target is not None:  # what a killed run left is back
            writer.require_absent(target, options.force, [path, adapter.path])
        job.is_dry = target is None
        if target is not None:
            require_free_space(directory, int(plan.nbytes * 1.01) + 10_000_000)
        yield from job.run(directory)
        if target is not None:
            writer.require_absent(target, options.force, [path, adapter.path])  # minutes later
            writer.publish(directory, target, job.manifest(target.name))
    yield job.fuse_summary(target, time.perf_counter() - started)


def _scratch(target: Path | None) -> AbstractContextManager[Path]:
    return _passing() if target is None else writer.staging(target)


@contextmanager
def _passing() -> Iterator[Path]:
    """A directory for the words of a model that is only looked at."""
    with tempfile.TemporaryDirectory(prefix="mobilellm-fuse-") as directory:
        yield Path(directory)


def _base_name(base: ModelDirectory) -> str:
    """What the base is called: by its manifest, else by its directory."""
    told = base.manifest.get("name")
    named = isinstance(told, str) and told and told.isprintable()
    return str(told)[:100] if named else display_name(base.path)


def _origin(base: ModelDirectory, name: str) -> Origin:
    """Where the base came from, as far as its manifest says it in words that can be repeated."""
    told = base.manifest.get("source")
    details = {
        key: value
        for key in _DETAILS
        if isinstance(told, Mapping) and isinstance(value := told.get(key), str)
        if value.isprintable() and len(value) <= 200
    }
    if "hub" in details and not is_repo_id(details["hub"]):
        del details["hub"]
    return Origin(name, details)


def make_plans(source: FusedSource, options: ConvertOptions) -> tuple[Plan, Plan]:
    """What would become of the base alone, and what becomes of it with the adapter.

    What nothing was asked about stays as it is in the base: types, and every bit of the tensors
    that the adapter leaves alone. Those that it changes are packed as they were, with more bits.

    Raises:
        InvalidOption, ConvertError: as planning does.
    """
    if options.keeps_packing and not source.is_packed():
        options = replace(options, bits=None)
    made = make_plan(source, options)
    plain = [_kept(source, tensor, options, made.dtype) for tensor in made.tensors]
    changed = source.adapter.changed
    fused = [_changed(t, options) if t.name in changed else t for t in plain]
    dtype = next(t.dtype for t in plain if t.name == EMBEDDING)
    return Plan(tuple(plain), dtype), Plan(tuple(fused), dtype)


def _kept(
    source: FusedSource, tensor: TensorPlan, options: ConvertOptions, usual: str
) -> TensorPlan:
    """The tensor in its own type, where neither that nor its packing was to change."""
    entry = source.entry(tensor.name)
    asked = options.dtype != "auto" or tensor.action not in ("keep", "cast", "copy")
    if asked or entry.dtype not in TORCH_NAMES:
        return tensor
    return replace(
        tensor, dtype=entry.dtype, action="keep" if tensor.action == "cast" else tensor.action
    )


def _changed(tensor: TensorPlan, options: ConvertOptions) -> TensorPlan:
    """The same for values that are no longer the base's."""
    if tensor.action == "copy":
        assert tensor.packing is not None
        asked = any(rule.matches(tensor.module) for rule in options.bits_for)
        keeps = asked or not options.keeps_packing
        packing = tensor.packing if keeps else _widened(tensor.packing, tensor.shape[1])
        return replace(tensor, action="repack", packing=packing)
    return replace(tensor, action="cast") if tensor.action == "keep" else tensor


def _widened(packing: Packing, columns: int) -> Packing:
    """The packing with enough bits for a change, in groups of the same size."""
    group = max(packing.group_size, min(MODES["affine"][1]))
    if packing.bits >= _ENOUGH_BITS or columns % group:
        return packing
    return Packing(group, _ENOUGH_BITS)


class Fusion(Conversion):
    """One model and one adapter on their way into one directory."""

    def __init__(
        self,
        source: FusedSource,
        plan: Plan,
        plain: Plan,
        options: ConvertOptions,
        origin: Origin,
        text: Path | None = None,
    ):
        super().__init__(source, plan, options, origin, None, text)
        self.fused, self.adapter = source, source.adapter.info
        self.licence = replace(self.licence, name=self._joint_licence())
        self.survivals: dict[str, Survival] = {}
        self.change: Quality | None = None
        """The base with the adapter beside the base alone."""
        self.other_base = False
        self.is_dry = False
        """Whether no weights are written."""
        self._plain = {tensor.name: tensor for tensor in plain.tensors}

    @property
    def survived(self) -> Survival:
        """All changed tensors together."""
        return total(self.survivals.values())

    @property
    def _is_lost(self) -> bool:
        """Whether little of the change is left, whatever noise there is beside it."""
        share = self.survived.share
        return share is not None and share < _LITTLE

    def _joint_licence(self) -> str | None:
        """The base's licence, and the adapter's where it says another one."""
        ours, theirs = self.licence.name, self.adapter.licence
        if ours is None or theirs is None or not theirs.isprintable():
            return ours
        same = theirs.strip().lower() == ours.strip().lower()
        return ours if same or not theirs.strip() else f"{ours} and {theirs.strip()[:100]}"

    def _notices(self) -> Iterator[Event]:
        yield from super()._notices()
        if self.adapter.base_sha256 is None:
            yield self._notice("the adapter does not say which model it was made for")
        if self.other_base:
            yield self._notice("the adapter was made for another model, and was forced on this one")
        if wider := self._widened():
            yield self._notice(
                f"{wider} of the tensors that the adapter changes are packed with {_ENOUGH_BITS} "
                "bits: the fewer that they have in the base would round the change away (`--bits` "
                "and `--recipe` choose otherwise)"
            )
        elif not self.options.verify and self._fewest_bits() < _ENOUGH_BITS:
            yield self._notice(
                f"{self._fewest_bits()} bits can round away what the adapter changes, and it is "
                "not measured: leave out `--no-verify`"
            )

    def _widened(self) -> int:
        """How many tensors have more bits than in the base, though nobody asked for it."""
        if not self.options.keeps_packing:
            return 0
        before = {name: tensor.packing for name, tensor in self._plain.items()}
        return sum(
            before[tensor.name] != tensor.packing for tensor in self.plan.tensors if tensor.packing
        )

    def _fewest_bits(self) -> int:
        """Of what the adapter changes."""
        changed = [t for t in self.plan.tensors if t.name in self.fused.adapter.changed]
        return min((t.packing.bits if t.packing else UNPACKED for t in changed), default=UNPACKED)

    def _look(self, tensor: TensorPlan, before: Tensor, after: Tensor) -> None:
        super()._look(tensor, before, after)
        if tensor.name not in self.fused.adapter.changed or not self.options.verify:
            return
        self._rounded = True  # so that it is measured on text, also where nothing is packed
        started = time.perf_counter()
        base = self.fused.read_base(tensor.name)
        plain = transform(self._plain[tensor.name], base)
        self.survivals[tensor.name] = survival(base, before, plain, after)
        self.measured.verify_s += time.perf_counter() - started

    def _stored(self, directory: Path) -> Iterator[TensorPlan]:
        if not self.is_dry:
            return super()._stored(directory)
        return (tensor for tensor, _ in self._values())

    def _write(self, directory: Path) -> Iterator[Event]:
        for event in super()._write(directory):
            yield replace(event, task="fusing") if isinstance(event, Progress) else event
        if self.survivals and self.survived.wanted == 0:
            yield self._notice("the adapter changes nothing: was it trained?")
        elif self._is_lost:
            share = max(self.survived.share or 0.0, 0.0)
            yield self._notice(
                f"only {share:.0%} of the adapter's change is left: {self._remedy()}"
            )

    def _verify(
        self, directory: Path, raw: Mapping[str, Any], windows: list[list[int]]
    ) -> Iterator[Event]:
        started = time.perf_counter()
        planned = {tensor.name: tensor for tensor in self.plan.tensors}
        written = None if self.is_dry else packed_reader(open_directory(directory), raw)

        def base(name: str) -> mx.array:
            return dense(self.fused.read_base(name))

        def adapted(name: str) -> mx.array:
            return dense(self.fused.read(name))

        def fused(name: str) -> mx.array:
            if written is None:
                return dense(transform(planned[name], self.fused.read(name)))
            return dense(written.read(name))

        with allocation_errors("verifying"):
            self.measured.quality = yield from self._compared("verifying", adapted, fused, windows)
            if self.measured.quality is not None:
                self.change = yield from self._compared(
                    "measuring the adapter", base, adapted, windows
                )
        yield from self._judge()
        self.measured.verify_s += time.perf_counter() - started

    def _compared(
        self, task: str, reference: Read, other: Read, windows: list[list[int]]
    ) -> Generator[Event, None, Quality | None]:
        """Run two models over the windows; None when the first computes no numbers."""
        for step in compare(self.source.config, reference, other, windows):
            if isinstance(step, Quality):
                return step
            yield Progress(task, *step, "steps")
        return None

    def _judge(self) -> Iterator[Notice]:
        """Say so when rounding moves the model's answers further than the adapter does."""
        rounding, change = self.measured.quality, self.change
        change = change if self.survived.wanted else None  # of which has been told
        if rounding is None:
            yield self._notice(
                "with the adapter the model computes values that are not numbers: it is of no use"
            )
        elif change is not None and rounding.mean_kl > change.mean_kl and not self._is_lost:
            yield self._notice(
                f"rounding moves the model further (KL {rounding.mean_kl:.4f} nats) than the "
                f"adapter does ({change.mean_kl:.4f}): {self._remedy()}"
            )

    def _remedy(self) -> str:
        """What to do so that more of the change is left."""
        bits = self._fewest_bits()
        beside = "use it beside the base with `--adapter`"
        if bits == UNPACKED:
            return f"fuse with `--dtype float32`, or {beside}"
        wanted = "`--bits 8` or `--bits 16`" if bits < _ENOUGH_BITS else "`--bits 16`"
        return f"fuse with {wanted}, or {beside}"

    def _write_papers(self, directory: Path) -> None:
        for path in self.licence.files:
            (directory / path.name).write_bytes(path.read_bytes())
        report.write_licence(self.adapter, directory)
        proof = report.proof(self)
        writer.write_json(directory / "conversion.json", proof)
        (directory / "README.md").write_text(report.card(proof), encoding="utf-8")

    def manifest(self, name: str) -> dict[str, Any]:
        """Where the directory came from: the base's origin, and the adapter."""
        return {**super().manifest(name), "adapter": self.provenance()}

    def provenance(self) -> dict[str, Any]:
        """Which adapter went into it, and what is known of that."""
        return report.provenance(self.adapter, sha256(self.fused.adapter.path))

    def fuse_summary(self, target: Path | None, elapsed_s: float) -> FuseSummary:
        """What the job says at its end."""
        told = self.summary(target or Path(), elapsed_s)
        values = {each.name: getattr(told, each.name) for each in fields(ConvertSummary)}
        survived, change = self.survived, asdict(self.change) if self.change else {}
        return FuseSummary(
            **{**values, "job": "fuse", "path": str(target) if target else ""},
            adapter=self.adapter.name,
            adapted_tensors=len(self.fused.adapter.changed),
            relative_change=survived.size,
            share_kept=survived.share,
            cosine=survived.cosine,
            adapter_kl=change.get("mean_kl"),
            adapter_top1=change.get("top1_agreement"),
            tensors=[
                {"name": name, **report.figures(each)} for name, each in self.survivals.items()
            ],
            dry_run=target is None,
        )
