"""Webhooks: how they are signed, claimed, tried again and given up, and the acts on them."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import re
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.events import consumers
from apps.events.models import Consumer, Event
from apps.tenants.models import Tenant
from apps.webhooks import handing_out, pruning, signing
from apps.webhooks.actions import (
    MOST_WEBHOOKS,
    change_webhook,
    delete_webhook,
    disable_webhook,
    enable_webhook,
    ping,
    repeat_delivery,
    rotate_secret,
)
from apps.webhooks.models import CannotSend, Delivery, DeliveryAttempt, DeliveryStatus, Webhook
from apps.webhooks.policies import BACKOFF, Answer, Endurance, Lanes
from apps.webhooks.recording import record
from apps.webhooks.sending import LEASE, claim
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import BY, due, hook_of

pytestmark = pytest.mark.django_db
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
HERE = "http://127.0.0.1:9/hooks"
GOOD, BAD, GONE = Answer(204, 0.1), Answer(500, 0.1, "sorry"), Answer(410, 0.1)


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]


@pytest.fixture
def hook(acme: Tenant) -> Webhook:
    return hook_of(acme, HERE)


def all_of_log(now: dt.datetime | None = None) -> int:
    """Makes deliveries of every event, in one transaction with the test's own, which a reader would not see yet."""
    return handing_out.make_deliveries(list(Event.objects.order_by("pk")), now=now or timezone.now())


def attempt(delivery: Delivery, answer: Answer, *, now: dt.datetime, roll: float = 0.0) -> Delivery:
    """One attempt, claimed and recorded."""
    (one,) = claim(now=now, lanes=Lanes(), room=1, failing_room=1)
    assert one.delivery_id == delivery.pk
    assert record(one.delivery_id, one.token, one.number, answer, now=now, roll=roll)
    delivery.refresh_from_db()
    return delivery


# -- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "waits_s"),
    [
        (1, 5),  # a hiccup
        (2, 20),
        (3, 80),
        (4, 320),  # a deployment
        (5, 1280),
        (6, 5120),
        (7, 20480),  # a night
        (8, 28800),  # never longer than eight hours
        (9, 28800),
        (10, None),  # that was the last
    ],
)
def test_a_failed_attempt_is_repeated_after(attempts: int, waits_s: float | None) -> None:
    assert BACKOFF.wait_s(attempts, roll=0.0) == waits_s
    spread = BACKOFF.wait_s(attempts, roll=1.0)
    assert spread == (None if waits_s is None else pytest.approx(waits_s * 1.1))


def test_all_tries_take_about_a_day() -> None:
    waits = [BACKOFF.wait_s(n, roll=0.0) or 0 for n in range(1, BACKOFF.attempts)]
    assert 23 * 3600 < sum(waits) < 24 * 3600


@pytest.mark.parametrize(
    ("asked_s", "waits_s"), [(0, 5), (3, 5), (60, 60), (86_400, 3600)]
)  # longer when asked to, never shorter, and never for longer than an hour
def test_a_receiver_may_ask_for_a_longer_wait(asked_s: float, waits_s: float) -> None:
    assert BACKOFF.wait_s(1, roll=0.0, asked_s=asked_s) == waits_s


@pytest.mark.parametrize(
    ("failures", "days", "over"),
    [
        (100, 1, False),  # many in a day: a day is what one delivery is tried for
        (19, 10, False),  # few in ten days: not enough to judge by
        (20, 5, True),
        (20, 4.9, False),
    ],
)
def test_a_webhook_is_given_up_after_many_failures_over_days(failures: int, days: float, over: bool) -> None:
    assert Endurance().is_over(failures, NOW - dt.timedelta(days=days), now=NOW) is over


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_signature_is_that_of_the_specification() -> None:
    """The example of the reference implementation."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    found = signing.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_has_256_random_bits() -> None:
    secrets = {signing.new_secret() for _ in range(20)}
    assert len(secrets) == 20
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", each) for each in secrets)


def test_for_a_day_after_a_rotation_both_secrets_sign(hook: Webhook) -> None:
    first = hook.signing_secret.reveal()
    rotated, second = rotate_secret(hook, by=BY, now=NOW)
    assert first != second
    rotated = Webhook.objects.get(pk=hook.pk)
    assert rotated.secrets(now=NOW + dt.timedelta(hours=23, minutes=59)) == [second, first]
    assert rotated.secrets(now=NOW + dt.timedelta(days=1)) == [second]
    told = signing.headers(rotated.secrets(now=NOW), "id", 5, b"body")
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in (second, first)]
    expected = ["v1," + base64.b64encode(hmac.new(key, b"id.5.body", hashlib.sha256).digest()).decode() for key in keys]
    assert told == {"webhook-id": "id", "webhook-timestamp": "5", "webhook-signature": " ".join(expected)}
    assert pruning.prune(now=NOW + dt.timedelta(days=1)) == {"deliveries": 0, "secrets": 1}
    assert Webhook.objects.get(pk=hook.pk).previous_secret is None


def test_secrets_lie_encrypted_in_the_database(hook: Webhook) -> None:
    rotate_secret(hook, by=BY)
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(w)::text FROM webhooks_webhook w")
        (row,) = cursor.fetchone() or ("",)
    assert "whsec_" not in row
    assert row.count("swd1.") == 2
    assert "whsec_" not in str(list(AuditEntry.objects.values()))


# -- claiming ----------------------------------------------------------------------------------------------------------


def test_what_is_claimed_is_nobody_elses_until_its_lease_ends(hook: Webhook) -> None:
    (delivery,) = due(hook, at=NOW)
    (first,) = claim(now=NOW, lanes=Lanes(), room=10, failing_room=10)
    assert claim(now=NOW + LEASE - dt.timedelta(seconds=1), lanes=Lanes(), room=10, failing_room=10) == []
    (second,) = claim(now=NOW + LEASE, lanes=Lanes(), room=10, failing_room=10)
    assert (first.delivery_id, first.number) == (second.delivery_id, 1)
    assert second.number == 2
    assert second.post.headers["webhook-id"] == first.post.headers["webhook-id"] == str(delivery.pk)
    assert not record(first.delivery_id, first.token, 1, GOOD, now=NOW, roll=0), "its lease is over"
    assert record(second.delivery_id, second.token, 2, GOOD, now=NOW, roll=0)
    told = list(DeliveryAttempt.objects.values_list("number", "status_code", "error"))
    assert told == [(1, None, "The sender stopped before the answer was known."), (2, 204, "")]


def test_one_webhook_gets_so_many_at_once_and_a_failing_one_a_single_one(acme: Tenant) -> None:
    healthy, failing = hook_of(acme, HERE, "healthy"), hook_of(acme, HERE, "failing")
    due(healthy, 20, at=NOW)
    due(failing, 20, at=NOW)
    failing.take_note(BAD, now=NOW)
    failing.save()
    taken = claim(now=NOW, lanes=Lanes(most=100, each=8, failing=50), room=100, failing_room=50)
    by_id = {one.delivery_id: one for one in taken}
    of = {hook.pk: [by_id[d.pk] for d in hook.deliveries.filter(pk__in=by_id)] for hook in (healthy, failing)}
    assert (len(of[healthy.pk]), len(of[failing.pk])) == (8, 1)
    assert [one.fails for one in of[failing.pk]] == [True]
    assert claim(now=NOW, lanes=Lanes(), room=100, failing_room=50) == []
    one = of[healthy.pk][0]
    record(one.delivery_id, one.token, one.number, GOOD, now=NOW, roll=0)
    assert len(claim(now=NOW, lanes=Lanes(), room=100, failing_room=50)) == 1


def test_no_long_list_is_in_the_way_of_others(acme: Tenant) -> None:
    hooks = [hook_of(acme, HERE, f"hook {n}") for n in range(6)]
    due(hooks[0], 50, at=NOW - dt.timedelta(hours=1))
    for hook in hooks[1:]:
        due(hook, 1, at=NOW)
    taken = claim(now=NOW, lanes=Lanes(), room=6, failing_room=6)
    assert {Delivery.objects.get(pk=one.delivery_id).webhook_id for one in taken} == {hook.pk for hook in hooks}


def test_failing_webhooks_together_take_no_more_than_their_share(acme: Tenant) -> None:
    for n in range(6):
        hook = hook_of(acme, HERE, f"hook {n}")
        due(hook, 2, at=NOW)
        if n:
            hook.take_note(BAD, now=NOW)
            hook.save()
    taken = claim(now=NOW, lanes=Lanes(most=10, each=8, failing=3), room=10, failing_room=3)
    assert sorted(one.fails for one in taken) == [False, False, True, True, True]


def test_nothing_is_sent_of_a_tenant_that_is_no_longer_active(hook: Webhook) -> None:
    due(hook, at=NOW)
    Tenant.objects.update(is_active=False)
    assert claim(now=NOW, lanes=Lanes(), room=9, failing_room=9) == []
    Tenant.objects.update(is_active=True)
    assert len(claim(now=NOW, lanes=Lanes(), room=9, failing_room=9)) == 1


# -- what comes of an attempt ------------------------------------------------------------------------------------------


def test_a_delivery_is_tried_ten_times_and_then_given_up(hook: Webhook) -> None:
    (delivery,) = due(hook, at=NOW)
    now, waits = NOW, []
    while (delivery := attempt(delivery, BAD, now=now)).next_at:
        waits.append((delivery.next_at - now).total_seconds())
        assert claim(now=delivery.next_at - dt.timedelta(seconds=1), lanes=Lanes(), room=1, failing_room=1) == []
        now = delivery.next_at
    assert waits == [5, 20, 80, 320, 1280, 5120, 20480, 28800, 28800]
    assert (delivery.status, delivery.finished_at) == (DeliveryStatus.FAILED, now)
    assert list(delivery.tried.values_list("number", "status_code", "text")) == [
        (n, 500, "sorry") for n in range(1, 11)
    ]
    hook.refresh_from_db()
    assert (hook.failures, hook.failing_since, hook.status) == (10, NOW, "failing")


def test_a_success_ends_a_run_of_failures(hook: Webhook) -> None:
    (delivery,) = due(hook, at=NOW)
    delivery = attempt(delivery, BAD, now=NOW)
    delivery = attempt(delivery, GOOD, now=NOW + dt.timedelta(seconds=5))
    assert delivery.status == DeliveryStatus.DELIVERED
    hook.refresh_from_db()
    assert (hook.failures, hook.failing_since, hook.status) == (0, None, "enabled")


def test_gone_disables_a_webhook_with_its_reason_and_an_event(hook: Webhook) -> None:
    first, second = due(hook, 2, at=NOW)
    first = attempt(first, GONE, now=NOW)
    hook.refresh_from_db()
    assert first.status == DeliveryStatus.FAILED
    assert (hook.is_enabled, hook.disabled_cause, hook.disabled_at) == (False, "gone", NOW)
    event = Event.objects.get(kind="webhook.disabled")
    assert event.data == {"webhook_id": str(hook.pk), "cause": "gone"}
    entry = AuditEntry.objects.latest("id")
    assert (entry.actor, entry.action, entry.details["act"]) == ("webhooks", "webhook:manage", "disable")
    assert "410" in entry.reason
    assert claim(now=NOW, lanes=Lanes(), room=9, failing_room=9) == [], "what waits goes on waiting"
    enable_webhook(hook, by=BY)
    assert [one.delivery_id for one in claim(now=NOW, lanes=Lanes(), room=9, failing_room=9)] == [second.pk]


def test_a_long_run_of_failures_disables_a_webhook(hook: Webhook) -> None:
    for number in range(20):
        (delivery,) = due(hook, at=NOW + dt.timedelta(hours=7 * number))
        attempt(delivery, BAD, now=NOW + dt.timedelta(hours=7 * number))
        delivery.delete()
        hook.refresh_from_db()
        assert hook.is_enabled is (number < 19)
    assert hook.disabled_cause == "failing"
    assert hook.disabled_reason == "20 attempts failed since 2026-11-21 12:00 UTC, and none succeeded."
    enable_webhook(hook, by=BY)
    hook.refresh_from_db()
    assert (hook.failures, hook.disabled_reason) == (0, "")


def test_a_ping_is_tried_once(hook: Webhook) -> None:
    sent = ping(hook, by=BY, now=NOW)
    assert json.loads(sent.body)["type"] == "webhook.ping"
    assert attempt(sent, BAD, now=NOW).status == DeliveryStatus.FAILED


def test_a_delivery_that_is_over_is_sent_again_with_its_id_and_all_tries(hook: Webhook) -> None:
    (delivery,) = due(hook, at=NOW)
    delivery = attempt(delivery, GOOD, now=NOW)
    later = NOW + dt.timedelta(days=1)
    repeat_delivery(delivery, by=BY, now=later)
    with pytest.raises(CannotSend, match="on its way"):
        repeat_delivery(delivery, by=BY, now=later)
    (again,) = claim(now=later, lanes=Lanes(), room=1, failing_room=1)
    assert (again.delivery_id, again.number) == (delivery.pk, 2)
    record(again.delivery_id, again.token, again.number, BAD, now=later, roll=0)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.tries, delivery.attempts) == (DeliveryStatus.PENDING, 1, 2)
    details = AuditEntry.objects.filter(details__act="repeat").get().details
    assert details == {"act": "repeat", "delivery": str(delivery.pk), "event": delivery.event_id}


# -- acts --------------------------------------------------------------------------------------------------------------


def test_acts_are_audited_and_refused_with_their_reason(hook: Webhook) -> None:
    change_webhook(hook, by=BY, url="http://127.0.0.1:9/x?token=abcdef123456", kinds=["swarm.failed"])
    disable_webhook(hook, by=BY, reason="maintenance")
    for act in (disable_webhook, ping):
        with pytest.raises(CannotSend, match="disabled"):
            act(hook, by=BY)
    enable_webhook(hook, by=BY)
    with pytest.raises(CannotSend, match="enabled already"):
        enable_webhook(hook, by=BY)
    told = [(entry.details["act"], entry.reason) for entry in AuditEntry.objects.order_by("id")]
    assert told == [("create", ""), ("change", ""), ("disable", "maintenance"), ("enable", "")]
    assert "abcdef123456" not in str(list(AuditEntry.objects.values("details")))
    assert [e.kind for e in Event.objects.order_by("id")] == ["webhook.disabled", "webhook.enabled"]


def test_deleting_takes_the_deliveries_along(hook: Webhook) -> None:
    (delivery, _) = due(hook, 2, at=NOW)
    (one,) = claim(now=NOW, lanes=Lanes(), room=1, failing_room=1)
    DeliveryAttempt.objects.create(delivery=delivery, number=5)
    delete_webhook(hook, by=BY, reason="not needed")
    assert not Delivery.objects.exists()
    assert AuditEntry.objects.latest("id").details["deliveries"] == 2
    assert not record(one.delivery_id, one.token, 1, GOOD, now=NOW, roll=0), "what was in flight is dropped"


def test_an_act_without_its_audit_entry_does_not_stand(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no trail")

    monkeypatch.setattr("apps.webhooks.actions.trail.record", broken)
    for act in (rotate_secret, disable_webhook, ping, delete_webhook):
        with pytest.raises(RuntimeError), transaction.atomic():
            act(hook, by=BY)  # type: ignore[operator]
    same = Webhook.objects.get(pk=hook.pk)
    assert (same.is_enabled, same.previous_secret) == (True, None)
    assert same.signing_secret == hook.signing_secret
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "", "blank"),
        ("name", "taken", "already exists"),
        ("url", "ftp://127.0.0.1/", "https://"),
        ("url", "http://10.0.0.1/", "cannot be reached"),
        ("kinds", ["swarm.exploded"], "no such events: swarm.exploded"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(hook: Webhook, field: str, value: Any, says: str) -> None:
    hook_of(hook.tenant, HERE, "taken")
    with pytest.raises(ValidationError, match=says):
        change_webhook(hook, by=BY, **{field: value})
    same = Webhook.objects.get(pk=hook.pk)
    assert (same.name, same.url, same.kinds) == ("hook", HERE, [])


def test_a_tenant_has_so_many_webhooks_at_most(acme: Tenant) -> None:
    Webhook.objects.bulk_create(
        Webhook(tenant=acme, name=f"hook {n}", url=HERE, signing_secret="whsec_x") for n in range(MOST_WEBHOOKS)
    )
    with pytest.raises(ValidationError, match="at most 50"):
        hook_of(acme, HERE, "one more")


def test_old_deliveries_go_and_those_in_flight_stay(hook: Webhook, settings: Any) -> None:
    settings.WEBHOOK_DAYS_KEPT = 30
    old, flying = due(hook, 2, at=NOW - dt.timedelta(days=31))
    (young,) = due(hook, 1, at=NOW - dt.timedelta(days=29))
    Delivery.objects.filter(pk=flying.pk).update(lease_token="019a9b3c-5d1e-7c3a-9f10-2b6f6f0f1c11")
    DeliveryAttempt.objects.create(delivery=old, number=1)
    assert pruning.prune(now=NOW) == {"deliveries": 1, "secrets": 0}
    assert set(Delivery.objects.values_list("pk", flat=True)) == {flying.pk, young.pk}


def test_readiness_asks_for_the_reader() -> None:
    assert handing_out.CONSUMER in consumers.expected()
    assert consumers.missing() == [], "it was made with the tables, at the end of the log of then"
    Consumer.objects.filter(name=handing_out.CONSUMER).delete()
    assert consumers.missing() == [handing_out.CONSUMER]
