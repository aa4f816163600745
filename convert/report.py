"""What a conversion leaves in its directory: the proof for programs, a model card for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

from mobilellm_mlx import __version__
from mobilellm_mlx.errors import format_bytes

if TYPE_CHECKING:
    from .job import Conversion
    from .plan import TensorPlan


def proof(job: Conversion) -> dict[str, Any]:
    """The contents of ``conversion.json``.

    Names and digests only: where the files lay on somebody's disk is nobody else's business.
    """
    source, measured = job.source, job.measured
    return {
        "format": 1,
        "made_by": f"mobilellm-mlx {__version__}",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": {
            "name": job.origin.name,
            **job.origin.details,
            "format": source.reader.format,
            "licence": job.licence.name,
            "files": [
                {
                    "name": path.name,
                    "bytes": path.stat().st_size,
                    "sha256": measured.digests.get(path.name),
                }
                for path in source.reader.files
            ],
        },
        "family": source.config.family,
        "chat": job.chat,
        "parameters": source.config.parameter_count(),
        "options": asdict(job.options),
        "bits_per_weight": round(job.plan.bits_per_weight, 3),
        "bytes": job.plan.nbytes,
        # A conversion with either of the two has failed before, so here they are always empty.
        "unused": sorted(source.reader.entries.keys() - {*source.names.values(), *source.unused}),
        "missing": sorted(source.shapes.keys() - source.names.keys()),
        "left_out": source.unused,
        "notices": job.notices,
        "nonfinite": measured.nonfinite,
        "relative_error": measured.relative_error(),
        "quality": asdict(measured.quality) if measured.quality else None,
        "quality_text": "built-in" if job.text is None else job.text.name,
        "tensors": [_tensor(job, tensor) for tensor in job.plan.tensors],
        "convert_s": round(measured.convert_s, 3),
        "verify_s": round(measured.verify_s, 3),
        "convert_peak_memory_bytes": measured.convert_peak_memory_bytes,
    }


def _tensor(job: Conversion, tensor: TensorPlan) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "from": job.source.names[tensor.name],
        "shape": list(tensor.shape),
        "source_dtype": tensor.source_dtype,
        "action": tensor.action,
        "dtype": tensor.dtype,
    }
    if tensor.packing:
        row |= asdict(tensor.packing)
    error = job.measured.errors.get(tensor.name)
    if error and isfinite(error.relative):
        row["relative_error"] = round(error.relative, 6)
    if tensor.note:
        row["note"] = tensor.note
    return row


def card(proof: Mapping[str, Any]) -> str:
    """The README of a converted model."""
    source, licence = proof["source"], proof["source"]["licence"]
    lines = [
        "---",
        *([f"license: {_yaml(licence)}"] if licence else []),
        "library_name: mlx",
        *([f"base_model: {source['hub']}"] if "hub" in source else []),
        "---",
        "",
        f"# {source['name']}, for MLX",
        "",
        f"Converted from {source['format']} by {proof['made_by']}.",
        "",
        _licence_sentence(licence, proof["family"]),
        "",
        "| | |",
        "|---|---|",
        f"| family | {proof['family']} |",
        f"| parameters | {proof['parameters']:,} |",
        f"| size | {format_bytes(proof['bytes'])}, {proof['bits_per_weight']:.2f} bits a weight |",
        *_quality_rows(proof),
        "",
        "Chat with it:" if proof["chat"] else "It is a base model: it continues text.",
        "",
        "    mobilellm chat THIS_DIRECTORY"
        if proof["chat"]
        else "    mobilellm generate --raw -m THIS_DIRECTORY -p 'Once upon a time'",
        "",
        "`conversion.json` lists the source's files with their SHA-256, and for every tensor where "
        "it came from, how it is packed and how far that moved it.",
    ]
    if proof["notices"]:
        lines += ["", "What the conversion had to say:", ""]
        lines += [f"- {notice}" for notice in proof["notices"]]
    return "\n".join(lines) + "\n"


def _yaml(text: str) -> str:
    """A text as YAML: bare where it is a plain word, else in quotes, which JSON's are too."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9.+_-]*", text) else json.dumps(text)


def _licence_sentence(licence: str | None, family: str) -> str:
    if licence is None:
        metas = "; Meta's own for MobileLLM are for non-commercial use" if family != "llama" else ""
        return (
            "**Licence:** the source names none. The terms of the original weights hold for these "
            f"too{metas}."
        )
    return f"**Licence:** {licence}, as the original weights. Converting changes nothing about it."


def _quality_rows(proof: Mapping[str, Any]) -> list[str]:
    quality = proof["quality"]
    if quality is None:
        return []
    return [
        f"| perplexity | {quality['perplexity']:.2f}, of the source "
        f"{quality['reference_perplexity']:.2f} ({quality['tokens']:,} tokens of "
        f"{proof['quality_text']} text) |",
        f"| next token agrees | {quality['top1_agreement']:.1%} |",
        f"| mean KL divergence | {quality['mean_kl']:.4f} nats |",
    ]
