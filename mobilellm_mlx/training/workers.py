"""Several processes that train one model together, each on its share of every batch.

``mlx.launch`` starts them and ``mx.distributed`` joins them. All hold the same weights; gradients
and losses are summed, weighted by tokens, so that a step is the one that a single process would
make of the same batch. The first process alone speaks and writes.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mobilellm_mlx.backend import (
    allocation_errors,
    as_number,
    mx,
    tree_flatten,
    tree_map,
    tree_unflatten,
)
from mobilellm_mlx.errors import MobileLLMError, TrainingError

PATIENCE_S = 600.0
"""How long an answer of the others is waited for: they may be slower, or write down samples."""
_LAST_WAIT_S = 20.0
_PIECE = 1 << 23
"""Numbers that are sent at once: a message for each array would be slow, one for all large."""

_Row = TypeVar("_Row")


class WorkerLost(TrainingError):
    """Another process of the training has ended, or does not answer."""


class Workers:
    """The processes of a training; one, where nobody launched more.

    Args:
        group: of ``mx.distributed``; None for one process.
        sockets: the file descriptors over which they talk.
        patience_s: how long an answer is waited for.
    """

    def __init__(
        self, group: Any = None, sockets: Iterable[int] = (), patience_s: float = PATIENCE_S
    ):
        self._group, self._sockets, self._patience_s = group, tuple(sockets), patience_s
        self.rank = 0 if group is None else int(group.rank())
        self.size = 1 if group is None else int(group.size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    def share(self, rows: Sequence[_Row]) -> list[_Row]:
        """The rows of a batch that are this process's."""
        return list(rows[self.rank :: self.size])

    # ---------------------------------------------------------------- talking

    def sum(self, tree: Any) -> Any:
        """Arrays, added up over all processes.

        Raises:
            WorkerLost: when one of them has ended.
        """
        if self.size == 1:
            return tree
        mx.eval(tree)
        found: list[tuple[str, mx.array]] = []
        for piece in _pieces(tree_flatten(tree)):
            summed, at = self._all_sum(mx.concatenate([a.reshape(-1) for _, a in piece])), 0
            for name, array in piece:
                found.append((name, summed[at : at + array.size].reshape(array.shape)))
                at += array.size
        mx.eval([array for _, array in found])
        return tree_unflatten(found)

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Numbers, added up over all processes.

        Raises:
            WorkerLost: when one of them has ended.
        """
        if self.size == 1:
            return numbers
        # Counts of tokens are exact in float32 up to 16 million, far beyond a batch.
        summed = self._all_sum(mx.array(numbers, mx.float32))
        return tuple(as_number(summed[at]) for at in range(len(numbers)))

    def of_first(self, tree: Any) -> Any:
        """The first process's arrays; the others give some of the same names and shapes.

        Raises:
            WorkerLost: when one of them has ended.
        """
        given = self.sum(tree if self.leads else tree_map(mx.zeros_like, tree))
        return tree if self.leads else given  # its own to the last bit, of zeros the sign too

    def gather(self, text: str) -> list[str]:
        """What every process says, in the order of their ranks.

        Raises:
            WorkerLost: when one of them has ended.
        """
        if self.size == 1:
            return [text]
        own = list(text.encode("utf-8", "replace"))
        ranks = range(self.size)
        lengths = self._all_ints([len(own) if rank == self.rank else 0 for rank in ranks])
        starts = [sum(lengths[:rank]) for rank in ranks]
        whole = [0] * (sum(lengths) + 1)  # an empty array could not be sent
        whole[starts[self.rank] : starts[self.rank] + len(own)] = own
        told = bytes(self._all_ints(whole))
        return [told[starts[rank] : starts[rank] + lengths[rank]].decode() for rank in ranks]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Something that all have to succeed in: what went wrong in one is an error in all.

        The first process names it; in the others it is a ``WorkerLost``.
        """
        own: MobileLLMError | None = None
        try:
            yield
        except MobileLLMError as error:
            if self.size == 1:
                raise
            own = error
        problem = {} if own is None else {"message": own.message, "hint": own.hint}
        self._refuse({"host": socket.gethostname(), **problem})
        if own is not None:
            raise own

    def require_alike(self, things: Mapping[str, str]) -> None:
        """Refuse to go on where the processes have different things.

        Args:
            things: what has to be the same, and a hash of it.

        Raises:
            TrainingError: in the first process, where something differs.
            WorkerLost: in the others.
        """
        said = [json.loads(text) for text in self.gather(json.dumps(dict(things)))]
        with self.together():
            differing = [name for name, value in things.items() if said[0][name] != value]
            if differing:
                raise TrainingError(
                    f"{' and '.join(differing)} differ from those of the first process",
                    "copy them from the machine of the first process, and use the same version of "
                    "this program on all",
                )

    def _refuse(self, own: Mapping[str, Any]) -> None:
        """Raise the problem of the first process that has one, if it is another than this."""
        for rank, text in enumerate(self.gather(json.dumps(own))):
            told = json.loads(text)
            if "message" not in told:
                continue
            if not self.leads:
                raise WorkerLost(f"process {rank + 1} of {self.size} could not go on")
            if rank:
                where = f"process {rank + 1} of {self.size}, on `{told['host']}`"
                raise TrainingError(f"{where}: {told['message']}", told["hint"])
            return

    # ---------------------------------------------------------------- waiting

    def _all_ints(self, numbers: list[int]) -> list[int]:
        summed: Any = self._all_sum(mx.array(numbers, mx.int32)).tolist()
        return list(summed)

    def _all_sum(self, array: mx.array) -> mx.array:
        mx.eval(array)
        with self._waiting():
            summed = mx.distributed.all_sum(array, group=self._group)
            mx.eval(summed)
        return summed

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Who ends breaks the connection; one that sleeps would be waited for forever."""
        timer = _timer(self._patience_s, self._give_up)
        try:
            with allocation_errors("training"):
                yield
        except RuntimeError as error:
            raise WorkerLost(
                "another process of this training has ended or does not answer",
                "everything up to here is saved; see what happened to it, and go on with "
                "`mobilellm train resume`",
            ) from error
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        """Close the connections, which ends the waiting with an error; else end the process."""
        _timer(_LAST_WAIT_S, _leave)
        for handle in self._sockets:
            with suppress(OSError), socket.socket(fileno=os.dup(handle)) as connection:
                connection.shutdown(socket.SHUT_RDWR)


@cache
def join_workers() -> Workers:
    """The processes that this one was launched with.

    Raises:
        TrainingError: when they do not find each other.
    """
    if _is_single():
        return Workers()
    before = _open_sockets()
    timer = _timer(PATIENCE_S, _leave)
    try:
        group = mx.distributed.init()
    except RuntimeError as error:
        raise TrainingError(
            f"the processes of this training do not find each other: {error}",
            "look at the addresses in the host file, and whether a firewall is between them",
        ) from error
    finally:
        timer.cancel()
    if group.size() == 1:
        return Workers()
    return Workers(group, _open_sockets() - before)


def _is_single() -> bool:
    """Whether ``mlx.launch`` was asked for one process: it names an empty list of hosts then."""
    hosts = os.environ.get("MLX_HOSTFILE")
    with suppress(OSError, ValueError):
        return hosts is not None and not Path(hosts).read_text(encoding="utf-8").strip()
    return False


def _pieces(arrays: Sequence[tuple[str, mx.array]]) -> Iterator[list[tuple[str, mx.array]]]:
    """The arrays in groups of one type, in an order that is the same in all processes."""
    piece: list[tuple[str, mx.array]] = []
    numbers = 0
    for name, array in sorted(arrays, key=lambda each: (str(each[1].dtype), each[0])):
        if piece and (numbers + array.size > _PIECE or array.dtype != piece[0][1].dtype):
            yield piece
            piece, numbers = [], 0
        piece.append((name, array))
        numbers += array.size
    if piece:
        yield piece


def _timer(seconds: float, act: Any) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer


def _leave() -> None:
    """End the process, whatever it waits for."""
    with suppress(OSError):
        os.write(2, b"error: the other processes of this training do not answer\n")
    os._exit(1)


def _open_sockets() -> set[int]:
    found = set()
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 (a Path is made of each)
            with suppress(OSError, ValueError):
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    found.add(int(name))
    return found
