"""A cost that an agent elsewhere reports, and what can become of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from apps.costs.models import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEvent:
    """A cost that was incurred elsewhere ``at`` (UTC): ``amount`` in nano-dollars, or None to price the tokens.

    ``event_id`` is the tenant's own name of it, ``end_user`` the tenant's own reference of the person it was for.
    ``input_tokens`` includes those of the provider's prompt cache.
    """

    tenant_id: uuid.UUID
    event_id: str
    at: dt.datetime
    kind: Kind = Kind.LLM
    amount: int | None = None
    agent: str = ""
    model: str = ""
    run: str = ""
    end_user: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def key(self) -> Key:
        return Key(self.tenant_id, self.event_id)

    def content(self) -> uuid.UUID:
        """A digest of what was reported, without the person, of whom only a pseudonym is kept."""
        told = (
            self.at.isoformat(),
            str(self.kind),
            self.amount,
            self.agent,
            self.model,
            self.run,
            self.input_tokens,
            self.output_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
        )
        return uuid.UUID(bytes=hashlib.blake2b(repr(told).encode(), digest_size=16).digest())


class Key(NamedTuple):
    """What names an event; keys sort, so that rows are made in one order everywhere."""

    tenant_id: uuid.UUID
    event_id: str


class Status(StrEnum):
    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event. ``amount`` is what is charged for it, in nano-dollars; None where it failed.

    ``code``, ``detail`` and ``attr`` (a field of the event) say why it failed.
    """

    status: Status
    amount: int | None = None
    code: str = ""
    detail: str = ""
    attr: str | None = None
