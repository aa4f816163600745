"""A process that converts, for tests that kill it or start two.

    python convert_process.py SOURCE TARGET GO

It stops before it writes its third array, says ``writing``, and goes on when the file GO exists.
"""

import sys
import time
from pathlib import Path

from convert.job import ConvertOptions, convert
from convert.writers.safetensors_file import SafetensorsWriter
from mobilellm_mlx.backend import mx
from mobilellm_mlx.errors import MobileLLMError

source, target, go = map(Path, sys.argv[1:])
write, written = SafetensorsWriter.write, []


def write_slowly(self: SafetensorsWriter, name: str, array: mx.array) -> None:
    if len(written) == 2:
        print("writing", flush=True)
        while not go.exists():
            time.sleep(0.01)
    written.append(name)
    write(self, name, array)


SafetensorsWriter.write = write_slowly  # type: ignore[method-assign]
try:
    for _ in convert(source, target, ConvertOptions(verify=False)):
        pass
except MobileLLMError as error:
    print(error.message, flush=True)
