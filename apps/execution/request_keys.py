"""The key of a model request in the response cache: SHA-256 over all that makes its answer.

Tenant, agent, model, messages, instructions, tools, output schema and settings: everything counts but what is known to
be only bookkeeping (``NOT_SENT``), so what a new version of a library adds to a request makes another key by itself.
What cannot be written down canonically has no key, and such a request is not cached. Neither keys of providers nor the
region are part of a request at this point.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

VERSION = 1
"""Of the canonical form. Another one makes other keys of the same requests."""
NOT_SENT = frozenset({"timestamp", "run_id", "conversation_id", "usage", "provider_response_id", "provider_url"})
"""Fields of messages and their parts that no provider is sent."""


class HasNoKey(TypeError):
    """The request holds something that has no canonical form, or that must not be compared."""


def request_key(
    tenant_id: uuid.UUID,
    agent: str,
    model: str,
    messages: Sequence[ModelMessage],
    settings: ModelSettings,
    parameters: ModelRequestParameters,
) -> str:
    """The key, 64 hexadecimal digits. Raises HasNoKey.

    ``settings`` are those that are sent, with the bound on the output; with headers of their own they have no key, as
    a header may hold a secret.
    """
    if settings.get("extra_headers"):
        raise HasNoKey("The request has headers of its own.")
    whole = [VERSION, tenant_id, agent, model, list(messages), dict(settings), parameters]
    form = json.dumps(canonical(whole), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(form.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """A value as JSON that differs for different values: everything that JSON would mix up carries its type."""
    match value:
        case Enum():
            return {"enum": [type(value).__name__, canonical(value.value)]}
        case None | bool() | int() | str():
            return value
        case float():
            return {"float": repr(value)}
        case bytes():
            return {"bytes": hashlib.sha256(value).hexdigest()}
        case uuid.UUID() | Decimal() | dt.date() | dt.timedelta():
            return {type(value).__name__: str(value)}
        case Mapping():
            items = [[canonical(name), canonical(each)] for name, each in value.items()]
            return {"map": sorted(items, key=json.dumps)}
        case Set():
            return {"set": sorted(map(canonical, value), key=json.dumps)}
        case Sequence():
            return [canonical(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: canonical(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in NOT_SENT
        }
        return {"is": type(value).__name__, "of": fields}
    raise HasNoKey(f"{type(value).__name__} has no canonical form.")
