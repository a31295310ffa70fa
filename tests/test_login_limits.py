"""How often one may try to log in: by address and by name, over processes, and nobody can be kept out by it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from apps.api import limits
from apps.api.limits import Counter
from apps.api.logins import COOKIE, DOORS
from apps.api.models import RateAllotment
from apps.console.urls import urlpatterns
from apps.tenants.models import User

pytestmark = pytest.mark.django_db
MINUTE = 30_000_000
RIGHT, WRONG = "correct horse battery", "wrong"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """All in one minute, 18 seconds before its end."""
    monkeypatch.setattr(time, "time", lambda: MINUTE * 60.0 + 42)
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "login": 6, "name": 3}


def attempt(name: str, password: str = WRONG, address: str = "192.0.2.1", client: Client | None = None) -> Any:
    return (client or Client()).post("/login/", {"username": name, "password": password}, REMOTE_ADDR=address)


def statuses(count: int, *arguments: Any) -> list[int]:
    return [attempt(*arguments).status_code for _ in range(count)]


def test_one_address_tries_so_often_whatever_the_names_and_is_told_when_to_come_back(owner: User) -> None:  # A6
    assert [attempt(f"name {n}").status_code for n in range(6)] == [200] * 6
    refused = attempt("owner", RIGHT)
    assert refused.status_code == 429
    page = re.sub(r"\s+", " ", refused.content.decode())
    assert "from your network address" in page
    assert "Try again in 18 seconds." in page
    assert (refused["Retry-After"], refused["RateLimit"]) == ("18", '"login";r=0;t=18')
    assert "no-store" in refused["Cache-Control"]
    assert Client(REMOTE_ADDR="192.0.2.1").get("/login/").status_code == 200, "the page itself stays open"
    assert attempt("owner", RIGHT, "192.0.2.2").status_code == 302, "others do not suffer from it"


def test_of_ipv6_a_customers_whole_network_is_one_address(owner: User) -> None:
    assert [attempt(f"name {n}", WRONG, f"2001:db8::{n}").status_code for n in range(7)] == [200] * 6 + [429]
    assert attempt("owner", RIGHT, "2001:db8:0:1::1").status_code == 302


def test_one_name_is_tried_so_often_whatever_the_addresses(owner: User, viewer: User) -> None:
    spread = [attempt(name, WRONG, f"192.0.2.{n}") for n, name in enumerate(("owner", "OWNER ", "owner", "owner"))]
    assert [answer.status_code for answer in spread] == [200, 200, 200, 429]
    assert "with this user name" in spread[-1].content.decode()
    assert attempt("owner", RIGHT, "192.0.2.77").status_code == 429, "not even the right one: guessing tells nothing"
    assert attempt("viewer", RIGHT, "192.0.2.77").status_code == 302
    assert AccessAttempt.objects.count() == 3, "what was not looked at is no wrong password"
    assert not any("owner" in row.who for row in RateAllotment.objects.all()), "names are not kept"


def test_whoever_guesses_a_name_does_not_keep_its_owner_out(owner: User, viewer: User) -> None:
    at_home = Client()
    assert attempt("owner", RIGHT, "198.51.100.1", at_home).status_code == 302
    cookie = at_home.cookies[COOKIE]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert "owner" not in cookie.value
    at_home.post("/logout/")
    assert [attempt("owner", WRONG, f"192.0.2.{n}").status_code for n in range(4)] == [200, 200, 429, 429]
    assert attempt("owner", RIGHT, "198.51.100.2", at_home).status_code == 302, "from the browser that is known"
    # It is known for that name, by a signature of ours, and counted as others are.
    for value in (cookie.value + "x", "nonsense", ""):
        stranger = Client()
        stranger.cookies[COOKIE] = value
        assert attempt("owner", RIGHT, "198.51.100.3", stranger).status_code == 429
    thief = Client()
    thief.cookies[COOKIE] = at_home.cookies[COOKIE].value
    assert [attempt("owner", WRONG, f"203.0.113.{n}", thief).status_code for n in range(4)] == [200, 200, 200, 429]
    assert [attempt("viewer", WRONG, f"203.0.113.{n}", thief).status_code for n in range(4)] == [200, 200, 200, 429]


def test_whoever_is_logged_in_does_not_become_known_for_the_names_of_others(owner: User, viewer: User) -> None:
    inside = Client()
    assert attempt("viewer", RIGHT, "198.51.100.1", inside).status_code == 302
    known = inside.cookies[COOKIE].value
    assert attempt("owner", WRONG, "198.51.100.1", inside).status_code == 302, "led on, as whoever is logged in"
    assert inside.cookies[COOKIE].value == known
    assert statuses(3, "owner", WRONG, "198.51.100.2") == [200, 200, 429]
    inside.post("/logout/")
    assert attempt("owner", RIGHT, "198.51.100.1", inside).status_code == 429


def test_ways_through_a_provider_count_by_address(acme: Any) -> None:
    client = Client(REMOTE_ADDR="192.0.2.1")
    ways = ("/login/with/", "/login/with/nobody/", "/login/callback/?state=x&code=y")
    answers = [client.get(way).status_code for way in (*ways, *ways, *ways)]
    assert 429 not in answers[:6]
    assert answers[6:] == [429] * 3
    assert client.post("/login/callback/").status_code == 405


def test_it_is_counted_over_processes(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for n in range(8):
        monkeypatch.setattr(limits, "_counter", Counter())  # each from another process
        answers += statuses(2, f"name {n}")
    assert answers.count(429) >= 2
    assert answers[-1] == 429


def test_none_of_it_costs_a_page_anything(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(1):  # the providers that are offered
        assert Client().get("/login/").status_code == 200


def test_every_door_to_log_in_is_counted() -> None:
    named = {f"console:{each.name}" for each in urlpatterns if str(each.pattern).startswith("login/")}
    assert named == set(DOORS)


def test_without_limits_nothing_is_counted(owner: User, settings: Any) -> None:
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "login": 0, "name": 0}
    assert statuses(8, "someone") == [200] * 4 + [429] * 4, "those of the lock-out"
    assert not RateAllotment.objects.exists()
