"""The keys that are valid for one name: the newest, and for a while the one before it."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass, replace

from django.utils.crypto import salted_hmac

from portal.encryption import Secret


@dataclass(frozen=True, slots=True)
class Key:
    """A key as a process holds it."""

    secret: Secret
    fingerprint: str
    version: str = ""

    @classmethod
    def of(cls, name: str, secret: Secret, version: str = "") -> Key:
        return cls(secret, fingerprint(name, secret), version)


@dataclass(frozen=True, slots=True)
class Ring:
    """What a process holds for one name. Times are seconds of one clock."""

    newest: Key
    previous: Key | None = None
    previous_until: float = 0.0

    def turned(self, key: Key, *, now: float, grace_s: float) -> Ring:
        """The ring after ``key`` was read: the one before it is kept for the grace, one before that is forgotten.

        The same key again changes nothing, except that a key which comes back is the newest.
        """
        if key.fingerprint == self.newest.fingerprint:
            return replace(self, newest=key)
        return Ring(key, self.newest if grace_s > 0 else None, now + grace_s)

    def aged(self, *, now: float) -> Ring:
        """Without what the grace is over for."""
        return Ring(self.newest) if self.previous is not None and now >= self.previous_until else self

    def untried(self, tried: Container[str], *, now: float) -> Key | None:
        """The best key that is valid now and not among the fingerprints ``tried``."""
        for key in (self.newest, self.aged(now=now).previous):
            if key is not None and key.fingerprint not in tried:
                return key
        return None


def fingerprint(name: str, secret: Secret) -> str:
    """A hash keyed with SECRET_KEY: equal for equal values of one name on every node, and no help to guess one."""
    digest = salted_hmac(f"providers.secrets.{name}", secret.reveal(), algorithm="sha256").digest()
    return hashlib.blake2b(digest, digest_size=6).hexdigest()
