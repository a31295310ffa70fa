"""Cached answers as all workers share them: found, bounded, sealed, forgotten, and never in the way."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import uuid
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from apps.audit.models import AuditEntry
from apps.costs import cached_calls
from apps.costs.cached_calls import CachedCall
from apps.costs.models import LedgerEntry
from apps.execution import results
from apps.execution.answering import CachePolicy, is_whole
from apps.providers import answers, cache_usage, invalidating
from apps.providers.answer_cache import AnswerCache
from apps.providers.answers import Ask, NewAnswer
from apps.providers.cache_usage import Counts
from apps.providers.invalidating import BadPattern, Pattern
from apps.providers.models import Cache, CachedAnswer, CacheUsage, Invalidation
from apps.tenants.access import AccessDenied, principal_of, principal_of_command
from apps.tenants.models import Tenant, User
from tests.forks import Forked
from tests.running import wait_until

NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def answer(tenant: Tenant, key: str, *, given: float = 0, lives_s: float = 300, **fields: Any) -> NewAnswer:
    given_at = at(given)
    wanted = {"agent": "worker", "model": "simulated:small", "text": f"answer {key}", "began_at": given_at, **fields}
    return NewAnswer(
        key=key, tenant_id=tenant.pk, given_at=given_at, expires_at=at(given + lives_s), **wanted
    )  # fmt: skip


def found(tenant: Tenant, *keys: str, now: float = 1, max_age_s: float = 300) -> list[str | None]:
    asks = [Ask(key, tenant.pk, at(now - max_age_s)) for key in keys]
    return [each.text if each else None for each in answers.find(asks, now=at(now))]


def kept(tenant: Tenant) -> set[str]:
    return set(CachedAnswer.objects.filter(tenant=tenant).values_list("key", flat=True))


def test_look_ups_of_several_agents_are_one_query(acme: Tenant) -> None:
    answers.keep([answer(acme, "a"), answer(acme, "b")], now=NOW)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert found(acme, "a", "missing", "b", "a") == ["answer a", None, "answer b", "answer a"]
    assert len(queries) == 1


def test_a_key_of_another_tenant_finds_nothing(acme: Tenant, rival: Tenant) -> None:  # A5
    answers.keep([answer(acme, "a")], now=NOW)
    assert found(rival, "a") == [None]


def test_answers_are_sealed_for_their_key(acme: Tenant) -> None:  # A7
    answers.keep([answer(acme, "a", text="Ada's address"), answer(acme, "b")], now=NOW)
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(a::text, '') FROM providers_cachedanswer a")
        (dump,) = cursor.fetchone()
        assert "Ada" not in dump
        cursor.execute(
            "UPDATE providers_cachedanswer SET answer = (SELECT answer FROM providers_cachedanswer WHERE key = 'a') "
            "WHERE key = 'b'"
        )
    assert found(acme, "a", "b") == ["Ada's address", None]


def test_an_answer_ends_by_the_clock_and_is_removed(acme: Tenant) -> None:
    answers.keep([answer(acme, "a"), answer(acme, "long", lives_s=86_400)], now=NOW)
    assert found(acme, "a", now=299) == ["answer a"]
    assert found(acme, "a", now=300) == [None]
    assert found(acme, "long", now=400) == [None], "it is kept for when all is down, and too old for everyday"
    assert found(acme, "long", now=400, max_age_s=86_400) == ["answer long"]
    assert answers.prune(now=at(299)) == 0
    assert answers.prune(now=at(300)) == 1
    assert kept(acme) == {"long"}


def test_asked_again_it_is_new_again(acme: Tenant) -> None:
    answers.keep([answer(acme, "a", text="old")], now=NOW)
    answers.keep([answer(acme, "a", given=200, text="new")], now=at(200))
    assert found(acme, "a", now=450) == ["new"]


def test_the_least_recently_used_make_room_in_their_tenant_only(  # P6
    acme: Tenant, rival: Tenant, settings: Any
) -> None:
    settings.RESPONSE_CACHE_ENTRIES = 3
    answers.keep([answer(rival, "theirs")], now=NOW)
    for place, key in enumerate("abc"):
        answers.keep([answer(acme, key, given=place)], now=at(place))
    answers.touch({"a": 2}, now=at(10))
    result = answers.keep([answer(acme, "d", given=11), answer(acme, "e", given=11)], now=at(11))
    assert kept(acme) == {"a", "d", "e"}
    assert (dict(result.stored), dict(result.evicted)) == ({acme.pk: 2}, {acme.pk: 2})
    assert kept(rival) == {"theirs"}
    assert CachedAnswer.objects.get(key="a").hits == 2


STORING = """
import datetime as dt, sys
import django
django.setup()
from django.conf import settings
from apps.providers import answers
from apps.providers.models import CachedAnswer
from apps.tenants.models import Tenant
tenant = Tenant.objects.get(slug="acme")
NOW = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
def answer(key, at=NOW):
    return answers.NewAnswer(key, tenant.pk, "worker", "simulated:small", key, at, at, at + dt.timedelta(minutes=5))
"""
"""The start of a process that stores answers; imports little, as several are started."""
WRITER = """
settings.RESPONSE_CACHE_ENTRIES = 20
most = 0
for turn in range(40):
    at = NOW + dt.timedelta(seconds=turn)
    answers.keep([answer(f"{sys.argv[1]} {turn} {n}", at) for n in range(3)], now=at)
    answers.touch({f"{sys.argv[1]} {turn} 0": 1}, now=at)
    most = max(most, CachedAnswer.objects.count())
print(most)
"""


@pytest.mark.processes
def test_the_bound_holds_whatever_processes_write_at_once(own_database: str, acme: Tenant) -> None:
    writers = [Forked("-c", STORING + WRITER, str(n), stdout=subprocess.PIPE) for n in range(3)]
    most = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert max(most) == 20
    assert CachedAnswer.objects.count() == 20


# -- forgetting ------------------------------------------------------------------------------------------------------


def test_a_pattern_means_tenants_agents_and_models(acme: Tenant, rival: Tenant, platform_admin: User) -> None:
    by = principal_of(platform_admin)
    everything = {
        "1": answer(acme, "1", agent="writer", model="openai:gpt-4o"),
        "2": answer(acme, "2", agent="writer-2", model="openrouter:meta/llama.3"),
        "3": answer(rival, "3", agent="reader", model="openai:gpt-4o-mini"),
    }
    for pattern, meant in (
        ("*/*/*", "123"),
        ("acme/*/*", "12"),
        ("*/writer/*", "1"),
        ("*/writer*/*", "12"),
        ("*/*/openai:*", "13"),
        ("*/*/openai:gpt-4?", "1"),
        ("r?val/*/*", "3"),
        ("*/*/openrouter:meta/llama.?", "2"),
        ("*/*/openrouter:meta/llama??", "2"),
        ("*/*/openrouter:meta/llama-3", ""),
    ):
        answers.keep(list(everything.values()), now=NOW)
        patterns = invalidating.patterns_of(pattern, by=by)
        gone = invalidating.invalidate(patterns, by=by, reason="Test.", now=at(-1))
        left = set(CachedAnswer.objects.values_list("key", flat=True))
        assert (gone, left) == (len(meant), set(everything) - set(meant)), pattern
        covered = {k for k, a in everything.items() if any(p.covers(a.tenant_id, a.agent, a.model) for p in patterns)}
        assert covered == set(meant), pattern


@pytest.mark.parametrize("text", ["", "acme", "acme/*", "/*/*", "acme//x", "acme/a b/*", "acme/[a]/*", "acme/*/x[1]"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(BadPattern):
        invalidating.parse(text)


def test_people_forget_what_is_their_tenants(
    acme: Tenant, rival: Tenant, owner: User, viewer: User, outsider: User
) -> None:
    answers.keep([answer(acme, "a"), answer(rival, "r")], now=NOW)
    for user in (viewer, outsider):
        with pytest.raises(AccessDenied):
            invalidating.patterns_of("acme/*/*", by=principal_of(user))
        with pytest.raises(AccessDenied):
            invalidating.invalidate([Pattern(acme.pk)], by=principal_of(user), reason="", now=at(1))
        with pytest.raises(AccessDenied):
            invalidating.invalidate([Pattern(None)], by=principal_of(user), reason="", now=at(1))
    by = principal_of(owner)
    assert invalidating.invalidate(invalidating.patterns_of("*/*/*", by=by), by=by, reason="Wrong.", now=at(1)) == 1
    assert (kept(acme), kept(rival)) == (set(), {"r"})
    entry = AuditEntry.objects.get(action="cache:invalidate")
    assert (entry.tenant_id, entry.reason, entry.details["answers"]) == (acme.pk, "Wrong.", 1)


def test_what_a_call_from_before_answers_is_not_kept(acme: Tenant, rival: Tenant) -> None:
    by = principal_of(User.objects.create(username="root", is_superuser=True))
    invalidating.invalidate([Pattern(acme.pk, agent="work*")], by=by, reason="", now=at(10))
    late = [
        answer(acme, "before", given=12, began_at=at(9)),
        answer(acme, "after", given=12, began_at=at(11)),
        answer(acme, "of another agent", given=12, began_at=at(9), agent="reader"),
        answer(rival, "of another tenant", given=12, began_at=at(9)),
    ]
    answers.keep(late, now=at(12))
    assert set(CachedAnswer.objects.values_list("key", flat=True)) == {
        "after",
        "of another agent",
        "of another tenant",
    }
    assert invalidating.prune(now=at(10) + invalidating.KEPT) == 0
    assert invalidating.prune(now=at(11) + invalidating.KEPT) == 1
    assert not Invalidation.objects.exists()


@pytest.mark.processes
def test_who_stores_while_answers_are_forgotten_waits_and_then_knows(own_database: str, acme: Tenant) -> None:
    with transaction.atomic():
        invalidating.forget_tenant(acme.pk, by=principal_of_command("test"), reason="Erasure.", now=at(5))
        storing = Forked("-c", STORING + 'answers.keep([answer("late")], now=NOW)')
        wait_until(waits_for_the_order, what="the process that stores to wait")
    assert storing.wait(30) == 0
    assert not CachedAnswer.objects.exists()


def waits_for_the_order() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(cursor.fetchone()[0])


# -- in a process ----------------------------------------------------------------------------------------------------


def test_a_slow_cache_is_a_miss_and_is_left_alone_for_a_moment(
    own_database: str, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers.keep([answer(acme, "a")], now=NOW)

    async def main() -> tuple[float, Any, Any]:
        cache = AnswerCache(now=lambda: at(1), patience_s=0.05)
        loop = asyncio.get_running_loop()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE providers_cachedanswer IN ACCESS EXCLUSIVE MODE")
            began = loop.time()
            missed = await cache.find("a", acme.pk, younger_than_s=300)
            took = loop.time() - began
        again = await cache.find("a", acme.pk, younger_than_s=300)
        await cache.aclose()
        return took, missed, again

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    took, missed, again = asyncio.run(main())
    assert (missed, again) == (None, None)
    assert took < 2
    assert CacheUsage.objects.get().failures == 2


def test_an_order_to_forget_ends_the_sharing_of_calls_under_way() -> None:
    async def main() -> None:
        cache = AnswerCache()
        first = cache.take_off("k")
        assert cache.flight("k") is first
        cache.hear()
        assert cache.flight("k") is None
        second = cache.take_off("k")
        cache.land("k", first, "old")
        assert cache.flight("k") is second, "a call from before does not end the one that came after"
        assert await first == "old"
        cache.land("k", second, None)
        assert cache.flight("k") is None

    asyncio.run(main())


def test_use_is_added_up_in_five_minutes(acme: Tenant) -> None:
    key = (Cache.RESPONSES, acme.pk)
    cache_usage.add({key: Counts(hits=2, saved=10), (Cache.CONFIGURATION, None): Counts(hits=5)}, now=at(0))
    cache_usage.add({key: Counts(hits=1, misses=4, saved=5), (Cache.CONFIGURATION, None): Counts(hits=1)}, now=at(299))
    cache_usage.add({key: Counts(hits=7)}, now=at(300))
    cache_usage.add({(Cache.RESPONSES, uuid.uuid4()): Counts(hits=1)}, now=at(300))  # a tenant that is gone
    rows = CacheUsage.objects.order_by("starts_at", "cache").values_list("cache", "hits", "misses", "saved")
    assert list(rows) == [("configuration", 6, 0, 0), ("responses", 3, 4, 15), ("responses", 7, 0, 0)]
    assert cache_usage.prune(now=at(300) + cache_usage.KEPT) == 2


# -- the ledger ------------------------------------------------------------------------------------------------------


def call(tenant: Tenant, **fields: Any) -> CachedCall:
    values: dict[str, Any] = {name: uuid.uuid4() for name in ("swarm_id", "task_id", "attempt_id")}
    values |= {"age_s": 42.0, "saved": 7, **fields}
    return CachedCall(
        id=uuid.uuid4(), tenant_id=tenant.pk, subject_id=None, agent="worker", model="simulated:small", **values
    )  # fmt: skip


def test_a_hit_is_recorded_once_however_often_its_batch_is_written(acme: Tenant) -> None:
    calls = [call(acme), call(acme, saved=None), call(acme, age_s=9000.0, degraded=True)]
    results.write([*calls, calls[0]], now=NOW)
    results.write(calls, now=at(1))
    entries = LedgerEntry.objects.order_by("pk").values_list("amount", "saved", "note", "at")
    assert list(entries) == [
        (0, 7, "Answered from the cache: the answer was 42 s old.", NOW),
        (0, 0, "Answered from the cache: the answer was 42 s old.", NOW),
        (0, 7, "Answered from the cache, as no region answered: the answer was 2.5 h old.", NOW),
    ]
    assert cached_calls.record(calls, now=NOW) == 0


# -- what may be given again -----------------------------------------------------------------------------------------


def test_only_whole_answers_are_given_again() -> None:
    from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

    plain = ModelRequestParameters()
    output = ModelRequestParameters(output_tools=[ToolDefinition(name="final", parameters_json_schema={})])
    text, final, act = TextPart("Yes."), ToolCallPart("final", {}), ToolCallPart("act", {})
    for parts, reason, parameters, may in (
        ([text], "stop", plain, True),
        ([ThinkingPart("Hm."), text], "stop", plain, True),
        ([text], "length", plain, False),
        ([text], "content_filter", plain, False),
        ([text], "error", plain, False),
        ([text], None, plain, False),  # who knows
        ([TextPart("  ")], "stop", plain, False),
        ([], "stop", plain, False),
        ([final], "tool_call", output, True),
        ([final], "tool_call", plain, False),
        ([text, act], "tool_call", output, False),
    ):
        response = ModelResponse(parts=parts, finish_reason=reason)  # type: ignore[arg-type]
        assert is_whole(response, parameters) is may, (parts, reason)


def test_an_agent_that_says_nothing_allows_nothing(settings: Any) -> None:
    assert CachePolicy.of({}) is None
    assert CachePolicy.of({"cache": {"max_age_s": 9}}) is None
    assert CachePolicy.of({"cache": {"answers": True}}) == CachePolicy(True, False, 300, 86_400)
    settings.RESPONSE_CACHE_S = 60
    policy = CachePolicy.of({"cache": {"answers": True, "degraded": True}})
    assert policy is not None
    assert (policy.max_age_s, policy.kept_s) == (60, 86_400)
