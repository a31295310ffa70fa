"""Forgetting what is cached, by pattern: TENANT/AGENT/PROVIDER:MODEL, where * is any text and ? any character.

An order takes effect at once, in every process: the answers are gone from the table that all of them read, calls that
began before it no longer share or keep theirs, and configuration is read anew on a hint.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from django.db import connection, transaction
from django.db.models import QuerySet

from apps.audit import trail
from apps.providers import catalogue
from apps.providers.models import Cache, CachedAnswer, Invalidation, Provider
from apps.tenants.access import AccessDenied, Principal
from apps.tenants.models import Tenant
from apps.tenants.roles import Permission
from portal.notify import Channel, notify

KEPT = dt.timedelta(days=2)
"""How long an order is remembered: longer than any call that began before it."""
_ALLOWED = re.compile(r"[^/\s\[\]]{1,200}\Z")


class BadPattern(ValueError):
    """A pattern that cannot be read; the text is for a person."""


class CannotInvalidate(Exception):
    """The order makes no sense; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which answers are meant. ``tenant_id`` None: those of all tenants."""

    tenant_id: uuid.UUID | None
    agent: str = "*"
    model: str = "*"

    def covers(self, tenant_id: uuid.UUID, agent: str, model: str) -> bool:
        return self.tenant_id in (None, tenant_id) and _matches(self.agent, agent) and _matches(self.model, model)

    def rows(self) -> QuerySet[CachedAnswer]:
        """The answers that it means."""
        rows = CachedAnswer.objects.filter(agent__regex=_sql(self.agent), model__regex=_sql(self.model))
        return rows if self.tenant_id is None else rows.filter(tenant_id=self.tenant_id)


def part(text: str, name: str) -> str:
    """A part of a pattern, checked. Raises BadPattern, which names it."""
    text = text.strip()
    if not _ALLOWED.match(text) and not (name == "model" and re.match(r"[^\s\[\]]{1,200}\Z", text)):
        raise BadPattern(
            f"The pattern of the {name} is text with * and ?, without blanks or brackets: {text!r} is not."
        )
    return text


def parse(text: str) -> tuple[str, str, str]:
    """The patterns of tenant, agent and model in "TENANT/AGENT/PROVIDER:MODEL". Raises BadPattern."""
    parts = text.strip().split("/", 2)
    if len(parts) != 3:
        raise BadPattern(f"A pattern is TENANT/AGENT/PROVIDER:MODEL, such as acme/*/openai:*; {text!r} is not.")
    tenant, agent, model = parts
    return part(tenant, "tenant"), part(agent, "agent"), part(model, "model")


def _matches(pattern: str, text: str) -> bool:
    return pattern == "*" or _compiled(pattern).match(text) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _sql(pattern: str) -> str:
    """The pattern as a regular expression of PostgreSQL."""
    return "^" + "".join({"*": ".*", "?": "."}.get(each) or re.sub(r"(\W)", r"\\\1", each) for each in pattern) + "$"


def tenants_of(pattern: str, *, by: Principal) -> list[Tenant] | None:
    """The tenants that a pattern of slugs means, of those whose answers the principal may have forgotten.

    None for a platform admin who means all. Raises AccessDenied when there is none of them.
    """
    if pattern == "*" and by.everything:
        return None
    mine = [tenant for tenant in by.tenants(Permission.SWARM_DELETE) if _matches(pattern, tenant.slug)]
    if not mine:
        raise AccessDenied(f"No tenant {pattern!r} has answers that you may have forgotten: it needs swarm:delete.")
    return mine


def count(patterns: list[Pattern]) -> int:
    """How many answers the patterns mean now."""
    return sum(pattern.rows().count() for pattern in patterns)


def patterns_of(text: str, *, by: Principal) -> list[Pattern]:
    """The patterns, one a tenant unless all are meant. Raises BadPattern, AccessDenied."""
    slug, agent, model = parse(text)
    tenants = tenants_of(slug, by=by)
    if tenants is None:
        return [Pattern(None, agent, model)]
    return [Pattern(tenant.pk, agent, model) for tenant in tenants]


def invalidate(patterns: list[Pattern], *, by: Principal, reason: str, now: dt.datetime) -> int:
    """Forgets the answers that the patterns mean, also those of calls under way; how many there were.

    Raises AccessDenied unless the principal may do so in each tenant.
    """
    gone = 0
    with transaction.atomic():
        for pattern in patterns:
            if pattern.tenant_id is None:
                verify_platform(by)
            else:
                by.verify(Permission.SWARM_DELETE, pattern.tenant_id)
            gone += _forget(pattern, by=by, reason=reason, now=now)
    return gone


def forget_tenant(tenant_id: uuid.UUID, *, by: trail.Actor, reason: str, now: dt.datetime) -> int:
    """Forgets every answer of a tenant, for whoever erases somebody in it; how many there were."""
    with transaction.atomic():
        return _forget(Pattern(tenant_id), by=by, reason=reason, now=now)


def _forget(pattern: Pattern, *, by: trail.Actor, reason: str, now: dt.datetime) -> int:
    _exclude_writers()
    order = Invalidation.objects.create(tenant_id=pattern.tenant_id, agent=pattern.agent, model=pattern.model, at=now)
    gone, _ = pattern.rows().delete()
    details = {"cache": Cache.RESPONSES.value, "agent": pattern.agent, "model": pattern.model, "answers": gone}
    trail.record(by, "cache:invalidate", order, tenant_id=pattern.tenant_id, reason=reason, details=details)
    notify(Channel.CACHES, {"invalidated": Cache.RESPONSES.value})
    return gone


def providers_of(pattern: str) -> list[Provider]:
    """The enabled providers that a pattern of names means. Raises BadPattern; CannotInvalidate when it is none."""
    part(pattern, "provider")
    found = [each for each in Provider.objects.enabled() if _matches(pattern, each.name)]
    if not found:
        raise CannotInvalidate(f"There is no enabled provider {pattern!r}.")
    return found


def reload(cache: Cache, pattern: str, *, by: Principal, reason: str, now: dt.datetime) -> list[str]:
    """Has what is known of providers read anew, by a pattern of names; the names of those providers.

    The configuration by every process; the model catalogue, which is forgotten, by the first that can.

    Raises AccessDenied, BadPattern, CannotInvalidate.
    """
    verify_platform(by)
    with transaction.atomic():
        found = providers_of(pattern)
        if cache is Cache.CATALOGUE:
            catalogue.order(found, forget=True, by=by, reason=reason, now=now)
            return [provider.name for provider in found]
        for provider in found:
            details = {"cache": cache.value}
            trail.record(by, "cache:invalidate", provider, tenant_id=None, reason=reason, details=details)
        notify(Channel.REGIONS)
        notify(Channel.CACHES, {"invalidated": cache.value})
    return [provider.name for provider in found]


def verify_platform(by: Principal) -> None:
    if not by.everything:
        raise AccessDenied("This is every tenant's: only a platform admin may have it forgotten.")


def since(at: dt.datetime) -> list[tuple[dt.datetime, Pattern]]:
    """The orders given at that time or later."""
    rows = Invalidation.objects.filter(at__gte=at).values_list("at", "tenant_id", "agent", "model")
    return [(given_at, Pattern(tenant_id, agent, model)) for given_at, tenant_id, agent, model in rows]


def prune(*, now: dt.datetime) -> int:
    """Removes orders that no call can have begun before; how many."""
    return Invalidation.objects.filter(at__lt=now - KEPT).delete()[0]


def hold_off() -> None:
    """For whoever stores answers: orders wait until this transaction ends, and are seen if they came before it."""
    _lock("pg_advisory_xact_lock_shared")


def _exclude_writers() -> None:
    _lock("pg_advisory_xact_lock")


def _lock(function: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(hashtext('cached answers')::bigint)")
