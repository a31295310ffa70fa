"""Webhooks are sent by real processes to real receivers: promptly, at least once, and none in the way of another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.tenants.models import Tenant
from apps.webhooks.actions import ping, rotate_secret
from apps.webhooks.models import Delivery, DeliveryAttempt, DeliveryStatus, Webhook
from apps.webhooks.policies import Lanes
from apps.webhooks.sending import LEASE, Sender
from tests.forks import Forked
from tests.processes import wait_until
from tests.test_webhook_addresses import LOOPBACK
from tests.webhooks import BY, Received, due, happened, hook_of, receiver

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _loopback_is_allowed(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = [LOOPBACK]
    monkeypatch.setenv("WEBHOOK_ALLOWED_NETWORKS", str(LOOPBACK))


def started(*arguments: str) -> Forked:
    """A process of ``tests.webhook_sender``."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings"}
    return Forked("-m", "tests.webhook_sender", *arguments, env=environment, stdout=subprocess.PIPE)


def send(**options: Any) -> int:
    """Sends what is due, in this process."""
    return async_to_sync(Sender(**options).run)()


@pytest.mark.django_db
def test_what_is_sent_is_signed_and_recorded(acme: Tenant) -> None:
    with receiver(answer=lambda request: (200, {}, b"thank you")) as here:
        hook = hook_of(acme, here.url + "?key=1")
        rotate_secret(hook, by=BY)
        ping(hook, by=BY)
        assert send() == 1
    (request,) = here.received
    delivery = Delivery.objects.get()
    assert request.path == "/hooks?key=1"
    assert request.headers["webhook-id"] == str(delivery.pk)
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 10
    assert [each[:3] for each in request.headers["webhook-signature"].split()] == ["v1,", "v1,"]
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "Swarmdesk-Webhooks/1"
    assert json.loads(request.body)["type"] == "webhook.ping"
    assert request.body.decode() == delivery.body
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DELIVERED, 1)
    tried = delivery.tried.get()
    assert (tried.status_code, tried.text, tried.error) == (200, "thank you", "")
    assert 0 < tried.seconds < 5


@pytest.mark.django_db
def test_one_attempt_takes_a_fixed_number_of_queries(acme: Tenant) -> None:
    def queries(count: int) -> int:
        due(hook, count)
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert send() == count
        return len(asked)

    with receiver() as here:
        hook = hook_of(acme, here.url)
        few, more = queries(2), queries(6)
    assert (more - few) / 4 <= 12, "claim, lock, attempt, delivery, and their transactions"


@pytest.mark.django_db
def test_a_slow_receiver_delays_nobody_and_none_gets_too_much_at_once(acme: Tenant) -> None:
    quick_ones_are_done = threading.Event()

    def wait(request: Received) -> tuple[int, dict[str, str], bytes]:
        quick_ones_are_done.wait(30)
        return 200, {}, b""

    with receiver(answer=wait) as slow, receiver() as quick:
        due(hook_of(acme, slow.url, "slow"), 30)
        rest = hook_of(acme, quick.url, "quick")
        due(rest, 60)

        def release(request: Received) -> tuple[int, dict[str, str], bytes]:
            if len(quick.received) == 60:
                quick_ones_are_done.set()
            return 200, {}, b""

        quick.answer = release
        assert send(lanes=Lanes(most=20, each=4, failing=2)) == 90
        assert quick_ones_are_done.is_set()
        assert slow.most_at_once <= 4
        assert quick.most_at_once <= 4
    assert Delivery.objects.filter(status=DeliveryStatus.DELIVERED).count() == 90


@pytest.mark.django_db
def test_a_sender_ends_after_its_time_and_leaves_the_rest(acme: Tenant) -> None:
    with receiver() as here:
        due(hook_of(acme, here.url), 20)
        assert send(lifetime_s=-1.0) == 0
        assert Delivery.objects.filter(lease_token=None, status="pending").count() == 20


def test_a_sender_that_is_killed_leaves_its_delivery_to_another_with_the_same_id(
    own_database: str, acme: Tenant
) -> None:
    """SIGKILL between claim and record: the receiver has it, and nobody wrote that down."""
    process: list[Forked] = []

    def kill_the_sender(request: Received) -> tuple[int, dict[str, str], bytes]:
        if len(here.received) == 1:
            process[0].kill()
            process[0].wait(10)
        return 200, {}, b""

    with receiver(answer=kill_the_sender) as here:
        hook = hook_of(acme, here.url)
        (delivery,) = due(hook)
        process.append(started("send"))
        wait_until(lambda: process[0].poll() is not None, "the sender's end", 60)
        assert process[0].returncode == -signal.SIGKILL
        left = Delivery.objects.get()
        assert (left.status, left.is_in_flight, left.tried.count()) == (DeliveryStatus.PENDING, True, 0)
        assert send() == 0, "its lease holds"
        assert send(clock=lambda: timezone.now() + LEASE) == 1
    assert here.ids() == [str(delivery.pk)] * 2
    assert here.received[0].body == here.received[1].body
    told = list(DeliveryAttempt.objects.values_list("number", "status_code"))
    assert told == [(1, None), (2, 200)]
    assert Delivery.objects.get().status == DeliveryStatus.DELIVERED


def test_two_senders_at_once_send_nothing_twice(own_database: str, acme: Tenant) -> None:
    with receiver() as here:
        for n in range(4):
            due(hook_of(acme, here.url, f"hook {n}"), 20)
        senders = [started("send"), started("send")]
        made = [int(process.communicate(timeout=90)[0]) for process in senders]
    assert sum(made) == len(here.received) == 80
    assert len(set(here.ids())) == 80
    assert Delivery.objects.filter(status=DeliveryStatus.DELIVERED, attempts=1).count() == 80


def test_handing_out_killed_at_any_line_makes_one_delivery_of_each_event(own_database: str, acme: Tenant) -> None:
    hook = hook_of(acme, "http://127.0.0.1:9/")
    process = started("kill", str(hook.pk))
    told = [json.loads(line) for line in process.communicate(timeout=150)[0].splitlines()]
    assert process.returncode == 0
    assert len(told) > 20, "lines"
    assert [each["deliveries"] for each in told] == [1] * len(told)
    assert all(each["jobs"] >= 1 for each in told)
    assert [each["killed"] for each in told] == [True] * (len(told) - 1) + [False]


@pytest.fixture
def desk(own_database: str, acme: Tenant) -> Iterator[None]:
    """An orchestrator and a worker of the cluster ops."""
    commands = (["orchestrate"], ["work", "--cluster", "ops", "--workers", "1"])
    processes = [Forked("manage.py", *command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(40)


def test_an_event_is_received_within_two_seconds(desk: None, acme: Tenant) -> None:
    with receiver() as here:
        hook = hook_of(acme, here.url)
        ping(hook, by=BY)
        wait_until(lambda: len(here.received) == 1, "the first, while everything starts", 60)
        wait_until(lambda: Delivery.objects.get().status == DeliveryStatus.DELIVERED, "its record")
        took = []
        for number in range(2, 5):
            began = time.monotonic()
            happened(acme, "swarm.succeeded")
            wait_until(lambda n=number: len(here.received) == n, "the event", 10)  # type: ignore[misc]
            took.append(time.monotonic() - began)
        assert sorted(took)[1] < 2.0, took
    assert len(set(here.ids())) == 4
    kinds = [json.loads(request.body)["type"] for request in here.received]
    assert kinds == ["webhook.ping"] + ["swarm.succeeded"] * 3
    assert Webhook.objects.get().status == "enabled"
