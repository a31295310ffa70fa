"""The demo's tenants, people, prices and provider. What exists already is left as people have made it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction

from apps.audit import trail
from apps.costs.actions import create_budget
from apps.costs.models import Accruing, Enforcement, Period, Price, Rate, Scope
from apps.providers.models import Provider, Region
from apps.swarms.models import ResourcePool
from apps.tenants.access import Principal
from apps.tenants.models import Membership, Tenant, User
from apps.tenants.roles import Role
from portal.money import to_nano

ALWAYS = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant and its budgets, as arguments of ``create_budget`` with the limit in USD."""

    slug: str
    name: str
    time_zone: str
    weight: int
    budgets: tuple[Mapping[str, Any], ...]
    max_agents: int | None = None


TENANTS = (
    DemoTenant(
        "acme",
        "Acme",
        "America/New_York",
        3,
        (
            {"name": "Monthly limit", "limit": "50", "period": Period.MONTHLY},
            {
                "name": "Daily watch",
                "limit": "2",
                "period": Period.DAILY,
                "enforcement": Enforcement.SOFT,
                "note": "Tells finance when a day is dearer than planned; stops nothing.",
            },
        ),
    ),
    DemoTenant(
        "widget",
        "Widget Works",
        "Europe/Berlin",
        2,
        (
            {"name": "Daily limit", "limit": "10", "period": Period.DAILY},
            {
                "name": "Each end user, a day",
                "limit": "0.25",
                "period": Period.DAILY,
                "scope": Scope.END_USER,
                "enforcement": Enforcement.SOFT,
            },
        ),
    ),
    DemoTenant(
        "trial", "Trial", "UTC", 1, ({"name": "Every run", "limit": "0.50", "period": Period.RUN},), max_agents=6
    ),
)

ROLES: Mapping[str, Mapping[str, Role]] = {
    "operator": {"acme": Role.OPERATOR, "widget": Role.OPERATOR, "trial": Role.OPERATOR},
    "finance": {"acme": Role.FINANCE, "widget": Role.FINANCE, "trial": Role.FINANCE},
    "compliance": {"acme": Role.COMPLIANCE, "widget": Role.COMPLIANCE, "trial": Role.COMPLIANCE},
    "viewer": {"acme": Role.VIEWER},
}
"""Who works where, beside ``admin``, who is a platform admin."""

PROVIDER = "simulated"
PRICES = {
    "small": ("0.15", "0.60"),
    "large": ("2.50", "10.00"),
    "fail-once": ("0.15", "0.60"),
    "fail-bad-request": ("0.15", "0.60"),
}
"""USD for a million tokens, input and output, of each model of the simulator that the demo uses."""

RATES = {Accruing.INFRASTRUCTURE: "0.02", Accruing.STORAGE: "0.025"}
"""USD for an agent-hour and for a GB-month, as in the history that the demo begins with."""

POOL = {"agents_total": 60, "memory_gb_total": 128, "cpu_total": 32, "swarms_total": 8}
"""Small enough that swarms queue now and then."""


@dataclass(slots=True)
class Seeded:
    """What was made now, in words; nothing when everything was there. ``users`` are new and have the password."""

    made: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)


def seed(*, password: str, regions: Mapping[str, str], by: Principal) -> Seeded:
    """Makes what is missing, all of it or nothing.

    ``regions`` maps names to base URLs. The addresses of regions on this machine follow it, since the simulator's
    ports may be other ones today; an address elsewhere is a person's choice and stays.
    """
    done = Seeded()
    with transaction.atomic():
        is_new = not Tenant.objects.filter(slug__in=[tenant.slug for tenant in TENANTS]).exists()
        tenants = _seed_tenants(done, by)
        _seed_users(done, tenants, password, by)
        _seed_provider(done, regions, by)
        if is_new:
            _seed_rates(done, by)
            _fit_pool(done, by)
    return done


def _seed_tenants(done: Seeded, by: Principal) -> dict[str, Tenant]:
    tenants = {}
    for demo in TENANTS:
        tenant, is_new = Tenant.objects.get_or_create(
            slug=demo.slug,
            defaults={
                "name": demo.name,
                "time_zone": demo.time_zone,
                "weight": demo.weight,
                "max_agents": demo.max_agents,
            },
        )
        tenants[demo.slug] = tenant
        if is_new:
            trail.record(by, "tenant:create", tenant, tenant_id=tenant.pk)
            for budget in demo.budgets:
                create_budget(tenant=tenant, by=by, **{**budget, "limit": to_nano(Decimal(budget["limit"]))})
            done.made.append(f"tenant {demo.slug} with {len(demo.budgets)} budget(s)")
    return tenants


def _seed_users(done: Seeded, tenants: Mapping[str, Tenant], password: str, by: Principal) -> None:
    for name in ("admin", *ROLES):
        if User.objects.filter(username=name).exists():
            continue
        email = f"{name}@demo.invalid"
        if name == "admin":
            user = User.objects.create_superuser(name, email, password)
        else:
            user = User.objects.create_user(name, email, password, is_staff=True)
        trail.record(by, "user:create", user, tenant_id=None)
        for slug, role in ROLES.get(name, {}).items():
            membership = Membership.objects.create(user=user, tenant=tenants[slug], role=role)
            trail.record(by, "membership:create", membership, tenant_id=tenants[slug].pk, details={"role": role})
        done.users.append(name)
    if done.users:
        done.made.append(f"user(s) {', '.join(done.users)}")


def _seed_provider(done: Seeded, regions: Mapping[str, str], by: Principal) -> None:
    provider, is_new = Provider.objects.get_or_create(name=PROVIDER)
    if is_new:
        trail.record(by, "provider:create", provider, tenant_id=None)
        Price.objects.bulk_create(
            Price(
                provider=PROVIDER,
                model=model,
                input_per_mtok=to_nano(into),
                output_per_mtok=to_nano(out),
                effective_from=ALWAYS,
                note="Demo",
            )
            for model, (into, out) in PRICES.items()
            if not Price.objects.filter(tenant=None, provider=PROVIDER, model=model).exists()
        )
        done.made.append(f"provider {PROVIDER} with the prices of {len(PRICES)} models")
    known = {region.name: region for region in provider.regions.all()}
    for order, (name, url) in enumerate(regions.items(), 1):
        region = known.get(name)
        if region is None and is_new:
            Region.objects.create(provider=provider, name=name, base_url=url, order=order)
            done.made.append(f"region {name} at {url}")
        elif region and region.base_url != url and _is_here(region.base_url):
            Region.objects.filter(pk=region.pk).update(base_url=url)
            done.made.append(f"region {name} is now at {url}")


def _seed_rates(done: Seeded, by: Principal) -> None:
    if not Rate.objects.exists():
        for kind, usd in RATES.items():
            rate = Rate.objects.create(kind=kind, price=to_nano(usd), effective_from=ALWAYS, note="Demo")
            trail.record(by, "rate:create", rate, tenant_id=None, details={"price": f"{usd} USD"})
        done.made.append("rates of infrastructure and storage")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _fit_pool(done: Seeded, by: Principal) -> None:
    pool = ResourcePool.objects.locked()
    untouched = all(getattr(pool, name) == getattr(ResourcePool(), name) for name in POOL)
    fits = all(getattr(pool, name.replace("_total", "_used")) <= total for name, total in POOL.items())
    if untouched and fits:
        for name, total in POOL.items():
            setattr(pool, name, total)
        pool.save()
        trail.record(by, "pool:update", pool, tenant_id=None, details=dict(POOL))
        done.made.append(f"a pool of {POOL['agents_total']} agents and {POOL['swarms_total']} swarms")
