"""What the page of providers shows: how each stands, its regions with their last hour, and the keys."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db.models import Func, IntegerField, Prefetch, QuerySet

from apps.console.board import share
from apps.providers.acts import ACTS, Act
from apps.providers.breaker import State
from apps.providers.directory import recent_latencies
from apps.providers.health import judge
from apps.providers.latency import quantile
from apps.providers.models import (
    BackendState,
    HealthStatus,
    Provider,
    Region,
    RegionMinute,
    SecretStanding,
    SecretState,
)
from apps.providers.quota import Quota
from apps.providers.standing import Span, Traffic, minutes, spans

PER_SPAN = 5
"""Minutes in a row of the table beneath a chart."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A chip: icon, word and tone say the same. ``why`` is for those who ask."""

    icon: str
    tone: str
    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Button:
    """Something a person may do to a region now. ``note`` is what follows for the provider, where that is grave."""

    name: str
    act: Act
    icon: str
    label: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class LimitLine:
    """How much of a limit is in use."""

    name: str
    used: int
    limit: int

    @property
    def percent(self) -> int:
        return share(self.used, self.limit)

    @property
    def tone(self) -> str:
        return "bad" if self.percent >= 95 else "wait" if self.percent >= 80 else "busy"


@dataclass(frozen=True, slots=True)
class RegionCard:
    """A region as it stands. ``p99_s`` is what routing goes by: of the last ``samples`` calls within five minutes.

    ``probing`` is when it is tried again while its breaker is open: now, due (and nobody does), later, or never ("").
    """

    region: Region
    marks: list[Mark]
    hour: Traffic
    table: list[Span]
    chart: str
    p99_s: float | None
    samples: int
    limits: list[LimitLine]
    buttons: list[Button]
    slowed_until: dt.datetime | None
    probing: str
    next_probe_at: dt.datetime | None

    @property
    def cause(self) -> str:
        """Why its breaker is as it is, as a sentence."""
        return f"{self.region.breaker.cause.rstrip('.')}." if hasattr(self.region, "breaker") else ""


@dataclass(frozen=True, slots=True)
class ProviderCard:
    """``listed``: how many models it lists, None while that is not known. ``unlisted``: why the list is not new."""

    provider: Provider
    health: Mark
    key: Mark
    listed: int | None
    listed_at: dt.datetime | None
    unlisted: str
    regions: list[RegionCard]


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A key of a class of processes; without ``state`` none of them has read it yet."""

    provider: Provider
    worker_class: str
    mark: Mark
    state: SecretState | None
    backend: BackendState | None


_HEALTH = {
    HealthStatus.HEALTHY: ("verified", "good"),
    HealthStatus.FAILED_OVER: ("move_up", "wait"),
    HealthStatus.CRITICAL: ("emergency_home", "bad"),
}
_STATES = {
    State.CLOSED: Mark("check_circle", "good", "Closed", "Calls go there."),
    State.OPEN: Mark("power_off", "bad", "Open", "It failed: no calls go there until it answers again."),
    State.HALF_OPEN: Mark("hourglass_top", "busy", "Half open", "It answers again; one call decides."),
}
_HELD = Mark("power_off", "bad", "Opened by hand", "No calls go there until a person closes the breaker.")
_KEYS: dict[SecretStanding, Mark] = {
    SecretStanding.REFUSED: Mark("key_off", "bad", "Key refused", "The provider does not take it: put in another."),
    SecretStanding.MISSING: Mark("key_off", "bad", "Key missing", "Some process could not read it, and has none."),
    SecretStanding.KEPT: Mark(
        "key", "wait", "Key kept", "It could not be read anew: processes go on with the one they hold."
    ),
    SecretStanding.IN_USE: Mark("key", "good", "Key in use"),
}
_UNREAD = Mark("key", "wait", "Key not read yet", "No process of a class that may read it has started.")
_NO_KEY = Mark("lock_open", "calm", "No key needed")
_WORST_FIRST = (_KEYS[SecretStanding.REFUSED], _KEYS[SecretStanding.MISSING], _KEYS[SecretStanding.KEPT], _UNREAD)
_BUTTONS = {
    "open": ("power_off", "Open breaker…"),
    "close": ("power", "Close breaker…"),
    "drain": ("water_drop", "Drain…"),
    "undrain": ("play_circle", "Send calls again…"),
}


def rows() -> QuerySet[Provider]:
    """Providers with all that their cards need besides traffic and keys, the worst first. Two queries."""
    regions = Region.objects.select_related("provider", "breaker", "window", "quota").order_by("order", "name")
    # The words of health happen to sort by how bad it is: critical, failed over, healthy.
    # Of the names of their models only the number is shown.
    count = Func("catalogue__names", function="cardinality", output_field=IntegerField())
    found = Provider.objects.select_related("catalogue").defer("catalogue__names").annotate(models_listed=count)
    return found.order_by("-is_enabled", "health", "name").prefetch_related(Prefetch("regions", regions))


def cards(providers: Sequence[Provider], *, may_act: bool, now: dt.datetime) -> list[ProviderCard]:
    """How these providers stand. Two queries more."""
    regions = {provider.pk: list(provider.regions.all()) for provider in providers}
    traffic = minutes([region.pk for group in regions.values() for region in group], now=now)
    keys = _states_of(providers)
    return [
        ProviderCard(
            provider,
            _health(provider, regions[provider.pk]),
            _key(provider, keys),
            *_models(provider),
            [_card(region, regions[provider.pk], traffic[region.pk], may_act, now) for region in regions[provider.pk]],
        )
        for provider in providers
    ]


def key_lines(providers: Sequence[Provider]) -> list[KeyLine]:
    """The keys of these providers in each class that may read them. Two queries."""
    keys = _states_of(providers)
    backends = {backend.name: backend for backend in BackendState.objects.all()}
    lines = []
    for provider in providers:
        for worker_class in provider.worker_classes if provider.secret_name else ():
            state = keys[provider.secret_name].get(worker_class)
            mark = _KEYS[state.standing] if state else _UNREAD
            lines.append(KeyLine(provider, worker_class, mark, state, backends.get(state.backend) if state else None))
    return lines


def _states_of(providers: Sequence[Provider]) -> Mapping[str, dict[str, SecretState]]:
    """What is known of the keys of these providers, by name and class."""
    found: dict[str, dict[str, SecretState]] = defaultdict(dict)
    names = {provider.secret_name for provider in providers} - {""}
    for state in SecretState.objects.filter(name__in=names) if names else ():
        found[state.name][state.worker_class] = state
    return found


def _health(provider: Provider, regions: Sequence[Region]) -> Mark:
    if not provider.is_enabled:
        return Mark("do_not_disturb_on", "calm", "Disabled")
    health = judge(regions)
    icon, tone = _HEALTH[health.status]
    word = health.status.label
    return Mark(icon, tone, f"{word} to {health.serving}" if health.serving else word)


def _key(provider: Provider, keys: Mapping[str, dict[str, SecretState]]) -> Mark:
    """The worst that is known of its key in the classes that may read it."""
    if not provider.secret_name:
        return _NO_KEY
    known = keys.get(provider.secret_name, {})
    marks = {_KEYS[known[each].standing] if each in known else _UNREAD for each in provider.worker_classes}
    marks = marks or {_UNREAD}
    return next((mark for mark in _WORST_FIRST if mark in marks), _KEYS[SecretStanding.IN_USE])


def _models(provider: Provider) -> tuple[int | None, dt.datetime | None, str]:
    """How many models it lists, since when, and why the last try to have the list anew brought nothing."""
    known = getattr(provider, "catalogue", None)
    if known is None or known.fetched_at is None:
        return None, None, known.error if known else ""
    count: int = provider.models_listed  # type: ignore[attr-defined]
    return count, known.fetched_at, known.error


def _card(
    region: Region, group: Sequence[Region], rows: Sequence[RegionMinute], may_act: bool, now: dt.datetime
) -> RegionCard:
    breaker, circuit = getattr(region, "breaker", None), region.circuit
    slowed = breaker.slowed_until if breaker and breaker.slowed_until and breaker.slowed_until > now else None
    recent = recent_latencies(region, now)
    probing = ""
    if circuit.state is not State.CLOSED and not circuit.held:
        is_due = circuit.next_probe_at is not None and circuit.next_probe_at <= now
        probing = "now" if circuit.probe else "due" if is_due else "later"
    return RegionCard(
        region=region,
        marks=_marks(region, slowed),
        hour=Traffic.of(rows),
        table=spans(rows, each=PER_SPAN, now=now),
        chart=_chart(rows, now),
        p99_s=quantile(recent, 0.99),
        samples=len(recent),
        limits=_limits(region, now),
        buttons=_buttons(region, group) if may_act else [],
        slowed_until=slowed,
        probing=probing,
        next_probe_at=circuit.next_probe_at,
    )


def _marks(region: Region, slowed_until: dt.datetime | None) -> list[Mark]:
    circuit = region.circuit
    marks = [_HELD if circuit.held else _STATES[circuit.state]]
    if not region.is_enabled:
        marks.append(Mark("do_not_disturb_on", "calm", "Disabled", "It is left out until it is enabled."))
    if region.is_draining:
        marks.append(Mark("water_drop", "wait", "Draining", "It gets no new calls; those under way go on."))
    if slowed_until is not None:
        marks.append(Mark("speed", "wait", "Slowed", "It answered 429: it asked for fewer calls."))
    return marks


def _limits(region: Region, now: dt.datetime) -> list[LimitLine]:
    row, limits = getattr(region, "quota", None), region.limits
    use = Quota.of_json(row.quota if row else {}).in_use(now=now.timestamp())
    lines = (
        ("requests a minute", use.requests, limits.requests_per_minute),
        ("tokens a minute", use.tokens, limits.tokens_per_minute),
        ("calls at once", use.calls, limits.concurrency),
    )
    return [LimitLine(name, used, limit) for name, used, limit in lines if limit is not None]


def _buttons(region: Region, group: Sequence[Region]) -> list[Button]:
    found = []
    others = [r for r in group if r.pk != region.pk and _takes_calls(r)]
    for name, act in ACTS.items():
        if act.is_possible(region):
            icon, label = _BUTTONS[name]
            note = ""
            if act.is_destructive and _takes_calls(region) and not others:
                note = f"No other region of {region.provider} takes calls now: it becomes critical, and its calls fail."
            found.append(Button(name, act, icon, label, note))
    return found


def _takes_calls(region: Region) -> bool:
    return region.is_enabled and not region.is_draining and region.circuit.state is State.CLOSED


def _chart(rows: Sequence[RegionMinute], now: dt.datetime) -> str:
    """Calls by minute, as the script draws them: those that were answered, that failed, and that were slowed down."""
    parts = [span.traffic for span in spans(rows, each=1, now=now)]
    return json.dumps(
        {
            "start": (now.replace(second=0, microsecond=0) - dt.timedelta(minutes=59)).isoformat(),
            "answered": [part.calls - part.errors for part in parts],
            "failed": [part.errors for part in parts],
            "limited": [part.limited for part in parts],
        },
        separators=(",", ":"),
    )
