"""Which durable readers of the event log there should be."""

from __future__ import annotations

from apps.events.models import Consumer

_expected: set[str] = set()


def expect(name: str) -> None:
    """Says that a durable reader of that name belongs to this installation; call it in its app's ``ready()``."""
    _expected.add(name)


def expected() -> frozenset[str]:
    """The names of the readers that belong to this installation."""
    return frozenset(_expected)


def missing() -> list[str]:
    """Those that have never read anything: they are not running, or were never started. One query, none without any."""
    if not _expected:
        return []
    known = Consumer.objects.filter(name__in=_expected).values_list("name", flat=True)
    return sorted(_expected.difference(known))
