"""A leased task carries the item of its list as the spec has it, whatever kind of value that is."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from django.utils import timezone

from apps.execution.leases import lease
from apps.swarms.models import Task
from apps.tenants.models import Tenant
from tests.admin_rows import make_swarm

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("item", ["pricing", "", 0, 2.5, True, None, ["a", 1], {"title": "Minutes", "pages": [1, 2]}])
def test_items_keep_their_kind(item: Any, acme: Tenant) -> None:
    swarm = make_swarm(acme, "items", status="running", tasks_failed=0)
    now = timezone.now()
    Task.objects.update(status="ready", ready_at=now, item=item, failure_code="", error="")
    (leased,) = lease(uuid.uuid4(), 5, now=now, expires_at=now + dt.timedelta(seconds=30))
    assert (leased.swarm_id, leased.item) == (swarm.pk, item)
