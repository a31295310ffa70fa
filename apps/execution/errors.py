"""Why a call or an attempt does not happen; the texts are for people."""

from apps.costs.reserving import Refused
from apps.providers.errors import ProviderUnavailable


class BudgetExhausted(Exception):
    """A hard budget has no room for the highest possible cost of the call; ``refused`` says which, where known."""

    def __init__(self, reason: str, refused: Refused | None = None) -> None:
        super().__init__(reason)
        self.refused = refused


class Busy(Exception):
    """Nothing is wrong, but the call has to wait longer than it should be waited for; the attempt does not count."""

    def __init__(self, reason: str, *, again_in_s: float = 2.0) -> None:
        super().__init__(reason)
        self.again_in_s = again_in_s


class BudgetBusy(Busy):
    """The call would fit once calls in flight are settled, and it waited long enough for that."""


class RegionsBusy(Busy):
    """Every region that could take the call is at its limits, or asked for fewer calls."""


class NoRegionAnswered(ProviderUnavailable):
    """The call was tried in every region that it may go to. ``is_timeout``: all of them were silent."""

    def __init__(self, reason: str, *, is_timeout: bool) -> None:
        super().__init__(reason)
        self.is_timeout = is_timeout


class PolicyDenied(Exception):
    """A rule forbids the call."""


class RuntimeMisconfigured(Exception):
    """The agent cannot run as it is specified."""


class ArtifactUnreadable(Exception):
    """The bytes of an artifact cannot be had: they are gone, changed, or their store does not answer."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The file {name} cannot be read: {reason}.")
        self.reason = reason


class CannotSave(ValueError):
    """An agent cannot save this file; the text says why, and what to do instead."""


class FileNotStored(Exception):
    """The bytes of a file did not reach object storage; another attempt may be luckier."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The file {name} did not reach object storage: {reason}.")
