"""A tiny GGUF file, written once."""

from pathlib import Path

import pytest

from tests.convert import gguf_writer


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_writer.write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
