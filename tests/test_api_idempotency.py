"""Idempotency-Key: what is sent again is answered again, and creates nothing twice, also when all come at once."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.utils import timezone

from apps.api import idempotency
from apps.api.models import IdempotencyKey
from apps.api.views import swarms as views
from apps.costs.models import Budget
from apps.swarms.actions.submit import submit
from apps.swarms.models import Swarm
from apps.tenants.models import Tenant, User
from tests.api_client import Caller, is_refusal
from tests.specs import BRIEF, simulated, spec

HEADER = "Idempotency_Key"
DAY = dt.timedelta(hours=24)


def _submit(call: Caller, key: str, **changes: Any) -> Any:
    return call.post("/swarms/", {"tenant": "acme", "spec": spec(**changes)}, Idempotency_Key=key)


@pytest.mark.django_db
class TestOneAfterTheOther:
    @pytest.fixture(autouse=True)
    def _provider(self, db: None) -> None:
        simulated()

    def test_the_same_request_is_answered_as_before(self, developer: User) -> None:
        call = Caller(developer)
        first, second = _submit(call, "k-1"), _submit(call, "k-1")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert first.headers["Location"] == second.headers["Location"]
        assert "Idempotency-Replayed" not in first.headers
        assert second.headers["Idempotency-Replayed"] == "true"
        assert Swarm.objects.count() == 1

    def test_without_a_key_or_with_another_each_request_counts(self, developer: User) -> None:
        call = Caller(developer)
        body = {"tenant": "acme", "spec": spec()}
        assert call.post("/swarms/", body).json()["id"] != call.post("/swarms/", body).json()["id"]
        _submit(call, "a")
        _submit(call, "b")
        assert Swarm.objects.count() == 4

    def test_the_same_key_with_another_body_is_refused(self, developer: User) -> None:
        call = Caller(developer)
        _submit(call, "k")
        answer = _submit(call, "k", swarm="another")
        assert is_refusal(answer, 422)
        assert answer.json()["errors"][0]["code"] == "idempotency_key_reused"
        assert Swarm.objects.count() == 1

    def test_the_order_of_keys_in_the_body_does_not_matter(self, developer: User) -> None:
        call = Caller(developer)
        first = call.post("/swarms/", {"tenant": "acme", "spec": BRIEF}, Idempotency_Key="k")
        assert call.post("/swarms/", {"spec": BRIEF, "tenant": "acme"}, Idempotency_Key="k").json() == first.json()

    def test_errors_are_not_kept_so_the_body_can_be_put_right(self, developer: User) -> None:
        call = Caller(developer)
        assert is_refusal(_submit(call, "k", priority="soon"), 400)
        assert not IdempotencyKey.objects.exists()
        assert _submit(call, "k").status_code == 201

    def test_keys_of_different_callers_never_meet(self, developer: User, operator: User) -> None:
        mine, theirs = _submit(Caller(developer), "k"), _submit(Caller(operator), "k")
        assert mine.json()["id"] != theirs.json()["id"]

    def test_keys_of_different_endpoints_never_meet(self, owner: User) -> None:
        call = Caller(owner)
        _submit(call, "k")
        made = call.post("/budgets/", {"tenant": "acme", "name": "b", "limit_usd": "1"}, Idempotency_Key="k")
        again = call.post("/budgets/", {"tenant": "acme", "name": "b", "limit_usd": "1"}, Idempotency_Key="k")
        assert made.status_code == 201
        assert made.json() == again.json()
        assert again.headers["Location"] == f"/api/v1/budgets/{made.json()['id']}/"
        assert Budget.objects.count() == 1

    def test_after_24_hours_the_key_is_new_again(self, developer: User) -> None:
        call = Caller(developer)
        first = _submit(call, "k")
        IdempotencyKey.objects.update(created_at=timezone.now() - DAY + dt.timedelta(minutes=1))
        assert _submit(call, "k").json()["id"] == first.json()["id"]
        IdempotencyKey.objects.update(created_at=timezone.now() - DAY - dt.timedelta(minutes=1))
        assert _submit(call, "k").json()["id"] != first.json()["id"]

    def test_old_keys_are_swept_by_new_ones(self, developer: User) -> None:
        old = timezone.now() - DAY - dt.timedelta(minutes=1)
        IdempotencyKey.objects.bulk_create(
            IdempotencyKey(who="user x", endpoint="POST /", key=str(n), request_hash="", created_at=old)
            for n in range(150)
        )
        call = Caller(developer)
        _submit(call, "k")
        assert IdempotencyKey.objects.count() == 51
        _submit(call, "l")
        assert IdempotencyKey.objects.count() == 2

    @pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "é"])
    def test_a_key_that_is_none_is_refused(self, key: str, developer: User) -> None:
        assert is_refusal(_submit(Caller(developer), key), 400)
        assert not Swarm.objects.exists()

    def test_a_replay_shows_nothing_to_who_lost_the_role(self, developer: User) -> None:
        call = Caller(developer)
        _submit(call, "k")
        developer.memberships.all().delete()
        answer = _submit(call, "k")
        assert is_refusal(answer, 404)

    def test_an_answer_never_reaches_a_disk_with_the_persons_name(self, developer: User) -> None:
        call = Caller(developer)
        call.post("/swarms/", {"tenant": "acme", "spec": BRIEF}, Idempotency_Key="k")
        assert "user-8842" not in str(IdempotencyKey.objects.values().get())


def _in_thread(work: Any) -> Any:
    try:
        return work()
    finally:
        connections.close_all()


def test_thirty_at_once_with_one_key_make_one_swarm(own_database: str, developer: User) -> None:
    simulated()
    callers = [Caller(None) for _ in range(30)]
    first = Caller(developer)
    gate = threading.Barrier(30)

    def send(call: Caller) -> Any:
        call.headers = first.headers
        gate.wait(timeout=30)
        return _submit(call, "k-30")

    with ThreadPoolExecutor(30) as pool:
        answers = [job.result() for job in [pool.submit(_in_thread, lambda c=call: send(c)) for call in callers]]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    replayed = Counter(answer.headers.get("Idempotency-Replayed") for answer in answers)
    assert replayed == {None: 1, "true": 29}
    assert Swarm.objects.count() == 1


def test_a_process_that_died_at_work_leaves_the_key_free(
    own_database: str, developer: User, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated()
    call = Caller(developer)
    real = submit

    def submit_and_die(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        # The database sees what it would see of a killed process: a connection that is gone.
        connections["default"].connection.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(views, "submit", submit_and_die)
    with pytest.raises(KeyboardInterrupt):
        _submit(call, "k")
    connections["default"].close()
    assert (Swarm.objects.count(), IdempotencyKey.objects.count()) == (0, 0)
    monkeypatch.setattr(views, "submit", real)
    assert _submit(call, "k").status_code == 201
    assert Swarm.objects.count() == 1


def test_a_request_does_not_wait_for_ever_for_its_twin(
    own_database: str, developer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated()
    call = Caller(developer)
    _submit(call, "k")
    row = IdempotencyKey.objects.get()
    IdempotencyKey.objects.all().delete()
    monkeypatch.setattr(idempotency, "LONGEST_WAIT_MS", 50)
    params = {k: v for k, v in connections["default"].get_connection_params().items() if k in ("host", "port", "user")}
    with psycopg.connect(dbname=connections["default"].settings_dict["NAME"], **params) as twin:
        twin.execute(
            "INSERT INTO api_idempotencykey (id, who, endpoint, key, request_hash, created_at) "
            "VALUES (gen_random_uuid(), %s, %s, %s, %s, now())",
            [row.who, row.endpoint, row.key, row.request_hash],
        )
        answer = _submit(call, "k")
        assert is_refusal(answer, 409)
        assert answer.json()["errors"][0]["code"] == "in_progress"
        assert answer.headers["Retry-After"] == "1"
        twin.rollback()
    assert _submit(call, "k").status_code == 201
    assert Swarm.objects.count() == 2
