"""A strict validator of FOCUS 1.2 files (CSV), written from the specification and named by its rule ids.

``violations(text)`` lists what is wrong, each as "row 3, ListCost-C-009-C: ...", row 0 being the header. It holds more
than the specification demands where a chargeback must: no blank text anywhere, no time outside the billing period.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

Row = Mapping[str, str | None]


def _names(text: str) -> list[str]:
    return text.split()


MANDATORY = {
    "BilledCost": "CostAndUsage-D-006-M",
    "BillingAccountId": "CostAndUsage-D-024-M",
    "BillingAccountName": "CostAndUsage-D-005-M",
    "BillingCurrency": "CostAndUsage-D-035-M",
    "BillingPeriodEnd": "CostAndUsage-D-010-M",
    "BillingPeriodStart": "CostAndUsage-D-009-M",
    "ChargeCategory": "CostAndUsage-D-008-M",
    "ChargeClass": "CostAndUsage-D-026-M",
    "ChargeDescription": "CostAndUsage-D-025-M",
    "ChargePeriodEnd": "CostAndUsage-D-028-M",
    "ChargePeriodStart": "CostAndUsage-D-037-M",
    "ContractedCost": "CostAndUsage-D-030-M",
    "EffectiveCost": "CostAndUsage-D-031-M",
    "InvoiceIssuerName": "CostAndUsage-D-023-M",
    "ListCost": "CostAndUsage-D-032-M",
    "PricingQuantity": "CostAndUsage-D-036-M",
    "PricingUnit": "CostAndUsage-D-068-M",
    "ProviderName": "CostAndUsage-D-038-M",
    "PublisherName": "CostAndUsage-D-021-M",
    "ServiceCategory": "CostAndUsage-D-040-M",
    "ServiceName": "CostAndUsage-D-041-M",
}
RECOMMENDED = {
    "ChargeFrequency": "CostAndUsage-D-027-O",
    "InvoiceId": "CostAndUsage-D-033-O",
    "ServiceSubcategory": "CostAndUsage-D-042-O",
}
CONDITIONAL = {
    "ConsumedQuantity": "CostAndUsage-D-011-C",  # usage is measured
    "ConsumedUnit": "CostAndUsage-D-066-C",
    "ContractedUnitPrice": "CostAndUsage-D-034-C",  # a tenant can have prices of its own
    "ListUnitPrice": "CostAndUsage-D-004-C",  # there is a price list
    "PricingCategory": "CostAndUsage-D-022-C",  # more than one pricing category
    "ResourceId": "CostAndUsage-D-043-C",  # agents are provisioned
    "ResourceName": "CostAndUsage-D-044-C",
    "ResourceType": "CostAndUsage-D-039-C",
    "SkuId": "CostAndUsage-D-060-C",  # unit prices, published
    "SkuMeter": "CostAndUsage-D-059-C",
    "SkuPriceDetails": "CostAndUsage-D-061-C",
    "SkuPriceId": "CostAndUsage-D-058-C",
    "SubAccountId": "CostAndUsage-D-019-C",  # cost centres
    "SubAccountName": "CostAndUsage-D-029-C",
}
"""Columns that this product must have, because it does what the specification ties them to."""
OTHER = _names(
    """
    AvailabilityZone BillingAccountType CapacityReservationId CapacityReservationStatus CommitmentDiscountCategory
    CommitmentDiscountId CommitmentDiscountName CommitmentDiscountQuantity CommitmentDiscountStatus
    CommitmentDiscountType CommitmentDiscountUnit PricingCurrency PricingCurrencyContractedUnitPrice
    PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice RegionId RegionName SubAccountType Tags
    """
)
FOCUS_COLUMNS = {*MANDATORY, *RECOMMENDED, *CONDITIONAL, *OTHER}

DECIMALS = _names(
    """
    BilledCost ConsumedQuantity ContractedCost ContractedUnitPrice EffectiveCost ListCost ListUnitPrice
    PricingCurrencyContractedUnitPrice PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice PricingQuantity
    CommitmentDiscountQuantity
    """
)
TIMES = ["BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"]
JSON_OBJECTS = ["SkuPriceDetails", "Tags"]
NEVER_NULL = _names(
    """
    BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart
    ChargeCategory ChargeDescription ChargeFrequency ChargePeriodEnd ChargePeriodStart ContractedCost
    EffectiveCost InvoiceIssuerName ListCost PricingCurrency PricingCurrencyEffectiveCost ProviderName
    PublisherName ServiceCategory ServiceName ServiceSubcategory
    """
)
OF_USAGE = _names(
    """
    ListUnitPrice PricingQuantity SkuPriceId SkuId PricingCategory ContractedUnitPrice
    PricingCurrencyContractedUnitPrice PricingCurrencyListUnitPrice
    """
)
"""Not null for usage and purchases, unless they are corrections; null for taxes."""
TOGETHER = {
    "PricingUnit": "PricingQuantity",
    "ConsumedUnit": "ConsumedQuantity",
    "ResourceType": "ResourceId",
    "SubAccountName": "SubAccountId",
    "CommitmentDiscountUnit": "CommitmentDiscountQuantity",
    "RegionName": "RegionId",
}
"""Null exactly where the other one is."""
ONLY_WITH = {
    "SkuMeter": "SkuId",
    "SkuPriceDetails": "SkuPriceId",
    "ResourceName": "ResourceId",
    "CommitmentDiscountStatus": "CommitmentDiscountId",
}
"""Null where the other one is."""
PRODUCTS = {
    "ListCost": ("ListUnitPrice", "ListCost-C-009-C"),
    "ContractedCost": ("ContractedUnitPrice", "ContractedCost-C-009-C"),
}

SUBCATEGORIES = {
    "AI and Machine Learning": {
        "AI Platforms",
        "Bots",
        "Generative AI",
        "Machine Learning",
        "Natural Language Processing",
        "Other (AI and Machine Learning)",
    },
    "Compute": {
        "Containers",
        "End User Computing",
        "Quantum Compute",
        "Serverless Compute",
        "Virtual Machines",
        "Other (Compute)",
    },
    "Storage": {
        "Backup Storage",
        "Block Storage",
        "File Storage",
        "Object Storage",
        "Storage Platforms",
        "Other (Storage)",
    },
    "Other": {"Other (Other)"},
}
"""Of the categories that this product sells something in; another category is a violation here."""
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Committed", "Dynamic", "Other"},
    "CommitmentDiscountStatus": {"Used", "Unused"},
    "ServiceCategory": set(SUBCATEGORIES),
    "BillingCurrency": {"USD"},
    "PricingCurrency": {"USD"},
}

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(E-?\d+)?")
_TIME = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ")
_PASCAL = re.compile(r"[A-Z][A-Za-z0-9]{0,47}")
_UNIT = re.compile(r"([1-9]\d* )?((GB|Agent)-(Hours|Months)|Tokens|Requests|[A-Z][a-z]+s)")


def violations(text: str) -> list[str]:
    """Everything that is wrong with a file, in its order; empty when it conforms."""
    if text.startswith("\ufeff"):
        return ["row 0, StringHandling-A-001-M: a byte order mark is no part of the first column's name"]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *lines = reader
    except (csv.Error, ValueError) as error:
        return [f"row 0, file: {error}"]
    found = [f"row 0, {problem}" for problem in _of_header(header)]
    blank = _quoted_blanks(text)
    if blank:
        found.append(f"row {blank}, NullHandling-A-002-M: an empty text stands for null")
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            found.append(f"row {number}, file: {len(line)} fields under {len(header)} columns")
            continue
        row = {name: value or None for name, value in zip(header, line, strict=True)}
        rows.append(row)
        found += [f"row {number}, {problem}" for problem in _of_row(row)]
    return found + [f"row 0, {problem}" for problem in _of_dataset(rows)]


_FIELD = re.compile(r'("(?:[^"]|"")*"|[^,\r\n"]*)(,|\r?\n|$)')


def _quoted_blanks(text: str) -> int:
    """The line of the first empty text that is quoted (null is nothing at all); 0 for none."""
    line = 0
    for field, end in _FIELD.findall(text):
        if field == '""':
            return line
        line += end.endswith("\n")
    return 0


def _of_header(header: list[str]) -> Iterator[str]:
    if len(set(header)) != len(header):
        yield "ColumnHandling-A-000-M: a column is there twice"
    custom = [name.startswith("x_") for name in header]
    if custom != sorted(custom):
        yield "ColumnHandling-A-013-O: a custom column stands among those of FOCUS"
    for name in header:
        if name.startswith("x_"):
            if not _PASCAL.fullmatch(name[2:]):
                yield f"ColumnHandling-A-011-O: {name} is not x_ and Pascal case"
        elif name not in FOCUS_COLUMNS:
            yield f"ColumnHandling-A-010-M: {name} is no column of FOCUS 1.2 and has no x_ prefix"
    for name, rule in {**MANDATORY, **RECOMMENDED, **CONDITIONAL}.items():
        if name not in header:
            yield f"{rule}: {name} must be present"


def _of_row(row: Row) -> Iterator[str]:
    faults = list(_types(row))
    yield from faults
    yield from _nulls(row)
    if not faults:
        yield from _values(row)


def _types(row: Row) -> Iterator[str]:
    for name, value in row.items():
        if value is None:
            continue
        if not value.strip() or value.strip().lower() in ("null", "none", "n/a", "not applicable"):
            yield f"NullHandling-A-002-M: {name} is {value!r}, a placeholder for null"
        elif name in DECIMALS and not _NUMBER.fullmatch(value):
            yield f"NumericFormat-A-003-M: {name} is {value!r}"
        elif name in TIMES and not _is_time(value):
            yield f"DateTimeFormat-A-003-M: {name} is {value!r}, not YYYY-MM-DDTHH:mm:ssZ"
        elif name in JSON_OBJECTS and (fault := _object_fault(value)):
            yield f"KeyValueFormat-A-001-M: {name} {fault}"
        elif name in ALLOWED and value not in ALLOWED[name]:
            yield f"{name}: {value!r} is not one of the allowed values"
        elif name in ("PricingUnit", "ConsumedUnit") and not _UNIT.fullmatch(value):
            yield f"UnitFormat-A-001-M: {name} is {value!r}"


def _is_time(value: str) -> bool:
    try:
        dt.datetime.fromisoformat(value)
    except ValueError:
        return False
    return bool(_TIME.fullmatch(value))


def _object_fault(value: str) -> str:
    """What keeps a text from being a JSON object of plain values with unique keys; empty for nothing."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("has a key twice")
        return dict(pairs)

    try:
        parsed = json.loads(value, object_pairs_hook=unique)
    except ValueError as error:
        return str(error)
    if not isinstance(parsed, dict):
        return "is not an object"
    if any(isinstance(inner, (dict, list)) for inner in parsed.values()):
        return "holds an object or a list"
    if not all(re.fullmatch(r"x_[A-Z][A-Za-z0-9]*", key) for key in parsed):
        return "has a key that is neither defined by FOCUS nor prefixed with x_"
    return ""


def _nulls(row: Row) -> Iterator[str]:
    charged = row.get("ChargeCategory") in ("Usage", "Purchase")
    corrects = row.get("ChargeClass") == "Correction"
    for name in NEVER_NULL:
        if name in row and row[name] is None:
            yield f"{name}: must not be null"
    for name in OF_USAGE:
        if name in row and charged and not corrects and row[name] is None:
            yield f"{name}: must not be null when ChargeCategory is {row['ChargeCategory']}"
        if row.get("ChargeCategory") == "Tax" and row.get(name) is not None:
            yield f"{name}: must be null for a tax"
    for name, other in TOGETHER.items():
        if (row.get(name) is None) != (row.get(other) is None):
            yield f"{name}: must be null exactly when {other} is"
    for name, other in ONLY_WITH.items():
        if row.get(other) is None and row.get(name) is not None:
            yield f"{name}: must be null when {other} is"
    if row.get("ChargeCategory") != "Usage" and row.get("ConsumedQuantity") is not None:
        yield "ConsumedQuantity-C-004-C: must be null when ChargeCategory is not Usage"
    if row.get("ChargeCategory") == "Usage" and not corrects and row.get("ConsumedQuantity") is None:
        yield "ConsumedQuantity-C-006-C: must not be null for usage"


def _values(row: Row) -> Iterator[str]:
    for rule in _RULES:
        if problem := rule(row):
            yield problem


def _number(row: Row, name: str) -> Decimal | None:
    value = row.get(name)
    return None if value is None else Decimal(value)


def _products(row: Row) -> str:
    quantity = _number(row, "PricingQuantity")
    for cost, (price, rule) in PRODUCTS.items():
        unit_price, total = _number(row, price), _number(row, cost)
        if unit_price is not None and quantity is not None and row.get("ChargeClass") != "Correction":
            if unit_price * quantity != total:
                return f"{rule}: {price} {unit_price} x PricingQuantity {quantity} is not {cost} {total}"
        elif unit_price is None and row.get(cost) is not None and total != _number(row, "BilledCost"):
            return f"{cost}-C-008-C: without a {price} it must match BilledCost"
    return ""


def _prices(row: Row) -> str:
    for name in ("ListUnitPrice", "ContractedUnitPrice", "PricingCurrencyListUnitPrice"):
        if (price := _number(row, name)) is not None and price < 0:
            return f"{name}-C-008-M: must not be negative"
    return ""


def _effective(row: Row) -> str:
    alone = row.get("ChargeCategory") not in ("Usage", "Purchase", "Tax")
    if alone and _number(row, "EffectiveCost") != _number(row, "BilledCost"):
        return "EffectiveCost-C-010-C: must match BilledCost when the charge is unrelated to others"
    return ""


def _frequency(row: Row) -> str:
    if row.get("ChargeCategory") == "Purchase" and row.get("ChargeFrequency") == "Usage-Based":
        return "ChargeFrequency-C-004-C: a purchase is not Usage-Based"
    return ""


def _subcategory(row: Row) -> str:
    category, sub = row.get("ServiceCategory") or "", row.get("ServiceSubcategory")
    if sub is not None and sub not in SUBCATEGORIES.get(category, ()):
        return f"ServiceSubcategory-C-004-M: {sub!r} is not in {category!r}"
    return ""


def _periods(row: Row) -> str:
    bill_start, bill_end = row.get("BillingPeriodStart") or "", row.get("BillingPeriodEnd") or ""
    start, end = row.get("ChargePeriodStart") or "", row.get("ChargePeriodEnd") or ""
    if not bill_start < bill_end:
        return "BillingPeriodEnd-C-004-M: is an exclusive end, after the start"
    if not start < end:
        return "ChargePeriodEnd-C-004-M: is an exclusive end, after the start"
    if row.get("ChargeClass") == "Correction":
        if start >= bill_start:
            return "ChargeClass-C-003-C: must be null when the current billing period is corrected"
    elif not bill_start <= start < end <= bill_end:
        return "ChargePeriodStart-C-004-M: lies outside the billing period"
    return ""


def _resource(row: Row) -> str:
    if row.get("ResourceName") is not None and row.get("ResourceName") == row.get("ResourceId"):
        return "ResourceName-C-006-C: must not duplicate ResourceId"
    return ""


_RULES: list[Callable[[Row], str]] = [
    _products,
    _prices,
    _effective,
    _frequency,
    _subcategory,
    _periods,
    _resource,
]

_ONE_EACH = [
    ("SkuPriceId", "SkuId", "SkuPriceId-C-008-M"),
    ("SkuId", "SkuMeter", "SkuMeter-C-006-O"),
    ("ServiceName", "ServiceCategory", "ServiceName-C-005-C"),
    ("ServiceName", "ServiceSubcategory", "ServiceName-C-008-C"),
    ("InvoiceId", "BillingAccountId", "InvoiceId-C-007-C"),
    ("BillingAccountId", "BillingAccountName", "BillingAccountName-C-003-C"),
    ("SubAccountId", "SubAccountName", "SubAccountName-C-005-C"),
    ("SkuPriceId", "PricingUnit", "PricingUnit-C-008-M"),
]
"""For each value of the first there is only one of the second."""


def _of_dataset(rows: list[Row]) -> Iterator[str]:
    for key, value, rule in _ONE_EACH:
        seen: dict[str, str | None] = {}
        for row in rows:
            if (of := row.get(key)) is not None and seen.setdefault(of, row.get(value)) != row.get(value):
                yield f"{rule}: {key} {of!r} has more than one {value}"
                break
    standard = [row for row in rows if row.get("PricingCategory") == "Standard"]
    prices: dict[str, str | None] = {}
    for row in standard:
        if (sku := row.get("SkuPriceId")) and prices.setdefault(sku, row.get("ListUnitPrice")) != row["ListUnitPrice"]:
            yield f"SkuPriceId-C-014-C: {sku!r} has more than one ListUnitPrice"
            break


def billed(text: str) -> Decimal:
    """The sum of BilledCost, in USD."""
    return sum((Decimal(row["BilledCost"]) for row in csv.DictReader(io.StringIO(text, newline=""))), Decimal(0))
