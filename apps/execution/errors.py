"""Why a call or an attempt does not happen; the texts are for people."""

from apps.costs.reserving import Refused


class BudgetExhausted(Exception):
    """A hard budget has no room for the highest possible cost of the call; ``refused`` says which, where known."""

    def __init__(self, reason: str, refused: Refused | None = None) -> None:
        super().__init__(reason)
        self.refused = refused


class BudgetBusy(Exception):
    """The call would fit once calls in flight are settled, and it waited long enough for that."""


class PolicyDenied(Exception):
    """A rule forbids the call."""


class RuntimeMisconfigured(Exception):
    """The agent cannot run as it is specified."""
