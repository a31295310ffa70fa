"""Ties between processes that Linux offers and Python does not: none outlives its parent, orphans are adopted.

On other systems these do nothing; what must not outlive its parent there looks at ``os.getppid()`` itself.
And signals that cannot lock up what they interrupt.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

_parent = 0


def _prctl(option: int, value: int) -> None:
    if _libc is not None:
        _libc.prctl(option, value, 0, 0, 0)


def die_with_parent() -> None:
    """This process is killed when its parent ends, and so will be every process forked from it, and from those."""
    global _parent
    if not _parent:
        os.register_at_fork(before=_remember, after_in_child=_follow)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def told_when_parent_ends() -> Callable[[], None]:
    """A ``preexec_fn`` for subprocess: the child gets SIGTERM when this process ends, however it ends."""
    parent = os.getpid()

    def tie() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the tie was made
            os._exit(1)

    return tie


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process instead of the system's first one."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def handled_beside(act: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    """A signal handler that acts in a thread of its own.

    A handler runs in the midst of what it interrupts. Were that just holding the lock of an Event, a handler that sets
    the Event itself would wait for ever.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _thread.start_new_thread(act, ())  # threading's own take a lock too

    return handle


def _remember() -> None:
    global _parent
    _parent = os.getpid()


def _follow() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _parent:
        os._exit(1)
