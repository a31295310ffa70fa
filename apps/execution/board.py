"""What the processes of one cluster are doing, in memory they share with their supervisor.

django-q2 keeps this inside its own processes. The board is filled from its signals and its broker, with single writers
and no locks, so a process that dies at any moment can leave nothing locked.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass

_RING = 1024  # the last rows taken from the queue; the supervisor reads them every second
_SLOTS = 4096  # one per worker, found by its process number
_RING_AT = 1
_SLOTS_AT = _RING_AT + 2 * _RING
_CELLS = _SLOTS_AT + 3 * _SLOTS


@dataclass(frozen=True, slots=True)
class Work:
    """The queue row that a worker executes (0: none, it waits for work), and since when, in monotonic seconds."""

    row: int
    since: float


class Board:
    """Shared by every process forked after it was made."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _CELLS * 8)
        self._cells = memoryview(self._memory).cast("q")

    def pulled(self, row: int) -> None:
        """The pusher took a row from the queue in the database into the cluster's own."""
        count = self._cells[0]
        at = _RING_AT + 2 * (count % _RING)
        self._cells[at], self._cells[at + 1] = row, time.monotonic_ns()
        self._cells[0] = count + 1

    def pulled_since(self, count: int) -> tuple[dict[int, float], int]:
        """Rows pulled after the first ``count``, with the monotonic second of each, and the new count."""
        end = self._cells[0]
        found: dict[int, float] = {}
        for number in range(max(count, end - _RING), end):
            at = _RING_AT + 2 * (number % _RING)
            found[self._cells[at]] = self._cells[at + 1] / 1e9
        return found, end

    def works_on(self, row: int) -> None:
        """This process, a worker, starts on a row; 0: it waits for work."""
        pid = os.getpid()
        at = _SLOTS_AT + 3 * (pid % _SLOTS)
        self._cells[at + 1], self._cells[at + 2] = row, time.monotonic_ns()
        self._cells[at] = pid

    def workers(self) -> dict[int, Work]:
        """What each process does that is or was a worker of this cluster and was not struck off."""
        pids = self._cells[_SLOTS_AT::3].tolist()
        return {
            pid: Work(self._cells[at], self._cells[at + 1] / 1e9)
            for at, pid in zip(range(_SLOTS_AT + 1, _CELLS, 3), pids, strict=True)
            if pid
        }

    def strike_off(self, pid: int) -> None:
        """A worker that ended is none any more."""
        at = _SLOTS_AT + 3 * (pid % _SLOTS)
        if self._cells[at] == pid:
            self._cells[at] = 0


current: Board | None = None
"""The board of the cluster that this process belongs to, if any."""
