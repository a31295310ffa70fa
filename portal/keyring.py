"""Keys for what lies encrypted in the database, and the sealing itself. Knows no Django, so settings may read it.

``VAULT_MASTER_KEY`` holds one key or several. The first seals, all of them open, so a key is replaced without an hour
in which something cannot be read: put the new one in front, run ``manage.py rotate_secrets``, take the old one away.

A sealed text is ``swd1.KEY.BODY``: the id of the master key, then base64url of nonce, ciphertext and tag of
AES-256-GCM. The key that it is sealed with is derived (HKDF-SHA-256) from the master key for one purpose, such as a
column, and its place is authenticated with it: what was moved to another row, column or key does not open.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NoReturn

PREFIX = "swd1."
KEY_BYTES = 32
_NONCE_BYTES = 12
_FEWEST_DIFFERENT_BYTES = 16  # 32 random bytes have fewer once in 10**15 keys
HOW_TO_MAKE = "make one with: openssl rand -base64 32"


class CannotOpen(Exception):
    """A sealed text does not open. Its text says why, and never what was sealed."""


def parse_keys(raw: str) -> tuple[bytes, ...]:
    """Master keys, separated by commas or white space, each 32 random bytes in base64, base64url or hexadecimal.

    Raises ValueError, whose text holds nothing of any key.
    """
    words = re.split(r"[\s,]+", raw.strip().strip(","))
    keys = tuple(_parse_key(word, f"key {place} of {len(words)}") for place, word in enumerate(words, start=1))
    if len(set(keys)) < len(keys):
        raise ValueError("a key is in it twice")
    return keys


def _parse_key(word: str, name: str) -> bytes:
    try:
        if re.fullmatch(r"[0-9a-fA-F]{64}", word):
            key = bytes.fromhex(word)
        else:
            bare = word.rstrip("=").replace("-", "+").replace("_", "/")
            key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is neither base64 nor hexadecimal; {HOW_TO_MAKE}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"{name} has {len(key)} bytes instead of {KEY_BYTES}; {HOW_TO_MAKE}")
    if len(set(key)) < _FEWEST_DIFFERENT_BYTES:
        raise ValueError(f"{name} is not random; {HOW_TO_MAKE}")
    return key


class MasterKey:
    """One key and its id, which is derived from it. Shows only the id."""

    __slots__ = ("_key", "id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._key = key
        self.id = _derive(key, "key id", 4).hex()

    def derived(self, purpose: str) -> bytes:
        """The key for one purpose: 32 bytes."""
        return _derive(self._key, f"seal {purpose}", KEY_BYTES)

    def __repr__(self) -> str:
        return f"<MasterKey {self.id}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A key is not pickled.")


class Keyring:
    """The master keys of an installation, the current one first. Shows only their ids."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a key ring holds a key")
        self._keys = {key.id: key for key in map(MasterKey, keys)}
        self.current = next(iter(self._keys.values()))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the keys, the current one first."""
        return tuple(self._keys)

    def is_current(self, sealed: str) -> bool:
        """Whether a text is sealed with the current key."""
        return sealed.startswith(f"{PREFIX}{self.current.id}.")

    def seal(self, text: str, *, purpose: str, place: str) -> str:
        """``text`` sealed with the current key, for one purpose ("table.column") and one place in it (a row's key)."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        bound = _bound(self.current.id, purpose, place)
        body = AESGCM(self.current.derived(purpose)).encrypt(nonce, text.encode(), bound)
        return f"{PREFIX}{self.current.id}.{base64.urlsafe_b64encode(nonce + body).decode()}"

    def open(self, sealed: str, *, purpose: str, place: str) -> str:
        """What was sealed for this purpose and place. Raises CannotOpen."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key_id, body = _parts(sealed)
        key = self._keys.get(key_id)
        if key is None:
            raise CannotOpen(
                f"It is sealed with the master key {key_id}, which is not in VAULT_MASTER_KEY: put that key back "
                "behind the first one, or enter the secret again."
            )
        nonce, sealed_bytes = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
        try:
            opened = AESGCM(key.derived(purpose)).decrypt(nonce, sealed_bytes, _bound(key_id, purpose, place))
        except (InvalidTag, ValueError):
            raise CannotOpen("It was altered, or belongs to another row or column. Enter the secret again.") from None
        return opened.decode()

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self.ids)}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Keys are not pickled.")


def _parts(sealed: str) -> tuple[str, bytes]:
    found = re.fullmatch(r"swd1\.([0-9a-f]{8})\.([A-Za-z0-9_-]+={0,2})", sealed)
    if not found:
        raise CannotOpen("It is not a sealed text.")
    try:
        body = base64.urlsafe_b64decode(found[2])
    except (binascii.Error, ValueError):
        raise CannotOpen("It is not a sealed text.") from None
    if base64.urlsafe_b64encode(body).decode() != found[2]:  # the last character has bits that decode to nothing
        raise CannotOpen("It is not a sealed text.")
    return found[1], body


def _bound(key_id: str, purpose: str, place: str) -> bytes:
    """What is authenticated beside the text; JSON, so that no two different triples make the same bytes."""
    return json.dumps([PREFIX, key_id, purpose, place]).encode()


@lru_cache(maxsize=256)
def _derive(key: bytes, info: str, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=b"swarmdesk", info=info.encode()).derive(key)
