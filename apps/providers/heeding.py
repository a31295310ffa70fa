"""Whoever changes providers, regions or residency, by whatever door, is heard by every process at once."""

from __future__ import annotations

from typing import Any

from django.db.models.signals import m2m_changed, post_delete, post_save

from apps.providers.models import Provider, Region, ResidencyRule
from portal.notify import Channel, notify


def _tell(**_: Any) -> None:
    notify(Channel.REGIONS)


def connect() -> None:
    """Called once, when the apps are ready."""
    for model in (Provider, Region, ResidencyRule):
        for signal in (post_save, post_delete):
            signal.connect(_tell, sender=model, dispatch_uid=f"heeding {model.__name__} {id(signal)}")
    m2m_changed.connect(_tell, sender=ResidencyRule.regions.through, dispatch_uid="heeding residency")
