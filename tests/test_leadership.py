"""Leadership: one holder of the lock, lost with its connection, taken from one that hangs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from django.db import connection
from django.utils import timezone

from apps.execution.leadership import Leadership
from apps.execution.models import Tick


@pytest.fixture
def leader(own_database: str) -> Iterator[Leadership]:
    leadership = Leadership()
    yield leadership
    leadership.release()


@pytest.fixture
def rival_process(own_database: str) -> Iterator[Leadership]:
    leadership = Leadership()
    yield leadership
    leadership.release()


def _end_session_of(leadership: Leadership) -> None:
    assert leadership._connection is not None
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 2000)", [leadership._connection.info.backend_pid])


def test_only_one_leads(leader: Leadership, rival_process: Leadership) -> None:
    assert leader.acquire()
    assert leader.holds()
    assert not rival_process.acquire()
    assert not rival_process.holds()


def test_who_leads_can_ask_again(leader: Leadership, rival_process: Leadership) -> None:
    assert leader.acquire()
    assert leader.acquire()
    leader.release()
    assert rival_process.acquire()


def test_a_leader_whose_connection_died_knows_at_its_next_look(leader: Leadership, rival_process: Leadership) -> None:
    assert leader.acquire()
    _end_session_of(leader)
    assert rival_process.acquire()
    assert not leader.holds()
    assert not leader.acquire()


def test_a_leader_that_ticks_is_never_ousted(leader: Leadership, rival_process: Leadership) -> None:
    assert leader.acquire()
    assert not rival_process.acquire()
    Tick.objects.create(at=timezone.now() + dt.timedelta(seconds=5), leader="it")
    assert not rival_process.oust(after_s=0)
    assert leader.holds()


def test_a_leader_that_hangs_loses_the_lead(leader: Leadership, rival_process: Leadership) -> None:
    assert leader.acquire()
    assert not rival_process.acquire()
    Tick.objects.create(at=timezone.now() - dt.timedelta(seconds=60), leader="it")
    assert not rival_process.oust(after_s=45)  # it was not watched for long enough: it may just have taken over
    assert rival_process.oust(after_s=0)
    with connection.cursor() as cursor:  # its session ends in its own time
        cursor.execute("SELECT count(*) FROM pg_locks, pg_sleep(0.2)")
    assert rival_process.acquire()
    assert not leader.holds()


def test_with_nobody_leading_there_is_nobody_to_oust(leader: Leadership) -> None:
    assert leader.acquire()
    _end_session_of(leader)
    other = Leadership()
    assert other.acquire()
    assert not other.oust(after_s=45)
    other.release()
