"""Amounts of what the resource pool counts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Resources:
    """Amounts of what the pool counts: agents, memory in GB, CPU in cores, and swarms."""

    agents: int = 0
    memory_gb: Decimal = Decimal(0)
    cpu: Decimal = Decimal(0)
    swarms: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.agents + other.agents,
            self.memory_gb + other.memory_gb,
            self.cpu + other.cpu,
            self.swarms + other.swarms,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.agents - other.agents,
            self.memory_gb - other.memory_gb,
            self.cpu - other.cpu,
            self.swarms - other.swarms,
        )

    def fits(self, room: Resources) -> bool:
        """Whether all of it fits into ``room``."""
        return (
            self.agents <= room.agents
            and self.memory_gb <= room.memory_gb
            and self.cpu <= room.cpu
            and self.swarms <= room.swarms
        )

    def up_to(self, room: Resources) -> Resources:
        """As much of it as ``room`` has; never negative."""
        return Resources(
            max(min(self.agents, room.agents), 0),
            max(min(self.memory_gb, room.memory_gb), Decimal(0)),
            max(min(self.cpu, room.cpu), Decimal(0)),
            max(min(self.swarms, room.swarms), 0),
        )

    def share_of(self, total: Resources) -> float:
        """The largest fraction of any one resource of ``total``: the dominant share. 0 where there is none."""
        return max(
            self.agents / total.agents if total.agents else 0.0,
            float(self.memory_gb / total.memory_gb) if total.memory_gb else 0.0,
            float(self.cpu / total.cpu) if total.cpu else 0.0,
            self.swarms / total.swarms if total.swarms else 0.0,
        )

    def __str__(self) -> str:
        """What is there, for a person: "3 agents and 6 GB of memory"."""
        parts = [
            f"{self.agents} agent{'s' * (self.agents != 1)}" if self.agents > 0 else "",
            f"{_plain(self.memory_gb)} GB of memory" if self.memory_gb > 0 else "",
            f"{_plain(self.cpu)} CPU core{'s' * (self.cpu != 1)}" if self.cpu > 0 else "",
            f"{self.swarms} place{'s' * (self.swarms != 1)} for swarms" if self.swarms > 0 else "",
        ]
        named = [part for part in parts if part]
        return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named) or "nothing"


def _plain(amount: Decimal) -> str:
    return f"{amount:f}".rstrip("0").rstrip(".") if "." in f"{amount:f}" else f"{amount:f}"
