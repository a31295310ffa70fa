"""Rate limits of the REST API: per token, session and address, over processes, with the standard fields."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.api import limits
from apps.api.limits import Counter, address_of
from apps.api.models import RateAllotment
from apps.tenants.models import User
from tests.api_client import Caller, is_refusal

MINUTE = 30_000_000
NO_LIMITS = {"token": 0, "session": 0, "ingest": 0, "address": 0}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one minute, 18 seconds before its end, counted by a process that begins."""
    monkeypatch.setattr(limits, "_counter", Counter())
    monkeypatch.setattr(time, "time", lambda: MINUTE * 60.0 + 42)


@pytest.mark.django_db
@pytest.mark.usefixtures("at_once")
def test_one_too_many_is_refused_and_every_answer_tells_how_one_stands(
    viewer: User, owner: User, settings: Any
) -> None:  # A6
    settings.RATE_LIMITS = {**NO_LIMITS, "token": 30}
    call = Caller(viewer)
    for n in range(30):
        answer = call.get("/me/")
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Policy"] == '"token";q=30;w=60'
        assert answer.headers["RateLimit"] == f'"token";r={29 - n};t=18'
        assert answer.headers["RateLimit-Limit"] == "30"
        assert answer.headers["RateLimit-Remaining"] == str(29 - n)
        assert answer.headers["RateLimit-Reset"] == "18"
    refused = call.get("/swarms/")
    assert is_refusal(refused, 429)
    assert refused.headers["Retry-After"] == "18"
    assert refused.headers["RateLimit"] == '"token";r=0;t=18'
    assert Caller(viewer).get("/me/").status_code == 200  # another token
    assert Caller(owner).get("/me/").status_code == 200


@pytest.mark.django_db
@pytest.mark.usefixtures("at_once")
def test_who_is_not_logged_in_is_counted_by_address(viewer: User, settings: Any) -> None:
    settings.RATE_LIMITS = {**NO_LIMITS, "address": 3}
    wrong = Caller(None)
    wrong.headers["Authorization"] = "Bearer swd_" + "0" * 64
    assert [wrong.get("/me/").status_code for _ in range(2)] == [401, 401]
    assert [Client().get("/api/schema/").status_code for _ in range(2)] == [200, 429]
    assert is_refusal(Caller(None).get("/swarms/"), 429)
    elsewhere = Client(REMOTE_ADDR="203.0.113.9").get("/api/v1/me/")
    assert elsewhere.status_code == 401
    assert elsewhere.headers["RateLimit-Remaining"] == "2"
    assert Caller(viewer).get("/me/").status_code == 200  # who is logged in does not suffer from the neighbour


@pytest.mark.django_db
@pytest.mark.usefixtures("at_once")
def test_costs_from_elsewhere_and_sessions_have_limits_of_their_own(developer: User, settings: Any) -> None:
    settings.RATE_LIMITS = {"token": 1, "session": 2, "ingest": 3, "address": 0}
    call = Caller(developer)
    assert [call.get("/me/").status_code for _ in range(2)] == [200, 429]
    assert [call.post("/costs/events/", []).status_code for _ in range(4)] == [400, 400, 400, 429]
    person = Client()
    person.force_login(developer)
    assert [person.get("/api/v1/me/").status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.django_db
def test_few_requests_write_nothing_and_many_write_seldom(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    counter = Counter()
    with django_assert_num_queries(0):
        assert all(counter.take("token", "a", MINUTE, 1200)[0] for _ in range(20))
    before = RateAllotment.objects.count()
    writes = 0
    for _ in range(1180):
        held = counter._callers["token", "a"].held
        assert counter.take("token", "a", MINUTE, 1200)[0]
        writes += counter._callers["token", "a"].held != held
    assert writes <= 20
    assert RateAllotment.objects.count() == before + 1
    assert counter.take("token", "a", MINUTE, 1200) == (False, 0)
    with django_assert_num_queries(0):  # refusing costs nothing
        assert counter.take("token", "a", MINUTE, 1200) == (False, 0)
    assert counter.take("token", "a", MINUTE + 1, 1200) == (True, 1199)  # the next minute


@pytest.mark.django_db
def test_several_processes_share_one_limit() -> None:
    processes = [Counter() for _ in range(4)]
    allowed = sum(processes[n % 4].take("token", "a", MINUTE, 1200)[0] for n in range(3000))
    assert allowed == 1200
    # One that uses little leaves the rest to the others, but for what it holds.
    busy, quiet = Counter(), Counter()
    assert quiet.take("token", "b", MINUTE, 1200)[0]
    allowed = sum(busy.take("token", "b", MINUTE, 1200)[0] for _ in range(3000))
    assert allowed == 1200


@pytest.mark.django_db
def test_a_clock_that_lags_counts_in_the_later_minute() -> None:
    ahead, behind = Counter(), Counter()
    assert sum(ahead.take("token", "a", MINUTE + 1, 100)[0] for _ in range(200)) == 100
    assert sum(behind.take("token", "a", MINUTE, 100)[0] for _ in range(200)) <= 1


@pytest.mark.django_db
def test_rows_of_minutes_long_gone_are_swept() -> None:
    RateAllotment.objects.take("token", "old", window=MINUTE - 10, count=5)
    RateAllotment.objects.take("token", "recent", window=MINUTE - 2, count=5)
    counter = Counter()
    for _ in range(3):
        counter.take("token", "a", MINUTE, 2)
    assert not RateAllotment.objects.filter(who="old").exists()
    assert RateAllotment.objects.filter(who="recent").exists()


def test_threads_at_once_are_counted_one_by_one(own_database: str) -> None:
    counter = Counter()
    gate = threading.Barrier(8)

    def ask(_: int) -> int:
        gate.wait(timeout=30)
        try:
            return sum(counter.take("token", "a", MINUTE, 200)[0] for _ in range(50))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(ask, range(8)))
    # What is granted to a thread when the others have given up is left over; the free sixtieth may come on top.
    assert 120 < allowed <= 200 + 200 // limits.FREE


class Shared:
    """A shared cache, as Django's interface has it; ``down`` when its server is gone."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.down = False

    def incr(self, key: str) -> int:
        if self.down:
            raise ConnectionError
        if key not in self.values:
            raise ValueError(key)
        self.values[key] += 1
        return self.values[key]

    def add(self, key: str, value: int, timeout: int) -> bool:
        self.values.setdefault(key, value)
        return True


@pytest.mark.django_db
def test_a_shared_cache_counts_exactly_and_the_database_when_it_is_down(
    settings: Any, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    settings.CACHE_URL = "redis://cache"
    settings.RATE_LIMITS = {**NO_LIMITS, "token": 50}
    shared = Shared()
    monkeypatch.setattr(limits, "cache", shared)
    monkeypatch.setattr(limits, "_counter", Counter())

    def allowed(count: int) -> int:
        found: list[Any] = [limits.take("token", "a", now=MINUTE * 60.0) for _ in range(count)]
        return sum(standing.allowed for standing in found)

    with django_assert_num_queries(0):
        assert allowed(60) == 50
    shared.down = True
    assert allowed(60) == 50


def test_addresses_of_one_customer_are_one() -> None:
    assert address_of("203.0.113.7") == "203.0.113.7"
    assert address_of("2001:db8:1:2:3::4") == address_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert address_of(None) == address_of("proxy") == "unknown"
