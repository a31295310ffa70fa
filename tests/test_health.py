"""The probes: alive while the orchestrator ticks, ready when work can be done, and never hanging."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, connections
from django.test import Client
from django.utils import timezone

from apps.events import consumers
from apps.events.models import Consumer
from apps.execution.models import Tick
from apps.observability import views
from apps.observability.health import Bounded, Health, liveness, readiness
from apps.providers.models import Provider, SecretState
from tests.queueing import NOW


def tick(seconds_ago: float, *, ok: bool = True) -> Tick:
    return Tick.objects.create(at=NOW - dt.timedelta(seconds=seconds_ago), leader="it", ok=ok)


def failing(checks: Sequence[Health]) -> list[str]:
    return [check.name for check in checks if not check.ok]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("ticks", "expected"),
    [
        ([(1, True)], []),  # a recent tick
        ([], ["tick_age"]),  # never any
        ([(60, True)], []),  # just in time
        ([(61, True)], ["tick_age"]),  # too old
        ([(3, False), (2, False), (1, False)], ["tick_success"]),  # three in a row failed
        ([(4, False), (3, False), (2, False), (1, True)], []),  # it recovered
        ([(2, False), (1, False)], []),  # two are not three
        ([(90, False), (80, False), (70, False)], ["tick_age", "tick_success"]),
    ],
)
def test_the_orchestrator_is_alive_while_it_ticks_and_not_all_fails(
    ticks: list[tuple[float, bool]], expected: list[str]
) -> None:  # V7
    for seconds_ago, ok in ticks:
        tick(seconds_ago, ok=ok)
    assert failing(liveness(now=NOW)) == expected


@pytest.mark.django_db
def test_a_migrated_database_with_a_provider_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:  # V7
    Provider.objects.create(name="simulated")  # needs no key
    assert failing(readiness()) == []


@pytest.mark.django_db
def test_without_a_provider_that_has_its_key_it_is_not_ready() -> None:  # V7
    assert failing(readiness()) == ["provider_key"]
    Provider.objects.create(name="openai", secret_name="SOME_KEY", worker_classes=["agents", "agents-eu"])
    Provider.objects.create(name="off", is_enabled=False)
    assert failing(readiness()) == ["provider_key"]
    # That web could not hold it, or holds it, says nothing about the workers.
    SecretState.objects.create(name="SOME_KEY", worker_class="web", fingerprint="aa")
    assert failing(readiness()) == ["provider_key"]
    state = SecretState.objects.create(name="SOME_KEY", worker_class="agents-eu", last_error="There is none.")
    assert "Workers could not read any" in readiness()[1].detail
    state.note_read("aa", "1", "environment", expires_at=None, now=timezone.now())
    assert failing(readiness()) == []
    state.note_failure("It is sealed.", "vault", lacks=False, now=timezone.now())
    assert failing(readiness()) == []  # what is held is used
    state.note_failure("It is sealed.", "vault", lacks=True, now=timezone.now())
    assert failing(readiness()) == ["provider_key"]
    state.note_read("aa", "1", "environment", expires_at=None, now=timezone.now())
    state.note_refused("aa", now=timezone.now())
    assert failing(readiness()) == ["provider_key"]
    state.note_read("bb", "2", "environment", expires_at=None, now=timezone.now())
    assert failing(readiness()) == []


@pytest.mark.django_db
def test_a_migration_that_is_not_applied_is_told() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'events' AND name = '0001_initial'")
    (database, *_) = readiness()
    assert (database.ok, database.detail) == (False, "1 migrations are not applied. Run: manage.py migrate.")


@pytest.mark.django_db
def test_an_event_consumer_that_never_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Provider.objects.create(name="simulated")
    monkeypatch.setattr(consumers, "_expected", set())
    consumers.expect("incidents")
    checks = readiness()
    assert failing(checks) == ["event_consumers"]
    assert checks[-1].detail == "Not registered: incidents."
    Consumer.objects.create(name="incidents")
    assert failing(readiness()) == []


@pytest.mark.django_db
def test_probes_are_few_queries(django_assert_max_num_queries: Callable[[int], Any]) -> None:
    with django_assert_max_num_queries(1):
        liveness(now=NOW)
    with django_assert_max_num_queries(3):
        readiness()


@pytest.mark.django_db
def test_a_database_that_refuses_is_an_answer_without_its_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("connection to db.internal as swarmdesk failed")

    monkeypatch.setattr(Tick.objects, "order_by", refuse)
    (check,) = liveness(now=NOW)
    assert (check.ok, check.detail) == (False, "The database cannot be used (DatabaseError).")


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def test_the_pages_answer_anybody_with_each_check_by_name(own_database: str, client: Client) -> None:
    Provider.objects.create(name="simulated")
    answer = client.get("/livez")
    assert (answer.status_code, answer.json()["checks"]["tick_age"]["ok"]) == (503, False)
    Tick.objects.create(leader="it")
    answer = client.get("/livez")
    assert (answer.status_code, sorted(answer.json()["checks"])) == (200, ["database", "tick_age", "tick_success"])
    assert "no-store" in answer["Cache-Control"]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert sorted(answer.json()["checks"]) == ["database", "event_consumers", "provider_key"]
    assert client.post("/livez").status_code == 405


def test_a_database_that_hangs_does_not_hang_the_answer(
    own_database: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_alive", Bounded(liveness, within_s=0.3))
    with psycopg.connect(own_database) as other:
        other.execute("LOCK TABLE execution_tick")
        for _ in range(2):  # the second while the first still hangs
            answer = client.get("/livez")
            assert (answer.status_code, answer.json()["checks"]["database"]["ok"]) == (503, False)
    threads = [thread for thread in threading.enumerate() if thread.name == "probe"]
    assert len(threads) <= 1
    for thread in threads:
        thread.join(5)
    Tick.objects.create(leader="it")
    assert client.get("/livez").status_code == 200


def test_a_database_that_is_gone_is_a_503(own_database: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(connections.settings["default"], "NAME", "no_such_database")
        for path in ("/livez", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json()["checks"]["database"]["ok"] is False
            assert "no_such_database" not in answer.content.decode()
