"""A program that writes to a store, to be started several times or killed.

``write PATH NAME COUNT`` adds a chat with COUNT messages once a line comes in;
``stream PATH`` keeps an answer that grows, and prints its length as it does.
"""

import sys
import time
from pathlib import Path

from mobilellm_mlx.chat.records import ChatRecord, StoredMessage, now
from mobilellm_mlx.chat.store import Store


def write(path: Path, name: str, count: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    store = Store(path)
    store.add_chat(ChatRecord(name, now(), now(), title=f"from {name}"))
    for number in range(count):
        message_id = f"{name}-{number}"
        store.save(StoredMessage(message_id, name, None, "assistant", "", now(), status="partial"))
        store.write_partial(message_id, f"word of {message_id}", "")
        store.chats()
    assert len(store.search(f"word {name}", limit=count)) == count
    store.close()


def stream(path: Path) -> None:
    store = Store(path)
    store.add_chat(ChatRecord("c", now(), now()))
    store.save(
        StoredMessage("q", "c", None, "user", "Count.", now()),
        StoredMessage("a", "c", "q", "assistant", "", now(), status="partial"),
    )
    text, written = "", time.monotonic()
    while True:
        text += f"{len(text)} "
        print(len(text), flush=True)
        if time.monotonic() - written > 0.4:
            store.write_partial("a", text, "")
            written = time.monotonic()
        time.sleep(0.002)


if __name__ == "__main__":
    verb, path, *rest = sys.argv[1:]
    if verb == "write":
        write(Path(path), rest[0], int(rest[1]))
    else:
        stream(Path(path))
