"""Whatever is sent to the endpoints of agents elsewhere: refused with where it is wrong, and nothing half written."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.costs.models import BudgetPeriod, ExternalEvent, ExternalReservation, LedgerEntry, Reservation
from apps.tenants.models import Tenant, User
from portal.money import NANO
from tests.api_client import Caller, is_refusal
from tests.costs import budget, verify_money_is_whole
from tests.external import event

pytestmark = pytest.mark.django_db
EVENTS, RESERVATIONS = "/costs/events/", "/costs/reservations/"

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_nasty = _json | st.sampled_from(
    [
        "NaN", "-0.1", "1e400", "1E-30", "0." + "1" * 40, 10**30, -(10**30), 2**63, 2**64, 1e308, 5e-324, "9" * 5000,
        "", " ", "a\x00b", "\ud800", "\u202e", "x" * 10_000, "2026-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59", "2026-11-21", "2026-11-21T12:00:00", 1763726400, "1970-01-01T00:00:00Z",
        True, {"$gt": 0}, [[]], "llm ", "LLM", "adjustment", "acme\n", "../acme",
    ]
)  # fmt: skip
_EVENT_KEYS = [
    "event_id", "tenant", "time", "kind", "agent", "model", "end_user", "run", "amount_usd", "input_tokens",
    "output_tokens", "cache_read_tokens", "cache_write_tokens", "colour",
]  # fmt: skip
_CALL_KEYS = [
    "tenant", "amount_usd", "model", "input_bytes", "max_input_tokens", "max_output_tokens", "agent", "end_user", "run",
    "lease_s", "colour",
]  # fmt: skip


def _wrong(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=5), _nasty, min_size=1, max_size=4)


def _body(value: Any) -> bytes:
    """JSON as a careless sender writes it: NaN and lone surrogates included."""
    return json.dumps(value).encode()


@pytest.fixture
def send(developer: User) -> Caller:
    return Caller(developer)


fuzzing = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzzing
@given(changes=st.lists(_wrong(_EVENT_KEYS) | _nasty, min_size=1, max_size=4))
def test_any_events_are_recorded_or_refused_row_by_row(changes: list[Any], send: Caller, acme: Tenant) -> None:
    before = ExternalEvent.objects.count()
    rows = [{**event(), **change} if isinstance(change, dict) else change for change in changes]
    answer = send.post(EVENTS, _body(rows))
    assert answer.status_code in (200, 201, 207, 400, 403), answer.content
    body = answer.json()
    assert ExternalEvent.objects.count() - before == body.get("recorded", 0)
    assert ExternalEvent.objects.count() == LedgerEntry.objects.count()
    if "results" in body:
        assert len(body["results"]) == len(rows)
        failed = {row["index"] for row in body["results"] if row["status"] == "failed"}
        assert failed == {error["index"] for error in body["errors"]}
    else:
        assert all({"code", "detail", "attr"} <= set(error) for error in body["errors"])
    for error in body["errors"]:
        assert error["code"]
        assert error["detail"]


@fuzzing
@given(change=_wrong(_CALL_KEYS))
def test_any_reservation_is_held_or_refused(change: dict[str, Any], send: Caller, acme: Tenant) -> None:
    before = Reservation.objects.count()
    answer = send.post(RESERVATIONS, _body({"tenant": "acme", "amount_usd": "0.01", **change}))
    assert answer.status_code in (201, 400), answer.content
    assert answer.status_code == 201 or is_refusal(answer, 400)
    assert Reservation.objects.count() - before == (answer.status_code == 201)
    assert Reservation.objects.count() == ExternalReservation.objects.count()


@fuzzing
@given(act=st.sampled_from(["settle", "extend", "release"]), change=_wrong(["amount_usd", "input_tokens", "lease_s"]))
def test_any_settlement_is_done_or_refused(act: str, change: dict[str, Any], send: Caller, acme: Tenant) -> None:
    held = send.post(RESERVATIONS, {"tenant": "acme", "amount_usd": "0.01"}).json()["id"]
    answer = send.post(f"{RESERVATIONS}{held}/{act}/", _body(change))
    assert answer.status_code == 200 or is_refusal(answer, 400), answer.content
    if answer.status_code == 400:
        assert send.get(f"{RESERVATIONS}{held}/").json()["status"] == "held"


_RAW = {
    "empty": b"",
    "invalid UTF-8": b'[{"event_id": "\xff\xfe"}]',
    "cut off": b'[{"event_id": "a"',
    "NaN": b'{"event_id": "a", "amount_usd": NaN}',
    "Infinity": b'[{"amount_usd": -Infinity}]',
    "a raw NUL": b'[{"event_id": "a\x00"}]',
    "nested too deeply": b"[" * 100_000 + b"]" * 100_000,
    "a number of 5,000 digits": b'[{"input_tokens": ' + b"9" * 5000 + b"}]",
    "no rows": b"[]",
    "null": b"null",
    "a number": b"5",
    "text": b'"event"',
    "lists of lists": b"[[], [[]]]",
    "nulls": b"[null, null]",
}


@pytest.mark.parametrize("body", _RAW.values(), ids=_RAW)
def test_bodies_that_are_no_events(body: bytes, send: Caller, acme: Tenant) -> None:
    for path in (EVENTS, RESERVATIONS):
        answer = send.post(path, body)
        assert answer.status_code == 400, answer.content
        errors = answer.json()["errors"]
        assert all(error["detail"] for error in errors)
    assert not ExternalEvent.objects.exists()
    assert not Reservation.objects.exists()


def test_only_json_is_read(send: Caller, acme: Tenant) -> None:
    answer = send.client.post(f"/api/v1{EVENTS}", {"event_id": "a"}, headers=send.headers)
    assert answer.status_code == 415


def test_text_that_cannot_be_stored_spoils_its_own_row_only(send: Caller, acme: Tenant) -> None:
    rows = [event(), event(agent="a\x00b"), {**event(), "x\ud800": 1}, event(run="\udfff")]
    answer = send.post(EVENTS, _body(rows))
    assert answer.status_code == 207
    assert [(error["index"], error["code"]) for error in answer.json()["errors"]] == [
        (1, "invalid"),
        (2, "invalid"),
        (3, "invalid"),
    ]
    assert "NUL" in answer.json()["errors"][0]["detail"]
    assert ExternalEvent.objects.count() == 1
    assert send.post(EVENTS, _body(event(agent="a\x00b"))).status_code == 400
    assert is_refusal(send.post(RESERVATIONS, _body({"tenant": "acme", "amount_usd": "1", "run": "\x00"})), 400)


def test_ten_thousand_events_at_once_and_not_one_more(send: Caller, acme: Tenant) -> None:
    watching = budget(acme, 10**6 * NANO)
    rows = [event(amount_usd="0.000000001") for _ in range(10_001)]
    assert len(_body(rows)) < 2**24
    refused = send.post(EVENTS, rows)
    assert is_refusal(refused, 400)
    assert refused.json()["errors"][0]["code"] == "too_many"
    assert not ExternalEvent.objects.exists()
    answer = send.post(EVENTS, rows[:-1])
    assert (answer.status_code, answer.json()["recorded"]) == (201, 10_000)
    assert BudgetPeriod.objects.get(budget=watching).spent == 10_000
    verify_money_is_whole()


def test_a_body_that_is_too_large(send: Caller, acme: Tenant) -> None:
    assert send.post(EVENTS, b" " * (2**24 + 1)).status_code == 413
    most = int(django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    assert send.post(RESERVATIONS, b" " * (most + 1)).status_code == 413


@pytest.mark.parametrize("amount", [0.1, 1, "0", "0.000000001", "999999.999999999", "1000000", "1e-9", "+1", "1E2"])
def test_amounts_that_are_fine(amount: Any, send: Caller, acme: Tenant) -> None:
    assert send.post(EVENTS, event(amount_usd=amount)).status_code == 201
    assert math.isclose(LedgerEntry.objects.get().amount / NANO, float(amount))
