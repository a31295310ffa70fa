"""A month in the FinOps Open Cost and Usage Specification (FOCUS) 1.2, made by the database row by row.

A model call becomes a row per meter: input, cached input read, cached input written, output. Each row's list cost is
exactly its unit price times its quantity. What a row is billed is that, cut off to a whole nano-dollar, and the last
row of an entry carries the rest of its amount, which was rounded up once: the rows of an entry add up to its amount.

An entry that its rates do not explain (the amount was given, or is that of a whole reservation) is one row: a request,
priced at what was charged for it. docs/reference/focus.md is the whole mapping.
"""

from __future__ import annotations

from collections.abc import Iterator

from apps.costs.exports.extract import Extract
from portal.copying import copied

VERSION = "focus-1.2/1"
"""Of this generator. Another version may write the same month in other bytes."""

PROVIDER = "Swarmdesk"

_INPUT, _READ, _WRITTEN, _OUTPUT, _INFRASTRUCTURE, _STORAGE, _GIVEN, _ADJUSTED = range(1, 9)

_IS_USAGE = f"m.meter <> {_ADJUSTED}"
_OF_TOKENS = f"m.meter <= {_OUTPUT}"
_CORRECTS_USAGE = "e.corrected_at < %(starts_at)s AND e.of_kind <> 'adjustment'"
"""What puts a charge of an earlier month right is of the category of that charge."""


def _by_meter(*cases: tuple[tuple[int, ...], str], otherwise: str = "NULL") -> str:
    """An expression that differs by meter."""
    whens = " ".join(f"WHEN m.meter IN ({', '.join(map(str, meters))}) THEN {value}" for meters, value in cases)
    return f"CASE {whens} ELSE {otherwise} END"


def _time(expression: str) -> str:
    return f"""to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""


def _usd(nano: str) -> str:
    return f"trim_scale({nano} * 0.000000001)"


_TOKENS = (_INPUT, _READ, _WRITTEN, _OUTPUT)
_BY_TIME = (_INFRASTRUCTURE, _STORAGE)

_LIST_COST = _by_meter(
    (_TOKENS, "trim_scale(m.tokens * m.rate * 0.000000000000001)"),
    (_BY_TIME, "trim_scale(e.quantity * e.unit_price * 0.000000001)"),
    otherwise=_usd("e.amount"),
)
_UNIT_PRICE = _by_meter((_TOKENS, _usd("m.rate")), (_BY_TIME, _usd("e.unit_price")), ((_GIVEN,), _usd("abs(e.amount)")))
_BILLED = _usd("m.billed")
_UNIT = _by_meter(((_INFRASTRUCTURE,), "'Agent-Hours'"), ((_STORAGE,), "'GB-Months'"), ((_GIVEN,), "'Requests'"))
_METER_NAME = _by_meter(
    ((_INPUT,), "'Input Tokens'"),
    ((_READ,), "'Cached Input Tokens Read'"),
    ((_WRITTEN,), "'Cached Input Tokens Written'"),
    ((_OUTPUT,), "'Output Tokens'"),
    ((_INFRASTRUCTURE,), "'Agent Time'"),
    ((_STORAGE,), "'Stored Data'"),
    ((_GIVEN,), "'Charge As Given'"),
)
_PRODUCT = "CASE e.of_kind WHEN 'llm' THEN coalesce(nullif(e.model, ''), 'model') ELSE e.of_kind END"
_SKU = f"{_PRODUCT} || " + _by_meter(
    ((_INPUT,), "'/input'"),
    ((_READ,), "'/cache-read'"),
    ((_WRITTEN,), "'/cache-write'"),
    ((_OUTPUT,), "'/output'"),
    ((_INFRASTRUCTURE,), "'/agent-hours'"),
    ((_STORAGE,), "'/gb-months'"),
    ((_GIVEN,), "'/as-given'"),
)
_RATE_OF_SKU = _by_meter((_TOKENS, "'@' || m.rate::bigint"), (_BY_TIME, "'@' || e.unit_price"), ((_GIVEN,), "''"))

COLUMNS: dict[str, str] = {
    "BilledCost": _BILLED,
    "BillingAccountId": "%(tenant_id)s::text",
    "BillingAccountName": "%(tenant_name)s::text",
    "BillingCurrency": "'USD'",
    "BillingPeriodEnd": "%(ends)s::text",
    "BillingPeriodStart": "%(starts)s::text",
    "ChargeCategory": f"CASE WHEN {_IS_USAGE} OR {_CORRECTS_USAGE} THEN 'Usage' ELSE 'Adjustment' END",
    "ChargeClass": "CASE WHEN e.corrected_at < %(starts_at)s THEN 'Correction' END",
    "ChargeDescription": _by_meter(
        ((_INPUT,), "'Input tokens of ' || e.model"),
        ((_READ,), "'Input tokens read from the cache of ' || e.model"),
        ((_WRITTEN,), "'Input tokens written to the cache of ' || e.model"),
        ((_OUTPUT,), "'Output tokens of ' || e.model"),
        ((_INFRASTRUCTURE,), "'Agent time'"),
        ((_STORAGE,), "'Stored data'"),
        (
            (_GIVEN,),
            "CASE WHEN e.saved IS NOT NULL THEN 'Answered from the cache' "
            "WHEN e.unsettled THEN 'Charged as reserved: what it cost is not known' "
            "ELSE 'Charged as given' END || coalesce(' (' || nullif(e.model, '') || ')', '')",
        ),
        otherwise="'Adjustment' || coalesce(': ' || nullif(e.note, ''), '')",
    ),
    "ChargeFrequency": f"CASE WHEN {_IS_USAGE} THEN 'Usage-Based' ELSE 'One-Time' END",
    "ChargePeriodEnd": _time("e.charge_end"),
    "ChargePeriodStart": _time("e.charge_start"),
    "CommitmentDiscountStatus": "NULL",
    "ConsumedQuantity": _by_meter(
        (_TOKENS, "m.tokens"),
        (_BY_TIME, "trim_scale(e.quantity)"),
        ((_GIVEN,), "coalesce(nullif(e.input_tokens + e.output_tokens, 0), 1)"),
    ),
    "ConsumedUnit": _by_meter(
        (_TOKENS, "'Tokens'"),
        ((_GIVEN,), "CASE WHEN e.input_tokens + e.output_tokens <> 0 THEN 'Tokens' ELSE 'Requests' END"),
        (_BY_TIME, _UNIT),
    ),
    "ContractedCost": _LIST_COST,
    "ContractedUnitPrice": _UNIT_PRICE,
    "EffectiveCost": _BILLED,
    "InvoiceId": "%(statement_id)s::text",
    "InvoiceIssuerName": f"'{PROVIDER}'",
    "ListCost": _LIST_COST,
    "ListUnitPrice": _UNIT_PRICE,
    "PricingCategory": _by_meter(((*_TOKENS, *_BY_TIME), "'Standard'"), ((_GIVEN,), "'Other'")),
    "PricingCurrency": "'USD'",
    "PricingCurrencyContractedUnitPrice": _UNIT_PRICE,
    "PricingCurrencyEffectiveCost": _BILLED,
    "PricingCurrencyListUnitPrice": _UNIT_PRICE,
    "PricingQuantity": _by_meter(
        (_TOKENS, "trim_scale(m.tokens * 0.000001)"),
        (_BY_TIME, "trim_scale(e.quantity)"),
        ((_GIVEN,), "CASE WHEN e.amount < 0 THEN -1 ELSE 1 END"),
    ),
    "PricingUnit": f"CASE WHEN {_OF_TOKENS} THEN '1000000 Tokens' ELSE {_UNIT} END",
    "ProviderName": f"'{PROVIDER}'",
    "PublisherName": f"CASE WHEN strpos(e.model, ':') > 1 THEN split_part(e.model, ':', 1) ELSE '{PROVIDER}' END",
    "ResourceId": "e.resource || coalesce('/' || nullif(e.agent, ''), '')",
    "ResourceName": "nullif(e.agent, '')",
    "ResourceType": "CASE WHEN e.agent <> '' THEN 'Agent' WHEN e.swarm_id IS NOT NULL THEN 'Swarm' "
    "WHEN e.resource IS NOT NULL THEN 'Run' END",
    "ServiceCategory": "CASE e.of_kind WHEN 'llm' THEN 'AI and Machine Learning' WHEN 'infrastructure' THEN 'Compute' "
    "WHEN 'storage' THEN 'Storage' ELSE 'Other' END",
    "ServiceName": "CASE e.of_kind WHEN 'llm' THEN 'Model Calls' WHEN 'infrastructure' THEN 'Agent Runtime' "
    "WHEN 'storage' THEN 'Swarm Storage' ELSE 'Adjustments' END",
    "ServiceSubcategory": "CASE e.of_kind WHEN 'llm' THEN 'Generative AI' WHEN 'infrastructure' THEN 'Other (Compute)' "
    "WHEN 'storage' THEN 'Other (Storage)' ELSE 'Other (Other)' END",
    "SkuId": f"CASE WHEN {_IS_USAGE} THEN {_SKU} END",
    "SkuMeter": _METER_NAME,
    "SkuPriceDetails": f"CASE WHEN {_OF_TOKENS} THEN '{{\"x_Model\": ' || to_json(e.model) || '}}' END",
    "SkuPriceId": f"CASE WHEN {_IS_USAGE} THEN {_SKU} || {_RATE_OF_SKU} END",
    "SubAccountId": "nullif(e.centre, '')",
    "SubAccountName": "%(centre_names)s::jsonb ->> e.centre",
    "x_AgentName": "nullif(e.agent, '')",
    "x_AttemptId": "e.attempt_id",
    "x_CorrectedLedgerEntryId": "e.corrects",
    "x_CostCentre": "%(centre_names)s::jsonb ->> e.centre",
    "x_EndUser": "e.subject_id",
    "x_ExternalEventId": "nullif(e.external_id, '')",
    "x_LedgerEntryId": "e.id",
    "x_ModelName": "nullif(e.model, '')",
    "x_Note": "nullif(e.note, '')",
    "x_Run": "nullif(e.run, '')",
    "x_StatementStatus": "%(status)s::text",
    "x_SwarmId": "e.swarm_id",
    "x_TaskId": "e.task_id",
    "x_Unsettled": "CASE WHEN e.unsettled THEN 'true' ELSE 'false' END",
}
"""By column, in the order of the file: its value of an entry ``e`` and a meter ``m``. Null is an empty field."""

_ROWS = f"""
    SELECT {{columns}}
    FROM (
        SELECT l.*, of.at AS corrected_at, plain.tokens AS plain_tokens, {{centre}} AS centre,
            coalesce(l.swarm_id::text, l.tenant_id || coalesce('/' || nullif(l.run, ''),
                CASE WHEN l.agent <> '' THEN '' END)) AS resource,
            CASE WHEN l.kind <> 'adjustment' THEN l.kind
                WHEN of.kind <> 'adjustment' THEN of.kind
                WHEN l.reservation_id IS NOT NULL OR l.model <> '' THEN 'llm' ELSE 'adjustment' END AS of_kind,
            date_trunc('second', coalesce(of.at, l.at)) AS charge_start,
            CASE WHEN l.kind IN ('infrastructure', 'storage')
                THEN least(date_trunc('hour', l.at, 'UTC') + interval '1 hour', %(ends_at)s)
                ELSE date_trunc('second', coalesce(of.at, l.at)) + interval '1 second' END AS charge_end,
            CASE
                WHEN l.kind = 'adjustment' THEN {_ADJUSTED}
                WHEN l.kind = 'llm' AND NOT l.unsettled AND l.input_tokens + l.output_tokens > 0
                    AND plain.tokens >= 0 AND least(l.cache_read_tokens, l.cache_write_tokens, l.output_tokens) >= 0
                    AND l.amount = ceil((plain.tokens::numeric * l.input_per_mtok
                        + l.cache_read_tokens::numeric * l.cache_read_per_mtok
                        + l.cache_write_tokens::numeric * l.cache_write_per_mtok
                        + l.output_tokens::numeric * l.output_per_mtok) * 0.000001) THEN {_OUTPUT}
                WHEN l.kind IN ('infrastructure', 'storage') AND l.unit_price >= 0
                    AND abs(l.amount - l.quantity * l.unit_price) <= 1 + l.unit_price * 0.000000001
                    THEN CASE l.kind WHEN 'storage' THEN {_STORAGE} ELSE {_INFRASTRUCTURE} END
                ELSE {_GIVEN}
            END AS meter
        FROM costs_ledgerentry l
        CROSS JOIN LATERAL (SELECT l.input_tokens - l.cache_read_tokens - l.cache_write_tokens AS tokens) plain
        LEFT JOIN costs_ledgerentry of ON of.id = l.corrects AND of.tenant_id = l.tenant_id
        WHERE l.tenant_id = %(tenant_id)s AND l.at >= %(starts_at)s AND l.at < %(ends_at)s
    ) e
    CROSS JOIN LATERAL (
        SELECT t.meter, t.tokens, t.rate,
            t.cost + CASE WHEN t.meter = max(t.meter) OVER () THEN e.amount - sum(t.cost) OVER () ELSE 0 END AS billed
        FROM (
            SELECT v.meter, v.tokens, v.rate::numeric, floor(v.tokens * v.rate::numeric * 0.000001) AS cost
            FROM (VALUES
                ({_INPUT}, e.plain_tokens, e.input_per_mtok),
                ({_READ}, e.cache_read_tokens, e.cache_read_per_mtok),
                ({_WRITTEN}, e.cache_write_tokens, e.cache_write_per_mtok),
                ({_OUTPUT}, e.output_tokens, e.output_per_mtok)
            ) v (meter, tokens, rate)
            WHERE e.meter = {_OUTPUT} AND v.tokens > 0
        ) t
        UNION ALL
        SELECT e.meter, NULL, NULL, e.amount WHERE e.meter > {_OUTPUT}
    ) m
    ORDER BY e.at, e.id, m.meter
"""


def write(extract: Extract) -> Iterator[bytes]:
    """The file, in blocks: a header, then the rows in the order of the ledger."""
    columns = ", ".join(f'{value} AS "{name}"' for name, value in COLUMNS.items())
    return copied(_ROWS.format(columns=columns, **extract.centre_sql()), extract.params())
