"""Where the engine's snapshots of chats lie: so many bytes of them, the latest used ones stay.

Without its snapshot a chat is only slower to open. So nothing here fails: what the disk does not
allow is not done.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from mobilellm_mlx import paths

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STALE_S = 3600.0
"""Age at which a file that is still being written is what a killed program left behind."""


class Snapshots:
    """A directory with one file for each chat that was used lately.

    Args:
        directory: of the files; None is the usual one. Made when the engine writes the first one.
        limit_bytes: most that all of them may take together.
    """

    def __init__(self, directory: Path | None = None, limit_bytes: int = 2_000_000_000):
        self.directory = directory or paths.cache_dir() / "kv"
        self.limit_bytes = limit_bytes

    def path_for(self, chat_id: str) -> Path:
        """The file of a chat, which need not be there; inside the directory whatever the id."""
        plain = _PLAIN_ID.fullmatch(chat_id)
        name = (
            chat_id if plain else hashlib.sha256(chat_id.encode(errors="surrogatepass")).hexdigest()
        )
        return self.directory / f"{name}.safetensors"

    def keep(self, chat_id: str) -> None:
        """Note that a chat was used just now; others make room for it."""
        with suppress(OSError, NotImplementedError):
            os.utime(self.path_for(chat_id), follow_symlinks=False)
        self.sweep()

    def forget(self, chat_id: str) -> None:
        """Remove what was kept of a chat."""
        with suppress(OSError):
            self.path_for(chat_id).unlink()

    def sweep(self) -> None:
        """Remove the files that were not used for longest, down to the limit, and broken ones."""
        left = self.limit_bytes
        for path, status in self._files():
            stale = time.time() - status.st_mtime > _STALE_S
            if path.suffix == ".part" and stale:
                _remove(path)
            elif path.suffix == ".safetensors":
                left -= status.st_size
                if left < 0:
                    _remove(path)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Plain files of the directory itself, the latest used first."""
        found = []
        with suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                with suppress(OSError):  # gone since then: another window sweeps too
                    if entry.is_file(follow_symlinks=False):
                        found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        return sorted(found, key=lambda item: item[1].st_mtime_ns, reverse=True)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
