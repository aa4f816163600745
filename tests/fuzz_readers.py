"""Feed damaged files to the converter's readers: ``python tests/fuzz_readers.py --seconds 60``.

Valid files of torch, safetensors and GGUF are mutated by a seeded generator, opened, and every
tensor is read. A reader may give values or raise ConvertError or WeightsError; any other exception,
ten seconds or a gigabyte is a failure and is printed with the seed that makes it again
(``--case SEED``). Ends with 1 after a failure, and with one JSON line.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from convert.readers.archive import read_archive
from convert.readers.open import open_weights
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import ConvertError, WeightsError
from tests.convert.gguf_writer import write_tiny_gguf
from tests.convert.readers.hostile_pickles import Member, write_zip

GOLDEN = Path(__file__).parent / "golden" / "torch"
MOST_SECONDS = 10.0
MOST_BYTES = 1_000_000_000
INTERESTING = (0, 1, 2**7, 2**8 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)

Seeds = dict[str, Callable[[random.Random], bytes]]


def make_seeds(place: Path) -> Seeds:
    """Per kind of file, what gives a mutant of it."""
    safetensors, gguf = place / "seed.safetensors", place / "seed.gguf"
    arrays = {"a": mx.arange(12.0).reshape(3, 4), "b": mx.zeros((2, 0)), "c": mx.array(1)}
    arrays["d"] = mx.ones((5,), dtype=mx.bfloat16)
    mx.save_safetensors(str(safetensors), arrays, {"format": "mlx"})
    write_tiny_gguf(gguf)
    # `refused_*` too: what is behind a refusal is reached when a mutation removes its reason.
    torch_files = [path.read_bytes() for path in sorted(GOLDEN.glob("*.p*t*"))]
    pickles = [_records(path) for path in sorted(GOLDEN.glob("[!re]*.p*t*"))]
    small, large = safetensors.read_bytes(), gguf.read_bytes()
    head = large[:20_000]  # most of a GGUF is blocks, in which no byte matters
    return {
        "torch zip": lambda rng: mutate(rng, rng.choice(torch_files)),
        "torch pickle": lambda rng: _mutate_pickle(rng, rng.choice(pickles)),
        "safetensors": lambda rng: mutate(rng, small),
        "GGUF": lambda rng: mutate(rng, head) + large[len(head) :],
    }


def _records(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {
        name: data[record.offset : record.offset + record.size]
        for name, record in read_archive(path).items()
    }


def _mutate_pickle(rng: random.Random, records: dict[str, bytes]) -> bytes:
    """A mutated pickle in a zip whose checksums are right."""
    changed = records | {"data.pkl": mutate(rng, records["data.pkl"])}
    return write_zip([Member(f"archive/{name}", data) for name, data in changed.items()]).data


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to eight changes: flips, numbers, cuts, copies."""
    mutant = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not mutant:
            break
        at = rng.randrange(len(mutant))
        size = rng.choice((1, 2, 4, 8, 30, 300))
        what = rng.randrange(8)
        if what <= 1:
            mutant[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            mutant[at] = rng.randrange(256)
        elif what <= 4:  # a length or an offset
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice((*INTERESTING, len(mutant), len(mutant) - at, rng.getrandbits(64)))
            mutant[at : at + width] = (value % 256**width).to_bytes(width, "little")
        elif what == 5:
            source = rng.randrange(len(mutant))
            mutant[at : at + rng.choice((0, size))] = mutant[source : source + size]
        elif what == 6:
            del mutant[at : at + size]
        elif rng.random() < 0.3:
            del mutant[at:]
    return bytes(mutant)


def run_case(seed: int, seeds: Seeds, path: Path) -> tuple[str, str]:
    """The kind of file and what came of it: ``read``, ``refused`` or ``FAILED``."""
    rng = random.Random(seed)
    kind = rng.choice(sorted(seeds))
    path.write_bytes(seeds[kind](rng))
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        reader = open_weights(path)
        for name in reader.entries:
            reader.read(name)
        outcome = "read"
    except (ConvertError, WeightsError) as error:
        short = len(error.message) < 1000
        outcome = "refused" if short else f"FAILED: the message is {error.message[:1000]!r}"
    except Exception:
        outcome = f"FAILED:\n{traceback.format_exc()}"
    seconds = time.monotonic() - began
    unit = 1 if sys.platform == "darwin" else 1024
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * unit
    if seconds > MOST_SECONDS or grown > MOST_BYTES:
        outcome = f"FAILED: it took {seconds:.1f} s and {grown:,} bytes more"
    return kind, outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--case", type=int, help="only the case with this seed")
    arguments = parser.parse_args()
    faulthandler.enable()
    place = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
    mutant = place / "mutant.bin"
    print(f"if this process is killed, the last file is {mutant}", flush=True)
    seeds = make_seeds(place)
    outcomes: Counter[str] = Counter()
    failures = 0
    end = time.monotonic() + arguments.seconds
    first = arguments.seed if arguments.case is None else arguments.case
    for seed in itertools.count(first):
        kind, outcome = run_case(seed, seeds, mutant)
        result, _, details = outcome.partition(":")
        outcomes[f"{kind}, {result}"] += 1
        if result == "FAILED":
            failures += 1
            print(f"\n{kind}: {details}\nmake it again with --case {seed}", flush=True)
        if arguments.case is not None or time.monotonic() > end or failures >= 20:
            break
    for label, count in sorted(outcomes.items()):
        print(f"{count:>9,}  {label}")
    if arguments.case is None:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    print(json.dumps({"cases": outcomes.total(), "failures": failures, "first_seed": first}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
