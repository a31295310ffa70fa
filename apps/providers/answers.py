"""The cached answers of all workers: found, kept and bounded by one table. Everything here blocks for the database.

A tenant has at most ``RESPONSE_CACHE_ENTRIES``: those that were used least recently make room, in the transaction that
stores. Writers of one tenant take turns, so the bound holds whatever runs at the same time.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from django.conf import settings
from django.db import connection, transaction

from apps.providers.invalidating import Pattern, hold_off, since
from apps.providers.models import CachedAnswer
from portal.encryption import CannotOpen, Secret

log = structlog.get_logger(__name__)

LONGEST = 256 * 1024
"""Characters of an answer that is worth keeping."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call looks for: the answer of a key that was not given before a time."""

    key: str
    tenant_id: uuid.UUID
    not_before: dt.datetime


@dataclass(frozen=True, slots=True)
class Found:
    """An answer as it was kept, and when the model gave it."""

    text: str
    given_at: dt.datetime


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer to keep until ``expires_at``; the call that it answers began at ``began_at``."""

    key: str
    tenant_id: uuid.UUID
    agent: str
    model: str
    text: str
    began_at: dt.datetime
    given_at: dt.datetime
    expires_at: dt.datetime


class Kept(NamedTuple):
    """What became of a batch of new answers: by tenant, how many are there now that were not, and how many went."""

    stored: Mapping[uuid.UUID, int]
    evicted: Mapping[uuid.UUID, int]


def find(asks: Sequence[Ask], *, now: dt.datetime) -> list[Found | None]:
    """What is kept for each; None for what is not, is older, or does not open. One query."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT a.key, a.tenant_id, a.answer, a.created_at FROM providers_cachedanswer a
            JOIN unnest(%s::text[], %s::uuid[]) AS u (key, tenant_id) ON u.key = a.key AND u.tenant_id = a.tenant_id
            WHERE a.expires_at > %s
            """,
            [[ask.key for ask in asks], [ask.tenant_id for ask in asks], now],
        )
        rows = {(key, tenant_id): (sealed, given_at) for key, tenant_id, sealed, given_at in cursor}
    opened: dict[str, Found | None] = {}
    answers: list[Found | None] = []
    for ask in asks:
        row = rows.get((ask.key, ask.tenant_id))
        if row is None or row[1] < ask.not_before:
            answers.append(None)
            continue
        if ask.key not in opened:
            opened[ask.key] = _open(ask.key, *row)
        answers.append(opened[ask.key])
    return answers


_PURPOSE = "providers_cachedanswer.answer"


def _open(key: str, sealed: str, given_at: dt.datetime) -> Found | None:
    try:
        return Found(Secret.from_sealed(sealed, _PURPOSE, key).reveal(), given_at)
    except CannotOpen as error:
        log.warning("cached_answer_lost", key=key[:8], error=str(error))
        return None


def keep(answers: Sequence[NewAnswer], *, now: dt.datetime) -> Kept:
    """Keeps answers, in one transaction. What an invalidation has overtaken is dropped."""
    stored: dict[uuid.UUID, int] = {}
    with transaction.atomic(savepoint=False):
        hold_off()
        patterns = since(min(answer.began_at for answer in answers))
        latest = {answer.key: answer for answer in answers if not _is_overtaken(answer, patterns)}
        tenants = sorted({answer.tenant_id for answer in latest.values()})
        if not tenants:
            return Kept({}, {})
        with connection.cursor() as cursor:
            for tenant_id in tenants:
                cursor.execute(
                    "SELECT pg_advisory_xact_lock(hashtext('cached answers'), hashtext(%s))", [str(tenant_id)]
                )
        CachedAnswer.objects.bulk_create(
            [_row(latest[key], now) for key in sorted(latest)],
            update_conflicts=True,
            unique_fields=["key"],
            update_fields=["answer", "size", "created_at", "used_at", "expires_at"],
        )
        for answer in latest.values():
            stored[answer.tenant_id] = stored.get(answer.tenant_id, 0) + 1
        return Kept(stored, _evict(tenants))


def _is_overtaken(answer: NewAnswer, patterns: Sequence[tuple[dt.datetime, Pattern]]) -> bool:
    return any(
        at >= answer.began_at and pattern.covers(answer.tenant_id, answer.agent, answer.model)
        for at, pattern in patterns
    )


def _row(answer: NewAnswer, now: dt.datetime) -> CachedAnswer:
    return CachedAnswer(
        key=answer.key,
        tenant_id=answer.tenant_id,
        agent=answer.agent,
        model=answer.model,
        answer=answer.text,
        size=len(answer.text.encode()) * 4 // 3 + 64,
        created_at=answer.given_at,
        used_at=now,
        expires_at=answer.expires_at,
    )


def _evict(tenants: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH gone AS (
                DELETE FROM providers_cachedanswer WHERE key IN (
                    SELECT key FROM (
                        SELECT key, row_number() OVER (PARTITION BY tenant_id ORDER BY used_at DESC, key) AS place
                        FROM providers_cachedanswer WHERE tenant_id = ANY(%s)
                    ) AS ranked WHERE place > %s)
                RETURNING tenant_id
            ) SELECT tenant_id, count(*) FROM gone GROUP BY tenant_id
            """,
            [list(tenants), settings.RESPONSE_CACHE_ENTRIES],
        )
        return dict(cursor.fetchall())


def touch(hits: Mapping[str, int], *, now: dt.datetime) -> None:
    """Notes that answers were used so many times, which keeps them longest. Passes over rows that others change."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH free AS (
                SELECT a.key, u.n FROM providers_cachedanswer a
                JOIN unnest(%s::text[], %s::int[]) AS u (key, n) ON u.key = a.key FOR UPDATE OF a SKIP LOCKED)
            UPDATE providers_cachedanswer a SET hits = a.hits + f.n, used_at = greatest(a.used_at, %s)
            FROM free f WHERE a.key = f.key
            """,
            [list(hits), list(hits.values()), now],
        )


def prune(*, now: dt.datetime, limit: int = 5_000) -> int:
    """Removes answers that are over, at most ``limit``; how many. Passes over rows that others change."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH due AS MATERIALIZED (
                SELECT key FROM providers_cachedanswer WHERE expires_at <= %s ORDER BY expires_at LIMIT %s
                FOR UPDATE SKIP LOCKED)
            DELETE FROM providers_cachedanswer WHERE key IN (SELECT key FROM due)
            """,
            [now, limit],
        )
        return int(cursor.rowcount)
