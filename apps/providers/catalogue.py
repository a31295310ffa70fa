"""The model catalogue: what each provider offers, asked once a day with its key, off the path of any call.

Processes that hold keys ask. A list is a help and no rule: what a provider does not list may work all the same, so
whoever names such a model is warned, and not refused.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import difflib
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.audit import trail
from apps.audit.trail import Actor
from apps.providers.breaker import State
from apps.providers.cache_usage import Counts, Key, add
from apps.providers.directory import Endpoint
from apps.providers.models import Cache, Catalogue, Provider, Region
from apps.providers.models.catalogue import AGAIN
from portal.batching import DatabaseThread
from portal.notify import Channel, notify
from portal.redaction import redacted

log = structlog.get_logger(__name__)

LOOK_S = 60.0
"""How often a process looks whether a list is due. Orders are heard of at once."""
FIRST_LOOK_S = 3.0
"""After its start: it has better to do first."""
WITHIN_S = 30.0
"""How long a provider has to give its list, all pages of it."""
MOST_MODELS = 5_000
LONGEST_NAME = 200

FetchNames = Callable[[Endpoint], Awaitable[Sequence[str]]]
"""Raises what it met, for a person to read."""


# -- asking for lists --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A provider whose list the caller has claimed, and where it asks."""

    provider: Provider
    endpoint: Endpoint


def claim(held: Collection[str], *, now: dt.datetime) -> list[Due]:
    """Claims the lists that are due and that the keys of the names ``held`` can be asked for. One query without any."""
    due = Q(catalogue=None) | Q(catalogue__due_at__lte=now)
    mine = Q(secret_name="") | Q(secret_name__in=list(held))
    reachable = Region.objects.filter(is_enabled=True, is_draining=False)
    rows = Provider.objects.enabled().filter(due, mine, pk__in=reachable.values("provider"))
    found = []
    for provider in rows.order_by("name"):
        with connection.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO providers_catalogue AS c (provider_id, names, asked_at, due_at, error)
                VALUES (%s, '{}', %s, %s, '')
                ON CONFLICT (provider_id) DO UPDATE SET asked_at = EXCLUDED.asked_at, due_at = EXCLUDED.due_at
                WHERE c.due_at <= EXCLUDED.asked_at
                """,
                [provider.pk, now, now + AGAIN],
            )
            if not cursor.rowcount:
                continue  # another process was faster
        regions = reachable.filter(provider=provider).select_related("breaker").order_by("order", "name")
        region = min(regions, key=lambda each: each.circuit.state is not State.CLOSED, default=None)
        if region is not None:
            endpoint = Endpoint(provider.name, provider.kind, region.name, region.base_url, provider.secret_name)
            found.append(Due(provider, endpoint))
    return found


def keep(provider: Provider, names: Iterable[str], *, now: dt.datetime) -> int:
    """Keeps the list that a provider gave; how many names."""
    kept = sorted({name for name in names if 0 < len(name) <= LONGEST_NAME and name.isprintable()})[:MOST_MODELS]
    with transaction.atomic():
        row = Catalogue.objects.select_for_update().filter(provider=provider).first()
        if row is not None:
            row.note_list(kept, now=now)
            add({(Cache.CATALOGUE, None): Counts(stored=1)}, now=now)
    return len(kept)


def fail(provider: Provider, error: str) -> None:
    """Notes why a list could not be had."""
    with transaction.atomic():
        row = Catalogue.objects.select_for_update().filter(provider=provider).first()
        if row is not None:
            row.note_failure(redacted(error))


async def refresh(
    thread: DatabaseThread, fetch: FetchNames, held: Collection[str], *, now: Callable[[], dt.datetime]
) -> int:
    """Asks for the lists that are due; how many came. Raises DatabaseError."""
    came = 0
    for due in await thread.run(lambda: claim(held, now=now())):
        try:
            async with asyncio.timeout(WITHIN_S):
                names = await fetch(due.endpoint)
        except Exception as error:  # whatever a provider answers, it is no list
            text = f"It was silent for {WITHIN_S:g} s." if isinstance(error, TimeoutError) else str(error).strip()
            text = text or type(error).__name__
            log.warning("catalogue_not_read", provider=due.provider.name, error=redacted(text)[:300])
            await thread.run(lambda due=due, text=text: fail(due.provider, text))  # type: ignore[misc]
            continue
        count = await thread.run(lambda due=due, names=names: keep(due.provider, names, now=now()))  # type: ignore[misc]
        log.info("catalogue_read", provider=due.provider.name, models=count)
        came += 1
    return came


class CatalogueReader:
    """Asks for lists as long as a process lives, for its event loop: ``start()``, ``hear()``, ``await aclose()``.

    ``held()`` are the names of the keys that it holds at the moment.
    """

    def __init__(
        self,
        thread: DatabaseThread,
        fetch: FetchNames,
        held: Callable[[], Collection[str]],
        *,
        now: Callable[[], dt.datetime] = timezone.now,
        first_look_s: float = FIRST_LOOK_S,
    ) -> None:
        self._thread, self._fetch, self._held, self._now = thread, fetch, held, now
        self._first_look_s = first_look_s
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._read())

    def hear(self) -> None:
        """Lists may be due: look at once. Runs in the event loop."""
        self._wake.set()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        pause = self._first_look_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            pause = LOOK_S
            try:
                await refresh(self._thread, self._fetch, self._held(), now=self._now)
            except (DatabaseError, InterfaceError) as error:
                log.warning("catalogue_not_kept", error=str(error).split("\n", 1)[0])


# -- orders of people --------------------------------------------------------------------------------------------------


def order(providers: Sequence[Provider], *, forget: bool, by: Actor, reason: str, now: dt.datetime) -> None:
    """Has the lists asked for anew; ``forget``: and until then nothing is known. The caller has checked permissions."""
    with transaction.atomic():
        for provider in sorted(providers, key=lambda each: each.pk):
            Catalogue.objects.get_or_create(provider=provider, defaults={"due_at": now})
            row = Catalogue.objects.select_for_update().get(provider=provider)
            count = len(row.names)
            row.ask_again(forget=forget, now=now)
            action = "cache:invalidate" if forget else "catalogue:refresh"
            details = {"cache": Cache.CATALOGUE.value, "models": count}
            trail.record(by, action, provider, tenant_id=None, reason=reason, details=details)
        notify(Channel.CACHES, {"invalidated": Cache.CATALOGUE.value})


# -- what lists are for ------------------------------------------------------------------------------------------------

_DATED = re.compile(r"-(?:latest|\d{4}-\d{2}-\d{2}|\d{8}|\d{4})\Z")


def _stem(name: str) -> str:
    """A name without what says which version it is of: "gpt-4o-2024-11-20", "models/gpt-4o" and "gpt-4o" are one."""
    return _DATED.sub("", name.removeprefix("models/"))


def unlisted(models: Iterable[str]) -> dict[str, str]:
    """Those of "provider:model" that their provider does not list, as far as its list is known, and why to doubt each.

    One query, and a count of the look-ups when the transaction has ended.
    """
    split = {model: model.partition(":")[::2] for model in models if ":" in model}
    if not split:
        return {}
    lists = Catalogue.objects.names_of({provider for provider, _ in split.values()})
    hits = sum(bool(lists.get(provider)) for provider, _ in split.values())
    _count(hits, len(split) - hits)
    return {
        model: _doubt(provider, name, lists[provider])
        for model, (provider, name) in split.items()
        if lists.get(provider) and not _lists(lists[provider], name)
    }


def _lists(names: Sequence[str], name: str) -> bool:
    return name in names or _stem(name) in {_stem(each) for each in names}


def _doubt(provider: str, name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names[:MOST_MODELS], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{provider} does not list a model {name!r}: calls of it may fail.{hint}"


def _count(hits: int, misses: int) -> None:
    """Counts look-ups. After the transaction, as one row is everybody's; a count that is lost harms nobody."""
    counts: dict[Key, Counts] = {(Cache.CATALOGUE, None): Counts(hits=hits, misses=misses)}
    transaction.on_commit(lambda: add(counts, now=timezone.now()), robust=True)


def listed_by(provider: Provider) -> list[str]:
    """The names that a provider listed, for a person to choose from. One query."""
    names = Catalogue.objects.names_of([provider.name])
    _count(len(names), 1 - len(names))
    return names.get(provider.name, [])


def listed() -> Mapping[str, list[str]]:
    """The names that each enabled provider listed, by provider. Two queries."""
    found = Catalogue.objects.names_of(list(Provider.objects.enabled().values_list("name", flat=True)))
    if found:
        _count(len(found), 0)
    return found
