"""safetensors files written one tensor at a time."""

import errno
import json
import warnings

import pytest

from convert.writers.safetensors_file import DTYPES, SafetensorsWriter, layout_bytes
from mobilellm_mlx.backend import mx
from mobilellm_mlx.weights import read_safetensors_header
from tests.convert.checkpoints import same_bits

LAYOUT = {"a": ("F32", (2, 3)), "b": ("BF16", (5,)), "none": ("F16", (0, 4)), "one": ("U32", ())}


def arrays() -> dict[str, mx.array]:
    return {n: mx.full(shape, 7, DTYPES[dtype]) for n, (dtype, shape) in LAYOUT.items()}


def write(path, layout=LAYOUT, values=None, metadata=None) -> None:
    with SafetensorsWriter(path, layout, metadata) as file:
        for name, array in (arrays() if values is None else values).items():
            file.write(name, array)


def test_mlx_reads_back_every_bit(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    write(path)
    read = mx.load(str(path))
    assert read.keys() == LAYOUT.keys()
    assert all(same_bits(read[name], array) for name, array in arrays().items() if array.size)
    assert {n: (i.dtype, i.shape) for n, i in read_safetensors_header(path).items()} == LAYOUT


def test_safetensors_own_reader_accepts_the_file(tmp_path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "m.safetensors"
    layout = {"a": LAYOUT["a"], "grüße": ("F16", (2,))}
    write(path, layout, {"a": arrays()["a"], "grüße": mx.ones((2,), mx.float16)}, {"format": "mlx"})
    assert {n: a.shape for n, a in numpy.load_file(path).items()} == {"a": (2, 3), "grüße": (2,)}


def test_the_data_begins_at_a_multiple_of_eight_and_fills_the_file(tmp_path) -> None:
    for length in range(1, 10):
        path = tmp_path / "m.safetensors"
        layout = {"n" * length: ("F32", (2,))}
        write(path, layout, {"n" * length: mx.ones((2,))})
        begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert begin % 8 == 0 and path.stat().st_size == begin + layout_bytes(layout)


def test_the_metadata_is_kept(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, metadata={"format": "mlx"})
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "mlx"}


def test_a_view_that_is_not_contiguous_is_written_as_it_reads(tmp_path) -> None:
    path, array = tmp_path / "m.safetensors", mx.arange(6, dtype=mx.float32).reshape(3, 2).T
    write(path, {"a": ("F32", (2, 3))}, {"a": array})
    assert mx.array_equal(mx.load(str(path))["a"], array)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("b", mx.ones((5,), mx.bfloat16)),  # its turn comes later
        ("a", mx.ones((3, 2))),
        ("a", mx.ones((2, 3), mx.float16)),
        ("a", mx.ones((2, 3), mx.int32)),
        ("c", mx.ones((2, 3))),
    ],
)
def test_what_is_not_due_is_refused(tmp_path, name, array) -> None:
    with pytest.raises(ValueError, match=r"does not fit the layout: `a`"):
        write(tmp_path / "m.safetensors", values={name: array})


def test_a_file_with_less_than_planned_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="`none` was never written"):
        write(tmp_path / "m.safetensors", values=dict(list(arrays().items())[:2]))


def test_an_error_inside_is_not_covered_by_another(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), SafetensorsWriter(tmp_path / "m", LAYOUT):
        raise KeyboardInterrupt


def test_writes_that_take_less_than_they_are_given_are_gone_on_with(tmp_path, monkeypatch) -> None:
    path, values = tmp_path / "m.safetensors", mx.arange(1000, dtype=mx.float32)
    with SafetensorsWriter(path, {"a": ("F32", (1000,))}) as file:
        whole = file._file

        class Grudging:
            def write(self, data: memoryview) -> int:
                return whole.write(data[:7])

            def close(self) -> None:
                whole.close()

        file._file = Grudging()  # type: ignore[assignment]
        file.write("a", values)
    assert mx.array_equal(mx.load(str(path))["a"], values)


def test_the_file_is_closed_when_the_header_cannot_be_written(tmp_path, monkeypatch) -> None:
    def full(self: SafetensorsWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SafetensorsWriter, "_write", full)
    with warnings.catch_warnings(), pytest.raises(OSError, match="No space"):
        warnings.simplefilter("error", ResourceWarning)
        SafetensorsWriter(tmp_path / "m", LAYOUT)
