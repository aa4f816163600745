"""Give MLX on Linux a fast matrix product.

The ``mlx-cpu`` wheel brings Netlib's reference BLAS, whose fp32 product takes twenty times what a
core needs.  libmlx calls it, as every shared library calls another, through a table of addresses
that the dynamic loader has filled in.  Here we load OpenBLAS and write the address of its product
into that table.  Unlike a BLAS put in front (by LD_PRELOAD or RTLD_GLOBAL)

* this works whether ``mlx.core`` has been imported before or not;
* it takes the package index's OpenBLAS as it is, whose routines' names have a prefix;
* it concerns libmlx's fp32 product alone, which we try first: the rest of libmlx and its LAPACK
  (``mx.linalg``), numpy and torch keep the BLAS they came with;
* what `Blas` says is read back from the table.
"""

import ctypes
import importlib.util
import logging
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROUTINE = "cblas_sgemm"  # libmlx also calls cblas_dgemm and cblas_cgemm; a model does not
# First Fedora's build with threads.  (ctypes.util.find_library would run ldconfig and gcc.)
SYSTEM_LIBRARIES = ("libopenblasp.so.0", "libopenblas.so.0")
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")

log = logging.getLogger(__name__)
_word = ctypes.c_size_t.from_address


@dataclass(frozen=True)
class Blas:
    """The BLAS that MLX's fp32 products run on; None where we cannot tell."""

    name: str
    path: str | None
    threads: int | None


_loaded: Blas | None = None


def load_fast_blas() -> Blas:
    """Make MLX use the best BLAS there is, and say which; the first call decides.

    ``MOBILELLM_BLAS`` names a library to prefer, or is ``none`` to change nothing.  Where there is
    nothing better MLX keeps its own: slow is better than not at all.  Imports ``mlx.core``, so
    call it where that is needed anyway.
    """
    global _loaded
    if _loaded is None:
        _loaded = _choose(os.environ.get("MOBILELLM_BLAS", "").strip())
    return _loaded


def _choose(wanted: str) -> Blas:
    if sys.platform != "linux":
        return Blas(f"MLX's own for {sys.platform}", None, None)
    import mlx.core  # noqa: F401  (the table exists once libmlx is loaded)

    slot = _slot("libmlx.so")
    if not slot:
        return Blas("MLX's own (libmlx calls no BLAS library that we can see)", None, None)
    current = Path(_owner(slot))
    # Another one was chosen by who built MLX or set LD_PRELOAD.  (libmlx.so: not looked up yet.)
    ours_to_choose = current.match("mlx_*.libs/libblas*") or current.name == "libmlx.so"
    if wanted.lower() != "none" and (wanted or ours_to_choose):
        for path, prefix in _candidates(wanted):
            if (lib := _open(path, prefix)) and _redirect(slot, lib, prefix):
                _limit_threads(lib, prefix)
                return _describe(lib, prefix, _owner(slot))
            if path == wanted:
                log.warning("MOBILELLM_BLAS=%s is not a usable BLAS; trying others", wanted)
    if ours_to_choose:
        return Blas("reference (bundled with mlx)", str(current), 1)
    return _describe(ctypes.CDLL(str(current)), "", str(current))


def _candidates(wanted: str) -> Iterator[tuple[str, str]]:
    """Libraries to try, each with the prefix of its routines' names."""
    yield from ((name, "") for name in (wanted, *SYSTEM_LIBRARIES) if name)
    # Not imported: its __init__ would offer its five thousand symbols to the whole process.
    spec = importlib.util.find_spec("scipy_openblas32")
    for package in (spec and spec.submodule_search_locations) or ():
        yield f"{package}/lib/libscipy_openblas.so", "scipy_"


def _open(path: str, prefix: str) -> ctypes.CDLL | None:
    """Load a BLAS, if it has the routine, takes 32-bit sizes and multiplies right."""
    try:
        lib = ctypes.CDLL(path)
        sgemm = lib[prefix + ROUTINE]
    except (OSError, AttributeError) as error:  # not there, not a library, not a BLAS, ...
        log.debug("%s", error)
        return None
    if "USE64BITINT" in _text(lib, f"{prefix}openblas_get_config"):
        return None  # the name is the same, but libmlx passes 32-bit sizes
    return lib if _multiplies(sgemm) else None


def _multiplies(sgemm: Callable[..., object]) -> bool:
    """Try products AB and AB' whose exact results we know, because A and B have rank one.

    Not a formality: OpenBLAS 0.3.34 gets AB' wrong on processors with SME vectors below 512 bits.
    """
    m, n, k, number = 37, 43, 41, ctypes.c_float
    a = (number * (m * k))(*(i % 7 * (j - 9) for i in range(m) for j in range(k)))
    b = (number * (k * n))(*((i % 5 - 1) * (j - 4) for i in range(k) for j in range(n)))
    bt = (number * (k * n))(*((i % 5 - 1) * (j - 4) for j in range(n) for i in range(k)))
    c, ct = (number * (m * n))(), (number * (m * n))()
    sgemm(101, 111, 111, m, n, k, number(1), a, k, b, n, number(0), c, n)
    sgemm(101, 111, 112, m, n, k, number(1), a, k, bt, k, number(0), ct, n)
    dot = sum((i - 9) * (i % 5 - 1) for i in range(k))
    return list(c) == list(ct) == [i % 7 * dot * (j - 4) for i in range(m) for j in range(n)]


def _slot(library: str) -> int | None:
    """Where a loaded library keeps the address at which it calls ROUTINE: a place in its GOT.

    Laid out as in the ELF specification and glibc's <link.h>; None if it looks different.
    """
    link_map = ctypes.POINTER(ctypes.c_size_t)()  # struct link_map: base, name, dynamic section
    try:
        handle = ctypes.c_void_p(ctypes.CDLL(library, mode=os.RTLD_NOLOAD)._handle)
        ctypes.CDLL(None).dlinfo(handle, 2, ctypes.byref(link_map))  # 2: RTLD_DI_LINKMAP
    except (OSError, AttributeError):  # not loaded under this name; not glibc
        return None
    base, _name, at = link_map[:3]
    tags: dict[int, int] = {}
    while tag := _word(at).value:
        tags[tag], at = _word(at + 8).value, at + 16
    # DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_JMPREL; and DT_PLTREL has to say DT_RELA
    size, strings, symbols, relocations = (tags.get(tag, 0) for tag in (2, 5, 6, 23))
    if tags.get(20) != 7 or min(strings, symbols, relocations) < base:
        return None
    for offset, info, _addend in struct.iter_unpack("<QQq", ctypes.string_at(relocations, size)):
        name_at = ctypes.c_uint32.from_address(symbols + 24 * (info >> 32)).value
        if ctypes.string_at(strings + name_at) == ROUTINE.encode():
            return int(base + offset)
    return None


def _redirect(slot: int, lib: ctypes.CDLL, prefix: str) -> bool:
    """Write the address of the routine of `lib` into `slot`."""
    # A linker's option (full RELRO) makes the table read-only once it has been filled in.
    page, size = ctypes.c_void_p(slot & -mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE)
    if ctypes.CDLL(None).mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
        return False
    _word(slot).value = ctypes.cast(lib[prefix + ROUTINE], ctypes.c_void_p).value or 0
    return True


def _owner(slot: int) -> str:
    """The file of the library that libmlx's next fp32 product will run in."""
    info = (ctypes.c_char_p * 4)()  # struct Dl_info, whose first field is the file's name
    ctypes.CDLL(None).dladdr(ctypes.c_void_p(_word(slot).value), info)
    return os.path.realpath(os.fsdecode(info[0] or b"unknown"))


def _text(lib: ctypes.CDLL, function: str) -> str:
    if call := getattr(lib, function, None):
        call.restype = ctypes.c_char_p
    return call().decode() if call else ""


def _describe(lib: ctypes.CDLL, prefix: str, path: str) -> Blas:
    """What a loaded BLAS says of itself, such as "OpenBLAS 0.3.34 SkylakeX"; or its file."""
    version = _text(lib, f"{prefix}openblas_get_config").split()[:2]
    name = " ".join([*version, _text(lib, f"{prefix}openblas_get_corename")]).strip()
    count = getattr(lib, f"{prefix}openblas_get_num_threads", None)
    return Blas(name or Path(path).name, path, count() if count else None)


def _limit_threads(lib: ctypes.CDLL, prefix: str) -> None:
    """Where the user has not said how many, leave one core to everybody else.

    OpenBLAS's threads spin while they wait for each other: when the interface, or another program,
    takes the last core, a product takes up to fifteen times longer, for a gain of a tenth when
    nobody does.
    """
    limit = getattr(lib, f"{prefix}openblas_set_num_threads", None)
    if limit and not any(os.environ.get(name) for name in THREAD_VARIABLES):
        limit(max(1, usable_cores() - 1))


def usable_cores() -> int:
    """Physical cores this process may use: by its affinity and by its container's quota."""
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = len({_read(siblings.format(cpu)) or str(cpu) for cpu in os.sched_getaffinity(0)})
    quota, period = (_read("/sys/fs/cgroup/cpu.max") or "max 1").split()
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
