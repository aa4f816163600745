"""Make the folder torch/: small files by ``torch.save``, and expected.npz with their values.

Reference: torch 2.13.0+cpu itself. numpy 2.4.6. Seed: 301. Run: python make_torch_files.py OUT_DIR

Keys of expected.npz: "group:name:type" with the type by safetensors' names. bfloat16 values are
given as uint16 bits, float64 ones rounded to float32. The group "state" is in plain.pt,
protocol4.pt, protocol5.pt, nested_model.pt and nested_state_dict.pth; each other group is in a file
of its name. What a reader should refuse is in refused_*.pt. (Every run gives the same bytes, but
for refused_legacy.pt, in which torch writes addresses.)
"""

import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

SEED = 301
NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.uint16: "U16", torch.bool: "BOOL",
}  # fmt: skip
State = dict[str, torch.Tensor]


def make_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.LayerNorm(3))


def make_types() -> State:
    values = torch.tensor([[0.0, -0.0, 1.5], [-2.25, 65504.0, 1e-7]], dtype=torch.float64)
    counts = torch.tensor([[0, 1, 2], [3, 100, 127]])
    state = {NAMES[t].lower(): (counts if NAMES[t][0] in "IU" else values).to(t) for t in NAMES}
    state["f32"][0] = torch.tensor([float("inf"), float("nan"), 1e-42])
    state["f64"][0, 0] = 0.1
    state["i64"][0, 0] = -(2**40)
    return state


def make_views() -> State:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    half = torch.randn(3, 4, 5).to(torch.bfloat16)
    return {
        "base": base,
        "tied": base,
        "tied_again": base.view(4, 6),
        "transposed": base.T,
        "rows": base[1:3],
        "column": base[:, 2],
        "every_other": base[::2, 1::2],
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 7),
        "expanded_front": torch.arange(3).expand(2, 3),
        "permuted": half.permute(2, 0, 1),
        "permuted_slice": half.permute(2, 0, 1)[1:4, ::2],
        "scalar": torch.tensor(3.5),
        "scalar_inside": base[2, 3],
        "one": torch.full((1, 1, 1), 7, dtype=torch.int32),
        "empty": torch.zeros(0),
        "empty_matrix": torch.zeros(0, 4, dtype=torch.float16),
        "empty_slice": base[4:],
    }


def expected(group: str, state: State) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in state.items():
        value = tensor.detach().contiguous()
        if value.dtype == torch.bfloat16:
            value = value.view(torch.uint16)
        if value.dtype == torch.float64:
            value = value.float()
        arrays[f"{group}:{name}:{NAMES[tensor.dtype]}"] = value.numpy()
    return arrays


def save_good(out: Path) -> dict[str, np.ndarray]:
    model = make_model()
    state = model.state_dict()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    state = OrderedDict((name, value.clone()) for name, value in state.items())
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    marked = torch.nn.Parameter(torch.randn(2, 2))
    marked.note = "a Python attribute"  # type: ignore[attr-defined]
    training = {
        "model": state, "epoch": 3, "loss": 1.25, "note": "abc", "done": False, "best": None,
        "optimizer": optimizer.state_dict(), "rng": torch.arange(8, dtype=torch.uint8),
        "sizes": torch.Size([2, 3]), "dtype": torch.bfloat16, "seed": 2**62,
    }  # fmt: skip
    wrapped = {f"module.{name}": value for name, value in state.items()}
    parameters = dict(model.named_parameters())
    groups: dict[str, State] = {
        "state": state, "types": make_types(), "parameters": parameters, "marked": {"w": marked},
        "views": make_views(), "no_crc": {"w": torch.arange(5.0)},
    }  # fmt: skip
    torch.save(state, out / "plain.pt")
    torch.save(state, out / "protocol4.pt", pickle_protocol=4)
    torch.save(state, out / "protocol5.pt", pickle_protocol=5)
    torch.save(training, out / "nested_model.pt")
    torch.save({"state_dict": wrapped, "step": 7}, out / "nested_state_dict.pth")
    for name in list(groups)[1:]:
        torch.serialization.set_crc32_options(name != "no_crc")
        torch.save(groups[name], out / f"{name}.pt")
    torch.serialization.set_crc32_options(True)
    return {key: array for name in groups for key, array in expected(name, groups[name]).items()}


def save_refused(out: Path) -> None:
    value = torch.arange(4.0)
    quantized = torch.quantize_per_tensor(value, 0.1, 2, torch.quint8)
    subclass = torch.zeros(2)
    subclass.note = "a Python attribute"  # type: ignore[attr-defined]
    files = {
        "whole_model": torch.nn.Linear(2, 2),
        "quantized": {"w": quantized},
        "sparse": {"w": value.to_sparse()},
        "meta": {"w": value.to("meta")},
        "attribute": {"w": subclass},
        "numpy": {"w": value, "score": np.float64(1.5)},
        "negated": {"w": torch.view_as_complex(torch.randn(2, 2)).conj().imag},
    }
    for name, content in files.items():
        torch.save(content, out / f"refused_{name}.pt")
    torch.save({"w": value}, out / "refused_legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Identity()).save(str(out / "refused_script.pt"))
    others = {
        "complex64": value.to(torch.complex64),
        "float8_e4m3fn": value.to(torch.float8_e4m3fn),
    }
    torch.save({"w": value} | others, out / "unreadable_types.pt")


def main(out: Path) -> None:
    warnings.simplefilter("ignore")  # several of these are deprecated
    torch.manual_seed(SEED)
    out.mkdir(exist_ok=True)
    arrays = save_good(out)
    save_refused(out)
    np.savez_compressed(out / "expected.npz", **arrays)  # type: ignore[arg-type]
    print(f"{sum(path.stat().st_size for path in out.iterdir()):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
