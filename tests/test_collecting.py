"""Runners look for garbage less often, and still find it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from portal.collecting import NEW_OBJECTS, fewer_collections


@pytest.fixture(autouse=True)
def frozen_as_before() -> Iterator[None]:
    """The test process has frozen what it collected, and goes on for a while."""
    yield
    gc.freeze()


class Knot:
    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_left_alone_until_the_block_ends() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with fewer_collections():
        assert gc.get_threshold()[0] == NEW_OBJECTS
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_it_ends_with_an_error_as_well() -> None:
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), fewer_collections():
        raise RuntimeError
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_cycles_made_in_the_block_are_found_without_asking() -> None:
    with fewer_collections():
        seen = weakref.ref(Knot())
        kept = [[] for _ in range(2 * NEW_OBJECTS)]  # type: ignore[var-annotated]
        assert seen() is None
        assert len(kept) == 2 * NEW_OBJECTS
