"""The event log: a reader sees every event once, in order, whatever order the writers commit in."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import uuid
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection, transaction

from apps.events import log
from apps.events.horizon import readable
from apps.events.models import Consumer, Event, Horizon
from tests.running import wait_until

INSERT = "INSERT INTO events_event (at, kind, data) VALUES (now(), %s, '{}') RETURNING id"


def writer(url: str) -> psycopg.Connection:
    """A writer with a connection, and so a transaction, of its own."""
    return psycopg.connect(url)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def drain(position: int) -> tuple[list[Event], int]:
    """Reads on from a position until there is nothing more."""
    found: list[Event] = []
    while events := log.read(position, limit=7):
        found += events
        position = events[-1].pk
    return found, position


def until_readable() -> None:
    """Waits for what is committed: a transaction of this database that is just ending may count for a moment."""
    last = Event.objects.latest("pk").pk
    wait_until(lambda: readable() >= last, what=f"event {last} to be readable")


@pytest.mark.django_db
def test_rows_of_a_transaction_that_still_runs_are_not_read() -> None:
    log.emit([log.NewEvent("a.b", data={"n": 1}), log.NewEvent("a.b", data={"n": 2})])
    assert log.read(log.START) == []


def test_a_row_that_commits_late_with_a_lower_id_is_not_skipped(own_database: str) -> None:
    with writer(own_database) as slow, writer(own_database) as fast:
        (low,) = slow.execute(INSERT, ["slow"]).fetchone() or (0,)
        (high,) = fast.execute(INSERT, ["fast"]).fetchone() or (0,)
        fast.commit()
        assert low < high
        # The higher id is committed, but the reader must not pass the lower one that is still undecided.
        assert drain(log.START)[0] == []
        slow.commit()
    until_readable()
    assert kinds(drain(log.START)[0]) == ["slow", "fast"]


def test_a_rolled_back_writer_holds_nobody_up(own_database: str) -> None:
    with writer(own_database) as lost, writer(own_database) as kept:
        lost.execute(INSERT, ["lost"])
        kept.execute(INSERT, ["kept"])
        kept.commit()
        lost.rollback()
    until_readable()
    assert kinds(drain(log.START)[0]) == ["kept"]


def test_a_long_transaction_in_another_database_holds_nobody_up(own_database: str) -> None:
    elsewhere = own_database.replace(urlsplit(own_database).path, "/postgres")
    with psycopg.connect(elsewhere) as other:
        other.execute("CREATE TEMPORARY TABLE busy (n int)")
        log.emit([log.NewEvent("here")])
        until_readable()
        assert kinds(drain(log.START)[0]) == ["here"]
        other.rollback()


def test_the_dump_of_a_server_that_was_further_on_is_read_under_constant_writes(own_database: str) -> None:
    log.emit([log.NewEvent("of the dump"), log.NewEvent("of the dump")])
    drawn = Event.objects.latest("pk").pk
    Horizon.objects.filter(log="events_event").update(safe_id=0, mark_id=drawn, mark_xact=10**12)
    with writer(own_database) as slow, writer(own_database) as fast:
        slow.execute(INSERT, ["slow"])
        fast.execute(INSERT, ["fast"])
        fast.commit()
        events, position = drain(log.START)
        assert kinds(events) == ["of the dump"] * 2
        assert drain(position)[0] == []
        slow.commit()
    until_readable()
    assert kinds(drain(position)[0]) == ["slow", "fast"]


@pytest.mark.parametrize("seed", range(8))
def test_every_event_is_seen_once_and_in_order_under_interleaved_writers(own_database: str, seed: int) -> None:
    rng = random.Random(seed)
    writers = [writer(own_database) for _ in range(5)]
    number = itertools.count()
    written: dict[int, list[str]] = {index: [] for index in range(5)}
    pending: dict[int, list[str]] = {index: [] for index in range(5)}
    position, seen = log.START, list[Event]()
    for _ in range(300):
        index = rng.randrange(5)
        match rng.choice(["write", "write", "commit", "rollback", "read"]):
            case "write":
                name = f"w{index}.{next(number)}"
                writers[index].execute(INSERT, [name])
                pending[index].append(name)
            case "commit":
                writers[index].commit()
                written[index] += pending[index]
                pending[index] = []
            case "rollback":
                writers[index].rollback()
                pending[index] = []
            case "read":
                events, position = drain(position)
                seen += events
    for index, conn in enumerate(writers):
        conn.commit()
        conn.close()
        written[index] += pending[index]
    until_readable()
    events, position = drain(position)
    seen += events
    names = kinds(seen)
    assert sorted(names) == sorted(itertools.chain.from_iterable(written.values()))
    assert len(set(names)) == len(names)
    for index in range(5):
        assert [name for name in names if name.startswith(f"w{index}.")] == written[index]
    # One total order, whenever it was read: reading everything again from the start gives the same.
    assert names == kinds(drain(log.START)[0])


def test_events_of_one_locked_row_are_read_in_the_order_in_which_they_happened(own_database: str) -> None:
    with psycopg.connect(own_database, autocommit=True) as setup:
        setup.execute("CREATE TABLE swarm_row (id int PRIMARY KEY, n int)")
        setup.execute("INSERT INTO swarm_row VALUES (1, 0)")
    code = """
import sys, psycopg
conn = psycopg.connect(sys.argv[1])
for _ in range(60):
    with conn.transaction():
        conn.execute("SELECT n FROM swarm_row WHERE id = 1 FOR UPDATE")
        n = conn.execute("UPDATE swarm_row SET n = n + 1 WHERE id = 1 RETURNING n").fetchone()[0]
        conn.execute("INSERT INTO events_event (at, kind, data) VALUES (now(), %s, '{}')", [f"n.{n}"])
"""
    children = [subprocess.Popen([sys.executable, "-c", code, own_database]) for _ in range(4)]
    position, seen = log.START, list[Event]()
    while any(child.poll() is None for child in children):
        events, position = drain(position)
        seen += events
    until_readable()
    seen += drain(position)[0]
    assert all(child.returncode == 0 for child in children)
    assert kinds(seen) == [f"n.{n}" for n in range(1, 241)]


def test_what_is_committed_is_read_at_once_beside_transactions_that_end_in_another_database(own_database: str) -> None:
    elsewhere = urlsplit(own_database)._replace(path="/postgres").geturl()
    busy = "import sys, psycopg\nwith psycopg.connect(sys.argv[1], autocommit=True) as other:\n"
    busy += "    print(flush=True)\n    while True: other.execute('SELECT pg_current_xact_id(), pg_sleep(0.0003)')"
    command = [sys.executable, "-c", busy, elsewhere]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    try:
        for each in writers:
            assert each.stdout
            each.stdout.readline()
        for n in range(300):
            log.emit([log.NewEvent(f"n.{n}")])
            assert readable() == Event.objects.latest("pk").pk
    finally:
        for each in writers:
            each.kill()
            each.communicate()


def test_a_consumer_that_fails_gets_the_same_events_again(own_database: str) -> None:
    log.emit([log.NewEvent("x.one"), log.NewEvent("x.two")])
    until_readable()
    handled: list[str] = []

    def broken(events: list[Event]) -> None:
        Event.objects.create(kind="effect")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        log.consume("test", broken)  # type: ignore[arg-type]
    assert not Event.objects.filter(kind="effect").exists()
    assert log.consume("test", lambda events: handled.extend(event.kind for event in events)) == 2
    assert log.consume("test", lambda events: handled.extend(event.kind for event in events)) == 0
    assert handled == ["x.one", "x.two"]
    assert Consumer.objects.get(name="test").event_id == Event.objects.latest("id").pk


def test_the_position_of_a_seen_event_replays_exactly_what_followed(own_database: str) -> None:
    for n in range(5):
        log.emit([log.NewEvent(f"n.{n}")])
    until_readable()
    third = Event.objects.get(kind="n.2")
    assert kinds(log.read(third.pk)) == ["n.3", "n.4"]
    assert log.exists(third.pk)
    assert not log.exists(10**15)


def test_reading_from_the_head_gives_only_what_comes(own_database: str) -> None:
    log.emit([log.NewEvent("old")])
    until_readable()
    head = readable()
    log.emit([log.NewEvent("new", swarm_id=uuid.uuid4())])
    until_readable()
    assert kinds(log.read(head)) == ["new"]


@pytest.mark.django_db
def test_events_of_any_month_find_a_partition() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO events_event (at, kind, data) VALUES ('2031-05-05', 'far', '{}')")
        cursor.execute("SELECT tableoid::regclass::text FROM events_event WHERE kind = 'far'")
        assert cursor.fetchone() == ("events_event_default",)
