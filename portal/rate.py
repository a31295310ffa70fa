"""How often something happens."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """Events a second, over about the last one. Times are seconds of any clock that does not go back."""

    second: int = 0
    here: int = 0
    before: int = 0

    def count(self, now: float, events: int = 1) -> None:
        self._move(math.floor(now))
        self.here += events

    def per_second(self, now: float) -> float:
        """Those of this second, and of the last one as much as is not yet a second ago."""
        if now == math.inf:
            return 0.0
        self._move(math.floor(now))
        return self.here + self.before * (1 - now % 1)

    def _move(self, second: int) -> None:
        if second != self.second:
            self.before = self.here if second == self.second + 1 else 0
            self.second, self.here = second, 0
