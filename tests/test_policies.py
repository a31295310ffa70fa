"""Access policies as values: facts in, a decision out, written as one table."""

from __future__ import annotations

import datetime as dt
import ipaddress
import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from apps.tenants.models import AccessPolicy, CannotMovePolicy, PolicyState
from apps.tenants.policies import UNLIMITED, Facts, Policy, TenantFacts, decide, judge
from apps.tenants.roles import Permission, Resource
from portal.money import NANO

P = Permission
ACME = TenantFacts(uuid.UUID(int=1), "acme", "America/New_York", {"tier": "trial", "seats": 5})
RIVAL = TenantFacts(uuid.UUID(int=2), "rival", "Asia/Tokyo")
ANN, BOB = uuid.UUID(int=11), uuid.UUID(int=12)
# A Thursday; in New York it is 09:30, in Tokyo 23:30.
THURSDAY = dt.datetime(2026, 11, 26, 14, 30, tzinfo=dt.UTC)
FACTS: dict[str, Any] = {
    "action": P.SWARM_TERMINATE,
    "resource": Resource.SWARM,
    "tenant": ACME,
    "at": THURSDAY,
    "user_id": ANN,
    "roles": frozenset({"operator"}),
    "address": "10.1.2.3",
}
OFFICE: dict[str, Any] = {"weekdays": frozenset(range(5)), "starts": dt.time(9), "ends": dt.time(17)}
NIGHT: dict[str, Any] = {"starts": dt.time(22), "ends": dt.time(6)}
INSIDE: dict[str, Any] = {"networks": (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))}
YES, NO = True, False


def local(day: int, hour: int, minute: int = 0) -> dt.datetime:
    """A moment of November 2026 by New York's clocks (UTC-5)."""
    return dt.datetime(2026, 11, day, hour, minute, tzinfo=dt.timezone(dt.timedelta(hours=-5)))


TABLE: list[tuple[dict[str, Any], dict[str, Any], bool, str]] = [
    # what the policy says, what is different about the request, whether it denies, why the row is here
    ({}, {}, YES, "about everything, with no exception: it denies"),
    ({"tenant_id": ACME.id}, {}, YES, "its own tenant"),
    ({"tenant_id": RIVAL.id}, {}, NO, "another tenant's policy is of no concern here"),
    ({"actions": frozenset({P.SWARM_TERMINATE})}, {}, YES, "the action that it is about"),
    ({"actions": frozenset({P.SWARM_UPDATE})}, {}, NO, "another action"),
    ({"resources": frozenset({"task"})}, {}, NO, "terminating is done to a swarm"),
    ({"resources": frozenset({"task"})}, {"action": P.SWARM_UPDATE, "resource": "task"}, YES, "a retry of one task"),
    ({"users": frozenset({ANN})}, {}, YES, "a person by name"),
    ({"users": frozenset({BOB})}, {}, NO, "another person"),
    ({"roles": frozenset({"operator", "admin"})}, {}, YES, "one of its roles is held"),
    ({"roles": frozenset({"viewer"})}, {}, NO, "a role that is not held"),
    ({"roles": frozenset({"viewer"}), "users": frozenset({ANN})}, {}, YES, "people and roles add up"),
    ({"tokens": frozenset({"abc"})}, {"token": "abc"}, YES, "a token by name"),
    ({"tokens": frozenset({"abc"})}, {"token": "xyz"}, NO, "another token"),
    ({"tokens": frozenset({"abc"})}, {}, NO, "a login has no token"),
    ({"via": "token"}, {"token": "abc"}, YES, "all tokens"),
    ({"via": "token"}, {}, NO, "a login is no token"),
    ({"via": "login"}, {"token": "abc"}, NO, "a token is no login"),
    ({"attributes": (("tier", ("trial", "free")),)}, {}, YES, "the tenant's attribute is one of those"),
    ({"attributes": (("tier", ("gold",)),)}, {}, NO, "it has another value"),
    ({"attributes": (("region", ("eu",)),)}, {}, NO, "it is not set at all"),
    ({"attributes": (("slug", ("acme",)), ("seats", (5,)))}, {}, YES, "the slug counts as one; all must hold"),
    ({"above": 100 * NANO}, {"amount": 100 * NANO}, NO, "exactly the amount is not above it"),
    ({"above": 100 * NANO}, {"amount": 100 * NANO + 1}, YES, "one nano-dollar more is"),
    ({"above": 100 * NANO}, {"amount": UNLIMITED}, YES, "no limit is more than any amount"),
    ({"above": 100 * NANO}, {}, NO, "no money is at stake"),
    (OFFICE, {}, NO, "Thursday half past nine in New York is office time"),
    (OFFICE, {"tenant": RIVAL}, YES, "in Tokyo it is the middle of the night: the tenant's clocks count"),
    (OFFICE, {"at": local(26, 8, 59)}, YES, "a minute early"),
    (OFFICE, {"at": local(26, 9)}, NO, "on the dot"),
    (OFFICE, {"at": local(26, 17)}, YES, "the end is no part of it"),
    (OFFICE, {"at": local(28, 12)}, YES, "a Saturday"),
    ({"weekdays": frozenset({5})}, {"at": local(28, 3)}, NO, "days without hours are whole days"),
    (NIGHT, {"at": local(26, 23)}, NO, "hours over midnight, before it"),
    (NIGHT, {"at": local(27, 5, 59)}, NO, "and after it"),
    (NIGHT, {"at": local(27, 6)}, YES, "until they end"),
    ({**NIGHT, "weekdays": frozenset({3})}, {"at": local(27, 5)}, NO, "Friday morning belongs to Thursday's night"),
    ({**NIGHT, "weekdays": frozenset({3})}, {"at": local(27, 23)}, YES, "Friday's night does not"),
    ({**NIGHT, "weekdays": frozenset({0})}, {"at": local(24, 5)}, NO, "Tuesday morning is Monday's night"),
    ({**NIGHT, "weekdays": frozenset({6})}, {"at": local(30, 5)}, NO, "Monday morning is Sunday's night"),
    (INSIDE, {}, NO, "from inside the network"),
    (INSIDE, {"address": "192.0.2.9"}, YES, "from elsewhere"),
    (INSIDE, {"address": "::ffff:10.1.2.3"}, NO, "IPv4 as an IPv6 socket tells it"),
    (INSIDE, {"address": "2001:db8::7"}, NO, "IPv6"),
    (INSIDE, {"address": None}, YES, "who knows from where"),
    (INSIDE, {"address": "nonsense"}, YES, "not an address"),
    ({**OFFICE, **INSIDE}, {}, NO, "within hours and network"),
    ({**OFFICE, **INSIDE}, {"address": "192.0.2.9"}, YES, "both are asked for: the network is wrong"),
    ({**OFFICE, **INSIDE}, {"at": local(26, 20)}, YES, "both are asked for: the hour is wrong"),
    ({**OFFICE, "above": 100 * NANO}, {"at": local(26, 20), "amount": NANO}, NO, "small sums pass at night"),
    ({**OFFICE, "above": 100 * NANO}, {"at": local(26, 20), "amount": 200 * NANO}, YES, "large ones do not"),
    ({**OFFICE, "above": 100 * NANO}, {"amount": 200 * NANO}, NO, "by day they do"),
]


@pytest.mark.parametrize(("says", "differs", "denies", "why"), TABLE, ids=[row[3] for row in TABLE])
def test_what_a_policy_denies(says: dict[str, Any], differs: dict[str, Any], denies: bool, why: str) -> None:  # A4
    policy = Policy(uuid.UUID(int=99), "Ours", **says)
    verdict = judge(policy, Facts(**{**FACTS, **differs}))
    assert verdict.denies is denies, [check.text for check in verdict.checks]
    assert bool(decide([policy], Facts(**{**FACTS, **differs})).denied_by) is denies


def test_one_of_several_is_enough_and_those_under_test_only_say_so() -> None:
    policies = [
        Policy(uuid.UUID(int=1), "Tested", enforced=False),
        Policy(uuid.UUID(int=2), "Elsewhere", tenant_id=RIVAL.id),
        Policy(uuid.UUID(int=3), "Enforced"),
    ]
    decision = decide(policies, Facts(**FACTS))
    assert [each.name for each in decision.denied_by] == ["Enforced"]
    assert [each.name for each in decision.would_deny] == ["Tested"]


def test_a_denied_person_is_told_what_is_allowed() -> None:
    policy = Policy(uuid.UUID(int=1), "Large sums", above=100 * NANO, **OFFICE, **INSIDE)
    assert policy.allowance() == (
        "up to 100.00 USD, or Mon, Tue, Wed, Thu, Fri 09:00-17:00 in the tenant's time zone from 10.0.0.0/8, "
        "2001:db8::/32"
    )
    assert Policy(uuid.UUID(int=1), "Never").allowance() == ""


WRONG: list[tuple[str, Any, str]] = [
    ("actions", ["swarm:eat"], "Not known: swarm:eat"),
    ("resources", ["moon"], "Not known: moon"),
    ("roles", ["king"], "Not known: king"),
    ("weekdays", [7], "0 .Monday. to 6"),
    ("networks", ["10.0.0.0/8", "office"], "Not a network .*: office"),
    ("tenant_attributes", ["tier"], "JSON object"),
    ("tenant_attributes", {"tier": []}, "JSON object"),
    ("starts", dt.time(9), "both ends"),
]


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_what_cannot_be_a_policy(name: str, value: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        AccessPolicy(name="Ours", **{name: value}).clean()


def test_states_move_as_written() -> None:
    policy = AccessPolicy(name="Ours")
    for state in (PolicyState.TESTING, PolicyState.ENABLED, PolicyState.DISABLED, PolicyState.ENABLED):
        policy.move_to(state)
        assert policy.state == state
    with pytest.raises(CannotMovePolicy, match="enabled cannot become draft"):
        policy.move_to(PolicyState.DRAFT)
