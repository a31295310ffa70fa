"""Advice that rests on attempts: agents that stand idle, and calls that were made before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from django.db import connection

from apps.costs.advising import Finding, Thresholds, register_finder
from apps.costs.models import AdviceKind
from apps.swarms.saving import SCALE_DOWN

PROMPT_KEPT = 20_000
"""Characters of a prompt that an attempt keeps: longer ones cannot be compared."""


def find_idle_agents(now: dt.datetime, thresholds: Thresholds) -> Iterator[Finding]:
    """Replicas that never worked at the same time as the others of their agent: holding them was for nothing.

    Looks at finished swarms. With as many replicas as worked at once, at most, nothing takes longer; what the others
    cost is their share of what the swarms were charged for the agents that they held.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH charged AS (
                SELECT swarm_id, sum(amount)::bigint AS amount, count(*) AS entries, min(at) AS first, max(at) AS last,
                    min(id) AS sample
                FROM costs_ledgerentry
                WHERE kind = 'infrastructure' AND at >= %(start)s AND at < %(end)s AND swarm_id IS NOT NULL
                GROUP BY swarm_id
            ), agents AS (
                SELECT a.id, a.name, a.replicas, s.tenant_id, s.agents_asked,
                    c.amount, c.entries, c.first, c.last, c.sample
                FROM charged c JOIN swarms_swarm s ON s.id = c.swarm_id JOIN swarms_agent a ON a.swarm_id = s.id
                WHERE s.status IN ('succeeded', 'failed', 'terminated')
            ), spans AS (
                SELECT t.agent_id, x.started_at, x.finished_at
                FROM agents JOIN swarms_task t ON t.agent_id = agents.id JOIN execution_attempt x ON x.task_id = t.id
            ), moves AS (
                SELECT agent_id, started_at AS at, 1 AS n FROM spans
                UNION ALL SELECT agent_id, finished_at, -1 FROM spans
            ), busy AS (
                SELECT agent_id, max(used) AS peak FROM (
                    SELECT agent_id, sum(n) OVER (PARTITION BY agent_id ORDER BY at, n) AS used FROM moves
                ) AS sums GROUP BY agent_id
            ), peaks AS (
                SELECT tenant_id, name, greatest(max(peak), 1)::int AS peak, max(replicas) AS replicas,
                    count(*) AS swarms
                FROM agents JOIN busy ON busy.agent_id = agents.id GROUP BY tenant_id, name
            )
            SELECT p.tenant_id, p.name, p.peak, p.replicas, p.swarms,
                sum(trunc(a.amount::numeric * greatest(a.replicas - p.peak, 0) / a.agents_asked))::bigint,
                sum(a.entries)::bigint, min(a.first), max(a.last), (array_agg(a.sample ORDER BY a.sample DESC))[1:5]
            FROM peaks p JOIN agents a ON a.tenant_id = p.tenant_id AND a.name = p.name
            JOIN busy ON busy.agent_id = a.id
            WHERE p.replicas > p.peak AND p.swarms >= %(swarms)s AND a.agents_asked > 0
            GROUP BY p.tenant_id, p.name, p.peak, p.replicas, p.swarms ORDER BY p.tenant_id, p.name
            """,
            {"start": now - thresholds.window, "end": now, "swarms": thresholds.least_swarms},
        )
        rows = cursor.fetchall()
    for tenant_id, agent, peak, replicas, swarms, saving, entries, first, last, sample in rows:
        yield Finding(
            tenant_id=tenant_id,
            kind=AdviceKind.IDLE_AGENTS,
            key=agent,
            text=(
                f"{agent} holds up to {replicas:,} replicas, and in {swarms:,} swarms no more than {peak:,} of them "
                "ever worked at the same time. Holding the others was for nothing."
            ),
            saving=saving,
            first=first,
            last=last,
            entries=entries,
            query={"kind": "infrastructure"},
            facts={"agent": agent, "replicas": replicas, "new_replicas": peak},
            sample_ids=sorted(sample),
        )


def find_repeated_calls(now: dt.datetime, thresholds: Thresholds) -> Iterator[Finding]:
    """Tasks that were solved before: the same agent, model and prompt, answered and paid for again."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH solved AS (
                SELECT s.tenant_id, a.name, a.model, x.id, x.cost, x.finished_at,
                    md5(a.instructions || chr(1) || (x.context ->> 'prompt')) AS prompt
                FROM execution_attempt x JOIN swarms_task t ON t.id = x.task_id
                JOIN swarms_agent a ON a.id = t.agent_id JOIN swarms_swarm s ON s.id = t.swarm_id
                WHERE x.finished_at >= %(start)s AND x.finished_at < %(end)s AND x.outcome = 'succeeded' AND x.cost > 0
                    AND length(x.context ->> 'prompt') < %(kept)s
            ), repeated AS (
                SELECT *, row_number() OVER (PARTITION BY tenant_id, name, model, prompt ORDER BY finished_at, id) AS n,
                    count(*) OVER (PARTITION BY tenant_id, name, model, prompt) AS times
                FROM solved
            )
            SELECT tenant_id, name, model, count(*) FILTER (WHERE n > 1), sum(cost) FILTER (WHERE n > 1)::bigint,
                count(*) FILTER (WHERE n = 1), max(times), min(finished_at), max(finished_at), (array_agg(id))[1:5]
            FROM repeated WHERE times > 1
            GROUP BY tenant_id, name, model HAVING count(*) FILTER (WHERE n > 1) >= %(repeats)s
            ORDER BY tenant_id, name, model
            """,
            {
                "start": now - thresholds.window,
                "end": now,
                "kept": PROMPT_KEPT,
                "repeats": thresholds.least_repeats,
            },
        )
        rows = cursor.fetchall()
    samples = _entries_of([attempt for row in rows for attempt in row[9]], now - thresholds.window)
    for tenant_id, agent, model, repeats, saving, prompts, most, first, last, attempts in rows:
        yield Finding(
            tenant_id=tenant_id,
            kind=AdviceKind.REPEATED_CALLS,
            key=f"{agent} {model}",
            text=(
                f"{agent} was given {prompts:,} prompts more than once, one of them {most:,} times: {repeats:,} tasks "
                f"were solved by {model} again. In the spec, let {agent} answer from the cache "
                "(cache: {answers: true}), drop repeated items of for_each, or do the work in one step and let others "
                "need it."
            ),
            saving=saving,
            first=first,
            last=last,
            entries=repeats + prompts,
            query={"kind": "llm", "agent": agent, "model": model},
            facts={"agent": agent, "model": model, "repeats": repeats},
            sample_ids=sorted(entry for attempt in attempts for entry in samples.get(attempt, ()))[:5],
        )


def _entries_of(attempts: list[object], since: dt.datetime) -> dict[object, list[int]]:
    """The ledger entries of attempts."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT e.attempt_id, array_agg(e.id) FROM execution_attempt x JOIN swarms_task t ON t.id = x.task_id
            JOIN costs_ledgerentry e ON e.swarm_id = t.swarm_id AND e.attempt_id = x.id AND e.at >= %s
            WHERE x.id = ANY(%s) GROUP BY e.attempt_id
            """,
            [since - dt.timedelta(days=1), attempts],
        )
        return dict(cursor.fetchall())


def register() -> None:
    """Called once, when the apps are ready."""
    register_finder(AdviceKind.IDLE_AGENTS, find_idle_agents, SCALE_DOWN)
    register_finder(AdviceKind.REPEATED_CALLS, find_repeated_calls)
