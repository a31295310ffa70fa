"""The keys that one process holds: read when it starts, read anew by the clock, by order, and when one is refused.

What a process may hold is decided by its class before anything is read: of the other names it asks no backend.
Backends block, so everything but looking a key up happens on the keeper's own thread.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from apps.providers.errors import ProviderUnavailable
from apps.providers.models import Provider
from apps.providers.secrets import orders
from apps.providers.secrets.backend import Backend, BackendDown, Reading, SecretsError
from apps.providers.secrets.backends import open_backend
from apps.providers.secrets.records import Recorder
from apps.providers.secrets.ring import Key, Ring

log = structlog.get_logger(__name__)

POLL_S = 2.0
"""How often orders and new names are looked for, should no hint arrive."""
IDLE_POLL_S = 15.0
"""The same in a process that holds nothing."""
REFUSED_AGAIN_S = 5.0
"""A key that is refused is looked up in the backend at most so often."""
MARK_AGAIN_S = 60.0
"""That the provider refuses a key is noted at most so often, while it does."""
RETRY_S = (2.0, 5.0, 10.0, 30.0)
"""While the backend is away."""
START_WITHIN_S = 5.0
"""A process whose backend hangs starts all the same, and leaves alone what needs a key."""
RENEW_WITHIN_S = 15.0


@dataclass(slots=True)
class _Refusal:
    """A key that providers refuse: when the backend was last asked because of it, and who waits for the answer."""

    asked_at: float = float("-inf")
    waiting: Future[None] | None = None


@dataclass(slots=True)
class _Notes:
    """What calls report, to be written by the keeper's thread."""

    refused: dict[str, Key] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)


class Keeper:
    """Holds the keys of a process of a class. ``start()`` it, and ``stop()`` it; or drive it with ``step()``."""

    def __init__(
        self,
        worker_class: str = "",
        *,
        backend: Backend | None = None,
        refresh_s: float | None = None,
        grace_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], dt.datetime] = timezone.now,
    ) -> None:
        self.worker_class = worker_class or settings.WORKER_CLASS
        self._given, self._backend = backend, backend
        self._refresh_s = settings.SECRETS_REFRESH_S if refresh_s is None else refresh_s
        self._grace_s = settings.SECRETS_GRACE_S if grace_s is None else grace_s
        self._clock, self._now = clock, now
        self._record = Recorder(self.worker_class, str(settings.SECRETS_BACKEND)[:200])
        self._rings: Mapping[str, Ring] = {}
        self._why: dict[str, str] = {}
        self._closed: frozenset[str] = frozenset()
        self._providers: Mapping[str, Provider] = {}
        self._due: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._order: int | None = None
        self._poll_at = self._upkeep_at = float("-inf")
        self._was_down = False
        self._lock = threading.Lock()
        self._refusals: dict[str, _Refusal] = {}
        self._marked: dict[str, float] = {}
        self._notes = _Notes()
        self._wake, self._halt, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # -- for calls; from any thread, and from the event loop -----------------------------------------------------------

    def key(self, name: str) -> Key:
        """The key that new calls use. Raises ProviderUnavailable, which says why there is none."""
        ring = self._rings.get(name)
        if ring is None:
            raise ProviderUnavailable(self._why.get(name) or self._not_held(name))
        return ring.newest

    def untried(self, name: str, tried: Iterable[str]) -> Key | None:
        """Another key that is valid now than those with the fingerprints ``tried``."""
        ring = self._rings.get(name)
        return ring.untried(frozenset(tried), now=self._clock()) if ring else None

    async def renewed(self, name: str) -> None:
        """Returns when the backend was asked anew for a key that was refused. At most every few seconds, for all."""
        with self._lock:
            refusal = self._refusals.setdefault(name, _Refusal())
            if refusal.waiting is None:
                if self._thread is None or self._clock() - refusal.asked_at < REFUSED_AGAIN_S:
                    return
                refusal.asked_at, refusal.waiting = self._clock(), Future()
            waiting = refusal.waiting
        self._wake.set()
        try:
            async with asyncio.timeout(RENEW_WITHIN_S):
                await asyncio.shield(asyncio.wrap_future(waiting))
        except TimeoutError:
            return

    def note_refused(self, name: str, key: Key) -> None:
        """The provider refused every key there was; ``key`` is the newest."""
        with self._lock:
            if self._clock() - self._marked.get(name, float("-inf")) < MARK_AGAIN_S:
                return
            self._marked[name] = self._clock()
            self._notes.refused[name] = key
        self._wake.set()

    def note_accepted(self, name: str) -> None:
        """The provider took a key. Costs nothing unless one was refused before."""
        if name in self._marked:
            with self._lock:
                self._marked.pop(name, None)
                self._notes.accepted.add(name)
            self._wake.set()

    @property
    def closed(self) -> frozenset[str]:
        """Providers whose agents this process leaves to others: their key is not for it, or not to be had just now."""
        return self._closed

    @property
    def names(self) -> list[str]:
        """The names that it holds a key for."""
        return sorted(self._rings)

    def _not_held(self, name: str) -> str:
        return (
            f"The key {name} is not held by this process: processes of the class {self.worker_class} may not read it, "
            "or its provider was added a moment ago."
        )

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread; returns when everything was read once, or could not be within some seconds."""
        self._thread = threading.Thread(target=self._run, name="secrets", daemon=True)
        self._thread.start()
        self._ready.wait(START_WITHIN_S)

    def stop(self) -> None:
        """Ends the thread, and forgets the keys."""
        self._halt.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(1.0)
        self._rings = {}

    def hurry(self) -> None:
        """An order was given, as somebody heard: looks for it at once."""
        self._poll_at = float("-inf")
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._halt.is_set():
                self._wake.clear()
                try:
                    close_old_connections()
                    pause = self.step()
                    if not self._due:
                        connection.close()  # a process that holds nothing looks seldom
                except DatabaseError as error:
                    log.warning("secrets_not_recorded", error=" ".join(str(error).split())[:200])
                    connection.close()
                    pause = POLL_S
                except Exception as error:
                    log.error("secrets_keeper_failed", exc_info=error)
                    pause = POLL_S
                self._ready.set()
                self._wake.wait(pause)
        finally:
            self._answer(list(self._refusals))
            connection.close()

    # -- one round; on the keeper's thread -----------------------------------------------------------------------------

    def step(self) -> float:
        """Does what is due; seconds until it should be called again. Raises DatabaseError.

        What was read counts at once; what could not be recorded is read again, and recorded then.
        """
        clock = self._clock()
        if clock >= self._poll_at:
            self._look(clock)
        self._take_care(clock)
        with self._lock:
            refused = [name for name, refusal in self._refusals.items() if refusal.waiting is not None]
        try:
            due = {name for name, at in self._due.items() if clock >= at}
            self._read_all(sorted(due | (self._due.keys() & set(refused))))
        finally:
            self._answer(refused)
        self._rings = {name: ring.aged(now=clock) for name, ring in self._rings.items()}
        self._write_notes()
        soonest = min([self._poll_at, *self._due.values(), self._upkeep_at])
        return min(max(soonest - self._clock(), 0.05), IDLE_POLL_S)

    def _look(self, clock: float) -> None:
        """Looks which names the class may hold, and whether there is a new order."""
        order = orders.latest_order()
        granted = {provider.name: provider for provider in Provider.objects.with_keys()}
        mine = {each.secret_name for each in granted.values() if self.worker_class in each.worker_classes}
        self._poll_at = clock + (POLL_S if mine else IDLE_POLL_S)
        self._due = {name: self._due.get(name, clock) for name in mine}
        self._rings = {name: ring for name, ring in self._rings.items() if name in mine}
        if self._order is not None and order > self._order:
            log.info("secrets_refresh_ordered", order=order)
            self._due = dict.fromkeys(mine, clock)
        self._order = order
        self._providers = granted
        self._close()

    def _close(self) -> None:
        """A provider is closed here when its key is not for this class, or is not held because the backend is away."""
        self._closed = frozenset(
            name
            for name, provider in self._providers.items()
            if self.worker_class not in provider.worker_classes
            or (provider.secret_name not in self._rings and not self._why.get(provider.secret_name))
        )

    def _take_care(self, clock: float) -> None:
        if clock < self._upkeep_at or self._backend is None:
            if self._backend is None:
                self._upkeep_at = float("inf")
            return
        try:
            pause = self._backend.upkeep()
        except SecretsError as error:
            log.warning("secrets_access_not_kept", error=str(error))
            pause = RETRY_S[-1]
        self._upkeep_at = float("inf") if pause is None else self._clock() + pause

    def _read_all(self, names: list[str]) -> None:
        down: BackendDown | None = None
        worked = False
        for name in names:
            try:
                if down is not None:
                    raise down  # not asked for every name in turn while it hangs
                reading = self._open().read(name)
            except SecretsError as error:
                down = error if isinstance(error, BackendDown) else down
                worked = worked or not isinstance(error, BackendDown)
                self._failed(name, error)
            else:
                worked = True
                self._took(name, reading)
        if worked:
            self._upkeep_at = min(self._upkeep_at, self._clock())
        if down is not None and not self._was_down:
            self._was_down = True
            log.error("secrets_backend_down", backend=self._record.backend, error=str(down))
        if down is not None:
            self._record.down(str(down), now=self._now())
        elif worked:
            self._was_down = False
            self._record.up(now=self._now())

    def _open(self) -> Backend:
        if self._backend is None:
            self._backend = open_backend(settings.SECRETS_BACKEND)
        return self._backend

    def _took(self, name: str, reading: Reading) -> None:
        key = Key.of(name, reading.secret, reading.version)
        ring = self._rings.get(name)
        clock = self._clock()
        turned = ring.turned(key, now=clock, grace_s=self._grace_s) if ring else Ring(key)
        self._rings = {**self._rings, name: turned}
        self._why.pop(name, None)
        self._tries.pop(name, None)
        self._told.pop(name, None)
        self._due[name] = clock + POLL_S  # should recording it fail
        self._close()
        if ring is None or ring.newest.fingerprint != key.fingerprint:
            log.info("secret_loaded" if ring is None else "secret_rotated", name=name, fingerprint=key.fingerprint)
        held = ring.newest if ring else None
        self._record.read(name, key, held=held, expires_at=reading.expires_at, now=self._now())
        self._due[name] = clock + self._pause(reading)

    def _pause(self, reading: Reading) -> float:
        """Until it is read anew: by the clock, or before it ends."""
        if reading.expires_at is None:
            return float(self._refresh_s)
        left = (reading.expires_at - self._now()).total_seconds()
        return min(float(self._refresh_s), max(left * 0.9, RETRY_S[0]))

    def _failed(self, name: str, error: SecretsError) -> None:
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        self._due[name] = self._clock() + min(RETRY_S[min(tries, len(RETRY_S)) - 1], self._refresh_s)
        lacks = name not in self._rings
        if lacks and not isinstance(error, BackendDown):
            self._why[name] = f"The key of its provider is missing. {error}"
        self._close()
        if self._told.get(name) != str(error):  # once, and not on every try
            log.error("secret_not_read", name=name, held=not lacks, error=str(error))
            denied = not isinstance(error, BackendDown)
            self._record.failed(name, str(error), lacks=lacks, audited=denied, now=self._now())
            self._told[name] = str(error)

    def _answer(self, names: Iterable[str]) -> None:
        """Lets those go on who waited for a reading of these names."""
        with self._lock:
            for name in names:
                refusal = self._refusals[name]
                if refusal.waiting is not None:
                    refusal.waiting.set_result(None)
                    refusal.waiting = None

    def _write_notes(self) -> None:
        with self._lock:
            notes, self._notes = self._notes, _Notes()
        for name, key in notes.refused.items():
            log.error("secret_refused_by_provider", name=name, fingerprint=key.fingerprint)
            self._record.refused(name, key, now=self._now())
        for name in notes.accepted - notes.refused.keys():
            self._record.accepted(name)
