"""Arrow's stream format, against a table that pyarrow 26.0.1 wrote."""

from __future__ import annotations

import random
import zlib
from base64 import b64decode

import pytest

from mobilellm_mlx.evals.arrow import read_table

TABLE = (
    "eNqtVTFPG1EMto8LeaVX6YYKZcjA2JGRgSEVHRgZGZPCqUE6CkquIq0YGKtOjAxIjMDWMUO3Lh079gf0B3TozKvf"
    "ez5y+ZTrZcCSn5/Pn/3s9+zEWms7EVFKjtYooVVqkZGdEMeik2hG1lhXEgTRNyY6Fd4WToWnassfrBXHFx3Zb+g3"
    "CU9vhF8Kt4UPhidHB9mYDgV7HfBRqvaYAklIei/809uJe7L8CNjE4bqKZfVrubMHb7Pc5Sa4vwHbcnE7lbhOHhXZ"
    "sdv/FkzX/j/m2cnocCwyFdyubY65JZjTgFtFnItXjD4UQ5F9wVzZWe1dwOWD0btMbtrIV3ffvv4KfgPw4+NBnvu3"
    "SoTb/q1cKU6mUo2RKG3/mqm+daijC3UU2aQI+9jrcqTdj8J9OEpoXTsk8dFoJfY1/qKS1kRPfLe4Hjrn0FsrNKP1"
    "yp5Var6aW7g30n4hrbeKf1XJ2dEmzdMm+O2B/z7ofdCHkM8E4k8e7yPQZ5VlnZeAv4T4VxD/DvB3cC9fVUYqp4Cf"
    "Qr3hJWb5MOSHOjXYGc6nJf25Af8ceqGtPPh+/+fm9sujnR/mXC+oJq8S/2xB/KjCpW8ZdPLx08J8GGp5vTPflwbO"
    "K2nZuek3zA3XzA2SAUkNOkP/EegG5pBA5wX9VtUNzCnDXJb2LfBfVi/9e2DvgX0Xzq/7HTAwN9i3T6XzE/njPEUL"
    "7FzTK9VYOzUY6/9riP4BEZR8zg=="
)
"""In two batches, of three rows and one: ``ipc.new_stream``, ``write_table(max_chunksize=3)``."""
ROWS = [
    ("a", 1, 2**63, True, ["x", "yz"], {"label": ["A"], "n": 7}),
    ("é🧊", -2, 0, False, [], {"label": [], "n": 8}),
    (None, None, 1, None, None, {"label": None, "n": 9}),
    ("", 3, 2, True, [None], {"label": ["C"], "n": None}),
]
NAMES = ("text", "small", "large", "truth", "words", "choices")


@pytest.fixture(scope="module")
def data() -> bytes:
    return zlib.decompress(b64decode(TABLE))


def test_all_kinds_of_columns_are_read(data: bytes) -> None:
    assert read_table(data) == [dict(zip(NAMES, row, strict=True)) for row in ROWS]


def test_what_is_no_stream_is_said() -> None:
    for data in (b"PAR1", b"ARROW1\0\0", b"{}", b"\0" * 64):
        with pytest.raises(ValueError, match=r"no stream|damaged"):
            read_table(data)


def test_a_table_that_is_cut_off_is_said_or_ends_between_batches(data: bytes) -> None:
    for length in range(1, len(data) - 8, 7):
        try:
            assert read_table(data[:length]) in (read_table(data)[:n] for n in (0, 3, 4))
        except ValueError as error:
            assert "damaged" in str(error)


def test_any_byte_may_be_wrong(data: bytes) -> None:
    drawn = random.Random(0)
    failed = 0
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << drawn.randrange(8)
        try:
            read_table(bytes(spoiled))
        except ValueError:
            failed += 1
    assert failed > 200


COLUMNS_IN_COLUMNS = bytes.fromhex(
    "ffffffff8c010000340000000c0014000000040008000c00080008000000040010000c00000000000400000000"
    "0008000a000800000000000400000030000000010000000c000000000000000000000038000000040000000600"
    "00001800000014000000100000000c0000000800000004000000540000000d0000000400000006000000180000"
    "0014000000100000000c00000008000000040000007c0000000d00000004000000060000001800000014000000"
    "100000000c0000000800000004000000a40000000d00000004000000060000001800000014000000100000000c"
    "0000000800000004000000cc0000000d00000004000000060000001800000014000000100000000c0000000800"
    "000004000000f40000000d00000004000000060000001800000014000000100000000c00000008000000040000"
    "001c0100000d00000004000000060000001800000014000000100000000c000000080000000400000044010000"
    "0d00000004000000060000001800000014000000100000000c00000008000000040000005c0100000d000000"
)
"""Six columns which are one description, that has six columns which are one, eight deep."""


def test_few_bytes_that_describe_millions_of_columns_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="more than 1,000 columns"):
        read_table(COLUMNS_IN_COLUMNS)
