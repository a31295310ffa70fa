"""Python's garbage collector in processes that make many objects at once and keep most of them for a while."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 20_000
"""How many objects may be added before the new ones are looked at; Python's own 700 is less than a single batch."""


@contextmanager
def fewer_collections() -> Iterator[None]:
    """For the length of a block, what is there already is not looked at again, and what is new less often.

    A runner starts agents by the hundred, and all that belongs to them lives until they end: collections in between
    found nothing, and took a third of its processor time. Cycles are still found, only later: at most a few megabytes
    wait for it.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(NEW_OBJECTS, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
