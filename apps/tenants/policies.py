"""Access policies as values: facts about a request go in, a decision comes out. No clock and no database in here.

Roles and grants give; policies only take away. A policy denies what it is about, to whom it is about, unless the
request comes within its hours and from its networks. Without hours and networks it always denies.
"""

from __future__ import annotations

import datetime as dt
import functools
import ipaddress
import json
import uuid
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from portal.money import usd_text

UNLIMITED = 2**63 - 1
"""The amount at stake, in nano-dollars, where nothing limits it: a swarm without a budget of its own."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
VIA_LOGIN, VIA_TOKEN = "login", "token"


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """What policies ask of a tenant."""

    id: uuid.UUID
    slug: str
    zone: str = "UTC"
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def value(self, name: str) -> Any:
        """An attribute; "slug" is always there."""
        return self.slug if name == "slug" else self.attributes.get(name)


@dataclass(frozen=True, slots=True)
class Facts:
    """A request: what is asked (a permission string) of which kind of resource, where, by whom, when and from where.

    ``amount`` is what is at stake in nano-dollars, None where no money is. ``address`` is None where nobody knows it.
    """

    action: str
    resource: str
    tenant: TenantFacts
    at: dt.datetime
    user_id: uuid.UUID | None = None
    roles: frozenset[str] = frozenset()
    token: str = ""
    address: str | None = None
    amount: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Empty means any: any tenant, action, resource, person, day, network. ``above`` is in nano-dollars."""

    id: uuid.UUID
    name: str
    enforced: bool = True
    tenant_id: uuid.UUID | None = None
    actions: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    users: frozenset[uuid.UUID] = frozenset()
    roles: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()
    via: str = ""
    attributes: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    above: int | None = None
    weekdays: frozenset[int] = frozenset()
    starts: dt.time | None = None
    ends: dt.time | None = None
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @property
    def has_hours(self) -> bool:
        return bool(self.weekdays) or self.starts is not None

    def hours(self) -> str:
        """Its hours for a person: "Mon, Tue 08:00-18:00"."""
        days = ", ".join(DAYS[day] for day in sorted(self.weekdays))
        times = f"{self.starts:%H:%M}-{self.ends:%H:%M}" if self.starts is not None and self.ends is not None else ""
        return " ".join(part for part in (days, times) if part)

    def allowance(self) -> str:
        """When it does not deny, for the person it denied something to."""
        parts = []
        if self.above is not None:
            parts.append(f"up to {usd_text(self.above)} USD")
        only = []
        if self.has_hours:
            only.append(f"{self.hours()} in the tenant's time zone")
        if self.networks:
            only.append(f"from {', '.join(map(str, self.networks))}")
        if only:
            parts.append(" ".join(only))
        return ", or ".join(parts)


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a policy against a request. ``holds`` leads towards a denial."""

    text: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says about a request, and each condition that it looked at, up to the first that settled it."""

    policy: Policy
    denies: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The policies that deny a request, and those under test that would."""

    denied_by: tuple[Policy, ...] = ()
    would_deny: tuple[Policy, ...] = ()


def decide(policies: Iterable[Policy], facts: Facts) -> Decision:
    """What all policies together say: one that is enforced and denies is enough."""
    denying = [policy for policy in policies if judge(policy, facts).denies]
    return Decision(
        tuple(policy for policy in denying if policy.enforced),
        tuple(policy for policy in denying if not policy.enforced),
    )


def judge(policy: Policy, facts: Facts) -> Verdict:
    """Whether a policy denies a request, and why or why not."""
    checks: list[Check] = []
    for check in _scope(policy, facts):
        checks.append(check)
        if not check.holds:
            return Verdict(policy, False, tuple(checks))
    outside = list(_outside(policy, facts))
    checks += outside
    return Verdict(policy, not outside or any(check.holds for check in outside), tuple(checks))


def _scope(policy: Policy, facts: Facts) -> Iterable[Check]:
    """Whether the policy is about this request at all."""
    if policy.tenant_id is not None:
        yield Check("It is about this tenant", policy.tenant_id == facts.tenant.id)
    if policy.actions:
        yield Check(f"It is about {_listed(policy.actions)}", facts.action in policy.actions)
    if policy.resources:
        yield Check(f"It is about {_listed(policy.resources)}", facts.resource in policy.resources)
    if policy.users or policy.roles or policy.tokens:
        named = (
            facts.user_id in policy.users
            or bool(policy.roles & facts.roles)
            or (bool(facts.token) and facts.token in policy.tokens)
        )
        who = [f"roles {_listed(policy.roles)}"] if policy.roles else []
        who += [f"{len(policy.users)} named people"] if policy.users else []
        who += [f"{len(policy.tokens)} named tokens"] if policy.tokens else []
        yield Check(f"It is about {' or '.join(who)}", named)
    if policy.via:
        yield Check(f"It is about requests by {policy.via}", policy.via == (VIA_TOKEN if facts.token else VIA_LOGIN))
    for name, wanted in policy.attributes:
        found = facts.tenant.value(name)
        here = "not set" if found is None else found
        yield Check(f"The tenant's {name} is {' or '.join(map(str, wanted))}; here it is {here}", found in wanted)
    if policy.above is not None:
        text = f"More than {usd_text(policy.above)} USD is at stake; here it is {_amount(facts.amount)}"
        yield Check(text, facts.amount is not None and facts.amount > policy.above)


def _outside(policy: Policy, facts: Facts) -> Iterable[Check]:
    """Whether the request is outside of what the policy allows; nothing when it allows nothing."""
    if policy.has_hours:
        local = facts.at.astimezone(zoneinfo.ZoneInfo(facts.tenant.zone))
        text = f"It is outside of {policy.hours()}; in {facts.tenant.zone} it is {DAYS[local.weekday()]} {local:%H:%M}"
        yield Check(text, not _within_hours(policy, local))
    if policy.networks:
        networks, here = ", ".join(map(str, policy.networks)), facts.address or "nowhere known"
        yield Check(
            f"The request is not from {networks}; it is from {here}", not _within_networks(policy, facts.address)
        )


def _within_hours(policy: Policy, local: dt.datetime) -> bool:
    """Hours over midnight belong to the day on which they began. The end is no part of them."""
    today, time = local.weekday(), local.time().replace(tzinfo=None)
    days = policy.weekdays or frozenset(range(7))
    if policy.starts is None or policy.ends is None:
        return today in days
    if policy.starts < policy.ends:
        return today in days and policy.starts <= time < policy.ends
    return (today in days and time >= policy.starts) or ((today - 1) % 7 in days and time < policy.ends)


def _within_networks(policy: Policy, address: str | None) -> bool:
    """An address that is not known is in no network; an IPv4 address written as IPv6 is that IPv4 address."""
    if not address:
        return False
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found.version == network.version and found in network for network in policy.networks)


def _amount(nano: int | None) -> str:
    if nano is None:
        return "no money"
    return "without a limit" if nano == UNLIMITED else f"{usd_text(nano)} USD"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


@functools.lru_cache(maxsize=2048)
def parse(text: str) -> Policy:
    """A policy from the JSON text of its row, as ``AccessPolicy.objects.as_json`` makes it."""
    row = json.loads(text)
    return Policy(
        id=uuid.UUID(row["id"]),
        name=row["name"],
        enforced=row["state"] == "enabled",
        tenant_id=uuid.UUID(row["tenant_id"]) if row["tenant_id"] else None,
        actions=frozenset(row["actions"]),
        resources=frozenset(row["resources"]),
        users=frozenset(map(uuid.UUID, row["users"])),
        roles=frozenset(row["roles"]),
        tokens=frozenset(row["tokens"]),
        via=row["via"],
        attributes=tuple(
            (name, tuple(wanted) if isinstance(wanted, list) else (wanted,))
            for name, wanted in sorted(row["tenant_attributes"].items())
        ),
        above=row["above"],
        weekdays=frozenset(row["weekdays"]),
        starts=dt.time.fromisoformat(row["starts"]) if row["starts"] else None,
        ends=dt.time.fromisoformat(row["ends"]) if row["ends"] else None,
        networks=tuple(map(ipaddress.ip_network, row["networks"])),
    )


@functools.lru_cache(maxsize=2048)
def parse_tenant(text: str) -> TenantFacts:
    """A tenant's facts from JSON text with id, slug, zone and attributes."""
    row = json.loads(text)
    return TenantFacts(uuid.UUID(row["id"]), row["slug"], row["zone"], row["attributes"])
