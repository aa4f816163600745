"""What only shows in a process of its own: imports, and how it ends."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PRELUDE = """
import sys
from pathlib import Path
from mobilellm_mlx.engine import Engine
from mobilellm_mlx.options import GenerationOptions
from mobilellm_mlx.messages import Message
directory, said = Path(sys.argv[1]), [Message("user", "hi")]
short, long = GenerationOptions(max_tokens=8), GenerationOptions(max_tokens=None)
"""
WITH_BLOCK = """
with Engine(directory) as engine:
    *_, summary = engine.chat(said, short)
print(summary.generated_tokens)
"""
FORGOTTEN = """
engine = Engine(directory)
*_, summary = engine.chat(said, short)
print(summary.generated_tokens)
"""
FORGOTTEN_WHILE_ANSWERING = """
engine = Engine(directory)
events = engine.chat(said, long)
print(next(events).name)
"""
FAILED_LOADING = """
from mobilellm_mlx.errors import ModelNotFound
engine = Engine(directory / "nothing")
try:
    list(engine.load())
except ModelNotFound:
    print("not found")
"""
UNCAUGHT = """
engine = Engine(directory)
for event in engine.chat(said, long):
    if event.name == "text_delta":
        raise KeyError("caller's mistake")
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_importing_the_engine_does_not_import_mlx() -> None:
    code = (
        "import sys, mobilellm_mlx.engine, mobilellm_mlx.chat\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('mlx', 'numpy', 'tokenizers', 'jinja2', 'sentencepiece', 'textual', 'mlx_lm')])"
    )
    assert python(code).stdout == "[]\n"


def test_an_engine_that_did_nothing_does_not_import_mlx(tmp_path: Path) -> None:
    code = PRELUDE + "with Engine(directory): pass\nprint('mlx.core' in sys.modules)"
    done = python(code, tmp_path)
    assert (done.stdout, done.returncode) == ("False\n", 0)


def test_importing_the_package_does_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import mobilellm_mlx\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert python(code).stdout == "['mobilellm_mlx']\n"


def test_twenty_programs_in_a_row_end_cleanly(tiny_dir: Path) -> None:
    """A thread that keeps its streams makes some 4% of programs abort at their end: twenty clean
    ones would then come by chance in 43% of all cases, so this is a smoke test of that."""
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: python(PRELUDE + WITH_BLOCK, tiny_dir), range(20)))
    assert {(run.returncode, run.stdout, run.stderr) for run in runs} == {(0, "8\n", "")}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (FORGOTTEN, "8\n"),
        (FORGOTTEN_WHILE_ANSWERING, "prefill_progress\n"),
        (FAILED_LOADING, "not found\n"),
    ],
    ids=["forgotten", "forgotten while answering", "failed loading"],
)
def test_a_program_that_forgets_to_close_ends_all_the_same(
    tiny_dir: Path, code: str, said: str
) -> None:
    done = python(PRELUDE + code, tiny_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_a_program_that_ends_does_not_wait_for_the_rest_of_an_answer(tiny_dir: Path) -> None:
    slow = (
        "import mobilellm_mlx.decoding.generator as g, time\n"
        "count = g._Run.count_token\n"
        "def slowly(run): time.sleep(0.1); count(run)\n"
        "g._Run.count_token = slowly\n"
    )
    code = PRELUDE + slow + FORGOTTEN_WHILE_ANSWERING
    command = [sys.executable, "-c", code, str(tiny_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)  # else 100 s
    assert (done.returncode, done.stderr) == (0, "")


def test_an_uncaught_error_ends_the_program_with_its_traceback(tiny_dir: Path) -> None:
    done = python(PRELUDE + UNCAUGHT, tiny_dir)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('KeyError: "caller\'s mistake"')
