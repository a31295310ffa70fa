"""Sessions in the database, kept under a hash of their key: who reads the database cannot go on with one."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.models import Session
from django.utils import timezone


def stored(key: str) -> str:
    """What the database knows a session by: the first 240 bits of the SHA-256 of its key, which fill the column.

    A key has 165 random bits, so there is nothing to salt: what cannot be guessed cannot be looked up either.
    """
    return urlsafe_b64encode(hashlib.sha256(key.encode()).digest()[:30]).decode()


class SessionStore(db.SessionStore):
    """Django's, but for the name under which a row is written, found and deleted."""

    def _get_session_from_db(self) -> Session | None:
        found: Session | None = self._in_force().first()
        if found is None:
            self._session_key = None
        return found

    async def _aget_session_from_db(self) -> Session | None:
        found: Session | None = await self._in_force().afirst()
        if found is None:
            self._session_key = None
        return found

    def _in_force(self) -> Any:
        return Session.objects.filter(session_key=stored(self.session_key or ""), expire_date__gt=timezone.now())

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
