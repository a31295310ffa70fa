"""Sessions: a copy of the database opens none."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.backends.db import SessionStore as PlainStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from apps.observability.housekeeping import prune
from apps.tenants.models import User
from portal.sessions import SessionStore, stored

pytestmark = pytest.mark.django_db


def _logged_in(user: User) -> Client:
    client = Client()
    assert client.post("/login/", {"username": user.username, "password": "correct horse battery"}).status_code == 302
    return client


def _enters(key: str) -> bool:
    client = Client()
    client.cookies["sessionid"] = key
    return bool(client.get("/swarms/").status_code == 200)


def test_what_lies_in_the_database_opens_no_session(owner: User) -> None:
    client = _logged_in(owner)
    key = client.cookies["sessionid"].value
    row = Session.objects.get()
    assert row.session_key == stored(key) != key
    assert len(row.session_key) == 40
    assert key not in row.session_data
    assert _enters(key)
    assert not _enters(row.session_key)


def test_a_session_whose_key_was_kept_in_clear_has_ended(owner: User) -> None:
    client = _logged_in(owner)
    of_before = PlainStore()
    of_before.update(dict(client.session.items()))
    of_before.create()
    assert not _enters(str(of_before.session_key))


def test_logging_out_deletes_the_row_and_logging_in_leaves_none_behind(owner: User) -> None:
    client = _logged_in(owner)
    key = client.cookies["sessionid"].value
    client.post("/logout/")
    assert not Session.objects.exists()
    assert not _enters(key)
    store = SessionStore()
    store["seen"] = "the login page"
    store.create()
    again = Client()
    again.cookies["sessionid"] = str(store.session_key)
    again.post("/login/", {"username": owner.username, "password": "correct horse battery"})
    assert Session.objects.get().session_key == stored(again.cookies["sessionid"].value), "with a key anew, and one row"


def test_expired_sessions_are_removed(owner: User) -> None:
    kept = _logged_in(owner).cookies["sessionid"].value
    for remove in (lambda: prune(now=timezone.now()), lambda: call_command("clearsessions")):
        ended = _logged_in(owner).cookies["sessionid"].value
        Session.objects.filter(pk=stored(ended)).update(expire_date=timezone.now() - dt.timedelta(seconds=1))
        assert not _enters(ended)
        remove()
        assert list(Session.objects.values_list("pk", flat=True)) == [stored(kept)]


def test_it_keeps_loads_and_forgets_in_either_way() -> None:
    store: Any = SessionStore()
    store["colour"] = "green"
    store.save()
    key = store.session_key
    assert store.exists(key)
    assert not store.exists(stored(key))
    store["colour"] = "blue"
    store.save()
    assert SessionStore(key)["colour"] == "blue"

    async def steps() -> None:
        store: Any = SessionStore(key)
        assert await store.aget("colour") == "blue"
        await store.aset("colour", "red")
        await store.asave()
        assert await store.aexists(key)
        await store.adelete()
        assert not await store.aexists(key)
        gone: Any = SessionStore(key)
        assert await gone.aget("colour") is None
        assert gone.session_key is None
        made: Any = SessionStore()
        await made.acreate()
        assert await SessionStore(made.session_key).aload() == {}
        await made.aflush()

    async_to_sync(steps)()
    assert SessionStore(key).get("colour") is None
    assert not Session.objects.exists()
