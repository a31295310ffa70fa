"""How caches stand, and how they were used over an hour and a day, as far as somebody may see."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, Q, Sum

from apps.providers.cache_usage import SLOT, Counts
from apps.providers.models import Cache, CachedAnswer, CacheUsage, Catalogue, Region
from apps.tenants.access import Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission

MOST_TENANTS = 50
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
_SUMS = {f"of_{name}": Sum(name) for name in Counts.__slots__}


@dataclass(slots=True)
class Standing:
    """A cache: what it holds now (``size`` in bytes, None where nobody counts), and how it was used."""

    cache: Cache
    entries: int = 0
    size: int | None = None
    hour: Counts = field(default_factory=Counts)
    day: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class OfTenant:
    """A tenant's part of the response cache, and how it was used over a day; ``size`` in bytes."""

    tenant: Tenant
    entries: int
    size: int
    day: Counts


def standings(by: Principal, *, now: dt.datetime) -> list[Standing]:
    """The response cache as far as the principal may read costs, and to platform admins the others. Five queries."""
    hour, day = _used(by, now - HOUR), _used(by, now - DAY)
    kept = CachedAnswer.objects.visible_to(by).filter(expires_at__gt=now)
    sums = kept.aggregate(entries=Count("pk"), size=Sum("size"))
    responses = Cache.RESPONSES
    found = [Standing(responses, sums["entries"], sums["size"] or 0, hour[responses], day[responses])]
    if by.everything:
        regions = Region.objects.filter(is_enabled=True, provider__is_enabled=True).count()
        configuration = Cache.CONFIGURATION
        found.append(Standing(configuration, regions, None, hour[configuration], day[configuration]))
        lists, catalogue = Catalogue.objects.sums(), Cache.CATALOGUE
        found.append(Standing(catalogue, lists["entries"], lists["size"], hour[catalogue], day[catalogue]))
    return found


def _visible(by: Principal) -> Q:
    allowed = by.tenant_ids(Permission.COST_READ)
    return Q() if allowed is None else Q(tenant_id__in=allowed)


def _used(by: Principal, since: dt.datetime) -> dict[Cache, Counts]:
    rows = CacheUsage.objects.filter(_visible(by), starts_at__gt=since - SLOT).values("cache").annotate(**_SUMS)
    found: dict[Cache, Counts] = defaultdict(Counts)
    for row in rows.order_by():
        found[Cache(row["cache"])] = _counts(row)
    return found


def _counts(row: Mapping[str, Any]) -> Counts:
    return Counts(**{name: int(row[f"of_{name}"]) for name in Counts.__slots__})


def tenants(by: Principal, *, now: dt.datetime) -> list[OfTenant]:
    """The tenants that have or used cached answers, those that saved most first. Three queries."""
    used = CacheUsage.objects.filter(_visible(by), cache=Cache.RESPONSES, starts_at__gt=now - DAY - SLOT)
    counts: dict[uuid.UUID, Counts] = {
        row["tenant_id"]: _counts(row) for row in used.values("tenant_id").annotate(**_SUMS).order_by()
    }
    kept = CachedAnswer.objects.visible_to(by).filter(expires_at__gt=now).order_by()
    sizes = {
        id: (entries, size) for id, entries, size in kept.values_list("tenant_id").annotate(Count("pk"), Sum("size"))
    }
    names = Tenant.objects.in_bulk({*sizes, *counts})
    found = [OfTenant(tenant, *sizes.get(id, (0, 0)), counts.get(id, Counts())) for id, tenant in names.items()]
    return sorted(found, key=lambda each: (-each.day.saved, -each.entries, each.tenant.slug))[:MOST_TENANTS]
