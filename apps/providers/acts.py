"""What a person may do to a region, as pages offer it: in words, and whether it would do anything now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apps.providers import switching
from apps.providers.breaker import State
from apps.providers.models import Region


@dataclass(frozen=True, slots=True)
class Act:
    """Something a person does to a region. ``is_possible`` is about the region as it was read."""

    title: str
    done: str
    effect: str
    perform: Callable[..., None]
    is_possible: Callable[[Region], bool]
    refusal: str
    is_destructive: bool = False


OPEN = Act(
    "Open the breaker of",
    "opened",
    "No call is sent there, and it is not probed, until a person closes the breaker. Calls under way go on.",
    switching.open_by_hand,
    lambda region: not region.circuit.held,
    "A person has opened it already.",
    is_destructive=True,
)
CLOSE = Act(
    "Close the breaker of",
    "closed",
    "Calls are sent there again at once. Should they fail, the breaker opens again.",
    switching.close_by_hand,
    lambda region: region.circuit.state is not State.CLOSED,
    "It is closed already.",
)
DRAIN = Act(
    "Drain",
    "drained",
    "It gets no new calls; those under way go on. New ones go to the provider's other regions, if it has any.",
    switching.drain,
    lambda region: not region.is_draining,
    "It is being drained already.",
    is_destructive=True,
)
UNDRAIN = Act(
    "Send calls again to",
    "taken back",
    "It gets new calls again, in its place among the provider's regions.",
    switching.undrain,
    lambda region: region.is_draining,
    "It is not being drained.",
)
ACTS = {"open": OPEN, "close": CLOSE, "drain": DRAIN, "undrain": UNDRAIN}
