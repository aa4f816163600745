"""The pickle interpreter: what it reads as Python does, and all that it refuses."""

import gc
import io
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.readers.torch_names import Name, Storage, View
from convert.readers.unpickle import unpickle
from mobilellm_mlx.errors import ConvertError
from tests.convert.readers.hostile_pickles import (
    ORDERED,
    PAYLOADS,
    REBUILD,
    call,
    name,
    number,
    numbers,
    pickled,
    storage,
    table,
    tensor,
    text,
    tuple_of,
)

START = 64


def refused(data: bytes) -> ConvertError:
    """The error, which must be one sentence with the byte of the file, and say what to do."""
    with pytest.raises(ConvertError) as caught:
        unpickle(data, START, "x.bin")
    error = caught.value
    assert type(error) is ConvertError and error.hint
    assert re.fullmatch(r"the pickle in `x\.bin` [ -~]+, at byte [\d,]+", error.message)
    assert ". " not in error.message and len(error.message) < 300
    return error


def place(error: ConvertError) -> int:
    """The byte in the pickle that the message names."""
    return int(error.message.rpartition(" ")[2].replace(",", "")) - START


# What is read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False)
    | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner)
    | st.tuples(inner, inner, inner, inner)
    | st.dictionaries(st.text() | st.integers(-(2**60), 2**60), inner),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=60)
@given(value=VALUES, protocol=st.sampled_from([3, 4, 5]))
def test_plain_values_are_read_as_python_reads_them(value: object, protocol: int) -> None:
    read = unpickle(pickle.dumps(value, protocol), 0, "x.bin")
    assert read == value
    assert repr(read) == repr(value)  # True is not 1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_many_values_are_read_in_batches_and_by_the_memo(protocol: int) -> None:
    words = [f"word {i}" for i in range(3000)]
    value = {"words": words, "again": {word: words for word in words}}
    assert unpickle(pickle.dumps(value, protocol), 0, "x.bin") == value


def test_a_value_that_contains_itself_is_read_without_following_it() -> None:
    loop: dict[str, object] = {}
    loop["me"] = loop
    read = unpickle(pickle.dumps(loop, 4), 0, "x.bin")
    assert isinstance(read, dict) and read["me"] is read


def test_a_tensor_becomes_a_view_on_its_storage() -> None:
    view = unpickle(pickled(tensor((2, 3), (3, 1), 4, storage(17, "ab"))), 0, "x.bin")
    assert view == View(Storage("ab", "F32", 17), "F32", 4, (2, 3), (3, 1))


@pytest.mark.parametrize(
    "value",
    [
        tensor(extras=(b"\x88", b"N")),
        tensor(extras=(b"\x89", ORDERED, b"}")),
        tensor(function=name("torch._utils", "_rebuild_tensor"), extras=()),
        call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", ORDERED),
        call(
            name("torch._utils", "_rebuild_parameter_with_state"),
            tensor(), b"\x88", ORDERED, table(note=text("x")),
        ),
        tensor(
            function=name("torch._utils", "_rebuild_tensor_v3"),
            source=storage(24, kind=name("torch.storage", "UntypedStorage")),
            extras=(b"\x89", ORDERED, name("torch", "float32")),
        ),
    ],
)  # fmt: skip
def test_every_way_in_which_torch_writes_a_tensor_is_read(value: bytes) -> None:
    view = unpickle(pickled(value), 0, "x.bin")
    assert isinstance(view, View)
    assert (view.dtype, view.shape, view.strides) == ("F32", (2, 3), (3, 1))


def test_sizes_types_and_metadata_are_plain_values() -> None:
    size = call(name("torch", "Size"), numbers(2, 3))
    ordered = ORDERED + b"(" + text("a") + number(1) + b"u" + table(_metadata=ORDERED) + b"b"
    value = unpickle(
        pickled(table(size=size, type=name("torch", "bfloat16"), state=ordered)), 0, "x.bin"
    )
    assert value == {"size": (2, 3), "type": Name("torch", "bfloat16"), "state": {"a": 1}}


# What would do harm


def test_the_payloads_do_their_harm_when_python_reads_them(tmp_path: Path) -> None:
    """Or the tests below would prove nothing."""
    files = []
    for i, (make, _) in enumerate(PAYLOADS.values()):
        file = tmp_path / f"{i}.pkl"
        file.write_bytes(make(str(tmp_path / f"{i}.harm")))
        files.append(str(file))
    program = (
        "import copyreg, pickle, sys\n"
        "copyreg.add_extension('os', 'system', 240)\n"
        "for file in sys.argv[1:]:\n"
        "    try: pickle.load(open(file, 'rb'))\n"
        "    except Exception: pass\n"
    )
    subprocess.run([sys.executable, "-c", program, *files], check=True, timeout=60)
    harmed = [label for i, label in enumerate(PAYLOADS) if (tmp_path / f"{i}.harm").exists()]
    assert harmed == list(PAYLOADS)


@pytest.mark.parametrize("label", PAYLOADS)
def test_a_payload_is_refused_by_its_name_and_does_nothing(label: str, tmp_path: Path) -> None:
    make, says = PAYLOADS[label]
    canary = tmp_path / "harm"
    assert says in refused(make(str(canary))).message
    assert not canary.exists()


def test_nothing_is_imported_for_a_name() -> None:
    module = "antigravity"  # opens a browser when imported
    assert module not in sys.modules
    assert "`antigravity.x`" in refused(pickled(name(module, "x"))).message
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("torch", "load"), ("torch.hub", "load"), ("torch", "_utils._rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch._utils", "__builtins__"),
        ("torch._utils", "importlib"), ("collections", "OrderedDict.__init__"),
        ("collections", "abc.sys.modules"), ("collections", "namedtuple"), ("", ""),
        ("torch", ""), ("", "OrderedDict"), (" torch", "Size"), ("torch", "Size "),
        ("torch", "size"), ("torch", "float32.__class__"), ("torch.storage", "FloatStorage"),
        ("torch.storage", "_load_from_bytes"), ("numpy.core.multiarray", "_reconstruct"),
        ("_codecs", "encode"), ("copyreg", "_reconstructor"), ("torch._utils", "x" * 240),
        ("builtins", "getattr"), ("operator", "attrgetter"), ("torch.jit", "load"),
        ("torch.serialization", "load"), ("ｔorch", "Size"), ("torch\t", "Size"),
        ("torch\r", "Size"), ("\x1b[2Jos", "system"), ("`os`", "system"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by_stack", [False, True])
def test_a_name_that_is_not_on_the_list_is_refused(
    module: str, attribute: str, by_stack: bool
) -> None:
    before = table(a=number(1))
    opcode = text(module) + text(attribute) + b"\x93" if by_stack else name(module, attribute)
    error = refused(pickled(before + opcode, 4))
    assert "imports `" in error.message and len(error.message) < 180
    assert place(error) == 2 + len(before) + (len(opcode) - 1 if by_stack else 0)


def test_a_long_name_is_cut_in_the_message() -> None:
    error = refused(pickled(text("m" * 900_000) + text("n") + b"\x93", 4))
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("module", "attribute", "advice"),
    [
        ("argparse", "Namespace", "state_dict()"),
        ("numpy.core.multiarray", "scalar", "state_dict()"),
        ("torch.nn.modules.linear", "Linear", "torch.save(model.state_dict(), path)"),
        ("transformers.models.llama.modeling_llama", "LlamaForCausalLM", "whole model"),
        ("torch._tensor", "_rebuild_from_type_v2", "plain copies"),
        ("torch._utils", "_rebuild_qtensor", "quantized"),
        ("torch", "QInt8Storage", "quantized"),
        ("torch._utils", "_rebuild_sparse_tensor", "to_dense"),
        ("torch._utils", "_rebuild_meta_tensor_no_storage", "meta"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", "cpu()"),
        ("somewhere", "Something", "safetensors"),
    ],
)
def test_the_hint_fits_the_name(module: str, attribute: str, advice: str) -> None:
    hint = refused(pickled(name(module, attribute))).hint
    assert hint is not None and advice in hint


# Opcodes and arguments that do not fit

V3 = name("torch._utils", "_rebuild_tensor_v3")
PARAMETER = name("torch._utils", "_rebuild_parameter")
ODD: dict[str, tuple[bytes, str]] = {
    "a call of nothing that can be called": (text("x") + b")R", "cannot be called"),
    "a call of a type": (name("torch", "float32") + b")R", "cannot be called"),
    "a call of a storage class": (name("torch", "FloatStorage") + b")R", "cannot be called"),
    "a call of a view": (tensor() + b")R", "cannot be called"),
    "a call with a list": (REBUILD + b"]R", "no tuple"),
    "OrderedDict with items": (call(name("collections", "OrderedDict"), b"]"), "1 arguments"),
    "no arguments": (call(REBUILD), "0 arguments"),
    "too few arguments": (call(REBUILD, storage(), number(0), numbers(1), numbers(1)), "4 arg"),
    "too many arguments": (tensor(extras=(b"\x89", ORDERED, b"}", b"}")), "8 arguments"),
    "no storage": (tensor(source=number(3)), "no storage"),
    "a storage that is a class": (tensor(source=name("torch", "FloatStorage")), "no storage"),
    "a shape that is a number": (
        call(REBUILD, storage(), number(0), number(6), numbers(1), b"\x89", ORDERED),
        "no tuple",
    ),
    "a shape that is a list": (
        call(REBUILD, storage(), number(0), b"]", b")", b"\x89", ORDERED),
        "no tuple",
    ),
    "a float in the shape": (
        call(REBUILD, storage(), number(0), b"G" + bytes(8) + b"\x85", numbers(1), b"\x89", b"N"),
        "not whole",
    ),
    "true in the shape": (
        call(REBUILD, storage(), number(0), b"\x88\x85", numbers(1), b"\x89", b"N"),
        "not whole",
    ),
    "a text as offset": (
        call(REBUILD, storage(), text("0"), numbers(6), numbers(1), b"\x89", ORDERED),
        "not whole",
    ),
    "a negative size": (tensor((-2, 3)), "negative number -2"),
    "a negative stride": (tensor((2, 3), (3, -1), 2), "negative number -1"),
    "a negative offset": (tensor(offset=-1), "negative number -1"),
    "fewer strides than sizes": (tensor((2, 3), (1,)), "2 dimensions but 1 strides"),
    "nine dimensions": (tensor((1,) * 9, (1,) * 9), "9 dimensions"),
    "a dimension beyond 32 bits": (tensor((2**31, 0), (1, 1)), "2,147,483,648"),
    "a huge dimension": (tensor((2**200,), (1,)), "at most"),
    "hooks": (tensor(extras=(b"\x89", table(x=b"N"))), "hooks"),
    "hooks that are a name": (tensor(extras=(b"\x89", REBUILD)), "hooks"),
    "a number as requires_grad": (tensor(extras=(number(1), ORDERED)), "requires_grad"),
    "a conjugated view": (tensor(extras=(b"\x89", ORDERED, table(conj=b"\x88"))), "conjugated"),
    "a text as type": (tensor(function=V3, extras=(b"\x89", ORDERED, text("float32"))), "type"),
    "a function as type": (tensor(function=V3, extras=(b"\x89", ORDERED, REBUILD)), "type"),
    "nothing as type": (tensor(function=V3, extras=(b"\x89", ORDERED, b"N")), "type"),
    "a parameter of a number": (call(PARAMETER, number(1), b"\x88", ORDERED), "no tensor"),
    "a size of texts": (call(name("torch", "Size"), tuple_of(text("x"))), "not whole"),
    "a persistent id that is a text": (text("storage") + b"Q", "five parts"),
    "a persistent id of four": (tuple_of(text("storage"), *[number(0)] * 3) + b"Q", "five parts"),
    "a persistent id of six": (tuple_of(text("storage"), *[number(0)] * 5) + b"Q", "five parts"),
    "a persistent id of another kind": (
        tuple_of(text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(6))
        + b"Q",
        "other than a storage",
    ),
    "a storage whose key is a number": (
        tuple_of(text("storage"), name("torch", "FloatStorage"), number(0), text("c"), number(6))
        + b"Q",
        "other than a storage",
    ),
    "a storage class that is a text": (storage(kind=text("FloatStorage")), "no known type"),
    "a storage class that is a type": (storage(kind=name("torch", "float32")), "no known type"),
    "a storage of negative size": (storage(-6), "negative number"),
    "a text persistent id": (b"Pstorage\n", "PERSID"),
    "BUILD of a dict": (b"}" + table(_metadata=b"}") + b"b", "BUILD"),
    "BUILD of a tensor": (tensor() + table(_metadata=b"}") + b"b", "BUILD"),
    "BUILD of a function": (REBUILD + table(_metadata=b"}") + b"b", "BUILD"),
    "BUILD with a tuple": (ORDERED + b")b", "BUILD"),
    "BUILD of another attribute": (ORDERED + table(__class__=b"N") + b"b", "BUILD"),
    "NEWOBJ": (name("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
    "NEWOBJ_EX": (name("collections", "OrderedDict") + b")}\x92", "NEWOBJ_EX"),
    "OBJ": (b"(" + name("collections", "OrderedDict") + b"o", "OBJ"),
    "INST": (b"(icollections\nOrderedDict\n", "INST"),
    "a second PROTO": (b"\x80\x02N", "PROTO"),
    "an unknown opcode": (b"\xff", "0xff"),
    "a zero byte": (b"\0", "0x00"),
    "a memo number that was never set": (b"h\x07", "number 7"),
    "a large memo number that was never set": (b"j\xff\xff\xff\xff", "4,294,967,295"),
    "a huge memo number": (b"Nr\xff\xff\xff\xff", "4,294,967,295"),
    "a memo of nothing": (b"q\0", "not there"),
    "an append to a tuple": (b")Na", "no list"),
    "an item of a list": (b"]NNs", "no dict"),
    "a key without a value": (b"}(" + text("a") + b"u", "without a value"),
    "a key that is a tuple": (b"})Ns", "key"),
    "a key that is true": (b"}\x88Ns", "key"),
    "a key that is a large integer": (b"}" + number(2**61 - 1) + b"Ns", "key"),
    "a key that is set twice": (b"}" + (text("k") + b"Ns") * 2, "`k` twice"),
    "TUPLE without a mark": (b"Nt", "mark"),
    "a tuple of more than there is": (b"N\x86", "not there"),
    "a tuple across a mark": (b"NN(\x86", "not there"),
    "REDUCE of nothing": (b"R", "not there"),
    "values left over": (b"NN", "left over"),
    "an open mark": (b"(N", "left over"),
    "an integer of 33 bytes": (b"\x8a\x21" + bytes(33), "33 bytes"),
    "an integer of 2 GB": (b"\x8b\xff\xff\xff\x7f", "2,147,483,647 bytes"),
    "a text of 4 GB": (b"X\xff\xff\xff\xff", "4,294,967,295 bytes"),
    "a text of 2**64 bytes": (b"\x8d" + b"\xff" * 8, "18,446,744,073,709,551,615 bytes"),
    "a text that is cut off": (b"X\x09\0\0\0abc", "cut off"),
    "a text that is not UTF-8": (b"X\1\0\0\0\xff", "UTF-8"),
    "a lone surrogate": (b"X\3\0\0\0\xed\xa0\x80", "UTF-8"),
    "a frame beyond the end": (b"\x95" + b"\xff" * 8 + b"N", "frame"),
    "a name without an end": (b"ctorch", "does not end"),
    "a module without an attribute": (b"ctorch\nSize", "does not end"),
    "a long name without an end": (b"c" + b"a" * 1000 + b"\nb\n", "does not end"),
    "a name by numbers": (b"K\1K\2\x93", "no text"),
}


@pytest.mark.parametrize("label", ODD)
def test_what_does_not_fit_is_refused(label: str) -> None:
    value, says = ODD[label]
    assert says in refused(pickled(value, 4)).message


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x01N.", b"\x80\x06N.", b"N.", b"(dp0\n."])
def test_what_does_not_begin_as_a_pickle_of_today_is_refused(data: bytes) -> None:
    assert "protocols 2 to 5" in refused(data).message


def test_bytes_behind_the_end_are_refused() -> None:
    assert "after its end" in refused(pickled(b"N") + b"N.").message


def test_every_truncation_is_refused() -> None:
    whole = pickled(table(a=tensor(), b=number(2**40), c=call(name("torch", "Size"), numbers(2))))
    unpickle(whole, 0, "x.bin")
    for length in range(len(whole)):
        refused(whole[:length])


# Bounds


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"(" * 1_000, "nested"),
        (b"N" * 200_000, "on its stack"),
        (b"N" + b"\x94" * 1_100_000, "steps"),
        (text("x" * 1_000_001), "1,000,001 bytes"),
    ],
    ids=["marks", "stack", "steps", "text"],
)
def test_what_would_only_fill_memory_is_refused_soon(value: bytes, says: str) -> None:
    began = time.monotonic()
    assert says in refused(pickled(value, 4)).message
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "value",
    [
        b")" + b"\x85" * 200_000,
        b"]" * 90_000 + b"a" * 89_999,
        b"}K\1" * 45_000 + b"}" + b"s" * 45_000,
    ],
    ids=["tuples", "lists", "dicts"],
)
def test_a_value_nested_ever_so_deeply_is_read_and_let_go(value: bytes) -> None:
    nested = unpickle(pickled(value), 0, "x.bin")
    assert isinstance(nested, (tuple, list, dict)) and len(nested) == 1
    del nested
    gc.collect()  # would crash, not raise, if letting go of it were recursive


def test_python_keeps_its_own_unpickler_out_of_it() -> None:
    source = io.StringIO()
    for file in ("unpickle", "torch_names", "torch_file", "archive"):
        source.write((Path("convert/readers") / f"{file}.py").read_text())
    words = re.findall(r"^\s*(?:from|import) +([\w.]+)", source.getvalue(), re.MULTILINE)
    assert "struct" in words
    assert not {"pickle", "pickletools", "importlib", "torch", "numpy", "builtins"} & set(words)
    assert not re.search(r"__import__|getattr\(|(?<!mx\.)\beval\(|\bexec\(", source.getvalue())
