"""Where chats are kept: one SQLite file, readable by anything that reads SQLite.

``database`` owns the connection and says SQLite's errors in plain words, ``migrations`` holds the
schema as it grew, ``rows`` turns records into rows and back, ``search`` finds words, ``rescue``
opens what cannot be opened.
"""

from mobilellm_mlx.chat.store.database import DamagedStore, ForeignStore, NewerStore, NotFound
from mobilellm_mlx.chat.store.rescue import history_path, open_history
from mobilellm_mlx.chat.store.store import Store

__all__ = [
    "DamagedStore",
    "ForeignStore",
    "NewerStore",
    "NotFound",
    "Store",
    "history_path",
    "open_history",
]
