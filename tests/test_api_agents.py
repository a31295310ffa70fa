"""Agents of swarms over the API."""

from __future__ import annotations

import pytest
from pytest_django import DjangoAssertNumQueries

from apps.audit.trail import Actor
from apps.swarms.actions.submit import submit
from apps.swarms.models import Swarm
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant, User
from tests.api_client import Caller, is_refusal
from tests.specs import BRIEF, simulated

pytestmark = pytest.mark.django_db
BY: Actor = principal_of_command("test")


@pytest.fixture
def swarms(acme: Tenant, rival: Tenant) -> list[Swarm]:
    simulated()
    return [submit(BRIEF, tenant=tenant, by=BY) for tenant in (acme, acme, rival)]  # type: ignore[arg-type]


def test_the_agents_of_ones_swarms_are_listed_with_their_specs(swarms: list[Swarm], viewer: User) -> None:
    call = Caller(viewer)
    rows = call.get("/agents/").json()["results"]
    assert {row["swarm"] for row in rows} == {str(swarm.pk) for swarm in swarms[:2]}
    (writer,) = call.get(f"/agents/?swarm={swarms[0].pk}&name=writer").json()["results"]
    assert (writer["tenant"], writer["runtime"], writer["model"]) == ("acme", "llm", "simulated:large")
    assert call.get(f"/agents/{writer['id']}/").json() == writer
    assert writer["files"] is False
    swarms[0].agents.filter(name="writer").update(options={"files": True})
    assert call.get(f"/agents/{writer['id']}/").json()["files"] is True
    assert call.get("/agents/?runtime=http").json()["results"] == []
    assert call.get("/agents/?tenant=rival").json()["results"] == []
    assert is_refusal(call.get("/agents/?runtime=magic"), 400)


def test_another_tenants_agent_is_not_there(swarms: list[Swarm], outsider: User, finance: User) -> None:  # A5
    agent = swarms[0].agents.first()
    assert agent is not None
    for user in (outsider, finance):
        assert is_refusal(Caller(user).get(f"/agents/{agent.pk}/"), 404)
    assert {row["tenant"] for row in Caller(outsider).get("/agents/").json()["results"]} == {"rival"}
    assert Caller(finance).get("/agents/").json()["results"] == []


def test_a_list_takes_two_queries(
    swarms: list[Swarm], viewer: User, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    call = Caller(viewer)
    call.get("/agents/")
    with django_assert_num_queries(2):
        call.get("/agents/")
