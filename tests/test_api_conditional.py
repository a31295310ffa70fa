"""Asking again for what has not changed: ETag and If-None-Match."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from apps.costs.models import Budget
from apps.swarms.models import Swarm, Task, TaskStatus
from apps.tenants.models import Tenant, User
from tests.api_client import Caller
from tests.swarms import StepOf, make_swarm

pytestmark = pytest.mark.django_db


@pytest.fixture
def swarm(acme: Tenant) -> Swarm:
    return make_swarm(acme, [StepOf("gather", items=3), StepOf("brief", needs=["gather"])])


@pytest.fixture
def call(viewer: User) -> Caller:
    return Caller(viewer)


def again(call: Caller, path: str, response: Any) -> Any:
    return call.get(path, If_None_Match=response.headers["ETag"])


@pytest.mark.parametrize("path", ["/pool/", "/swarms/", "/swarms/{id}/", "/budgets/", "/budgets/{budget}/"])
def test_what_has_not_changed_is_not_sent_again(path: str, swarm: Swarm, call: Caller) -> None:
    budget = Budget.objects.create(tenant=swarm.tenant, name="All", limit=10**9)
    path = path.format(id=swarm.pk, budget=budget.pk)
    first = call.get(path)
    assert first.status_code == 200
    assert first.headers["ETag"].startswith('W/"')
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert {"Authorization", "Cookie"} <= {name.strip() for name in first.headers["Vary"].split(",")}
    second = again(call, path, first)
    assert (second.status_code, second.content) == (304, b"")
    assert second.headers["ETag"] == first.headers["ETag"]
    assert second.headers["Cache-Control"] == "private, no-cache"
    assert call.get(path, If_None_Match='"another"').status_code == 200
    assert call.get(path, If_None_Match="*").status_code == 304


@pytest.mark.parametrize("path", ["/swarms/", "/swarms/{id}/"])
def test_what_has_changed_is_sent(path: str, swarm: Swarm, call: Caller, operator: User) -> None:
    path = path.format(id=swarm.pk)
    first = call.get(path)
    Task.objects.filter(swarm=swarm, status=TaskStatus.READY).update(status=TaskStatus.PENDING)
    if "{" in path:  # without a new version: what is live counts too
        assert again(call, path, first).status_code == 200
        first = call.get(path)
    Caller(operator).post(f"/swarms/{swarm.pk}/pause/")
    second = again(call, path, first)
    assert second.status_code == 200
    assert second.headers["ETag"] != first.headers["ETag"]


def test_a_tag_opens_no_door(swarm: Swarm, call: Caller, outsider: User) -> None:  # A5
    first = call.get(f"/swarms/{swarm.pk}/")
    stranger = Caller(outsider)
    for tag in (first.headers["ETag"], "*"):
        answer = stranger.get(f"/swarms/{swarm.pk}/", If_None_Match=tag)
        assert answer.status_code == 404
        assert answer.headers["Cache-Control"] == "no-store"


def test_the_status_of_a_swarm_takes_at_most_three_queries(
    swarm: Swarm, call: Caller, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    call.get("/me/")  # the token's use is noted once a minute
    with django_assert_num_queries(3):  # the token with all it may do, the swarm, what takes long to add up
        first = call.get(f"/swarms/{swarm.pk}/")
    with django_assert_num_queries(2):  # that is cached
        assert call.get(f"/swarms/{swarm.pk}/").status_code == 200
    with django_assert_num_queries(2):
        assert again(call, f"/swarms/{swarm.pk}/", first).status_code == 304
