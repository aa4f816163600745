"""What `load_fast_blas` promises.  Every case has a process of its own: loading is for good."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

MLX_LIBS = Path(find_spec("mlx").submodule_search_locations[0]).parent / "mlx_cpu.libs"
PACKAGED = find_spec("scipy_openblas32") is not None

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not MLX_LIBS.is_dir(), reason="only mlx[cpu] brings a slow BLAS"
)
needs_package = pytest.mark.skipif(not PACKAGED, reason="scipy-openblas32 is not installed")

LOAD = "from mobilellm_mlx import blas; b = blas.load_fast_blas()\n"
# Without libraries that happen to be installed on the machine at hand.
NO_SYSTEM = "from mobilellm_mlx import blas; blas.SYSTEM_LIBRARIES = ()\n"
NO_PACKAGE = "import sys; sys.modules['scipy_openblas32'] = None\n"
# `right` compares products of all kinds with a sum of products, which uses no BLAS.
RIGHT = """
import mlx.core as mx
mx.set_default_device(mx.cpu)
def right(dtype=mx.float32, tolerance=1e-4):
    def close(x, y):
        return mx.abs(x - y).max().item() <= tolerance * mx.abs(y).max().item()
    mx.random.seed(0)
    a, b = mx.random.normal((3, 70, 90)).astype(dtype), mx.random.normal((3, 90, 80)).astype(dtype)
    if dtype == mx.complex64:
        a, b = a + 1j * mx.random.normal(a.shape), b + 1j * mx.random.normal(b.shape)
    slow = (a[..., None] * b[..., None, :, :]).sum(-2)
    bt = mx.contiguous(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    return (close(a @ b, slow) and close(a @ bt, slow) and close(a[0] @ b[0], slow[0])
        and close(a[:1, :1] @ b[:1], slow[:1, :1]))
"""


def run(code: str, **environment: str) -> list[str]:
    """Lines printed by `code` in a fresh process, which has to end cleanly and silently."""
    drop = ("MOBILELLM_BLAS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in drop}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


@needs_package
@pytest.mark.parametrize("before", ["", "import mlx.core\n"], ids=["before", "after"])
def test_packaged_openblas_is_used_whether_before_or_after_mlx(before: str) -> None:
    name, path, owner, right = run(
        before + NO_SYSTEM + LOAD + RIGHT + "print(b.name, b.path, sep='\\n')\n"
        "print(blas._owner(blas._slot('libmlx.so')))\n"
        "print(right(), right(mx.complex64), right(mx.float64), right(mx.bfloat16, 0.05))"
    )
    assert name.startswith("OpenBLAS 0.3.")
    assert path == owner and path.endswith("scipy_openblas32/lib/libscipy_openblas.so")
    assert right == "True True True True"


@needs_package
def test_it_is_several_times_faster() -> None:
    timing = RIGHT + (
        "from time import perf_counter as now\n"
        "a, b = mx.zeros((256, 576)), mx.zeros((576, 1536)); mx.eval(a, b)\n"
        "def once():\n  t = now(); mx.eval(a @ b); return now() - t\n"
        "print(min(once() for _ in range(6)))\n"
    )
    (slow,) = run(LOAD + timing, MOBILELLM_BLAS="none")
    (fast,) = run(LOAD + timing, OPENBLAS_NUM_THREADS="1")
    assert float(fast) < float(slow) / 4


def test_none_switches_it_off() -> None:
    name, path, threads = run(
        LOAD + "print(b.name, b.path, b.threads, sep='\\n')", MOBILELLM_BLAS="none"
    )
    assert name == "reference (bundled with mlx)" and threads == "1"
    assert Path(path).parent == MLX_LIBS


def test_without_any_blas_mlx_keeps_its_own() -> None:
    name, right = run(NO_PACKAGE + NO_SYSTEM + LOAD + RIGHT + "print(b.name); print(right())")
    assert (name, right) == ("reference (bundled with mlx)", "True")


def test_a_library_can_be_named() -> None:
    """Any LP64 CBLAS will do: here the bundled one itself, or the one you name for this test."""
    wanted = os.environ.get("MOBILELLM_TEST_BLAS") or str(next(MLX_LIBS.glob("libblas*")))
    name, path, right = run(
        LOAD + RIGHT + "print(b.name, b.path, right(), sep='\\n')", MOBILELLM_BLAS=wanted
    )
    assert path == os.path.realpath(wanted) and right == "True"
    assert name.startswith("OpenBLAS") == ("openblas" in path)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x7fELF\2\1\1", "libm.so.6"])
def test_an_unusable_library_is_passed_over(tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "libopenblas.so"
    if isinstance(content, bytes):
        file.write_bytes(content)
    path = content if isinstance(content, str) else str(file)
    warning, name = run(
        "import logging, sys; logging.basicConfig(stream=sys.stdout)\n"
        + NO_PACKAGE + NO_SYSTEM + LOAD + "print(b.name)",
        MOBILELLM_BLAS=path,
    )  # fmt: skip
    assert path in warning and name == "reference (bundled with mlx)"


@needs_package
def test_wrong_products_and_64_bit_sizes_are_refused() -> None:
    assert run(
        NO_SYSTEM + "path, prefix = next(blas._candidates(''))\n"
        "def usable(prefix=prefix): return blas._open(path, prefix) is not None\n"
        "print(usable(), usable(''))\n"
        "blas._text = lambda *_: 'OpenBLAS 0.3.30 USE64BITINT'; print(usable())\n"
        "sgemm = blas.ctypes.CDLL(path).scipy_cblas_sgemm\n"
        "def spoiled(*args):\n  sgemm(*args)\n  if args[2] == transposed: args[12][5] += 1\n"
        "for transposed in (111, 112): print(blas._multiplies(spoiled))\n"
        "print(blas._multiplies(sgemm))"
    ) == ["True False", "False", "False", "False", "True"]


@needs_package
def test_threads() -> None:
    report = NO_SYSTEM + LOAD + "print(b.threads)\n"
    assert run(report, OPENBLAS_NUM_THREADS="1") == ["1"]
    assert run(report, OMP_NUM_THREADS="1") == ["1"]
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert run(one + report) == ["1"]
    assert run("from mobilellm_mlx import blas; blas.usable_cores = lambda: 1\n" + report) == ["1"]
    threads, cores = map(int, run(report + "print(blas.usable_cores())"))
    assert threads == max(1, cores - 1)


def test_core_count() -> None:
    fake = (
        "import os; from mobilellm_mlx import blas; os.sched_getaffinity = lambda _: {0, 1, 2, 3}\n"
        "def cores(quota, topology=('0,2', '1,3', '0,2', '1,3')):\n"
        "  blas._read = lambda path: quota if 'cgroup' in path else topology and topology[\n"
        "    int(path.split('/cpu')[2].split('/')[0])]\n"
        "  return blas.usable_cores()\n"
        "print(cores(''), cores('max 100000'), cores('100000 100000'), cores('50000 100000'),\n"
        "  cores('900000 100000'), cores('', ''))"
    )
    assert run(fake) == ["2 2 1 1 2 4"]


@needs_package
def test_linear_algebra_still_works() -> None:
    assert (
        run(
            NO_SYSTEM + LOAD + RIGHT + "a = mx.random.normal((60, 60)); i = mx.eye(60)\n"
            "q, r = mx.linalg.qr(a); u, s, vt = mx.linalg.svd(a); c = a @ a.T + i\n"
            "l = mx.linalg.cholesky(c); w, v = mx.linalg.eigh(c)\n"
            "for x, y in ((q @ r, a), (u * s @ vt, a), (mx.linalg.inv(c) @ c, i), (l @ l.T, c),\n"
            "             (v * w @ v.T, c)):\n  print(mx.abs(x - y).max().item() < 1e-3)"
        )
        == ["True"] * 5
    )


@needs_package
def test_calls_from_several_threads() -> None:
    assert run(
        NO_SYSTEM + LOAD + RIGHT + "from concurrent.futures import ThreadPoolExecutor\n"
        "def work(i):\n  with mx.stream(mx.new_stream(mx.cpu)):\n"
        "    x = mx.full((200, 200), 1.0); y = (x @ x)[i, i].item(); return y\n"
        "print(sum(ThreadPoolExecutor(4).map(work, range(40))))"
    ) == ["8000.0"]


@needs_package
def test_a_fork_can_multiply() -> None:
    """Forked before MLX has started its threads; afterwards MLX itself does not survive it."""
    assert run(
        NO_SYSTEM + LOAD + RIGHT + "import os\n"
        "pid = os.fork()\n"
        "if not pid:\n  ok = right(); os._exit(0 if ok else 1)\n"
        "print(os.waitpid(pid, 0)[1], right())"
    ) == ["0 True"]


@needs_package
def test_a_write_protected_table_is_no_obstacle() -> None:
    assert run(
        NO_SYSTEM + "import ctypes, mlx.core, mmap\n"
        "page = ctypes.c_void_p(blas._slot('libmlx.so') & -mmap.PAGESIZE)\n"
        "assert not ctypes.CDLL(None).mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 1)\n"
        + LOAD + RIGHT + "print(b.name[:8], right())"
    ) == ["OpenBLAS True"]  # fmt: skip


@needs_package
def test_addresses_that_are_looked_up_at_the_first_call() -> None:
    assert run(
        "import os, sys; sys.setdlopenflags(os.RTLD_LAZY)\n" + NO_SYSTEM
        + LOAD + RIGHT + "print(b.name[:8], right())"
    ) == ["OpenBLAS True"]  # fmt: skip


@needs_package
def test_a_blas_that_somebody_chose_stays() -> None:
    chosen = str(next(MLX_LIBS.glob("libblas*")))
    copy = "import ctypes, shutil, tempfile; d = tempfile.mkdtemp()\n" + (
        f"shutil.copy({chosen!r}, d + '/libchosen.so')\n"
        "ctypes.CDLL(d + '/libchosen.so', mode=ctypes.RTLD_GLOBAL)\n"
    )
    assert run(copy + LOAD + "print(b.name, b.threads)") == ["libchosen.so None"]


def test_what_is_no_mlx_has_no_table() -> None:
    assert run(
        "from mobilellm_mlx.blas import _slot\n"
        "print(*map(_slot, ('libc.so.6', 'libm.so.6', 'libnone.so')))"
    ) == ["None None None"]


def test_other_systems_are_left_alone() -> None:
    assert run(
        "import sys; sys.platform = 'darwin'\n" + LOAD
        + "print(b, 'mlx.core' in sys.modules, blas.load_fast_blas() is b)"
    ) == ["Blas(name=\"MLX's own for darwin\", path=None, threads=None) False True"]  # fmt: skip


@needs_package
def test_it_is_quick() -> None:
    times = [
        float(line)
        for _ in range(3)
        for line in run(
            "import mlx.core, time; from mobilellm_mlx import blas; t = time.perf_counter()\n"
            "blas.load_fast_blas()\n"
            "print(time.perf_counter() - t)"
        )
    ]
    assert min(times) < 0.03
