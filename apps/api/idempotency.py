"""``Idempotency-Key``: a creating request that is sent again is answered again, and creates nothing twice."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, cast

from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import LockNotAvailable
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.errors import Conflict
from apps.api.models import KEPT_FOR, IdempotencyKey
from apps.tenants.access import principal_of_request

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LONGEST_WAIT_MS = 10_000

Params = ParamSpec("Params")
Handler = Callable[Concatenate[Any, Request, Params], Response]  # a method of a view


class KeyReused(APIException):
    """The same key came with another body."""

    status_code = 422
    default_code = "idempotency_key_reused"
    default_detail = f"This {HEADER} was used for a different request. Use a new key for a new request."


def idempotent(handler: Handler[Params]) -> Handler[Params]:
    """Makes a view method that creates something honour ``Idempotency-Key``.

    The key's row is inserted first, in the transaction of all that the handler does: a second request with the key
    waits at the unique constraint until the first is decided, then replays its answer, or, when the first failed or
    its process died, does the work itself. Answers are kept for 24 hours; errors are not kept, since they created
    nothing (those that are returned and not raised keep what else the handler wrote).

    The view says what of an answer is kept (``to_keep``), whether the caller may still have it (``verify_replay``), and
    where what was made is found.

    Only for handlers that create: those that change a swarm must take its row lock before any other write.
    """

    @functools.wraps(handler)
    def run(view: Any, request: Request, *args: Params.args, **kwargs: Params.kwargs) -> Response:
        key = request.headers.get(HEADER)
        if key is None:
            return handler(view, request, *args, **kwargs)
        if not (0 < len(key) <= 200 and key.isascii() and key.isprintable()):
            raise ValidationError({HEADER: ["A key has 1 to 200 printable ASCII characters."]}, code="invalid")
        by = principal_of_request(request)
        with transaction.atomic():
            mine = IdempotencyKey(
                who=f"{by.kind} {by.ref}",
                endpoint=f"{request.method} {request.path}",
                key=key,
                request_hash=_hash(request.data),
            )
            kept = _insert_or_find(mine)
            if kept.pk == mine.pk:
                response = handler(view, request, *args, **kwargs)
                row = IdempotencyKey.objects.filter(pk=mine.pk)
                if response.status_code < 400:
                    row.update(status=response.status_code, body=view.to_keep(response.data))
                else:
                    row.delete()
                return response
        if kept.request_hash != mine.request_hash:
            raise KeyReused
        view.verify_replay(kept.body)  # the caller's roles may have changed since
        location = view.location_of(kept.body)
        return Response(
            kept.body, kept.status, headers={REPLAYED: "true", **({"Location": location} if location else {})}
        )

    return cast("Handler[Params]", run)


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _insert_or_find(mine: IdempotencyKey) -> IdempotencyKey:
    """The row that stands for the key: mine, or the one of an earlier request, waited for if it is still at work."""
    now = timezone.now()
    IdempotencyKey.objects.sweep(now=now)
    same = IdempotencyKey.objects.filter(who=mine.who, endpoint=mine.endpoint, key=mine.key)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LONGEST_WAIT_MS}")
        try:
            same.filter(created_at__lt=now - KEPT_FOR).delete()
            IdempotencyKey.objects.bulk_create([mine], ignore_conflicts=True)
        except OperationalError as error:
            if isinstance(error.__cause__, LockNotAvailable):
                raise Conflict(
                    f"A request with this {HEADER} is still in progress; ask again in a moment.", "in_progress", wait=1
                ) from None
            raise
        cursor.execute("SET LOCAL lock_timeout = DEFAULT")
    return same.get()
