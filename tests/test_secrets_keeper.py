"""The keys that a process holds: loaded, refreshed, rotated, kept through outages, and none of another class's."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import DatabaseError, connection
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.models import AuditEntry
from apps.audit.trail import Actor
from apps.events.models import Event
from apps.providers.errors import ProviderUnavailable
from apps.providers.models import BackendState, Provider, SecretState
from apps.providers.secrets.backend import AccessRefused
from apps.providers.secrets.orders import order_refresh
from apps.providers.secrets.records import Recorder
from apps.providers.secrets.ring import Key, Ring
from portal.encryption import Secret
from portal.redaction import MASK, redacted
from tests.secret_backends import NOW, Memory, Process, provider

OLD, NEW = "sk-old-key-0123456789abcdef", "sk-new-key-0123456789abcdef"
SOMEBODY = Actor("user", "somebody")


@pytest.fixture
def memory(db: None) -> Memory:
    provider("openai", "OPENAI")
    return Memory({"OPENAI": OLD, "EU": "sk-of-europe-0123456789"})


def acts() -> list[str]:
    return [entry.action for entry in AuditEntry.objects.order_by("id")]


def kinds() -> list[str]:
    return [event.kind for event in Event.objects.order_by("id")]


# -- loaded, refreshed, rotated ----------------------------------------------------------------------------------------


def test_a_key_is_loaded_at_the_start_and_read_anew_by_the_clock(memory: Memory) -> None:  # P8
    process = Process(memory)
    process.passes()
    assert process.key("OPENAI") == OLD
    for _ in range(10):
        process.passes(359)
    assert memory.asked == ["OPENAI"]
    process.passes(11)
    assert memory.asked == ["OPENAI", "OPENAI"]
    assert acts() == ["secret:load", "secret:refresh"]


def test_a_key_that_was_replaced_is_used_at_once_and_the_old_one_kept_for_the_grace(memory: Memory) -> None:  # P8
    process = Process(memory)
    process.passes()
    old = process.keeper.key("OPENAI")
    memory.values["OPENAI"] = NEW
    process.passes(3600)
    assert process.key("OPENAI") == NEW
    new = process.keeper.key("OPENAI")
    assert process.keeper.untried("OPENAI", [new.fingerprint]) == old
    process.passes(899)
    assert process.keeper.untried("OPENAI", [new.fingerprint]) == old
    process.clock += 1  # whether the keeper had a round or not
    assert process.keeper.untried("OPENAI", [new.fingerprint]) is None
    assert acts() == ["secret:load", "secret:rotate"]
    assert kinds() == ["secrets.rotated"]


def test_an_order_reaches_every_process_within_seconds_with_and_without_the_hint(memory: Memory) -> None:  # P8
    heard, polls = Process(memory), Process(memory)
    for process in (heard, polls):
        process.passes()
    memory.values["OPENAI"] = NEW
    order_refresh(by=SOMEBODY, reason="It leaked.")
    heard.hears()
    assert heard.key("OPENAI") == NEW
    assert polls.key("OPENAI") == OLD
    polls.passes(2.01)
    assert polls.key("OPENAI") == NEW
    entry = AuditEntry.objects.get(action="secret:refresh_all")
    assert (entry.actor, entry.reason) == ("somebody", "It leaked.")


def test_orders_from_before_the_start_are_no_news(memory: Memory) -> None:
    order_refresh(by=SOMEBODY)
    process = Process(memory)
    process.passes()
    process.passes(5)
    assert memory.asked == ["OPENAI"]


def test_a_key_that_ends_is_read_anew_before_it_does(memory: Memory) -> None:
    memory.expires_at = NOW + dt.timedelta(seconds=100)
    process = Process(memory)
    process.passes()
    process.passes(89)
    assert len(memory.asked) == 1
    process.passes(1.5)
    assert len(memory.asked) == 2
    assert SecretState.objects.get().expires_at == memory.expires_at


def test_a_provider_that_is_added_or_leaves_is_noticed(memory: Memory) -> None:
    process = Process(memory)
    process.passes()
    provider("europe", "EU")
    process.passes(2.01)
    assert process.keeper.names == ["EU", "OPENAI"]
    Provider.objects.filter(name="openai").update(is_enabled=False)
    process.passes(2.01)
    assert process.keeper.names == ["EU"]
    with pytest.raises(ProviderUnavailable):
        process.keeper.key("OPENAI")


# -- who may hold what -------------------------------------------------------------------------------------------------


def test_a_process_asks_for_no_key_that_is_not_for_its_class(memory: Memory) -> None:  # P8
    provider("europe", "EU", "agents-eu")
    agents, europe, web = (Process(memory, name) for name in ("agents", "agents-eu", "web"))
    asked = []
    for process in (agents, europe, web):
        memory.asked.clear()
        process.passes()
        process.hears()
        asked.append(list(memory.asked))
    assert asked == [["OPENAI"], ["EU"], []]
    for process, name in ((agents, "EU"), (europe, "OPENAI"), (web, "EU"), (web, "OPENAI")):
        with pytest.raises(ProviderUnavailable, match=f"class {process.keeper.worker_class} may not read it"):
            process.keeper.key(name)
        held = [ring.newest.secret.reveal() for ring in process.keeper._rings.values()]
        assert memory.values[name] not in held
    # It runs no agents of theirs either, so that others do.
    assert [sorted(process.keeper.closed) for process in (agents, europe)] == [["europe"], ["openai"]]


def test_a_class_that_is_granted_less_forgets(memory: Memory) -> None:
    process = Process(memory)
    process.passes()
    Provider.objects.update(worker_classes=["agents-eu"])
    process.passes(2.01)
    assert process.keeper.names == []
    assert process.keeper.closed == {"openai"}


# -- trouble -----------------------------------------------------------------------------------------------------------


def test_an_outage_at_the_start_is_told_and_nothing_is_leased_until_it_is_over(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:  # P8
    memory.goes_away()
    process = Process(memory)
    pause = process.passes()
    assert pause <= 2
    assert "secrets_backend_down" in caplog.text
    assert process.keeper.closed == {"openai"}
    with pytest.raises(ProviderUnavailable):
        process.keeper.key("OPENAI")
    state = SecretState.objects.get()
    assert (state.fingerprint, state.last_error, state.is_usable(now=NOW)) == ("", "It cannot be reached.", False)
    memory.failure = None
    process.passes(2.01)
    assert process.key("OPENAI") == OLD
    assert process.keeper.closed == set()
    assert SecretState.objects.get().is_usable(now=NOW)


def test_later_outages_leave_the_keys_and_are_one_event_whatever_processes_try(memory: Memory) -> None:  # P8
    crew = [Process(memory) for _ in range(4)]
    for process in crew:
        process.passes()
    memory.goes_away()
    for _ in range(20):
        for process in crew:
            process.passes(400)
    assert [process.key("OPENAI") for process in crew] == [OLD] * 4
    assert kinds() == ["secrets.backend_down"]
    assert BackendState.objects.get().down_since is not None
    state = SecretState.objects.get()
    assert (state.last_error, state.is_usable(now=NOW)) == ("It cannot be reached.", True)
    memory.failure = None
    for process in crew:
        process.passes(400)
    assert kinds() == ["secrets.backend_down", "secrets.backend_recovered"]
    assert BackendState.objects.get().down_since is None
    assert SecretState.objects.get().last_error == ""


def test_a_backend_that_hangs_is_not_asked_for_each_name_in_turn(memory: Memory) -> None:
    for number in range(5):
        provider(f"p{number}", f"K{number}")
    memory.goes_away()
    Process(memory).passes()
    assert len(memory.asked) == 1


def test_a_denial_is_told_to_whoever_calls_and_audited_once(memory: Memory) -> None:  # P8
    memory.failure = AccessRefused("The policy of agents does not cover it.")
    process = Process(memory)
    for _ in range(10):
        process.passes(40)
    with pytest.raises(ProviderUnavailable, match="policy of agents"):
        process.keeper.key("OPENAI")
    assert process.keeper.closed == set()  # its tasks fail with that reason, instead of waiting for ever
    (entry,) = AuditEntry.objects.all()
    assert (entry.action, entry.success, entry.reason) == ("secret:read", False, str(memory.failure))
    assert kinds() == []
    memory.failure = None
    process.passes(31)
    assert process.key("OPENAI") == OLD


def test_a_secret_that_is_missing_says_where_it_was_looked_for(memory: Memory) -> None:
    del memory.values["OPENAI"]
    process = Process(memory)
    process.passes()
    with pytest.raises(ProviderUnavailable, match=r"is missing\. There is no OPENAI\."):
        process.keeper.key("OPENAI")


def test_what_cannot_be_recorded_counts_and_is_recorded_later(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(memory)
    process.passes()
    memory.values["OPENAI"] = NEW

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("it is full")

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "read", refuse)
        with pytest.raises(DatabaseError):
            process.passes(3600)
    assert process.key("OPENAI") == NEW
    process.passes(2.01)
    assert acts() == ["secret:load", "secret:refresh"]
    assert SecretState.objects.get().fingerprint == process.keeper.key("OPENAI").fingerprint


def test_a_key_that_the_provider_refuses_is_one_event_and_makes_it_unusable_for_a_while(memory: Memory) -> None:
    process = Process(memory)
    process.passes()
    key = process.keeper.key("OPENAI")
    for _ in range(3):
        process.keeper.note_refused("OPENAI", key)
        process.passes(61)
    assert kinds() == ["secrets.key_refused"]
    state = SecretState.objects.get()
    assert not state.is_usable(now=NOW)
    assert state.is_usable(now=NOW + dt.timedelta(minutes=14))  # unless it is noted again
    process.keeper.note_accepted("OPENAI")
    process.passes(1)
    assert SecretState.objects.get().refused_at is None


# -- what is kept of it ------------------------------------------------------------------------------------------------


def test_the_trail_says_who_read_which_value_and_holds_none(memory: Memory) -> None:  # P8
    process = Process(memory)
    process.passes()
    memory.values["OPENAI"] = NEW
    process.passes(3600)
    loaded, rotated = AuditEntry.objects.order_by("id")
    assert loaded.actor.startswith("agents@")
    assert loaded.details["name"] == "OPENAI"
    assert rotated.details["before"] == loaded.details["fingerprint"] != rotated.details["fingerprint"]
    state = SecretState.objects.get()
    assert state.fingerprint == rotated.details["fingerprint"]
    assert state.age(now=NOW + dt.timedelta(hours=2)) == dt.timedelta(hours=1)
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT count(*) FROM "{table}" t WHERE t::text ~ %s', [f"{OLD}|{NEW}"])
            assert cursor.fetchone() == (0,), table
    assert redacted(f"{OLD} {NEW}") == f"{MASK} {MASK}"


def test_a_fingerprint_is_keyed_and_of_one_name(settings: Any) -> None:
    secret = Secret(OLD)
    first = Key.of("A", secret).fingerprint
    assert first == Key.of("A", Secret(OLD)).fingerprint != Key.of("B", secret).fingerprint
    assert len(first) == 12
    settings.SECRET_KEY = "another-" + "x" * 60
    assert Key.of("A", secret).fingerprint != first


# -- the ring ----------------------------------------------------------------------------------------------------------


def key_of(text: str) -> Key:
    return Key(Secret(text), text)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=12), st.floats(0, 120))
def test_a_ring_holds_the_newest_and_within_the_grace_the_one_before(
    readings: list[tuple[str, float]], later: float
) -> None:
    ring, now, grace = Ring(key_of("a")), 0.0, 60.0
    changes = [("a", 0.0)]
    for text, pause in readings:
        now += pause
        ring = ring.aged(now=now).turned(key_of(text), now=now, grace_s=grace)
        if changes[-1][0] != text:
            changes.append((text, now))
    now += later
    valid = {changes[-1][0]}
    if len(changes) > 1 and now < changes[-1][1] + grace:
        valid.add(changes[-2][0])
    seen: set[str] = set()
    while (key := ring.untried(seen, now=now)) is not None:
        assert seen or key.fingerprint == changes[-1][0]  # the newest comes first
        seen.add(key.fingerprint)
    assert seen == valid
