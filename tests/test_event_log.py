"""The event log under writers that commit out of order."""

from __future__ import annotations

import pytest

from apps.events import log


@pytest.mark.django_db
def test_events_are_read_in_the_order_written() -> None:
    log.emit([log.NewEvent("a.b", data={"n": 1}), log.NewEvent("a.b", data={"n": 2})])
    # Rows of the running transaction are not decided yet, so no reader gets them.
    assert log.read(log.START) == []
