"""Ties between processes that Linux offers and Python does not: none outlives its parent, orphans are adopted."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_parent = 0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """This process gets the signal when its parent ends, and so will every process forked from it, and from those."""
    global _parent
    if not _parent:
        os.register_at_fork(before=_remember, after_in_child=_follow)
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process instead of the system's first one."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _remember() -> None:
    global _parent
    _parent = os.getpid()


def _follow() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _parent:  # it ended before the tie was made
        os._exit(1)
