"""Sessions in the database, kept under a hash of their key: who reads the database cannot go on with one."""

from __future__ import annotations

import datetime as dt
import hashlib
from base64 import urlsafe_b64encode
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.db.models import QuerySet
from django.utils import timezone

from portal.database.prepared import Prepared

_FIELDS = [field.attname for field in Session._meta.concrete_fields]


def _in_force(key: str, now: dt.datetime) -> QuerySet[Session]:
    return Session.objects.filter(session_key=key, expire_date__gt=now)


_FOUND = Prepared(lambda key, now: _in_force(key, now).values_list(*_FIELDS), key=str, now=dt.datetime)


def stored(key: str) -> str:
    """What the database knows a session by: the first 240 bits of the SHA-256 of its key, which fill the column.

    A key has 165 random bits, so there is nothing to salt: what cannot be guessed cannot be looked up either.
    """
    return urlsafe_b64encode(hashlib.sha256(key.encode()).digest()[:30]).decode()


class SessionStore(db.SessionStore):
    """Django's, but for the name under which a row is written, found and deleted."""

    def _get_session_from_db(self) -> Session | None:
        for row in _FOUND.rows(key=stored(self.session_key or ""), now=timezone.now()):
            return Session.from_db("default", _FIELDS, row)
        self._session_key = None
        return None

    async def _aget_session_from_db(self) -> Session | None:
        found: Session | None = await _in_force(stored(self.session_key or ""), timezone.now()).afirst()
        if found is None:
            self._session_key = None
        return found

    def exists(self, session_key: str) -> bool:
        return super().exists(stored(session_key))

    async def aexists(self, session_key: str) -> bool:
        return bool(await super().aexists(stored(session_key)))

    def create_model_instance(self, data: Any) -> Session:
        return self._renamed(super().create_model_instance(data))

    async def acreate_model_instance(self, data: Any) -> Session:
        return self._renamed(await super().acreate_model_instance(data))

    def _renamed(self, row: Any) -> Session:
        row.session_key = stored(row.session_key)
        found: Session = row
        return found

    def delete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            super().delete(stored(key))

    async def adelete(self, session_key: str | None = None) -> None:
        if key := session_key or self.session_key:
            await super().adelete(stored(key))
