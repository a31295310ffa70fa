"""Requests made up from the published schema: no 5xx, and no answer that breaks the schema."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzzing import world


@pytest.mark.django_db
def test_no_made_up_request_breaks_the_api_or_its_schema(settings: Any) -> None:
    settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, 0)
    found = world().run(examples=4)
    assert found.faults == {}
    assert found.asked > 100
    assert found.answers[200] > 20  # there is something to find
