"""A tiny GGUF file, imported once."""

from pathlib import Path

import pytest

from convert.gguf import ImportedModel, import_gguf
from tests.convert import gguf_writer


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_writer.write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def imported(gguf_file: Path) -> ImportedModel:
    return import_gguf(gguf_file)
