"""First logins at the same moment: one account for one identity, and nobody meets an error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from apps.audit.trail import Actor
from apps.tenants.models import GroupRule, Identity, IdentityProvider, Match, Membership, Tenant, User
from apps.tenants.oidc.admitting import admit
from tests.processes import wait_until
from tests.signing_in import answer_of, begin, idp, provider, provider_process

__all__ = ["idp", "provider", "provider_process"]
BY = Actor("system", "test")


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, each made in a thread and a connection of its own at the same moment."""
    ready = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            ready.wait(30)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result(60) for each in [threads.submit(run, call) for call in calls]]


def test_first_logins_of_one_person_in_several_tabs_make_one_account(
    own_database: str, idp: IdentityProvider
) -> None:  # A2
    clients = [Client() for _ in range(4)]
    answers = [answer_of(begin(client), "ada") for client in clients]
    calls = [lambda c=client, a=answer: c.get(a) for client, answer in zip(clients, answers, strict=True)]  # type: ignore[misc]
    assert [response.status_code for response in in_threads(*calls)] == [302] * 4
    assert User.objects.get().username == "ada"
    assert Identity.objects.count() == Membership.objects.count() == 1
    assert all(client.get("/swarms/").status_code == 200 for client in clients)


@pytest.mark.parametrize("taken", ["name", "identity"])
def test_a_first_login_goes_on_from_what_was_made_meanwhile(
    own_database: str, idp: IdentityProvider, acme: Tenant, taken: str
) -> None:
    """A login through another provider takes the free name, or an administrator links the identity to an account."""
    other = IdentityProvider.objects.create(slug="other", name="Other", issuer="https://other.test", client_id="x")
    GroupRule.objects.create(provider=other, match=Match.EXACT, group="desk-operators", tenant=acme, role="viewer")
    claims = {"iss": idp.issuer, "sub": "ada", "preferred_username": "ada"}
    known = User.objects.create(username="known")
    made, may_commit = threading.Event(), threading.Event()

    def first() -> User:
        with transaction.atomic():
            if taken == "identity":
                user = known
                Identity.objects.create(user=user, provider=idp, issuer=idp.issuer, subject="ada")
            else:
                theirs = {**claims, "iss": other.issuer}
                user = admit(other, theirs, ["desk-operators"], by=BY, now=timezone.now())
            made.set()
            assert may_commit.wait(30)
        return user

    def then() -> User:
        assert made.wait(30)
        return admit(idp, claims, ["desk-operators"], by=BY, now=timezone.now())

    def let_go() -> None:
        assert made.wait(30)
        try:
            wait_until(_somebody_waits, "the login waits for the row that is being made")
        finally:
            may_commit.set()

    one, two, _ = in_threads(first, then, let_go)
    assert (one == two) is (taken == "identity")
    assert two.username == "known" if taken == "identity" else two.username.startswith("ada-")
    assert Identity.objects.get(issuer=idp.issuer, subject="ada").user == two
    assert User.objects.exclude(pk=known.pk).count() == (0 if taken == "identity" else 2)
    assert Membership.objects.get(user=two).role == "operator"


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


def test_a_provider_that_was_deleted_on_the_way_is_a_refusal(own_database: str, idp: IdentityProvider) -> None:
    client = Client()
    answer = answer_of(begin(client), "ada")
    IdentityProvider.objects.all().delete()
    assert client.get(answer).status_code == 400
    assert not User.objects.exists()
