"""What a fused model says about itself: a conversion's papers, and what became of the adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilellm_mlx.adapters import AdapterInfo

from .. import report
from ..licence import find_licence

if TYPE_CHECKING:
    from .job import Fusion
    from .survival import Survival


def provenance(info: AdapterInfo, digest: str) -> dict[str, Any]:
    """What is known of an adapter; names and digests, no places on somebody's disk."""
    training = _finite(info.config)
    if isinstance(training.get("template"), str):
        training["template"] = Path(training["template"]).name
    return {
        "name": info.name,
        "sha256": digest,
        "method": info.method,
        "rank": info.rank,
        "scale": info.scale,
        "licence": info.licence,
        "base": {"name": Path(info.base_name).name, "sha256": info.base_sha256},
        "data": {"name": Path(info.data_name).name, "sha256": info.data_sha256},
        "created": info.created,
        "made_by": info.made_by,
        "training": training,
        "scores": _finite(info.scores),
    }


def _finite(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same without infinities, which JSON cannot hold but readers make of ``1e999``."""
    found: dict[str, Any] = json.loads(json.dumps(table), parse_constant=lambda _: None)
    return found


def proof(job: Fusion) -> dict[str, Any]:
    """The contents of ``conversion.json``: a conversion's, and what is left of the adapter."""
    told = report.proof(job)
    for row in told["tensors"]:
        if row["name"] in job.fused.adapter.changed:
            row["adapted"] = True
            row |= figures(job.survivals.get(row["name"]))
    return told | {
        "adapter": job.provenance(),
        "survival": {
            **figures(job.survived),
            "adapted_tensors": len(job.fused.adapter.changed),
            "adapter_on_base": asdict(job.change) if job.change else None,
        },
    }


def figures(survived: Survival | None) -> dict[str, Any]:
    """What was measured of one tensor, or of all."""
    if survived is None:
        return {}
    told = {
        "relative_change": survived.size,
        "share_kept": survived.share,
        "cosine": survived.cosine,
    }
    return {name: value if value is None else round(value, 6) for name, value in told.items()}


def card(proof: Mapping[str, Any]) -> str:
    """The README of a fused model."""
    adapter, source = proof["adapter"], proof["source"]
    titled = {**source, "name": f"{source['name']} with {_printable(adapter['name'])}"}
    return report.card({**proof, "source": titled}) + "\n".join(["", *_about(proof), ""])


def _about(proof: Mapping[str, Any]) -> Iterator[str]:
    adapter, survival = proof["adapter"], proof["survival"]
    yield "## The adapter in it"
    yield ""
    yield (
        f"`{_printable(adapter['name'])}` ({adapter['method']}) was fused into "
        f"`{_printable(proof['source']['name'])}`; it changes {survival['adapted_tensors']} of "
        f"{len(proof['tensors'])} tensors. Where figures above are of the source, they are of the "
        "model with the adapter on it, before its weights were rounded."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    if adapter["data"]["sha256"]:
        yield f"| trained on data with SHA-256 | `{_printable(adapter['data']['sha256'])}` |"
    for label, name in (("change of the weights", "relative_change"), ("of it left", "share_kept")):
        if (value := survival.get(name)) is not None:
            yield f"| {label} | {value:.2%} |"
    if (value := survival.get("cosine")) is not None:
        yield f"| cosine with what is left | {value:.3f} |"
    change, rounding = survival["adapter_on_base"], proof["quality"]
    if change and rounding:
        yield (
            f"| KL divergence | the adapter {change['mean_kl']:.4f} nats, rounding "
            f"{rounding['mean_kl']:.4f} nats |"
        )


def _printable(text: str) -> str:
    """A text of somebody's that cannot leave its line or its table."""
    return "".join(sign if sign.isprintable() and sign not in "`|" else "?" for sign in text)[:100]


def write_licence(info: AdapterInfo, directory: Path) -> None:
    """Carry an adapter's own licence text along, beside the base's."""
    for path in find_licence(info.path).files:
        (directory / f"{path.name}.adapter").write_bytes(path.read_bytes())
