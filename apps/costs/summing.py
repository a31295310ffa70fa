"""How ledger entries add up to roll-ups, as SQL: one description, used to keep them and to check them."""

from __future__ import annotations

from dataclasses import dataclass

COUNTS_AS = "CASE WHEN {0}.kind = 'adjustment' AND {0}.reservation_id IS NOT NULL THEN 'llm' ELSE {0}.kind END"
"""The net kind of a ledger entry: a correction of a call counts as the call does."""

_MEASURES = "amount, entries, input_tokens, output_tokens"
_SUMS = ", ".join(f"sum({name})::bigint AS {name}" for name in _MEASURES.split(", "))
_BESIDE = [(one, name) for one in ("swarm", "user") for name in _MEASURES.split(", ")]
_NO_BESIDE = ", ".join(f"f.{name} - coalesce(of_{one}.{name}, 0) AS no_{one}_{name}" for one, name in _BESIDE)
_GRAINS = "CROSS JOIN (VALUES ('day'), ('month')) AS g (grain)"


@dataclass(frozen=True, slots=True)
class RollupTable:
    """A table of roll-ups: its key, what it sums, and the query that makes its rows of ``STAGES``.

    ``once`` is a column that a row keeps as it was made.
    """

    name: str
    key: str
    measures: str
    rows: str
    once: str = ""

    @property
    def upsert(self) -> str:
        """Adds the sums of new entries to what is there."""
        columns = ", ".join(filter(None, (self.key, self.measures, self.once)))
        added = ", ".join(f"{name} = {self.name}.{name} + EXCLUDED.{name}" for name in self.measures.split(", "))
        return (
            f"INSERT INTO {self.name} ({columns}) SELECT {columns} FROM ({self.rows}) AS sums ORDER BY {self.key} "
            f"ON CONFLICT ({self.key}) DO UPDATE SET {added}"
        )

    @property
    def differences(self) -> str:
        """Rows (table, key, what is recorded, what the entries say) where the two differ; amounts as JSON."""
        recorded = f"SELECT {self.key}, jsonb_build_array({self.measures}) AS sums FROM {self.name}"
        expected = f"SELECT {self.key}, jsonb_build_array({self.measures}) AS sums FROM ({self.rows}) AS made"
        return (
            f"SELECT '{self.name}', concat_ws(' ', {self.key}), recorded.sums, expected.sums "
            f"FROM ({recorded}) AS recorded FULL JOIN ({expected}) AS expected USING ({self.key}) "
            "WHERE recorded.sums IS DISTINCT FROM expected.sums"
        )


STAGES = f"""
entry AS MATERIALIZED (
    SELECT l.tenant_id, (l.at AT TIME ZONE r.time_zone)::date AS day, date_trunc('hour', l.at, 'UTC') AS hour,
        l.kind, {COUNTS_AS.format("l")} AS counts_as, l.model, l.agent, l.swarm_id, l.subject_id,
        l.amount, l.input_tokens, l.output_tokens
    FROM costs_ledgerentry l JOIN costs_rolledtenant r ON r.tenant_id = l.tenant_id
    WHERE {{which}}
), fine AS MATERIALIZED (
    SELECT tenant_id, day, hour, kind, counts_as, model, agent, sum(amount) AS amount, count(*) AS entries,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
    FROM entry GROUP BY tenant_id, day, hour, kind, counts_as, model, agent
), swarm_day AS MATERIALIZED (
    SELECT tenant_id, day AS start, swarm_id, sum(amount)::bigint AS amount, count(*) AS entries,
        sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens
    FROM entry WHERE swarm_id IS NOT NULL GROUP BY tenant_id, day, swarm_id
), subject_day AS MATERIALIZED (
    SELECT tenant_id, day, subject_id, sum(amount) AS amount, count(*) AS entries,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
    FROM entry WHERE subject_id IS NOT NULL GROUP BY tenant_id, day, subject_id
), active AS (
    SELECT s.tenant_id, s.start AS day, count(*)::int AS active_swarms
    FROM swarm_day s {{not_counted_yet}} GROUP BY s.tenant_id, s.start
)
"""
"""From the entries that ``which`` describes (``l`` is the ledger) to sums that every table is made of."""
NOT_COUNTED_YET = """
    LEFT JOIN costs_swarmtotal t ON t.tenant_id = s.tenant_id AND t.start = s.start AND t.swarm_id = s.swarm_id
    WHERE t.swarm_id IS NULL
"""
"""Of the swarms of a day, those that no earlier entry made active."""

TABLES = (
    RollupTable(
        "costs_daytotal",
        "tenant_id, day",
        "llm, infrastructure, storage, adjustment, active_swarms, entries, input_tokens, output_tokens, "
        + ", ".join(f"no_{one}_{name}" for one, name in _BESIDE),
        f"""
        SELECT f.*, coalesce(n.active_swarms, 0) AS active_swarms, {_NO_BESIDE} FROM (
            SELECT tenant_id, day, sum(amount)::bigint AS amount,
                coalesce(sum(amount) FILTER (WHERE counts_as = 'llm'), 0)::bigint AS llm,
                coalesce(sum(amount) FILTER (WHERE counts_as = 'infrastructure'), 0)::bigint AS infrastructure,
                coalesce(sum(amount) FILTER (WHERE counts_as = 'storage'), 0)::bigint AS storage,
                coalesce(sum(amount) FILTER (WHERE counts_as = 'adjustment'), 0)::bigint AS adjustment,
                sum(entries)::bigint AS entries, sum(input_tokens)::bigint AS input_tokens,
                sum(output_tokens)::bigint AS output_tokens
            FROM fine GROUP BY tenant_id, day
        ) AS f LEFT JOIN active n USING (tenant_id, day)
        LEFT JOIN (SELECT tenant_id, start AS day, {_SUMS} FROM swarm_day GROUP BY tenant_id, start) AS of_swarm
            USING (tenant_id, day)
        LEFT JOIN (SELECT tenant_id, day, {_SUMS} FROM subject_day GROUP BY tenant_id, day) AS of_user
            USING (tenant_id, day)
        """,
    ),
    RollupTable(
        "costs_hourtotal",
        "tenant_id, hour, kind",
        "amount, entries",
        """
        SELECT tenant_id, hour, counts_as AS kind, sum(amount)::bigint AS amount, sum(entries)::bigint AS entries
        FROM fine GROUP BY tenant_id, hour, counts_as
        """,
    ),
    RollupTable(
        "costs_usagetotal",
        "tenant_id, grain, start, kind, counts_as, model, agent",
        _MEASURES,
        f"""
        SELECT tenant_id, g.grain, date_trunc(g.grain, day)::date AS start, kind, counts_as, model, agent, {_SUMS}
        FROM fine {_GRAINS}
        GROUP BY tenant_id, g.grain, date_trunc(g.grain, day)::date, kind, counts_as, model, agent
        """,
    ),
    RollupTable(
        "costs_swarmtotal",
        "tenant_id, start, swarm_id",
        _MEASURES,
        """
        SELECT s.*, row_number() OVER (PARTITION BY swarm_id ORDER BY start, tenant_id) > 1 OR EXISTS (
            SELECT FROM costs_swarmtotal t
            WHERE t.swarm_id = s.swarm_id AND (t.tenant_id, t.start) <> (s.tenant_id, s.start)
        ) AS further FROM swarm_day s
        """,
        once="further",
    ),
    RollupTable(
        "costs_subjecttotal",
        "tenant_id, grain, start, subject_id",
        _MEASURES,
        f"""
        SELECT tenant_id, g.grain, date_trunc(g.grain, day)::date AS start, subject_id, {_SUMS}
        FROM subject_day {_GRAINS} GROUP BY tenant_id, g.grain, date_trunc(g.grain, day)::date, subject_id
        """,
    ),
)
_TWICE_FIRST = """
    SELECT 'costs_swarmtotal', swarm_id::text, jsonb_build_array(count(*)), jsonb_build_array(1)
    FROM costs_swarmtotal WHERE NOT further GROUP BY swarm_id HAVING count(*) > 1
"""
"""Swarms with more than one row that is not a further one, in the shape of differences."""
TENANTS = """
    INSERT INTO costs_rolledtenant (tenant_id, time_zone)
    SELECT l.tenant_id, coalesce(t.time_zone, 'UTC')
    FROM (SELECT DISTINCT l.tenant_id FROM costs_ledgerentry l WHERE {which}) AS l
    LEFT JOIN tenants_tenant t ON t.id = l.tenant_id ON CONFLICT DO NOTHING
"""
"""A tenant's first entries settle in which time zone its days are counted."""


def adding(which: str) -> str:
    """The statement that adds the entries that ``which`` describes to every table; it answers how many there were."""
    stages = STAGES.format(which=which, not_counted_yet=NOT_COUNTED_YET)
    inserts = ", ".join(f"into_{table.name} AS ({table.upsert})" for table in TABLES)
    return f"WITH {stages}, {inserts} SELECT coalesce(sum(entries), 0)::bigint FROM fine"


def comparing(which: str) -> str:
    """The query for all rows of roll-ups that are not the sums of the entries that ``which`` describes."""
    stages = STAGES.format(which=which, not_counted_yet="")
    return f"WITH {stages} {' UNION ALL '.join((*(table.differences for table in TABLES), _TWICE_FIRST))}"
