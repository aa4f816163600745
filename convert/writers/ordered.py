"""A file whose head tells what follows: the head at once, then each tensor in its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self


class OrderedWriter:
    """The part that all such formats share.

    Args:
        path: made or overwritten.
        names: of the tensors that will be written, in their order.
        head: makes the bytes that stand before them.

    Raises:
        OSError: when the disk is full or the path cannot be written.
    """

    def __init__(self, path: Path, names: Iterable[str], head: Callable[[], bytes]):
        self._waiting = iter(list(names))
        self._file = path.open("wb", buffering=0)
        try:
            self._write(head())
        except BaseException:
            self._file.close()
            raise

    def _due(self) -> str | None:
        """The tensor whose turn it is."""
        return next(self._waiting, None)

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:  # an unbuffered write may take less than it was given
            view = view[self._file.write(view) :]

    def close(self) -> None:
        """End the file.

        Raises:
            ValueError: when tensors were never written.
        """
        self._file.close()
        if (missing := self._due()) is not None:
            raise ValueError(f"`{missing}` was never written")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
