"""Events as sentences a person reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.template.defaultfilters import filesizeformat

from portal.money import usd_label


@dataclass(frozen=True, slots=True)
class Sentence:
    """``icon`` is a Material symbol, ``tone`` one of calm, busy, good, wait, bad; ``text`` ends without a dot."""

    icon: str
    tone: str
    text: str

    @property
    def tone_class(self) -> str:
        return f"sd-text-{self.tone}"


FAILURES: dict[str, str] = {
    "budget_exhausted": "the budget is exhausted",
    "provider_error": "the model provider answered with an error",
    "provider_timeout": "the model provider did not answer in time",
    "agent_error": "the agent failed",
    "invalid_output": "the output could not be used",
    "policy_denied": "a policy forbids it",
    "lease_expired": "its runner went away",
    "cancelled": "it was cancelled",
}
"""Failure codes in words, to follow "because" or a colon."""

_TASK = {
    "ready": ("pending", "calm", "is ready to run"),
    "running": ("play_arrow", "busy", "started"),
    "started": ("play_arrow", "busy", "started"),
    "waiting": ("hourglass_top", "wait", "failed and will be tried again"),
    "succeeded": ("check_circle", "good", "succeeded"),
    "failed": ("error", "bad", "failed for good"),
    "cancelled": ("block", "calm", "was cancelled"),
    "pending": ("more_horiz", "calm", "went back to pending"),
}

_SWARM = {
    "submitted": ("upload_file", "calm", "Submitted"),
    "queued": ("schedule", "wait", "Put in the queue"),
    "admitted": ("play_circle", "busy", "Started: the pool has room"),
    "running": ("play_circle", "busy", "Running"),
    "started": ("play_circle", "busy", "Running"),
    "paused": ("pause_circle", "wait", "Paused"),
    "resumed": ("play_circle", "busy", "Resumed"),
    "stopping": ("front_hand", "bad", "Stopping"),
    "terminated": ("cancel", "bad", "Terminated"),
    "succeeded": ("check_circle", "good", "Succeeded"),
    "failed": ("error", "bad", "Failed"),
    "retried": ("replay", "busy", "Failed tasks run again"),
    "archived": ("inventory_2", "calm", "Archived"),
}


_ICONS = {"watchdog": "rule", "budget": "savings", "runner": "memory", "pool": "dns"}


def sentence(kind: str, data: Mapping[str, Any], subject: str = "") -> Sentence:
    """The sentence for an event. ``subject`` is the key of its task, or the name of its swarm, where one is known."""
    noun, _, verb = kind.partition(".")
    if noun == "task" and verb in _TASK:
        icon, tone, phrase = _TASK[verb]
        text = f"{subject or 'A task'} {phrase}"
        code = str(data.get("code") or "")
        if code and code != verb:
            text += f": {FAILURES.get(code, code.replace('_', ' '))}"
        return Sentence(icon, tone, text)
    if noun == "swarm" and verb in _SWARM:
        icon, tone, phrase = _SWARM[verb]
        details = []
        if data.get("reason"):
            details.append(str(data["reason"]).rstrip("."))
        if verb == "retried" and data.get("tasks"):
            details.append(_count(data["tasks"], "task"))
        if data.get("in_flight"):
            fate = "may finish" if data.get("calls") == "finish" else "cancelled"
            details.append(f"{_count(data['in_flight'], 'call')} in flight {fate}")
        return Sentence(icon, tone, ": ".join([phrase, "; ".join(details)]) if details else phrase)
    if kind == "artifact.created":
        size = f" of {filesizeformat(data['size'])}" if isinstance(data.get("size"), int) else ""
        return Sentence("attach_file", "good", f"{subject or 'A task'} made a file{size}")
    tell = _TELLERS.get(noun)
    return (tell(verb, data) if tell else None) or _other(noun, verb, data)


def _budget(verb: str, data: Mapping[str, Any]) -> Sentence | None:
    name = f"“{data.get('budget') or 'unnamed'}”"
    if verb == "exhausted":
        return Sentence("savings", "bad", f"Budget {name} is exhausted: calls that do not fit are refused")
    if verb in ("alert", "alert_withdrawn") and isinstance(data.get("level"), int):
        level = data["level"]
        if verb == "alert_withdrawn":
            return Sentence("savings", "calm", f"Budget {name} was changed: it is below {level} % again")
        if data.get("cause") == "refused":
            return Sentence("savings", "bad", f"Budget {name} is used up: what is left is too little for a call")
        spent = ""
        if isinstance(data.get("owed"), int) and isinstance(data.get("limit"), int):
            spent = f": {usd_label(data['owed'])} of {usd_label(data['limit'])}"
        tone = "bad" if level >= 100 and data.get("enforcement") == "hard" else "wait"
        return Sentence("savings", tone, f"Budget {name} reached {level} %{spent}")
    if verb == "overage" and isinstance(data.get("excess"), int):
        if data.get("external_events"):
            text = f"Agents elsewhere spent {usd_label(data['excess'])} more than budget {name} had left"
            return Sentence("savings", "bad", text)
        return Sentence("savings", "bad", f"A provider billed {usd_label(data['excess'])} more than was reserved")
    return None


def _secrets(verb: str, data: Mapping[str, Any]) -> Sentence | None:
    backend, name = data.get("backend", ""), data.get("name", "")
    match verb:
        case "backend_down":
            why = str(data.get("error", "")).rstrip(".")
            return Sentence("key_off", "bad", f"The secrets backend {backend} is down; keys that are held go on: {why}")
        case "backend_recovered":
            return Sentence("vpn_key", "good", f"The secrets backend {backend} answers again")
        case "rotated":
            return Sentence("vpn_key", "calm", f"The key {name} was replaced: new calls use the new one")
        case "key_refused":
            return Sentence("key_off", "bad", f"The provider refuses the key {name}, and there is no other")
    return None


def _breaker(verb: str, data: Mapping[str, Any]) -> Sentence | None:
    region = _region_of(data)
    why = str(data.get("cause", "")).rstrip(".")
    match verb:
        case "opened":
            return Sentence("power_off", "bad", f"The breaker of {region} opened, no calls go there: {why}")
        case "half_opened":
            return Sentence("hourglass_top", "busy", f"The breaker of {region} is half open: {why}")
        case "closed":
            return Sentence("power", "good", f"The breaker of {region} closed: {why}")
    return None


def _region(verb: str, data: Mapping[str, Any]) -> Sentence | None:
    region, why = _region_of(data), str(data.get("reason", "")).rstrip(".")
    match verb:
        case "slowed":
            return Sentence("speed", "wait", f"{region} asked for fewer calls (429): none for {data.get('seconds')} s")
        case "drained":
            return Sentence("water_drop", "wait", f"{region} is being drained: {why}")
        case "undrained":
            return Sentence("play_circle", "good", f"{region} is drained no more: {why}")
    return None


def _provider(verb: str, data: Mapping[str, Any]) -> Sentence | None:
    provider = data.get("provider", "")
    match verb:
        case "failed_over":
            return Sentence("move_up", "wait", f"{provider} failed over to {data.get('to')}")
        case "critical":
            return Sentence("emergency_home", "bad", f"{provider} is critical: no region of it takes calls")
        case "recovered":
            return Sentence("verified", "good", f"{provider} is healthy again")
    return None


def _region_of(data: Mapping[str, Any]) -> str:
    return f"{data.get('provider')}/{data.get('region')}"


_TELLERS: dict[str, Callable[[str, Mapping[str, Any]], Sentence | None]] = {
    "budget": _budget,
    "secrets": _secrets,
    "breaker": _breaker,
    "region": _region,
    "provider": _provider,
}


def _other(noun: str, verb: str, data: Mapping[str, Any]) -> Sentence:
    tone = "bad" if verb in {"exhausted", "exceeded", "failed", "over", "lost"} else "calm"
    icon = _ICONS.get(noun, "bolt" if tone == "calm" else "warning")
    text = f"{noun.replace('_', ' ').capitalize()} {verb.replace('_', ' ')}".strip()
    said = data.get("name") or data.get("budget") or data.get("node")
    if said:
        text += f": {said}"
    if data.get("percent"):
        text += f" ({data['percent']} %)"
    if data.get("reason"):
        text += f": {str(data['reason']).rstrip('.')}"
    return Sentence(icon, tone, text)


def _count(number: Any, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
